"""Real Celery workers and beats: forged messages, kills, and a broker that is stopped and flushed.

Each test starts the application of the deployment with the kinds of `tests.background`, whose
leases last a second and whose beat sweeps twice a second. `BASELOAD_DEEP` runs two beats for ten
real minutes.
"""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from config import servers
from settlement import jobs, kinds, models
from tests import broker
from tests.integration.test_jobs_faults import (  # noqa: F401 - one is a fixture
    _kinds,
    effects,
    job,
    plan,
    until,
)
from tests.integration.test_settlement_bell import environment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

DEEP = bool(os.environ.get("BASELOAD_DEEP"))
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def var(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a Valkey of the test's own, which is the broker."""
    folder = tmp_path_factory.mktemp("broker")
    folder.chmod(0o711)
    servers.start(folder, postgres=False)
    yield folder
    servers.erase(folder)


@pytest.fixture
def start(var: Path) -> Iterator[Start]:
    """Starts workers and beats; those that are left are ended after the test."""
    address = servers.plan(var).broker_url
    running: list[subprocess.Popen[bytes]] = []

    def begin(what: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "--quiet", "-A", "tests.background", what, *options],
            env=environment() | {"CELERY_BROKER_URL": address},
            stdout=subprocess.DEVNULL, stderr=(var / "log").open("ab"), start_new_session=True,
        )  # fmt: skip
        running.append(process)
        return process

    with broker.at(address):
        yield begin
    for process in running:
        process.kill()
        process.wait()


def worker(start: Start, pool: str = "threads") -> subprocess.Popen[bytes]:
    return start(
        "worker", f"--pool={pool}", "--concurrency=2", "--queues=urgent,normal",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO",
    )  # fmt: skip


def beat(start: Start, var: Path, number: int = 0) -> subprocess.Popen[bytes]:
    return start("beat", f"--schedule={var}/beat{number}", "--pidfile=")


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def send(body: bytes, task: str, content_type: str = "application/json", **headers: Any) -> None:
    """Put a message into the broker as anyone could who reaches it."""
    head = {"lang": "py", "task": task, "id": "1", "root_id": "1", "parent_id": None, **headers}
    with Connection(os.environ["CELERY_BROKER_URL"]) as connection:
        connection.Producer().publish(
            body, routing_key="normal", exchange="", headers=head,
            content_type=content_type, content_encoding="binary" if b"\x80" in body else "utf-8",
        )  # fmt: skip


def call(**arguments: Any) -> bytes:
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([[], arguments, nothing]).encode()


def test_forged_messages_do_nothing_and_the_worker_goes_on(
    start: Start, var: Path, tmp_path: Path, clock
) -> None:
    proof = tmp_path / "pickled"
    body = pickle.dumps([[], {"queue": Evil(str(proof))}, {}])
    send(body, jobs.DOORBELL, "application/x-python-serialize")
    send(base64.b64encode(body), jobs.DOORBELL, "application/data")
    send(call(queue="normal"), "os.system")
    send(call(queue="normal"), "settlement.tasks.settle_interval")
    send(call(task={"task": "os.system", "args": ["true"]}, it=[1]), "celery.map")
    send(call(queue=["normal"], slot="LLAMA70B/20991201T14Z", id=2**63), jobs.DOORBELL)
    send(call(queue="x" * 4_000_000), jobs.DOORBELL)
    for whole in (b"7", b"[]", b"[[], 7, {}]", b'{"queue": "normal"}', b"null"):
        send(whole, jobs.DOORBELL)
    send(b'[["normal", 7], {}, {}]', jobs.DOORBELL)
    send(b"[not json", jobs.DOORBELL)
    send(call(), "settlement.sweep", origin="x'; DROP TABLE settlement_job" * 9)
    process = worker(start)
    until(lambda: jobs.doorbells() == 0)
    assert models.Job.objects.count() == 0
    plan("quick", "a")
    jobs.ring(kinds.NORMAL)
    until(lambda: effects() == ["a"])
    assert process.poll() is None
    assert not proof.exists()
    names = models.Heartbeat.objects.values_list("role", flat=True)
    assert list(names) == ["worker"], "an origin that is none is not written down"


def test_a_worker_killed_at_work_is_replaced_and_what_it_did_is_done_once(
    start: Start, var: Path, clock
) -> None:
    plan("die", "a")
    plan("die_long", "b")
    beat(start, var)
    first = worker(start)
    first.wait(20)
    assert first.returncode == -signal.SIGKILL
    second = worker(start)
    until(lambda: second.poll() is not None or job("b").state == "DONE")
    if second.poll() is not None:  # the other kind that kills
        worker(start)
    until(lambda: all(row.state == "DONE" for row in models.Job.objects.all()))
    plan("last", "c")  # now that nobody dies any more who might have begun it
    jobs.ring(kinds.NORMAL)
    began = time.monotonic()
    until(lambda: job("c").state == "DONE")
    assert time.monotonic() - began < 20
    assert effects() == ["a", "b-0", "b-1", "b-2", "c"]
    # It took longer than its lease and than the broker waits.
    assert (job("c").lease_epoch, job("c").attempts) == (1, 0), "begun once"


def test_a_killed_child_of_a_pool_costs_a_lease_and_nothing_else(
    start: Start, var: Path, clock
) -> None:
    plan("die", "a")
    beat(start, var)
    parent = worker(start, pool="prefork")
    until(lambda: models.Job.objects.get().state == "DONE")
    assert parent.poll() is None
    assert effects() == ["a"]
    assert (job("a").lease_epoch, job("a").attempts) == (2, 1)


def test_a_broker_that_is_killed_comes_back_empty_and_nothing_is_lost(
    start: Start, var: Path, clock
) -> None:
    beat(start, var)
    process = worker(start)
    plan("quick", "a")
    until(lambda: effects() == ["a"])
    servers.stop(var)
    assert jobs.doorbells() is None
    jobs.enqueue(kind="quick", slot="b", due_at=0)
    time.sleep(60 if DEEP else 3)
    assert effects() == ["a"]
    servers.start(var, postgres=False)
    until(lambda: effects() == ["a", "b"], seconds=60)
    assert process.poll() is None
    assert models.Heartbeat.objects.filter(role="beat").count() == 1


@pytest.mark.skipif(not DEEP, reason="ten real minutes; set BASELOAD_DEEP")
def test_two_beats_for_ten_real_minutes(start: Start, var: Path, clock) -> None:
    for number in range(2):
        beat(start, var, number)
        worker(start)
    pace = threading.Event()
    for number in range(600):
        plan("quick", f"{number:03}")
        pace.wait(1)
    until(lambda: len(effects()) == 600)
    assert len(set(effects())) == 600
    assert models.Heartbeat.objects.filter(role="beat").count() == 2
