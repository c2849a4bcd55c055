"""Limits in the machine: lots of a group in an hour, orders open, orders for what they trade."""

import pytest

from exchange import commands, events
from exchange.machine import Machine, limits
from exchange.reasons import Reject
from tests.floor import Floor, instant, symbol


def supplied(lots: int, **more: int) -> Floor:
    """Account 9 is certified for these lots; 1 and 2 are a group, 3 stands alone."""
    floor = Floor("13:10", **more)
    floor.account(9, certified=lots)
    floor.account(1, group=77)
    floor.account(2, group=77)
    floor.account(3)
    return floor


@pytest.mark.parametrize(
    ("supply", "most"),
    [(0, 100), (399, 100), (400, 100), (403, 100), (404, 101), (1_000, 250)],
)
def test_a_group_may_be_long_a_quarter_of_the_supply_or_a_hundred_lots(supply, most) -> None:
    floor = supplied(supply)
    floor.buy(3, most + 1, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(3, most, 1_250)
    assert floor.rejected() is None
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(3, most, 1_250, at="21")
    assert floor.rejected() is None, "every hour has a limit of its own"


def test_what_is_held_and_what_rests_count_over_all_accounts_of_a_group() -> None:
    floor = supplied(800)
    floor.sell(9, 90, 1_250)
    floor.buy(1, 90, 1_250)
    floor.buy(2, 60, 1_240)
    floor.buy(2, 51, 1_230)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(2, 50, 1_230)
    assert floor.rejected() is None
    floor.buy(1, 1, 1_200)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(3, 200, 1_200)
    assert floor.rejected() is None, "another group has a limit of its own"


def test_a_short_of_one_account_makes_no_room_for_another_of_its_group() -> None:
    floor = supplied(400)
    floor.certify(1, 40)
    floor.sell(1, 40, 1_250)
    floor.buy(3, 40, 1_250)
    floor.buy(2, 111, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(2, 110, 1_250)
    assert floor.rejected() is None
    floor.buy(1, 40, 1_250)
    assert floor.rejected() is None, "what closes a short adds nothing"
    floor.buy(1, 1, 1_240)
    assert floor.rejected() == Reject.POSITION_LIMIT


def test_only_what_is_certified_to_the_end_of_the_hour_is_supply() -> None:
    floor = supplied(400)
    floor.certify(3, 1_000, cluster=31, until=instant("20:59"))
    floor.buy(1, 101, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(1, 101, 1_250, at="19")
    assert floor.rejected() is None
    floor.certify(3, 1_000, cluster=31, until=instant("21:00"))
    floor.buy(1, 350, 1_250)
    assert floor.rejected() is None
    floor.buy(1, 1, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT


def test_a_holding_above_the_limit_may_only_shrink_and_nothing_of_it_is_sold() -> None:
    floor = supplied(1_000)
    floor.sell(9, 200, 1_250)
    floor.buy(3, 200, 1_250)
    bid = floor.buy(3, 50, 1_200)
    floor.certify(9, 400)
    assert floor.machine.position(3, symbol("20")).net_lots == 200
    assert bid in floor.machine.state.orders
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.sell(3, 150, 1_260)
    assert floor.rejected() is None
    floor.buy(9, 150, 1_260)
    floor.cancel(3, bid)
    floor.buy(3, 51, 1_200)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(3, 50, 1_200)
    assert floor.rejected() is None


def test_a_refusal_for_the_limit_changes_nothing_but_the_order_number() -> None:
    floor = supplied(0)
    before = floor.view(3), dict(floor.machine.state.orders)
    floor.buy(3, 101, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    assert (floor.view(3), dict(floor.machine.state.orders)) == before
    assert [type(event) for event in floor.last] == [events.OrderRejected]


def test_an_account_has_a_limited_number_of_live_orders_in_all(monkeypatch) -> None:
    monkeypatch.setattr(limits, "ACCOUNT_ORDERS_MAX", 5)
    floor = supplied(1_000)
    for number in range(5):
        order = floor.buy(3, 1, 1_200, at=str(15 + number))
    floor.buy(3, 1, 1_200, at="21")
    assert floor.rejected() == Reject.OPEN_ORDER_LIMIT
    floor.buy(3, 1, 1_200, at="21", time_in_force="IOC")
    assert floor.rejected() is None
    floor.cancel(3, order)
    floor.buy(3, 1, 1_200, at="21")
    assert floor.rejected() is None


def test_orders_of_an_hour_are_bounded_by_its_trades_once_there_are_many(monkeypatch) -> None:
    monkeypatch.setattr(limits, "ENTERED_FREE", 6)
    monkeypatch.setattr(limits, "ENTERED_PER_TRADE", 4)
    floor = supplied(1_000)
    for _ in range(6):
        floor.buy(3, 1, 1_200)
        assert floor.rejected() is None
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.ORDER_TO_TRADE_RATIO
    floor.sell(9, 2, 1_200)  # meets two of them: two trades allow eight orders
    for _ in range(2):
        floor.buy(3, 1, 1_200)
        assert floor.rejected() is None
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.ORDER_TO_TRADE_RATIO
    floor.buy(1, 1, 1_200)
    assert floor.rejected() is None, "another account has a count of its own"


def test_orders_and_trades_are_counted_anew_from_the_full_hour(monkeypatch) -> None:
    monkeypatch.setattr(limits, "ENTERED_FREE", 2)
    monkeypatch.setattr(limits, "ENTERED_PER_TRADE", 2)
    floor = supplied(1_000)
    floor.sell(9, 1, 1_250)
    floor.buy(3, 1, 1_250)
    floor.buy(3, 1, 1_200)
    floor.at = instant("14:00") - 1
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.ORDER_TO_TRADE_RATIO
    floor.at = instant("14:00")
    for reason in (None, None, Reject.ORDER_TO_TRADE_RATIO):
        floor.buy(3, 1, 1_200)
        assert floor.rejected() == reason, "the trade of the last hour allows nothing now"


def test_a_restored_machine_knows_its_groups_and_its_counts(monkeypatch) -> None:
    monkeypatch.setattr(limits, "ENTERED_FREE", 3)
    floor = supplied(400)
    floor.buy(1, 60, 1_250)
    for _ in range(3):
        floor.buy(3, 1, 1_200)
    floor.machine = Machine.restore(floor.machine.snapshot())
    floor.buy(2, 41, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(2, 40, 1_250)
    assert floor.rejected() is None
    floor.buy(3, 1, 1_200)
    assert floor.rejected() == Reject.ORDER_TO_TRADE_RATIO


def test_an_order_that_is_refused_is_not_counted(monkeypatch) -> None:
    monkeypatch.setattr(limits, "ENTERED_FREE", 1)
    floor = supplied(400)
    for _ in range(3):
        floor.buy(3, 1, 9_999)
        assert floor.rejected() == Reject.OUTSIDE_BAND
    floor.buy(3, 1, 1_250)
    assert floor.rejected() is None
    floor.apply(commands.CancelOrders(3))
    floor.buy(3, 1, 1_250)
    assert floor.rejected() == Reject.ORDER_TO_TRADE_RATIO
