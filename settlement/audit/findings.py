"""What a check says, and how the checks that are one query are made."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

VIOLATIONS_SHOWN_MAX = 20
"""How many violations of one check are spelled out; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check saw: how many things, how many of them wrong, and some of those."""

    name: str
    checked: int
    violations: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it on one line."""
        if not self.violations:
            return f"{self.name}: OK ({self.checked})"
        return f"{self.name}: VIOLATION ({self.violations} of {self.checked}: {self.examples[0]})"


Check = Callable[[datetime | None], Finding]
"""Looks at what is younger than an instant, or at everything."""


def from_sql(name: str, counted: str, wrong: str, values: dict[str, Any] | None = None) -> Finding:
    """Return a finding of two queries: one counts, the other selects a text per violation."""
    with connection.cursor() as cursor:
        cursor.execute(counted, values or {})
        checked = int(cursor.fetchone()[0])
        cursor.execute(
            f"SELECT wrong, count(*) OVER () FROM ({wrong}) AS found (wrong)"  # noqa: S608
            f" ORDER BY wrong LIMIT {VIOLATIONS_SHOWN_MAX}",
            values or {},
        )
        rows = cursor.fetchall()
    return Finding(
        name=name,
        checked=checked,
        violations=rows[0][1] if rows else 0,
        examples=tuple(row[0] for row in rows),
    )


def from_list(name: str, checked: int, wrong: list[str]) -> Finding:
    """Return a finding of what was gathered by hand."""
    return Finding(
        name=name,
        checked=checked,
        violations=len(wrong),
        examples=tuple(wrong[:VIOLATIONS_SHOWN_MAX]),
    )
