"""Which processes do the background work, and when each was last heard of.

They are rows and not messages, because they matter most when the broker is away. A worker writes
its own; beat, which has no database, is heard when a worker receives what it sent. Times are the
database's own clock: they are about processes, never about the market.
"""

import re

from django.db import connection

WORKER = "worker"
BEAT = "beat"
EVERY_S = 5.0
"""How often a worker says that it is there; beat is heard as often as it sweeps."""
SILENT_S = 30.0
"""Who was not heard of for so long is taken for gone."""
KEPT_S = 3_600.0
"""How long one that has gone is still shown."""
_NAME = re.compile(r"[A-Za-z0-9@._:-]{1,64}")


def heard(*, process: str, role: str, queues: str = "") -> None:
    """Write that a process is there now."""
    if not _NAME.fullmatch(process):
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO settlement_heartbeat AS known (process, role, queues, started_at, seen_at)
            VALUES (%s, %s, %s, clock_timestamp(), clock_timestamp())
            ON CONFLICT (process) DO UPDATE SET seen_at = clock_timestamp()
            RETURNING known.started_at = known.seen_at
            """,
            [process, role, queues[:80]],
        )
        is_new = bool(cursor.fetchone()[0])
        if is_new:
            cursor.execute(
                "DELETE FROM settlement_heartbeat"
                " WHERE seen_at < clock_timestamp() - %s * interval '1 second'",
                [KEPT_S],
            )


def gone(process: str) -> None:
    """Write that a process has ended as it should."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM settlement_heartbeat WHERE process = %s", [process])
