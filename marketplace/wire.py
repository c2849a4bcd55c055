"""How numbers and instants look outside, and how they come in.

Inside, prices are ticks, money is micro-USD, tokens are thousandths of an NTU and instants are
microseconds since the epoch: all of them integers. Outside they are strings with a fixed number of
decimals, because a JSON number is a float to most readers. The parsers take exactly one spelling:
ASCII digits, no sign, no exponent, no separator and no space, so that no two callers can mean
different values by the same text, and nothing is ever rounded on its way in.

Every printer here is exact. Negative amounts print a minus sign, and zero never does.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from marketplace import contract, errors

MICROS_PER_USD = 1_000_000
MNTU_PER_NTU = 1_000

MONEY_MICROS_MAX = 10**15
"""A billion USD: more than any one movement, and far from the end of a bigint."""
PRICE_TICKS_MAX = 10_000_000


def described(example: str, **schema: Any) -> msgspec.Meta:
    """Return what the API's document says of a field; a parser below says what is refused."""
    return msgspec.Meta(examples=[example], extra_json_schema=schema)


def one_of(*values: str) -> msgspec.Meta:
    """Return what the document says of an answer's field that has one of these values."""
    return msgspec.Meta(extra_json_schema={"enum": list(values)})


def whole(low: int, high: int) -> msgspec.Meta:
    """Return what the document says of a parameter that `parse_whole` reads."""
    return msgspec.Meta(extra_json_schema={"minimum": low, "maximum": high})


PriceText = Annotated[
    str,
    described(
        "1.250",
        pattern=(
            r"^(?:[1-9][0-9]{0,3}\.[0-9]{3}|10000\.000|"
            r"0\.(?:00[1-9]|0[1-9][0-9]|[1-9][0-9]{2}))$"
        ),
    ),
]
"""Of lots of tokens: three decimals."""
AnyPriceText = Annotated[
    str,
    described(
        "1.250",
        pattern=(
            r"^(?:[1-9][0-9]{0,3}\.[0-9]{3}|10000\.000|"
            r"0\.(?:00[1-9]|0[1-9][0-9]|[1-9][0-9]{2})|"
            r"[1-9][0-9]{0,2}\.[0-9]{4}|1000\.0000|"
            r"0\.(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3}))$"
        ),
    ),
]
"""Of an instrument that another field names: as many decimals as its tick has."""
MoneyText = Annotated[
    str,
    described(
        "250.000000",
        pattern=(
            r"^(?:[1-9][0-9]{0,8}(?:\.[0-9]{1,6})?|1000000000(?:\.0{1,6})?|"
            r"0\.(?:[1-9][0-9]{0,5}|0[1-9][0-9]{0,4}|00[1-9][0-9]{0,3}|000[1-9][0-9]{0,2}|"
            r"0000[1-9][0-9]?|00000[1-9]))$"
        ),
    ),
]
NtuText = Annotated[
    str,
    described(
        "1250.000",
        pattern=r"^(?:(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{3})?|1000000000000(?:\.000)?)$",
    ),
]
"""What one delivery may have been: whole tokens, or three decimals."""
LotsNumber = Annotated[
    int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": contract.LOTS_MAX})
]
TimeText = Annotated[
    str,
    described(
        "2026-12-05T14:00:00Z",
        format="date-time",
        pattern=(
            r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,6})?Z$"
        ),
    ),
]
_NUMBERS = {contract.PRICE_DECIMALS: "three", contract.SLOT_PRICE_DECIMALS: "four"}
PRINTED_MAX = 8_192
"""How many prices, and how many instants, are kept printed: a batch names few of either, often."""

_PRICE = re.compile(r"(0|[1-9][0-9]{0,6})\.([0-9]{3,4})\Z", re.ASCII)
_MONEY = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,6}))?\Z", re.ASCII)
_NTU = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([0-9]{3}))?\Z", re.ASCII)
_WHOLE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_TIME = re.compile(
    r"([1-9][0-9]{3})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?Z\Z",
    re.ASCII,
)
_HOUR = re.compile(r"[0-9]{8}T[0-9]{2}Z\Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ID_MAX = 2**63 - 1


def _decimal_text(value: int, unit: int, decimals: int) -> str:
    """Print an integer count of `unit`-ths with a fixed number of decimals."""
    whole, rest = divmod(abs(value), unit)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{decimals}d}"


@lru_cache(PRINTED_MAX)
def price_text(ticks: int, decimals: int = contract.PRICE_DECIMALS) -> str:
    """Print a price in ticks: `1.250`, or `0.0050` for slots (`contract.decimals_of`)."""
    return _decimal_text(ticks, 10**decimals, decimals)


def optional_price_text(ticks: int | None, decimals: int = contract.PRICE_DECIMALS) -> str | None:
    """Print a price that may not exist yet."""
    return None if ticks is None else price_text(ticks, decimals)


def micros_text(micros: int) -> str:
    """Print money in micro-USD: `12.340000`."""
    if micros < 0:
        return _decimal_text(micros, MICROS_PER_USD, 6)
    return f"{micros // MICROS_PER_USD}.{micros % MICROS_PER_USD:06d}"


def short_money_text(micros: int) -> str:
    """Return micro-USD for people: `1,000.00`, `0.0576`; at least two decimals, a true minus."""
    whole, _, rest = micros_text(abs(micros)).partition(".")
    decimals = rest.rstrip("0").ljust(2, "0")
    sign = "\N{MINUS SIGN}" if micros < 0 else ""
    return f"{sign}{int(whole):,}.{decimals}"


def ntu_text(mntu: int) -> str:
    """Print tokens in thousandths of an NTU: `60000.000`."""
    return _decimal_text(mntu, MNTU_PER_NTU, 3)


def average_price_text(
    notional_ticks: int, lots: int, decimals: int = contract.PRICE_DECIMALS
) -> str | None:
    """Print the average price of fills with six decimals, half to even; None without fills."""
    if lots == 0:
        return None
    micros, rest = divmod(notional_ticks * 10 ** (6 - decimals), lots)
    if 2 * rest > lots or (2 * rest == lots and micros % 2 == 1):
        micros += 1
    return micros_text(micros)


@lru_cache(PRINTED_MAX)
def time_text(at: int) -> str:
    """Print an instant: `2026-12-05T14:00:00.000000Z`."""
    moment = _EPOCH + timedelta(microseconds=at)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def moment_text(moment: datetime) -> str:
    """Print an aware datetime, as the database returns it."""
    return time_text((moment - _EPOCH) // _MICROSECOND)


def optional_moment_text(moment: datetime | None) -> str | None:
    """Print an aware datetime that may not exist yet."""
    return None if moment is None else moment_text(moment)


def hour_text(at: int) -> str:
    """Print the hour of a symbol or path: `20261205T14Z`."""
    return f"{_EPOCH + timedelta(microseconds=at):%Y%m%dT%H}Z"


def parse_price(text: str, field: str = "price", decimals: int = contract.PRICE_DECIMALS) -> int:
    """Return a price in ticks from exactly as many decimals as the tick has.

    :raises Malformed: `invalid_price`.
    """
    match = _PRICE.match(text)
    ticks = 0
    if match is not None and len(match[2]) == decimals:
        ticks = int(match[1]) * 10**decimals + int(match[2])
    if not 1 <= ticks <= PRICE_TICKS_MAX:
        raise invalid(
            field,
            "invalid_price",
            f"a price is a string with exactly {_NUMBERS[decimals]} decimals,"
            f" as {price_text(1_250, decimals)}",
        )
    return ticks


def padded_price(typed: str, decimals: int = contract.PRICE_DECIMALS) -> str:
    """Return what somebody typed with as many decimals as a price has."""
    whole, _, rest = typed.strip().partition(".")
    return f"{whole}.{rest.ljust(decimals, '0')}"


def price_decimals(text: str) -> int:
    """Return how many decimals a price is written with, for one whose instrument is not known."""
    decimals = len(text.partition(".")[2])
    return decimals if decimals in _NUMBERS else contract.PRICE_DECIMALS


def parse_money(text: str, field: str = "amount") -> int:
    """Return a positive amount in micro-USD from up to six decimals.

    :raises Malformed: `invalid_amount`.
    """
    match = _MONEY.match(text)
    micros = 0
    if match is not None:
        micros = int(match[1]) * MICROS_PER_USD + int((match[2] or "").ljust(6, "0"))
    if not 1 <= micros <= MONEY_MICROS_MAX:
        raise invalid(
            field, "invalid_amount", "an amount is a positive string with at most six decimals"
        )
    return micros


def parse_ntu(text: str, field: str) -> int:
    """Return thousandths of an NTU from a whole number or exactly three decimals.

    :raises Malformed: `invalid_tokens`.
    """
    match = _NTU.match(text)
    if match is None:
        raise invalid(field, "invalid_tokens", "tokens are whole or have exactly three decimals")
    return int(match[1]) * MNTU_PER_NTU + int(match[2] or 0)


def parse_lots(value: object, field: str = "quantity", *, lots_max: int = 1_000_000) -> int:
    """Return a whole number of lots from a JSON integer.

    :raises Malformed: `invalid_quantity`.
    """
    if type(value) is not int or not 1 <= value <= lots_max:
        raise invalid(field, "invalid_quantity", f"lots are an integer from 1 to {lots_max}")
    return value


def parse_time(text: str, field: str) -> int:
    """Return an instant from RFC 3339 in UTC, written with `Z`.

    :raises Malformed: `invalid_time`.
    """
    match = _TIME.match(text)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = map(int, match.groups()[:6])
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise invalid(
            field, "invalid_time", "a time is RFC 3339 in UTC: 2026-12-05T14:00:00Z"
        ) from None
    return (moment - _EPOCH) // _MICROSECOND + int((match[7] or "").ljust(6, "0"))


def parse_hour(text: str, field: str) -> int:
    """Return the instant of an hour written `20261205T14Z`.

    :raises Malformed: `invalid_hour`.
    """
    try:
        if _HOUR.match(text) is None:
            raise ValueError
        moment = datetime.strptime(text, "%Y%m%dT%HZ").replace(tzinfo=UTC)
    except ValueError:
        raise invalid(field, "invalid_hour", "an hour is written 20261205T14Z") from None
    return (moment - _EPOCH) // _MICROSECOND


def parse_id(text: str) -> int:
    """Return the number of an opaque id.

    A text that is no id at all names nothing, so it is refused as an unknown one is.

    :raises NotFound: when it is not one.
    """
    if _WHOLE.match(text) is None or int(text) > _ID_MAX:
        raise errors.NotFound()
    return int(text)


def parse_whole(text: str, field: str, *, low: int, high: int) -> int:
    """Return a whole number of a query parameter.

    :raises Malformed: `invalid_number`.
    """
    if _WHOLE.match(text) is None or not low <= int(text) <= high:
        raise invalid(field, "invalid_number", f"{field} is a whole number from {low} to {high}")
    return int(text)


def invalid(field: str, code: str, detail: str) -> errors.Malformed:
    """Return the refusal of one field: `malformed`, with the field and what is wrong with it."""
    return errors.Malformed(detail, errors=[errors.FieldError(field=field, code=code)])
