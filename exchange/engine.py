"""The single writer of a clearing group: sequence, apply, store in one transaction, release.

The engine holds the group's advisory lock on the one direct session it writes with. Taking over, it
raises the epoch, rebuilds the machine from the journal and opens a command stream of its own that
no other epoch ever reads. Then, batch by batch: everything that arrived while the last batch was
being committed gets its sequence numbers and a timestamp, is applied, and is written with all that
follows from it (journal, orders, trades, transfers, positions, instructions) in one transaction
that first moves the head. Replies and market data leave only after the commit.

What can go wrong, and what then holds:

- A commit fails or its outcome is unknown: the process ends; the head says what was committed.
- Another engine took over: the head is not where this one left it (`store.Fenced`); it ends.
- A command breaks an invariant, in the machine or in the database's law: the machine is rebuilt
  from the journal and the batch applied one by one, each in a transaction of its own; the culprit
  is journaled as quarantined, its caller gets `internal_error` and its instrument halts. An entry
  of the calendar that breaks one is dropped and journaled in the same way; where the database
  refuses and something was due, entries too are done one by one, because rows do not say whose
  they are.
- The stream is missing or went back (a Valkey that lost its memory): a new epoch.
- The system's clock and the database's are apart: orders and instructions are refused a place
  until they agree (`clock_skew`).

Deciding and waiting are apart: `run_batch` does one batch of what it is given, `exchange.loop`
waits for entries and rings. A seed or a test drives `execute` in process, at the clock's time,
frozen or not.
"""

import dataclasses
import logging
import os
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import valkey

from exchange import (
    batch_rows,
    commands,
    envelope,
    events,
    feed,
    journal,
    machine,
    passing,
    quarantine,
    recovery,
    rows,
    store,
)
from exchange.machine import views
from marketplace import clock
from settlement import channels, doorbell, posting, projection

logger = logging.getLogger(__name__)

SKEW_MAX = clock.SECOND
"""How far the system's clock may be from the database's."""
UNRELEASED_MAX = 1_000
"""Batches whose news is kept while Valkey is away; of older ones readers see the gap."""

_FATAL = (
    store.Fenced,
    projection.OutcomeLost,
    posting.ChainMoved,
    recovery.Diverged,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    MemoryError,
)
"""What ends the engine, because it says nothing about a command: the head is not ours any more, or
the outcome of a commit is unknown. Everything else that goes wrong in a batch is a broken invariant
of the machine or of the database's law, the same on every attempt."""


@dataclass(frozen=True, slots=True)
class Unreleased:
    """What is told of a durable batch, and which instructions ended in it, and how."""

    sequence: int
    news: feed.News
    ended: list[tuple[str, bytes]]


class Engine:
    """One epoch after another of a clearing group's only writer."""

    def __init__(
        self,
        *,
        connection: store.Connection,
        client: "valkey.Valkey | None",
        group: str = doorbell.GROUP,
        machine_type: recovery.MachineType = machine.Machine,
    ) -> None:
        self.connection = connection
        self.client = client
        self.group = group
        self.machine_type = machine_type
        self.machine = machine_type()
        self.head = store.Head(
            group=group, epoch=0, sequence=0, hash=journal.GENESIS_HASH, at=0, released_sequence=0
        )
        self.stream_entry = "0-0"
        self.is_skewed = False
        self._unreleased: deque[Unreleased] = deque(maxlen=UNRELEASED_MAX)
        self._cash_sequence = 0
        self._marked_sequence = 0
        self._failpoint = os.environ.get("BASELOAD_FAILPOINT", "")
        self._failed_batches = 0
        self.spent = passing.Spent()

    # Taking over

    def take_over(self) -> None:
        """Begin an epoch: raise it, rebuild the machine, open the stream, release what is due.

        The caller holds the group's lock (`store.try_lock`).

        :raises Diverged: when the journal does not prove its own state.
        """
        self.head = store.raise_epoch(self.connection, self.group)
        self._marked_sequence = self.head.released_sequence
        self._unreleased.clear()
        self._rebuild(self._keep)
        if self.machine.at > clock.now_micros() and clock.can_advance():
            clock.advance_to(self.machine.at)
        self.open_stream()
        self.release_again()
        logger.info("epoch %d of %s from %d", self.head.epoch, self.group, self.head.sequence)

    def open_stream(self) -> None:
        """Open this epoch's stream, drop older ones and tell everybody; nothing without Valkey."""
        self.stream_entry = "0-0"
        if self.client is None:
            return
        name = doorbell.stream_key(self.head.epoch, self.group)
        pipe: Any = self.client.pipeline(transaction=True)
        pipe.delete(name)
        self.stream_entry = "1-0"
        pipe.xadd(name, {doorbell.FIELD: b""}, id=self.stream_entry)
        if self.head.epoch > 1:
            pipe.delete(doorbell.stream_key(self.head.epoch - 1, self.group))
        pipe.delete(doorbell.engine_key(self.group))
        pipe.execute()

    def _rebuild(self, tell: recovery.Tell | None = None) -> None:
        """Make the machine anew from what is durable; `tell` is shown what was not released.

        :raises Diverged: when the journal does not prove its own state.
        """
        recovered = recovery.rebuild(
            self.connection,
            self.group,
            up_to=self.head.sequence,
            machine_type=self.machine_type,
            tell=tell,
            tell_after=self.head.released_sequence,
        )
        if recovered.hash != self.head.hash:
            raise recovery.Diverged(self.head.sequence, "the head has another hash")
        self.machine = recovered.machine
        with self.connection.cursor() as cursor, self.connection.transaction():
            self._cash_sequence = posting.lock_chain(cursor, posting.CASH)

    def release_again(self) -> None:
        """Release the news of every batch that may not have been; replies are looked up instead."""
        if self.head.released_sequence >= self.head.sequence:
            return
        self._publish([])
        self.mark_released()

    def _keep(
        self,
        batch: store.Batch,
        facts: events.Facts,
        touched: views.Touched,
        state: machine.Machine,
    ) -> None:
        """Keep the news of a batch that may not have been released, composed as it was then."""
        news = self._compose(facts, touched, state)
        self._unreleased.append(Unreleased(batch.sequence, news, passing.ends(facts)))

    def mark_released(self) -> None:
        """Note in the database what is released, when it is idle; a batch's head does it otherwise.

        :raises Fenced: when the epoch is over.
        """
        if self._marked_sequence != self.head.released_sequence:
            store.mark_released(self.connection, self.head)
            self._marked_sequence = self.head.released_sequence

    # A batch

    def execute(self, wanted: Sequence[commands.Command]) -> list[list[events.Event]]:
        """Journal commands as one batch and return each one's outcome; for callers in process.

        An order that was entered before gives the events of its first time.

        :raises Fenced: when another engine has taken over.
        """
        answers = self.run_batch([passing.Incoming(command) for command in wanted])
        by_command = {id(answer.incoming.command): answer.happened for answer in answers}
        return [by_command[id(command)] for command in wanted]

    def take_instructions(self) -> list[passing.Incoming]:
        """Return the instructions that wait, as commands, in order of arrival."""
        with self.connection.cursor() as cursor:
            pending = projection.pending_instructions(cursor)
        return [passing.Incoming(commands.Instruct(id=name, body=body)) for name, body in pending]

    def run_batch(self, incoming: Sequence[passing.Incoming]) -> list[passing.Answer]:
        """Carry out, store and release one batch; return what was answered, in no fixed order.

        :raises Fenced: when another engine has taken over.
        :raises psycopg.Error: when the commit failed or is unknown; the caller ends.
        """
        if self.is_skewed:
            answers = [passing.Answer(each, envelope.CLOCK_SKEW) for each in incoming]
            self._publish(answers)
            return answers
        began_ns = clock.monotonic_ns()
        works, ready, questions = self._recall(incoming)
        recalled_ns = clock.monotonic_ns()
        try:
            self._apply(works)
            applied_ns = clock.monotonic_ns()
            news = self._store(works)
        except _FATAL:
            raise
        except Exception as error:  # noqa: BLE001 - the one place that may: it quarantines
            self._publish(ready)
            ready += self._isolate(works, error)
            told = [self._previewed(each) for each in questions]
            self._publish(told)
            return ready + told
        ready += [self._previewed(each) for each in questions]
        stored_ns = clock.monotonic_ns()
        answers = self._release(works, ready, news)
        spent = self.spent
        spent.commands += len(works)
        spent.batches += 1
        spent.recall_ns += recalled_ns - began_ns
        spent.apply_ns += applied_ns - recalled_ns
        spent.encode_ns += stored_ns - applied_ns
        spent.release_ns += clock.monotonic_ns() - stored_ns
        return ready + answers

    def is_due(self) -> bool:
        """Whether the calendar has something to do."""
        due = self.machine.next_due()
        return due is not None and due <= clock.now_micros()

    def check_clock(self) -> bool:
        """Compare the system's clock with the database's; return whether the engine may go on."""
        before = clock.system_micros()
        database = store.database_clock(self.connection)
        after = clock.system_micros()
        apart = max(before - database, database - after, 0)
        if (apart > SKEW_MAX) != self.is_skewed:
            self.is_skewed = not self.is_skewed
            logger.error("clock_skew: %s, %d us apart", self.is_skewed, apart)
        return not self.is_skewed

    def _recall(
        self, incoming: Sequence[passing.Incoming]
    ) -> tuple[list[passing.Work], list[passing.Answer], list[passing.Incoming]]:
        """Part what is new from what came before, in this batch or ever, and from questions."""
        known = store.remembered(
            self.connection,
            [
                (each.command.account, each.command.client_order_id)
                for each in incoming
                if isinstance(each.command, passing.WITH_IDS)
            ],
        )
        works: list[passing.Work] = []
        answers: list[passing.Answer] = []
        questions: list[passing.Incoming] = []
        replays: list[tuple[passing.Incoming, store.Remembered]] = []
        first: dict[tuple[int, str], passing.Work] = {}
        for each in incoming:
            command = each.command
            if not isinstance(command, passing.WITH_IDS):
                if isinstance(command, commands.PreviewOrder):
                    questions.append(each)
                else:
                    works.append(passing.Work(each, command))
                continue
            key = command.account, command.client_order_id
            before = known.get(key)
            if before is not None:
                if before.fingerprint == command.fingerprint:
                    replays.append((each, before))
                else:
                    answers.append(passing.Answer(each, envelope.KEY_REUSE))
            elif key in first:
                first[key].retries.append(each)
            else:
                first[key] = passing.Work(each, command)
                works.append(first[key])
        if replays:
            answers += self._replayed(replays)
        return works, answers, questions

    def _replayed(
        self, replays: list[tuple[passing.Incoming, store.Remembered]]
    ) -> list[passing.Answer]:
        """Return the first answers of orders that were entered before, out of the journal."""
        stored = store.events_of(
            self.connection, self.group, [before.placed_sequence for _, before in replays]
        )
        return [
            passing.Answer(
                each,
                envelope.REPLAYED,
                before.placed_sequence,
                envelope.of_order(
                    before.order,
                    before.placed_sequence,
                    events.decode_batch(stored[before.placed_sequence]),
                ),
            )
            for each, before in replays
        ]

    def _previewed(self, each: passing.Incoming) -> passing.Answer:
        """Return what an order would do where the machine stands, the batch it came in done."""
        assert isinstance(each.command, commands.PreviewOrder), "a question"
        try:
            asked = each.command.order
            found: events.Event
            if isinstance(asked, commands.PlaceStrip):
                found = self.machine.preview_strip(asked)
            else:
                found = self.machine.preview(asked)
        except Exception:
            logger.critical("a preview broke an invariant", exc_info=True)
            return passing.Answer(each, envelope.INTERNAL_ERROR)
        return passing.Answer(each, envelope.APPLIED, self.head.sequence, [found])

    def _apply(self, works: Sequence[passing.Work]) -> None:
        """Give every command its place and let the machine carry it out."""
        state = self.machine
        at = max(state.at, clock.now_micros())
        sequence = self.head.sequence
        for work in works:
            sequence += 1
            work.item = commands.Sequenced(sequence, at, work.command)
            work.happened = state.apply(work.command, sequence, at)

    def _store(self, works: Sequence[passing.Work]) -> Unreleased | None:
        """Write the batch and all that follows from it, in one transaction; return its news."""
        if not works:
            return None
        items = [work.item for work in works if work.item is not None]
        happened = [event for work in works for event in work.happened]
        facts = events.by_type(happened)
        body, written = commands.encode_batch(items), events.encode_batch(happened)
        batch = store.Batch(
            first_sequence=items[0].sequence,
            sequence=items[-1].sequence,
            at=items[-1].at,
            format=store.JOURNAL_FORMAT,
            rules=self.machine.rules,
            commands=body,
            events=written,
            previous_hash=self.head.hash,
            hash=journal.batch_hash(self.head.hash, body, written),
        )
        self._fail_at("before_commit", (work.incoming for work in works))
        with store.transaction(self.connection) as writer:
            # The database goes to work on each part while the next is made.
            store.advance_head(writer, self.head, batch, stream_entry=self.stream_entry)
            cash_sequence = batch_rows.post(
                writer, happened, facts, at=batch.at, expected_sequence=self._cash_sequence
            )
            writer.flush()
            touched = self.machine.drain_touched(facts)
            batch_rows.write(writer, works, happened, facts, touched, batch)
            writer.flush()
            news = self._compose(facts, touched, self.machine)
            rows.write_deltas(writer, news.deltas, batch.at)
            for work in works:
                work.answers = passing.answers_of(work)
            sent_ns = clock.monotonic_ns()
        waited_ns = clock.monotonic_ns() - sent_ns
        self.spent.commit_ns += waited_ns
        self.spent.encode_ns -= waited_ns
        self._fail_at("after_commit", (work.incoming for work in works))
        self._cash_sequence = cash_sequence
        self._marked_sequence = self.head.released_sequence
        self.head = dataclasses.replace(
            self.head, sequence=batch.sequence, hash=batch.hash, at=batch.at
        )
        return Unreleased(batch.sequence, news, passing.ends(facts))

    # After the commit

    def _release(
        self,
        works: Sequence[passing.Work],
        ready: Sequence[passing.Answer],
        news: Unreleased | None,
    ) -> list[passing.Answer]:
        """Send replies and news of a batch that is durable; return the answers of its commands."""
        answers = [answer for work in works for answer in work.answers]
        if news is not None:
            self._unreleased.append(news)
        self._publish([*ready, *answers])
        return answers

    def _compose(
        self, facts: events.Facts, touched: views.Touched, state: machine.Machine
    ) -> feed.News:
        """Return the news of a batch; what cannot be told must not stop what is to be durable."""
        try:
            return feed.compose(facts, touched, state)
        except Exception:
            logger.critical("the news of %d is lost", state.sequence, exc_info=True)
            return feed.NOTHING

    def _publish(self, answers: Sequence[passing.Answer]) -> None:
        """Publish replies by process, and what is unreleased: a message for each batch.

        A Valkey that is away costs nobody anything: callers look their outcome up, and the news is
        kept and released with the next, because the head does not say that it was.
        """
        if self.client is None:
            self._unreleased.clear()
            self.head = dataclasses.replace(self.head, released_sequence=self.head.sequence)
            return
        mail: dict[str, list[envelope.Reply]] = {}
        for answer in answers:
            each = answer.incoming
            if each.reply_to:
                sequence = answer.sequence or self.head.sequence
                reply = envelope.Reply(
                    each.correlation, answer.result, sequence, self.machine.at, answer.happened
                )
                mail.setdefault(each.reply_to, []).append(reply)
        pipe: Any = self.client.pipeline(transaction=False)
        for reply_to, replies in mail.items():
            pipe.publish(reply_to, envelope.encode_replies(replies))
        if self._failpoint.startswith("mid_release"):
            pipe.execute()
            self._fail_at("mid_release", (answer.incoming for answer in answers))
        for told in self._unreleased:
            for name, outcome in told.ended:
                pipe.publish(channels.instruction_channel(name), outcome)
            if told.news is not feed.NOTHING:
                release = envelope.Release(told.sequence, told.news.items, told.news.private)
                pipe.publish(channels.feed_channel(self.group), envelope.encode_release(release))
        # What the journal holds, or a reply refused, is not read again: drop it from the stream.
        pipe.xtrim(
            doorbell.stream_key(self.head.epoch, self.group),
            minid=_after(self.stream_entry),
            approximate=False,
        )
        try:
            pipe.execute()
        except valkey.ValkeyError:
            logger.warning("released nothing: Valkey is away")
        else:
            self._unreleased.clear()
            self.head = dataclasses.replace(self.head, released_sequence=self.head.sequence)

    # Poison

    def _isolate(self, works: Sequence[passing.Work], error: Exception) -> list[passing.Answer]:
        """Do a batch again one by one, each in its own transaction, and set the culprits aside."""
        logger.critical("a batch broke an invariant: %s", error, exc_info=error)
        self._rebuild()
        answers: list[passing.Answer] = []
        for work in works:
            news = self._try_alone(work)
            answers += self._release([work], [], news)
        return answers

    def _try_alone(self, work: passing.Work) -> Unreleased | None:
        """Carry out one command, setting aside what of the calendar breaks before it, or itself."""
        for _ in range(quarantine.ENTRIES_MAX):
            try:
                self._apply([work])
                return self._store([work])
            except _FATAL:
                raise
            except Exception as culprit:  # noqa: BLE001 - as in `run_batch`
                entry = self.machine.performing
                self._rebuild()
                if entry is not None:
                    self._set_entry_aside(entry, culprit)
                elif self.machine.next_entry(clock.now_micros()) is not None:
                    self._perform_one_by_one()
                else:
                    work.result = envelope.INTERNAL_ERROR
                    aside = quarantine.of_command(self.machine, work.command, culprit)
                    return self._set_aside(aside, work)
        raise AssertionError("an entry of the calendar is set aside once")

    def _perform_one_by_one(self) -> None:
        """Bring the calendar up to date, each entry in a transaction; set aside what breaks."""
        until = clock.now_micros()
        broken = 0
        while (entry := self.machine.next_entry(until)) is not None:
            work = passing.Work(passing.Incoming(tick := commands.Tick(entry)), tick)
            try:
                self._apply([work])
                news = self._store([work])
            except _FATAL:
                raise
            except Exception as culprit:  # as in `run_batch`
                broken += 1
                if broken > quarantine.ENTRIES_MAX:
                    raise
                self._rebuild()
                self._set_entry_aside(entry, culprit)
            else:
                self._release([work], [], news)

    def _set_entry_aside(self, entry: commands.Entry, culprit: Exception) -> None:
        """Journal that an entry of the calendar is not performed."""
        aside = quarantine.of_entry(self.machine, entry, culprit)
        broken = passing.Work(passing.Incoming(aside), aside)
        self._release([broken], [], self._set_aside(aside, broken))

    def _set_aside(self, aside: commands.Quarantine, work: passing.Work) -> Unreleased | None:
        """Journal what is set aside in the place of what broke."""
        sequence, at = self.head.sequence + 1, max(self.machine.at, clock.now_micros())
        logger.critical("quarantined at %d: %s", sequence, aside.assertion)
        work.item = commands.Sequenced(sequence, at, aside)
        work.happened = self.machine.apply(aside, sequence, at)
        return self._store([work])

    def _fail_at(self, point: str, incoming: Iterable[passing.Incoming]) -> None:
        """Die here when a test of recovery asks for it, on the n-th batch that holds an order.

        `BASELOAD_FAILPOINT` is `before_commit`, `after_commit` or `mid_release` (the replies are
        out and the news is not), with `:n` for another batch than the first; what happens there is
        `BASELOAD_FAILSIGNAL`, a kill unless it says otherwise.
        """
        name, _, batch = self._failpoint.partition(":")
        if name != point or not any(each.reply_to for each in incoming):
            return
        self._failed_batches += 1
        if self._failed_batches >= int(batch or 1):
            os.kill(os.getpid(), signal.Signals[os.environ.get("BASELOAD_FAILSIGNAL", "SIGKILL")])


def _after(entry: str) -> str:
    """Return the id right after a stream entry's: what trimming keeps from."""
    milliseconds, _, sequence = entry.partition("-")
    return f"{milliseconds}-{int(sequence or 0) + 1}"
