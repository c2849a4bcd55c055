"""What a class lends its holders, and what is left of each class when a replica is lost."""

from hypothesis import given
from hypothesis import strategies as st

from admission.loans import Loan
from admission.scaling import PARTS, factors

SECOND = 1_000_000


def test_a_loan_is_a_quarter_second_of_the_rate_and_is_refilled_at_a_quarter_of_it() -> None:
    loan = Loan(lots=8, at=0)
    assert not loan.take(2 * SECOND + 1, 0)
    assert loan.take(2 * SECOND, 0)
    assert loan.refill(SECOND // 2) == SECOND
    assert loan.refill(SECOND) == 2 * SECOND
    assert loan.refill(9 * SECOND) == 2 * SECOND, "it never holds more than a quarter second"


def test_quarters_of_a_grain_are_not_lost_by_asking_often() -> None:
    loan = Loan(lots=1, at=0)
    assert loan.take(250_000, 0)
    assert [loan.refill(at) for at in range(1, 9)] == [0, 0, 0, 1, 1, 1, 1, 2]


def test_a_smaller_rate_keeps_no_more_than_its_own_bucket() -> None:
    loan = Loan(lots=8, at=0)
    loan.set_lots(2, 0)
    assert loan.refill(SECOND) == SECOND // 2


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 400_000)), max_size=40))
def test_no_more_is_lent_than_the_bucket_and_its_refill(asks: list[tuple[int, int]]) -> None:
    loan, at, lent = Loan(lots=1, at=0), 0, 0
    for pause, grains in asks:
        at += pause
        if loan.take(grains, at):
            lent += grains
        assert 4 * lent <= SECOND + at


def test_a_lost_replica_takes_from_the_lowest_class_first() -> None:
    assert factors(capacity_lots=75, sold_lots=[30, 30, 30]) == (PARTS, PARTS, PARTS // 2)
    assert factors(capacity_lots=40, sold_lots=[30, 30, 30]) == (PARTS, PARTS // 3, 0)
    assert factors(capacity_lots=0, sold_lots=[30, 0, 30]) == (0, PARTS, 0)


@given(st.integers(0, 300), st.lists(st.integers(0, 100), min_size=3, max_size=3))
def test_what_is_left_is_used_up_or_everybody_has_all(capacity: int, sold: list[int]) -> None:
    scaled = factors(capacity_lots=capacity, sold_lots=sold)
    served = sum(lots * factor for lots, factor in zip(sold, scaled, strict=True))
    wanted = min(capacity, sum(sold)) * PARTS
    assert wanted - sum(sold) <= served <= wanted
