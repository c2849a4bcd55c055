"""What two operators may correct of a published index, and what of the past stays as it was."""

import msgspec
import pytest

from exchange import events
from exchange.machine import Machine, listing
from marketplace import contract
from settlement import index, instructions
from settlement.index import Correction
from tests.floor import GRADE, Floor, hour, instant, symbol

FIRST, SECOND = 901, 902


@pytest.fixture
def floor() -> Floor:
    """A floor on which the hour 14 has just closed at an index of 1,290, the middle of its book."""
    floor = Floor("13:00")
    for account in (1, 2):
        floor.account(account, certified=1_000)
    floor.account(3)
    floor.buy(3, 10, 1_280, at="14")
    floor.sell(1, 10, 1_300, at="14")
    floor.to("13:55")
    return floor


def override(floor: Floor, price: int, *, at: str = "14", **more) -> str | None:
    terms = {
        "grade": GRADE,
        "hour_starts_at": hour(at),
        "version": 2,
        "price_ticks": price,
        "reason": "a quote stood in the wrong hour",
        "proposed_by": FIRST,
        "confirmed_by": SECOND,
    }
    return floor.instruct(instructions.OverrideIndex(**(terms | more)))


def published(floor: Floor, at: str) -> list[events.IndexPublished]:
    return [
        event
        for event in floor.events
        if isinstance(event, events.IndexPublished) and event.hour_starts_at == hour(at)
    ]


def test_a_correction_is_a_further_version_with_inputs_of_its_own(floor: Floor) -> None:
    assert override(floor, 1_260) is None
    first, second = published(floor, "14")
    assert (first.price, first.method, first.version) == (1_290, "mid", 1)
    assert (second.price, second.method, second.version) == (1_260, "override", 2)
    assert (second.at, second.sequence) == (floor.at, first.sequence + 1)
    assert index.decode_correction(second.inputs) == Correction(
        grade=GRADE,
        hour_starts_at=hour("14"),
        version=2,
        price=1_260,
        replaces=1_290,
        reason="a quote stood in the wrong hour",
    )
    assert index.recompute(second.method, second.inputs) == (1_260, "override")
    assert index.digest(second.inputs) == second.digest
    assert override(floor, 1_255, version=3) is None
    assert [event.price for event in published(floor, "14")] == [1_290, 1_260, 1_255]


def test_a_correction_moves_no_money_and_no_delivery_price() -> None:
    floor = Floor("13:00")
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 10, 1_250, at="14")
    floor.buy(2, 10, 1_250, at="14")
    floor.to("13:55")
    delivered = floor.machine.state.hours[GRADE, hour("14")]
    before = delivered.price, {number: a.cash for number, a in floor.machine.state.accounts.items()}
    assert override(floor, 1_300) is None
    assert [type(event).__name__ for event in floor.last] == [
        "IndexPublished",
        "InstructionApplied",
    ]
    accounts = floor.machine.state.accounts
    assert before == (delivered.price, {number: a.cash for number, a in accounts.items()})
    assert floor.machine.state.grades[GRADE].index[hour("14")] == before[0]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"grade": "NOPE"}, "unknown_grade"),
        ({"hour_starts_at": hour("15")}, "unknown_hour"),
        ({"hour_starts_at": hour("14") + 1}, "unknown_hour"),
        ({"confirmed_by": FIRST}, "second_operator_required"),
        ({"reason": " "}, "invalid_terms"),
        ({"reason": "x" * 501}, "invalid_terms"),
        ({"version": 1}, "index_changed"),
        ({"version": 3}, "index_changed"),
        ({"price_ticks": 1_290}, "index_unchanged"),
        ({"price_ticks": 0}, "price_unresolved"),
        ({"price_ticks": -1_290}, "price_unresolved"),
        ({"price_ticks": 12_900}, "price_unresolved"),
        ({"price_ticks": 129}, "price_unresolved"),
        ({"price_ticks": contract.PRICE_TICKS_MAX + 1}, "price_unresolved"),
    ],
)
def test_what_is_no_correction_is_refused_and_changes_nothing(
    floor: Floor, more: dict, reason: str
) -> None:
    terms = floor.machine.state.grades[GRADE]
    before = msgspec.json.encode(terms)
    assert override(floor, 1_260, **more) == reason
    assert len(published(floor, "14")) == 1
    assert msgspec.json.encode(terms) == before


def test_a_price_up_to_ten_times_off_can_be_set(floor: Floor) -> None:
    assert override(floor, 12_899) is None
    assert override(floor, 1_290, version=3) is None
    assert override(floor, 130, version=4) is None


def test_an_index_can_be_corrected_until_two_in_the_morning_of_the_next_day(floor: Floor) -> None:
    floor.at = instant("+1 02:00") - 1
    assert override(floor, 1_260) is None
    floor.at = instant("+1 02:00")
    assert override(floor, 1_250, version=3) == "index_final"
    assert index.corrected_until(hour("00")) == index.corrected_until(hour("23")) == floor.at


def test_later_hours_fall_back_on_the_corrected_value(floor: Floor) -> None:
    assert override(floor, 1_260) is None
    floor.to("14:55")
    assert [(e.price, e.method) for e in published(floor, "15")] == [(1_260, "last")]
    assert index.decode(published(floor, "15")[0].inputs).last_age == contract.HOUR


def test_a_corrected_fallback_counts_as_a_value_of_its_own_hour(floor: Floor) -> None:
    """15 fell back on 14; once corrected it is the latest value, as old as its gate closure."""
    floor.to("14:55")
    assert override(floor, 1_270, at="15") is None
    floor.to("15:55")
    event = published(floor, "16")[0]
    assert (event.price, event.method) == (1_270, "last")
    assert index.decode(event.inputs).last_age == contract.HOUR
    assert override(floor, 1_200, at="14") is None, "an older hour's correction"
    floor.to("16:55")
    assert published(floor, "17")[0].price == 1_270


def test_references_of_new_books_follow_the_corrected_value(floor: Floor) -> None:
    assert override(floor, 1_200) is None
    floor.to("+1 10:00")
    hour_after = floor.machine.state.instruments[symbol("+2 14")]
    hour_after.parents = ()
    assert listing.reference_price(hour_after) == 1_200


def test_what_is_forgotten_is_forgotten_with_its_correction(floor: Floor) -> None:
    terms = floor.machine.state.grades[GRADE]
    assert override(floor, 1_200) is None
    assert (terms.index_in_force(hour("14")), terms.index[hour("14")]) == (1_200, 1_290)
    floor.to("+10 00:00")
    assert hour("14") not in terms.index
    assert terms.index_in_force(hour("14")) is None


def test_corrections_survive_a_snapshot_and_a_replay(floor: Floor) -> None:
    assert override(floor, 1_260) is None
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.digest() == floor.machine.digest()
    again = Machine()
    for entry in floor.log:
        again.apply(entry.command, entry.sequence, entry.at)
    assert again.digest() == floor.machine.digest()


def test_a_correction_never_reads_as_inputs_of_the_ladder(floor: Floor) -> None:
    assert override(floor, 1_260) is None
    first, second = published(floor, "14")
    with pytest.raises(msgspec.ValidationError):
        index.recompute("mid", second.inputs)
    with pytest.raises(msgspec.ValidationError):
        index.recompute("override", first.inputs)
