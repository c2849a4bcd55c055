"""How the command line shows things: tables for people, JSON for programs.

Results go to standard output, everything else (progress, errors) to standard error. With `--json` a
command prints one document, and one that goes on for as long as it is let prints one to a line.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

import msgspec

from baseload import models

_encoder = msgspec.json.Encoder()


class Output:
    """Where a command writes to, and how."""

    def __init__(
        self, *, is_json: bool, out: TextIO | None = None, notes: TextIO | None = None
    ) -> None:
        self.is_json = is_json
        self._out = out or sys.stdout
        self._notes = notes or sys.stderr

    def line(self, text: str = "") -> None:
        """Write a line at once."""
        self._out.write(text + "\n")
        self._out.flush()

    def json(self, value: Any) -> None:
        """Write a value as one line of JSON."""
        self.line(_encoder.encode(value).decode())

    def note(self, text: str) -> None:
        """Tell the person something that is no result."""
        self._notes.write(text + "\n")
        self._notes.flush()

    def rows(
        self, values: Sequence[Any], columns: Sequence[str], *, empty: str = "nothing"
    ) -> None:
        """Show values: these attributes as the columns of a table, or everything as JSON."""
        if self.is_json:
            self.json(values)
        elif not values:
            self.note(empty)
        else:
            cells = [[text(getattr(one, name)) for name in columns] for one in values]
            for shown in table([name.replace("_", " ") for name in columns], cells):
                self.line(shown)

    def fields(self, value: Any) -> None:
        """Show one value: a line per field that has one, or JSON."""
        if self.is_json:
            self.json(value)
            return
        shown = [
            (name.replace("_", " "), text(field))
            for name, field in msgspec.structs.asdict(value).items()
            if field is not None and not isinstance(field, tuple | dict | msgspec.Struct)
        ]
        width = max(len(name) for name, _ in shown)
        for name, said in shown:
            self.line(f"{name:<{width}}  {said}")

    def progress(self, what: str, total: int | None = None) -> "Progress":
        """Return a count that is shown while it grows, to a person only."""
        return Progress(self._notes, what, total, is_shown=self._notes.isatty())


class Progress:
    """How far something long has come, on one line of a terminal."""

    def __init__(self, notes: TextIO, what: str, total: int | None, *, is_shown: bool) -> None:
        self.done = 0
        self._notes = notes
        self._what = what
        self._total = total
        self._is_shown = is_shown

    def advance(self, count: int = 1) -> None:
        """Count and show."""
        self.done += count
        if self._is_shown:
            of = "" if self._total is None else f" of {self._total}"
            self._notes.write(f"\r{self._what}: {self.done}{of} ")
            self._notes.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._is_shown and self.done:
            self._notes.write("\n")


def text(value: Any) -> str:
    """Return a value as a person reads it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            precise = "%Y-%m-%d %H:%M:%S" if value.second or value.microsecond else "%Y-%m-%d %H:%M"
            return value.strftime(precise)
        case Decimal():
            return f"{value:f}"
        case dict():
            return "{" + ", ".join(f"{name} {text(one)}" for name, one in value.items()) + "}"
        case tuple() | list():
            return " .. ".join(text(one) for one in value)
        case _:
            return str(value)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield the lines of a table; columns of numbers are set to the right."""
    numeric = [
        all(row[i] == "-" or row[i].lstrip("-").replace(".", "", 1).isdigit() for row in rows)
        for i in range(len(names))
    ]
    widths = [max(len(row[i]) for row in [names, *rows]) for i in range(len(names))]
    for row in [names, *rows]:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def book_lines(
    bids: Sequence[tuple[Decimal, int]], asks: Sequence[tuple[Decimal, int]]
) -> Iterable[str]:
    """Yield a book's lines, bids at the left and asks at the right, the best on top."""
    yield f"{'lots':>10} {'bid':>9}   {'ask':<9} {'lots':<10}"
    for i in range(max(len(bids), len(asks))):
        bid = f"{bids[i][1]:>10} {bids[i][0]:>9f}" if i < len(bids) else " " * 20
        ask = f"{asks[i][0]:<9f} {asks[i][1]:<10}" if i < len(asks) else ""
        yield f"{bid}   {ask}".rstrip()


def order_line(order: models.Order) -> str:
    """Return an order in one line."""
    price = "at market" if order.price is None else f"@ {order.price:f}"
    if order.stop_price is not None:
        price += f", stop {order.stop_price:f}"
    filled = f"{order.filled_quantity} of {order.quantity} filled"
    average = "" if order.average_price is None else f" at {order.average_price:f}"
    reason = "" if order.reason is None else f" ({order.reason})"
    return (
        f"{order.id}  {order.side} {order.quantity} {order.instrument} {price}  "
        f"{order.status}{reason}, {filled}{average}"
    )
