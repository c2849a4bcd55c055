"""Priority slots: who may offer them, who delivers them, and what each is at gate closure."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import commands, events
from exchange.machine import Machine
from marketplace import contract
from settlement import instructions
from settlement.ledger import Code, Kind
from tests.floor import FAR, GRADE, Floor, hour, symbol

SELLER, BUYER, OTHER, SECOND = 1, 2, 3, 4
CASH, ESCROW, CLEARING, FEES = Kind.CASH, Kind.ESCROW, (0, Kind.CLEARING), (0, Kind.FEES)
REFERENCES = (50, 20)


def slot(service_class: str, at: str = "20") -> str:
    return contract.slot_contract(GRADE, service_class, hour(at)).symbol


P0, P1 = slot("P0"), slot("P1")


def market(*, certified: int = 100, **more: int) -> Floor:
    """A seller with a cluster, two buyers, and slots that trade at 50 and 20 ticks."""
    floor = Floor("18:00", slot_reference_ticks=REFERENCES)
    floor.account(SELLER, certified=certified, **more)
    floor.account(BUYER)
    floor.account(OTHER)
    return floor


def trade(floor: Floor, seller: int, buyer: int, lots: int, price: int, instrument: str) -> None:
    floor.sell(seller, lots, price, instrument=instrument)
    assert floor.rejected() is None
    floor.buy(buyer, lots, price, instrument=instrument)
    assert floor.rejected() is None


def allocated(floor: Floor) -> list[tuple[int, int, int, int, int]]:
    """Return (holder, cluster, lots, P0, P1) of the hour's allocations."""
    return [(e.holder, e.cluster, e.lots, e.p0_lots, e.p1_lots) for e in floor.of(events.Allocated)]


def settled(floor: Floor) -> dict[tuple[int, str], tuple[int, int, int]]:
    """Return (lots, failed, backed) by account and class."""
    return {
        (e.account, e.service_class): (e.lots, e.failed, e.backed)
        for e in floor.of(events.SlotsSettled)
    }


def test_slots_are_listed_with_the_hours_at_the_operators_prices() -> None:
    floor = Floor("18:00", slot_reference_ticks=REFERENCES)
    listed = floor.machine.state.instruments
    hours = {i.contract.starts_at for i in listed.values() if i.symbol.startswith(f"{GRADE}.H.")}
    for service_class, price in zip(("P0", "P1"), REFERENCES, strict=True):
        of_class = [i for i in listed.values() if i.contract.service_class == service_class]
        assert {i.contract.starts_at for i in of_class} == hours
        assert {i.reference for i in of_class} == {price}
    view = listed[P0]
    assert (view.unit, view.band_low, view.band_high, view.dynamic_percent) == (100, 40, 60, 50)
    assert view.contract.trading_ends_at == hour("20") - contract.GATE_CLOSURE_LEAD


def test_a_class_without_a_price_is_not_listed() -> None:
    floor = Floor("18:00", slot_reference_ticks=(0, 20))
    assert P0 not in floor.machine.state.instruments
    assert P1 in floor.machine.state.instruments


def test_a_buyer_pays_in_full_and_a_seller_keeps_a_quarter() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 8, 50, P0)
    assert floor.view(BUYER).initial_margin == 8 * 50 * 100
    assert floor.view(SELLER).initial_margin == 8 * 50 * 100 // 4


def test_no_more_than_three_tenths_are_offered_as_p0_and_six_tenths_as_either() -> None:
    floor = market(certified=99)
    floor.sell(SELLER, 29, 50, instrument=P0)
    assert floor.rejected() is None
    floor.sell(SELLER, 1, 50, instrument=P0)
    assert floor.rejected() == "insufficient_coverage"
    floor.sell(SELLER, 31, 20, instrument=P1)
    assert floor.rejected() == "insufficient_coverage"
    floor.sell(SELLER, 30, 20, instrument=P1)
    assert floor.rejected() is None
    floor.sell(BUYER, 1, 20, instrument=P1)
    assert floor.rejected() == "insufficient_coverage"
    floor.sell(SELLER, 29, 50, instrument=slot("P0", "21"))
    assert floor.rejected() is None


def test_what_was_bought_may_be_sold_again_in_its_own_class_only() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 10, 50, P0)
    floor.sell(BUYER, 11, 50, instrument=P0)
    assert floor.rejected() == "insufficient_coverage"
    floor.sell(BUYER, 1, 20, instrument=P1)
    assert floor.rejected() == "insufficient_coverage"
    floor.sell(BUYER, 10, 50, instrument=P0)
    assert floor.rejected() is None


def test_a_cluster_of_one_replica_sells_no_slots() -> None:
    floor = market(certified=0)
    certify = instructions.Certify(
        cluster=9, account=SELLER, grade=GRADE, lots=100, valid_until=FAR, p0_lots=0, timed_lots=0
    )
    assert floor.instruct(certify) is None
    floor.sell(SELLER, 1, 20, instrument=P1)
    assert floor.rejected() == "insufficient_coverage"


def test_derating_withdraws_offers_beyond_it_the_newest_first() -> None:
    floor = market()
    older = floor.sell(SELLER, 12, 50, instrument=P0)
    middle = floor.sell(SELLER, 20, 20, instrument=P1)
    newer = floor.sell(SELLER, 12, 51, instrument=P0)
    later = floor.sell(SELLER, 12, 51, instrument=slot("P0", "21"))
    floor.certify(SELLER, 60)
    assert floor.closed() == [(newer, "canceled", "coverage_lost")]
    floor.certify(SELLER, 50)
    assert floor.closed() == [(middle, "canceled", "coverage_lost")]
    assert {older, later} <= set(floor.machine.state.orders)


def test_an_amendment_written_for_another_tick_is_refused() -> None:
    floor = market()
    order = floor.sell(SELLER, 5, 50, instrument=P0)
    amend = commands.AmendOrder(SELLER, order, price=52, decimals=3)
    floor.apply(amend)
    assert [event.reason for event in floor.of(events.AmendRefused)] == ["invalid_order"]
    floor.apply(commands.AmendOrder(SELLER, order, price=52, decimals=4))
    assert floor.of(events.AmendRefused) == []
    assert floor.machine.state.orders[order].price == 52


def test_slots_that_one_group_may_hold_are_limited_as_lots_are() -> None:
    floor = market(certified=1_000)
    trade(floor, SELLER, BUYER, 250, 50, P0)
    floor.buy(BUYER, 1, 50, instrument=P0)
    assert floor.rejected() == "position_limit"


def test_slotted_lots_go_to_the_cluster_of_who_sold_the_slots() -> None:
    """The second seller has the larger cluster; without slots both holders would be on it."""
    floor = market(certified=100)
    floor.account(SECOND, certified=200)
    trade(floor, SELLER, BUYER, 30, 1_250, symbol("20"))
    trade(floor, SECOND, OTHER, 60, 1_250, symbol("20"))
    trade(floor, SELLER, OTHER, 10, 50, P0)
    trade(floor, SELLER, BUYER, 5, 20, P1)
    floor.to("19:55")
    assert allocated(floor) == [
        (OTHER, SELLER, 10, 10, 0),
        (OTHER, SECOND, 50, 0, 0),
        (BUYER, SELLER, 20, 0, 5),
        (BUYER, SECOND, 10, 0, 0),
    ]
    assert settled(floor) == {
        (SELLER, "P0"): (-10, 0, 10),
        (OTHER, "P0"): (10, 0, 10),
        (SELLER, "P1"): (-5, 0, 5),
        (BUYER, "P1"): (5, 0, 5),
    }


def test_the_buyer_pays_the_final_mark_to_the_seller() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 20, 1_250, symbol("20"))
    floor.to("18:40")
    trade(floor, SELLER, BUYER, 10, 50, P0)
    trade(floor, SELLER, BUYER, 10, 54, P0)
    floor.to("19:00")
    assert floor.machine.state.instruments[P0].mark == 52
    cash = floor.view(SELLER).cash, floor.view(BUYER).cash
    floor.to("19:55")
    paid = [m for m in floor.moved() if m[3] in (Code.VARIATION, Code.SLOT)]
    assert paid == [
        ((BUYER, CASH), CLEARING, 20 * 52 * 100, Code.SLOT),
        (CLEARING, (SELLER, CASH), 20 * 52 * 100, Code.SLOT),
    ]
    assert floor.view(SELLER).cash == cash[0] + 20 * 52 * 100
    assert floor.view(BUYER).cash == cash[1] - 20 * 52 * 100 - 20 * 75_000
    assert floor.view(SELLER).initial_margin == 20 * 1_250 * 3
    assert P0 not in floor.machine.state.instruments


def test_slots_beyond_the_lots_a_seller_owes_fail_and_cost_a_quarter() -> None:
    """30 of P0 and 10 of P1 are sold and 12 lots owed: all of P1 and 18 of P0 fail.

    The holders of 20 and of 10 bear 12 and 6. They get 8 and 4, of which each has the lots.
    """
    floor = market()
    trade(floor, SELLER, BUYER, 8, 1_250, symbol("20"))
    trade(floor, SELLER, OTHER, 4, 1_250, symbol("20"))
    trade(floor, SELLER, BUYER, 20, 50, P0)
    trade(floor, SELLER, OTHER, 10, 50, P0)
    trade(floor, SELLER, OTHER, 10, 20, P1)
    floor.to("19:55")
    assert settled(floor) == {
        (SELLER, "P0"): (-30, 18, 12),
        (BUYER, "P0"): (20, 12, 8),
        (OTHER, "P0"): (10, 6, 4),
        (SELLER, "P1"): (-10, 10, 0),
        (OTHER, "P1"): (10, 10, 0),
    }
    assert allocated(floor) == [(BUYER, SELLER, 8, 8, 0), (OTHER, SELLER, 4, 4, 0)]
    assert [m for m in floor.moved() if m[3] in (Code.SLOT, Code.SLOT_DAMAGES)] == [
        ((BUYER, CASH), CLEARING, 8 * 5_000, Code.SLOT),
        ((OTHER, CASH), CLEARING, 4 * 5_000, Code.SLOT),
        (CLEARING, (SELLER, CASH), 12 * 5_000, Code.SLOT),
        ((SELLER, CASH), (BUYER, CASH), 12 * 1_250, Code.SLOT_DAMAGES),
        ((SELLER, CASH), (OTHER, CASH), 6 * 1_250, Code.SLOT_DAMAGES),
        ((SELLER, CASH), (OTHER, CASH), 10 * 500, Code.SLOT_DAMAGES),
    ]
    damages = {(e.account, e.service_class): e.damages for e in floor.of(events.SlotsSettled)}
    assert damages[SELLER, "P0"] == -22_500
    assert damages[OTHER, "P0"] == 7_500


def test_slots_without_lots_are_left_to_order_their_holders_p3() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 20, 1_250, symbol("20"))
    trade(floor, SELLER, OTHER, 6, 50, P0)
    floor.to("19:55")
    assert settled(floor)[OTHER, "P0"] == (6, 0, 0)
    assert allocated(floor) == [(BUYER, SELLER, 20, 0, 0)]


def test_slots_of_an_hour_in_which_nothing_else_is_owed_all_fail() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 6, 50, P0)
    cash = floor.view(SELLER).cash, floor.view(BUYER).cash
    floor.to("19:55")
    assert settled(floor) == {(SELLER, "P0"): (-6, 6, 0), (BUYER, "P0"): (6, 6, 0)}
    assert floor.view(SELLER).cash == cash[0] - 6 * 1_250
    assert floor.view(BUYER).cash == cash[1] + 6 * 1_250
    assert floor.view(SELLER).initial_margin == 0


def test_nothing_is_owed_for_failed_slots_inside_a_group() -> None:
    floor = market()
    floor.account(SECOND, group=SELLER)
    trade(floor, SELLER, BUYER, 6, 50, P0)
    trade(floor, BUYER, SECOND, 6, 50, P0)
    floor.to("19:55")
    assert settled(floor)[SECOND, "P0"] == (6, 6, 0)
    assert [m for m in floor.moved() if m[3] == Code.SLOT_DAMAGES] == []


def test_damages_for_slots_reach_as_far_as_the_sellers_own_cash() -> None:
    floor = market(certified=1_000, cash=10_000)
    trade(floor, SELLER, BUYER, 6, 50, P0)
    fees = 10_000 - floor.view(SELLER).cash
    floor.to("19:55")
    assert floor.view(SELLER).cash == 10_000 - fees - 7_500
    (sold,) = [e for e in floor.of(events.SlotsSettled) if e.account == SELLER]
    assert (sold.damages, sold.damages_due) == (-7_500, -7_500)


def test_a_derated_cluster_delivers_the_slots_that_its_share_still_allows() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 40, 1_250, symbol("20"))
    trade(floor, SELLER, BUYER, 30, 50, P0)
    floor.certify(SELLER, 50)
    floor.to("19:55")
    assert settled(floor)[BUYER, "P0"] == (30, 15, 15)
    assert allocated(floor) == [(BUYER, SELLER, 40, 15, 0)]


def test_slots_are_restored_from_a_snapshot() -> None:
    floor = market()
    trade(floor, SELLER, BUYER, 40, 1_250, symbol("20"))
    trade(floor, SELLER, BUYER, 30, 50, P0)
    floor.sell(SELLER, 10, 20, instrument=P1)
    again = Machine.restore(floor.machine.snapshot())
    assert again.digest() == floor.machine.digest()
    sequence, at = floor.machine.sequence + 1, hour("20") - contract.GATE_CLOSURE_LEAD
    again.apply(commands.Tick(), sequence, at)
    floor.to("19:55")
    assert again.digest() == floor.machine.digest()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_traded_slots_keep_to_their_shares_and_cash_is_conserved(data) -> None:
    """Every step is checked by the machine itself; here what the gate makes of it is counted."""
    floor = Floor("18:00", slot_reference_ticks=REFERENCES)
    accounts = range(1, 6)
    for account in accounts:
        floor.account(account)
    for cluster in range(11, 11 + data.draw(st.integers(1, 4))):
        owner = data.draw(st.sampled_from(accounts))
        floor.certify(owner, data.draw(st.integers(0, 40)), cluster=cluster)
    prices = {symbol("20"): 1_250, P0: 50, P1: 20}
    for _ in range(data.draw(st.integers(1, 25))):
        instrument = data.draw(st.sampled_from(sorted(prices)))
        place = data.draw(st.sampled_from((floor.buy, floor.sell)))
        lots = data.draw(st.integers(1, 20))
        price = prices[instrument] + data.draw(st.integers(-1, 1))
        place(data.draw(st.sampled_from(accounts)), lots, price, instrument=instrument)
        if data.draw(st.integers(0, 9)) == 0 and floor.machine.state.clusters:
            cluster = data.draw(st.sampled_from(sorted(floor.machine.state.clusters)))
            owner = floor.machine.state.clusters[cluster].account
            floor.certify(owner, data.draw(st.integers(0, 40)), cluster=cluster)
    clusters = {c.id: c for c in floor.machine.state.clusters.values()}
    positions = {
        (name, number): position.net
        for name in (P0, P1)
        for number, position in floor.machine.state.instruments[name].positions.items()
    }
    floor.to("19:55")

    allocations = floor.of(events.Allocated)
    for cluster in clusters.values():
        own = [a for a in allocations if a.cluster == cluster.id]
        assert 100 * sum(a.p0_lots for a in own) <= 30 * cluster.lots
        assert 100 * sum(a.p0_lots + a.p1_lots for a in own) <= 60 * cluster.lots
    for name, service_class in ((P0, "P0"), (P1, "P1")):
        rows = [e for e in floor.of(events.SlotsSettled) if e.service_class == service_class]
        assert {(name, e.account): e.lots for e in rows} == {
            key: net for key, net in positions.items() if key[0] == name and net
        }
        assert sum(e.amount for e in rows) == sum(e.damages for e in rows) == 0
        sold, held = [e for e in rows if e.lots < 0], [e for e in rows if e.lots > 0]
        assert sum(e.failed for e in sold) == sum(e.failed for e in held)
        for seller in sold:
            on_its_clusters = sum(
                a.p0_lots if service_class == "P0" else a.p1_lots
                for a in allocations
                if a.seller == seller.account
            )
            assert on_its_clusters <= seller.backed == -seller.lots - seller.failed
        sellers = {e.account for e in sold}
        for a in allocations:
            assert not (a.p0_lots if service_class == "P0" else a.p1_lots) or a.seller in sellers
        for holder in held:
            slotted = sum(
                a.p0_lots if service_class == "P0" else a.p1_lots
                for a in allocations
                if a.holder == holder.account
            )
            assert slotted == holder.backed <= holder.lots - holder.failed
