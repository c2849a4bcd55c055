"""What market-makers and traders decide."""

from marketplace import contract, traders

TERMS = traders.MakerTerms(half_spread_permille=12, step_permille=8, levels=3, lots_per_level=10)
BAND = (850, 1150)


def test_a_ladder_is_two_sided_and_leaves_a_spread() -> None:
    quotes = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=0, sellable_lots=100, buyable_lots=100
    )

    assert [(q.side, q.price_ticks, q.lots) for q in quotes] == [
        (contract.Side.BUY, 988, 10),
        (contract.Side.SELL, 1012, 10),
        (contract.Side.BUY, 980, 10),
        (contract.Side.SELL, 1020, 10),
        (contract.Side.BUY, 972, 10),
        (contract.Side.SELL, 1028, 10),
    ]


def test_a_ladder_sells_no_more_than_its_cover() -> None:
    quotes = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=0, sellable_lots=15, buyable_lots=100
    )

    sells = [q.lots for q in quotes if q.side == contract.Side.SELL]
    assert sells == [5, 5, 5]


def test_a_ladder_buys_no_more_than_it_may_hold() -> None:
    quotes = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=85, sellable_lots=0, buyable_lots=15
    )

    assert [q.lots for q in quotes] == [5, 5, 5]
    assert not traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=120, sellable_lots=0, buyable_lots=-20
    )


def test_the_best_quotes_stay_where_they_may_trade_without_an_auction() -> None:
    for last in (900, 1_100):
        quotes = traders.ladder(
            terms=TERMS,
            fair=1000,
            band=BAND,
            net_lots=0,
            sellable_lots=100,
            buyable_lots=100,
            last=last,
        )

        best = [quote.price_ticks for quote in quotes[:2]]
        assert all(abs(price - last) * 100 <= 5 * last for price in best), (last, best)


def test_a_hedger_that_may_hold_no_more_sends_nothing() -> None:
    hedger = traders.Trader(name="hedger", opinion_permille=0, lots_max=5, needs_lots=400)
    sent = [
        traders.decide(
            trader=hedger,
            symbol="X",
            fair=1000,
            best=(988, 1012),
            net_lots=100 - room,
            sellable_lots=0,
            buyable_lots=room,
            band=BAND,
            at=7,
        )
        for room in (1, 0, -1)
    ]

    assert [quote and quote.lots for quote in sent] == [1, None, None]


def test_a_ladder_stays_inside_the_band_and_joins_quotes_that_meet_there() -> None:
    quotes = traders.ladder(
        terms=TERMS, fair=1000, band=(985, 1015), net_lots=0, sellable_lots=100, buyable_lots=100
    )

    assert {q.price_ticks for q in quotes} == {985, 988, 1012, 1015}
    assert [q.lots for q in quotes if q.price_ticks == 985] == [20]


def test_a_maker_that_is_long_asks_for_less() -> None:
    flat = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=0, sellable_lots=9, buyable_lots=100
    )
    long = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=100, sellable_lots=9, buyable_lots=100
    )

    assert max(q.price_ticks for q in long) < max(q.price_ticks for q in flat)


def test_a_requote_keeps_what_already_rests_at_its_price_and_size() -> None:
    wanted = [
        traders.Quote(side=contract.Side.BUY, price_ticks=98, lots=10),
        traders.Quote(side=contract.Side.SELL, price_ticks=102, lots=10),
    ]
    resting = [
        traders.Resting(order=1, side=contract.Side.BUY, price_ticks=98, lots=10),
        traders.Resting(order=2, side=contract.Side.SELL, price_ticks=102, lots=7),
        traders.Resting(order=3, side=contract.Side.SELL, price_ticks=105, lots=10),
    ]

    change = traders.requote(resting=resting, wanted=wanted)

    assert change.cancels == (2, 3)
    assert change.orders == (wanted[1],)


def test_nothing_changes_when_the_wanted_quotes_rest() -> None:
    wanted = traders.ladder(
        terms=TERMS, fair=1000, band=BAND, net_lots=0, sellable_lots=100, buyable_lots=100
    )
    resting = [
        traders.Resting(order=n, side=q.side, price_ticks=q.price_ticks, lots=q.lots)
        for n, q in enumerate(wanted)
    ]

    assert traders.requote(resting=resting, wanted=wanted) == traders.Requote(cancels=(), orders=())


def test_a_fair_price_holds_still_inside_a_step_and_stays_near_its_anchor() -> None:
    start = 1_790_000_000 * contract.MICROS_PER_SECOND
    step = start - start % traders.WANDER_STEP
    prices = [
        traders.fair_ticks(
            terms=contract.hour_contract("LLAMA70B", contract.hour_start(start)),
            reference_ticks=1000,
            at=step + k * traders.WANDER_STEP // 4,
        )
        for k in range(400)
    ]

    assert prices[0] == prices[1] == prices[2] == prices[3]
    assert len(set(prices)) > 20
    assert all(900 <= price <= 1100 for price in prices)


def test_a_hedger_far_from_its_need_pays_the_ask() -> None:
    hedger = traders.Trader(name="hedger", opinion_permille=0, lots_max=5, needs_lots=40)

    quote = traders.decide(
        trader=hedger,
        symbol="LLAMA70B.H.20261205T14Z",
        fair=1000,
        best=(988, 1012),
        net_lots=0,
        sellable_lots=0,
        buyable_lots=100,
        band=BAND,
        at=7,
    )

    assert quote is not None
    assert (quote.side, quote.price_ticks) == (contract.Side.BUY, 1012)
    assert 1 <= quote.lots <= 5


def test_a_trader_without_lots_or_cover_never_sells() -> None:
    bear = traders.Trader(name="bear", opinion_permille=200, lots_max=5, needs_lots=0)

    quotes = [
        traders.decide(
            trader=bear,
            symbol="X",
            fair=1000,
            best=(988, 1012),
            net_lots=0,
            sellable_lots=0,
            buyable_lots=100,
            band=BAND,
            at=at,
        )
        for at in range(200)
    ]

    assert {q.side for q in quotes if q} == {contract.Side.BUY}


def test_demand_is_between_a_sixth_and_seven_tenths_of_what_is_held() -> None:
    asked = [
        traders.demand_mntu(organization="Acme", lots=10, interval_starts_at=k * contract.INTERVAL)
        for k in range(288)
    ]

    whole = 10 * contract.MNTU_PER_LOT_INTERVAL
    assert min(asked) >= whole // 6
    assert max(asked) <= whole * 7 // 10
