"""Covered shorts of a call that was not met: offered, bid for, and moved with their capacity."""

import pytest

from exchange import default_events, events
from exchange.machine import Machine, margin_calls
from settlement import instructions
from settlement.ledger import Code
from tests.floor import RICH, Floor, instant
from tests.unit.test_machine_default import (
    BUYER,
    DAY,
    HOURS_OF_MONTH,
    MONTH,
    OTHER,
    SELLER,
    leave,
    move_to,
    short,
)

BIDDER, SECOND = 21, 22
LOT = 60 * HOURS_OF_MONTH
"""Micro-USD of a tick of one lot of the month."""


def called(*, lots: int = 50, covered: int = 1_000) -> Floor:
    """A covered seller whose call at 13:45:01 was not met by 14:45:01; two others may bid."""
    floor = short(cash=LOT * lots * 1_250 // 20, lots=lots, covered=covered)
    for account in (BIDDER, SECOND):
        floor.account(account)
    move_to(floor, 1_275)
    floor.to("13:45:01")
    floor.to("14:45:01")
    return floor


def bid(floor: Floor, account: int, lots: int, price: int, *, number: int = 0) -> str | None:
    """Bid for the first offer; return why it was refused, or None."""
    return floor.instruct(
        instructions.BidTransfer(
            bid=number or 1_000 + len(floor.log),
            account=account,
            transfer=1,
            lots=lots,
            price_ticks=price,
        )
    )


def ends(floor: Floor) -> list[tuple[int, str, int, int]]:
    """Return (account, state, lots moved, received) of what became of bids in the last step."""
    return [
        (e.account, e.state, e.moved, e.received)
        for e in floor.of(default_events.TransferBidChanged)
    ]


def test_covered_shorts_are_offered_for_fifty_five_minutes_with_the_bands_top_as_most() -> None:
    floor = called()
    (offered,) = floor.of(default_events.TransferAnnounced)
    assert (offered.transfer, offered.account, offered.instrument) == (1, SELLER, MONTH)
    assert (offered.lots, offered.price_max) == (50, 1_437)
    assert offered.due_at == instant("15:40:01")
    assert floor.of(events.Traded) == []


def test_the_best_bid_takes_what_the_call_lacks_at_the_mark_and_pays_the_way_to_its_price() -> None:
    floor = called()
    lacking = margin_calls.lacking(floor.machine.state.accounts[SELLER])
    cash = floor.view(SELLER).cash
    initial = floor.view(SELLER).initial_margin
    assert bid(floor, BIDDER, 50, 200) is None
    assert bid(floor, SECOND, 50, 300) is None
    floor.to("15:40:01")
    each = initial // 50 + LOT * (1_275 - 200)
    lots = -(-lacking // each)
    paid = LOT * (1_275 - 200) * lots
    assert ends(floor) == [(BIDDER, "TAKEN", lots, -paid), (SECOND, "LOST", 0, 0)]
    assert floor.machine.position(SELLER, MONTH).net_lots == lots - 50
    assert floor.machine.position(BIDDER, MONTH).net_lots == -lots
    assert floor.machine.position(BIDDER, MONTH).cost_ticks == -lots * 1_275
    assert floor.view(SELLER).cash == cash + paid
    assert [e.code for e in floor.of(events.Transferred)] == [Code.POSITION_TRANSFER]
    (end,) = floor.of(default_events.TransferEnded)
    assert (end.moved, end.outcome) == (lots, "partly")
    assert len(floor.of(default_events.MarginCallMet)) == 1


def test_capacity_moves_with_the_lots_and_serves_their_new_obligor() -> None:
    floor = Floor("13:00", dynamic_percent=20)
    floor.account(SELLER, certified=50)
    floor.account(BUYER)
    for account in (11, 12):
        floor.account(account, certified=1_000)
    floor.sell(SELLER, 50, 1_250, instrument=DAY)
    floor.buy(BUYER, 50, 1_250, instrument=DAY)
    floor.account(BIDDER)
    leave(floor, SELLER, 60 * 24 * 50 * 1_250 // 20)
    floor.to("13:45")
    move_to(floor, 1_400, DAY)
    floor.to("13:45:01")
    leave(floor, SELLER, 0)
    floor.to("14:45:01")
    assert bid(floor, BIDDER, 50, 1_400) is None, "at the mark nothing is paid"
    floor.to("15:40:01")
    assert ends(floor) == [(BIDDER, "TAKEN", 50, 0)]
    state = floor.machine.state
    assert state.accounts[SELLER].certified_lots("LLAMA70B", instant("+2 01:00")) == {SELLER: 0}
    assert state.accounts[BIDDER].certified_lots("LLAMA70B", instant("+2 01:00")) == {SELLER: 50}
    assert state.accounts[BIDDER].certified_lots("LLAMA70B", instant("+3 01:00")) == {}
    assert state.accounts[BIDDER].uncovered == {}
    floor.to("+2 00:00")
    served = [e for e in floor.events if isinstance(e, events.Allocated)]
    assert {(e.seller, e.cluster, e.lots) for e in served} >= {(BIDDER, SELLER, 50)}
    assert not any(e.seller == SELLER for e in served)
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.snapshot() == floor.machine.snapshot()
    restored.check()
    floor.to("+4 00:00")
    assert state.backings == {}


def test_a_certificate_that_falls_away_uncovers_whoever_it_stood_behind() -> None:
    floor = called(covered=50)
    assert bid(floor, BIDDER, 50, 1_274) is None
    floor.to("15:40:01")
    ((_, _, lots, _),) = ends(floor)
    assert floor.view(BIDDER).uncovered == ()
    floor.certify(SELLER, lots - 5)
    assert {line.lots for line in floor.view(BIDDER).uncovered} == {5}
    assert {line.lots for line in floor.view(SELLER).uncovered} == {50 - lots} - {0}


@pytest.mark.parametrize(
    ("prices", "taken"),
    [((300, 200), SECOND), ((200, 200), BIDDER), ((200, 300), BIDDER)],
    ids=["the lower price", "of equal ones the earlier", "the earlier is the lower too"],
)
def test_the_lower_price_wins_and_of_equal_ones_the_earlier(prices, taken) -> None:
    floor = called()
    for account, price in zip((BIDDER, SECOND), prices, strict=True):
        assert bid(floor, account, 50, price) is None
    floor.to("15:40:01")
    assert [account for account, state, *_ in ends(floor) if state == "TAKEN"] == [taken]


def test_above_the_mark_the_account_pays_with_what_it_has_and_nobody_elses_money() -> None:
    floor = called()
    cash = floor.view(SELLER).cash
    assert bid(floor, BIDDER, 50, 1_400) is None
    floor.to("15:40:01")
    ((_, state, lots, received),) = ends(floor)
    assert state == "TAKEN"
    assert received == LOT * (1_400 - 1_275) * lots
    assert 0 <= floor.view(SELLER).cash == cash - received
    assert floor.view(SELLER).debt == 0


def test_a_bid_reserves_what_it_costs_at_the_bands_top_and_can_be_taken_back() -> None:
    floor = called()
    before = floor.view(BIDDER).available
    assert bid(floor, BIDDER, 10, 1_000, number=7) is None
    each = LOT * (1_437 - 1_000) + LOT * 1_437 // 20
    assert floor.view(BIDDER).available == before - 10 * each
    assert bid(floor, BIDDER, 5, 1_000, number=8) is None, "a new one takes the place of the last"
    assert ends(floor) == [(BIDDER, "WITHDRAWN", 0, 0), (BIDDER, "PLACED", 0, 0)]
    assert floor.view(BIDDER).available == before - 5 * each
    back = instructions.WithdrawBid(bid=8, account=BIDDER)
    assert floor.instruct(back) is None
    assert floor.view(BIDDER).available == before
    assert floor.instruct(back) == "transfer_ended"


def test_bids_are_refused_for_the_reasons_there_are() -> None:
    floor = called()
    floor.account(30, group=SELLER)
    floor.account(31, cash=0)
    assert bid(floor, 99, 1, 1_000) == "unknown_account"
    assert bid(floor, 30, 1, 1_000) == "own_group"
    assert bid(floor, SELLER, 1, 1_000) == "own_group"
    assert bid(floor, 31, 1, 1_000) == "insufficient_funds"
    for lots, price in ((0, 1_000), (51, 1_000), (1, 0), (1, 1_438)):
        assert bid(floor, BIDDER, lots, price) == "invalid_terms"
    floor.instruct(instructions.KillSwitch(account=SECOND, enabled=True))
    assert bid(floor, SECOND, 1, 1_000) == "killed"
    floor.to("15:40:01")
    assert bid(floor, BIDDER, 1, 1_000) == "transfer_ended"


def test_a_bidder_that_cannot_answer_for_its_bid_any_more_is_passed_over() -> None:
    floor = called()
    assert bid(floor, BIDDER, 50, 200) is None
    assert bid(floor, SECOND, 50, 300) is None
    leave(floor, BIDDER, 1_000)
    floor.to("15:40:01")
    assert [(account, state) for account, state, *_ in ends(floor)] == [
        (BIDDER, "WITHDRAWN"),
        (SECOND, "TAKEN"),
    ]


def test_a_call_that_is_met_in_time_calls_the_offer_off() -> None:
    floor = called()
    assert bid(floor, BIDDER, 50, 200) is None
    floor.deposit(SELLER, RICH)
    floor.to("15:40:01")
    assert ends(floor) == [(BIDDER, "LOST", 0, 0)]
    assert [e.outcome for e in floor.of(default_events.TransferEnded)] == ["called_off"]
    assert floor.machine.position(SELLER, MONTH).net_lots == -50


def test_what_nobody_bids_for_stays_is_offered_three_times_and_then_once_a_day() -> None:
    floor = called()
    floor.to("15:40:01")
    assert [e.outcome for e in floor.of(default_events.TransferEnded)] == ["no_bids"]
    assert floor.machine.position(SELLER, MONTH).net_lots == -50
    floor.events.clear()
    floor.to("23:59:59")
    happened = floor.events
    stopped = [e for e in happened if isinstance(e, default_events.LiquidationStopped)]
    assert [(e.reason, e.next_at) for e in stopped] == [("not_taken_over", instant("+1 00:00"))]
    rounds = [e for e in happened if isinstance(e, default_events.LiquidationStarted)]
    assert len(rounds) == 3
    assert floor.withdraw(SELLER, 1) == "insufficient_funds"
    floor.events.clear()
    floor.to("+1 00:00")
    floor.to("+1 23:59:59")
    assert len([e for e in floor.events if isinstance(e, default_events.LiquidationStarted)]) == 1


def test_a_short_that_a_long_covers_is_bought_back_and_the_long_then_sold() -> None:
    floor = Floor("13:00", dynamic_percent=20)
    for account in (OTHER, 11, 12):
        floor.account(account, certified=1_000)
    floor.account(4)
    floor.account(BUYER)
    floor.sell(OTHER, 20, 1_250, instrument=MONTH)
    floor.buy(4, 20, 1_250, instrument=MONTH)
    day = MONTH.replace(".M.F26", ".D.20260105")
    floor.to("13:45")
    state = floor.machine.state
    listed = [s for s in state.instruments if ".W." in s and state.instruments[s].is_open]
    inside = [s for s in listed if state.instruments[s].parents]
    assert inside, day
    week = inside[0]
    floor.sell(4, 20, 1_250, instrument=week)
    floor.buy(BUYER, 20, 1_250, instrument=week)
    assert floor.view(4).uncovered == ()
    leave(floor, 4, floor.view(4).initial_margin // 2)
    floor.sell(OTHER, 100, 1_260, instrument=week)
    floor.buy(BUYER, 100, 1_200, instrument=MONTH)
    floor.to("14:00")
    floor.to("15:00")
    traded = [(e.instrument, e.taker_side) for e in floor.of(events.Traded)]
    assert traded == [(week, 1), (MONTH, -1)]
    assert floor.view(4).uncovered == ()
