"""The control room as Prometheus metrics: read when they are asked for, held nowhere.

When the database does not answer there is one gauge, which says so; whatever scrapes it has the
process's own counters all the same.
"""

from collections.abc import Iterator

import prometheus_client
from django.db import Error as DatabaseError
from django.db import connection
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marketplace import clock, control_room
from marketplace.control_room import ControlRoom
from settlement import heartbeats

STATES = ("ready", "paused", "running", "waiting", "blocked", "parked")


class _Gauges(Collector):
    """One look, as metrics."""

    def __init__(self, room: ControlRoom | None) -> None:
        self._room = room

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        up = "Whether the queue of record could be read."
        yield GaugeMetricFamily("baseload_operations_up", up, float(self._room is not None))
        if self._room is not None:
            yield from _queues(self._room)
            yield from _processes(self._room)
            yield from _machine(self._room)


def text() -> bytes:
    """Return what the control room shows in Prometheus's form; it asks the database."""
    try:
        room = control_room.look(clock.now_micros())
    except DatabaseError:
        room = None
    finally:
        connection.close()
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Gauges(room))
    return prometheus_client.generate_latest(registry)


def _queues(room: ControlRoom) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("baseload_jobs", "Jobs that are due.", labels=["queue", "state"])
    lag = GaugeMetricFamily(
        "baseload_queue_lag_seconds", "Market time since the oldest job was due.", labels=["queue"]
    )
    late = GaugeMetricFamily(
        "baseload_queue_late_seconds", "The lag since the clock last leapt.", labels=["queue"]
    )
    for row in room.backlog.queues:
        for state in STATES:
            jobs.add_metric([row.queue, state], getattr(row, state))
        lag.add_metric([row.queue], row.lag_s)
        late.add_metric([row.queue], row.late_s)
    yield from (jobs, lag, late)
    alerts = GaugeMetricFamily("baseload_alerts", "What is wrong now.", labels=["code"])
    codes = [alert.code for alert in room.alerts]
    for code in sorted(set(codes)):
        alerts.add_metric([code], codes.count(code))
    yield alerts


def _processes(room: ControlRoom) -> Iterator[Metric]:
    alive = [one.role for one in room.backlog.processes if one.is_alive]
    processes = GaugeMetricFamily(
        "baseload_processes_alive", "Workers and beats heard of lately.", labels=["role"]
    )
    for role in (heartbeats.WORKER, heartbeats.BEAT):
        processes.add_metric([role], alive.count(role))
    yield processes
    up = "Whether the broker answers."
    yield GaugeMetricFamily("baseload_broker_up", up, float(room.broker.is_reachable))
    doorbells = "Doorbells that wait in the broker."
    yield GaugeMetricFamily("baseload_broker_doorbells", doorbells, room.broker.doorbells)


def _machine(room: ControlRoom) -> Iterator[Metric]:
    engine, instructions = room.engine, room.backlog.instructions
    for name, what, value in (
        ("engine_up", "Whether an engine runs.", float(engine.state == "running")),
        ("engine_epoch", "Epoch of the journal's head.", engine.epoch),
        ("engine_sequence", "Sequence of the journal's head.", engine.sequence),
        ("engine_commit_age_seconds", "Market time since the last commit.", engine.age_s),
        ("instructions_pending", "Instructions the machine has not taken.", instructions.pending),
        ("instruction_age_seconds", "Age of the oldest of those.", instructions.oldest_s),
    ):
        yield GaugeMetricFamily(f"baseload_{name}", what, value)
    age = GaugeMetricFamily("baseload_seal_age_seconds", "Age of the last seal.", labels=["chain"])
    for row in room.backlog.seals:
        if row.at is not None:
            age.add_metric([row.chain], row.age_s)
    yield age
