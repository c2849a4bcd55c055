"""Bells: the engine's in Valkey, the workers' through Celery. None of them carries any work."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import valkey as valkey_client
from django.conf import settings
from django.db import connection

from config.celery import app
from marketplace import clock as market_clock
from marketplace.errors import KeyReuse
from settlement import (
    doorbell,
    instructions,
    jobs,
    kinds,
    leases,
    models,
    operations,
    planning,
    slots,
    tasks,
)
from settlement.kinds import Kind, every, get
from tests import broker

pytestmark = pytest.mark.django_db(transaction=True)

DEPOSIT = instructions.Deposit(account=1, amount_micros=5)


def test_an_instruction_rings_after_its_commit_and_only_for_a_live_engine(
    valkey: valkey_client.Valkey,
) -> None:
    operations.instruct(id="a", command=DEPOSIT)
    assert valkey.keys() == []
    valkey.set(doorbell.engine_key(), "4")
    valkey.xadd(doorbell.stream_key(4), {"c": "first"})
    operations.instruct(id="b", command=DEPOSIT)
    entries = valkey.xrange(doorbell.stream_key(4))
    assert [fields for _, fields in entries] == [{b"c": b"first"}, {doorbell.FIELD: b""}]
    operations.instruct(id="b", command=DEPOSIT)
    assert valkey.xlen(doorbell.stream_key(4)) == 2


def test_a_valkey_that_is_away_does_not_fail_the_instruction(
    valkey: valkey_client.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "_local", threading.local())
    monkeypatch.setattr(settings, "VALKEY_URL", "valkey://127.0.0.1:1/0")
    operations.instruct(id="a", command=DEPOSIT)
    assert models.Instruction.objects.get().state == "PENDING"


def test_of_many_who_give_the_same_instruction_at_once_one_writes_it(
    valkey: valkey_client.Valkey,
) -> None:
    seen: list[object] = []

    def give(amount: int) -> None:
        command = instructions.Deposit(account=1, amount_micros=amount)
        try:
            seen.append(operations.instruct(id="same", command=command).number)
        except KeyReuse:
            seen.append("reuse")
        finally:
            connection.close()

    threads = [threading.Thread(target=give, args=(5 + number % 2,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models.Instruction.objects.count() == 1
    assert seen.count("reuse") == 6
    assert len(set(seen)) == 2


def test_a_broker_that_is_away_does_not_fail_the_transaction(clock) -> None:
    kinds.load()
    with broker.at("redis://127.0.0.1:1/0"):
        assert jobs.doorbells() is None
        jobs.enqueue(kind="seal", slot="x", due_at=clock.at)
    assert models.Job.objects.get(slot="x").state == "DUE"


def test_a_broker_that_says_nothing_holds_nobody_up(clock) -> None:
    kinds.load()
    with broker.silent() as url, broker.at(url):
        began = market_clock.monotonic_ns()
        jobs.enqueue(kind="seal", slot="x", due_at=clock.at)
        assert jobs.doorbells() is None
        waited_s = (market_clock.monotonic_ns() - began) / 1e9
    assert waited_s < 4 * jobs.BROKER_TIMEOUT_S + 2
    assert models.Job.objects.get(slot="x").state == "DUE"


def test_doorbells_that_nobody_answers_are_counted(valkey: valkey_client.Valkey) -> None:
    assert jobs.doorbells() == 0
    for queue in (kinds.NORMAL, kinds.URGENT, kinds.NORMAL):
        jobs.ring(queue)
    assert jobs.doorbells() == 3


def test_a_message_for_a_queue_that_does_not_exist_does_nothing() -> None:
    tasks.work(queue="'; DROP TABLE settlement_job", nonsense=1)
    assert models.Job.objects.count() == 0


def test_what_is_planned_waits_in_a_queue_that_the_broker_has() -> None:
    kinds.load()
    assert {kind.queue for kind in every()} <= {queue.name for queue in app.conf.task_queues}


def environment() -> dict[str, str]:
    """Return the environment of a process that works on the test's database."""
    name = connection.settings_dict["NAME"]
    old = settings.DATABASE_URL.split("?")[0].rsplit("/", 1)[1]
    url = settings.DATABASE_URL.replace(f"/{old}", f"/{name}", 1)
    return os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings"}


KILLED = """
import os, signal
import django
django.setup()
from settlement import jobs, kinds, leases
kinds._loaded.append(True)
def handler(slot, at):
    leases.take(name="effect", holder=slot)
    os.kill(os.getpid(), signal.SIGKILL)
kinds.register(kinds.Kind(name="effect", handler=handler))
jobs.work(kinds.NORMAL)
"""


def test_a_worker_that_is_killed_in_the_middle_leaves_nothing_and_another_does_it_once(
    clock,
) -> None:
    kind = Kind(name="effect", handler=lambda slot, at: leases.take(name="effect", holder=slot))
    planning.store([planning.row(kind, "once", 0, clock.at)])
    died = subprocess.run([sys.executable, "-c", KILLED], env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    job = models.Job.objects.get(kind="effect")
    assert (job.state, job.lease_epoch, models.Lease.objects.count()) == ("RUNNING", 1, 0)
    models.Job.objects.update(leased_until=market_clock.to_datetime(0))
    kinds.register(kind)
    try:
        assert jobs.run(jobs.claim(kinds.NORMAL, at=clock.at)) == 1
        assert jobs.claim(kinds.NORMAL, at=clock.at) == []
    finally:
        del kinds._registry["effect"]
    job.refresh_from_db()
    assert (job.state, job.lease_epoch, job.attempts) == ("DONE", 2, 1)
    assert models.Lease.objects.get().holder == "once"


@pytest.fixture
def worker(valkey: valkey_client.Valkey) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker on this worker's broker and database."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--pool=solo",
         "-Q", "urgent,normal", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_sweep_wakes_a_worker_that_finds_its_work_in_the_table(worker, clock) -> None:
    kinds.load()
    long_ago = 0  # the worker has a clock of its own
    slot = slots.of_hour("LLAMA70B", long_ago)
    planning.store([planning.row(get("grant_capacity"), slot, long_ago, clock.at)])
    jobs.sweep()
    until = jobs.clock.monotonic_ns() + 20 * 10**9
    while models.Job.objects.get(kind="grant_capacity", slot=slot).state != "DONE":
        assert jobs.clock.monotonic_ns() < until, "the worker did not come"
        assert worker.poll() is None, "the worker runs"
        threading.Event().wait(0.05)
