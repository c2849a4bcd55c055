"""Arrays in PostgreSQL's own notation."""

from datetime import UTC, datetime

import pytest

from marketplace import rowset


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("bigint", [1, -2, 2**62], "{1,-2,4611686018427387904}"),
        ("bigint", [None, 5], "{NULL,5}"),
        ("text", ["a", "", "NULL"], '{"a","","NULL"}'),
        ("text", ['say "no"', "a\\b", "{1,2}"], '{"say \\"no\\"","a\\\\b","{1,2}"}'),
        ("bytea", [b"\x00\xff", b""], '{"\\\\x00ff","\\\\x"}'),
        (
            "timestamptz",
            [datetime(2026, 12, 5, 14, 0, 0, 1, tzinfo=UTC), None],
            '{"2026-12-05 14:00:00.000001+00:00",NULL}',
        ),
    ],
)
def test_an_array_is_written_as_postgresql_reads_it(kind: str, values: list, text: str) -> None:
    assert rowset.array_text(kind, values) == text
