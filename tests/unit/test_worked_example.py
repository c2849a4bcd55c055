"""The worked example's tables are the ledger's postings, and its sums are what its prose says."""

import pytest

from settlement.ledger import Code
from tests import worked_example
from tests.worked_example import BUYER, CASH, SELLER, Play, usd


@pytest.fixture(scope="module")
def plays() -> tuple[Play, Play]:
    return worked_example.delivered(), worked_example.dead()


def total(play: Play, code: Code) -> int:
    """Return all that moved for a reason, in micro-USD."""
    return sum(
        amount * times
        for table in play.chapters.values()
        for (why, _, _, amount), times in table.items()
        if why == code.name.lower()
    )


def test_every_table_of_the_document_is_what_the_machine_has_transferred(
    plays: tuple[Play, Play],
) -> None:
    fresh = worked_example.tables(*plays)
    shown = dict(worked_example.written(worked_example.DOCUMENT.read_text()))
    assert shown == fresh


def test_a_table_that_says_another_amount_or_leaves_a_row_out_is_found() -> None:
    text = worked_example.DOCUMENT.read_text()
    shown = dict(worked_example.written(text))
    for wrong in (
        text.replace("0.031250", "0.031251"),
        text.replace("| 8,916 | 0.625000 |", "| 8,915 | 0.625000 |"),
        text.replace("| 1 | 0.437500 | buyer: escrow | buyer: cash | `refund` | 0.437500 |\n", ""),
    ):
        assert wrong != text
        assert dict(worked_example.written(wrong)) != shown
        assert worked_example.rewrite(wrong, shown) == text


def test_what_is_paid_for_a_month_is_released_or_refunded(plays: tuple[Play, Play]) -> None:
    delivered, dead = plays
    month = 60 * 1_250 * 744 * 100
    assert usd(month) == "5,580.000000"
    assert total(delivered, Code.ESCROW) == month
    assert total(delivered, Code.REFUND) == 437_500
    assert total(delivered, Code.RELEASE) == month - 437_500
    assert total(delivered, Code.COMPENSATION) == 31_250
    assert total(dead, Code.ESCROW) == month
    assert total(dead, Code.REFUND) == month
    assert total(dead, Code.RELEASE) == 0
    assert total(dead, Code.COMPENSATION) == month // 4


def test_everybody_ends_with_what_the_prose_says(plays: tuple[Play, Play]) -> None:
    month, mark = 5_580_000_000, 2_232_000
    fees = {SELLER: 1_116_447, BUYER: 11_164_464}
    for play, moved in ((plays[0], month - 437_500 - 31_250), (plays[1], -month // 4)):
        machine = play.floor.machine
        assert machine.account_view(SELLER).cash == CASH + moved + mark - fees[SELLER]
        assert machine.account_view(BUYER).cash == CASH - moved - mark - fees[BUYER]
