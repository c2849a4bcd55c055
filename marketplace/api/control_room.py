"""What operators watch and decide about background work, over REST; the page shows the same."""

from typing import Annotated

import msgspec

from marketplace import clock, control_room
from marketplace.api import operator
from marketplace.endpoint import Answer, Call, Endpoint, Strict
from marketplace.wire import moment_text
from settlement import backlog

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class QueueState(Answer):
    """How many due jobs of a queue are in which state, and how late the oldest is."""

    queue: str
    ready: int
    paused: int
    running: int
    waiting: int
    blocked: int
    parked: int
    oldest_due_at: str | None
    lag_s: float


class JobState(Answer):
    """One job."""

    kind: str
    slot: str
    queue: str
    state: str
    due_at: str
    attempts: int
    error: str
    holder: str
    running_s: float
    lease_left_s: float
    blocked_by: str


class LeaseState(Answer):
    """Who may run what must run once."""

    name: str
    holder: str
    epoch: int
    left_s: float


class ProcessState(Answer):
    """A worker or a beat."""

    process: str
    role: str
    queues: str
    silent_s: float
    alive: bool


class EngineState(Answer):
    """Where the journal ends."""

    state: str
    epoch: int
    sequence: int
    committed_at: str
    age_s: float


class SealState(Answer):
    """The last signed head of a chain, and how far the chain has come."""

    chain: str
    sequence: int
    head_sequence: int
    at: str | None


class AlertState(Answer):
    """What is wrong now."""

    code: str
    text: str


class ShowOperations(Endpoint):
    """How the work behind the market stands: queues, failures, leases, workers, engine, alerts."""

    scope = "operate"
    tag = "operator"

    class Output(Answer):
        """Everything at one instant of market time."""

        at: str
        alerts: list[AlertState]
        queues: list[QueueState]
        running: list[JobState]
        failing: list[JobState]
        parked: list[JobState]
        blocked: list[JobState]
        given_up: list[JobState]
        leases: list[LeaseState]
        processes: list[ProcessState]
        broker_reachable: bool
        broker_doorbells: int
        engine: EngineState
        instructions_pending: int
        instruction_age_s: float
        seals: list[SealState]

    def handle(self, call: Call) -> Output:
        """Answer."""
        room = control_room.look(clock.now_micros())
        held = room.backlog
        engine = room.engine
        return self.Output(
            at=moment_text(held.at),
            alerts=[AlertState(code=one.code, text=one.text) for one in room.alerts],
            queues=[_queue(row) for row in held.queues],
            running=[_job(row) for row in held.running],
            failing=[_job(row) for row in held.failing],
            parked=[_job(row) for row in held.parked],
            blocked=[_job(row) for row in held.blocked],
            given_up=[_job(row) for row in held.given_up],
            leases=[
                LeaseState(
                    name=row.name, holder=row.holder, epoch=row.epoch, left_s=round(row.left_s, 3)
                )
                for row in held.leases
            ],
            processes=[
                ProcessState(
                    process=row.process,
                    role=row.role,
                    queues=row.queues,
                    silent_s=round(row.silent_s, 3),
                    alive=row.is_alive,
                )
                for row in held.processes
            ],
            broker_reachable=room.broker.is_reachable,
            broker_doorbells=room.broker.doorbells,
            engine=EngineState(
                state=engine.state,
                epoch=engine.epoch,
                sequence=engine.sequence,
                committed_at=moment_text(engine.committed_at),
                age_s=round(engine.age_s, 3),
            ),
            instructions_pending=held.instructions.pending,
            instruction_age_s=round(held.instructions.oldest_s, 3),
            seals=[
                SealState(
                    chain=row.chain,
                    sequence=row.sequence,
                    head_sequence=row.head_sequence,
                    at=None if row.at is None else moment_text(row.at),
                )
                for row in held.seals
            ],
        )


def _queue(row: backlog.QueueRow) -> QueueState:
    return QueueState(
        queue=row.queue,
        ready=row.ready,
        paused=row.paused,
        running=row.running,
        waiting=row.waiting,
        blocked=row.blocked,
        parked=row.parked,
        oldest_due_at=None if row.oldest_due_at is None else moment_text(row.oldest_due_at),
        lag_s=round(row.lag_s, 3),
    )


def _job(row: backlog.JobRow) -> JobState:
    return JobState(
        kind=row.kind,
        slot=row.slot,
        queue=row.queue,
        state=row.state.lower(),
        due_at=moment_text(row.due_at),
        attempts=row.attempts,
        error=row.error,
        holder=row.holder,
        running_s=round(row.running_s, 3),
        lease_left_s=round(row.lease_left_s, 3),
        blocked_by=row.blocked_by,
    )


class JobChoice(Strict):
    """Which job, and why."""

    kind: Text
    slot: Text
    reason: operator.Reason = ""


class JobsMoved(Answer):
    """The job, and those that were moved along because they wait for it."""

    jobs: list[str]


class RunJobAgain(Endpoint):
    """Put a job that is parked or given up back into its queue."""

    method = "POST"
    scope = "operate"
    tag = "operator"
    codes = ("job_not_set_aside", "reason_required")
    Input = JobChoice
    Output = JobsMoved

    def handle(self, call: Call, given: JobChoice) -> JobsMoved:
        """Answer."""
        moved = control_room.run_again(
            kind=given.kind, slot=given.slot, actor=operator.actor(call), reason=given.reason
        )
        return JobsMoved(jobs=[f"{kind} {slot}" for kind, slot in moved])


class GiveJobUp(Endpoint):
    """Give a parked job up, and all that waits for it; it can be run again later."""

    method = "POST"
    scope = "operate"
    tag = "operator"
    codes = ("job_not_set_aside", "reason_required")
    Input = JobChoice
    Output = JobsMoved

    def handle(self, call: Call, given: JobChoice) -> JobsMoved:
        """Answer."""
        moved = control_room.give_up(
            kind=given.kind, slot=given.slot, actor=operator.actor(call), reason=given.reason
        )
        return JobsMoved(jobs=[f"{kind} {slot}" for kind, slot in moved])
