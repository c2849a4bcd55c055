"""From gate closure to the last interval: who delivers, who is paid, and what every dollar does."""

import pytest

from exchange import events
from settlement import instructions
from settlement.ledger import Code, Kind
from tests import oracle
from tests.floor import GRADE, Floor, hour, instant, symbol

CASH, ESCROW, HOLD = Kind.CASH, Kind.ESCROW, Kind.USAGE_HOLD
FEES, CLEARING, LAYER, OUTSIDE = (0, Kind.FEES), (0, Kind.CLEARING), (0, Kind.LAYER), (0, 10)

SELLER, BUYER, OTHER = 1, 2, 3
FULL = 200_000
"""NTU of forty lots in an interval."""


def traded(*, price: int = 1_250, lots: int = 40, seller_cash: int = 10**9, **terms: int) -> Floor:
    """A hundred lots listed at a price, of which the buyer took some."""
    floor = Floor("18:00", **terms)
    floor.account(SELLER, cash=seller_cash, certified=100)
    floor.account(BUYER, cash=10**9)
    floor.account(OTHER, cash=10**9)
    floor.sell(SELLER, 100, price)
    floor.buy(BUYER, lots, price)
    return floor


def test_an_hour_of_a_hundred_lots_from_listing_to_the_last_transfer() -> None:
    """The worked example: 100 lots listed at 1.300, 40 bought, three bad intervals.

    The price moved by 4 %, so it is marked a second after the trade. The only trade does not make
    an index, so the delivery price is that mark, 1.300, and no variation is due. Of what it is
    short, the mark of the next hour is 1.250, so replacement costs nothing more and a quarter of
    the price is the damage.
    """
    floor = traded(price=1_300)
    assert floor.moved() == [
        ((SELLER, CASH), FEES, 624, Code.TRADING_FEE),
        ((BUYER, CASH), FEES, 6_240, Code.TRADING_FEE),
    ]
    before = floor.view(SELLER).cash, floor.view(BUYER).cash

    floor.to("19:55")
    assert floor.moved() == [
        ((BUYER, CASH), (BUYER, ESCROW), 3_120_000, Code.ESCROW),
    ]
    assert floor.of(events.GateClosed)[-1].price == 1_300
    (granted,) = floor.of(events.EntitlementGranted)
    assert (granted.account, granted.lots, granted.escrow) == (BUYER, 40, 3_120_000)
    (incurred,) = floor.of(events.ObligationIncurred)
    assert (incurred.account, incurred.lots, incurred.failed_lots) == (SELLER, 40, 0)
    (allocated,) = floor.of(events.Allocated)
    assert (allocated.holder, allocated.seller, allocated.cluster) == (BUYER, SELLER, SELLER)
    assert floor.view(SELLER).initial_margin == 156_000
    assert floor.machine.position(BUYER, symbol("20")).net_lots == 0

    lines = {3: (FULL // 2, 0), 7: (FULL, 20_000), 9: (0, 50_000)}
    expected = {
        3: [(130_000, Code.RELEASE), (130_000, Code.REFUND)],
        7: [(234_000, Code.RELEASE), (26_000, Code.REFUND), (6_500, Code.COMPENSATION)],
        9: [(260_000, Code.REFUND), (16_250, Code.COMPENSATION)],
    }
    for interval in range(1, 13):
        line = lines.get(interval, (FULL, 0))
        assert floor.settle("20", interval, {allocated.allocation: line}) is None
        moved = [(amount, code) for _, _, amount, code in floor.moved()]
        assert moved == expected.get(interval, [(260_000, Code.RELEASE)])

    released = 9 * 260_000 + 130_000 + 234_000
    damages = 6_500 + 16_250
    assert floor.view(SELLER).cash == before[0] + released - damages
    assert floor.view(BUYER).cash == before[1] - released + damages
    assert floor.view(BUYER).escrow == floor.view(SELLER).initial_margin == 0
    assert floor.of(events.InstrumentChanged)[-1].state == "SETTLED"
    assert floor.machine.instrument_view(symbol("20")) is None
    assert floor.settle("20", 12) == "unknown_hour"
    assert_ledger_agrees(floor)


def assert_ledger_agrees(floor: Floor) -> None:
    """The machine's cash is what its transfers add up to."""
    added_up = oracle.balances(floor.events)
    for account in floor.machine.state.accounts.values():
        assert account.cash == added_up[account.id, CASH]
        assert account.escrow == added_up[account.id, ESCROW]
        assert account.usage_hold == added_up[account.id, HOLD]
    for kind, amount in floor.machine.state.exchange.items():
        assert amount == added_up[0, int(kind)]


def test_an_hour_without_positions_is_settled_at_its_gate() -> None:
    floor = Floor("18:00")
    floor.to("19:55")
    gate = [e for e in floor.of(events.GateClosed) if e.instrument == symbol("20")]
    assert [(e.lots, e.price) for e in gate] == [(0, 1_250)]
    states = [e.state for e in floor.of(events.InstrumentChanged) if e.symbol == symbol("20")]
    assert states == ["CLOSED", "SETTLED"]
    assert floor.settle("20", 1) == "unknown_hour"


def test_a_position_traded_away_pays_its_difference_only() -> None:
    floor = traded()
    floor.sell(BUYER, 40, 1_240)
    floor.buy(OTHER, 40, 1_240)
    floor.to("19:55")
    variation = [m for m in floor.moved() if m[3] == Code.VARIATION]
    assert ((BUYER, CASH), CLEARING, 24_000, Code.VARIATION) in variation
    assert [e.account for e in floor.of(events.EntitlementGranted)] == [OTHER]


def test_a_short_without_money_is_lent_its_variation_and_may_then_only_reduce() -> None:
    floor = Floor("18:00", dynamic_percent=20)
    floor.account(SELLER, cash=450_000, certified=100)
    floor.account(BUYER)
    floor.sell(SELLER, 60, 1_250)
    floor.buy(BUYER, 60, 1_250)
    for account in range(11, 21):
        floor.account(account, certified=100)
    for seller in range(11, 16):
        floor.sell(seller, 100, 1_430)
        floor.buy(seller + 5, 100, 1_430)
    cash = floor.view(SELLER).cash

    floor.to("18:00:01")
    mark = (60 * 1_250 + 500 * 1_430 + 280) // 560
    assert (LAYER, (SELLER, CASH), 3_600 * (mark - 1_250) - cash, Code.LAYER_LOAN) in floor.moved()
    floor.to("19:55")

    (gate,) = [e for e in floor.of(events.GateClosed) if e.instrument == symbol("20")]
    assert gate.price == mark == 1_411
    loan = 60 * 60 * (gate.price - 1_250) - cash
    assert (floor.view(SELLER).cash, floor.view(SELLER).debt) == (0, loan)
    floor.sell(SELLER, 1, 1_250, at="22")
    assert floor.rejected() == "account_in_debt"
    assert floor.withdraw(SELLER, 1) == "account_in_debt"

    allocations = floor.machine.state.hours[GRADE, hour("20")].allocations.values()
    lines = {a.id: (a.lots * 5_000, 0) for a in allocations}
    floor.settle("20", 1, lines)
    released = 5 * gate.price * 60
    repaid = min(loan, released)
    assert ((SELLER, CASH), LAYER, repaid, Code.LAYER_REPAYMENT) in floor.moved()
    assert floor.view(SELLER).debt == loan - repaid
    floor.deposit(SELLER, 10**9)
    assert floor.view(SELLER).debt == 0
    floor.sell(SELLER, 1, 1_250, at="22")
    assert floor.rejected() is None
    assert_ledger_agrees(floor)


def test_a_loss_at_the_gate_withdraws_orders_elsewhere_that_it_leaves_unfunded() -> None:
    floor = traded(seller_cash=800_000, dynamic_percent=20)
    bid = floor.buy(SELLER, 5, 1_250, at="22")
    floor.cancel(SELLER, 1)
    for account in range(11, 21):
        floor.account(account, certified=100)
    floor.at = instant("19:55") - 1
    for seller in range(11, 16):
        floor.sell(seller, 100, 1_430)
        floor.buy(seller + 5, 100, 1_430)
    assert bid in floor.machine.state.orders
    floor.to("19:55")
    assert (bid, "canceled", "unfunded") in floor.closed()


def test_an_obligation_is_spread_over_the_sellers_clusters() -> None:
    floor = Floor("18:00")
    floor.account(SELLER, certified=25)
    floor.certify(SELLER, 75, cluster=9)
    floor.account(BUYER)
    floor.sell(SELLER, 40, 1_250)
    floor.buy(BUYER, 40, 1_250)
    floor.to("19:55")
    assert [(e.cluster, e.lots) for e in floor.of(events.Allocated)] == [(9, 30), (SELLER, 10)]


def test_derating_below_what_was_sold_leaves_failed_lots_that_deliver_nothing() -> None:
    floor = traded()
    floor.certify(SELLER, 30)
    assert floor.machine.position(SELLER, symbol("20")).net_lots == -40
    floor.to("19:55")
    (incurred,) = floor.of(events.ObligationIncurred)
    assert incurred.failed_lots == 10
    served, failed = floor.of(events.Allocated)
    assert [(a.cluster, a.lots) for a in (served, failed)] == [(SELLER, 30), (0, 10)]

    assert floor.settle("20", 1, {served.allocation: (150_000, 0)}) is None
    assert [(amount, code) for _, _, amount, code in floor.moved()] == [
        (187_500, Code.RELEASE),
        (62_500, Code.REFUND),
    ]
    missed = {served.allocation: (150_000, 0), failed.allocation: (50_000, 50_000)}
    assert floor.settle("20", 2, missed) is None
    assert [e.available_mntu for e in floor.of(events.IntervalSettled)] == [150_000_000, 0]
    assert [(amount, code) for _, _, amount, code in floor.moved()] == [
        (187_500, Code.RELEASE),
        (62_500, Code.REFUND),
        (15_625, Code.COMPENSATION),
    ]


def test_a_holder_keeps_its_cluster_from_hour_to_hour() -> None:
    floor = Floor("18:00")
    floor.account(SELLER, certified=60)
    floor.account(OTHER, certified=60)
    floor.account(BUYER)
    floor.account(5)
    floor.sell(OTHER, 20, 1_250, at="20")
    floor.buy(BUYER, 20, 1_250, at="20")
    for seller, lots in ((SELLER, 60), (OTHER, 30)):
        floor.sell(seller, lots, 1_250, at="21")
    for buyer, lots in ((BUYER, 40), (5, 50)):
        floor.buy(buyer, lots, 1_250, at="21")
    floor.to("19:55")
    floor.to("20:55")
    chosen = [(e.holder, e.cluster, e.lots) for e in floor.of(events.Allocated)]
    assert chosen == [(5, SELLER, 50), (BUYER, OTHER, 30), (BUYER, SELLER, 10)]


def closed() -> Floor:
    floor = traded()
    floor.to("19:55")
    return floor


def test_an_interval_is_settled_once() -> None:
    floor = closed()
    assert floor.settle("20", 1, {1: (FULL, 0)}) is None
    assert floor.settle("20", 1, {1: (FULL, 0)}) == "already_settled"
    assert floor.settle("20", 1, suspended=True) == "already_settled"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({}, "incomplete_report"),
        ({7: (FULL, 0)}, "invalid_report"),
        ({1: (FULL + 1, 0)}, "invalid_report"),
        ({1: (-1, 0)}, "invalid_report"),
        ({1: (FULL, FULL + 1)}, "invalid_report"),
        ({1: (FULL, -1)}, "invalid_report"),
    ],
)
def test_a_report_that_does_not_fit_is_refused_and_moves_nothing(lines, reason) -> None:
    floor = closed()
    assert floor.settle("20", 1, lines) == reason
    assert floor.moved() == []
    assert floor.settle("20", 1, {1: (FULL, 0)}) is None


def test_an_interval_is_not_settled_before_it_is_over() -> None:
    floor = closed()
    early = instructions.SettleInterval(
        grade=GRADE, hour_starts_at=hour("20"), interval=1, suspended=True
    )
    floor.at = instant("20:05") - 1
    assert floor.instruct(early) == "interval_not_over"
    floor.at = instant("20:05")
    assert floor.instruct(early) is None
    assert floor.settle("20", 13, {1: (FULL, 0)}) == "invalid_report"
    assert floor.settle("20", 0, {1: (FULL, 0)}) == "invalid_report"


def test_intervals_may_be_settled_in_any_order() -> None:
    floor = closed()
    floor.at = instant("21:01")
    for interval in (12, 3, 1, 2, 4, 11, 5, 10, 9, 8, 7, 6):
        assert floor.settle("20", interval, {1: (FULL, 0)}) is None
    assert floor.view(BUYER).escrow == 0


def test_a_suspended_interval_returns_the_escrow_and_blames_nobody() -> None:
    floor = closed()
    assert floor.settle("20", 1, suspended=True) is None
    assert floor.moved() == [((BUYER, ESCROW), (BUYER, CASH), 250_000, Code.REFUND)]
    (settled,) = floor.of(events.IntervalSettled)
    assert (settled.short_mntu, settled.compensation_due) == (0, 0)


def test_a_dearer_next_hour_is_part_of_the_damage() -> None:
    floor = closed()
    floor.account(7, certified=10)
    floor.at = instant("19:59")
    floor.sell(7, 5, 1_400, at="21")
    floor.buy(OTHER, 5, 1_400, at="21")
    floor.settle("20", 1, {1: (FULL, FULL)})
    assert floor.moved() == [
        ((BUYER, ESCROW), (BUYER, CASH), 250_000, Code.REFUND),
        ((SELLER, CASH), (BUYER, CASH), 30_000 + 62_500, Code.COMPENSATION),
    ]


def test_compensation_reaches_as_far_as_the_sellers_own_cash() -> None:
    floor = traded(seller_cash=400_000)
    floor.to("19:55")
    cash = floor.view(SELLER).cash
    for interval in range(1, 8):
        floor.settle("20", interval, {1: (0, FULL)})
        (settled,) = floor.of(events.IntervalSettled)
        assert settled.compensation_due == 62_500
        assert settled.compensated == min(62_500, max(0, cash))
        cash -= 62_500
    assert floor.view(SELLER).cash == floor.view(SELLER).debt == 0
    assert_ledger_agrees(floor)


def test_compensation_never_takes_what_the_seller_has_prepaid_elsewhere() -> None:
    floor = traded(seller_cash=700_000)
    floor.account(7, certified=10)
    floor.sell(7, 3, 1_250, at="23")
    floor.buy(SELLER, 3, 1_250, at="23")
    assert floor.rejected() is None
    floor.to("19:55")
    for interval in range(1, 13):
        floor.settle("20", interval, {1: (0, FULL)})
    assert floor.view(SELLER).cash == 60 * 3 * 1_250
    floor.to("22:55")
    assert floor.view(SELLER).debt == 0
    assert floor.view(SELLER).escrow == 60 * 3 * 1_250


def test_compensation_that_does_not_reach_is_shared_by_largest_remainder() -> None:
    floor = Floor("18:00")
    floor.account(SELLER, cash=200_000, certified=100)
    floor.account(BUYER)
    floor.account(OTHER)
    floor.sell(SELLER, 30, 1_250)
    floor.buy(BUYER, 20, 1_250)
    floor.buy(OTHER, 10, 1_250)
    floor.to("19:55")
    for interval in (1, 2, 3, 4):
        floor.settle("20", interval, {1: (0, 100_000), 2: (0, 50_000)})
    left = floor.view(SELLER).cash
    floor.settle("20", 5, {1: (0, 100_000), 2: (0, 50_000)})
    first, second = floor.of(events.IntervalSettled)
    assert (first.compensation_due, second.compensation_due) == (31_250, 15_625)
    assert left < 46_875
    assert first.compensated + second.compensated == left
    assert abs(first.compensated - 2 * second.compensated) <= 2


def test_inside_a_group_nothing_is_compensated() -> None:
    floor = Floor("18:00")
    floor.account(SELLER, certified=100, group=50)
    floor.account(OTHER)
    floor.account(BUYER, group=50)
    floor.sell(SELLER, 40, 1_250)
    floor.buy(OTHER, 40, 1_250)
    floor.sell(OTHER, 40, 1_250)
    floor.buy(BUYER, 40, 1_250)
    floor.to("19:55")
    floor.settle("20", 1, {1: (0, FULL)})
    (settled,) = floor.of(events.IntervalSettled)
    assert (settled.refunded, settled.compensation_due) == (250_000, 0)


def reserve(floor: Floor, amount: int, account: int = BUYER) -> str | None:
    return floor.instruct(
        instructions.ReserveUsage(
            account=account, grade=GRADE, hour_starts_at=hour("18"), amount_micros=amount
        )
    )


def charge(
    floor: Floor,
    interval: int,
    mntu: int,
    *,
    release: bool = False,
    idle: tuple[tuple[int, int], ...] = (),
) -> str | None:
    return floor.instruct(
        instructions.ChargeUsage(
            account=BUYER,
            seller=SELLER,
            grade=GRADE,
            hour_starts_at=hour("18"),
            interval=interval,
            mntu=mntu,
            release=release,
            idle=idle,
        )
    )


def spot(cash: int) -> Floor:
    floor = Floor("18:00")
    floor.account(SELLER, cash=0, certified=100)
    floor.account(BUYER, cash=cash)
    return floor


def test_what_is_served_on_idle_rate_is_shared_with_those_who_bought_it() -> None:
    """Of 1.375 USD less 20 bp, 600,000 of a million NTU were idle: 80 % of that part is theirs."""
    floor = spot(10_000_000)
    first, second = floor.account(7), floor.account(8)
    assert reserve(floor, 4_000_000) is None
    idle = ((first, 400_000_000), (second, 200_000_000))
    assert charge(floor, 1, 1_000_000_000, idle=idle) is None
    part = 1_372_250 * 6 // 10 * 80 // 100
    assert part == 658_680
    assert floor.moved() == [
        ((BUYER, HOLD), (SELLER, CASH), 1_372_250 - part, Code.USAGE_CHARGE),
        ((BUYER, HOLD), (first, CASH), 439_120, Code.USAGE_IDLE),
        ((BUYER, HOLD), (second, CASH), 219_560, Code.USAGE_IDLE),
        ((BUYER, HOLD), FEES, 2_750, Code.USAGE_FEE),
    ]
    for wrong, reason in (
        (((8, 1), (7, 1)), "invalid_amount"),
        (((7, 0),), "invalid_amount"),
        (((7, 11),), "invalid_amount"),
        (((99, 1),), "unknown_account"),
    ):
        assert charge(floor, 2, 10, idle=wrong) == reason
    assert charge(floor, 2, 10, idle=((7, 10),)) is None


def test_pay_as_you_go_is_held_charged_by_interval_and_given_back() -> None:
    floor = spot(10_000_000)
    assert reserve(floor, 4_000_000) is None
    assert (floor.view(BUYER).available, floor.view(BUYER).usage_hold) == (6_000_000, 4_000_000)

    assert charge(floor, 1, 1_000_000_000) is None
    assert floor.moved() == [
        ((BUYER, HOLD), (SELLER, CASH), 1_375_000 - 2_750, Code.USAGE_CHARGE),
        ((BUYER, HOLD), FEES, 2_750, Code.USAGE_FEE),
    ]
    assert charge(floor, 1, 1_000_000_000) == "already_charged"
    assert charge(floor, 2, 0, release=True) is None
    assert floor.moved() == [((BUYER, HOLD), (BUYER, CASH), 2_625_000, Code.USAGE_RELEASE)]
    assert floor.view(BUYER).cash == 10_000_000 - 1_375_000
    assert_ledger_agrees(floor)


def test_usage_beyond_the_hold_comes_from_cash_and_then_is_debt() -> None:
    floor = spot(1_000_000)
    reserve(floor, 400_000)
    assert charge(floor, 1, 1_000_000_000) is None
    assert floor.moved() == [
        (LAYER, (BUYER, CASH), 375_000, Code.LAYER_LOAN),
        ((BUYER, CASH), (BUYER, HOLD), 975_000, Code.USAGE_HOLD),
        ((BUYER, HOLD), (SELLER, CASH), 1_372_250, Code.USAGE_CHARGE),
        ((BUYER, HOLD), FEES, 2_750, Code.USAGE_FEE),
    ]
    assert (floor.view(BUYER).cash, floor.view(BUYER).debt) == (0, 375_000)
    assert reserve(floor, 1) == "account_in_debt"


def test_usage_does_not_touch_what_orders_have_reserved() -> None:
    floor = spot(4_000_000)
    floor.buy(BUYER, 40, 1_250)
    free = floor.view(BUYER).available
    assert reserve(floor, free + 1) == "insufficient_funds"
    assert charge(floor, 1, 1_000_000_000) is None
    assert floor.view(BUYER).debt == 1_375_000 - free
    assert floor.view(BUYER).available == 0


def test_usage_of_nobody_and_of_no_hour_is_refused() -> None:
    floor = spot(1_000_000)
    assert reserve(floor, 1, account=9) == "unknown_account"
    assert reserve(floor, 0) == "invalid_amount"
    for far in (0, hour("18") + 1, 10**18, hour("+8 18")):
        bad = instructions.ReserveUsage(
            account=BUYER, grade=GRADE, hour_starts_at=far, amount_micros=1
        )
        assert floor.instruct(bad) == "unknown_hour"
    over = instructions.ReserveUsage(
        account=BUYER, grade=GRADE, hour_starts_at=hour("17"), amount_micros=1
    )
    assert floor.instruct(over) == "unknown_hour"
    assert charge(floor, 13, 1) == "invalid_amount"
    assert charge(floor, 1, 10**16) == "invalid_amount"
    assert charge(floor, 1, -1) == "invalid_amount"


def test_usage_costs_the_hours_index_where_there_is_one() -> None:
    floor = spot(100_000_000)
    floor.machine.state.grades[GRADE].index[hour("18")] = 1_000
    reserve(floor, 2_000_000)
    charge(floor, 1, 1_000_000_000)
    assert floor.moved()[0][2] == 1_100_000 - 2_200


def test_a_deposit_repays_a_debt_first() -> None:
    floor = spot(1_000_000)
    assert charge(floor, 1, 1_000_000_000) is None
    assert floor.view(BUYER).debt == 375_000
    floor.deposit(BUYER, 300_000)
    assert floor.moved() == [
        (OUTSIDE, (BUYER, CASH), 300_000, Code.DEPOSIT),
        ((BUYER, CASH), LAYER, 300_000, Code.LAYER_REPAYMENT),
    ]
    floor.deposit(BUYER, 300_000)
    assert (floor.view(BUYER).cash, floor.view(BUYER).debt) == (225_000, 0)


def test_a_compensation_withdraws_orders_that_it_leaves_unfunded() -> None:
    floor = traded(seller_cash=800_000)
    bid = floor.buy(SELLER, 4, 1_250, at="23")
    floor.to("19:55")
    for interval in range(1, 6):
        floor.settle("20", interval, {1: (0, FULL)})
    assert bid in floor.machine.state.orders
    floor.settle("20", 6, {1: (0, FULL)})
    assert floor.closed() == [(bid, "canceled", "unfunded")]
