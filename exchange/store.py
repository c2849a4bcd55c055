"""The engine's own tables: the head of the journal, its batches and its snapshots.

Everything here runs on one direct session of PostgreSQL, the one that holds the clearing group's
advisory lock; a transaction pooler must never stand between. A batch first moves the head, which
succeeds only while epoch and sequence are what this engine left there: an engine that was replaced
while it slept finds no row and stops (`Fenced`).
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from django.conf import settings
from django.db import connections

from marketplace import clock, rowset
from settlement import posting

Connection = psycopg.Connection[Any]

JOURNAL_FORMAT = 1
"""Version of the bytes of a journaled batch."""
TAIL_BATCHES_MAX = 500
"""How many batches a replay holds in memory at once."""
SNAPSHOTS_KEPT = 3
LOCK_RETRY_MS = 500
APPLICATION_NAME = "baseload-engine"


class Fenced(Exception):
    """The head is no longer this engine's: another has taken over, so stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the journal as an engine left or found it; `at` in microseconds."""

    group: str
    epoch: int
    sequence: int
    hash: bytes
    at: int
    released_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as the journal keeps it."""

    first_sequence: int
    sequence: int
    at: int
    format: int
    rules: int
    commands: bytes
    events: bytes
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A state from which a replay starts."""

    sequence: int
    format: int
    rules: int
    journal_hash: bytes
    state_digest: bytes
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An order as an idempotency key finds it."""

    order: int
    fingerprint: bytes
    placed_sequence: int


def connect() -> Connection:
    """Open a direct session, beside Django's connections and with the same role.

    :raises psycopg.OperationalError: when the database does not answer.
    """
    described = connections["default"].settings_dict
    options = dict(described["OPTIONS"])
    options.pop("pool", None)
    options.pop("isolation_level", None)
    options.pop("server_side_binding", None)
    given = {
        "dbname": described["NAME"],
        "user": described["USER"],
        "password": described["PASSWORD"],
        "host": described["HOST"],
        "port": described["PORT"],
        "connect_timeout": settings.DATABASE_CONNECT_TIMEOUT_S,
        "application_name": APPLICATION_NAME,
        **options,
    }
    given = {name: value for name, value in given.items() if value not in ("", None)}
    connection: Connection = psycopg.connect(**given, autocommit=True)
    connection.execute("SET TIME ZONE 'UTC'")
    for setting in _PLANNED:
        connection.execute(setting)
    return connection


_PLANNED: tuple[LiteralString, ...] = (
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
)
"""A writer's statements find rows by their keys and are planned once, on tables that may still be
empty: a plan that reads a whole table would be right then, and ruinous an hour later."""


# The lock and the head


def try_lock(connection: Connection, group: str) -> bool:
    """Take the group's session lock, waiting at most `LOCK_RETRY_MS`; return whether it is held."""
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_RETRY_MS}")
            connection.execute("SELECT pg_advisory_lock(%s)", [_lock_number(group)])
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def end_stale_holder(connection: Connection, group: str) -> bool:
    """End the session that holds the group's lock; return whether there was one.

    For a standby that has not heard of the holder for too long: a process that is stopped keeps its
    session, and with it the lock, for ever.
    """
    number = _lock_number(group)
    with connection.transaction():
        # A role that only writes the tables may not end sessions; the one that logged in may.
        connection.execute("SET LOCAL ROLE NONE")
        row = connection.execute(
            """
            SELECT bool_or(pg_terminate_backend(pid)) FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND classid = %s::bigint::oid AND objid = %s::bigint::oid
            """,
            [number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF],
        ).fetchone()
    return bool(row and row[0])


def raise_epoch(connection: Connection, group: str) -> Head:
    """Begin a new epoch of the group and return the head as the last one left it."""
    with connection.transaction():
        connection.execute(
            'INSERT INTO exchange_head ("group", epoch, sequence, hash, at, stream_entry,'
            " released_sequence) VALUES (%s, 0, 0, %s, %s, '0-0', 0) ON CONFLICT DO NOTHING",
            [group, bytes(32), clock.EPOCH],
        )
        row = connection.execute(
            "UPDATE exchange_head SET epoch = epoch + 1, stream_entry = '0-0' WHERE \"group\" = %s"
            " RETURNING epoch, sequence, hash, at, released_sequence",
            [group],
        ).fetchone()
    assert row is not None, "the group has a head"
    return Head(
        group=group,
        epoch=row[0],
        sequence=row[1],
        hash=bytes(row[2]),
        at=clock.to_micros(row[3]),
        released_sequence=row[4],
    )


def database_clock(connection: Connection) -> int:
    """Return the database's own clock in microseconds, and never market time."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None, "a clock answers"
    return clock.to_micros(row[0])


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[rowset.Writer]:
    """Commit a batch, all of it or nothing; the block begins with `advance_head`.

    :raises Fenced: when the head is not where this engine left it.
    :raises PostingRefused: when a rule of the ledger is broken.
    :raises ChainMoved: when the cash chain is not where this engine left it.
    :raises psycopg.Error: when a statement failed, or the outcome of the commit is unknown.
    """
    try:
        with posting.refusals(), rowset.transaction(connection) as writer:
            yield writer
    except psycopg.errors.NotNullViolation as error:
        if error.diag.table_name == "exchange_journalbatch" and error.diag.column_name == "epoch":
            raise Fenced("the epoch is over") from error
        raise


_ADVANCE = b"""
    WITH moved AS (
        UPDATE exchange_head SET sequence = $1, hash = $2, at = $3, stream_entry = $4,
            released_sequence = $5
        WHERE "group" = $6 AND epoch = $7 AND sequence = $8
        RETURNING 1
    )
    INSERT INTO exchange_journalbatch ("group", sequence, first_sequence, epoch, at, format,
        rules, commands, events, previous_hash, hash)
    SELECT $6, $1, $9::bigint, (SELECT $7 FROM moved), $3, $10::smallint, $11::smallint,
        $12::bytea, $13::bytea, $14::bytea, $2
"""
"""Where no head is moved the batch has no epoch, which the table refuses: the first statement of
the transaction fails, and whatever was sent after it is never carried out."""


def advance_head(writer: rowset.Writer, head: Head, batch: Batch, *, stream_entry: str) -> None:
    """Move the head from where `head` left it to the end of the batch, and journal the batch.

    The first statement of a `transaction`, which raises `Fenced` when the head is elsewhere.
    """
    writer.execute(
        _ADVANCE,
        [
            batch.sequence,
            batch.hash,
            clock.to_datetime(batch.at),
            stream_entry,
            head.released_sequence,
            head.group,
            head.epoch,
            head.sequence,
            batch.first_sequence,
            batch.format,
            batch.rules,
            batch.commands,
            batch.events,
            batch.previous_hash,
        ],
    )


def mark_released(connection: Connection, head: Head) -> None:
    """Remember what has been released.

    :raises Fenced: when the epoch is over.
    """
    cursor = connection.execute(
        'UPDATE exchange_head SET released_sequence = %s WHERE "group" = %s AND epoch = %s',
        [head.released_sequence, head.group, head.epoch],
    )
    if cursor.rowcount != 1:
        raise Fenced(f"epoch {head.epoch} is over")


def _lock_number(group: str) -> int:
    """Return the number of a group's advisory lock: eight bytes of a digest of its name."""
    digest = hashlib.sha256(b"engine:" + group.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


# Orders that came before


def remembered(
    connection: Connection, keys: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], Remembered]:
    """Return the orders that (account, client order id) pairs stand for, of any age."""
    if not keys:
        return {}
    rows: list[Any] = rowset.fetch(
        connection,
        _REMEMBERED,
        [
            rowset.array_text("bigint", [account for account, _ in keys]),
            rowset.array_text("text", [name for _, name in keys]),
        ],
    )
    return {
        (_integer(account), name.decode()): Remembered(
            order=_integer(order), fingerprint=fingerprint, placed_sequence=_integer(sequence)
        )
        for account, name, order, fingerprint, sequence in rows
    }


_REMEMBERED = b"""
    SELECT wanted.organization_id, wanted.client_order_id, o.id, o.fingerprint, o.placed_sequence
    FROM unnest(%s::bigint[], %s::text[]) AS wanted (organization_id, client_order_id)
    CROSS JOIN LATERAL (
        SELECT client_order_id, id, fingerprint, placed_sequence FROM exchange_order
        WHERE organization_id = wanted.organization_id
          AND client_order_id >= wanted.client_order_id
        ORDER BY client_order_id LIMIT 1
    ) AS o
    WHERE o.client_order_id = wanted.client_order_id
"""
"""The first id at or after each: only the index of both columns has that order, so that no plan
goes through all orders of an organization, whatever is known of the table when it is made."""


def _integer(value: bytes) -> int:
    """Return a bigint as PostgreSQL sends it."""
    return int.from_bytes(value, "big", signed=True)


# The journal


_BATCH_COLUMNS: LiteralString = (
    "first_sequence, sequence, at, format, rules, commands, events, previous_hash, hash"
)


def events_of(connection: Connection, group: str, sequences: Sequence[int]) -> dict[int, bytes]:
    """Return, by sequence, the stored events of the batch that each sequence is part of."""
    rows = connection.execute(
        """
        SELECT wanted.sequence, batch.events FROM unnest(%s::bigint[]) AS wanted (sequence)
        CROSS JOIN LATERAL (
            SELECT events FROM exchange_journalbatch
            WHERE "group" = %s AND sequence >= wanted.sequence ORDER BY sequence LIMIT 1
        ) AS batch
        """,
        [list(sequences), group],
    ).fetchall()
    return {row[0]: bytes(row[1]) for row in rows}


def tail(
    connection: Connection, group: str, *, after: int, up_to: int | None = None
) -> Iterator[Batch]:
    """Yield the batches after a sequence, in order, a bounded number in memory at once."""
    last = 2**63 - 1 if up_to is None else up_to
    while True:
        rows = connection.execute(
            f"SELECT {_BATCH_COLUMNS} FROM exchange_journalbatch"  # noqa: S608
            ' WHERE "group" = %s AND sequence > %s AND sequence <= %s ORDER BY sequence LIMIT %s',
            [group, after, last, TAIL_BATCHES_MAX],
        ).fetchall()
        for row in rows:
            yield Batch(
                first_sequence=row[0],
                sequence=row[1],
                at=clock.to_micros(row[2]),
                format=row[3],
                rules=row[4],
                commands=bytes(row[5]),
                events=bytes(row[6]),
                previous_hash=bytes(row[7]),
                hash=bytes(row[8]),
            )
        if len(rows) < TAIL_BATCHES_MAX:
            return
        after = rows[-1][1]


def newest_snapshot(
    connection: Connection, group: str, *, snapshot_format: int, up_to: int
) -> StoredSnapshot | None:
    """Return the newest snapshot of a format at or before a sequence."""
    row = connection.execute(
        "SELECT sequence, format, rules, journal_hash, state_digest, body FROM exchange_snapshot"
        ' WHERE "group" = %s AND format = %s AND sequence <= %s ORDER BY sequence DESC LIMIT 1',
        [group, snapshot_format, up_to],
    ).fetchone()
    if row is None:
        return None
    return StoredSnapshot(
        sequence=row[0],
        format=row[1],
        rules=row[2],
        journal_hash=bytes(row[3]),
        state_digest=bytes(row[4]),
        body=bytes(row[5]),
    )


def write_snapshot(connection: Connection, group: str, snapshot: StoredSnapshot) -> None:
    """Keep a snapshot, and of older ones only `SNAPSHOTS_KEPT`."""
    with connection.transaction():
        connection.execute(
            'INSERT INTO exchange_snapshot ("group", sequence, format, rules, journal_hash,'
            " state_digest, body, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [
                group,
                snapshot.sequence,
                snapshot.format,
                snapshot.rules,
                snapshot.journal_hash,
                snapshot.state_digest,
                snapshot.body,
                clock.now(),
            ],
        )
        connection.execute(
            'DELETE FROM exchange_snapshot WHERE "group" = %s AND id NOT IN ('
            ' SELECT id FROM exchange_snapshot WHERE "group" = %s ORDER BY sequence DESC LIMIT %s)',
            [group, group, SNAPSHOTS_KEPT],
        )
