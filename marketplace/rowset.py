"""Writes many rows with one statement, and many statements in one round trip.

A batch is sent column by column (`unnest` of arrays), so that a thousand rows cost one parse, one
plan and one round trip. The statements are composed once, from names that stand in the source and
never from data.

`transaction` is where they go: a `Writer` takes each statement and waits for none, and the commit
goes out behind the last. What a statement must have done is part of it: one that writes another
number of rows than it should fails, and nothing of the block is kept.

This speaks to libpq itself, with psycopg's errors: its cursors cost as much as the statements do,
and send each for itself, which wakes the database and this process a dozen times for one batch.
"""

import contextlib
import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, pq
from psycopg.pq.abc import PGresult

from marketplace import clock

Row = Sequence[Any]
INSTANTS_MAX = 4_096
STATEMENTS_MAX = 1_024
INSTANT = "instant"
"""The kind of a column whose values are microseconds since the epoch; a `timestamptz`."""
_COUNTED_WRONG = "22012"
"""`division_by_zero`: how a statement fails that has not written the rows it should."""

_prepared: "WeakKeyDictionary[psycopg.Connection[Any], dict[bytes, bytes]]" = WeakKeyDictionary()
"""What each session knows by which name."""
_names = count(1)


class Writer:
    """The statements of one transaction, sent one after another without waiting for any."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._pgconn = connection.pgconn
        self._connection = connection
        self._known = _prepared.setdefault(connection, {})
        self._expected: list[Exception | None] = []
        """What each result that is still to come is in place of, when its statement miscounts."""
        self._pgconn.enter_pipeline_mode()
        self.execute(b"BEGIN")

    def execute(
        self,
        statement: bytes,
        arguments: Sequence[Any] = (),
        *,
        rows: int | None = None,
        otherwise: Exception | None = None,
    ) -> None:
        """Take a statement; in the end `otherwise` is raised when it has not written `rows` rows.

        :raises psycopg.Error: when the session is lost.
        """
        form = _numbered(statement, is_counted=rows is not None)
        name = self._known.get(form)
        if name is None:
            name = b"baseload_%d" % next(_names)
            self._pgconn.send_prepare(name, form)
            self._expected.append(None)
            self._known[form] = name
        values = [_dumped(value) for value in arguments]
        if rows is not None:
            values.append(b"%d" % rows)
        formats = [pq.Format.BINARY if isinstance(each, bytes) else _TEXT for each in arguments]
        formats += [_TEXT] * (len(values) - len(formats))
        self._pgconn.send_query_prepared(name, values, formats)
        self._expected.append(otherwise)

    def flush(self) -> None:
        """Let the database begin with what it has been given.

        :raises psycopg.OperationalError: when the session is lost.
        """
        while self._pgconn.flush():
            self._wait(select.POLLIN | select.POLLOUT)

    def commit(self) -> None:
        """Commit, and wait until it is known.

        :raises psycopg.Error: what the first statement that failed did, or the session is lost.
        """
        self.execute(b"COMMIT")
        error = self._end()
        if error is not None:
            raise error

    def abandon(self) -> None:
        """Keep nothing, and let the session go on, unless it is lost.

        A rollback of psycopg's may deallocate every statement of the session, ours among them.
        """
        self._known.clear()
        if self._connection.closed:
            return
        if self._pgconn.pipeline_status != pq.PipelineStatus.OFF:
            self._end()
        self._connection.rollback()

    def _end(self) -> Exception | None:
        """Wait for all that was sent; return the error of the first statement that failed."""
        self._pgconn.pipeline_sync()
        self.flush()
        failed: Exception | None = None
        for otherwise in self._expected:
            result = self._next()
            assert result is not None, "every statement has a result"
            if failed is None and result.status == pq.ExecStatus.FATAL_ERROR:
                failed = self._error(result, otherwise)
            while self._next() is not None:
                pass
        self._expected.clear()
        result = self._next()
        assert result is not None, "the end of a pipeline has a result"
        assert result.status == pq.ExecStatus.PIPELINE_SYNC, "nothing else was sent"
        self._pgconn.exit_pipeline_mode()
        return failed

    def _error(self, result: PGresult, otherwise: Exception | None) -> Exception:
        """Return what a failed statement means.

        :raises psycopg.OperationalError: when the session is lost.
        """
        if self._pgconn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the session is lost")
        error = errors.error_from_result(result)
        is_count = otherwise is not None and error.sqlstate == _COUNTED_WRONG
        return otherwise if is_count and otherwise is not None else error

    def _next(self) -> PGresult | None:
        """Return the next result, None where a statement's results end."""
        while self._pgconn.is_busy():
            self._wait(select.POLLIN)
        if self._pgconn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the session is lost")
        return self._pgconn.get_result()

    def _wait(self, events: int) -> None:
        """Wait until something can be read, or written where that is asked for."""
        poll = select.poll()
        poll.register(self._pgconn.socket, events)
        if any(ready & ~select.POLLOUT for _, ready in poll.poll()):
            self._pgconn.consume_input()


@contextlib.contextmanager
def transaction(connection: psycopg.Connection[Any]) -> Iterator[Writer]:
    """Commit what the block sends, all of it or nothing.

    :raises psycopg.Error: when a statement failed, or the outcome of the commit is unknown.
    """
    writer = Writer(connection)
    try:
        yield writer
        writer.commit()
    except BaseException:
        writer.abandon()
        raise


def fetch(
    connection: psycopg.Connection[Any], statement: bytes, arguments: Sequence[Any]
) -> list[tuple[bytes | None, ...]]:
    """Return the rows of a question that is asked often, each value as PostgreSQL sends it.

    :raises psycopg.Error: when it fails.
    """
    pgconn, form = connection.pgconn, _numbered(statement, is_counted=False)
    known = _prepared.setdefault(connection, {})
    if form not in known:
        name = b"baseload_%d" % next(_names)
        _checked(pgconn.prepare(name, form))
        known[form] = name
    formats = [pq.Format.BINARY if isinstance(each, bytes) else _TEXT for each in arguments]
    values: list[Any] = [_dumped(value) for value in arguments]
    result = _checked(pgconn.exec_prepared(known[form], values, formats, pq.Format.BINARY))
    columns = range(result.nfields)
    return [
        tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)
    ]


def _checked(result: PGresult) -> PGresult:
    """:raises psycopg.Error: when it is the result of a failure."""
    if result.status == pq.ExecStatus.FATAL_ERROR:
        error = errors.error_from_result(result)
        raise error if error.sqlstate else psycopg.OperationalError("the session is lost")
    return result


def _dumped(value: Any) -> bytes | None:
    """Return an argument as it is sent."""
    if isinstance(value, str):
        return value.encode()
    if value is None or isinstance(value, bytes):
        return value
    assert isinstance(value, int | datetime), "a kind of argument that is sent"
    return str(value).encode()


@lru_cache(STATEMENTS_MAX)
def _numbered(statement: bytes, *, is_counted: bool) -> bytes:
    """Return a statement with its arguments numbered, and counting what it writes."""
    first, *others = statement.split(b"%s")
    form = first + b"".join(b"$%d" % i + other for i, other in enumerate(others, 1))
    if not is_counted:
        return form
    last = len(others) + 1
    return b"WITH written AS (%b RETURNING 1) SELECT 1 / (count(*) = $%d)::int FROM written" % (
        form,
        last,
    )


_TEXT = pq.Format.TEXT


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
        missing = AssertionError(f"every row of {self.name} is there")
        self._run(writer, self._update, rows, missing)

    def _run(
        self,
        writer: Writer,
        statement: bytes,
        rows: Sequence[Row],
        otherwise: Exception | None = None,
    ) -> None:
        if rows:
            columns = zip(*rows, strict=True)
            arrays = [
                array_text(kind, column) for kind, column in zip(self._kinds, columns, strict=True)
            ]
            written = None if otherwise is None else len(rows)
            writer.execute(statement, arrays, rows=written, otherwise=otherwise)


def array_text(kind: str, values: Sequence[Any]) -> str:
    """Return an array as PostgreSQL reads it.

    This is a third of what the driver's own way costs, which looks at every value for its type.
    """
    texts: Iterable[str]
    if kind in ("bigint", "smallint"):
        texts = map(str, values)
    elif kind == INSTANT:
        texts = map(_instant, values)
    elif kind in ("text", "jsonb"):
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
