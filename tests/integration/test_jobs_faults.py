"""Workers that are killed, suspended, slow, doubled or cut off: every job is done once.

How soon: a killed worker's job after its lease and one sweep at most (FAULTS K112). The leases here
last a second. `BASELOAD_DEEP` lets two real beats and workers run for ten minutes.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import OperationalError, connection, transaction

from marketplace import clock as market_clock
from settlement import backlog, jobs, keeping, kinds, models, planning
from settlement.kinds import Kind
from tests import background
from tests.integration.test_settlement_bell import environment

pytestmark = pytest.mark.django_db(transaction=True)

DEEP = bool(os.environ.get("BASELOAD_DEEP"))
LONG_AGO = 0
"""Workers have a clock of their own, by which the test's jobs are due."""


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The kinds of `tests.background` in this process too, and no broker."""
    before, loaded = dict(kinds._registry), list(kinds._loaded)
    monkeypatch.setenv("BASELOAD_TEST_MARKS", str(tmp_path))
    background.register()
    yield
    kinds._registry.clear()
    kinds._registry.update(before)
    kinds._loaded[:] = loaded


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No doorbell reaches anybody."""
    monkeypatch.setattr(jobs, "ring", lambda queue: None)


def plan(kind: str, *slots: str) -> None:
    planning.store([planning.row(kinds.get(kind), slot, LONG_AGO, LONG_AGO) for slot in slots])


def effects() -> list[str]:
    return list(models.Mark.objects.order_by("symbol", "id").values_list("symbol", flat=True))


def job(slot: str) -> models.Job:
    return models.Job.objects.get(slot=slot)


def until(condition, seconds: float = 20.0) -> None:
    """Wait for what other processes do."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)


def run_once() -> subprocess.Popen[str]:
    """Start a process that works off what is due and ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.background"],
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def work_off(*slots: str) -> None:
    """Work in this process until jobs are done, as sweeps would have it done."""

    def done() -> bool:
        jobs.work(kinds.NORMAL)
        return all(job(slot).state == "DONE" for slot in slots)

    until(done)


def test_a_worker_suspended_past_its_lease_wakes_to_find_that_it_may_not_commit(
    quiet, clock
) -> None:
    plan("suspend", "zombie")
    zombie = run_once()
    try:
        os.waitid(os.P_PID, zombie.pid, os.WSTOPPED)
        work_off("zombie")
        assert effects() == ["zombie"]
    finally:
        zombie.send_signal(signal.SIGCONT)
    assert zombie.communicate(timeout=20)[0] == "0\n"
    assert effects() == ["zombie"]
    row = job("zombie")
    assert (row.state, row.lease_epoch, row.holder) == ("DONE", 2, keeping.process_name())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("die", ["dead"]), ("die_long", ["dead-0", "dead-1", "dead-2"])],
)
def test_a_killed_worker_is_replaced_after_its_lease_and_the_work_done_once(
    quiet, clock, kind: str, expected: list[str]
) -> None:
    plan(kind, "dead")
    dead = run_once()
    dead.communicate(timeout=20)
    assert dead.returncode == -signal.SIGKILL
    assert job("dead").state == "RUNNING"
    work_off("dead")
    assert effects() == expected
    assert (job("dead").lease_epoch, job("dead").attempts) == (2, 1)


def test_those_who_shared_a_batch_with_a_killer_are_done_without_it(quiet, clock) -> None:
    plan("quick", "a", "b")
    plan("die", "c")
    plan("quick", "d")
    dead = run_once()
    dead.communicate(timeout=20)
    assert effects() == []
    work_off("a", "b", "c", "d")
    assert effects() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("is_long", [True, False])
def test_work_longer_than_its_lease_is_done_once_and_begun_once(
    quiet, clock, is_long: bool
) -> None:
    begun: list[str] = []
    release = threading.Event()

    def short(slot: str, at: int) -> None:
        begun.append(slot)
        release.wait(20)
        background.effect(slot, at)

    work = {"long_handler": lambda claim: short(claim.slot, claim.at)}
    kinds.register(Kind(name="slow", lease_s=0.4, **(work if is_long else {"handler": short})))
    plan("slow", "a")
    worker = threading.Thread(target=_work)
    worker.start()
    until(lambda: begun == ["a"])
    first = job("a").leased_until
    for _ in range(12):
        assert jobs.claim(kinds.NORMAL, at=clock.at) == []
        time.sleep(0.1)
    assert job("a").leased_until > first
    release.set()
    worker.join()
    assert (effects(), begun, job("a").lease_epoch) == (["a"], ["a"], 1)


def test_what_hangs_is_taken_over_and_known_to_hang(
    quiet, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "RUN_S_MAX", 0.3)
    release = threading.Event()
    hung: list[str] = []

    def hang(slot: str, at: int) -> None:
        hung.append(slot)
        if len(hung) == 1:
            release.wait(20)
        background.effect(slot, at)

    kinds.register(Kind(name="hang", handler=hang, lease_s=0.4))
    plan("hang", "a")
    worker = threading.Thread(target=_work)
    worker.start()
    until(lambda: [claim.slot for claim in keeping.keeper.overdue()] == ["a"])
    work_off("a")
    release.set()
    worker.join()
    assert (effects(), hung, job("a").lease_epoch) == (["a"], ["a", "a"], 2)
    assert keeping.keeper.overdue() == []


def _work() -> None:
    try:
        jobs.work(kinds.NORMAL)
    finally:
        connection.close()


def test_a_database_that_is_away_never_parks_a_job(quiet, clock) -> None:
    down = [True]

    def ask(slot: str, at: int) -> None:
        if down:
            raise OperationalError("sorry, too many clients already")
        background.effect(slot, at)

    kinds.register(Kind(name="ask", handler=ask))
    plan("ask", "a")
    for _ in range(2 * jobs.ATTEMPTS_MAX):
        jobs.work(kinds.NORMAL)
        models.Job.objects.update(not_before=None)
    assert (job("a").state, job("a").attempts) == ("DUE", jobs.ATTEMPTS_MAX - 1)
    assert "too many clients" in job("a").error
    down.clear()
    jobs.work(kinds.NORMAL)
    assert (job("a").state, effects()) == ("DONE", ["a"])


def test_a_worker_that_gets_no_connection_leaves_the_job_for_later(quiet, clock) -> None:
    plan("quick", "a")
    with _role_without_connections() as url:
        refused = subprocess.run(
            [sys.executable, "-m", "tests.background"],
            env=environment() | {"DATABASE_URL": url}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "too many connections for role" in refused.stderr
    assert (job("a").state, job("a").attempts) == ("DUE", 0)
    work_off("a")


@contextmanager
def _role_without_connections() -> Iterator[str]:
    """Address of the test's database for a role that may not connect any more."""
    where = environment()["DATABASE_URL"].split("://", 1)[1].split("@")[-1]
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE crowded LOGIN PASSWORD 'crowded' CONNECTION LIMIT 0")
    try:
        yield f"postgresql://crowded:crowded@{where}"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE crowded")


def test_two_beats_for_ten_minutes_do_nothing_twice_and_none_is_caught_up_in_order(
    quiet, clock
) -> None:
    done: list[str] = []

    def note(slot: str, at: int) -> None:
        done.append(slot)

    ten_minutes = 600
    every = kinds.Every(period=60 * market_clock.SECOND, catch_up=True)
    kinds.register(Kind(name="each", handler=note, schedule=every))
    jobs.sweep()
    _work()
    for _ in range(ten_minutes // 30):
        clock.advance(seconds=30)
        beats = [threading.Thread(target=_sweep) for _ in range(2)]
        workers = [threading.Thread(target=_work) for _ in range(2)]
        for thread in (*beats, *workers):
            thread.start()
        for thread in (*beats, *workers):
            thread.join()
    assert len(done) == len(set(done)) == 11
    clock.advance(seconds=ten_minutes)
    assert len(done) == 11, "nobody swept"
    jobs.sweep()
    _work()
    assert len(done) == len(set(done)) == 21
    assert done[11:] == sorted(done[11:])


def _sweep() -> None:
    try:
        jobs.sweep()
    finally:
        connection.close()


def test_a_poison_is_tried_a_named_number_of_times_and_its_neighbors_at_once(quiet, clock) -> None:
    plan("fail", "a")
    plan("quick", "b")
    for _ in range(jobs.ATTEMPTS_MAX + 3):
        jobs.work(kinds.NORMAL)
        models.Job.objects.update(not_before=None)
    plan("fail", "z")
    plan("quick", "c")
    jobs.work(kinds.NORMAL)
    assert {row.slot: (row.state, row.attempts) for row in models.Job.objects.all()} == {
        "a": ("PARKED", jobs.ATTEMPTS_MAX),
        "b": ("DONE", 0),
        "c": ("DONE", 0),
        "z": ("DUE", 1),
    }
    assert effects() == ["b", "c"]
    with transaction.atomic():
        jobs.run_again(kind="fail", slot="a")
    kinds.register(Kind(name="fail", handler=background.effect))
    models.Job.objects.update(not_before=None)
    jobs.work(kinds.NORMAL)
    assert effects() == ["a", "b", "c", "z"]
    assert backlog.read(clock.at).parked == []
