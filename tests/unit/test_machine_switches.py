"""Dead-man's switches, mass cancels and the kill switch: how orders leave when nobody asks one by
one."""

import pytest

from exchange import commands, events
from exchange.machine import Machine, switches
from exchange.machine.entries import Entry
from settlement import instructions
from tests.floor import Floor, instant, symbol

SECOND = 1_000_000


def entries(floor: Floor) -> list[tuple[int, int]]:
    """Return (due at, account) of what the calendar holds of switches."""
    return sorted((at, n) for at, kind, n in floor.machine.state.calendar if kind == Entry.SWITCH)


@pytest.fixture
def floor() -> Floor:
    """Two accounts; 1 has a bid and an offer at rest, 2 a bid."""
    floor = Floor("13:10")
    floor.account(1, certified=100)
    floor.account(2)
    floor.buy(1, 5, 1_200)
    floor.sell(1, 5, 1_300, at="21")
    floor.buy(2, 5, 1_200)
    return floor


def test_all_orders_of_the_account_leave_when_the_time_is_up(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND)
    assert floor.last == [events.SwitchSet(1, "", instant("13:10:10"), floor.at)]
    floor.at = instant("13:10:10") - 1
    assert floor.apply(commands.Tick()) == []
    floor.to("13:10:30")
    assert floor.closed() == [
        (1, "canceled", "cancel_all_after"),
        (2, "canceled", "cancel_all_after"),
    ]
    assert floor.last[0] == events.SwitchSet(1, "", 0, instant("13:10:10"))
    assert {event.at for event in floor.of(events.OrderClosed)} == {instant("13:10:10")}
    assert len(floor.of(events.BookChanged)) == 2
    assert entries(floor) == []
    assert list(floor.machine.state.orders) == [3]


def test_an_order_placed_at_the_instant_a_switch_fires_stays(floor: Floor) -> None:
    floor.switch(1, SECOND)
    floor.at += SECOND
    order = floor.buy(1, 1, 1_210)
    assert [order for order, _, _ in floor.closed()] == [1, 2]
    assert order in floor.machine.state.orders


def test_a_switch_that_is_renewed_does_not_fire_and_the_calendar_does_not_grow(floor) -> None:
    for _ in range(200):
        floor.switch(1, 10 * SECOND)
        floor.at += 3 * SECOND
        assert len(entries(floor)) == 1
    assert floor.closed() == []
    floor.at += 7 * SECOND
    floor.apply(commands.Tick())
    assert len(floor.closed()) == 2


def test_a_shorter_time_takes_the_entry_s_place(floor: Floor) -> None:
    for timeout in (60, 50, 40, 5):
        floor.switch(1, timeout * SECOND)
        assert entries(floor) == [(floor.at + timeout * SECOND, 1)]
    floor.to("13:10:05")
    assert len(floor.closed()) == 2


def test_zero_unsets_a_switch(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND)
    floor.switch(1, 0)
    assert floor.last == [events.SwitchSet(1, "", 0, floor.at)]
    floor.to("13:20")
    assert floor.closed() == []
    assert entries(floor) == []
    floor.switch(1, 0)
    assert floor.last == [events.SwitchSet(1, "", 0, floor.at)]


def test_switches_of_several_names_fire_apart_and_a_connection_s_says_so(floor: Floor) -> None:
    floor.switch(1, 60 * SECOND)
    floor.switch(1, 10 * SECOND, "connection-a")
    floor.switch(1, 20 * SECOND, "connection-b")
    floor.to("13:10:10")
    assert [reason for _, _, reason in floor.closed()] == ["disconnected"] * 2
    floor.buy(1, 1, 1_200)
    floor.switch(1, 0, "connection-b")
    floor.to("13:10:59")
    assert floor.closed() == []
    floor.to("13:11")
    assert [reason for _, _, reason in floor.closed()] == ["cancel_all_after"]


def test_a_time_that_was_up_while_nobody_ticked_is_up_at_its_instant(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND)
    floor.switch(2, 5 * SECOND)
    floor.to("13:30")
    unset = [(event.account, event.at) for event in floor.of(events.SwitchSet)]
    assert unset == [(2, instant("13:10:05")), (1, instant("13:10:10"))]
    assert len(floor.closed()) == 3


def test_a_connection_that_could_not_be_heard_is_given_its_time_once_more(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND, "a")
    floor.to("13:30")
    again = instant("13:30:10")
    assert floor.last == [events.SwitchSet(1, "a", again, instant("13:10:10"))]
    assert entries(floor) == [(again, 1)]
    floor.to("13:30:05")
    floor.switch(1, 10 * SECOND, "a")
    floor.to("13:30:10")
    assert floor.closed() == [], "it lives"
    floor.to("13:30:15")
    assert [reason for _, _, reason in floor.closed()] == ["disconnected"] * 2, "it is dead"
    assert entries(floor) == []


def test_a_connection_s_switch_fires_where_its_time_is_up_while_the_machine_runs(floor) -> None:
    floor.switch(1, 10 * SECOND, "a")
    floor.at += 11 * SECOND
    floor.apply(commands.Tick())
    assert len(floor.closed()) == 2


def test_an_account_s_own_switch_fires_beside_a_connection_that_could_not_be_heard(floor) -> None:
    floor.switch(1, 10 * SECOND)
    floor.switch(1, 10 * SECOND, "a")
    floor.to("13:30")
    assert [reason for _, _, reason in floor.closed()] == ["cancel_all_after"] * 2
    assert floor.machine.state.accounts[1].switches == {"a": instant("13:30:10")}


@pytest.mark.parametrize("timeout", [1, SECOND - 1, 86_400 * SECOND + 1, -1])
def test_a_time_out_of_range_changes_nothing_and_the_answer_says_so(floor, timeout: int) -> None:
    floor.switch(1, timeout)
    assert floor.last == [events.SwitchSet(1, "", 0, floor.at)]
    floor.switch(1, 10 * SECOND)
    floor.switch(1, timeout)
    assert floor.last == [events.SwitchSet(1, "", floor.at + 10 * SECOND, floor.at)]


def test_an_account_that_nobody_knows_has_no_switch(floor: Floor) -> None:
    floor.switch(7, 10 * SECOND)
    assert floor.last == [events.SwitchSet(7, "", 0, floor.at)]
    assert entries(floor) == []


def test_an_account_has_a_limited_number_of_switches(floor: Floor, monkeypatch) -> None:
    monkeypatch.setattr(switches, "SWITCHES_MAX", 2)
    for name in ("a", "b", "c", "a"):
        floor.switch(1, 10 * SECOND, name)
    assert [event.due_at > 0 for event in floor.events if isinstance(event, events.SwitchSet)] == [
        True, True, False, True,
    ]  # fmt: skip


def test_a_killed_account_has_nothing_to_withdraw_and_its_switches_work_on(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND)
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    assert len(floor.closed()) == 2
    floor.switch(1, 20 * SECOND)
    floor.instruct(instructions.KillSwitch(account=1, enabled=False))
    order = floor.buy(1, 1, 1_200)
    floor.to("13:10:20")
    assert floor.closed() == [(order, "canceled", "cancel_all_after")]


def test_a_restored_machine_fires_at_the_same_instants(floor: Floor) -> None:
    floor.switch(1, 10 * SECOND, "a")
    floor.at += 5 * SECOND
    floor.switch(1, 10 * SECOND, "a")
    floor.switch(1, 40 * SECOND)
    twin = Machine.restore(floor.machine.snapshot())
    assert twin.snapshot() == floor.machine.snapshot()
    for seconds in (10, 15, 44, 45):
        floor.at = instant("13:10") + seconds * SECOND
        happened = floor.apply(commands.Tick())
        assert twin.apply(commands.Tick(), floor.machine.sequence, floor.at) == happened
        assert twin.snapshot() == floor.machine.snapshot()
    floor.switch(1, 2 * SECOND)
    twin.apply(floor.log[-1].command, floor.machine.sequence, floor.at)
    assert twin.snapshot() == floor.machine.snapshot()


def test_a_mass_cancel_says_whether_it_was_asked_for_or_a_connection_ended(floor: Floor) -> None:
    floor.apply(commands.CancelOrders(1, side=1, reason="disconnected"))
    assert floor.closed() == [(1, "canceled", "disconnected")]
    floor.apply(commands.CancelOrders(1, reason="killed"))
    assert floor.closed() == [(2, "canceled", "requested")], "no other reason can be claimed"


def test_a_mass_cancel_of_one_instrument_leaves_the_others(floor: Floor) -> None:
    floor.apply(commands.CancelOrders(1, instrument=symbol("21")))
    assert floor.closed() == [(2, "canceled", "requested")]


# Orders that wait for a price, and orders that are frozen in a call


def opening(at: str = "11:00") -> Floor:
    """Account 1 has an order in the opening call of an hour of tomorrow, and a stop of today."""
    floor = Floor(at)
    floor.account(1, certified=100)
    floor.account(2)
    floor.buy(1, 5, 1_250, at="+1 10")
    floor.place(1, 1, 5, 0, terms=commands.Terms(type="STOP", stop_price=1_300))
    return floor


def test_an_order_that_waits_for_its_stop_price_leaves_like_any_other() -> None:
    for leave, reason in (
        (lambda floor: floor.apply(commands.CancelOrders(1, instrument=symbol("20"))), "requested"),
        (lambda floor: floor.apply(commands.CancelOrders(1, side=1)), "requested"),
        (lambda floor: (floor.switch(1, SECOND), floor.to("11:01")), "cancel_all_after"),
        (
            lambda floor: floor.instruct(instructions.KillSwitch(account=1, enabled=True)),
            "killed",
        ),
    ):
        floor = opening()
        leave(floor)
        assert (2, "canceled", reason) in floor.closed()
        assert 2 not in floor.machine.state.orders
        assert not floor.machine.state.instruments[symbol("20")].stops


def test_a_mass_cancel_and_a_switch_leave_frozen_orders_and_a_kill_switch_does_not() -> None:
    floor = opening()
    floor.switch(1, 3_600 * SECOND)
    floor.to("11:55")
    floor.apply(commands.CancelOrders(1, side=1, reason="disconnected"))
    assert floor.closed() == [(2, "canceled", "disconnected")]
    floor.apply(commands.CancelOrders(1))
    assert floor.last == []
    floor.switch(1, 60 * SECOND)
    floor.to("11:56")
    assert floor.closed() == []
    assert floor.of(events.SwitchSet) == [events.SwitchSet(1, "", 0, floor.at)], "it has fired"
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    assert floor.closed() == [(1, "canceled", "killed")]


def test_before_it_is_frozen_a_call_s_order_leaves_by_a_switch() -> None:
    floor = opening()
    floor.switch(1, 55 * 60 * SECOND - SECOND)
    floor.to("11:55")
    assert [order for order, _, _ in floor.closed()] == [1, 2]


def test_a_killed_account_can_do_nothing_but_wait() -> None:
    floor = opening()
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    assert floor.amend(1, 1, lots=9) == "unknown_order"
    floor.strip(1, 1, 1, 1_250)
    assert floor.rejected() == "killed"
    assert floor.preview(1, 1, 1, 1_250).reason == "killed"
    floor.place(1, 1, 5, 0, terms=commands.Terms(type="STOP", stop_price=1_300))
    assert floor.rejected() == "killed"
