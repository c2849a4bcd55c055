"""Writes many rows with one statement, and many statements in one round trip.

A batch is sent column by column (`unnest` of arrays), so that a thousand rows cost one parse, one
plan and one round trip. The statements are composed once, from names that stand in the source and
never from data.

`transaction` is where they go: a `Writer` sends each statement and waits for none, so the database
works on the first while the next is still being composed. Before the commit it waits for all of
them and judges what they did; the first that failed raises, and nothing of the block is kept.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg

from marketplace import clock

Row = Sequence[Any]
Check = Callable[[int], None]
"""Judges how many rows a statement has written; raises when it should have been others."""
INSTANTS_MAX = 4_096
INSTANT = "instant"
"""The kind of a column whose values are microseconds since the epoch; a `timestamptz`."""


class Writer:
    """The statements of one transaction, sent one after another without waiting for any."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._checks: list[tuple[psycopg.Cursor[Any], Check]] = []

    def execute(self, statement: bytes, arguments: Any = (), check: Check | None = None) -> None:
        """Send a statement; `check` is asked for its judgment before the commit.

        :raises psycopg.Error: when an earlier statement is known to have failed.
        """
        cursor = self._cursor if check is None else self._connection.cursor()
        cursor.execute(statement, arguments, prepare=bool(arguments))
        if check is not None:
            self._checks.append((cursor, check))

    def judge(self) -> None:
        """Ask every check; all statements are through."""
        for cursor, check in self._checks:
            check(cursor.rowcount)


@contextlib.contextmanager
def transaction(connection: psycopg.Connection[Any]) -> Iterator[Writer]:
    """Commit what the block sends, all of it or nothing.

    :raises psycopg.Error: when a statement failed, or the outcome of the commit is unknown.
    """
    try:
        with connection.pipeline() as pipeline:
            writer = Writer(connection)
            writer.execute(b"BEGIN")
            yield writer
            pipeline.sync()
            writer.judge()
            writer.execute(b"COMMIT")
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise


class Table:
    """A table, the columns that are written, with their types, and the key rows are matched by."""

    def __init__(self, name: str, columns: Mapping[str, str], *, key: Sequence[str]) -> None:
        self.name = name
        self.columns = dict(columns)
        self._kinds = tuple(columns.values())
        names = ", ".join(f'"{column}"' for column in columns)
        types = ["timestamptz" if kind == INSTANT else kind for kind in self._kinds]
        arrays = ", ".join(f"%s::{name}[]" for name in types)
        others = [column for column in columns if column not in key]
        changed = ", ".join(f'"{column}" = excluded."{column}"' for column in others)
        assigned = ", ".join(f'"{column}" = v."{column}"' for column in others)
        matched = " AND ".join(f't."{column}" = v."{column}"' for column in key)
        keys = ", ".join(f'"{column}"' for column in key)
        rows = f"SELECT * FROM unnest({arrays})"  # noqa: S608
        insert = f'INSERT INTO "{name}" ({names}) {rows}'
        self._insert = insert.encode()
        self._upsert = f"{insert} ON CONFLICT ({keys}) DO UPDATE SET {changed}".encode()
        self._update = (
            f'UPDATE "{name}" AS t SET {assigned} '  # noqa: S608
            f"FROM unnest({arrays}) AS v({names}) WHERE {matched}"
        ).encode()

    def insert(self, writer: Writer, rows: Sequence[Row]) -> None:
        """Insert rows, each in the order of the table's columns."""
        self._run(writer, self._insert, rows)

    def upsert(self, writer: Writer, rows: Sequence[Row]) -> None:
        """Insert rows, or replace what the key finds; no key may come twice."""
        self._run(writer, self._upsert, rows)

    def update(self, writer: Writer, rows: Sequence[Row]) -> None:
        """Change the rows that the key finds; the transaction asserts that it found every one."""
        count = len(rows)

        def check(written: int) -> None:
            assert written == count, f"every row of {self.name} is there"

        self._run(writer, self._update, rows, check)

    def _run(
        self, writer: Writer, statement: bytes, rows: Sequence[Row], check: Check | None = None
    ) -> None:
        if rows:
            columns = zip(*rows, strict=True)
            arrays = [
                array_text(kind, column) for kind, column in zip(self._kinds, columns, strict=True)
            ]
            writer.execute(statement, arrays, check)


def array_text(kind: str, values: Sequence[Any]) -> str:
    """Return an array as PostgreSQL reads it.

    This is a third of what the driver's own way costs, which looks at every value for its type.
    """
    texts: Iterable[str]
    if kind in ("bigint", "smallint"):
        texts = map(str, values)
    elif kind == INSTANT:
        texts = map(_instant, values)
    elif kind == "text":
        texts = map(_quoted, values)
    elif kind == "bytea":
        texts = (f'"\\\\x{value.hex()}"' for value in values)
    else:
        texts = (f'"{value}"' for value in values)
    if None in values:
        texts = (
            "NULL" if value is None else text for value, text in zip(values, texts, strict=True)
        )
    return f"{{{','.join(texts)}}}"


@lru_cache(INSTANTS_MAX)
def _instant(at: int | None) -> str:
    """Return an instant in quotes; a batch has few of them, many times over."""
    return "NULL" if at is None else f'"{clock.to_datetime(at)}"'


def _quoted(value: str) -> str:
    """Return a text in quotes, whatever it holds."""
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
