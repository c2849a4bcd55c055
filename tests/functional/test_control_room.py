"""What operators watch and decide: the page, the API and the metrics print the same look."""

import re
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test import Client

from marketplace import clock as market_clock
from marketplace import control_room, gauges, models
from settlement import heartbeats, jobs, kinds, leases
from settlement import models as clearing
from settlement.kinds import Kind
from tests import broker
from tests.functional.test_pages import member, text
from tests.rest import Party, World

REPORT, SETTLE, CLOSE = ("report", "h/01"), ("settle", "h/01"), ("close", "h")


@pytest.fixture
def operator(world: World) -> Party:
    return world.party("Market operations", "OPERATOR")


@pytest.fixture
def staff(world: World) -> Client:
    user = models.User.objects.create_superuser(
        "staff@example.com", "correct horse battery", created_at=market_clock.now()
    )
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def chain(world: World, clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three jobs that wait for one another; the first has a broken assertion."""
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    before, loaded = dict(kinds._registry), list(kinds._loaded)
    kinds._registry.clear()
    kinds._loaded[:] = [True]

    def report(slot: str, at: int) -> None:
        raise AssertionError("allocations <add up>")

    kinds.register(Kind(name="report", queue=kinds.URGENT, handler=report))
    for name in ("settle", "close", "other"):
        kinds.register(Kind(name=name, queue=kinds.URGENT, handler=lambda slot, at: None))
    jobs.enqueue(kind="report", slot="h/01", due_at=clock.at)
    jobs.enqueue(kind="settle", slot="h/01", due_at=clock.at, after=REPORT)
    jobs.enqueue(kind="close", slot="h", due_at=clock.at, after=SETTLE)
    jobs.enqueue(kind="other", slot="x", due_at=clock.at)
    jobs.work(kinds.URGENT)
    yield
    kinds._registry.clear()
    kinds._registry.update(before)
    kinds._loaded[:] = loaded


def states() -> dict[str, str]:
    rows = clearing.Job.objects.order_by("id").values_list("kind", "state")
    return dict(rows)


def decide(kind: str, slot: str, reason: str = "the cause is mended") -> dict[str, str]:
    return {"kind": kind, "slot": slot, "reason": reason}


def test_a_poisoned_job_stops_what_waits_for_it_and_nothing_else(chain, staff: Client) -> None:
    assert states() == {"report": "PARKED", "settle": "DUE", "close": "DUE", "other": "DONE"}
    (queue,) = control_room.look(market_clock.now_micros()).backlog.queues
    assert (queue.queue, queue.parked, queue.blocked, queue.ready) == ("urgent", 1, 2, 0)
    assert queue.oldest_due_at is None
    body = text(staff.get("/operations"))
    assert "AssertionError: allocations &lt;add up&gt;" in body
    rows = re.findall(
        r'class="break">(\w+) <small>\S+</small></th><td class="break">([^<]+)<', body
    )
    assert rows == [("settle", "report h/01"), ("close", "report h/01")]
    assert "1 job is parked; 2 more are blocked." in body


def test_what_is_blocked_is_not_waited_for_however_far_behind(chain, clock) -> None:
    from settlement import queries

    assert queries.work_due_by(market_clock.to_datetime(clock.at)) == 0


def test_an_operator_runs_a_parked_job_again_with_a_reason(
    chain, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason in ("", "  no ", "x" * 501):
        refused = staff.post("/operations/run-again", decide(*REPORT, reason), follow=True)
        assert "give a reason" in text(refused).lower()
    assert states()["report"] == "PARKED"
    assert models.AuditEntry.objects.count() == 0
    kinds.register(Kind(name="report", queue=kinds.URGENT, handler=lambda slot, at: None))
    done = staff.post("/operations/run-again", decide(*REPORT), follow=True)
    assert "report h/01 will be run again." in text(done)
    jobs.work(kinds.URGENT)
    assert set(states().values()) == {"DONE"}
    entry = models.AuditEntry.objects.get()
    assert (entry.actor, entry.action) == ("staff@example.com", "run_job_again")
    assert (entry.target, entry.reason) == ("job:report h/01", "the cause is mended")
    assert entry.details == {"jobs": ["report h/01"]}


def test_giving_up_takes_along_what_waits_and_running_again_takes_it_back(
    chain, operator: Party
) -> None:
    asked = decide(*REPORT, "the cluster was never there")
    given_up = operator.api.post("operations/jobs/give-up", asked, key="-")
    assert (given_up.status, given_up.json) == (
        200,
        {"jobs": ["report h/01", "settle h/01", "close h"]},
    )
    assert states() == {
        "report": "GIVEN_UP", "settle": "GIVEN_UP", "close": "GIVEN_UP", "other": "DONE",
    }  # fmt: skip
    assert jobs.work(kinds.URGENT) == 0
    again = operator.api.post("operations/jobs/give-up", asked, key="-")
    assert (again.status, again.code) == (422, "job_not_set_aside")
    back = operator.api.post("operations/jobs/run-again", decide(*REPORT), key="-")
    assert back.json == {"jobs": ["report h/01", "settle h/01", "close h"]}
    assert states()["close"] == "DUE"
    (first, second) = models.AuditEntry.objects.order_by("id")
    assert (first.action, second.action) == ("give_job_up", "run_job_again")
    assert first.details["jobs"] == given_up.json["jobs"]


def test_only_what_is_set_aside_is_decided_about(chain, operator: Party) -> None:
    for path in ("run-again", "give-up"):
        for kind, slot in (SETTLE, ("other", "x"), ("report", "h/02"), ("nothing", "x")):
            reply = operator.api.post(f"operations/jobs/{path}", decide(kind, slot), key="-")
            assert (reply.status, reply.code) == (422, "job_not_set_aside")
    short = operator.api.post("operations/jobs/run-again", decide(*REPORT, "why"), key="-")
    assert (short.status, short.code) == (422, "reason_required")
    assert models.AuditEntry.objects.count() == 0
    assert states()["report"] == "PARKED"


def test_the_page_is_for_staff_and_for_operators_alone(world: World) -> None:
    stranger = Client().get("/operations")
    buyer = member(world)
    operator = member(world, "Operations Two")
    models.Organization.objects.filter(name="Operations Two").update(role="OPERATOR")
    assert (stranger.status_code, stranger["Location"]) == (302, "/login?next=/operations")
    assert buyer.get("/operations").status_code == 403
    assert 'href="/operations"' not in text(buyer.get("/portfolio"))
    shown = operator.get("/operations")
    assert shown.status_code == 200
    assert 'href="/operations" aria-current="page"' in text(shown)
    assert "no-store" in shown["Cache-Control"]
    models.Membership.objects.filter(organization__name="Operations Two").update(role="VIEWER")
    assert operator.get("/operations").status_code == 403


def test_nobody_else_decides_by_form_or_by_key(chain, world: World) -> None:
    buyer = member(world)
    party = world.party("Northwind")
    for path in ("run-again", "give-up"):
        buyer.post(f"/operations/{path}", decide(*REPORT))
        reply = party.api.post(f"operations/jobs/{path}", decide(*REPORT), key="-")
        assert (reply.status, reply.code) == (403, "missing_scope")
    assert party.api.get("operations").status == 403
    assert states()["report"] == "PARKED"
    assert models.AuditEntry.objects.count() == 0


def test_the_page_has_no_inline_script_or_style_and_reads_well_without(
    chain, staff: Client
) -> None:
    response = staff.get("/operations")
    body = text(response)
    assert "unsafe" not in response["Content-Security-Policy"]
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", body)
    assert all("src=" in script for script in re.findall(r"<script[^>]*>", body))
    assert body.count("<h1") == 1
    ids = re.findall(r'\sid="([^"]+)"', body)
    assert len(ids) == len(set(ids))
    assert staff.get("/admin/").content.decode().count('href="/operations"') == 1


def test_the_api_tells_what_runs_with_whom_and_for_how_long(chain, operator: Party, clock) -> None:
    kinds.register(Kind(name="long", long_handler=lambda claim: None, lease_s=60))
    jobs.enqueue(kind="long", slot="1", due_at=clock.at)
    (claim,) = jobs.claim(kinds.NORMAL, at=clock.at)
    leases.take(name="meter", holder="me")
    heartbeats.heard(process="gen12@host", role=heartbeats.BEAT)
    heartbeats.heard(process="host:13", role=heartbeats.WORKER, queues="normal")
    seen = operator.api.get("operations").json
    (running,) = seen["running"]
    assert (running["kind"], running["slot"], running["state"]) == ("long", "1", "running")
    assert running["holder"] == clearing.Job.objects.get(id=claim.id).holder != ""
    assert 50 < running["lease_left_s"] <= 60
    (lease,) = seen["leases"]
    assert (lease["name"], lease["holder"], lease["epoch"]) == ("meter", "me", 1)
    roles = [(row["role"], row["queues"], row["alive"]) for row in seen["processes"]]
    assert roles == [("worker", "normal", True), ("beat", "", True)]
    assert [alert["code"] for alert in seen["alerts"]][-2:] == ["worker", "parked"]
    assert seen["engine"]["sequence"] > 0
    (parked,) = seen["parked"]
    assert (parked["error"], parked["attempts"]) == ("AssertionError: allocations <add up>", 1)


def test_a_lag_is_market_time_and_late_counts_from_the_last_leap(chain, clock) -> None:
    jobs.enqueue(kind="other", slot="y", due_at=clock.at)
    clock.advance(seconds=61)
    room = control_room.look(clock.at)
    (queue,) = room.backlog.queues
    assert (queue.ready, queue.lag_s, queue.late_s) == (1, 61.0, 61.0)
    assert "Queue urgent is 1 min 1 s late; 1 min is normal." in [a.text for a in room.alerts]
    clearing.ClockJump.objects.create(
        from_at=market_clock.to_datetime(clock.at - 60 * market_clock.SECOND),
        to_at=market_clock.to_datetime(clock.at - 2 * market_clock.SECOND),
    )
    room = control_room.look(clock.at)
    (queue,) = room.backlog.queues
    assert (queue.lag_s, queue.late_s) == (61.0, 2.0)
    assert "lag" not in [alert.code for alert in room.alerts]


def test_a_silent_worker_and_a_silent_beat_are_missed(world: World) -> None:
    def missing() -> list[str]:
        alerts = control_room.look(market_clock.now_micros()).alerts
        return [alert.text for alert in alerts if alert.code in ("worker", "beat")]

    heartbeats.heard(process="gen12@host", role=heartbeats.BEAT)
    heartbeats.heard(process="host:13", role=heartbeats.WORKER, queues="normal,urgent")
    assert missing() == []
    with connection.cursor() as cursor:
        cursor.execute("UPDATE settlement_heartbeat SET seen_at = seen_at - interval '31 s'")
    assert missing() == [
        "No worker serves queue urgent.",
        "No worker serves queue normal.",
        "No sweep was heard: beat or its way is down.",
    ]


def test_a_broker_that_is_away_stops_no_request_and_is_told(
    world: World, staff: Client, operator: Party
) -> None:
    provider = world.party("Cirrus", "PROVIDER")
    cluster = world.cluster(provider, lots=0)
    with broker.at("redis://127.0.0.1:1/0"):
        asked = provider.api.post(f"clusters/{cluster.pk}/certify")
        seen = operator.api.get("operations").json
        body = text(staff.get("/operations"))
    assert asked.status == 202
    assert clearing.Job.objects.get(kind="certify").state == "DUE"
    assert (seen["broker_reachable"], seen["broker_doorbells"]) == (False, 0)
    assert "broker" in [alert["code"] for alert in seen["alerts"]]
    assert "The broker does not answer." in body


def test_metrics_say_the_same(chain, clock) -> None:
    lines = gauges.text().decode().splitlines()
    for line in (
        "baseload_operations_up 1.0",
        'baseload_jobs{queue="urgent",state="parked"} 1.0',
        'baseload_jobs{queue="urgent",state="blocked"} 2.0',
        'baseload_queue_lag_seconds{queue="urgent"} 0.0',
        'baseload_alerts{code="parked"} 1.0',
        "baseload_broker_up 1.0",
        'baseload_processes_alive{role="worker"} 0.0',
    ):
        assert line in lines


def test_durations_read_as_people_say_them() -> None:
    said = {0: "0 s", 59.9: "59 s", 60: "1 min", 61: "1 min 1 s", 3600: "1 h", 7_500: "2 h 5 min"}
    assert {seconds: control_room.duration(seconds) for seconds in said} == said
    assert control_room.duration(90_000) == "1 d 1 h"
