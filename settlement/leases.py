"""Leases: who may run what must run once, and the epoch that stops whoever was late.

A holder renews its lease while it works. When it stops, another takes the lease over and raises
the epoch. A process that was suspended in between may wake at any moment, so holding a lease once
proves nothing: every transaction that acts under it calls `fence` first, which locks the row and
compares the epoch, so that the takeover and the late commit cannot both happen.

Leases are about processes, so their times are the database's own clock, never market time.
"""

from dataclasses import dataclass

from django.db import connection, transaction

LEASE_S = 10.0
"""How long a lease lasts unless it is renewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease as its holder knows it."""

    name: str
    holder: str
    epoch: int


class LeaseLost(Exception):
    """Another holder has taken the lease over; nothing of this transaction may commit."""


def take(*, name: str, holder: str, seconds: float = LEASE_S) -> Held | None:
    """Take or renew a lease; None while another holds it. The epoch rises with the holder."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO settlement_lease AS lease (name, holder, epoch, expires_at)
            VALUES (%(name)s, %(holder)s, 1, clock_timestamp() + %(seconds)s * interval '1 second')
            ON CONFLICT (name) DO UPDATE SET
                epoch = lease.epoch + CASE
                    WHEN lease.holder = excluded.holder AND lease.expires_at > clock_timestamp()
                    THEN 0 ELSE 1 END,
                holder = excluded.holder,
                expires_at = excluded.expires_at
            WHERE lease.holder = excluded.holder OR lease.expires_at <= clock_timestamp()
            RETURNING epoch
            """,
            {"name": name, "holder": holder, "seconds": seconds},
        )
        row = cursor.fetchone()
    return None if row is None else Held(name=name, holder=holder, epoch=row[0])


def fence(held: Held) -> None:
    """Hold the lease to the end of the caller's transaction.

    :raises LeaseLost: when it is no longer the holder's.
    """
    assert connection.in_atomic_block, "a fence guards a transaction"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM settlement_lease WHERE name = %s AND holder = %s AND epoch = %s"
            " FOR NO KEY UPDATE",
            [held.name, held.holder, held.epoch],
        )
        if cursor.fetchone() is None:
            raise LeaseLost(held.name)


def release(held: Held) -> None:
    """Let the lease go at once, so that another need not wait for it to run out."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE settlement_lease SET expires_at = clock_timestamp()"
            " WHERE name = %s AND holder = %s AND epoch = %s",
            [held.name, held.holder, held.epoch],
        )
