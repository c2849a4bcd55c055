"""The exchange's background work: snapshots, by replay and never by the engine; old deltas; alerts.

A snapshot is made by a process of its own, which starts from the last one and replays the journal
after it. So the engine never stops to write one, and every snapshot is a proof that the journal up
to there replays: a batch that does not stops the job, which is parked and seen.
"""

from exchange import deltas, machine, models, recovery, store, surveillance
from marketplace import clock
from settlement import doorbell, jobs, kinds, slots
from settlement.kinds import Claim, Kind
from settlement.models import Job

SNAPSHOT_AFTER_COMMANDS = 10_000
"""How far the journal may grow before the next snapshot: what a recovery replays at most."""
SNAPSHOT_EVERY = 5 * clock.MINUTE
PROGRESS_EVERY_COMMANDS = 5_000
PURGE_EVERY = clock.HOUR
SURVEILLANCE_EVERY = clock.MINUTE


def snapshot(claim: Claim) -> None:
    """Replay what the journal has grown by, and keep the state, when there is enough of it.

    :raises Diverged: when the journal does not replay.
    """
    write_snapshot(claim=claim)


def write_snapshot(
    *,
    group: str = doorbell.GROUP,
    after_commands: int = SNAPSHOT_AFTER_COMMANDS,
    claim: Claim | None = None,
) -> int | None:
    """Store a snapshot at the journal's head and return its sequence; None when none is due.

    :raises Diverged: when the journal does not replay.
    """
    head = models.Head.objects.filter(group=group).first()
    newest = (
        models.Snapshot.objects.filter(group=group, format=machine.FORMAT)
        .order_by("-sequence")
        .first()
    )
    started_from = newest.sequence if newest is not None else 0
    if head is None or head.sequence - started_from < after_commands:
        return None
    shown = started_from

    def progress(sequence: int) -> None:
        nonlocal shown
        if claim is not None and sequence - shown >= PROGRESS_EVERY_COMMANDS:
            shown = sequence
            jobs.progress(claim, {"sequence": sequence, "of": head.sequence})

    with store.connect() as connection:
        recovered = recovery.rebuild(connection, group, up_to=head.sequence, progress=progress)
        return recovery.store_snapshot(connection, group, recovered).sequence


def purge_deltas(_slot: str, at: int) -> None:
    """Remove what happened to books that were settled long enough ago."""
    deltas.purge(clock.to_datetime(at))


def watch(slot: str, _at: int) -> None:
    """Look at every minute of trading since the last pass.

    A pass makes up for those that were missed, and only where something traded. So the kind is not
    one whose slots are caught up one by one, which would keep workers busy after a clock's leap.
    """
    until = slots.read_instant(slot)
    done = Job.objects.filter(kind=SURVEILLANCE, state=Job.State.DONE)
    last = done.filter(due_at__lt=clock.to_datetime(until)).order_by("-due_at").first()
    since = until - SURVEILLANCE_EVERY if last is None else clock.to_micros(last.due_at)
    surveillance.scan(since=since, until=until)


SURVEILLANCE = "surveillance"
kinds.register(
    Kind(name=SURVEILLANCE, schedule=kinds.Every(period=SURVEILLANCE_EVERY), handler=watch)
)
kinds.register(
    Kind(
        name="purge_deltas",
        schedule=kinds.Every(period=PURGE_EVERY),
        handler=purge_deltas,
        is_awaited=False,
    )
)
kinds.register(
    Kind(
        name="snapshot",
        schedule=kinds.Repeat(period=SNAPSHOT_EVERY),
        long_handler=snapshot,
        is_awaited=False,
    )
)
