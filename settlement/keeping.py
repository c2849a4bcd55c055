"""Keeps the leases of the jobs that this process works on, for as long as it does work on them.

A lease is short, so that a worker that was killed or suspended is soon replaced. Work may be long:
an audit of a large ledger, a search for a certified rate. So the process renews its leases from a
thread beside the work. Whatever stops the process stops the thread too, and the lease runs out.

What hangs in a loop would be renewed for ever. Therefore a claim is renewed for `RUN_S_MAX` at
most; then another worker takes it, and `overdue` tells the process that it has a thread it will not
get back. Rows that the work itself has locked are passed over: as long as it holds them, nobody can
claim them either.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import connection

from marketplace import clock
from settlement import kinds
from settlement.kinds import Claim

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 5.0
"""How often leases are looked at, where none is shorter than four times that. Each is renewed when
a third of it has passed."""
RUN_S_MAX = 1_800
"""What runs longer hangs."""
NAME_CHARACTERS_MAX = 64
NS_PER_S = 1_000_000_000


def process_name() -> str:
    """Return the name under which this process holds leases."""
    return f"{socket.gethostname()}:{os.getpid()}"[-NAME_CHARACTERS_MAX:]


@dataclass(slots=True)
class _Kept:
    """A claim, its lease in seconds, when it began and when it was last renewed (ns)."""

    claim: Claim
    lease_s: float
    since_ns: int
    renewed_ns: int


class Keeper:
    """The claims that the threads of one process hold, and the thread that renews them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def keep(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Renew the leases of claims until the block ends."""
        now = clock.monotonic_ns()
        mine = {
            (claim.id, claim.epoch): _Kept(claim, kinds.get(claim.kind).lease_s, now, now)
            for claim in claims
        }
        with self._changed:
            self._kept.update(mine)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                for key in mine:
                    self._kept.pop(key, None)

    def overdue(self) -> list[Claim]:
        """Return the claims that have been worked on for longer than anything takes."""
        limit_ns = clock.monotonic_ns() - RUN_S_MAX * NS_PER_S
        with self._changed:
            return [kept.claim for kept in self._kept.values() if kept.since_ns < limit_ns]

    def renew(self) -> int:
        """Renew every lease a third of which has passed; return how many were."""
        now = clock.monotonic_ns()
        with self._changed:
            due = [
                kept
                for kept in self._kept.values()
                if now - kept.renewed_ns >= kept.lease_s * NS_PER_S / 3
                and now - kept.since_ns < RUN_S_MAX * NS_PER_S
            ]
        if not due:
            return 0
        with connection.cursor() as cursor:
            cursor.execute(
                """
                UPDATE settlement_job job
                SET leased_until = clock_timestamp() + mine.seconds * interval '1 second'
                FROM (
                    SELECT held.id, lease.seconds FROM settlement_job held
                    JOIN unnest(%s::bigint[], %s::bigint[], %s::float8[])
                        AS lease (id, epoch, seconds)
                        ON held.id = lease.id AND held.lease_epoch = lease.epoch
                    WHERE held.state = 'RUNNING'
                    FOR NO KEY UPDATE OF held SKIP LOCKED
                ) mine
                WHERE job.id = mine.id
                """,
                [
                    [kept.claim.id for kept in due],
                    [kept.claim.epoch for kept in due],
                    [float(kept.lease_s) for kept in due],
                ],
            )
            count: int = cursor.rowcount
        for kept in due:
            kept.renewed_ns = now
        return count

    def _run(self) -> None:
        """Renew while there is anything to renew; wait for it otherwise."""
        pause = threading.Event()
        while True:
            with self._changed:
                while not self._kept:
                    self._changed.wait()
                shortest_s = min(kept.lease_s for kept in self._kept.values())
            pause.wait(min(RENEW_EVERY_S, shortest_s / 4))
            try:
                self.renew()
            except DatabaseError as error:
                logger.warning("leases could not be renewed: %s", error)
            finally:
                connection.close()


keeper = Keeper()
