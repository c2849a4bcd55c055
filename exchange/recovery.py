"""The machine from its journal: newest snapshot, then every batch after it, each one verified.

A replay checks three things batch by batch: that the batch follows the one before it (hash chain),
that its bytes are what was hashed, and that the machine, given the same commands, answers with the
same events. Where one of them fails the replay stops at that sequence and says so; nobody runs on a
state that the journal does not prove.

Batches end where they ended, so that every topic counts its messages on as it did. A caller that
wants to tell the news of batches again is shown each, as the machine stood after it.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exchange import commands, events, journal, machine, store
from exchange.machine import views

MachineType = type[machine.Machine]
Tell = Callable[[store.Batch, events.Facts, views.Touched, machine.Machine], None]
"""What looks at a batch that was replayed: its events by type, what it touched, and the state."""


class Diverged(Exception):
    """The journal and its replay disagree; `sequence` is the last of the batch where they do."""

    def __init__(self, sequence: int, what: str) -> None:
        super().__init__(f"at sequence {sequence}: {what}")
        self.sequence = sequence
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A machine at a sequence, and the hash of the journal up to there."""

    machine: machine.Machine
    hash: bytes
    batches: int
    commands: int
    started_from: int
    """Sequence of the snapshot; 0 when the replay began at the beginning."""


def rebuild(
    connection: store.Connection,
    group: str,
    *,
    up_to: int,
    from_genesis: bool = False,
    machine_type: MachineType = machine.Machine,
    progress: Callable[[int], None] | None = None,
    tell: Tell | None = None,
    tell_after: int = 0,
) -> Recovered:
    """Return the machine as it was after the command `up_to`.

    `tell` is shown every batch that ends after `tell_after`, unless only a later snapshot is kept.

    :raises Diverged: when the journal or a snapshot does not prove the state.
    """
    stored = None
    for latest in () if from_genesis else (up_to,) if tell is None else (tell_after, up_to):
        stored = stored or store.newest_snapshot(
            connection, group, snapshot_format=machine.FORMAT, up_to=latest
        )
    if stored is None:
        state, chain, started_from = machine_type(), journal.GENESIS_HASH, 0
    else:
        state, chain = machine_type.restore(stored.body), stored.journal_hash
        started_from = stored.sequence
        if state.digest() != stored.state_digest or state.sequence != stored.sequence:
            raise Diverged(stored.sequence, "the snapshot is not the state it names")
    batches = count = 0
    with _without_collector():
        for batch in store.tail(connection, group, after=started_from, up_to=up_to):
            chain = verify(state, batch, chain, tell if batch.sequence > tell_after else None)
            batches += 1
            count += batch.sequence - batch.first_sequence + 1
            if progress is not None:
                progress(batch.sequence)
    if state.sequence != up_to:
        raise Diverged(state.sequence, f"the journal ends before {up_to}")
    return Recovered(
        machine=state, hash=chain, batches=batches, commands=count, started_from=started_from
    )


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector out of the block: a replay makes millions of objects, no cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def verify(
    state: machine.Machine, batch: store.Batch, previous_hash: bytes, tell: Tell | None = None
) -> bytes:
    """Replay one batch into the machine, tell of it, and return the chain's new hash.

    :raises Diverged: when its hash, its place or its events are not what they should be.
    """
    if batch.previous_hash != previous_hash:
        raise Diverged(batch.sequence, "the batch does not follow the one before it")
    if batch.first_sequence != state.sequence + 1:
        raise Diverged(batch.sequence, "commands are missing before the batch")
    if journal.batch_hash(previous_hash, batch.commands, batch.events) != batch.hash:
        raise Diverged(batch.sequence, "the batch is not what was hashed")
    happened: list[events.Event] = []
    for item in commands.decode_batch(batch.commands):
        happened += state.apply(item.command, item.sequence, item.at)
    if events.encode_batch(happened) != batch.events:
        raise Diverged(batch.sequence, "the replay has other events")
    facts = events.by_type(happened)
    if tell is None:
        state.forget_touched(facts)
    else:
        tell(batch, facts, state.drain_touched(facts), state)
    return batch.hash


def store_snapshot(
    connection: store.Connection, group: str, recovered: Recovered
) -> store.StoredSnapshot:
    """Store the state of a replay, so that the next one starts there."""
    body = recovered.machine.snapshot()
    snapshot = store.StoredSnapshot(
        sequence=recovered.machine.sequence,
        format=machine.FORMAT,
        rules=recovered.machine.rules,
        journal_hash=recovered.hash,
        state_digest=recovered.machine.digest(),
        body=body,
    )
    store.write_snapshot(connection, group, snapshot)
    return snapshot
