"""What keeps an engine at work: waits for entries, rings and the calendar, hands over batches.

There is no artificial delay: a batch is what arrived while the last one was being committed. When
nothing arrives the loop wakes four times a second, looks for instructions that no ring announced,
brings the calendar up to date when something in it is due, and renews the engine's key, by which
everybody else knows within `LIVENESS_MS` that it has gone. A tick that would do nothing is not
journaled.

A standby waits for the group's lock. The holder of a lock may be stopped rather than dead; when its
key has lapsed for `STALE_AFTER_S` while Valkey itself answers, the standby ends its session and
takes over. Should the old engine wake, it finds the head moved and its session gone. An engine that
still replays the journal has no key yet, for it serves nobody: it says by another that it works.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import valkey

from exchange import commands, engine, envelope, passing, store
from exchange.machine import Machine
from marketplace import clock
from settlement import channels, doorbell

logger = logging.getLogger(__name__)

POLL_MS = 250
"""How long an instruction that nobody rang for may wait."""
LIVENESS_MS = 1_500
HEARTBEAT_NS = 500_000_000
SKEW_CHECK_NS = 5_000_000_000
STALE_AFTER_S = 2.0
BATCH_ENTRIES_MAX = 512
"""How many stream entries one batch takes; one entry holds all that a process sent at once."""
REQUEST_COMMANDS_MAX = 1_000
VALKEY_TIMEOUT_S = 2.0
COLLECTED_EVERY = 50_000
"""New objects between two collections: next to nothing here is ever part of a cycle."""

Entry = tuple[bytes, dict[bytes, bytes]]


class StreamLost(Exception):
    """The epoch's stream is missing or went back: what was in it is not known, so begin anew."""


def connect(url: str) -> "valkey.Valkey":
    """Return the engine's own client of Valkey."""
    return valkey.Valkey.from_url(
        url, socket_timeout=VALKEY_TIMEOUT_S, socket_connect_timeout=VALKEY_TIMEOUT_S
    )


class Loop:
    """One engine and what it waits for."""

    def __init__(
        self,
        *,
        connection: store.Connection,
        client: "valkey.Valkey",
        group: str = doorbell.GROUP,
        machine_type: type[Machine] = Machine,
    ) -> None:
        self.client = client
        self.group = group
        self.connection = connection
        self.engine = engine.Engine(
            connection=connection, client=client, group=group, machine_type=machine_type
        )
        self._stopping = threading.Event()
        self._beat_at = 0
        self._skew_check_at = 0
        self._poll_at = 0
        self._is_deaf = False

    def stop(self) -> None:
        """Let `run` return after the batch in hand; safe from another thread or a signal."""
        self._stopping.set()

    def run(self) -> None:
        """Wait for the lock, take over, and work until stopped.

        :raises Fenced: when another engine has taken over.
        :raises psycopg.Error: when a commit failed or is unknown.
        """
        if not self._wait_for_lock():
            return
        self._take_over()
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECTED_EVERY)
        while not self._stopping.is_set():
            try:
                self.step()
            except StreamLost as lost:
                logger.warning("a new epoch: %s", lost)
                self._take_over()
        self.close()

    def close(self) -> None:
        """Leave: nobody is to wait for an engine that has gone."""
        try:
            if self.client.get(doorbell.engine_key(self.group)) == str(self.epoch).encode():
                self.client.delete(doorbell.engine_key(self.group), channels.status_key(self.group))
        except valkey.ValkeyError:
            logger.warning("left without a word: Valkey is away")

    @property
    def epoch(self) -> int:
        """The epoch this engine writes in."""
        return self.engine.head.epoch

    def step(self, *, wait_ms: int = POLL_MS) -> int:
        """Wait at most `wait_ms` for work and do one batch of it; return how many commands it had.

        :raises StreamLost: when the epoch's stream is not what it was.
        """
        self._keep_alive()
        is_polling = clock.monotonic_ns() >= self._poll_at
        is_busy = is_polling or self._is_due()
        incoming, is_rung = self._read(0 if is_busy else self._wait_ms(wait_ms))
        if is_polling or is_rung:
            self._poll_at = clock.monotonic_ns() + POLL_MS * 1_000_000
            if not self.engine.is_skewed:
                incoming = self.engine.take_instructions() + incoming
        if not incoming and self._is_due():
            incoming = [passing.Incoming(commands.Tick())]
        if not incoming:
            if not is_busy:
                self.engine.mark_released()
            return 0
        self.engine.run_batch(incoming)
        return len(incoming)

    def _is_due(self) -> bool:
        """Whether the calendar has something to do that may be done now."""
        return self.engine.is_due() and not self.engine.is_skewed

    def _take_over(self) -> None:
        """Begin an epoch, waiting for Valkey when it is away: without it there are no orders."""
        while not self._stopping.is_set():
            try:
                # Asked first, so that waiting for Valkey raises no epochs and replays nothing.
                self.client.ping()
                with self._saying_that_it_recovers():
                    self.engine.take_over()
                self._beat()
                self.client.publish(channels.epoch_channel(self.group), str(self.epoch))
            except valkey.ValkeyError:
                logger.warning("waiting for Valkey")
                self._stopping.wait(POLL_MS / 1000)
            else:
                return

    @contextlib.contextmanager
    def _saying_that_it_recovers(self) -> Iterator[None]:
        """Tell standbys to wait while this engine takes over, however long the journal is."""
        is_over = threading.Event()
        key, name = channels.recovery_key(self.group), str(os.getpid())

        def say() -> None:
            while not is_over.is_set():
                with contextlib.suppress(valkey.ValkeyError):
                    self.client.set(key, name, px=LIVENESS_MS)
                is_over.wait(HEARTBEAT_NS / 1e9)

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            with contextlib.suppress(valkey.ValkeyError):
                self.client.delete(key)

    def _wait_for_lock(self) -> bool:
        """Wait for the group's lock as a standby; return False when stopped first."""
        silent_since = clock.monotonic_ns()
        while not self._stopping.is_set():
            if store.try_lock(self.connection, self.group):
                return True
            if self._is_holder_heard():
                silent_since = clock.monotonic_ns()
            elif clock.monotonic_ns() - silent_since > STALE_AFTER_S * 1e9:
                logger.error("the engine that holds the lock is silent: ending its session")
                store.end_stale_holder(self.connection, self.group)
                silent_since = clock.monotonic_ns()
        return False

    def _is_holder_heard(self) -> bool:
        """Whether the present engine shows life, or Valkey is away and nobody could hear it."""
        try:
            return bool(
                self.client.exists(
                    doorbell.engine_key(self.group), channels.recovery_key(self.group)
                )
            )
        except valkey.ValkeyError:
            return True

    # Waiting

    def _wait_ms(self, limit_ms: int) -> int:
        """Return how long to wait: until the poll or the calendar's next entry, never zero."""
        until_poll_ms = (self._poll_at - clock.monotonic_ns()) // 1_000_000
        wait_ms = min(limit_ms, until_poll_ms)
        due = self.engine.machine.next_due()
        if due is not None and not self.engine.is_skewed:
            wait_ms = min(wait_ms, (due - clock.now_micros()) // 1_000 + 1)
        return max(1, wait_ms)

    def _read(self, wait_ms: int) -> tuple[list[passing.Incoming], bool]:
        """Return the commands that arrived, and whether a bell rang; waits when `wait_ms` > 0."""
        name = doorbell.stream_key(self.epoch, self.group)
        try:
            found: Any = self.client.xread(
                {name: self.engine.stream_entry},
                count=BATCH_ENTRIES_MAX,
                block=wait_ms or None,
            )
        except valkey.ValkeyError as error:
            if not self._is_deaf:
                logger.warning("Valkey is away: %s", error)
            # Only instructions can reach the engine now; the stream is looked at before it is read.
            self._is_deaf = True
            self._beat_at = 0
            self._stopping.wait(wait_ms / 1000)
            return [], False
        read_ns = clock.monotonic_ns()
        incoming: list[passing.Incoming] = []
        is_rung = False
        entries: list[Entry] = found[0][1] if found else []
        for entry, fields in entries:
            self.engine.stream_entry = entry.decode()
            data = fields.get(channels.REQUEST_FIELD)
            if data is None:
                is_rung = True
            else:
                incoming += _commands(data)
        self.engine.spent.decode_ns += clock.monotonic_ns() - read_ns
        return incoming, is_rung

    def _keep_alive(self) -> None:
        """Renew the key, look after the stream and compare the clocks, each at its own pace."""
        now = clock.monotonic_ns()
        if now >= self._skew_check_at:
            self._skew_check_at = now + SKEW_CHECK_NS
            self.engine.check_clock()
        if now >= self._beat_at:
            try:
                self._check_stream()
                self._beat()
            except valkey.ValkeyError:
                return
            self._beat_at = now + HEARTBEAT_NS
            if self._is_deaf:
                self._is_deaf = False
                self.engine.release_again()

    def _beat(self) -> None:
        """Say that this engine lives, and how it is."""
        head = self.engine.head
        status = {
            "group": self.group,
            "epoch": head.epoch,
            "sequence": head.sequence,
            "at": self.engine.machine.at,
            "state": "clock_skew" if self.engine.is_skewed else "running",
            "pid": os.getpid(),
            "spent": dataclasses.asdict(self.engine.spent),
        }
        pipe: Any = self.client.pipeline(transaction=False)
        pipe.set(doorbell.engine_key(self.group), str(head.epoch), px=LIVENESS_MS)
        pipe.set(channels.status_key(self.group), json.dumps(status), px=LIVENESS_MS)
        pipe.execute()

    def _check_stream(self) -> None:
        """:raises StreamLost: when the stream is missing or behind what was read of it."""
        name = doorbell.stream_key(self.epoch, self.group)
        try:
            found: Any = self.client.xinfo_stream(name)
        except valkey.ResponseError:
            raise StreamLost(f"{name} is missing") from None
        last = found["last-generated-id"]
        text = last.decode() if isinstance(last, bytes) else str(last)
        if _number(text) < _number(self.engine.stream_entry):
            raise StreamLost(f"{name} went back to {text}")


def _commands(data: bytes) -> list[passing.Incoming]:
    """Return the commands of an entry; one that cannot be read has nobody to answer."""
    try:
        request = envelope.decode_request(data)
    except msgspec.MsgspecError:
        logger.error("an entry of the stream cannot be read")
        return []
    return [
        passing.Incoming(command, request.reply_to, correlation)
        for correlation, command in request.items[:REQUEST_COMMANDS_MAX]
        if isinstance(command, envelope.FAST)
    ]


def _number(entry: str) -> tuple[int, int]:
    """Return an entry's id as two integers that sort."""
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence or 0)
