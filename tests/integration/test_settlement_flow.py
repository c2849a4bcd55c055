"""An hour from its trade to its last interval, through the real engine, queue and chains."""

import itertools
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
import valkey as valkey_client
from django.db import connection, transaction

from admission import models as admission_models
from marketplace import audit as whole_audit
from marketplace import clock as market_clock
from marketplace import contract
from settlement import (
    cash,
    instructions,
    jobs,
    kinds,
    models,
    operations,
    planning,
    queries,
    slots,
    statements,
)
from settlement.kinds import Kind
from tests.market import BUYER, GRADE, HOUR, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)

LOTS, PRICE = 40, 1_250
WHOLE = LOTS * contract.MNTU_PER_LOT_INTERVAL
BAD = 2
"""The interval that the cluster could not serve at all."""
USED = 123_456
PER_INTERVAL = 5 * PRICE * LOTS


def starts_at() -> int:
    parsed = contract.parse_symbol(HOUR)
    assert parsed is not None
    return parsed.starts_at


def report(slot: str, at: int) -> None:
    """Stand in for admission: everything was available but in one interval."""
    grade, hour, interval = slots.read_interval(slot)
    operations.report_delivery(
        deliveries=[
            operations.Delivery(
                allocation=row.allocation,
                interval=interval,
                owed_mntu=row.lots * contract.MNTU_PER_LOT_INTERVAL,
                available_mntu=0 if interval == BAD else row.lots * contract.MNTU_PER_LOT_INTERVAL,
                short_mntu=1_000_000 if interval == BAD else 0,
                delivered_mntu=USED if interval == 1 else 0,
                probes=10,
                probes_passed=0 if interval == BAD else 10,
            )
            for row in queries.entitlements_snapshot(
                starts_at=market_clock.to_datetime(hour), grade=grade
            )
        ],
        at=at,
    )


@pytest.fixture
def reporting() -> Iterator[None]:
    """Only settlement's own kinds, and a report in admission's place."""
    from settlement import tasks  # noqa: F401 - registers the kinds

    kinds.load()
    before = dict(kinds._registry)
    own = (
        "grant_capacity", "settle_interval", "expire_capacity", "seal", "reconcile", "prune_jobs",
    )  # fmt: skip
    for name in set(before) - set(own):
        del kinds._registry[name]
    kinds.register(
        Kind(
            name=kinds.REPORT_INTERVAL,
            queue=kinds.URGENT,
            schedule=kinds.PerInterval(),
            handler=report,
        )
    )
    yield
    kinds._registry.clear()
    kinds._registry.update(before)


@pytest.fixture
def market(
    valkey: valkey_client.Valkey,
    transactional_db: None,
    clock,
    reporting: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-01T12:30Z")
    market.open()
    yield market
    market.close()


def work() -> int:
    return jobs.work(kinds.URGENT) + jobs.work(kinds.NORMAL)


def settle_all(market: Market) -> None:
    """Let engine and workers take turns until nothing is left to do."""
    for _ in range(10):
        market.work()
        work()
        if queries.work_due_by(market_clock.now()) == 0:
            return
    pytest.fail("work is left")


def use(organization: int, mntu: int, *, shared: bool = False) -> operations.Consumed:
    """Meter one finished request as the metering worker does."""
    request = uuid.uuid4()
    at = market_clock.now()
    admission_models.Request.objects.create(
        id=request, organization_id=organization, key="k", grade=GRADE, cluster=7,
        class_requested="P2", class_served="P2", outcome="ADMITTED", charge_mntu=mntu,
        body_digest=b"", arrived_at=at, gateway="g",
    )  # fmt: skip
    admission_models.UsageEvent.objects.create(
        request_id=request, sequence=1, prompt_tokens=0, cached_tokens=0, output_tokens=0,
        reasoning_tokens=0, mntu=mntu, state="COMPLETED", at=at, xid=1,
        number=admission_models.UsageEvent.objects.count() + 1,
    )  # fmt: skip
    with transaction.atomic():
        [parts] = operations.consume(
            usages=[
                operations.Consumption(
                    holder=organization, seller=SELLER, grade=GRADE, hour_starts_at=starts_at(),
                    mntu=mntu, cause=f"request:{request}", shared=shared,
                )
            ],
            at=market_clock.now_micros(),
        )  # fmt: skip
        admission_models.MeteredRequest.objects.create(
            request_id=request, sequence=1, mntu=mntu, entitled_mntu=parts.entitled_mntu,
            shared_mntu=parts.shared_mntu, overrun_mntu=parts.overrun_mntu,
            hour_starts_at=market_clock.to_datetime(starts_at()), is_final=True,
        )  # fmt: skip
    return parts


@pytest.fixture
def delivered(market: Market, clock) -> Market:
    """The hour traded, used, delivered but for one interval, and settled."""
    market.execute(sell(SELLER, PRICE, 100, "s1"))
    market.execute(buy(BUYER, PRICE, LOTS, "b1"))
    clock.set("2026-12-01T13:56Z")
    settle_all(market)
    clock.set("2026-12-01T14:03Z")
    assert use(BUYER, USED) == operations.Consumed(entitled_mntu=USED)
    assert use(OTHER, 777, shared=True) == operations.Consumed(shared_mntu=777)
    clock.set("2026-12-01T15:02Z")
    settle_all(market)
    return market


def violations() -> list[str]:
    return [str(finding) for finding in whole_audit.run() if finding.violations]


def test_an_hour_is_paid_interval_by_interval_and_every_invariant_holds(delivered) -> None:
    assert violations() == []
    assert set(models.Job.objects.values_list("state", flat=True)) == {"DONE"}
    settled = {row.interval: row for row in models.IntervalSettlement.objects.all()}
    assert sorted(settled) == list(range(1, 13))
    assert settled[1].released_micros == PER_INTERVAL
    assert (settled[BAD].released_micros, settled[BAD].refunded_micros) == (0, PER_INTERVAL)
    assert settled[BAD].compensated_micros == settled[BAD].compensation_due_micros > 0
    assert (
        models.Instruction.objects.filter(id__startswith="settle:", state="APPLIED").count() == 12
    )
    [row] = queries.entitlements(BUYER, now=market_clock.now())
    assert (row.state, row.lots, row.delivered_mntu, row.remaining_mntu) == (
        "settled",
        LOTS,
        USED,
        0,
    )


def test_both_statements_add_up_and_show_the_delivered_and_the_refunded_interval(
    delivered,
) -> None:
    day = market_clock.to_datetime(contract.day_start(market_clock.now_micros()))
    shown = {
        organization: statements.statement(
            organization, since=day, until=day + timedelta(days=1),
            trade_symbols=lambda trades: dict.fromkeys(trades, HOUR),
        )
        for organization in (BUYER, SELLER)
    }  # fmt: skip
    for organization, statement in shown.items():
        cash = statement.accounts[0]
        moved = sum(group.total_micros for group in cash.groups)
        assert cash.opening_micros + moved == cash.closing_micros
        assert cash.closing_micros == queries.account(organization).cash_micros
        assert [line.interval for line in statement.intervals] == list(range(1, 13))
        assert {group.subject for group in cash.groups} == {"", HOUR}
    buyer = {group.code: group.total_micros for group in shown[BUYER].accounts[0].groups}
    seller = {group.code: group.total_micros for group in shown[SELLER].accounts[0].groups}
    fee = 60 * PRICE * LOTS * 20 // 10_000
    assert buyer == {
        "deposit": 1_000_000_000,
        "trading_fee": -fee,
        "escrow": -12 * PER_INTERVAL,
        "refund": PER_INTERVAL,
        "compensation": -seller["compensation"],
    }
    assert seller["release"] == 11 * PER_INTERVAL
    bad = [statement.intervals[BAD - 1] for statement in shown.values()]
    assert [line.role for line in bad] == ["holder", "seller"]
    assert {line.refunded_micros for line in bad} == {PER_INTERVAL}
    rows = statements.to_csv(shown[BUYER]).splitlines()
    assert rows[1].endswith(",opening,,,0.000000")
    assert rows[-1].endswith(",closing,,,0.000000")


def test_what_nobody_used_of_an_hour_expires_and_late_tokens_are_overrun(delivered) -> None:
    unit = f"mNTU:{GRADE}:20261201T14Z"
    balances = {
        (row.owner, row.kind): row.credits - row.debits
        for row in models.Account.objects.filter(unit=unit)
    }
    granted = LOTS * contract.MNTU_PER_LOT_HOUR
    assert balances == {
        (SELLER, 50): -granted - 777,
        (BUYER, 51): 0,
        (BUYER, 52): USED,
        (BUYER, 53): granted - USED,
        (OTHER, 55): 777,
    }
    assert use(BUYER, 5) == operations.Consumed(overrun_mntu=5)
    assert violations() == []


def test_tokens_beyond_what_is_left_are_overrun(market: Market, clock) -> None:
    market.execute(sell(SELLER, PRICE, 1, "s1"))
    market.execute(buy(BUYER, PRICE, 1, "b1"))
    clock.set("2026-12-01T14:00Z")
    market.work()
    planned = contract.MNTU_PER_LOT_HOUR
    assert use(BUYER, planned - 10) == operations.Consumed(entitled_mntu=planned - 10)
    assert use(BUYER, 25) == operations.Consumed(entitled_mntu=10, overrun_mntu=15)
    settle_all(market)
    assert violations() == []


def test_settling_and_granting_again_post_nothing(delivered) -> None:
    before = {head.chain: head.sequence for head in models.ChainHead.objects.all()}
    at = market_clock.now_micros()
    for interval in range(1, 13):
        operations.settle_interval(grade=GRADE, hour_starts_at=starts_at(), interval=interval)
    operations.grant_capacity(grade=GRADE, hour_starts_at=starts_at(), at=at)
    operations.expire_capacity(grade=GRADE, hour_starts_at=starts_at(), at=at)
    delivered.work()
    assert {head.chain: head.sequence for head in models.ChainHead.objects.all()} == before


def test_an_interval_is_not_settled_before_every_allocation_is_reported(
    market: Market, clock
) -> None:
    market.execute(sell(SELLER, PRICE, 1, "s1"))
    market.execute(buy(BUYER, PRICE, 1, "b1"))
    clock.set("2026-12-01T14:06Z")
    market.work()
    with pytest.raises(operations.ReportMissing):
        operations.settle_interval(grade=GRADE, hour_starts_at=starts_at(), interval=1)


def test_a_suspended_interval_returns_the_escrow_and_nobody_is_short(market: Market, clock) -> None:
    market.execute(sell(SELLER, PRICE, 1, "s1"))
    market.execute(buy(BUYER, PRICE, 1, "b1"))
    clock.set("2026-12-01T14:07Z")
    market.work()
    [row] = queries.entitlements_snapshot(starts_at=market_clock.to_datetime(starts_at()))
    operations.report_delivery(
        deliveries=[
            operations.Delivery(
                allocation=row.allocation, interval=1, owed_mntu=0, available_mntu=0,
                short_mntu=0, delivered_mntu=0, probes=0, probes_passed=0, is_suspended=True,
            )
        ],
        at=clock.at,
    )  # fmt: skip
    operations.settle_interval(grade=GRADE, hour_starts_at=starts_at(), interval=1)
    market.work()
    settled = models.IntervalSettlement.objects.get()
    assert (settled.released_micros, settled.refunded_micros) == (0, 5 * PRICE)
    assert settled.compensation_due_micros == 0


def test_the_ledger_of_an_account_pages_without_gaps_and_ends_at_its_balance(delivered) -> None:
    whole = cash.ledger_entries(BUYER, limit=1000)
    assert whole[0].balance_micros == queries.account(BUYER).cash_micros
    for newer, older in itertools.pairwise(whole):
        assert older.balance_micros == newer.balance_micros - newer.amount_micros
    assert whole[-1].balance_micros == whole[-1].amount_micros
    paged, before = [], None
    while page := cash.ledger_entries(BUYER, before=before, limit=2):
        paged += page
        before = page[-1].sequence
    assert paged == whole


def test_the_gateways_snapshot_counts_the_hours_ahead_without_a_gap(market: Market, clock) -> None:
    clock.set("2026-12-01T12:45Z")
    for hour in (14, 15, 17):
        symbol = f"{GRADE}.H.20261201T{hour}Z"
        market.execute(sell(SELLER, PRICE, 5, f"s{hour}", instrument=symbol))
        market.execute(buy(BUYER, PRICE, 5, f"b{hour}", instrument=symbol))
    clock.set("2026-12-01T13:56Z")
    market.work()
    [row] = queries.entitlements_snapshot(
        starts_at=market_clock.to_datetime(starts_at()), grade=GRADE
    )
    assert (row.holder, row.seller, row.lots) == (BUYER, SELLER, 5)
    assert queries.contiguous_hours(
        starts_at=market_clock.to_datetime(starts_at()), holders={(BUYER, GRADE)}
    ) == {(BUYER, GRADE): 2}
    assert (
        queries.entitlements_snapshot(
            starts_at=market_clock.to_datetime(starts_at()), grade="OTHER"
        )
        == []
    )


def test_an_instruction_is_written_once_and_its_outcome_can_be_waited_for(market: Market) -> None:
    deposit = instructions.Deposit(account=BUYER, amount_micros=5)
    first = operations.instruct(id="deposit:101:x", command=deposit)
    assert operations.instruct(id="deposit:101:x", command=deposit).number == first.number
    with pytest.raises(Exception, match="other terms"):
        operations.instruct(
            id="deposit:101:x", command=instructions.Deposit(account=BUYER, amount_micros=6)
        )
    with pytest.raises(queries.OutcomeUnknown):
        queries.wait_for_instruction("deposit:101:x", timeout_s=0)
    market.work()
    assert queries.wait_for_instruction("deposit:101:x").is_applied
    with pytest.raises(queries.NotFound):
        queries.instruction("deposit:101:y")


def test_a_long_wait_for_the_engine_keeps_no_connection(market: Market, monkeypatch) -> None:
    operations.instruct(
        id="deposit:101:y", command=instructions.Deposit(account=BUYER, amount_micros=5)
    )
    now_ns, held = [0], []

    def wait(seconds: float) -> None:
        held.append(connection.connection is not None)
        now_ns[0] += int(seconds * 1e9)

    monkeypatch.setattr(market_clock, "monotonic_ns", lambda: now_ns[0])
    monkeypatch.setattr(queries.time, "sleep", wait)

    with pytest.raises(queries.OutcomeUnknown):
        queries.wait_for_instruction("deposit:101:y", timeout_s=1.0)

    assert held[0]
    assert held.count(False) == 8
    assert now_ns[0] >= 1_000_000_000


def test_an_instruction_that_is_rolled_back_was_never_given(market: Market) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        operations.instruct(
            id="deposit:101:z", command=instructions.Deposit(account=BUYER, amount_micros=5)
        )
        raise RuntimeError
    market.work()
    assert queries.account(BUYER).cash_micros == 1_000_000_000


CORRUPTIONS = {
    "a cluster that is down has one outage and nothing certified": (
        "INSERT INTO marketplace_cluster (id, public_id, organization_id, grade_id, name,"
        " is_modelled, accelerator, tensor_parallel, replicas, endpoint, state, certified_lots,"
        " created_at) SELECT 99, gen_random_uuid(), 1, 'LLAMA70B', 'down', true, 'H100', 1, 1,"
        " 'http://127.0.0.1:9/v1', 'DOWN', 0, now()"
    ),
    "the journal's hash chain verifies": (
        "UPDATE exchange_journalbatch SET commands = '' WHERE sequence = 3"
    ),
    "cash transfers are the journal's": (
        "UPDATE settlement_transfer SET amount = amount + 1 WHERE chain = 'cash' AND code = 6"
    ),
    "trades have exactly their fees": "DELETE FROM settlement_transfer WHERE code = 3",
    "orders are the sums of their fills": (
        "UPDATE exchange_order SET filled_lots = filled_lots - 1 WHERE client_order_id = 's1'"
    ),
    "positions and what they became are the sums of trades": (
        "UPDATE settlement_entitlement SET lots = lots - 1"
    ),
    "marks paid their variation": "UPDATE settlement_indexvalue SET price_ticks = 9",
    "metered usage equals capacity consumed": (
        "UPDATE admission_meteredrequest SET entitled_mntu = entitled_mntu + 1"
    ),
    "requests are metered to their last event": "UPDATE admission_usageevent SET mntu = mntu + 1",
}


def test_every_corruption_across_the_apps_is_seen_by_its_check(delivered) -> None:
    assert {check(None).name for check in whole_audit.CHECKS} == set(CORRUPTIONS)
    for name, statement in CORRUPTIONS.items():
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
                cursor.execute(statement)
                assert cursor.rowcount > 0, name
            found = {finding.name for finding in whole_audit.run() if finding.violations}
            assert name in found, (name, found)
            transaction.set_rollback(True)


def test_a_jump_of_a_day_plans_work_only_where_there_is_delivery(delivered, clock) -> None:
    before = models.Job.objects.count()
    clock.advance(seconds=26 * 3600)
    delivered.work()
    planning.plan(clock.at)
    assert models.Job.objects.count() - before <= 4
    settle_all(delivered)
    assert violations() == []


def test_a_violation_parks_the_reconciliation_where_it_is_seen(delivered, clock) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE settlement_transfer SET cause = 'x' WHERE code = 8")
    clock.advance(seconds=3600)
    work()
    parked = models.Job.objects.get(kind="reconcile", state="PARKED")
    assert "the ledger's hash chains verify: VIOLATION (1 of" in parked.error
