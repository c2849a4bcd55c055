"""Recomputes published waits and times to first token from the public leaves of the log.

Each file is a page of `GET /api/v1/receipts/leaves`, as it came; no database is asked, no secret.
"""

from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from admission import percentiles, receipts
from marketplace import wire


class _Leaf(msgspec.Struct):
    hash: str
    leaf: str


class _Page(msgspec.Struct):
    results: list[_Leaf]


class Command(BaseCommand):
    """Prints a line for each pool, interval and class."""

    help = "Recompute the published percentiles from pages of receipts/leaves."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the pages."""
        parser.add_argument("pages", nargs="+", help="files, each a page of receipts/leaves")

    def handle(self, *args: Any, **options: Any) -> None:
        """Add them up."""
        leaves = []
        try:
            for path in options["pages"]:
                page = msgspec.json.decode(Path(path).read_bytes(), type=_Page)
                leaves += [(one.hash, one.leaf) for one in page.results]
            found = percentiles.recompute(leaves)
        except (OSError, ValueError, receipts.Invalid) as error:
            raise CommandError(f"cannot be recomputed: {error}") from None
        for (pool, starts_at, name), of in found.items():
            self.stdout.write(
                f"{pool} {wire.time_text(int(starts_at))} {name.upper()}"
                f" admitted {of.admitted}"
                f" wait {of.queue_ms_p50} {of.queue_ms_p95} {of.queue_ms_p99} ms"
                f" first token {_ms(of.first_token_ms_p50)} {_ms(of.first_token_ms_p99)} ms"
            )


def _ms(value: int | None) -> str:
    return "-" if value is None else str(value)
