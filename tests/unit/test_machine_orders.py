"""Orders in the machine: every reason to refuse one, what they reserve, what they cost."""

import pytest

from exchange import commands, events
from exchange.machine import limits
from exchange.reasons import Close, Reject
from marketplace.contract import InstrumentState
from settlement import instructions
from tests import oracle
from tests.floor import RICH, Floor, instant, symbol


def _traded_once() -> Floor:
    """A market at 11:00 whose last trade was at the reference, with a bid well below it."""
    floor = Floor("11:00")
    floor.account(2, certified=1_000_000, cash=10**15)
    floor.sell(2, 1, 1_250)
    floor.account(3)
    floor.buy(3, 1, 1_250)
    floor.buy(2, 500, 1_160)
    return floor


def test_every_reason_to_refuse_an_order_comes_in_the_order_of_precedence() -> None:
    """One order that breaks every rule is mended rule by rule, and each time the next answers."""
    floor = _traded_once()
    seen = []
    order = {
        "account": 1,
        "instrument": "NOPE.H.20251205T20Z",
        "side": -1,
        "lots": 0,
        "price": 2_000,
        "time_in_force": "GTD",
    }
    wants = {"min_lots": 1, "display_lots": 1, "reduce_only": True, "expires_at": 1}

    def attempt(**mended: object) -> None:
        for name, value in mended.items():
            (wants if name in commands.Terms.__struct_fields__ else order)[name] = value
        before = floor.view(1), dict(floor.machine.state.orders)
        floor.place(**order, terms=commands.Terms(**wants))
        assert (floor.view(1), dict(floor.machine.state.orders)) == before
        seen.append(floor.rejected())

    attempt()
    attempt(lots=200_000)
    floor.account(1, cash=0)
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    attempt()
    floor.instruct(instructions.KillSwitch(account=1, enabled=False))
    attempt()
    unopened = floor.machine.state.instruments[symbol("22")]
    unopened.phase, unopened.is_open, floor.checked = InstrumentState.SCHEDULED, False, False
    attempt(instrument=symbol("22"))
    unopened.phase, unopened.is_open, floor.checked = InstrumentState.CONTINUOUS, True, True
    floor.instruct(instructions.Halt(instrument=symbol("21")))
    attempt(instrument=symbol("21"))
    attempt(instrument=symbol("11"))
    attempt(instrument=symbol("+1 20"))
    attempt(instrument=symbol("20"))
    attempt(expires_at=instant("19:54"))
    attempt(price=1_250)
    attempt(lots=300)
    floor.checked = False
    floor.deposit(1, 10**12)
    for _ in range(limits.BOOK_ORDERS_MAX):
        floor.buy(1, 1, 1_100)
    account = floor.machine.state.accounts[1]
    account.entered, account.debt = 20_000, 1
    attempt(lots=200, display_lots=2)
    floor.apply(commands.CancelOrders(1))
    attempt()
    account.entered = 0
    attempt()
    account.debt = 0
    floor.withdraw(1, 10**12)
    attempt()
    floor.certify(2, 700)
    attempt(reduce_only=False, side=1)
    attempt(side=-1)
    floor.deposit(1, 10**12)
    attempt()
    floor.certify(1, 200)
    floor.at = instant("19:46")
    attempt(post_only=True, min_lots=0, price=1_150)
    attempt(post_only=False)
    elsewhere = (Reject.FROZEN, Reject.NOT_ELIGIBLE)
    assert seen == [str(reason) for reason in Reject if reason not in elsewhere]
    floor.place(**order | {"price": 1_200}, terms=commands.Terms(**wants))
    assert floor.rejected() is None


def test_an_invalid_order_is_refused_whatever_is_wrong_with_it() -> None:
    floor = Floor()
    floor.account(1)
    for wrong in (
        {"lots": 0},
        {"lots": -5},
        {"price": 0},
        {"price": -1},
        {"price": 10**18},
        {"side": 0},
        {"side": 2},
        {"time_in_force": "FOK"},
    ):
        floor.place(**({"account": 1, "side": 1, "lots": 1, "price": 1_250} | wrong))
        assert floor.rejected() == Reject.INVALID_ORDER


@pytest.mark.parametrize(
    ("instrument", "reason"),
    [
        (symbol("12"), Reject.UNKNOWN_INSTRUMENT),
        (symbol("13"), Reject.CLOSED),
        (symbol("+1 00"), None),
        ("LLAMA70B.H.20251207T00Z", Reject.UNKNOWN_INSTRUMENT),
        ("LLAMA70B.D.20251206", Reject.CLOSED),
        ("LLAMA70B.D.20251207", None),
        ("LLAMA70B.D.20260105", Reject.UNKNOWN_INSTRUMENT),
        ("LLAMA70B.D.20251307", Reject.UNKNOWN_INSTRUMENT),
        ("OTHER.H.20251205T20Z", Reject.UNKNOWN_INSTRUMENT),
        ("", Reject.UNKNOWN_INSTRUMENT),
    ],
)
def test_a_symbol_is_open_closed_or_unknown(instrument: str, reason: str | None) -> None:
    floor = Floor("13:00")
    floor.account(1)
    floor.buy(1, 1, 1_250, instrument=instrument or "-")
    assert floor.rejected() == reason


def test_nothing_trades_from_the_instant_trading_ends() -> None:
    floor = Floor()
    floor.account(1)
    floor.at = instant("19:55") - 1
    floor.buy(1, 1, 1_250)
    assert floor.rejected() is None
    floor.at = instant("19:55")
    floor.buy(1, 1, 1_250)
    assert floor.rejected() == Reject.CLOSED


def test_orders_at_the_edges_of_the_band_are_inside() -> None:
    floor = Floor()
    floor.account(1, certified=10)
    for price, reason in ((1_063, None), (1_062, "outside_band"), (1_437, None)):
        floor.place(1, 1 if price < 1_250 else -1, 1, price)
        assert floor.rejected() == reason
    floor.sell(1, 1, 1_438)
    assert floor.rejected() == "outside_band"


def test_a_buyer_reserves_the_price_and_the_highest_fee() -> None:
    floor = Floor()
    price = 60 * 40 * 1_260
    fee = -(-price * 20 // 10_000)
    floor.account(1, cash=price + fee - 1)
    floor.buy(1, 40, 1_260)
    assert floor.rejected() == Reject.INSUFFICIENT_FUNDS
    floor.deposit(1, 1)
    order = floor.buy(1, 40, 1_260)
    assert floor.rejected() is None
    assert (floor.view(1).available, floor.view(1).order_margin) == (0, price + fee)

    floor.cancel(1, order)
    assert floor.view(1).available == price + fee
    assert floor.closed() == [(order, "canceled", "requested")]


def test_a_covered_seller_reserves_five_percent_of_the_mark() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.sell(1, 100, 1_300)
    notional = 60 * 100 * 1_250
    fee = -(-60 * 100 * 1_300 * 20 // 10_000)
    assert floor.view(1).order_margin == notional // 20 + fee


def test_a_sale_below_the_mark_reserves_what_it_would_lose_at_the_mark() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.sell(1, 100, 1_200)
    fee = -(-60 * 100 * 1_200 * 20 // 10_000)
    assert floor.view(1).order_margin == 60 * 100 * 50 + 60 * 100 * 1_250 // 20 + fee


def test_coverage_counts_what_rests_and_what_is_short() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 60, 1_250)
    floor.buy(2, 30, 1_250)
    floor.sell(1, 41, 1_260)
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    floor.sell(1, 40, 1_260)
    assert floor.rejected() is None


def test_a_sale_out_of_a_long_needs_neither_coverage_nor_money() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    price = 60 * 40 * 1_250
    floor.account(2, cash=price + -(-price * 20 // 10_000))
    floor.sell(1, 40, 1_250)
    floor.buy(2, 40, 1_250)
    assert floor.view(2).available == 0

    floor.sell(2, 40, 1_260)
    assert floor.rejected() is None
    assert floor.view(2).available == 0
    floor.sell(2, 1, 1_260)
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE


def test_certification_that_ends_before_the_hour_covers_nothing() -> None:
    floor = Floor()
    floor.account(1)
    floor.certify(1, 100, until=instant("20:30"))
    floor.sell(1, 1, 1_250, at="20")
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    floor.sell(1, 1, 1_250, at="19")
    assert floor.rejected() is None


def test_a_fall_in_certification_withdraws_sales_beyond_it_newest_first() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    first = floor.sell(1, 50, 1_260)
    second = floor.sell(1, 30, 1_255)
    third = floor.sell(1, 20, 1_250)
    floor.buy(2, 10, 1_250)
    elsewhere = floor.sell(1, 60, 1_250, at="21")

    floor.certify(1, 65)

    assert floor.closed() == [
        (third, "canceled", Close.COVERAGE_LOST),
        (second, "canceled", Close.COVERAGE_LOST),
    ]
    assert set(floor.machine.state.orders) == {first, elsewhere}


def test_fees_are_rounded_up_once_per_order() -> None:
    floor = Floor(reference=20)
    floor.account(1, certified=100)
    floor.account(2)
    maker = floor.sell(1, 3, 20)
    fees = []
    for _ in range(3):
        floor.buy(2, 1, 20)
        (trade,) = floor.of(events.Traded)
        fees.append((trade.maker_fee, trade.taker_fee))
    # A lot is 1,200 micro-USD: 0.24 to the maker each, 2.4 to each taker's own order.
    assert fees == [(1, 3), (0, 3), (0, 3)]
    assert floor.machine.order_view(maker).fee == 1
    assert floor.machine.order_view(maker).status == "filled"


def test_every_trade_has_exactly_its_fees_as_transfers() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2, certified=100)
    floor.sell(1, 7, 1_251)
    floor.sell(2, 9, 1_252)
    floor.account(3)
    floor.buy(3, 12, 1_252)
    charged = {}
    for event in floor.events:
        if isinstance(event, events.Traded):
            for order, fee in (
                (event.maker_order, event.maker_fee),
                (event.taker_order, event.taker_fee),
            ):
                charged[order] = charged.get(order, 0) + fee
    assert charged == oracle.fees(floor.events, {"maker": 2, "taker": 20})
    moved = [e for e in floor.of(events.Transferred) if e.code == 3]
    assert sum(e.amount for e in moved) == sum(
        e.maker_fee + e.taker_fee for e in floor.of(events.Traded)
    )
    assert {e.cause for e in moved} == {"trade:1", "trade:2"}


def test_a_client_order_id_of_a_live_order_enters_nothing() -> None:
    floor = Floor()
    floor.account(1)
    order = floor.buy(1, 5, 1_250, name="mine")
    assert floor.place(1, 1, 9, 1_240, name="mine") == 0
    assert floor.last == []
    live = floor.machine.live_order(1, "mine")
    assert live is not None
    assert (live.order, live.lots, live.request.fingerprint) == (order, 5, b"f" * 32)
    assert floor.machine.live_order(1, "other") is None
    assert floor.machine.live_order(9, "mine") is None


def test_a_cancel_that_names_no_resting_order_of_the_account_is_refused() -> None:
    floor = Floor()
    floor.account(1)
    floor.account(2)
    order = floor.buy(1, 5, 1_250)
    for account, number in ((2, order), (1, order + 1), (9, order)):
        (event,) = floor.cancel(account, number)
        assert isinstance(event, events.CancelRefused)
        assert event.reason == "unknown_order"
    assert order in floor.machine.state.orders


def test_orders_are_withdrawn_by_instrument_grade_and_side() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    bid = floor.buy(1, 1, 1_200)
    offer = floor.sell(1, 1, 1_300)
    later = floor.buy(1, 1, 1_200, at="21")

    floor.apply(commands.CancelOrders(1, grade="OTHER"))
    assert floor.last == []
    floor.apply(commands.CancelOrders(1, instrument=symbol("20"), side=-1))
    assert floor.closed() == [(offer, "canceled", "requested")]
    floor.apply(commands.CancelOrders(1))
    assert [order for order, _, _ in floor.closed()] == [bid, later]


def test_the_kill_switch_withdraws_everything_and_refuses_until_it_is_lifted() -> None:
    floor = Floor()
    floor.account(1)
    order = floor.buy(1, 1, 1_200)
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    assert floor.closed() == [(order, "canceled", "killed")]
    floor.buy(1, 1, 1_200)
    assert floor.rejected() == "killed"
    floor.instruct(instructions.KillSwitch(account=1, enabled=False))
    floor.buy(1, 1, 1_200)
    assert floor.rejected() is None


def test_a_halt_stops_orders_but_not_cancels_at_each_level() -> None:
    floor = Floor()
    floor.account(1)
    for level in ({"instrument": symbol("20")}, {"grade": "LLAMA70B"}, {}):
        order = floor.buy(1, 1, 1_200)
        floor.instruct(instructions.Halt(**level))
        assert [e.state for e in floor.of(events.InstrumentChanged)][:1] == ["HALTED"]
        floor.buy(1, 1, 1_200)
        assert floor.rejected() == "halted"
        floor.cancel(1, order)
        assert floor.closed()
        floor.instruct(instructions.Resume(**level))
        assert [e.state for e in floor.of(events.InstrumentChanged)][:1] == ["CALL"]
    assert floor.instruct(instructions.Halt(instrument="NOPE")) == "unknown_instrument"
    assert floor.instruct(instructions.Resume(grade="NOPE")) == "unknown_grade"


def test_a_quarantined_command_halts_its_instrument() -> None:
    floor = Floor()
    floor.account(1)
    floor.apply(commands.Quarantine(b"", "a truth", symbol("20")))
    assert [type(e) for e in floor.last] == [events.Quarantined, events.InstrumentChanged]
    floor.buy(1, 1, 1_250)
    assert floor.rejected() == "halted"
    floor.apply(commands.Quarantine(b"", "a truth", ""))
    assert [type(e) for e in floor.last] == [events.Quarantined]


def test_deposits_and_withdrawals_stay_inside_what_is_available() -> None:
    floor = Floor()
    floor.account(1, cash=5_000_000)
    floor.buy(1, 40, 1_250)
    free = floor.view(1).withdrawable
    assert free == 5_000_000 - 3_000_000 - 6_000
    assert floor.withdraw(1, free + 1) == "insufficient_funds"
    assert floor.withdraw(1, free) is None
    assert floor.view(1).withdrawable == 0
    assert floor.withdraw(1, 1) == "insufficient_funds"
    for amount in (0, -1, 10**18):
        assert floor.deposit(1, amount) == "invalid_amount"
        assert floor.withdraw(1, amount) == "invalid_amount"
    assert floor.deposit(2, 1) == floor.withdraw(2, 1) == "unknown_account"


def test_deposits_stop_before_the_sums_of_the_ledger_are_full() -> None:
    floor = Floor()
    floor.account(1)
    floor.account(2)
    for _ in range(999):
        assert floor.deposit(1, 10**15) is None
    assert floor.deposit(2, 10**15) == "invalid_amount"
    assert floor.withdraw(1, 10**15) is None
    assert floor.deposit(2, 10**15) is None


def test_what_changed_is_drained_once() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.machine.drain_touched()
    maker = floor.sell(1, 5, 1_250)
    taker = floor.buy(2, 5, 1_250)
    assert floor.machine.order_view(taker).status == "filled"

    touched = floor.machine.drain_touched()

    assert [view.account for view in touched.accounts] == [1, 2]
    assert [(v.account, v.net_lots, v.cost_ticks) for v in touched.positions] == [
        (1, -5, -6_250),
        (2, 5, 6_250),
    ]
    assert [(v.order, v.status, v.filled) for v in touched.orders] == [
        (maker, "filled", 5),
        (taker, "filled", 5),
    ]
    assert [(v.symbol, v.last, v.volume, v.open_interest) for v in touched.instruments] == [
        (symbol("20"), 1_250, 5, 5)
    ]
    empty = floor.machine.drain_touched()
    assert not (empty.accounts or empty.positions or empty.orders or empty.instruments)
    assert floor.machine.order_view(taker) is None


def test_book_changes_carry_absolute_lots_and_a_sequence_without_gaps() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 5, 1_250)
    floor.sell(1, 5, 1_251)
    floor.buy(2, 7, 1_252)
    floor.buy(2, 1, 1_240)
    changes = [e for e in floor.events if isinstance(e, events.BookChanged)]
    assert [(e.book_sequence, e.levels) for e in changes] == [
        (1, ((-1, 1_250, 5),)),
        (2, ((-1, 1_251, 5),)),
        (3, ((-1, 1_251, 3), (-1, 1_250, 0))),
        (4, ((1, 1_240, 1),)),
    ]


def test_accounts_are_opened_once() -> None:
    floor = Floor()
    floor.account(1)
    opened = instructions.OpenAccount(account=1, group=2)
    assert floor.instruct(opened) == "account_exists"
    assert floor.instruct(instructions.OpenAccount(account=0, group=1)) == "invalid_terms"
    assert floor.view(1).cash == RICH


def test_a_cluster_belongs_to_one_account() -> None:
    floor = Floor()
    floor.account(1, certified=10)
    floor.account(2)
    assert floor.certify(2, 10, cluster=1) == "cluster_of_another"
    assert floor.certify(9, 10) == "unknown_account"
    for wrong in ({"lots": -1}, {"lots": 10**7}, {"lots": 1, "until": 2**63}):
        assert floor.certify(1, **wrong) == "invalid_terms"
    assert floor.certify(1, 1, cluster=2**70) == "invalid_terms"


def test_a_seller_has_the_fee_of_the_best_price_it_could_meet() -> None:
    floor = Floor()
    five_percent = 60 * 100 * 1_250 // 20
    at_price, at_best = (-(-60 * 100 * price * 20 // 10_000) for price in (1_250, 1_437))
    floor.account(1, cash=five_percent + at_best - 1, certified=100)
    floor.sell(1, 100, 1_250)
    assert floor.rejected() == Reject.INSUFFICIENT_FUNDS
    floor.deposit(1, 1)
    floor.sell(1, 100, 1_250)
    assert floor.rejected() is None
    assert floor.view(1).available == at_best - at_price


def test_an_order_that_will_not_rest_is_not_counted_among_those_that_do() -> None:
    floor = Floor(checked=False)
    floor.account(1, certified=10_000)
    for _ in range(limits.BOOK_ORDERS_MAX):
        floor.buy(1, 1, 1_100)
    floor.buy(1, 1, 1_100)
    assert floor.rejected() == "open_order_limit"
    floor.buy(1, 1, 1_100, time_in_force="IOC")
    assert floor.rejected() is None


def overdrawn_by_a_mark() -> Floor:
    """Account 5 is long an hour it paid in full, and short another that went against it."""
    floor = Floor("13:40")
    floor.account(1, certified=4_000)
    floor.account(3)
    floor.account(5, cash=760_000, certified=1_000)
    floor.sell(1, 5, 1_250, at="21")
    floor.buy(5, 5, 1_250, at="21")
    floor.sell(5, 40, 1_250)
    floor.buy(3, 40, 1_250)
    floor.sell(1, 900, 1_430)
    floor.buy(3, 900, 1_430)
    return floor


def test_an_account_that_lacks_money_may_still_do_what_needs_none() -> None:
    floor = overdrawn_by_a_mark()
    floor.to("14:00")
    assert floor.view(5).available < 0
    floor.buy(5, 1, 1_100, at="22")
    assert floor.rejected() == "insufficient_funds"
    floor.sell(5, 5, 1_250, at="21")
    assert floor.rejected() is None


def test_an_order_that_needs_no_money_stays_when_money_is_missing() -> None:
    floor = overdrawn_by_a_mark()
    bid = floor.buy(5, 1, 1_100, at="22")
    out_of_a_long = floor.sell(5, 5, 1_250, at="21")
    floor.to("14:00")
    assert (bid, "canceled", "unfunded") in floor.closed()
    assert out_of_a_long in floor.machine.state.orders
