"""What a worker process does beside its work: it says that it is there, and looks for trouble.

It is a thread of its own with the database alone, so it goes on when the broker is away and when
all other threads of the process are busy. One worker of the deployment, the holder of a lease, logs
each alert as an error when it begins and again every quarter of an hour, and once when it has gone.

A thread of the process that does not come back from its job cannot be ended by itself. Then the
whole process ends: the supervisor starts another, and the job is tried again, or parked when that
has happened often enough.
"""

import logging
import os
import signal
import threading
from collections.abc import Sequence

from django.db import Error as DatabaseError
from django.db import connection

from marketplace import clock, control_room
from settlement import heartbeats, keeping, leases

logger = logging.getLogger(__name__)

LEASE = "watchman"
LEASE_S = 20.0
LOOK_EVERY_ROUNDS = 2
"""Every how many heartbeats the control room is looked at."""
SAID_AGAIN_S = 900.0
NS_PER_S = 1_000_000_000


class Watchman:
    """The watch of one worker process."""

    def __init__(self, queues: str) -> None:
        self.process = keeping.process_name()
        self._queues = queues
        self._rounds = 0
        self._said: dict[str, int] = {}
        """Codes of the alerts that hold, and when each was last logged (ns)."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchman", daemon=True)

    def start(self) -> None:
        """Begin the watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch, and say that the process has gone."""
        self._ended.set()
        self._thread.join(timeout=heartbeats.EVERY_S)
        try:
            heartbeats.gone(self.process)
        except DatabaseError:
            logger.info("the database is away; the heartbeat runs out by itself")
        finally:
            connection.close()

    def watch(self) -> None:
        """Do one round."""
        heartbeats.heard(process=self.process, role=heartbeats.WORKER, queues=self._queues)
        for claim in keeping.keeper.overdue():
            logger.critical("job %s %s hangs: the worker ends", claim.kind, claim.slot)
            os.kill(os.getpid(), signal.SIGKILL)
        self._rounds += 1
        if self._rounds % LOOK_EVERY_ROUNDS:
            return
        if leases.take(name=LEASE, holder=self.process, seconds=LEASE_S) is None:
            self._said.clear()
            return
        self.say(control_room.look(clock.now_micros()).alerts)

    def say(self, alerts: Sequence[control_room.Alert]) -> None:
        """Log what has begun, what still holds after a while, and what has gone."""
        now = clock.monotonic_ns()
        texts: dict[str, list[str]] = {}
        for alert in alerts:
            texts.setdefault(alert.code, []).append(alert.text)
        for code, sentences in texts.items():
            said = self._said.get(code)
            if said is None or now - said >= SAID_AGAIN_S * NS_PER_S:
                logger.error("alert %s: %s", code, " ".join(sentences))
                self._said[code] = now
        for code in [code for code in self._said if code not in texts]:
            logger.warning("alert %s is over", code)
            del self._said[code]

    def _run(self) -> None:
        while True:
            try:
                self.watch()
            except DatabaseError as error:
                logger.error("alert database: %s", error)
            finally:
                connection.close()
            if self._ended.wait(heartbeats.EVERY_S):
                return
