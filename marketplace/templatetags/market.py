"""How the pages print what the tables hold: ticks, micro-USD, mNTU, instants.

The tables hold integers; a page shows decimals. All printing goes through here, so that a price has
its tick's decimals on every page and what is missing (None, or to a template an empty text) is a
dash. A time is shown in UTC and carries the whole instant, from which the script writes the
reader's own time into its tooltip.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template
from django.utils import html
from django.utils.safestring import SafeString

from marketplace import contract, wire

register = template.Library()

DASH = "–"
MINUS = "−"
BREAK = SafeString(".<wbr>")


@register.filter
def price(ticks: int | None, symbol: str = "") -> str:
    """Print ticks of an instrument, of lots of tokens where none is named: `1.250`, `0.0050`."""
    return wire.price_text(ticks, contract.decimals_of(symbol)) if isinstance(ticks, int) else DASH


@register.filter
def breakable(symbol: str) -> SafeString:
    """Print a symbol that a narrow table may break after its points."""
    return html.format_html_join(BREAK, "{}", ((part,) for part in symbol.split(".")))


@register.filter
def signed_price(ticks: int | None) -> str:
    """Print a difference of prices with its sign, plus included: `+0.025`."""
    if not isinstance(ticks, int):
        return DASH
    return f"{'+' if ticks > 0 else MINUS if ticks < 0 else ''}{wire.price_text(abs(ticks))}"


@register.filter
def money(micros: int | None) -> str:
    """Print micro-USD to the last digit that is not zero, two at least: `1,000.00`, `0.0576`."""
    return wire.short_money_text(micros) if isinstance(micros, int) else DASH


@register.filter
def money6(micros: int | None) -> str:
    """Print micro-USD with all six decimals, for columns that add up."""
    if not isinstance(micros, int):
        return DASH
    whole, _, rest = wire.micros_text(abs(micros)).partition(".")
    return f"{MINUS if micros < 0 else ''}{int(whole):,}.{rest}"


@register.filter
def signed_money6(micros: int | None) -> str:
    """Print micro-USD with six decimals and its sign, plus included."""
    return f"+{money6(micros)}" if isinstance(micros, int) and micros > 0 else money6(micros)


@register.filter
def count(number: int | None) -> str:
    """Print a whole number with thousands apart."""
    return f"{number:,}".replace("-", MINUS) if isinstance(number, int) else DASH


@register.filter
def signed(number: int | None) -> str:
    """Print a whole number with its sign, plus included."""
    return f"+{count(number)}" if isinstance(number, int) and number > 0 else count(number)


@register.filter
def ntu(mntu: int | None) -> str:
    """Print thousandths of an NTU as NTU, with decimals only where there are any."""
    if not isinstance(mntu, int):
        return DASH
    whole, rest = divmod(mntu, wire.MNTU_PER_NTU)
    return f"{whole:,}.{rest:03d}" if rest else f"{whole:,}"


@register.filter
def label(text: str | None) -> str:
    """Print a stored enumeration: `PARTIALLY_FILLED` as `partially filled`."""
    return (text or DASH).replace("_", " ").lower()


@register.filter
def percent(share: float | Decimal | None) -> str:
    """Print a share between 0 and 1 as a percentage."""
    return f"{share * 100:.1f} %" if isinstance(share, float | Decimal) else DASH


def _time(moment: datetime | None, shape: str) -> str | SafeString:
    if moment is None:
        return DASH
    text = format(moment, shape)
    return html.format_html('<time datetime="{}">{}</time>', wire.moment_text(moment), text)


@register.filter
def clock(moment: datetime | None) -> str | SafeString:
    """Print the time of day: `14:00:00`."""
    return _time(moment, "%H:%M:%S")


@register.filter
def hour(moment: datetime | None) -> str | SafeString:
    """Print the time of day to the minute: `14:00`."""
    return _time(moment, "%H:%M")


@register.filter
def day(moment: datetime | None) -> str | SafeString:
    """Print the date: `5 Dec`."""
    return DASH if moment is None else _time(moment, f"{moment.day} %b")


@register.filter
def day_hour(moment: datetime | None) -> str | SafeString:
    """Print date and hour: `5 Dec 14:00`."""
    return DASH if moment is None else _time(moment, f"{moment.day} %b %H:%M")


@register.filter
def window(instrument: Any) -> str | SafeString:
    """Print what an instrument delivers in: `5 Dec 14:00`, `Sat 6 Dec`, `W50 8 Dec`, `Jan 2026`.

    A price cap has its strike behind: `Jan 2026 above 1.250`.
    """
    at = instrument.starts_at
    match instrument.product:
        case "DAY":
            return _time(at, f"%a {at.day} %b")
        case "WEEK":
            return _time(at, f"W%V {at.day} %b")
        case "CAP":
            terms = contract.parse_symbol(instrument.symbol)
            strike = price(terms.strike if terms else None)
            return html.format_html("{} above {}", _time(at, "%b %Y"), strike)
        case "MONTH" | "COVER":
            return _time(at, "%b %Y")
        case _:
            return day_hour(at)


@register.filter
def instant(moment: datetime | None) -> str | SafeString:
    """Print the date and the time to the second: `2026-12-05 14:00:00`; a phone drops the date."""
    if moment is None:
        return DASH
    return html.format_html(
        '<time datetime="{}"><span class="wide">{} </span>{}</time>',
        wire.moment_text(moment),
        f"{moment:%Y-%m-%d}",
        f"{moment:%H:%M:%S}",
    )


STATE_TAGS = {
    "CONTINUOUS": "live",
    "CERTIFIED": "live",
    "OPEN": "live",
    "ACTIVE": "live",
    "HALTED": "bad",
    "REFUSED": "bad",
    "REJECTED": "bad",
    "FAILED": "bad",
    "DOWN": "bad",
    "PENDING": "wait",
    "RUNNING": "wait",
    "PARTIALLY_FILLED": "wait",
    "SCHEDULED": "wait",
    "CALL": "wait",
}


@register.filter
def tag(state: str | None) -> str | SafeString:
    """Print a state as a small label; the color only repeats what the word says."""
    kind = STATE_TAGS.get((state or "").upper(), "")
    return html.format_html('<span class="tag {}">{}</span>', kind, label(state))
