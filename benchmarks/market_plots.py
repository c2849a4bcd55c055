"""The plots of the market's report, written as SVG by hand: lines, and bars.

No library draws them, so that neither the tests nor a reader of the repository needs one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "market-report"
WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 34, 34
COLORS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e6c00", "#6c3483", "#555555", "#d35400")


def draw(found: Mapping[str, Any], duels: Mapping[str, Any], stressed: Mapping[str, Any]) -> None:
    """Write all plots."""
    FOLDER.mkdir(exist_ok=True)
    path = found["paths"]
    lines("prices", "Price by day, ticks", {k: path[k] for k in ("listed", "believed", "index")})
    buyers = {k[6:]: v for k, v in path.items() if k.startswith("price ")}
    lines(
        "buyers", "Price paid by buyers who hedge by month, week, day, hour, or not, ticks", buyers
    )
    lines(
        "margin",
        "Reserved of all accounts, and variation paid in a day, USD",
        {"reserved": path["margin"], "variation": path["variation"]},
    )
    lines(
        "volatility",
        "Volatility auctions started in a day",
        {
            "believed price": found["volatility"]["by_day"],
            "listed price": stressed["volatility"]["by_day"],
        },
    )
    ratios = {kind: row["variance_ratio_days"] for kind, row in found["hedging"].items()}
    bars("hedging", "Variance of the daily price over that of paying as one goes", ratios)
    bars("cheats", "Gain by cheating, USD", {k: v["gain_usd"] for k, v in duels.items()})


def lines(name: str, title: str, series: Mapping[str, Sequence[float]]) -> None:
    """Write a plot of lines over days; zeros are gaps."""
    top = max((value for values in series.values() for value in values), default=1) or 1
    count = max(len(values) for values in series.values())
    parts = _frame(title, 0, top)
    for place, (label, values) in enumerate(series.items()):
        color = COLORS[place % len(COLORS)]
        points = " ".join(
            f"{_x(day, count):.1f},{_y(value, 0, top):.1f}"
            for day, value in enumerate(values)
            if value
        )
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>')
        parts.append(_text(LEFT + 8 + 110 * place, TOP - 4, label, color))
    for day in range(0, count, 5):
        parts.append(_text(_x(day, count), HEIGHT - 12, f"day {day}"))
    _write(name, parts)


def bars(name: str, title: str, values: Mapping[str, float]) -> None:
    """Write a plot of bars, upwards and downwards."""
    top, low = max([1e-9, *values.values()]), min([0.0, *values.values()])
    parts = _frame(title, low, top)
    width = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    for place, (label, value) in enumerate(values.items()):
        x = LEFT + place * width + width * 0.2
        zero, y = _y(0, low, top), _y(value, low, top)
        parts.append(
            f'<rect x="{x:.1f}" y="{min(zero, y):.1f}" width="{width * 0.6:.1f}" '
            f'height="{max(1, abs(zero - y)):.1f}" fill="{COLORS[0 if value <= 0 else 1]}"/>'
        )
        parts.append(_text(x, min(zero, y) - 4, f"{value:,.2f}"))
        parts.append(_text(x - width * 0.15, HEIGHT - 12, label))
    _write(name, parts)


def _x(place: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * place / max(1, count - 1)


def _y(value: float, low: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((top - low) or 1)


def _text(x: float, y: float, text: str, color: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{color}">{text}</text>'


def _frame(title: str, low: float, top: float) -> list[str]:
    """Return the axes and the title."""
    parts = [_text(LEFT, 14, title, "#000000")]
    for step in range(5):
        value = low + (top - low) * step / 4
        y = _y(value, low, top)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        )
        parts.append(_text(4, y + 4, f"{value:,.2f}" if top - low < 10 else f"{value:,.0f}"))
    return parts


def _write(name: str, parts: Sequence[str]) -> None:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif">'
    )
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    (FOLDER / f"{name}.svg").write_text("\n".join((head, back, *parts, "</svg>")) + "\n")
