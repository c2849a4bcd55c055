"""A day settled again: what later runs find, what they post, and what stops them."""

from collections.abc import Iterator

import pytest
import valkey as valkey_client
from django.db import DatabaseError, connection

from marketplace import audit as whole_audit
from marketplace import clock as market_clock
from marketplace import contract
from settlement import instructions, jobs, models, planning, queries, runs
from settlement.ledger import Code
from tests import settling
from tests.market import BUYER, GRADE, HOUR, SELLER, Market
from tests.settling import BAD, PER_INTERVAL, PRICE, SHORT, STARTS_AT, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

FINAL, REVISION = f"{GRADE}/20261201/final", f"{GRADE}/20261201/revision"
DAY = contract.day_start(STARTS_AT)
FINAL_AT, REVISION_AT = "2026-12-02T02:00:01Z", "2026-12-15T02:00:01Z"
DAMAGES = 1_000 * PRICE * (SHORT // 1_000) // (4 * 10**6)
"""A quarter of the price of what was missed, 312.5, down; its replacement cost no more."""


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    with settling.only_settlements_kinds():
        market = Market(valkey)
        market.take_over()
        clock.set("2026-12-01T12:30Z")
        market.open()
        settling.deliver(market, clock)
        yield market
        market.close()


def revise(interval: int, **terms: int) -> None:
    """Say that an interval is known better now."""
    known = {"available_mntu": WHOLE, "short_mntu": 0, "delivered_mntu": 0}
    models.DeliveryRevision.objects.create(
        allocation_id=1, interval=interval, source="REVIEW", at=market_clock.now(),
        **{**known, **terms},
    )  # fmt: skip


def corrections() -> list[tuple[int, int, int, int, str]]:
    rows = models.Transfer.objects.filter(
        code__in=(Code.DELIVERY_CORRECTION, Code.DAMAGES_CORRECTION)
    )
    return list(
        rows.order_by("sequence").values_list(
            "debit_account", "credit_account", "amount", "code", "cause"
        )
    )


def run(name: str) -> models.SettlementRun:
    return models.SettlementRun.objects.get(id=name)


def violations() -> list[str]:
    return [str(finding) for finding in whole_audit.run() if finding.violations]


BUYERS, SELLERS = BUYER * 64 + 1, SELLER * 64 + 1
CAUSE = f"correction:1:{FINAL}"


def test_runs_over_unchanged_inputs_post_nothing_and_have_equal_hashes(market, clock) -> None:
    for at in (FINAL_AT, REVISION_AT):
        clock.set(at)
        settling.settle_all(market)
    final, revision = run(FINAL), run(REVISION)
    assert bytes(final.inputs_digest) == bytes(revision.inputs_digest)
    assert bytes(final.result_digest) == bytes(revision.result_digest)
    assert bytes(final.result_digest) == bytes(final.posted_digest)
    assert (final.allocations, final.previous, revision.previous) == (1, None, final)
    assert corrections() == []
    assert not models.SettlementRunLine.objects.exists()
    assert not models.Instruction.objects.filter(id__startswith="correct:").exists()
    assert violations() == []


def test_what_is_known_better_is_posted_as_a_difference_and_once(market, clock) -> None:
    """The bad interval was half available after all: half its refund, and all damages, go back."""
    revise(BAD, available_mntu=WHOLE // 2)
    settled = list(models.IntervalSettlement.objects.order_by("id").values())
    for at in (FINAL_AT, REVISION_AT):
        clock.set(at)
        settling.settle_all(market)
    assert corrections() == [
        (BUYERS, SELLERS, PER_INTERVAL // 2, Code.DELIVERY_CORRECTION, CAUSE),
        (BUYERS, SELLERS, DAMAGES, Code.DAMAGES_CORRECTION, CAUSE),
    ]
    (line,) = models.SettlementRunLine.objects.all()
    assert (line.run_id, line.posted_refunded_micros, line.refunded_micros) == (
        FINAL,
        PER_INTERVAL,
        PER_INTERVAL // 2,
    )
    assert (line.posted_due_micros, line.posted_paid_micros, line.due_micros) == (
        DAMAGES,
        DAMAGES,
        0,
    )
    assert list(models.IntervalSettlement.objects.order_by("id").values()) == settled
    assert bytes(run(REVISION).posted_digest) == bytes(run(FINAL).result_digest)
    assert violations() == []


def test_the_second_run_adds_to_what_the_first_has_posted(market, clock) -> None:
    revise(BAD, available_mntu=WHOLE // 2)
    clock.set(FINAL_AT)
    settling.settle_all(market)
    revise(BAD, available_mntu=WHOLE, short_mntu=2 * SHORT)
    clock.set(REVISION_AT)
    settling.settle_all(market)
    missed = 1_000 * PRICE * (2 * SHORT // 1_000) // 10**6
    cause = f"correction:1:{REVISION}"
    assert corrections()[2:] == [
        (BUYERS, SELLERS, PER_INTERVAL // 2 - missed, Code.DELIVERY_CORRECTION, cause),
        (SELLERS, BUYERS, 2 * DAMAGES + 1, Code.DAMAGES_CORRECTION, cause),
    ]
    assert bytes(run(REVISION).inputs_digest) != bytes(run(FINAL).inputs_digest)
    assert violations() == []


def test_a_corrected_index_refunds_at_the_corrected_price(market, clock) -> None:
    market.instruct(
        "override",
        instructions.OverrideIndex(
            grade=GRADE, hour_starts_at=STARTS_AT, version=2, price_ticks=2 * PRICE,
            reason="A wrong mark.", proposed_by=1, confirmed_by=2,
        ),
    )  # fmt: skip
    clock.set(FINAL_AT)
    settling.settle_all(market)
    assert corrections() == [
        (SELLERS, BUYERS, PER_INTERVAL, Code.DELIVERY_CORRECTION, CAUSE),
        (SELLERS, BUYERS, DAMAGES + 1, Code.DAMAGES_CORRECTION, CAUSE),
    ]
    assert violations() == []


FAILPOINTS = {
    "the disputes": (runs, "_end_disputes"),
    "the differences": (runs, "_write_differences"),
    "the lines": (runs, "_write_lines"),
    "the instruction": (runs, "_instruct"),
    "the job": (jobs, "finish"),
}


class Killed(BaseException):
    """The worker is gone."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_run_that_is_killed_anywhere_posts_the_same_bytes(
    market, clock, monkeypatch, failpoint: str, when: str
) -> None:
    revise(BAD, available_mntu=WHOLE // 2)
    clock.set(FINAL_AT)
    market.work()
    place, name = FAILPOINTS[failpoint]
    real = getattr(place, name)

    def kill(*arguments, **named):
        if failpoint == "the job" and arguments[0].kind != "settle_day":
            return real(*arguments, **named)
        monkeypatch.setattr(place, name, real)
        if when == "after":
            real(*arguments, **named)
        raise Killed

    monkeypatch.setattr(place, name, kill)
    with pytest.raises(Killed):
        settling.settle_all(market)
    models.Job.objects.filter(state="RUNNING").update(leased_until=market_clock.now())
    models.Job.objects.filter(state="RUNNING").update(leased_until=None)
    settling.settle_all(market)
    body = bytes(models.Instruction.objects.get(id=f"correct:{FINAL}:20261201T14Z:0").body)
    assert body == (
        b'{"kind":"correct_delivery","run":"LLAMA70B/20261201/final","grade":"LLAMA70B",'
        b'"hour_starts_at":1796133600000000,"lines":[[1,101,102,40,1250,-125000,%d,%d]]}'
        % (-DAMAGES, -DAMAGES)
    )
    assert corrections() == [
        (BUYERS, SELLERS, PER_INTERVAL // 2, Code.DELIVERY_CORRECTION, CAUSE),
        (BUYERS, SELLERS, DAMAGES, Code.DAMAGES_CORRECTION, CAUSE),
    ]
    assert models.SettlementRun.objects.count() == 1
    assert violations() == []


def test_a_run_done_again_is_the_run_that_was_done(market, clock) -> None:
    revise(BAD)
    clock.set(FINAL_AT)
    settling.settle_all(market)
    before = corrections()
    revise(BAD, available_mntu=0)
    assert runs.settle(slot=FINAL, at=clock.at) == run(FINAL)
    market.work()
    assert corrections() == before


def test_a_run_waits_for_the_machine_to_post_what_came_before(market, clock) -> None:
    from settlement import operations

    clock.set("2026-12-02T01:59Z")
    settling.settle_all(market)
    operations.instruct(id="late", command=instructions.Deposit(account=BUYER, amount_micros=1))
    clock.set(FINAL_AT)
    with pytest.raises(runs.NotPosted):
        runs.settle(slot=FINAL, at=clock.at)
    market.work()
    assert runs.settle(slot=FINAL, at=clock.at).allocations == 1


def test_a_revision_waits_for_the_corrections_of_the_final_run(market, clock) -> None:
    revise(BAD)
    clock.set(FINAL_AT)
    market.work()
    runs.settle(slot=FINAL, at=clock.at)
    clock.set(REVISION_AT)
    with pytest.raises(runs.NotPosted):
        runs.settle(slot=REVISION, at=clock.at)


def test_a_day_with_an_hour_to_settle_is_not_settled_again(market, clock) -> None:
    from marketplace.models import Instrument

    Instrument.objects.filter(symbol=HOUR).update(state="CLOSED")
    clock.set(FINAL_AT)
    with pytest.raises(runs.NotPosted):
        runs.settle(slot=FINAL, at=clock.at)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE settlement_transfer SET amount = amount + 1 WHERE chain = 'cash' AND code = 6",
        "UPDATE settlement_seal SET signature = decode(repeat('00', 64), 'hex')",
    ],
)
def test_a_day_whose_ledger_does_not_verify_is_refused(market, clock, statement: str) -> None:
    revise(BAD)
    clock.set(FINAL_AT)
    market.work()
    jobs.work("normal")
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement)
        assert cursor.rowcount
        cursor.execute("SET session_replication_role = origin")
    with pytest.raises(runs.LedgerBroken):
        runs.settle(slot=FINAL, at=clock.at)
    assert not models.SettlementRun.objects.exists()


def test_the_runs_of_a_day_are_planned_when_they_are_due_and_once(market, clock) -> None:
    for at, count in (
        ("2026-12-02T01:59:59Z", 0),
        ("2026-12-02T02:00:00Z", 1),
        ("2026-12-15T01:59:59Z", 1),
        ("2026-12-15T02:00:00Z", 2),
    ):
        clock.set(at)
        market.work()
        assert (queries.work_due_by(market_clock.now()) > 0) or count in (0, 1)
        planning.plan(clock.at)
        planning.plan(clock.at)
        assert models.Job.objects.filter(kind="settle_day").count() == count
    first, second = models.Job.objects.filter(kind="settle_day").order_by("due_at")
    assert (first.slot, second.slot) == (FINAL, REVISION)
    assert (second.after_kind, second.after_slot) == ("settle_day", FINAL)
    (day,) = models.DeliveryDay.objects.all()
    assert (day.grade, day.planned_runs) == (GRADE, 2)


def test_a_run_is_planned_when_the_machine_has_posted_what_it_builds_on(market, clock) -> None:
    """A demo's clock that leaps makes it due before; it waits, and nothing fails meanwhile."""
    clock.set(FINAL_AT)
    planning.plan(clock.at)
    assert not models.Job.objects.filter(kind="settle_day").exists()
    assert planning.unposted(GRADE, DAY, clock.at).startswith(f"an hour of {GRADE}")
    assert queries.work_due_by(market_clock.now()) > 0
    market.work()
    assert planning.unposted(GRADE, DAY, clock.at) == ""
    planning.plan(clock.at)
    assert models.Job.objects.get(kind="settle_day").slot == FINAL


FACTS = ("settlementrun", "settlementrunline", "deliverycorrection", "deliveryrevision")


@pytest.mark.parametrize("table", FACTS)
def test_what_a_run_has_written_is_never_changed(market, clock, table: str) -> None:
    revise(BAD)
    clock.set(FINAL_AT)
    settling.settle_all(market)
    for statement in (
        f"UPDATE settlement_{table} SET at = now()",
        f"DELETE FROM settlement_{table}",
    ):
        if table == "settlementrunline":
            statement = statement.replace("at = now()", "due_micros = 1")
        with pytest.raises(DatabaseError, match="never changed"), connection.cursor() as cursor:
            cursor.execute(statement)
