"""The durable record of what a gateway admitted and what was used: one writer, group commit.

A request is written before it is dispatched; while it streams, its running totals are written
every `CHECKPOINT_TOKENS` or `CHECKPOINT_US`; its end is written before the caller is given the
final chunk. So a gateway that is killed has recorded every request it completed, and of an open
stream it loses at most the tail since the last checkpoint. Totals are running and keyed by
(request, sequence): a write whose outcome is unknown is simply made again.

All requests of the process share one connection and one writer task. A batch is what arrived
while the last one was being committed, one statement and one commit; nobody waits for a timer.
When PostgreSQL is away, admissions fail at once and nothing is dispatched; usage that was
already spent is kept, bounded, and written when it is back.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import psycopg

from marketplace import clock, errors

CHECKPOINT_TOKENS = 64
CHECKPOINT_US = clock.SECOND
BATCH_ROWS_MAX = 1_000
QUEUE_ROWS_MAX = 20_000
"""Beyond this many rows waiting to be written, new requests are refused."""
ADMISSION_WAIT_S = 2.0
"""How long a caller waits for the admission of its request to be durable."""
END_WAIT_S = 5.0
"""How long the final chunk waits for the usage to be durable; then the stream ends in an error."""
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.05, 1.0
STATEMENT_TIMEOUT_MS = 5_000

log = logging.getLogger(__name__)


class MeteringUnavailable(errors.Unavailable):
    """Usage cannot be recorded now, so nothing is served."""

    code, title = "metering_unavailable", "Usage cannot be recorded at the moment"


class RequestRow(msgspec.Struct, frozen=True):
    """One decision on a request, as `admission.models.Request` stores it."""

    id: str
    organization_id: int
    key: str
    grade: str
    cluster: int
    class_requested: str
    class_served: str
    outcome: str
    reason: str
    charge_mntu: int
    body_digest: str
    """Hexadecimal."""
    is_probe: bool
    arrived_at: int
    queue_ms: int
    gateway: str
    is_in_profile: bool = False
    is_retry: bool = False
    retry_after_ms: int = 0
    cover_offer: int = 0
    covered_cluster: int = 0
    nonce: str = ""


class UsageRow(msgspec.Struct, frozen=True):
    """Running totals of a request, as `admission.models.UsageEvent` stores them."""

    request_id: str
    sequence: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    mntu: int
    state: str
    is_estimated: bool
    is_bounded: bool
    first_token_ms: int | None
    per_token_us: int | None
    at: int


class ReceiptRow(msgspec.Struct, frozen=True):
    """A receipt, as `admission.proofs.Receipt` stores it; bytes are hexadecimal."""

    id: str
    hash: str
    issuer: str
    organization_id: int
    grade: str
    cluster: int
    class_requested: str
    sequence: int
    interval_starts_at: int
    public: str
    private: str
    salt: str
    signature: str


Row = RequestRow | UsageRow


class Notary(Protocol):
    """Who makes the receipts of what is written (`admission.notary`)."""

    async def sign(
        self, connection: psycopg.AsyncConnection[Any], rows: Sequence[Row]
    ) -> list[ReceiptRow]:
        """Return the receipts that are due with these rows."""

    def committed(self) -> None:
        """Take over what was signed."""

    def forget(self) -> None:
        """Ask the database again: a commit failed."""

    def name(self, request_id: str) -> str:
        """Return the hash of a receipt that was issued a moment ago."""


def nothing_used(request_id: str, at: int) -> UsageRow:
    """Return the end of a request that was recorded and never dispatched."""
    return UsageRow(
        request_id=request_id,
        sequence=1,
        prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        mntu=0,
        state="ABORTED",
        is_estimated=False,
        is_bounded=False,
        first_token_ms=None,
        per_token_us=None,
        at=at,
    )


_AT = "'epoch'::timestamptz + {} * interval '1 microsecond'"
_WRITE = f"""
WITH admitted AS (
    INSERT INTO admission_request (
        id, organization_id, key, grade, cluster, class_requested, class_served, outcome, reason,
        charge_mntu, body_digest, is_probe, arrived_at, queue_ms, gateway, is_in_profile, is_retry,
        retry_after_ms, cover_offer, covered_cluster)
    SELECT id, organization_id, key, grade, cluster, class_requested, class_served, outcome, reason,
        charge_mntu, decode(body_digest, 'hex'), is_probe, {_AT.format("arrived_at")}, queue_ms,
        gateway, is_in_profile, is_retry, retry_after_ms, cover_offer, covered_cluster
    FROM json_to_recordset(%s::json) AS r(
        id uuid, organization_id bigint, key text, grade text, cluster bigint, class_requested text,
        class_served text, outcome text, reason text, charge_mntu bigint, body_digest text,
        is_probe boolean, arrived_at bigint, queue_ms integer, gateway text,
        is_in_profile boolean, is_retry boolean, retry_after_ms integer,
        cover_offer bigint, covered_cluster bigint)
    ON CONFLICT DO NOTHING),
receipts AS (
    INSERT INTO admission_receipt (
        id, hash, issuer, organization_id, grade, cluster, class_requested, sequence,
        interval_starts_at, public, private, salt, signature)
    SELECT id, decode(hash, 'hex'), issuer, organization_id, grade, cluster, class_requested,
        sequence, {_AT.format("interval_starts_at")}, public, private, decode(salt, 'hex'),
        decode(signature, 'hex')
    FROM json_to_recordset(%s::json) AS p(
        id uuid, hash text, issuer text, organization_id bigint, grade text, cluster bigint,
        class_requested text, sequence bigint, interval_starts_at bigint, public text,
        private text, salt text, signature text)
    RETURNING id, organization_id, cluster, interval_starts_at),
waiting AS (
    INSERT INTO admission_receiptwaiting (id, organization_id, cluster, interval_starts_at)
    SELECT id, organization_id, cluster, interval_starts_at FROM receipts)
INSERT INTO admission_usageevent (
    request_id, sequence, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, mntu,
    state, is_estimated, is_bounded, first_token_ms, per_token_us, at, number, xid)
SELECT request_id, sequence, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, mntu,
    state, is_estimated, is_bounded, first_token_ms, per_token_us, {_AT.format("at")},
    nextval('admission_usage_number'), pg_current_xact_id()::text::bigint
FROM json_to_recordset(%s::json) AS e(
    request_id uuid, sequence integer, prompt_tokens bigint, cached_tokens bigint,
    output_tokens bigint, reasoning_tokens bigint, mntu bigint, state text, is_estimated boolean,
    is_bounded boolean, first_token_ms integer, per_token_us integer, at bigint)
ON CONFLICT DO NOTHING
"""  # noqa: S608 - constants of this module


def connection_parameters() -> dict[str, Any]:
    """Return what a direct session to the deployment's database is opened with."""
    from django.db import connection

    known = ("dbname", "user", "password", "host", "port", "connect_timeout", "options")
    given: Mapping[str, Any] = connection.get_connection_params()
    return {name: given[name] for name in known if given.get(name)}


class Writer:
    """Writes rows in groups; `admit` and `end` return when theirs are durable."""

    def __init__(self, parameters: Mapping[str, Any], notary: Notary | None = None) -> None:
        self._parameters = dict(parameters)
        self.notary = notary
        self._rows: deque[tuple[Row, asyncio.Future[None] | None]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.available = False
        """Whether the last attempt to write or connect succeeded."""
        self.batches = 0
        self.rows = 0

    async def start(self) -> None:
        """Connect once, and begin to write.

        :raises psycopg.OperationalError: when the database cannot be reached.
        """
        await self._connect()
        self.available = True
        self._task = asyncio.create_task(self._run(), name="metering")

    async def close(self) -> None:
        """Write what is left, within `END_WAIT_S`, and stop."""
        self._closing = True
        try:
            await asyncio.wait_for(self._idle.wait(), END_WAIT_S)
        except TimeoutError:
            log.error("%d usage rows could not be written before the end", len(self._rows))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def admit(self, row: RequestRow) -> None:
        """Return when a decision is durable.

        :raises MeteringUnavailable: when it could not be recorded; nothing may be dispatched.
        """
        if not self.available or self._closing or len(self._rows) >= QUEUE_ROWS_MAX:
            raise MeteringUnavailable(retry_after_s=1)
        await self._written(row, ADMISSION_WAIT_S)

    def checkpoint(self, row: UsageRow) -> asyncio.Future[None]:
        """Record running totals; the returned future is done when they are durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(row, done)
        return done

    async def end(self, row: UsageRow) -> None:
        """Return when the last totals of a request are durable.

        :raises MeteringUnavailable: when they are not yet; they are written when they can be.
        """
        await self._written(row, END_WAIT_S)

    def record(self, row: Row) -> None:
        """Record a row that nobody waits for."""
        self._put(row, None)

    async def _written(self, row: Row, wait_s: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(row, done)
        timer = asyncio.get_running_loop().call_later(wait_s, _expire, done)
        try:
            await done
        finally:
            timer.cancel()

    def _put(self, row: Row, done: asyncio.Future[None] | None) -> None:
        self._rows.append((row, done))
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._rows or not self.available:
                batch = [self._rows.popleft() for _ in range(min(len(self._rows), BATCH_ROWS_MAX))]
                try:
                    await self._write([row for row, _ in batch])
                except (psycopg.DataError, psycopg.IntegrityError) as error:
                    await self._write_apart(batch, error)
                    continue
                except (psycopg.Error, OSError) as error:
                    log.warning("usage could not be written: %s", type(error).__name__)
                    self._refuse_admissions(batch)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RECONNECT_S_MAX)
                    continue
                pause_s = RECONNECT_S_MIN
                _release(batch)
            self._idle.set()

    async def _write_apart(
        self, batch: list[tuple[Row, asyncio.Future[None] | None]], error: psycopg.Error
    ) -> None:
        """Find the row that the database refuses, so that the others need not wait for it."""
        if len(batch) > 1:
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                try:
                    await self._write([row for row, _ in part])
                except (psycopg.DataError, psycopg.IntegrityError) as found:
                    await self._write_apart(part, found)
                except (psycopg.Error, OSError):
                    self._refuse_admissions(part)
                else:
                    _release(part)
            return
        ((row, done),) = batch
        log.error("a row that breaks the database's law is set aside: %s: %s", error, row)
        if done is not None and not done.done():
            done.set_exception(MeteringUnavailable())

    def _refuse_admissions(self, batch: list[tuple[Row, asyncio.Future[None] | None]]) -> None:
        """Give up admissions, which were not dispatched, and put usage back in front."""
        self.available = False
        kept = []
        for row, done in [*batch, *self._rows]:
            if isinstance(row, UsageRow):
                kept.append((row, done))
            elif done is not None and not done.done():
                done.set_exception(MeteringUnavailable(retry_after_s=1))
        self._rows = deque(kept)

    async def _connect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        self._connection = await psycopg.AsyncConnection.connect(
            **self._parameters, autocommit=True, application_name="gateway metering"
        )
        await self._connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")

    async def _write(self, rows: list[Row]) -> None:
        """Write rows in one commit; on a session that turns out dead, once more on a new one."""
        fresh = self._connection is None or self._connection.closed or self._connection.broken
        if fresh:
            await self._connect()
        try:
            await self._execute(rows)
        except psycopg.OperationalError:
            if fresh:
                raise
            await self._connect()
            await self._execute(rows)
        except psycopg.errors.UniqueViolation:
            # Another gateway has issued receipts of a flow since this one looked.
            await self._execute(rows)
        self.available = True
        self.batches += 1
        self.rows += len(rows)

    async def _execute(self, rows: list[Row]) -> None:
        """Write rows and the receipts that are due with them in one statement."""
        assert self._connection is not None, "connected before"
        requests = _json([row for row in rows if isinstance(row, RequestRow)])
        events = _json([row for row in rows if isinstance(row, UsageRow)])
        if self.notary is None:
            await self._connection.execute(_WRITE, (requests, "[]", events))
            return
        try:
            signed = _json(await self.notary.sign(self._connection, rows))
            await self._connection.execute(_WRITE, (requests, signed, events))
        except BaseException:
            self.notary.forget()
            raise
        self.notary.committed()


def store(cursor: Any, requests: list[RequestRow], events: list[UsageRow]) -> None:
    """Write rows in the caller's transaction; for whoever has them all, as a seed has."""
    cursor.execute(_WRITE, (_json(requests), "[]", _json(events)))


def _release(batch: list[tuple[Row, asyncio.Future[None] | None]]) -> None:
    """Tell those who wait that their rows are durable."""
    for _, done in batch:
        if done is not None and not done.done():
            done.set_result(None)


def _json(rows: list[Any]) -> str:
    return msgspec.json.encode(rows).decode()


def _expire(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_exception(MeteringUnavailable(retry_after_s=1))
