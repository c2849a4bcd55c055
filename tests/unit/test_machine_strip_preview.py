"""Previews of strips: what placing one would give, and nothing is changed."""

import hypothesis.strategies as st
from hypothesis import given, settings

from exchange import events
from settlement import instructions
from tests.floor import GRADE, Floor, hour, symbol

OTHER = "GPT4O"
HOURS = ("18", "19", "20")
CASH = 10**9


def floor_with_offers(*ladder: tuple[int, int], cash: int = CASH, **more) -> Floor:
    """Account 1 offers (lots, price) in each of three hours; 2 is who asks."""
    floor = Floor("13:10", **more)
    floor.account(1, certified=1_000)
    floor.account(2, cash=cash, group=22)
    floor.account(3, cash=cash, group=22, certified=100)
    for at in HOURS:
        for lots, price in ladder:
            floor.sell(1, lots, price, at=at)
    return floor


def placed(floor: Floor, *terms, **more) -> events.StripPreviewed:
    """Place a strip, and return what happened in the form of a preview of it."""
    required, account = floor.machine.state.accounts[2].required, floor.machine.state.accounts[2]
    before = {name: each.book for name, each in floor.machine.state.instruments.items()}
    best_before = {name: book.ladder(-terms[0]).best() for name, book in before.items()}
    number = floor.strip(2, *terms, **more)
    rejected = floor.of(events.StripRejected)
    if rejected:
        return events.StripPreviewed(
            rejected[0].reason, "rejected", GRADE, 0, (), 0, 0, account.available
        )
    (first,) = floor.of(events.StripPlaced)
    (closed,) = [each for each in floor.of(events.OrderClosed) if each.order == number]
    hours: dict[str, dict[int, int]] = {}
    fee = 0
    for trade in floor.of(events.Traded):
        if trade.taker_order == number:
            fills = hours.setdefault(trade.instrument, {})
            fills[trade.price] = fills.get(trade.price, 0) + trade.lots
            fee += trade.taker_fee
    return events.StripPreviewed(
        closed.reason,
        closed.status,
        first.grade,
        first.lots,
        tuple(
            events.StripHour(
                name,
                tuple(fills.items()),
                best_before[name],
                floor.machine.state.instruments[name].book.ladder(-terms[0]).best(),
            )
            for name, fills in hours.items()
        ),
        fee,
        account.required - required,
        account.available,
    )


def test_a_preview_of_a_strip_has_every_hour_and_the_margin_of_all() -> None:
    floor = floor_with_offers((10, 1_250), (10, 1_260))
    floor.sell(1, 5, 1_240, at="19")
    found = floor.preview_strip(2, 1, 15, 1_260)
    # 18 and 20: 10 at 1.250, 5 at 1.260; 19 has five cheaper ones.
    cost = 60 * (2 * (10 * 1_250 + 5 * 1_260) + 5 * 1_240 + 10 * 1_250)
    fee = -(-cost * 20 // 10_000)
    outer = ((1_250, 10), (1_260, 5))
    assert found == events.StripPreviewed(
        reason="",
        status="filled",
        grade=GRADE,
        lots=15,
        hours=(
            events.StripHour(symbol("18"), outer, 1_250, 1_260),
            events.StripHour(symbol("19"), ((1_240, 5), (1_250, 10)), 1_240, 1_260),
            events.StripHour(symbol("20"), outer, 1_250, 1_260),
        ),
        fee=fee,
        margin=cost,
        available_after=CASH - cost - fee,
    )


def test_a_strip_that_would_trade_nothing_or_be_refused_says_why() -> None:
    floor = floor_with_offers((10, 1_250))
    available = floor.view(2).available
    for terms, reason, status in (
        ((1, 10, 1_249), "strip_unfilled", "canceled"),
        ((1, 11, 1_250), "strip_unfilled", "canceled"),
        ((-1, 10, 1_000), "strip_unfilled", "canceled"),
    ):
        found = floor.preview_strip(2, *terms)
        assert (found.reason, found.status, found.lots, found.hours) == (reason, status, 0, ())
        assert (found.margin, found.fee, found.available_after) == (0, 0, available)
    assert floor.preview_strip(9, 1, 1, 1_250).reason == "unknown_account"
    assert floor.preview_strip(2, 1, 1, 1_250, grade="NOPE").reason == "unknown_instrument"
    assert floor.preview_strip(2, 1, 1, 1_250, hours=49).reason == "invalid_order"
    assert floor.preview_strip(2, 1, 1, 1_250, start="13", hours=1).reason == "closed"
    poor = floor_with_offers((10, 1_250), cash=1_000_000)
    assert poor.preview_strip(2, 1, 10, 1_250).reason == "insufficient_funds"
    floor.instruct(instructions.Halt())
    assert floor.preview_strip(2, 1, 1, 1_250).reason == "halted"


def test_a_preview_names_the_alternative_that_would_trade() -> None:
    floor = floor_with_offers((10, 1_250))
    floor.instruct(instructions.DefineGrade(grade=OTHER, reference_price_ticks=1_300))
    until = hour("+1 12")
    floor.instruct(
        instructions.Certify(cluster=99, account=1, grade=OTHER, lots=100, valid_until=until)
    )
    for at in HOURS:
        floor.sell(1, 20, 1_300, instrument=symbol(at, OTHER))
    assert floor.preview_strip(2, 1, 10, 1_300, alternatives=(OTHER,)).grade == GRADE
    found = floor.preview_strip(2, 1, 20, 1_300, alternatives=(OTHER,))
    assert (found.grade, found.lots, found.status) == (OTHER, 20, "filled")
    assert [each.instrument.split(".")[0] for each in found.hours] == [OTHER] * 3
    assert floor.preview_strip(2, 1, 21, 1_300, alternatives=(OTHER,)).reason == "strip_unfilled"


ORDERS = st.lists(
    st.tuples(
        st.sampled_from((1, 2, 3)),
        st.sampled_from((1, -1)),
        st.integers(1, 30),
        st.integers(1_230, 1_270),
        st.sampled_from(HOURS),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    ORDERS,
    st.sampled_from((1, -1)),
    st.integers(1, 40),
    st.integers(1_230, 1_270),
    st.sampled_from((1, 40, 100)),
)
def test_a_preview_is_what_the_strip_then_does(orders, side, lots, price, share) -> None:
    floor = floor_with_offers((10, 1_255), cash=30_000_000)
    for at in HOURS:
        floor.buy(1, 10, 1_245, at=at)
    for account, way, size, at_price, at in orders:
        floor.place(account, way, size, at_price, at=at)
    found = floor.preview_strip(2, side, lots, price, min_share=share)
    assert found == placed(floor, side, lots, price, min_share=share)
