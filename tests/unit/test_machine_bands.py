"""The dynamic band that stops a trade, and what an auction moves: band, mark, mid."""

import pytest

from exchange import commands, events
from settlement import instructions
from tests.floor import Floor, instant, symbol
from tests.sessions import MINUTE, TODAY, levels, market, restored, states, trades


def traded_at(price: int, at: str = "13:00") -> Floor:
    """A book that last traded at this price."""
    floor = market(at)
    floor.sell(1, 1, price)
    floor.buy(3, 1, price)
    assert floor.machine.instrument_view(TODAY).last == price
    return floor


def test_a_trade_outside_of_the_band_starts_a_call_with_the_rest_of_the_order() -> None:
    floor = traded_at(1_200)
    inside, outside = floor.sell(1, 3, 1_260), floor.sell(2, 4, 1_261)
    taker = floor.buy(3, 10, 1_270)
    assert trades(floor) == [(taker, inside, 3, 1_260, False)]
    assert states(floor, TODAY) == ["CALL"]
    (opened,) = floor.of(events.CallOpened)
    assert (opened.kind, opened.frozen_at, opened.ends_at) == (
        "VOLATILITY",
        instant("13:04"),
        instant("13:05"),
    )
    assert levels(floor, TODAY) == ([(1_270, 7)], [(1_261, 4)])
    restored(floor)
    floor.to("13:05")
    assert trades(floor) == [(taker, outside, 4, 1_261, True)]
    assert levels(floor, TODAY) == ([(1_270, 3)], [])
    assert states(floor, TODAY) == ["CONTINUOUS"]


def test_the_band_is_around_the_last_trade_before_the_command() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_250)
    floor.sell(2, 4, 1_261)
    # After 1,250 the band would reach 1,312; the order is judged by the trade before it came.
    floor.buy(3, 7, 1_300)
    assert [(lots, price) for _, _, lots, price, _ in trades(floor)] == [(3, 1_250)]
    assert states(floor, TODAY) == ["CALL"]


def test_an_order_that_is_filled_inside_the_band_starts_nothing() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    floor.buy(3, 3, 1_300)
    assert len(trades(floor)) == 1
    assert states(floor, TODAY) == []
    floor.buy(3, 3, 1_260)
    assert trades(floor) == []


def test_a_price_that_has_run_away_without_trades_is_outside_on_the_near_side_too() -> None:
    floor = traded_at(1_200)
    sell = floor.sell(1, 3, 1_139)
    assert states(floor, TODAY) == []
    assert floor.machine.best(TODAY) == (0, 1_139)
    restored(floor)
    buy = floor.buy(3, 3, 1_150)
    assert trades(floor) == []
    assert states(floor, TODAY) == ["CALL"]
    floor.to("13:05")
    assert trades(floor) == [(buy, sell, 3, 1_150, True)]


def test_before_the_first_trade_there_is_no_dynamic_band() -> None:
    floor = market()
    sell = floor.sell(1, 3, 1_400)
    buy = floor.buy(3, 3, 1_400)
    assert trades(floor) == [(buy, sell, 3, 1_400, False)]


def test_what_cannot_rest_starts_the_call_and_is_canceled() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    order = floor.buy(3, 10, 1_300, time_in_force="IOC")
    assert [lots for _, _, lots, _, _ in trades(floor)] == [3]
    assert floor.closed()[-1] == (order, "canceled", "ioc_remainder")
    assert states(floor, TODAY) == ["CALL"]
    floor.to("13:05")
    assert trades(floor) == []
    assert states(floor, TODAY) == ["CONTINUOUS"]


@pytest.mark.parametrize(
    ("time_in_force", "terms", "reason"),
    [
        ("FOK", commands.Terms(), "fill_or_kill"),
        ("GTC", commands.Terms(min_lots=5), "min_quantity"),
    ],
)
def test_what_cannot_trade_enough_inside_the_band_starts_nothing(
    time_in_force, terms, reason
) -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    order = floor.buy(3, 7, 1_300, time_in_force=time_in_force, terms=terms)
    assert floor.closed() == [(order, "canceled", reason)]
    assert states(floor, TODAY) == []
    assert trades(floor) == []


def test_a_market_order_goes_to_the_edge_of_the_band_and_starts_nothing() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    order = floor.buy(3, 7, 0, terms=commands.Terms(type="MARKET"))
    assert [(lots, price) for _, _, lots, price, _ in trades(floor)] == [(3, 1_260)]
    assert floor.closed()[-1] == (order, "canceled", "protection_band")
    assert states(floor, TODAY) == []


def test_a_stop_reached_on_the_way_into_a_call_is_triggered_after_it() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    stop = floor.buy(4, 2, 0, terms=commands.Terms(type="STOP", stop_price=1_255))
    floor.buy(3, 5, 1_261)
    assert states(floor, TODAY) == ["CALL"]
    assert floor.of(events.OrderTriggered) == []
    assert floor.machine.order_view(stop).status == "untriggered"
    restored(floor)
    floor.to("13:05")
    assert [(e.lots, e.price, e.is_auction) for e in floor.of(events.Traded)] == [
        (2, 1_261, True),
        (2, 1_261, False),
    ]
    assert [e.order for e in floor.of(events.OrderTriggered)] == [stop]


def test_in_the_last_ten_minutes_an_order_that_would_leave_the_band_is_refused() -> None:
    floor = traded_at(1_200, "19:30")
    floor.sell(1, 3, 1_260)
    floor.sell(2, 4, 1_261)
    floor.to("19:45")
    before = levels(floor, TODAY)
    floor.buy(3, 4, 1_300)
    assert floor.rejected() == "volatility"
    assert levels(floor, TODAY) == before
    floor.buy(3, 3, 1_300)
    assert floor.rejected() is None
    assert [lots for _, _, lots, _, _ in trades(floor)] == [3]
    floor.buy(4, 1, 1_261)
    assert [lots for _, _, lots, _, _ in trades(floor)] == [1]


def test_the_call_of_a_volatile_book_ends_before_its_gate() -> None:
    floor = traded_at(1_200, "19:30")
    floor.sell(1, 3, 1_261)
    floor.to("19:44:59")
    floor.buy(3, 3, 1_261)
    assert floor.machine.auction_view(TODAY).ends_at == instant("19:49:59")
    floor.to("19:49:59")
    assert [lots for _, _, lots, _, _ in trades(floor)] == [3]


# What an auction moves


def test_the_static_band_moves_to_an_auctions_price_at_most_once_an_hour() -> None:
    floor = traded_at(1_100)
    view = floor.machine.instrument_view(TODAY)
    assert (view.reference_price, view.band_low, view.band_high) == (1_250, 1_063, 1_437)
    low = floor.buy(4, 1, 1_063)
    floor.sell(1, 3, 1_400)
    floor.buy(3, 3, 1_400)
    floor.to("13:05")
    view = floor.machine.instrument_view(TODAY)
    assert (view.reference_price, view.band_low, view.band_high) == (1_400, 1_190, 1_610)
    assert floor.closed()[-1] == (low, "canceled", "band_moved")

    floor.sell(1, 3, 1_600)
    floor.buy(3, 3, 1_600)
    floor.to("13:10")
    assert [price for _, _, _, price, _ in trades(floor)] == [1_600]
    assert floor.machine.instrument_view(TODAY).reference_price == 1_400

    floor.to("14:00")
    floor.sell(1, 3, 1_500)
    floor.buy(3, 3, 1_500)
    assert states(floor, TODAY) == ["CALL"]
    floor.to("14:05")
    assert floor.machine.instrument_view(TODAY).reference_price == 1_500


def test_a_mark_takes_the_price_of_an_auction_since_the_last_one_only() -> None:
    floor = traded_at(1_200)
    floor.sell(1, 3, 1_261)
    floor.buy(3, 3, 1_261)
    floor.to("13:40")
    floor.sell(1, 1, 1_270)
    floor.buy(3, 1, 1_270)
    floor.to("14:00")
    marked = [e for e in floor.events if isinstance(e, events.Marked) and e.instrument == TODAY]
    assert [(e.price, e.method) for e in marked][-1] == (1_261, "auction")
    assert floor.machine.instrument_view(TODAY).mark == 1_261
    floor.to("14:40")
    floor.sell(1, 1, 1_272)
    floor.buy(3, 1, 1_272)
    floor.to("15:00")
    marked = [e for e in floor.of(events.Marked) if e.instrument == TODAY]
    assert [(e.price, e.method) for e in marked] == [(1_272, "trades")]


def test_the_mid_counts_only_while_the_book_trades_continuously() -> None:
    floor = market("18:55")
    floor.account(6)
    for account, price in ((3, 1_240), (6, 1_241)):
        floor.buy(account, 10, price)
    for account, price in ((1, 1_250), (2, 1_251)):
        floor.sell(account, 10, price)
    instrument = floor.machine.state.instruments[TODAY]
    floor.to("19:05")
    floor.instruct(instructions.Halt(instrument=TODAY))
    assert instrument.mid_time == 10 * MINUTE
    floor.to("19:10")
    floor.instruct(instructions.Resume(instrument=TODAY))
    floor.to("19:15")
    assert instrument.mid_time == 10 * MINUTE
    floor.to("19:20")
    floor.instruct(instructions.Halt(instrument=TODAY))
    assert instrument.mid_time == 15 * MINUTE


def test_a_book_that_gathers_orders_or_is_halted_is_not_marked_at_its_middle() -> None:
    floor = Floor("10:30")
    floor.account(1, certified=100)
    floor.account(2)
    halted, gathering = symbol("20"), symbol("+1 10")
    for instrument, bid, ask in ((halted, 1_300, 1_302), (gathering, 1_430, 1_420)):
        floor.buy(2, 5, bid, instrument=instrument)
        floor.sell(1, 5, ask, instrument=instrument)
    floor.instruct(instructions.Halt(instrument=halted))

    def marks() -> dict[str, tuple[int, str]]:
        marked = [e for e in floor.of(events.Marked) if e.instrument in (halted, gathering)]
        return {e.instrument: (e.price, e.method) for e in marked}

    floor.to("11:00")
    assert marks() == {}
    floor.instruct(instructions.Resume(instrument=halted))
    floor.to("12:00")
    assert marks() == {halted: (1_301, "mid"), gathering: (1_420, "auction")}
