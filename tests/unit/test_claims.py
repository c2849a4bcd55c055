"""What insured hours owe, against what the machine has paid, and its corrections."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from exchange import insurance_events
from exchange.machine import Machine
from marketplace import contract
from settlement import claims, instructions
from settlement.ledger import Code, Kind
from tests.floor import Floor, hour
from tests.unit.test_machine_insurance import (
    CAP,
    CASH,
    CLEARING,
    COVER,
    HOLDER,
    MONTH,
    OTHER,
    SECOND,
    WRITER,
    delivered,
    market,
    missed,
    pay,
    set_index,
    trade,
)

RUN = "LLAMA70B/20251228/final"
AT = hour("28 14")
HIGH = f"{MONTH}.C1400"


def policies(floor: Floor) -> list[claims.Policy]:
    """Return what the machine said of who is insured when trading ended."""
    lots: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for event in floor.events:
        if isinstance(event, insurance_events.OptionHeld):
            own = lots.setdefault((event.instrument, event.pay_ticks), [])
            own.append((event.account, event.lots))
    return [claims.Policy(*key, tuple(own)) for key, own in lots.items()]


def posted(floor: Floor) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for event in floor.events:
        if isinstance(event, insurance_events.InsurancePaid) and event.amount:
            key = event.instrument, event.account
            found[key] = found.get(key, 0) + event.amount
    return found


@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(
    lots=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    used=st.tuples(st.integers(0, 400_000), st.integers(0, 400_000)),
    index=st.integers(1_251, 9_000),
    short=st.lists(st.integers(0, 10_000), min_size=12, max_size=12),
)
def test_an_hour_computed_again_is_what_the_machine_has_paid(lots, used, index, short) -> None:
    floor = delivered(cap=lots[0], cover=lots[1], entitled=2)
    set_index(floor, "28 14", index)
    for interval, ntu in enumerate(short, 1):
        missed(floor, interval, ntu)
    assert pay(floor, "28 14", a2=used[0], a3=used[1]) is None
    known = claims.Hour(
        AT,
        index,
        ((HOLDER, used[0] * 1_000), (OTHER, used[1] * 1_000)),
        tuple(
            claims.Missed(interval, HOLDER, ntu * 1_000, 2, is_barred=False)
            for interval, ntu in enumerate(short, 1)
        ),
    )
    owed = {key: amount for key, amount in claims.owed(policies(floor), known).items() if amount}
    assert owed == posted(floor)


def test_several_strikes_writers_and_holders_are_computed_as_they_were_paid() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 1, 60)
    trade(floor, OTHER, HOLDER, 2, 60)
    trade(floor, OTHER, SECOND, 1, 60)
    trade(floor, WRITER, HOLDER, 3, 60, HIGH)
    floor.to("28 13:56")
    set_index(floor, "28 14", 1_501)
    assert pay(floor, "28 14", a2=250_000, a4=33_333) is None
    known = claims.Hour(AT, 1_501, ((HOLDER, 250_000_000), (SECOND, 33_333_000)), ())
    assert claims.owed(policies(floor), known) == posted(floor)
    assert sum(posted(floor).values()) == 0


def test_who_was_barred_from_an_interval_stays_barred_from_it() -> None:
    policy = claims.Policy(COVER, 1_250, ((WRITER, -2), (HOLDER, 2)))
    short = [claims.Missed(n, HOLDER, 4_000_000, 1, is_barred=n == 1) for n in (1, 2)]
    assert claims.owed([policy], claims.Hour(AT, 0, (), tuple(short))) == {
        (COVER, HOLDER): 5_000,
        (COVER, WRITER): -5_000,
    }


# The machine


@pytest.fixture
def floor() -> Floor:
    """An hour of two lots of a cap that is paid: 18,000 of it."""
    floor = delivered(cap=2)
    set_index(floor, "28 14", 1_450)
    assert pay(floor, "28 14", a2=90_000) is None
    return floor


def correct(floor: Floor, amounts: dict[int, int], **terms: object) -> str | None:
    known = {"run": RUN, "instrument": CAP, "hour_starts_at": AT, "pay_ticks": 0}
    lines = tuple(instructions.InsuranceLine(n, 2, amount) for n, amount in amounts.items())
    return floor.instruct(instructions.CorrectInsurance(**{**known, **terms}, lines=lines))


def test_a_difference_goes_through_clearing_and_is_said(floor: Floor) -> None:
    assert correct(floor, {WRITER: -6_000, HOLDER: 6_000}) is None
    assert floor.moved() == [
        ((WRITER, CASH), CLEARING, 6_000, Code.INSURANCE_CORRECTION),
        (CLEARING, (HOLDER, CASH), 6_000, Code.INSURANCE_CORRECTION),
    ]
    said = floor.of(insurance_events.InsuranceCorrected)
    assert [(e.run, e.instrument, e.account, e.amount) for e in said] == [
        (RUN, CAP, WRITER, -6_000),
        (RUN, CAP, HOLDER, 6_000),
    ]
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.digest() == floor.machine.digest()


MOST = 5 * 1_250 * 60 * 2


@pytest.mark.parametrize(
    ("amounts", "terms", "reason"),
    [
        ({WRITER: -6_000, HOLDER: 6_001}, {}, "invalid_amount"),
        ({WRITER: -MOST - 1, HOLDER: MOST + 1}, {}, "invalid_amount"),
        ({WRITER: 0, HOLDER: 0}, {}, "invalid_amount"),
        ({HOLDER: 6_000, WRITER: -6_000}, {}, "invalid_terms"),
        ({HOLDER: 6_000}, {}, "invalid_terms"),
        ({WRITER: -1, HOLDER: 1}, {"run": ""}, "invalid_terms"),
        ({WRITER: -1, HOLDER: 1}, {"pay_ticks": 1}, "invalid_terms"),
        ({WRITER: -1, HOLDER: 1}, {"instrument": COVER}, "invalid_terms"),
        ({WRITER: -1, 99: 1}, {}, "unknown_account"),
        ({WRITER: -1, HOLDER: 1}, {"instrument": MONTH}, "unknown_instrument"),
        ({WRITER: -1, HOLDER: 1}, {"hour_starts_at": AT + 1}, "unknown_hour"),
        ({WRITER: -1, HOLDER: 1}, {"hour_starts_at": AT - 40 * contract.DAY}, "unknown_hour"),
        ({WRITER: -1, HOLDER: 1}, {"hour_starts_at": AT + contract.HOUR}, "hour_not_settled"),
    ],
)
def test_what_no_hour_could_owe_is_refused_and_moves_nothing(
    floor: Floor, amounts, terms, reason
) -> None:
    before = [floor.view(account) for account in (WRITER, HOLDER)]
    assert correct(floor, amounts, **terms) == reason
    assert floor.moved() == []
    assert [floor.view(account) for account in (WRITER, HOLDER)] == before


def test_what_a_payer_lacks_is_borne_as_any_payment_to_clearing(floor: Floor) -> None:
    assert floor.withdraw(HOLDER, floor.view(HOLDER).withdrawable) is None
    left = floor.view(HOLDER).cash
    assert correct(floor, {WRITER: left + 500, HOLDER: -left - 500}) is None
    assert floor.view(HOLDER).debt == 500
    assert floor.machine.state.exchange[Kind.CLEARING] == 0
