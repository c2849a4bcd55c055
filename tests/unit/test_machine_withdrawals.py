"""Nobody takes out what it then owes: withdrawals at every turn, to the worst of the band."""

import hypothesis.strategies as st
from hypothesis import given, settings

from exchange import default_events
from settlement.ledger import EXCHANGE, Code, Kind
from tests.floor import Floor, symbol
from tests.unit.test_machine_default import DAY, MONTH

OWNER, WEST, EAST = 1, 11, 12
BOOKS = (MONTH, DAY, symbol("+1 12"))
LOTS = 5_000
"""Enough to sweep what the owner rests, and to be the price of the half hour."""

ORDERS = st.lists(
    st.tuples(
        st.sampled_from(BOOKS),
        st.sampled_from((1, -1)),
        st.integers(1, 40),
        st.integers(-180, 180),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
"""(instrument, side, lots, ticks from 1,250, whether somebody trades with it at once)"""
MOVES = st.lists(
    st.tuples(st.booleans(), st.tuples(*(st.sampled_from((-187, -90, 0, 90, 187)) for _ in BOOKS))),
    min_size=1,
    max_size=5,
)
"""(whether the owner takes out what it may first, ticks from 1,250 of each book's next mark)"""


def market(*, covered: int) -> Floor:
    """An owner with cash and a cluster, and two who move the market as they are told."""
    floor = Floor("13:00", dynamic_percent=99, checked=False)
    floor.account(OWNER, certified=covered)
    for account in (WEST, EAST):
        floor.account(account, certified=100_000)
    return floor


def take_out(floor: Floor) -> None:
    """Take out everything that may be, to the micro-dollar."""
    amount = floor.view(OWNER).withdrawable
    if amount:
        assert floor.withdraw(OWNER, amount) is None
    assert floor.withdraw(OWNER, 1) == "insufficient_funds"


def move(floor: Floor, book: str, price: int, number: int) -> None:
    """Fill what the owner rests on the way to a price, and make it the price of the half hour."""
    for taker, side in ((WEST, 1), (WEST, -1)):
        floor.place(taker, side, LOTS, price, instrument=book, time_in_force="IOC")
    floor.sell(WEST, LOTS, price, instrument=book, name=f"w{number}{book}")
    floor.buy(EAST, LOTS, price, instrument=book, name=f"e{number}{book}")
    for account in (WEST, EAST):
        for order in list(floor.machine.state.accounts[account].orders.values()):
            floor.cancel(account, order.id)


@settings(max_examples=25, deadline=None)
@given(ORDERS, MOVES, st.sampled_from((0, 30, 1_000)))
def test_no_withdrawals_and_moves_inside_the_days_band_leave_a_debt(orders, moves, covered) -> None:
    floor = market(covered=covered)
    for number, (book, side, lots, ticks, trades) in enumerate(orders):
        price = 1_250 + ticks
        floor.place(OWNER, side, lots, price, instrument=book, name=f"o{number}")
        if trades and floor.rejected() is None:
            floor.place(WEST, -side, lots, price, instrument=book, time_in_force="IOC")
    for number, (takes_out, prices) in enumerate(moves):
        if takes_out:
            take_out(floor)
        floor.to(f"{14 + number}:45")
        for book, ticks in zip(BOOKS, prices, strict=True):
            move(floor, book, 1_250 + ticks, number)
        floor.to(f"{15 + number}:00")
        floor.machine.check()
        drawn = [e for e in floor.events if isinstance(e, default_events.Drawn)]
        assert [e for e in drawn if e.account == OWNER] == []
        assert floor.machine.state.accounts[OWNER].debt == 0


def test_money_taken_out_past_the_bands_worst_would_leave_a_debt() -> None:
    """What the rule keeps is what is needed: a micro-dollar less, and others pay it."""
    floor = market(covered=0)
    floor.buy(OWNER, 40, 1_250, instrument=MONTH)
    floor.sell(WEST, 40, 1_250, instrument=MONTH)
    need = 40 * 60 * 744 * (1_250 - 1_063)
    state = floor.machine.state
    spare = state.accounts[OWNER].cash - need + 1
    state.transfer((OWNER, Kind.CASH), (EXCHANGE, Kind.OUTSIDE), spare, Code.WITHDRAWAL, "spare")
    floor.to("13:45")
    move(floor, MONTH, 1_063, 0)
    floor.to("14:00")
    (drawn,) = [e for e in floor.events if isinstance(e, default_events.Drawn)]
    assert (drawn.account, drawn.amount, drawn.own, drawn.layer) == (OWNER, need, need - 1, 1)


def test_an_order_at_rest_is_at_risk_as_if_it_had_traded() -> None:
    floor = market(covered=1_000)
    floor.buy(OWNER, 10, 1_200, instrument=MONTH)
    view = floor.view(OWNER)
    month = 60 * 744
    assert view.withdrawable == view.available - 10 * month * (1_250 - 1_063)
    floor.sell(OWNER, 30, 1_300, instrument=MONTH)
    view = floor.view(OWNER)
    assert view.withdrawable == view.available - 30 * month * (1_437 - 1_250), "the worse of both"
