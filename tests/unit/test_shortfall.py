"""What was available, owed and missed, by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission import shortfall
from admission.shortfall import Fate, Jump, Miss

SECOND = 1_000_000
LOT = 5_000_000


def miss(at: int, body: bytes = b"a", charge: int = 100, holder: int = 1) -> Miss:
    return Miss(
        holder=holder, cluster=7, body_digest=body, charge_mntu=charge, arrived_at=at * SECOND
    )


def test_availability_is_the_share_of_probes_and_refusals_that_passed() -> None:
    for probes, passed, refusals, available in (
        (10, 10, 0, 40 * LOT),
        (10, 5, 0, 20 * LOT),
        (10, 10, 10, 20 * LOT),
        (10, 0, 0, 0),
        (0, 0, 3, 0),
        (0, 0, 0, 40 * LOT),
        (3, 2, 0, 40 * LOT * 2 // 3),
    ):
        assert (
            shortfall.available_mntu(lots=40, probes=probes, passed=passed, refusals=refusals)
            == available
        )


def test_the_same_body_counts_once_a_minute() -> None:
    found = [miss(0), miss(30), miss(59), miss(60), miss(61), miss(10, b"b"), miss(5, holder=2)]
    assert [each.arrived_at // SECOND for each in shortfall.once_each(found)] == [0, 5, 10, 60]


def test_debt_is_what_was_used_beyond_the_rate_and_lowers_what_is_owed() -> None:
    assert shortfall.debt_mntu([(1, 3 * LOT), (1, 0)]) == LOT
    assert shortfall.debt_mntu([(1, 3 * LOT), (2, 0)]) == 0
    assert shortfall.owed_mntu(lots=1, debt=LOT // 2) == LOT // 2
    assert shortfall.owed_mntu(lots=1, debt=2 * LOT) == 0


def test_what_may_be_missed_is_bounded_by_what_is_owed_and_by_the_past() -> None:
    assert shortfall.short_mntu(missed=9 * LOT, owed=40 * LOT, past_demand=[]) == LOT
    assert shortfall.short_mntu(missed=9 * LOT, owed=40 * LOT, past_demand=[4 * LOT]) == 6 * LOT
    assert shortfall.short_mntu(missed=9 * LOT, owed=2 * LOT, past_demand=[9 * LOT]) == 2 * LOT
    assert shortfall.short_mntu(missed=3, owed=2 * LOT, past_demand=[9 * LOT]) == 3
    old = [100 * LOT, *[2 * LOT] * 12]
    assert shortfall.short_mntu(missed=9 * LOT, owed=40 * LOT, past_demand=old) == 3 * LOT


def test_a_leap_fills_its_half_minutes_evenly_and_real_probes_go_first() -> None:
    start = 3_600 * SECOND
    jump = Jump(from_at=start - 1, to_at=start + 3_600 * SECOND, probes={7: (3, 10)})
    assert shortfall.probe_slots(7, start, made={}, jumps=[jump]) == (10, 3)
    assert shortfall.probe_slots(7, start, made={start: True}, jumps=[jump])[0] == 10
    assert shortfall.probe_slots(8, start, made={}, jumps=[jump]) == (0, 0)
    whole = [
        shortfall.probe_slots(7, start + k * 300 * SECOND, made={}, jumps=[jump])[1]
        for k in range(12)
    ]
    assert whole == [3] * 12
    later = Jump(from_at=start + 100 * SECOND, to_at=start + 200 * SECOND, probes={7: (1, 1)})
    assert shortfall.probe_slots(7, start, made={start: False}, jumps=[later]) == (4, 3)


def test_parts_sum_to_the_whole() -> None:
    assert shortfall.parts(10, [1, 1, 1]) == [3, 3, 4]
    assert shortfall.parts(0, [5, 3]) == [0, 0]
    assert sum(shortfall.parts(999_999_999_999, [7, 13, 1, 29])) == 999_999_999_999


def missed(*misses: Miss, delivered: int = 0, recent: int = 0, served=(), **oldest) -> int:
    before = shortfall.Recent(whole_mntu=recent, **oldest)
    return shortfall.missed_mntu(
        misses, starts_at=0, delivered_mntu=delivered, recent=before, served=served
    )


def made(at: int, fate: Fate = Fate.REFUSED, charge: int = 100, **more) -> Miss:
    body = b"%d" % at if "body" not in more else more.pop("body")
    return replace(miss(at, body, charge), fate=fate, **more)


@pytest.mark.parametrize(
    ("misses", "more", "expected"),
    [
        ([made(1), made(2, Fate.FAILED), made(3, Fate.SPILLED)], {}, 300),
        ([made(1, body=b"a"), made(60, body=b"a")], {}, 100),
        ([made(1, body=b"a"), made(61, body=b"a")], {}, 200),
        ([made(1), made(200, is_retry=True)], {}, 100),
        ([made(-10, body=b"a"), made(20, body=b"a")], {}, 0),
        ([made(299), made(300)], {}, 100),
        ([made(1, Fate.HUNG_UP, waited_us=SECOND, target_us=2 * SECOND)], {}, 0),
        ([made(1, Fate.HUNG_UP, waited_us=2 * SECOND, target_us=2 * SECOND)], {}, 100),
        ([made(1, Fate.LATE)], {"delivered": 9_999}, 1),
        ([made(1, Fate.LATE)], {"delivered": 10_000}, 0),
        ([made(1, Fate.LATE), made(2)], {"delivered": 10_000}, 100),
        # 9,000 in 15 minutes are 10 a second, presumed for the ten seconds of the wait.
        ([made(1, retry_after_us=10 * SECOND)], {"recent": 9_000}, 200),
        ([made(1, Fate.FAILED, retry_after_us=10 * SECOND)], {"recent": 9_000}, 100),
        # Waits that overlap are one; what was asked for in them is not presumed again.
        (
            [made(1, retry_after_us=10 * SECOND), made(6, charge=30, retry_after_us=10 * SECOND)],
            {"recent": 9_000},
            100 + 30 + 150 - 30,
        ),
        # Two that do not are two; what was asked before each, and presumed, is of its 15 minutes.
        (
            [
                made(1, charge=900, retry_after_us=10 * SECOND),
                made(100, charge=0, retry_after_us=90 * SECOND),
            ],
            {"recent": 9_000},
            900 + 100 + (9_000 + 900 + 100) // 10,
        ),
        # Whoever asks for more in one wait is presumed to ask for as much as before in the other.
        (
            [
                made(1, charge=0, retry_after_us=10 * SECOND),
                made(2, charge=500),
                made(100, charge=0, retry_after_us=90 * SECOND),
            ],
            {"recent": 8_500},
            500 + (8_500 + 500) // 10,
        ),
        (
            [made(1, retry_after_us=10 * SECOND)],
            {"recent": 9_000, "served": [(5 * SECOND, 40), (20 * SECOND, 999)]},
            100 + 100 - 40,
        ),
        ([made(-5, retry_after_us=10 * SECOND)], {"recent": 9_000}, 50),
        ([made(295, retry_after_us=60 * SECOND)], {"recent": 9_000}, 150),
    ],
)
def test_what_is_missed_counts_each_request_once(misses: list, more: dict, expected: int) -> None:
    assert missed(*misses, **more) == expected


@pytest.mark.parametrize(
    ("refused_at", "expected"),
    [
        (0, 900 + 450 + 180),  # all of the oldest interval
        (1, 900 + 450 + 179),  # and one second less of what is spread over it
        (100, 900 + 450 + 120),  # what was asked at its hundredth second is just inside
        (101, 900 + 119),  # and now it is not
        (250, 900 + 30),
    ],
)
def test_what_is_presumed_is_the_mean_of_fifteen_minutes_to_the_instant(
    refused_at: int, expected: int
) -> None:
    oldest_at = -15 * 60
    seen = missed(
        made(refused_at, charge=0, retry_after_us=30 * SECOND),
        recent=900 * 30,
        oldest_mntu=(450 + 180) * 30,
        oldest=[((oldest_at + 100) * SECOND, 450 * 30)],
    )
    assert seen == expected


MISSES = st.lists(
    st.builds(
        made,
        st.integers(0, 299),
        st.sampled_from(Fate),
        st.integers(0, 10_000),
        waited_us=st.integers(0, 3 * SECOND),
        target_us=st.just(2 * SECOND),
        retry_after_us=st.integers(0, 30 * SECOND),
    ),
    max_size=12,
)


@given(MISSES, st.integers(0, 10**6), st.integers(0, 10**6))
def test_nothing_is_missed_twice_and_retries_invent_nothing(
    misses: list[Miss], delivered: int, recent: int
) -> None:
    found = missed(*misses, delivered=delivered, recent=recent)
    asked = sum(each.charge_mntu for each in misses)
    assert 0 <= found <= asked + recent * 300 // 900
    declared = [replace(each, is_retry=True, retry_after_us=0) for each in misses]
    assert missed(*misses, *declared, delivered=delivered, recent=recent) == found
    early = [replace(each, fate=Fate.HUNG_UP, waited_us=0) for each in misses]
    assert missed(*misses, *early, delivered=delivered, recent=recent) == found
    assert missed(*misses, delivered=delivered + 100, recent=recent) <= found
