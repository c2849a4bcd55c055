"""What a worker does beside its work: heartbeats, alerts in the log, and an end to what hangs."""

import logging
import signal

import pytest
from django.db import connection

from marketplace import watchman
from marketplace.control_room import Alert
from settlement import heartbeats, keeping, leases, models
from settlement.kinds import Claim

pytestmark = pytest.mark.django_db

LAG = Alert(code="lag", text="Queue urgent is 2 min late.")
BROKER = Alert(code="broker", text="The broker does not answer.")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_an_alert_is_an_error_when_it_begins_and_is_over_once(caplog) -> None:
    watch = watchman.Watchman("urgent")
    watch.say([LAG, BROKER])
    assert said(caplog) == [
        (logging.ERROR, "alert lag: Queue urgent is 2 min late."),
        (logging.ERROR, "alert broker: The broker does not answer."),
    ]
    watch.say([LAG])
    assert said(caplog) == [(logging.WARNING, "alert broker is over")]
    watch.say([LAG])
    assert said(caplog) == []


def test_an_alert_that_goes_on_is_said_again(caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watchman.Watchman("urgent")
    watch.say([LAG])
    monkeypatch.setattr(watchman, "SAID_AGAIN_S", 0.0)
    caplog.clear()
    watch.say([LAG])
    assert [level for level, _ in said(caplog)] == [logging.ERROR]


def test_of_many_workers_one_says_what_is_wrong(caplog, clock) -> None:
    first, second = watchman.Watchman("urgent"), watchman.Watchman("normal")
    first.process, second.process = "host:1", "host:2"
    for watch in (first, second):
        for _ in range(watchman.LOOK_EVERY_ROUNDS):
            watch.watch()
    errors = [text for level, text in said(caplog) if level == logging.ERROR]
    assert errors.count("alert engine: The engine is down.") == 1
    assert leases.take(name=watchman.LEASE, holder="other") is None
    assert set(models.Heartbeat.objects.values_list("process", "role", "queues")) == {
        ("host:1", "worker", "urgent"),
        ("host:2", "worker", "normal"),
    }


def test_a_process_whose_work_hangs_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(watchman.os, "kill", lambda pid, number: killed.append((pid, number)))
    claim = Claim(id=1, kind="reconcile", slot="x", epoch=1, at=0)
    monkeypatch.setattr(keeping.keeper, "overdue", lambda: [claim])
    watchman.Watchman("normal").watch()
    assert killed == [(watchman.os.getpid(), signal.SIGKILL)]


def test_who_ended_long_ago_is_forgotten_when_another_comes() -> None:
    heartbeats.heard(process="host:1", role=heartbeats.WORKER, queues="urgent")
    heartbeats.heard(process="gen1@host", role=heartbeats.BEAT)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE settlement_heartbeat SET seen_at = seen_at - %s * interval '1 second'"
            " WHERE role = 'beat'",
            [heartbeats.KEPT_S + 1],
        )
    heartbeats.heard(process="host:1", role=heartbeats.WORKER)
    assert models.Heartbeat.objects.count() == 2
    heartbeats.heard(process="host:2", role=heartbeats.WORKER, queues="urgent")
    names = models.Heartbeat.objects.order_by("process").values_list("process", flat=True)
    assert list(names) == ["host:1", "host:2"]
    heartbeats.gone("host:1")
    assert models.Heartbeat.objects.count() == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "x';--", "gen1@host\n"])
def test_a_name_that_no_process_has_is_not_written_down(name: str) -> None:
    heartbeats.heard(process=name, role=heartbeats.BEAT)
    assert models.Heartbeat.objects.count() == 0
