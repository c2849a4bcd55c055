"""The end of a seller's damages: 150 % of its month (RULEBOOK 6.5)."""

from exchange import events
from settlement import instructions
from settlement.ledger import Code
from tests.floor import GRADE, Floor, hour, instant, symbol

SELLER, BUYER, MAKER = 1, 2, 3
FULL = 200_000
"""NTU of forty lots in an interval."""
DUE = 4 * 250 * 5 * 40 + 250 * 5 * 40 // 4
"""What a missed interval of forty lots at 250 costs its seller where others ask five times that."""
MONTH = 60 * 250 * 40


def sold() -> Floor:
    """Forty lots of an hour at 250 while the next hour is marked at 1,250: past gate closure."""
    floor = Floor("18:00", band_percent=99, dynamic_percent=99)
    floor.account(SELLER, certified=100)
    floor.account(BUYER)
    floor.account(MAKER, certified=100)
    floor.sell(SELLER, 40, 250)
    floor.buy(BUYER, 40, 250)
    floor.to("19:55")
    assert floor.of(events.GateClosed)[-1].price == 250
    return floor


def compensated(floor: Floor, interval: int, starts: str = "20", allocation: int = 1) -> int:
    assert floor.settle(starts, interval, {allocation: (0, FULL)}) is None
    return sum(event.compensated for event in floor.of(events.IntervalSettled))


def test_damages_end_at_150_percent_of_the_sellers_month() -> None:
    floor = sold()
    assert DUE == 212_500
    assert [compensated(floor, n) for n in range(1, 7)] == [DUE] * 4 + [50_000, 0]
    assert 4 * DUE + 50_000 == MONTH * 150 // 100


def test_what_is_refunded_knows_no_limit() -> None:
    floor = sold()
    for interval in range(1, 13):
        compensated(floor, interval)
        refunded = [event.refunded for event in floor.of(events.IntervalSettled)]
        assert refunded == [250 * 5 * 40]


def test_what_is_still_to_be_delivered_in_the_month_counts_at_its_mark() -> None:
    floor = sold()
    floor.sell(SELLER, 4, 250, at="22")
    floor.buy(BUYER, 4, 250, at="22")
    paid = sum(compensated(floor, n) for n in range(1, 13))
    assert floor.machine.instrument_view(symbol("22")).mark == 250
    assert paid == (MONTH + 60 * 250 * 4) * 150 // 100 == 990_000


def test_an_hour_counts_once_before_its_gate_closes_and_after() -> None:
    floor = sold()
    floor.sell(SELLER, 40, 250, at="22")
    floor.buy(BUYER, 40, 250, at="22")
    first = sum(compensated(floor, n) for n in range(1, 13))
    floor.to("21:55")
    second = sum(compensated(floor, n, "22", 2) for n in range(1, 13))
    ((_, month),) = floor.machine.state.accounts[SELLER].months.items()
    assert first == 2 * MONTH * 150 // 100, "the hour that is still to come counts"
    assert (month.delivered, month.paid) == (2 * MONTH, first + second)
    assert second == 0, "and has been counted then"


def test_a_month_is_one_of_the_calendar_and_of_a_grade() -> None:
    floor = sold()
    compensated(floor, 1)
    ((key, month),) = floor.machine.state.accounts[SELLER].months.items()
    assert key == (GRADE, instant("-4 00:00")), "the first of December"
    assert (month.delivered, month.paid) == (MONTH, DUE)


def test_a_correction_ends_with_the_month_too_and_what_is_taken_back_is_free_again() -> None:
    floor = sold()
    for interval in range(1, 13):
        compensated(floor, interval)

    def correct(due: int, damages: int) -> list[tuple]:
        line = instructions.CorrectionLine(1, BUYER, SELLER, 40, 250, 0, due, damages)
        order = instructions.CorrectDelivery(
            run=f"{GRADE}/20251205/final", grade=GRADE, hour_starts_at=hour("20"), lines=(line,)
        )
        assert floor.instruct(order) is None
        return [(move[2], move[3]) for move in floor.moved()]

    assert correct(100_000, 100_000) == []
    assert correct(-400_000, -300_000) == [(300_000, Code.DAMAGES_CORRECTION)]
    assert correct(400_000, 400_000) == [(300_000, Code.DAMAGES_CORRECTION)]


def test_the_machine_goes_on_alike_from_a_snapshot_in_the_middle_of_a_month() -> None:
    floor = sold()
    compensated(floor, 1)
    again = type(floor.machine).restore(floor.machine.snapshot())
    assert again.digest() == floor.machine.digest()
    assert again.state.accounts[SELLER].months == floor.machine.state.accounts[SELLER].months
