"""The contract specification: ticks, lots, token weights, delivery windows and symbols.

A lot is 1,000 NTU a minute, flat, over a delivery window. A tick is 0.001 USD per million NTU,
which is exactly 60 micro-USD for one lot and hour and 5 micro-USD for one lot and five-minute
interval, so every notional is an exact integer (RULEBOOK 1.1, 1.2). Instants are integer
microseconds, UTC, and windows are half open.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

MICROS_PER_SECOND = 1_000_000
HOUR = 3_600 * MICROS_PER_SECOND
DAY = 24 * HOUR
INTERVAL = 300 * MICROS_PER_SECOND
INTERVALS_PER_HOUR = 12

NTU_PER_LOT_MINUTE = 1_000
NTU_PER_LOT_HOUR = 60_000
NTU_PER_LOT_INTERVAL = 5_000
MNTU_PER_LOT_INTERVAL = NTU_PER_LOT_INTERVAL * 1_000
MNTU_PER_LOT_HOUR = NTU_PER_LOT_HOUR * 1_000

TICK_MICROS_PER_LOT_HOUR = 60
TICK_MICROS_PER_LOT_INTERVAL = 5
TICK_MICROS_PER_MILLION = 1_000
"""One tick in micro-USD per million NTU."""

PRICE_DECIMALS = 3
PRICE_TICKS_MAX = 10_000_000
LOTS_MAX = 1_000_000

LISTING_LEAD = 14 * HOUR
"""Hours of day D are listed at 10:00 on D-1, this long before D begins (RULEBOOK 1.4)."""
OPENING_LEAD = 12 * HOUR
"""Their opening call ends at 12:00 on D-1 (RULEBOOK 2.2)."""
GATE_CLOSURE_LEAD = 5 * 60 * MICROS_PER_SECOND
"""Trading of an hour ends this long before it starts (RULEBOOK 4.2)."""
SETTLEMENT_LAG = 60 * MICROS_PER_SECOND
"""An interval is settled this long after its end."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GRADE = re.compile(r"[A-Z][A-Z0-9]{1,15}\Z")
_HOUR_SYMBOL = re.compile(r"([A-Z][A-Z0-9]{1,15})\.H\.(\d{8})T(\d{2})Z\Z", re.ASCII)


class Side(IntEnum):
    """What an order does; the sign of the position it builds."""

    BUY = 1
    SELL = -1


class Product(StrEnum):
    """What is traded."""

    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    SLOT = "SLOT"
    CAP = "CAP"
    COVER = "COVER"


class InstrumentState(StrEnum):
    """Where an instrument is in its life (RULEBOOK 2.1)."""

    SCHEDULED = "SCHEDULED"
    CALL = "CALL"
    CONTINUOUS = "CONTINUOUS"
    HALTED = "HALTED"
    CLOSED = "CLOSED"
    SETTLED = "SETTLED"


class CallKind(StrEnum):
    """Why a book gathers orders for an auction (RULEBOOK 2.2)."""

    OPENING = "OPENING"
    REOPENING = "REOPENING"
    VOLATILITY = "VOLATILITY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a symbol stands for."""

    symbol: str
    grade: str
    product: Product
    starts_at: int
    ends_at: int
    trading_ends_at: int

    @property
    def hours(self) -> int:
        """Length of the delivery window in hours."""
        return (self.ends_at - self.starts_at) // HOUR


def is_grade(code: str) -> bool:
    """Whether `code` has the form of a grade."""
    return _GRADE.match(code) is not None


def hour_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of one hour of a grade."""
    assert starts_at % HOUR == 0, "an hour starts on the hour"
    moment = _EPOCH + timedelta(microseconds=starts_at)
    return Contract(
        symbol=f"{grade}.H.{moment:%Y%m%dT%H}Z",
        grade=grade,
        product=Product.HOUR,
        starts_at=starts_at,
        ends_at=starts_at + HOUR,
        trading_ends_at=starts_at - GATE_CLOSURE_LEAD,
    )


def parse_symbol(symbol: str) -> Contract | None:
    """Return the contract of a symbol, or None when it is not one."""
    match = _HOUR_SYMBOL.match(symbol)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[2] + match[3], "%Y%m%d%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return hour_contract(match[1], (moment - _EPOCH) // timedelta(microseconds=1))


def is_symbol(text: str) -> bool:
    """Whether a text has the form of an instrument's symbol, be there such an hour or not."""
    return _HOUR_SYMBOL.match(text) is not None


def strip_symbol(grade: str, starts_at: int, ends_at: int) -> str:
    """Return the name of a range of hours: `LLAMA70B.R.20261205T14Z+24`."""
    assert starts_at % HOUR == ends_at % HOUR == 0, "a strip is of whole hours"
    moment = _EPOCH + timedelta(microseconds=starts_at)
    return f"{grade}.R.{moment:%Y%m%dT%H}Z+{(ends_at - starts_at) // HOUR}"


def day_start(at: int) -> int:
    """Return 00:00 UTC of the day of `at`."""
    return at - at % DAY


def hour_start(at: int) -> int:
    """Return the full hour at or before `at`."""
    return at - at % HOUR


def interval_number(at: int) -> int:
    """Return which of the twelve intervals of its hour holds `at`: 1 to 12."""
    return at % HOUR // INTERVAL + 1


def notional_micros(*, price_ticks: int, lots: int, hours: int = 1) -> int:
    """Return the exact notional in micro-USD."""
    return price_ticks * TICK_MICROS_PER_LOT_HOUR * lots * hours


def part(total: int, k: int, n: int) -> int:
    """Return the k-th (from 1) of n parts of a total; the parts sum to it exactly."""
    return k * total // n - (k - 1) * total // n


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request by kind; `cached` are part of `prompt`, `reasoning` of `output`."""

    prompt: int
    cached: int
    output: int
    reasoning: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSchedule:
    """What each kind of token counts, in thousandths of an NTU (RULEBOOK, DESIGN section 2)."""

    version: int = 1
    uncached: int = 1_000
    cached: int = 100
    output: int = 4_000

    def mntu(self, usage: Usage) -> int:
        """Return the weighted tokens of a request in thousandths of an NTU.

        Weights are whole thousandths, so there is nothing to round.
        """
        uncached = usage.prompt - usage.cached
        return uncached * self.uncached + usage.cached * self.cached + usage.output * self.output
