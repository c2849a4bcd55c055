"""Packages in the machine: bought, pledged, delivered at their own price, cut and sold on.

Account 1 sells from its cluster, certified for 100 lots; 2 and 3 buy; 4 is the rest of the market.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from exchange import default_events, events, package_events
from exchange.machine import Machine, waterfall
from marketplace import contract
from marketplace.contract import DAY, HOUR
from settlement import instructions, packages
from settlement.ledger import Code, Kind
from settlement.packages import Stretch
from tests.floor import FAR, GRADE, RICH, Floor, hour, instant

TOMORROW = hour("+1 00")
LOT_HOUR = 60


@dataclass
class Terms:
    """What a package is, in short."""

    days: int = 1
    lots: tuple[int, ...] = (10,)
    p1_lots: tuple[int, ...] = ()
    price: int = 1_000
    list_price: int = 1_200
    starts_at: int = TOMORROW
    seller: int = 1
    buyer: int = 2


def buy(floor: Floor, **terms: Any) -> str | None:
    """Buy a package; return why it was refused."""
    of = Terms(**terms)
    return floor.instruct(
        instructions.BuyPackage(
            listing=7,
            seller=of.seller,
            buyer=of.buyer,
            grade=GRADE,
            starts_at=of.starts_at,
            ends_at=of.starts_at + of.days * DAY,
            lots=of.lots,
            p1_lots=of.p1_lots,
            price_ticks=of.price,
            list_price_ticks=of.list_price,
        )
    )


def resell(
    floor: Floor, since: str, until: str, lots: int | tuple[int, ...] = 4, **other: Any
) -> str | None:
    """Sell a slice of package 1 on to account 3, at 1,100; return why it was refused."""
    terms = {"package": 1, "holder": 2, "buyer": 3, "price_ticks": 1_100, "fee_bp": 100} | other
    terms["lots"] = lots if isinstance(lots, tuple) else (lots,)
    return floor.instruct(
        instructions.ResellPackage(starts_at=instant(since), ends_at=instant(until), **terms)
    )


def market(at: str = "09:00", certified: int = 100) -> Floor:
    floor = Floor(at)
    floor.account(1, certified=certified)
    for account in (2, 3, 4):
        floor.account(account)
    return floor


def changed(floor: Floor) -> list[package_events.PackageChanged]:
    return floor.of(package_events.PackageChanged)


# What is bought


def test_a_package_is_paid_in_full_and_pledged_hour_by_hour() -> None:
    floor = market()
    assert buy(floor, days=2) is None
    price = LOT_HOUR * 1_000 * 10 * 48
    assert floor.view(2).escrow == price
    assert floor.view(2).cash == RICH - price
    assert floor.view(1).initial_margin == price // 20
    account = floor.machine.state.accounts[1]
    assert account.free_lots(GRADE, TOMORROW) == 100
    assert account.free_lots(GRADE, TOMORROW + HOUR) == 90
    assert account.free_lots(GRADE, TOMORROW + 48 * HOUR) == 90
    assert account.free_lots(GRADE, TOMORROW + 49 * HOUR) == 100
    (told,) = changed(floor)
    assert (told.package, told.seller, told.holder, told.price) == (1, 1, 2, 1_000)
    assert told.escrow == price
    (moved,) = [e for e in floor.of(events.Transferred) if e.code == Code.PACKAGE_ESCROW]
    assert (moved.debit_kind, moved.credit_kind, moved.amount) == (Kind.CASH, Kind.ESCROW, price)


def test_patterns_are_hours_of_the_day_or_of_the_week() -> None:
    by_day = tuple(range(24))
    assert packages.lots_at(by_day, hour("14")) == 14
    by_week = tuple(range(168))
    # The floor's day is a Friday.
    assert packages.lots_at(by_week, hour("14")) == 4 * 24 + 14
    assert packages.lots_at((3,), hour("14")) == 3
    floor = market()
    office = tuple(5 if 9 <= at < 17 else 0 for at in range(24))
    assert buy(floor, lots=office, days=3) is None
    assert floor.view(2).escrow == LOT_HOUR * 1_000 * 5 * 8 * 3


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"buyer": 9}, "unknown_account"),
        ({"lots": (0,)}, "invalid_terms"),
        ({"lots": (1, 2)}, "invalid_terms"),
        ({"lots": (5,), "p1_lots": (6,)}, "invalid_terms"),
        ({"price": 1_201}, "invalid_terms"),
        ({"price": 0}, "invalid_terms"),
        ({"starts_at": TOMORROW + HOUR}, "invalid_terms"),
        ({"days": 366}, "invalid_terms"),
        ({"days": 0}, "invalid_terms"),
        # It is a Saturday, and nothing but Mondays was asked for.
        ({"lots": (1,) * 24 + (0,) * 144}, "invalid_terms"),
        ({"buyer": 1}, "own_group"),
        ({"starts_at": TOMORROW - DAY}, "deadline_passed"),
        ({"price": 900, "list_price": 1_136}, "listing_suspended"),
        ({"lots": (101,)}, "insufficient_coverage"),
        ({"lots": (100,), "p1_lots": (61,)}, "insufficient_coverage"),
        ({"lots": (100,), "p1_lots": (60,), "days": 365}, None),
        ({"price": 900, "list_price": 1_137}, None),
    ],
)
def test_a_purchase_is_refused_by_the_first_rule_it_breaks(
    terms: dict[str, Any], reason: str | None
) -> None:
    floor = market()
    before = floor.machine.digest()
    assert buy(floor, **terms) == reason
    if reason is not None:
        assert not changed(floor)
        assert floor.machine.state.accounts[1].pledges == {}
        assert floor.view(2).cash == RICH
        assert before != floor.machine.digest(), "but for the number of the command"


def test_what_is_sold_already_cannot_be_pledged_nor_what_is_pledged_sold() -> None:
    floor = market("13:00")
    floor.sell(1, 60, 1_250, instrument=f"{GRADE}.D.20251207")
    day = instant("+2 00:00")
    assert buy(floor, lots=(41,), starts_at=day) == "insufficient_coverage"
    assert buy(floor, lots=(40,), starts_at=day) is None
    floor.account(5, certified=40)
    assert buy(floor, lots=(30,), seller=5, starts_at=day) is None
    needed = floor.view(5).available
    floor.sell(5, 10, 1_250, instrument=f"{GRADE}.D.20251207")
    floor.sell(5, 1, 1_250, instrument=f"{GRADE}.W.25W49")
    assert floor.view(5).available < needed
    assert floor.view(5).uncovered == ()
    floor.sell(5, 1, 1_250, instrument=f"{GRADE}.D.20251207")
    (line, *_) = floor.view(5).uncovered
    assert line.lots == 1, "the eleventh lot has nothing behind it"


def test_lots_that_were_bought_are_not_the_sellers_to_pledge() -> None:
    floor = market("13:00")
    floor.account(5, certified=10)
    floor.sell(1, 20, 1_250, instrument=f"{GRADE}.D.20251207")
    floor.buy(5, 20, 1_250, instrument=f"{GRADE}.D.20251207")
    day = instant("+2 00:00")
    assert buy(floor, lots=(11,), seller=5, starts_at=day) == "insufficient_coverage"
    assert buy(floor, lots=(10,), seller=5, starts_at=day) is None


def test_a_package_must_be_paid_for_and_its_seller_must_have_its_margin() -> None:
    floor = market()
    price = LOT_HOUR * 1_000 * 10 * 24
    floor.account(5, cash=price)
    floor.account(6, cash=price // 20 - 1, certified=50)
    assert buy(floor, seller=6) == "seller_unavailable"
    floor.deposit(6, 1)
    assert buy(floor, seller=6, buyer=5) is None
    assert floor.view(5).cash == 0
    assert floor.view(6).available == 0
    assert buy(floor, buyer=5) == "insufficient_funds"
    floor.instruct(instructions.KillSwitch(account=1, enabled=True))
    assert buy(floor) == "seller_unavailable"
    floor.instruct(instructions.KillSwitch(account=2, enabled=True))
    assert buy(floor) == "killed"


@pytest.mark.parametrize(
    ("lots", "p1_lots", "reason"),
    [
        (50, 20, None),
        (50, 21, "insufficient_coverage"),
        (60, 0, None),
        (61, 0, "insufficient_coverage"),
    ],
)
def test_p1_lots_and_slots_that_are_offered_share_the_clusters(
    lots: int, p1_lots: int, reason: str | None
) -> None:
    floor = market()
    floor.define(1_250, slot_reference_ticks=(50, 20))
    floor.to("10:30")
    slots = contract.slot_contract(GRADE, "P1", TOMORROW + 5 * HOUR).symbol
    floor.sell(1, 40, 20, instrument=slots)
    assert floor.rejected() is None
    assert buy(floor, lots=(lots,), p1_lots=(p1_lots,)) == reason
    floor.sell(1, 1, 20, instrument=slots)
    more_fits = reason is not None
    assert floor.rejected() == (None if more_fits else "insufficient_coverage")


def test_a_holders_slots_from_the_book_go_with_its_lots_from_the_book() -> None:
    floor = market()
    floor.define(1_250, slot_reference_ticks=(50, 20))
    assert buy(floor, lots=(10,), p1_lots=(3,)) is None
    floor.to("12:30")
    slots = contract.slot_contract(GRADE, "P1", TOMORROW).symbol
    floor.sell(1, 5, 1_250, at="+1 00")
    floor.buy(2, 5, 1_250, at="+1 00")
    floor.sell(1, 4, 20, instrument=slots)
    floor.buy(2, 4, 20, instrument=slots)
    floor.to("23:55")
    given = [(e.lots, e.p1_lots, e.package) for e in floor.of(events.Allocated)]
    assert given == [(5, 4, 0), (10, 3, 1)]
    backed = {e.account: e.backed for e in floor.of(events.SlotsSettled)}
    assert backed == {1: 4, 2: 4}


def test_a_certificate_must_span_the_term() -> None:
    floor = market()
    floor.certify(1, 100, until=TOMORROW + DAY)
    assert buy(floor) is None
    assert buy(floor, days=2) == "insufficient_coverage"
    floor.certify(1, 100, until=FAR)
    assert buy(floor, days=2) is None


def test_a_group_may_hold_a_quarter_of_what_is_certified_packages_counted() -> None:
    floor = market("13:00", certified=1_000)
    day = instant("+2 00:00")
    assert buy(floor, lots=(251,), starts_at=day) == "position_limit"
    assert buy(floor, lots=(200,), starts_at=day) is None
    assert buy(floor, lots=(51,), starts_at=day) == "position_limit"
    floor.buy(2, 51, 1_250, instrument=f"{GRADE}.D.20251207")
    assert floor.rejected() == "position_limit"
    floor.buy(2, 50, 1_250, instrument=f"{GRADE}.D.20251207")
    assert floor.rejected() is None
    assert buy(floor, lots=(1,), starts_at=day) == "position_limit"


def test_a_certificate_that_falls_below_what_is_pledged_makes_no_short() -> None:
    floor = market()
    assert buy(floor) is None
    floor.certify(1, 4)
    assert floor.view(1).uncovered == ()
    floor.to("10:30")
    floor.sell(1, 1, 1_250, at="+1 08")
    assert floor.rejected() == "insufficient_coverage"


# What is delivered


def settle(floor: Floor, starts_at: int, *, share: int = 100, short: int = 0) -> None:
    """Settle every interval of an hour with a share available, in percent, and so much short."""
    lines = [e for e in floor.events if isinstance(e, events.Allocated)]
    lines = [e for e in lines if e.hour_starts_at == starts_at and e.cluster]
    for interval in range(1, 13):
        floor.at = max(floor.at, starts_at + interval * HOUR // 12)
        assert (
            floor.instruct(
                instructions.SettleInterval(
                    grade=GRADE,
                    hour_starts_at=starts_at,
                    interval=interval,
                    lines=tuple(
                        instructions.DeliveryLine(
                            e.allocation, e.lots * 5_000_000 * share // 100, short, 0
                        )
                        for e in lines
                    ),
                )
            )
            is None
        )


def test_an_hour_is_delivered_at_the_packages_own_price() -> None:
    floor = market()
    assert buy(floor) is None
    paid = LOT_HOUR * 1_000 * 10
    floor.to("23:55")
    (granted,) = floor.of(events.EntitlementGranted)
    assert (granted.account, granted.lots, granted.escrow) == (2, 10, paid)
    (owed,) = floor.of(events.ObligationIncurred)
    assert (owed.account, owed.lots, owed.failed_lots) == (1, 10, 0)
    (given,) = floor.of(events.Allocated)
    assert (given.cluster, given.lots, given.price, given.package) == (1, 10, 1_000, 1)
    assert floor.view(2).escrow == 24 * paid, "it was there, and stays until it is delivered"
    seller = floor.view(1).cash
    settle(floor, TOMORROW)
    assert floor.view(2).escrow == 23 * paid
    assert floor.view(1).cash == seller + paid
    assert floor.view(1).initial_margin == 23 * paid // 20


def test_what_is_not_available_returns_and_what_is_missed_is_made_good_at_that_price() -> None:
    floor = market()
    assert buy(floor) is None
    floor.to("23:55")
    buyer, seller = floor.view(2).cash, floor.view(1).cash
    mark = next(
        floor.machine.instrument_view(name).mark
        for name in floor.machine.symbols()
        if name == f"{GRADE}.H.20251206T01Z"
    )
    assert mark == 1_250
    settle(floor, TOMORROW, share=50, short=5_000_000)
    released = refunded = LOT_HOUR * 1_000 * 10 // 2
    # Missed: 5,000 NTU in each of twelve intervals, at 1 USD; elsewhere a million costs 1.25.
    released -= 12 * 5 * 1_000
    refunded += 12 * 5 * 1_000
    damages = 12 * (5 * 250 + 5 * 1_000 // 4)
    assert floor.view(1).cash == seller + released - damages
    assert floor.view(2).cash == buyer + refunded + damages


def test_package_and_market_lots_of_an_hour_are_each_paid_their_price() -> None:
    floor = market("13:00")
    assert buy(floor, starts_at=TOMORROW) == "deadline_passed"
    floor = market("10:30")
    assert buy(floor) is None
    floor.to("12:30")
    floor.sell(1, 5, 1_240, at="+1 00")
    floor.buy(2, 5, 1_240, at="+1 00")
    floor.to("23:55")
    (granted,) = floor.of(events.EntitlementGranted)
    (owed,) = floor.of(events.ObligationIncurred)
    assert granted.lots == owed.lots == 15
    price = granted.price
    assert granted.escrow == LOT_HOUR * (5 * price + 10 * 1_000)
    given = [(e.lots, e.price, e.package) for e in floor.of(events.Allocated)]
    assert given == [(5, price, 0), (10, 1_000, 1)]
    settle(floor, TOMORROW)
    assert floor.view(2).escrow == LOT_HOUR * 10 * 1_000 * 23


def test_p1_lots_are_served_as_p1_on_the_sellers_clusters() -> None:
    floor = market()
    floor.certify(1, 50, cluster=11)
    assert buy(floor, lots=(30,), p1_lots=(9,)) is None
    floor.to("23:55")
    given = floor.of(events.Allocated)
    assert [(e.cluster, e.lots, e.p1_lots) for e in given] == [(1, 20, 6), (11, 10, 3)]


def test_lots_without_a_cluster_fail_and_their_price_returns() -> None:
    floor = market()
    assert buy(floor) is None
    floor.certify(1, 4)
    floor.to("23:55")
    given = [(e.cluster, e.lots) for e in floor.of(events.Allocated)]
    assert given == [(1, 4), (0, 6)]
    buyer = floor.view(2).cash
    settle(floor, TOMORROW)
    assert floor.view(2).cash == buyer + LOT_HOUR * 1_000 * 6


def test_a_cluster_that_is_down_fails_its_hours_and_delivers_again_when_it_is_back() -> None:
    floor = market()
    assert buy(floor) is None
    floor.certify(1, 0)
    floor.to("23:55")
    floor.certify(1, 100)
    floor.to("+1 00:55")
    given = [(e.cluster, e.lots) for e in floor.events if isinstance(e, events.Allocated)]
    assert given == [(0, 10), (1, 10)]
    settle(floor, TOMORROW)
    settle(floor, TOMORROW + HOUR)
    assert floor.view(1).cash == RICH + LOT_HOUR * 1_000 * 10
    assert floor.view(2).cash == RICH - LOT_HOUR * 1_000 * 10 * 23


def test_what_a_seller_owes_for_packages_counts_in_its_margin_call_and_receivables() -> None:
    floor = market("10:30")
    margin = LOT_HOUR * 1_000 * 10 * 24 // 20
    floor.account(5, cash=margin, certified=50)
    assert buy(floor, seller=5) is None
    floor.to("23:55")
    state = floor.machine.state
    assert waterfall.receivables(state, state.accounts[5]) == LOT_HOUR * 1_000 * 10
    assert floor.view(5).maintenance_margin == margin * 3 // 4
    # It misses what it has to deliver, and pays for it of all it has.
    settle(floor, TOMORROW, short=50_000_000)
    damages = 12 * 10 * (5 * 250 + 5 * 1_000 // 4)
    assert floor.view(5).cash == margin - damages
    floor.to("+1 02:00")
    (called,) = [e for e in floor.events if isinstance(e, default_events.MarginCalled)]
    assert called.account == 5


def test_pledges_leave_hour_by_hour_and_the_package_ends_with_its_last() -> None:
    floor = market()
    assert buy(floor) is None
    account = floor.machine.state.accounts[1]
    floor.to("23:55")
    assert len(account.pledges[GRADE]) == 23
    floor.to("+1 22:55")
    assert account.pledges == {}
    assert floor.machine.state.packages == {}
    for at in range(24):
        settle(floor, TOMORROW + at * HOUR)
    assert floor.view(2).escrow == 0
    assert floor.view(1).initial_margin == 0
    assert floor.view(1).cash - RICH == LOT_HOUR * 1_000 * 10 * 24


# What is sold on


def test_a_slice_is_sold_on_for_cash_and_takes_its_escrow_along() -> None:
    floor = market()
    assert buy(floor) is None
    assert resell(floor, "+1 06:00", "+1 09:00") is None
    amount = LOT_HOUR * 1_100 * 4 * 3
    moved = LOT_HOUR * 1_000 * 4 * 3
    paid = LOT_HOUR * 1_000 * 10 * 24
    assert floor.view(2).cash == RICH - paid + amount - amount // 100
    assert floor.view(2).escrow == paid - moved
    assert (floor.view(3).cash, floor.view(3).escrow) == (RICH - amount, moved)
    (resold,) = floor.of(package_events.PackageResold)
    assert (resold.package, resold.parent, resold.amount, resold.fee) == (
        2,
        1,
        amount,
        amount // 100,
    )
    parent, child = changed(floor)
    assert [each[:3] for each in parent.schedule] == [
        (TOMORROW, instant("+1 06:00"), (10,)),
        (instant("+1 06:00"), instant("+1 09:00"), (6,)),
        (instant("+1 09:00"), TOMORROW + DAY, (10,)),
    ]
    assert (child.holder, child.seller, child.price) == (3, 1, 1_000)
    floor.to("+1 05:55")
    at_six = [e for e in floor.of(events.Allocated) if e.hour_starts_at == instant("+1 06:00")]
    given = [(e.holder, e.lots, e.package) for e in at_six]
    assert given == [(2, 6, 1), (3, 4, 2)]


def test_a_slice_is_sold_on_until_its_gate_closes() -> None:
    floor = market()
    assert buy(floor) is None
    floor.to("+1 02:54")
    assert resell(floor, "+1 03:00", "+1 04:00") is None
    floor.to("+1 02:55")
    assert resell(floor, "+1 03:00", "+1 04:00") == "deadline_passed"
    assert resell(floor, "+1 04:00", "+1 05:00", lots=10) is None


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"package": 2}, "package_unknown"),
        ({"holder": 3, "buyer": 2}, "package_unknown"),
        ({"buyer": 9}, "unknown_account"),
        ({"buyer": 1}, "own_group"),
        ({"buyer": 2}, "own_group"),
        ({"lots": 11}, "exceeds_package"),
        ({"until": "+2 01:00"}, "exceeds_package"),
        ({"since": "+1 06:30"}, "invalid_terms"),
        ({"fee_bp": 101}, "invalid_terms"),
        ({"price_ticks": 0}, "invalid_terms"),
        ({"price_ticks": 10_000_000, "buyer": 5}, "insufficient_funds"),
        ({"p1_lots": (1,)}, "exceeds_package"),
    ],
)
def test_a_resale_is_refused_by_the_first_rule_it_breaks(
    terms: dict[str, Any], reason: str
) -> None:
    floor = market()
    floor.account(5, cash=1)
    assert buy(floor) is None
    since, until = terms.pop("since", "+1 06:00"), terms.pop("until", "+1 09:00")
    assert resell(floor, since, until, **terms) == reason


def test_a_package_that_is_sold_on_whole_ends() -> None:
    floor = market()
    office = tuple(5 if 9 <= at < 17 else 0 for at in range(24))
    assert buy(floor, lots=office, days=3) is None
    assert resell(floor, "+1 00:00", "+4 00:00", office) is None
    assert floor.view(2).escrow == 0
    assert list(floor.machine.state.packages) == [2]
    assert resell(floor, "+1 09:00", "+1 10:00", package=2, holder=3, buyer=4) is None
    assert floor.view(4).escrow == LOT_HOUR * 1_000 * 4


def test_a_slice_keeps_a_lot_for_every_p1_lot_that_stays() -> None:
    whole = [Stretch(TOMORROW, TOMORROW + DAY, (10,), (4,))]
    piece = Stretch(TOMORROW, TOMORROW + HOUR, (7,))
    assert packages.cut(whole, piece) is None
    piece = Stretch(TOMORROW, TOMORROW + HOUR, (7,), (1,))
    left = packages.cut(whole, piece)
    assert left == [
        Stretch(TOMORROW, TOMORROW + HOUR, (3,), (3,)),
        Stretch(TOMORROW + HOUR, TOMORROW + DAY, (10,), (4,)),
    ]


def test_a_restored_machine_has_the_same_packages() -> None:
    floor = market()
    assert buy(floor, days=3, p1_lots=(2,)) is None
    assert resell(floor, "+1 06:00", "+2 09:00", p1_lots=(1,)) is None
    floor.to("+1 07:10")
    again = Machine.restore(floor.machine.snapshot())
    again.check()
    assert again.digest() == floor.machine.digest()
    replayed = Machine()
    for entry in floor.log:
        replayed.apply(entry.command, entry.sequence, entry.at)
    assert replayed.digest() == floor.machine.digest()


def test_a_discount_is_that_of_the_longest_term_reached_rounded_down() -> None:
    schedule = [(7, 3), (30, 10), (180, 20)]
    assert [packages.discount_percent(schedule, days) for days in (1, 7, 29, 30, 365)] == [
        0,
        3,
        3,
        10,
        20,
    ]
    assert packages.discounted(1_255, 3) == 1_217
    assert packages.discounted(1, 99) == 1
