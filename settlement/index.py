"""The hourly index (TXI) and its fallback ladder (RULEBOOK section 5).

The index of an hour is computed once, when its trading ends, from inputs that are published with
it: `decode(inputs)` and `compute` give the same value on any machine. Groups are numbered
in the order they appear in the tape, so the inputs name nobody.

A trade weighs less the more of the volume its buyer's or its seller's group has, lots that two
groups passed to each other and back do not count (`settlement.surveillance`), and where the tape is
too thin or too concentrated the next rung of the ladder is used, down to the last mark, which is
flagged by its method. Nothing waits for an index.

Two operators may correct a value until the day's final settlement run (RULEBOOK 5.2). A correction
is a further version with inputs of its own: what was published stays, and later runs settle the
difference. The mean of a day, week or month is a reference; nothing settles on it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from marketplace import contract
from settlement import surveillance

TRADES_MIN = 5
GROUPS_MIN = 4
VOLUME_MIN = 50
VOLUME_SHARE_OF_OBLIGATIONS = 20
"""The volume is at least one lot in this many of the hour's obligations."""
WEIGHT_FULL = 1_000_000
GROUP_SHARE = 300_000
"""A group with more than 30 % of the volume, on either side, weighs less."""
AUCTION_HOLD_PERCENT = 30

MID_WINDOW = contract.HOUR
MID_TIME_MIN = MID_WINDOW // 2
"""A mid counts when the book qualified for at least half of the window."""
MID_LOTS_MIN = 10
MID_GROUPS_MIN = 2
LAST_AGE_MAX = 6 * contract.HOUR
CORRECTED_UNTIL = contract.DAY + 2 * contract.HOUR
"""How long after the start of an hour's day its index may be corrected: to 02:00 on D+1."""
REASON_CHARACTERS_MAX = 500
IMPLAUSIBLE_FACTOR = 10
"""A price this many times another, or this small a part of it, is taken for a mistake."""


class Method(StrEnum):
    """The rung of the ladder that gave the value, best first."""

    TRADES = "trades"
    AUCTION = "auction"
    MID = "mid"
    PARENT = "parent"
    LAST = "last"
    MARK = "mark"
    OVERRIDE = "override"
    """No rung: two operators have corrected what the ladder gave."""


SOUND = frozenset({Method.TRADES, Method.AUCTION, Method.MID, Method.PARENT})
"""Methods whose value may serve a later hour as its last value."""


class Tape(msgspec.Struct, frozen=True, array_like=True):
    """One trade: when, lots, price in ticks, and the numbers of the two groups."""

    at: int
    lots: int
    price: int
    buyer: int
    seller: int


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a value was computed from; prices are ticks and 0 where there is none.

    `mid_area` is the integral of bid plus ask over the microseconds in `mid_time`; `last_age` is
    how long ago the last sound value of the grade was published.
    """

    grade: str
    hour_starts_at: int
    trades: tuple[Tape, ...] = ()
    obligation_lots: int = 0
    auction: int = 0
    mid_area: int = 0
    mid_time: int = 0
    parent: int = 0
    last: int = 0
    last_age: int = 0
    mark: int


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a corrected value: two operators say `price`, not `replaces`, in ticks."""

    grade: str
    hour_starts_at: int
    version: int
    price: int
    replaces: int
    reason: str


def number_groups(trades: Iterable[surveillance.Trade]) -> tuple[Tape, ...]:
    """Return trades of named groups with the groups numbered by appearance."""
    numbers: dict[int, int] = {}
    tape = []
    for at, lots, price, buyer, seller in trades:
        first = numbers.setdefault(buyer, len(numbers) + 1)
        second = numbers.setdefault(seller, len(numbers) + 1)
        tape.append(Tape(at, lots, price, first, second))
    return tuple(tape)


def compute(inputs: Inputs) -> tuple[int, Method]:
    """Return the index in ticks and the rung that gave it."""
    value = _of_trades(inputs)
    if value is not None:
        return value, Method.TRADES
    if inputs.auction:
        return inputs.auction, Method.AUCTION
    if inputs.mid_time >= MID_TIME_MIN:
        return max(1, half_up(inputs.mid_area, 2 * inputs.mid_time)), Method.MID
    if inputs.parent:
        return inputs.parent, Method.PARENT
    if inputs.last and inputs.last_age <= LAST_AGE_MAX:
        return inputs.last, Method.LAST
    return inputs.mark, Method.MARK


def _of_trades(inputs: Inputs) -> int | None:
    """Return the weighted price of the tape, or None when it is not valid (RULEBOOK 5.1)."""
    assert all(trade.buyer != trade.seller for trade in inputs.trades), "no trade inside a group"
    trades = _genuine(inputs.trades)
    volume = sum(lots for lots, _ in trades)
    of_group: dict[int, int] = {}
    for lots, trade in trades:
        of_group[trade.buyer] = of_group.get(trade.buyer, 0) + lots
        of_group[trade.seller] = of_group.get(trade.seller, 0) + lots
    if len(trades) < TRADES_MIN or len(of_group) < GROUPS_MIN or volume < VOLUME_MIN:
        return None
    if volume * VOLUME_SHARE_OF_OBLIGATIONS < inputs.obligation_lots:
        return None
    factor = {
        group: min(WEIGHT_FULL, GROUP_SHARE * volume // lots) for group, lots in of_group.items()
    }
    total = weighted = 0
    for lots, trade in trades:
        weight = lots * min(factor[trade.buyer], factor[trade.seller])
        total += weight
        weighted += weight * trade.price
    if 2 * total < volume * WEIGHT_FULL:
        return None
    value = half_up(weighted, total)
    if inputs.auction:
        low = -(-inputs.auction * (100 - AUCTION_HOLD_PERCENT) // 100)
        high = inputs.auction * (100 + AUCTION_HOLD_PERCENT) // 100
        value = min(max(value, low), high)
    return value


def _genuine(tape: Sequence[Tape]) -> list[tuple[int, Tape]]:
    """Return the lots of each trade that two groups did not pass to each other and back."""
    lines = [(one.at, one.lots, one.price, one.buyer, one.seller) for one in tape]
    excluded = surveillance.round_trips(lines).excluded
    counted = [(one.lots - excluded.get(place, 0), one) for place, one in enumerate(tape)]
    return [(lots, one) for lots, one in counted if lots]


def half_up(numerator: int, denominator: int) -> int:
    """Return the quotient to the nearest integer, a half upwards."""
    return (2 * numerator + denominator) // (2 * denominator)


def corrected_until(hour_starts_at: int) -> int:
    """Return the instant from which the index of an hour is final: 02:00 on the day after."""
    return contract.day_start(hour_starts_at) + CORRECTED_UNTIL


def reference_periods(at: int) -> list[tuple[str, int, int]]:
    """Return (name, start, end) of the day, week and month of an instant and of those before."""
    today, this_week = contract.day_start(at), contract.week_start(at)
    month = contract.month_start(at)
    before = contract.add_months(month, -1)
    return [
        ("day", today, today + contract.DAY),
        ("day", today - contract.DAY, today),
        ("week", this_week, this_week + 7 * contract.DAY),
        ("week", this_week - 7 * contract.DAY, this_week),
        ("month", month, contract.add_months(month, 1)),
        ("month", before, month),
    ]


def is_plausible(price: int, beside: int) -> bool:
    """Whether a price is above zero and less than ten times off another, up or down."""
    return 0 < price < beside * IMPLAUSIBLE_FACTOR and beside < price * IMPLAUSIBLE_FACTOR


def mean(values: Sequence[int]) -> int:
    """Return the mean of the hours of a day, week or month in ticks, half up: a reference."""
    assert values, "a mean is of something"
    return half_up(sum(values), len(values))


def encode(inputs: Inputs | Correction) -> bytes:
    """Return the canonical JSON of the inputs: what is published and hashed."""
    return msgspec.json.encode(inputs, order="sorted")


def decode(data: bytes) -> Inputs:
    """Return the inputs of their canonical JSON.

    :raises msgspec.ValidationError: when it is not one.
    """
    return msgspec.json.decode(data, type=Inputs)


def decode_correction(data: bytes) -> Correction:
    """Return what two operators decided, of its canonical JSON.

    :raises msgspec.ValidationError: when it is not one.
    """
    return msgspec.json.decode(data, type=Correction)


def recompute(method: str, data: bytes) -> tuple[int, Method]:
    """Return the value that published inputs give, and how.

    :raises msgspec.ValidationError: when they are no inputs of that method.
    """
    if method == Method.OVERRIDE:
        return decode_correction(data).price, Method.OVERRIDE
    return compute(decode(data))


def digest(data: bytes) -> bytes:
    """Return the published hash of canonical inputs."""
    return hashlib.sha256(data).digest()
