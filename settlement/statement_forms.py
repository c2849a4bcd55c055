"""A month's statement as CSV and as PDF, both made from the same body.

The CSV is one table: a section, what it is about, a count, and an amount, so that a spreadsheet can
sum it; texts that a spreadsheet would take for a formula are quoted. The PDF is the same to the
byte whenever it is made: it has no date but the statement's own.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from marketplace import text, wire
from settlement import monthly
from settlement.monthly import Month

LABELS = {"cash": "Cash", "escrow": "Escrow", "usage_hold": "Held for usage"}
_LATIN = "cp1252"
"""What the PDF's own fonts have; a name in other letters stands beside its organization's id."""
_COLUMN_WIDTHS_MM = 180


def to_csv(month: Month) -> str:
    """Return a statement as CSV, amounts in USD and signed as the organization sees them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["section", "about", "what", "count", "amount_usd", "time_zone"])
    for row in _rows(month):
        writer.writerow([text.spreadsheet_cell(cell) for cell in (*row, month.time_zone)])
    return out.getvalue()


def _rows(month: Month) -> list[tuple[str, str, str, str, str]]:
    """Return every line of a statement: section, about, what, count, amount."""
    rows = [("statement", month.organization, month.month, str(month.organization_id), "")]
    for part in month.accounts:
        name = part.account
        rows.append((name, month.since, "opening", "", _usd(part.opening_micros)))
        rows += [
            (name, "", one.code, str(one.count), _usd(one.total_micros)) for one in part.movements
        ]
        rows.append((name, month.until, "closing", "", _usd(part.closing_micros)))
    for trade in month.trades:
        about = f"{trade.grade} {trade.product}"
        rows += [
            ("trades", about, "bought_lots", str(trade.bought_lots), _usd(-trade.bought_micros)),
            ("trades", about, "sold_lots", str(trade.sold_lots), _usd(trade.sold_micros)),
            ("trades", about, "fees", str(trade.count), _usd(-trade.fees_micros)),
        ]
    for day in month.days:
        about = f"{day.grade} {day.date} {day.role}"
        rows += [
            ("delivery", about, "intervals", str(day.intervals), ""),
            ("delivery", about, "available_ntu", wire.ntu_text(day.available_mntu), ""),
            ("delivery", about, "missed_ntu", wire.ntu_text(day.short_mntu), ""),
            ("delivery", about, "delivered_ntu", wire.ntu_text(day.delivered_mntu), ""),
            ("delivery", about, "released", "", _usd(day.released_micros)),
            ("delivery", about, "refunded", "", _usd(day.refunded_micros)),
            ("delivery", about, "compensated", "", _usd(day.compensated_micros)),
        ]
    for one in month.corrections:
        about = f"{one.run} {one.role}"
        count = str(one.deliveries)
        rows += [
            ("corrections", about, "delivery", count, _usd(one.delivery_micros)),
            ("corrections", about, "damages", count, _usd(one.damages_micros)),
        ]
    return rows


def to_pdf(month: Month) -> bytes:
    """Return a statement as PDF, the same bytes for the same statement."""
    # The library takes a tenth of a second and 20 MB, and most processes never make a PDF.
    from reportlab.lib import pagesizes, styles, units
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=pagesizes.A4,
        invariant=1,
        title=f"Statement {month.month}",
        author="Baseload",
        leftMargin=15 * units.mm,
        rightMargin=15 * units.mm,
        topMargin=15 * units.mm,
        bottomMargin=15 * units.mm,
    )
    sheet = styles.getSampleStyleSheet()
    story: list[Any] = [
        Paragraph(f"Statement for {month.month}", sheet["Title"]),
        _table(
            [
                ["Organization", f"{month.organization} (id {month.organization_id})"],
                ["Period", f"{month.since} to {month.until}, UTC; the end is not in it"],
                ["Made", f"{month.made_at}{'' if month.is_closed else ', before the month ended'}"],
            ],
            has_head=False,
        ),
    ]
    for title, rows in _tables(month):
        story += [Spacer(1, 5 * units.mm), Paragraph(title, sheet["Heading2"])]
        story.append(_table(rows, has_head=True))
    document.build(story)
    return out.getvalue()


def _tables(month: Month) -> list[tuple[str, list[list[str]]]]:
    """Return the tables of the PDF with their titles, each with its head."""
    found = []
    for part in month.accounts:
        rows = [["", "Entries", "Received", "Paid", "USD"]]
        rows.append(["Opening balance", "", "", "", _usd(part.opening_micros)])
        rows += [
            [
                _label(one.code),
                str(one.count),
                _usd(one.received_micros),
                _usd(one.paid_micros),
                _usd(one.total_micros),
            ]
            for one in part.movements
        ]
        rows.append(["Closing balance", "", "", "", _usd(part.closing_micros)])
        found.append((LABELS[part.account], rows))
    trades = [["Grade", "Product", "Trades", "Lots bought", "Lots sold", "Bought", "Sold", "Fees"]]
    trades += [
        [
            one.grade,
            one.product,
            str(one.count),
            str(one.bought_lots),
            str(one.sold_lots),
            _usd(one.bought_micros),
            _usd(one.sold_micros),
            _usd(one.fees_micros),
        ]
        for one in month.trades
    ]
    days = [["Day", "Grade", "As", "Intervals", "NTU", "Released", "Refunded", "Compensated"]]
    days += [
        [
            one.date,
            one.grade,
            one.role,
            str(one.intervals),
            wire.ntu_text(one.delivered_mntu),
            _usd(one.released_micros),
            _usd(one.refunded_micros),
            _usd(one.compensated_micros),
        ]
        for one in month.days
    ]
    corrections = [["Run", "As", "Deliveries", "Delivery", "Damages"]]
    corrections += [
        [
            one.run,
            one.role,
            str(one.deliveries),
            _usd(one.delivery_micros),
            _usd(one.damages_micros),
        ]
        for one in month.corrections
    ]
    found += [("Trades", trades), ("Delivery", days), ("Corrections", corrections)]
    return [
        (title, rows if len(rows) > 1 else [*rows, ["Nothing.", *[""] * (len(rows[0]) - 1)]])
        for title, rows in found
    ]


def _table(rows: Sequence[Sequence[str]], *, has_head: bool) -> Any:
    """Return a table that goes on over pages with its head."""
    from reportlab.lib import colors, units
    from reportlab.platypus import LongTable, TableStyle

    width = _COLUMN_WIDTHS_MM * units.mm / len(rows[0])
    style = [
        ("FONT", (0, 0), (-1, -1), "Helvetica", 7.5),
        ("LINEBELOW", (0, 0), (-1, -1), 0.25, colors.lightgrey),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]
    if has_head:
        style += [
            ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 7.5),
            ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ]
    widths = [width] * len(rows[0]) if has_head else [30 * units.mm, 150 * units.mm]
    shown = [[_printable(cell) for cell in row] for row in rows]
    return LongTable(
        shown, colWidths=widths, repeatRows=int(has_head), style=TableStyle(style), hAlign="LEFT"
    )


def _printable(cell: str) -> str:
    """Return a text in the letters that the PDF's fonts have."""
    return cell.encode(_LATIN, "replace").decode(_LATIN)


def _label(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _usd(micros: int) -> str:
    return wire.micros_text(micros)


assert set(LABELS) == set(monthly.ACCOUNTS.values()), "every account has a name"
