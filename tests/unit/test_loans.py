"""What a class lends its holders."""

from hypothesis import given
from hypothesis import strategies as st

from admission.loans import Loan

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
