"""Background work: planned by market time, done once, fenced by epochs, parked when hopeless."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection, transaction

from marketplace import clock as market_clock
from marketplace import contract
from settlement import jobs, kinds, leases, models, planning, queries, slots
from settlement.kinds import Claim, Kind

pytestmark = pytest.mark.django_db

GRADE = "LLAMA70B"


@pytest.fixture
def registry() -> Iterator[Callable[..., Kind]]:
    """Only the kinds that a test registers."""
    before, loaded = dict(kinds._registry), list(kinds._loaded)
    kinds._registry.clear()
    kinds._loaded[:] = [True]

    def register(name: str, handler: object = None, **options: object) -> Kind:
        done = handler or (lambda slot, at: None)
        kind = Kind(name=name, handler=done, **options)  # type: ignore[arg-type]
        kinds.register(kind)
        return kind

    yield register
    kinds._registry.clear()
    kinds._registry.update(before)
    kinds._loaded[:] = loaded


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the queue of record speak for itself: no message reaches anybody."""
    monkeypatch.setattr(jobs, "ring", lambda queue: None)


def entitle(number: int, hour_starts_at: int, grade: str = GRADE) -> None:
    models.Entitlement.objects.create(
        id=number,
        organization_id=7,
        grade=grade,
        starts_at=market_clock.to_datetime(hour_starts_at),
        lots=1,
        price_ticks=1000,
        escrow_micros=60_000,
    )


def drain(queue: str = kinds.NORMAL) -> int:
    return jobs.work(queue)


def states() -> dict[str, str]:
    return {f"{job.kind} {job.slot}": job.state for job in models.Job.objects.order_by("id")}


def test_intervals_are_planned_a_minute_after_their_end_and_only_for_hours_with_delivery(
    registry, clock
) -> None:
    registry("settle", schedule=kinds.PerInterval())
    hour = clock.set("2026-12-01T09:00Z")
    entitle(1, hour)
    clock.set("2026-12-01T09:05:59Z")
    jobs.sweep()
    assert models.Job.objects.count() == 0
    clock.set("2026-12-01T09:06Z")
    jobs.sweep()
    assert states() == {"settle LLAMA70B/20261201T09Z/01": "DUE"}
    clock.set("2026-12-02T11:00Z")
    jobs.sweep()
    assert models.Job.objects.count() == 12


def test_planning_twice_plans_once(registry, clock) -> None:
    registry("settle", schedule=kinds.PerInterval())
    entitle(1, clock.at)
    clock.advance(seconds=3700)
    assert planning.plan(clock.at) == 1
    assert planning.plan(clock.at) == 0
    assert models.Job.objects.count() == 12


def test_an_hour_that_appears_after_the_clock_has_passed_it_is_not_missed(registry, clock) -> None:
    registry("settle", schedule=kinds.PerInterval())
    first = clock.at
    entitle(1, first + 2 * contract.HOUR)
    clock.advance(seconds=6 * 3600)
    jobs.sweep()
    assert models.Job.objects.count() == 12
    entitle(2, first)
    assert queries.work_due_by(market_clock.to_datetime(clock.at)) == 13
    jobs.sweep()
    assert models.Job.objects.count() == 24


def test_after_a_downtime_everything_missed_is_done_once_and_in_order(registry, clock) -> None:
    done: list[str] = []
    registry("settle", lambda slot, at: done.append(slot), schedule=kinds.PerInterval())
    registry(
        "close", lambda slot, at: done.append(slot), schedule=kinds.AfterHour(), after="settle"
    )
    first = clock.at
    for number in range(3):
        entitle(number + 1, first + number * contract.HOUR)
    clock.advance(seconds=10 * 3600)
    assert drain() == 39
    assert drain() == 0
    intervals = [slot for slot in done if slot.count("/") == 2]
    assert intervals == sorted(intervals)
    assert len(set(done)) == 39


def test_a_job_waits_for_the_one_before_it(registry, clock) -> None:
    done: list[str] = []

    def report(slot: str, at: int) -> None:
        if not ready:
            raise RuntimeError("not yet")
        done.append("report")

    ready: list[bool] = []
    registry("report", report, schedule=kinds.PerInterval())
    registry(
        "settle",
        lambda slot, at: done.append("settle"),
        schedule=kinds.PerInterval(),
        after="report",
    )
    entitle(1, clock.at)
    clock.advance(seconds=361)
    drain()
    assert done == []
    ready.append(True)
    models.Job.objects.update(not_before=None)
    drain()
    assert done == ["report", "settle"]


def test_a_failed_job_waits_longer_each_time_and_is_parked_in_the_end(registry, clock) -> None:
    def handler(slot: str, at: int) -> None:
        raise RuntimeError("no luck")

    registry("poison", handler)
    registry("fine")
    jobs.enqueue(kind="poison", slot="a", due_at=clock.at)
    jobs.enqueue(kind="fine", slot="b", due_at=clock.at)
    pauses = []
    for _ in range(jobs.ATTEMPTS_MAX):
        drain()
        job = models.Job.objects.get(kind="poison")
        if job.not_before and job.state == "DUE":
            pauses.append(job.not_before)
        models.Job.objects.filter(kind="poison").update(not_before=None)
    assert states() == {"poison a": "PARKED", "fine b": "DONE"}
    assert job.error == "RuntimeError: no luck"
    assert job.attempts == jobs.ATTEMPTS_MAX
    assert pauses == sorted(pauses)
    assert drain() == 0
    assert queries.work_due_by(market_clock.to_datetime(clock.at)) == 0
    with transaction.atomic():
        assert jobs.run_again(kind="poison", slot="a") == [("poison", "a")]
    assert states()["poison a"] == "DUE"


def test_a_broken_assertion_is_parked_at_once(registry, clock) -> None:
    def handler(slot: str, at: int) -> None:
        assert slot == "b", "only b"

    registry("poison", handler)
    jobs.enqueue(kind="poison", slot="a", due_at=clock.at)
    drain()
    assert states() == {"poison a": "PARKED"}


def test_a_failure_takes_back_its_own_work_and_nobody_elses(registry, clock) -> None:
    def handler(slot: str, at: int) -> None:
        models.Lease.objects.create(
            name=slot, holder="x", epoch=1, expires_at=market_clock.to_datetime(at)
        )
        if slot == "b":
            raise RuntimeError("no")

    registry("writes", handler)
    for slot in "abc":
        jobs.enqueue(kind="writes", slot=slot, due_at=clock.at)
    assert drain() == 2
    assert list(models.Lease.objects.order_by("name").values_list("name", flat=True)) == ["a", "c"]


def test_a_worker_that_was_overtaken_cannot_commit(registry, clock) -> None:
    registry("settle", lambda slot, at: leases.take(name="effect", holder=slot))
    jobs.enqueue(kind="settle", slot="a", due_at=clock.at)
    [slow] = jobs.claim(kinds.NORMAL, at=clock.at)
    assert jobs.claim(kinds.NORMAL, at=clock.at) == []
    models.Job.objects.update(leased_until=market_clock.to_datetime(0))
    [quick] = jobs.claim(kinds.NORMAL, at=clock.at)
    assert quick.epoch == slow.epoch + 1
    assert jobs.run([slow]) == 0
    assert models.Lease.objects.count() == 0
    assert jobs.run([quick]) == 1
    assert jobs.run([slow]) == 0
    assert models.Lease.objects.count() == 1


def test_a_job_whose_workers_die_is_parked_too(registry, clock) -> None:
    registry("kills")
    jobs.enqueue(kind="kills", slot="a", due_at=clock.at)
    claims: list[Claim] = []
    for _ in range(jobs.ATTEMPTS_MAX + 1):
        claims += jobs.claim(kinds.NORMAL, at=clock.at)
        models.Job.objects.update(leased_until=market_clock.to_datetime(0))
    assert len(claims) == jobs.ATTEMPTS_MAX
    assert states() == {"kills a": "PARKED"}


def test_a_long_job_shows_progress_and_is_fenced_in_each_of_its_transactions(
    registry, clock
) -> None:
    seen: list[int] = []

    def handler(claim: Claim) -> None:
        jobs.progress(claim, {"percent": 50})
        seen.append(models.Job.objects.get(id=claim.id).progress["percent"])
        models.Job.objects.filter(id=claim.id).update(lease_epoch=99)
        with transaction.atomic():
            jobs.fence(claim)

    kinds.register(Kind(name="certify", long_handler=handler))
    jobs.enqueue(kind="certify", slot="1", due_at=clock.at)
    assert drain() == 0
    assert seen == [50]
    assert states() == {"certify 1": "RUNNING"}


def test_a_repeating_kind_keeps_one_row(registry, clock) -> None:
    registry("meter", schedule=kinds.Repeat(period=5 * market_clock.SECOND))
    assert drain() == 1
    assert drain() == 0
    clock.advance(seconds=5)
    assert drain() == 1
    assert models.Job.objects.count() == 1


def test_of_a_periodic_kinds_missed_slots_the_latest_is_done_or_all_in_order(
    registry, clock
) -> None:
    registry("seal", schedule=kinds.Every(period=300 * market_clock.SECOND))
    registry("sum", schedule=kinds.Every(period=300 * market_clock.SECOND, catch_up=True))
    drain()
    clock.advance(seconds=3000)
    drain()
    assert models.Job.objects.filter(kind="seal").count() == 2
    assert models.Job.objects.filter(kind="sum").count() == 11


def test_slots_that_pile_up_while_nobody_works_are_replaced_by_the_latest(registry, clock) -> None:
    done: list[str] = []
    kept: list[str] = []
    registry("latest", lambda slot, at: done.append(slot), schedule=kinds.Every(period=300_000_000))
    registry(
        "each",
        lambda slot, at: kept.append(slot),
        schedule=kinds.Every(period=300_000_000, catch_up=True),
    )
    for _ in range(4):
        jobs.sweep()
        clock.advance(seconds=300)
    drain()
    assert (len(done), len(kept)) == (1, 5)


def test_only_old_finished_jobs_of_periodic_kinds_are_forgotten(registry, clock) -> None:
    registry("seal", schedule=kinds.Every(period=300 * market_clock.SECOND))
    registry("certify")
    jobs.enqueue(kind="certify", slot="1", due_at=clock.at)
    drain()
    clock.advance(seconds=8 * 86_400)
    drain()
    jobs.enqueue(kind="certify", slot="2", due_at=clock.at)
    assert jobs.prune(clock.at) == 1
    assert [name.split()[0] for name in states()] == ["certify", "seal", "certify"]
    assert drain() == 1


def test_a_clock_does_not_wait_for_what_it_need_not(registry, clock) -> None:
    registry("audit", is_awaited=False)
    registry("settle")
    jobs.enqueue(kind="audit", slot="a", due_at=clock.at)
    at = market_clock.to_datetime(clock.at)
    assert queries.work_due_by(at) == 0
    jobs.enqueue(kind="settle", slot="b", due_at=clock.at)
    assert queries.work_due_by(at - timedelta(seconds=1)) == 0
    assert queries.work_due_by(at) == 1


def test_slots_say_what_they_are_about() -> None:
    hour = 1_796_133_600_000_000
    slot = slots.of_interval(GRADE, hour, 3)
    assert slots.read_interval(slot) == (GRADE, hour, 3)
    assert slots.read_hour(slots.of_hour(GRADE, hour)) == (GRADE, hour)


def test_a_lease_has_one_holder_and_its_epoch_rises_with_the_holder() -> None:
    first = leases.take(name="meter", holder="a")
    assert first is not None
    assert leases.take(name="meter", holder="b") is None
    again = leases.take(name="meter", holder="a")
    assert again == first
    leases.release(first)
    second = leases.take(name="meter", holder="b")
    assert second is not None
    assert second.epoch == first.epoch + 1
    with transaction.atomic():
        leases.fence(second)
    with pytest.raises(leases.LeaseLost), transaction.atomic():
        leases.fence(first)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_do_every_job_once(registry, clock) -> None:
    import threading

    done: list[str] = []
    registry("settle", lambda slot, at: done.append(slot))
    for number in range(200):
        jobs.enqueue(kind="settle", slot=f"{number:03}", due_at=clock.at)

    def worker() -> None:
        try:
            jobs.work(kinds.NORMAL)
        finally:
            connection.close()

    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [f"{number:03}" for number in range(200)]
