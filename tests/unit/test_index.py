"""The index by hand, its ladder rung by rung, and who cannot move it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement import index
from settlement.index import Inputs, Method, Tape

HOUR = 3_600_000_000
SPREAD = [(20, 1000, 1, 2), (20, 1010, 3, 4), (20, 1020, 5, 6), (20, 1030, 7, 8), (20, 1040, 9, 10)]


def inputs(trades=(), **more) -> Inputs:
    return Inputs(
        grade="LLAMA70B",
        hour_starts_at=0,
        trades=index.number_groups((0, *trade) for trade in trades),
        **({"mark": 900} | more),
    )


def test_spread_trades_count_in_full() -> None:
    assert index.compute(inputs(SPREAD)) == (1020, Method.TRADES)


def test_the_mean_rounds_half_up() -> None:
    trades = [(10, 1000, 1, 2), (10, 1000, 3, 4), (10, 1001, 5, 6), (10, 1001, 7, 8)]
    assert index.compute(inputs([*trades, (5, 1000, 9, 10), (5, 1001, 11, 12)])) == (
        1001,
        Method.TRADES,
    )


def test_a_group_with_most_of_the_volume_weighs_less() -> None:
    """V is 100, group 9 has 50: its trade weighs floor(300000 x 100 / 50) = 600000 of 10^6."""
    trades = [(50, 1100, 9, 10), (10, 1000, 1, 2), (10, 1000, 3, 4), (15, 1000, 5, 6)]
    trades.append((15, 1000, 7, 8))
    weighted = 50 * 600_000 * 1100 + 50 * 1_000_000 * 1000
    total = 50 * 600_000 + 50 * 1_000_000
    assert index.compute(inputs(trades)) == (index.half_up(weighted, total), Method.TRADES)


def test_a_group_weighs_less_on_whichever_side_it_stands() -> None:
    """V is 100; group 9 sells, then buys, 50 of it, to and from two others."""
    calm = [(10, 1000, 1, 2), (10, 1000, 3, 4), (15, 1000, 5, 6), (15, 1000, 7, 8)]
    weighted = 50 * 600_000 * 1100 + 50 * 1_000_000 * 1000
    expected = index.half_up(weighted, 50 * 600_000 + 50 * 1_000_000), Method.TRADES
    assert index.compute(inputs([(25, 1100, 10, 9), (25, 1100, 11, 9), *calm])) == expected
    assert index.compute(inputs([(25, 1100, 9, 10), (25, 1100, 9, 11), *calm])) == expected


@pytest.mark.parametrize(
    "trades",
    [
        SPREAD[:4],
        [(20, 1000, 1, 2)] * 3 + [(20, 1000, 1, 3)] * 2,
        [(9, 1000 + n, 2 * n, 2 * n + 1) for n in range(5)],
        [(100, 1000, 1, 2), (1, 1000, 3, 4), (1, 1000, 5, 6), (1, 1000, 7, 8), (1, 1000, 9, 10)],
    ],
    ids=["four trades", "three groups", "45 lots", "two groups with nearly all"],
)
def test_a_thin_or_narrow_tape_is_not_used(trades) -> None:
    assert index.compute(inputs(trades)) == (900, Method.MARK)


def test_lots_that_go_round_between_two_groups_do_not_count() -> None:
    """Both ways within five minutes, from more than a fifth of the volume on."""
    there_and_back = [(0, 60, 1100, 11, 12), (299_000_000, 60, 1100, 12, 11)]
    honest = [(0, *trade) for trade in SPREAD]

    def of(*trades) -> tuple[int, Method]:
        tape = index.number_groups(sorted([*honest, *trades]))
        return index.compute(Inputs(grade="LLAMA70B", hour_starts_at=0, trades=tape, mark=900))

    assert of(*there_and_back) == (1020, Method.TRADES)
    one_way = [(at, lots, price, 11, 12) for at, lots, price, *_ in there_and_back]
    # V = 220, the pair has 120: 120 weighs 0.3 x 220 = 66 beside 100.
    assert of(*one_way) == (index.half_up(66 * 1100 + 100 * 1020, 166), Method.TRADES)
    late = [there_and_back[0], (301_000_000, *there_and_back[1][1:])]
    assert of(*late) == of(*one_way)
    few = [(at, 12, *rest) for at, _, *rest in there_and_back]
    assert of(*few) == (index.half_up(24 * 1100 + 100 * 1020, 124), Method.TRADES)


def test_the_volume_must_be_a_twentieth_of_the_obligations() -> None:
    assert index.compute(inputs(SPREAD, obligation_lots=2_000))[1] is Method.TRADES
    assert index.compute(inputs(SPREAD, obligation_lots=2_001))[1] is Method.MARK


def test_the_value_is_held_to_thirty_percent_of_the_auction() -> None:
    assert index.compute(inputs(SPREAD, auction=700)) == (910, Method.TRADES)
    assert index.compute(inputs(SPREAD, auction=2_000)) == (1_400, Method.TRADES)


def test_the_ladder_is_taken_rung_by_rung() -> None:
    rungs = {
        "auction": 800,
        "mid_area": 2 * 810 * HOUR,
        "mid_time": HOUR,
        "parent": 820,
        "last": 830,
        "last_age": 6 * HOUR,
    }
    order = [
        ((), (800, Method.AUCTION)),
        (("auction",), (810, Method.MID)),
        (("mid_area", "mid_time"), (820, Method.PARENT)),
        (("parent",), (830, Method.LAST)),
        (("last", "last_age"), (900, Method.MARK)),
    ]
    for gone, expected in order:
        for name in gone:
            del rungs[name]
        assert index.compute(inputs(**rungs)) == expected


def test_a_mid_of_less_than_half_the_window_does_not_count() -> None:
    half = HOUR // 2
    assert index.compute(inputs(mid_area=1620 * half, mid_time=half)) == (810, Method.MID)
    assert index.compute(inputs(mid_area=1, mid_time=half - 1))[1] is Method.MARK


def test_a_last_value_older_than_six_hours_does_not_count() -> None:
    assert index.compute(inputs(last=830, last_age=6 * HOUR + 1))[1] is Method.MARK


def test_published_inputs_give_the_same_value_and_name_nobody() -> None:
    written = inputs(
        [(lots, price, buyer + 77_000, seller) for lots, price, buyer, seller in SPREAD]
    )
    body = index.encode(written)
    assert index.decode(body) == written
    assert index.compute(index.decode(body)) == index.compute(written)
    assert b"77" not in body
    assert body == msgspec.json.format(body, indent=-1)
    assert written.trades[0] == Tape(0, 20, 1000, 1, 2)
    assert index.digest(body) != index.digest(body + b" ")


@given(st.integers(1, 10**6), st.integers(1, 3_000))
def test_one_pair_of_groups_trading_with_itself_moves_the_index_by_little(lots, price) -> None:
    """However much a pair trades, its weight is at most 0.3 of the volume, or the tape is void."""
    pair = [(lots, price, 101, 102)]
    value, method = index.compute(inputs([*SPREAD, *pair]))
    if method is Method.TRADES:
        assert abs(value - 1020) <= abs(price - 1020) * 6 // 10 + 1
