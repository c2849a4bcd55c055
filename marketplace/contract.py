"""The contract specification: ticks, lots, token weights, delivery windows and symbols.

A lot is 1,000 NTU a minute, flat, over a delivery window. A tick is 0.001 USD per million NTU,
which is exactly 60 micro-USD for one lot and hour and 5 micro-USD for one lot and five-minute
interval, so every notional is an exact integer (RULEBOOK 1.1, 1.2). Instants are integer
microseconds, UTC, and windows are half open.

When a product is listed, opens and ends follows from its window alone (RULEBOOK 1.4, 4.1), so a
symbol says everything; years have two digits, of this century.
"""

import re
from dataclasses import dataclass, replace
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
SLOT_PRICE_DECIMALS = 4
SLOT_CLASSES = ("P0", "P1")
WIDE_BAND_PERCENT = 50
"""The dynamic band of what is not energy (RULEBOOK 2.4)."""
PRICE_TICKS_MAX = 10_000_000
LOTS_MAX = 1_000_000

SLOT_TICK_MICROS = 100
"""A tick of a slot for one lot and hour, 0.0001 USD."""

LISTING_LEAD = 14 * HOUR
"""Hours and slots of day D are listed at 10:00 on D-1, this long before D begins (RULEBOOK 1.4)."""
DAYS_LISTED = 14
WEEKS_LISTED = 8
MONTHS_LISTED = 12
OPTION_MONTHS_LISTED = 3
OPENING_HOUR = 12 * HOUR
"""A new book opens at the next auction, which ends at this time of every day (RULEBOOK 1.4)."""
GATE_CLOSURE_LEAD = 5 * 60 * MICROS_PER_SECOND
"""Trading of an hour ends this long before it starts (RULEBOOK 4.2)."""
CASCADE_HOUR = 11 * HOUR + HOUR // 2
"""Trading of longer products ends at 11:30, and they cascade (RULEBOOK 4.1)."""
SETTLEMENT_LAG = 60 * MICROS_PER_SECOND
"""An interval is settled this long after its end."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GRADE = re.compile(r"[A-Z][A-Z0-9]{1,15}\Z")
_SYMBOL = re.compile(
    r"(?P<grade>[A-Z][A-Z0-9]{1,15})\."
    r"(?:(?P<hourly>H|P0|P1)\.(?P<hour>\d{8}T\d{2})Z"
    r"|D\.(?P<day>\d{8})"
    r"|W\.(?P<year>\d{2})W(?P<week>\d{2})"
    r"|M\.(?P<month>[FGHJKMNQUVXZ]\d{2})(?:\.(?:C(?P<strike>[1-9]\d{0,7})|(?P<cover>S)))?)\Z",
    re.ASCII,
)
_SLOT = ".P"
"""What only a slot has in its symbol."""
_MONTH_CODES = "FGHJKMNQUVXZ"
_CENTURY = 2000
"""Years of symbols have two digits."""


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


ENERGY = frozenset({Product.HOUR, Product.DAY, Product.WEEK, Product.MONTH})
"""Products that are lots of tokens, and end as delivery."""
OPTIONS = frozenset({Product.CAP, Product.COVER})
"""Products whose price is a premium, paid when it is traded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a symbol stands for."""

    symbol: str
    grade: str
    product: Product
    starts_at: int
    ends_at: int
    trading_ends_at: int
    service_class: str = ""
    """Of a slot: `P0` or `P1`."""
    strike: int = 0
    """Of a price cap, in ticks."""

    @property
    def hours(self) -> int:
        """Length of the delivery window in hours."""
        return (self.ends_at - self.starts_at) // HOUR

    @property
    def tick_micros(self) -> int:
        """What a tick of one lot over the whole window is worth, in micro-USD."""
        if self.product is Product.SLOT:
            return SLOT_TICK_MICROS
        return TICK_MICROS_PER_LOT_HOUR * self.hours

    @property
    def is_energy(self) -> bool:
        """Whether its lots are tokens, and end as delivery."""
        return self.product in ENERGY

    @property
    def price_decimals(self) -> int:
        """Digits of a price after the point, in USD."""
        return decimals_of(self.symbol)


def is_grade(code: str) -> bool:
    """Whether `code` has the form of a grade."""
    return _GRADE.match(code) is not None


def hour_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of one hour of a grade."""
    assert starts_at % HOUR == 0, "an hour starts on the hour"
    return Contract(
        symbol=f"{grade}.H.{_moment(starts_at):%Y%m%dT%H}Z",
        grade=grade,
        product=Product.HOUR,
        starts_at=starts_at,
        ends_at=starts_at + HOUR,
        trading_ends_at=starts_at - GATE_CLOSURE_LEAD,
    )


def slot_contract(grade: str, service_class: str, starts_at: int) -> Contract:
    """Return the contract of the priority slots of a class, `P0` or `P1`, in one hour."""
    assert starts_at % HOUR == 0, "an hour starts on the hour"
    assert service_class in SLOT_CLASSES, "slots are of a class"
    return Contract(
        symbol=f"{grade}.{service_class}.{_moment(starts_at):%Y%m%dT%H}Z",
        grade=grade,
        product=Product.SLOT,
        starts_at=starts_at,
        ends_at=starts_at + HOUR,
        trading_ends_at=starts_at - GATE_CLOSURE_LEAD,
        service_class=service_class,
    )


def decimals_of(symbol: str) -> int:
    """Return the digits after the point that prices of an instrument have, by its symbol."""
    return SLOT_PRICE_DECIMALS if _SLOT in symbol else PRICE_DECIMALS


def sibling(terms: Contract) -> str:
    """Return the symbol of a slot's other class in the same hour; empty for what is no slot."""
    if terms.product is not Product.SLOT:
        return ""
    other = next(each for each in SLOT_CLASSES if each != terms.service_class)
    return slot_contract(terms.grade, other, terms.starts_at).symbol


def day_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of a day of a grade."""
    assert starts_at % DAY == 0, "a day starts at midnight"
    return Contract(
        symbol=f"{grade}.D.{_moment(starts_at):%Y%m%d}",
        grade=grade,
        product=Product.DAY,
        starts_at=starts_at,
        ends_at=starts_at + DAY,
        trading_ends_at=starts_at - DAY + CASCADE_HOUR,
    )


def week_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of an ISO week, which starts on a Monday, of a grade."""
    assert starts_at == week_start(starts_at), "a week starts on Monday"
    year, week, _ = _moment(starts_at).isocalendar()
    return Contract(
        symbol=f"{grade}.W.{year % 100:02d}W{week:02d}",
        grade=grade,
        product=Product.WEEK,
        starts_at=starts_at,
        ends_at=starts_at + 7 * DAY,
        trading_ends_at=starts_at - 2 * DAY + CASCADE_HOUR,
    )


def month_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of a calendar month of a grade."""
    assert starts_at == month_start(starts_at), "a month starts on its first"
    return Contract(
        symbol=f"{grade}.M.{_month_code(starts_at)}",
        grade=grade,
        product=Product.MONTH,
        starts_at=starts_at,
        ends_at=add_months(starts_at, 1),
        trading_ends_at=starts_at - 2 * DAY + CASCADE_HOUR,
    )


def cap_contract(grade: str, starts_at: int, strike: int) -> Contract:
    """Return the contract of a month's price cap at a strike in ticks."""
    assert 0 < strike <= PRICE_TICKS_MAX, "a strike is a price"
    month = month_contract(grade, starts_at)
    return replace(month, symbol=f"{month.symbol}.C{strike}", product=Product.CAP, strike=strike)


def cover_contract(grade: str, starts_at: int) -> Contract:
    """Return the contract of a month's shortage cover."""
    month = month_contract(grade, starts_at)
    return replace(month, symbol=f"{month.symbol}.S", product=Product.COVER)


def listed_at(terms: Contract) -> int:
    """Return when a contract is listed (RULEBOOK 1.4).

    Months and weeks follow the one that cascades as they come up, so that twelve and eight of them
    are always listed; a day is listed two weeks ahead, or when its month or week cascades.
    """
    grade, starts_at = terms.grade, terms.starts_at
    match terms.product:
        case Product.HOUR | Product.SLOT:
            return day_start(starts_at) - LISTING_LEAD
        case Product.DAY:
            month = month_contract(grade, month_start(starts_at))
            week = week_contract(grade, week_start(starts_at))
            lead = starts_at - DAYS_LISTED * DAY
            return min(lead, month.trading_ends_at, week.trading_ends_at)
        case Product.WEEK:
            return week_contract(grade, starts_at - WEEKS_LISTED * 7 * DAY).trading_ends_at
        case Product.MONTH:
            return month_contract(grade, add_months(starts_at, -MONTHS_LISTED)).trading_ends_at
        case Product.CAP | Product.COVER:
            return month_contract(
                grade, add_months(starts_at, -OPTION_MONTHS_LISTED)
            ).trading_ends_at


def parse_symbol(symbol: str) -> Contract | None:
    """Return the contract of a symbol, or None when it is not one."""
    match = _SYMBOL.match(symbol)
    if match is None:
        return None
    grade = match["grade"]
    try:
        if match["hour"]:
            starts_at = _micros(datetime.strptime(match["hour"] + "+0000", "%Y%m%dT%H%z"))
            if match["hourly"] == "H":
                return hour_contract(grade, starts_at)
            return slot_contract(grade, match["hourly"], starts_at)
        if match["day"]:
            return day_contract(
                grade, _micros(datetime.strptime(match["day"] + "+0000", "%Y%m%d%z"))
            )
        if match["week"]:
            year, week = _CENTURY + int(match["year"]), int(match["week"])
            return week_contract(grade, _micros(datetime.fromisocalendar(year, week, 1)))
        code = match["month"]
        first = datetime(_CENTURY + int(code[1:]), _MONTH_CODES.index(code[0]) + 1, 1, tzinfo=UTC)
        if match["strike"]:
            strike = int(match["strike"])
            return (
                cap_contract(grade, _micros(first), strike) if strike <= PRICE_TICKS_MAX else None
            )
        if match["cover"]:
            return cover_contract(grade, _micros(first))
        return month_contract(grade, _micros(first))
    except ValueError:
        return None


def _moment(at: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at)


def _micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def _month_code(starts_at: int) -> str:
    moment = _moment(starts_at)
    return f"{_MONTH_CODES[moment.month - 1]}{moment.year % 100:02d}"


def is_symbol(text: str) -> bool:
    """Whether a text has the form of an instrument's symbol, be there such a window or not."""
    return _SYMBOL.match(text) is not None


def strip_symbol(grade: str, starts_at: int, ends_at: int) -> str:
    """Return the name of a range of hours: `LLAMA70B.R.20261205T14Z+24`."""
    assert starts_at % HOUR == ends_at % HOUR == 0, "a strip is of whole hours"
    moment = _EPOCH + timedelta(microseconds=starts_at)
    return f"{grade}.R.{moment:%Y%m%dT%H}Z+{(ends_at - starts_at) // HOUR}"


def day_start(at: int) -> int:
    """Return 00:00 UTC of the day of `at`."""
    return at - at % DAY


def week_start(at: int) -> int:
    """Return 00:00 UTC of the Monday at or before `at`."""
    return at - (at + 3 * DAY) % (7 * DAY)  # The epoch was a Thursday.


def month_start(at: int) -> int:
    """Return 00:00 UTC of the first of the month of `at`."""
    return _micros(_moment(at).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def add_months(at: int, months: int) -> int:
    """Return 00:00 UTC of the first of the month so many months after that of `at`."""
    moment = _moment(at)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    return _micros(datetime(year, month + 1, 1, tzinfo=UTC))


def next_opening(at: int) -> int:
    """Return the end of the next opening call after `at`."""
    opens_at = day_start(at) + OPENING_HOUR
    return opens_at if opens_at > at else opens_at + DAY


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
