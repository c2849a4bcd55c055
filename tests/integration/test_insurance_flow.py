"""Caps and cover from their purchase to what they paid, through the real engine, queue and rows."""

import uuid
from collections.abc import Iterator

import pytest
import valkey as valkey_client
from django.db import connection, transaction

from admission import models as admission_models
from admission import reporting
from marketplace import audit, contract
from marketplace import clock as market_clock
from marketplace.models import Instrument
from settlement import (
    instructions,
    jobs,
    kinds,
    ledger,
    models,
    operations,
    planning,
    queries,
    slots,
    statements,
)
from settlement.kinds import Kind
from tests.market import BUYER, CLUSTER, GRADE, OTHER, SELLER, Market, buy, define_grade, sell

pytestmark = pytest.mark.django_db(transaction=True)

CAP = "LLAMA70B.M.F27.C1250"
COVER = "LLAMA70B.M.F27.S"
HOUR = "LLAMA70B.H.20270101T14Z"
STARTS_AT = contract.parse_symbol(HOUR).starts_at
KINDS = (
    "make_partitions",
    "open_insured_hour",
    "grant_capacity",
    "settle_interval",
    "pay_insurance",
    "review_day",
    "settle_day",
)
FINAL, REVISION = (f"{GRADE}/20270101/{name}" for name in ("final", "revision"))


def report(slot: str, at: int) -> None:
    """Stand in for admission: in the second interval a fifth was missed."""
    grade, hour, interval = slots.read_interval(slot)
    operations.report_delivery(
        deliveries=[
            operations.Delivery(
                allocation=row.allocation,
                interval=interval,
                owed_mntu=row.lots * contract.MNTU_PER_LOT_INTERVAL,
                available_mntu=row.lots * contract.MNTU_PER_LOT_INTERVAL,
                short_mntu=2_000_000 if interval == 2 else 0,
                delivered_mntu=0,
                probes=10,
                probes_passed=10,
            )
            for row in queries.entitlements_snapshot(
                starts_at=market_clock.to_datetime(hour), grade=grade
            )
        ],
        at=at,
    )


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    kinds.load()
    before = dict(kinds._registry)
    for name in set(before) - set(KINDS):
        del kinds._registry[name]
    kinds.register(
        Kind(
            name=kinds.REPORT_INTERVAL,
            queue=kinds.URGENT,
            schedule=kinds.PerInterval(),
            handler=report,
        )
    )
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    monkeypatch.setattr(reporting, "review", lambda interval, at: 0)  # `report` is not admission's
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-29T12:30Z")
    define_grade()
    market.instruct(
        "grade",
        instructions.DefineGrade(grade=GRADE, reference_price_ticks=1_250, premium_percents=(5, 3)),
    )
    for account in (BUYER, SELLER, OTHER):
        market.instruct(f"open:{account}", instructions.OpenAccount(account=account, group=account))
        market.instruct(
            f"deposit:{account}",
            instructions.Deposit(account=account, amount_micros=10_000_000_000),
        )
    market.certify(SELLER, CLUSTER, 1_000)
    for number, (symbol, price) in enumerate(((CAP, 60), (COVER, 37))):
        market.execute(sell(OTHER, price, 2, f"s{number}", instrument=symbol))
        market.execute(buy(BUYER, price, 2, f"b{number}", instrument=symbol))
    settle_all(market)
    yield market
    market.close()
    kinds._registry.clear()
    kinds._registry.update(before)


def settle_all(market: Market) -> None:
    """Let engine and workers take turns until nothing is left to do."""
    for _ in range(20):
        market.work()
        jobs.work(kinds.URGENT)
        jobs.work(kinds.NORMAL)
        if queries.work_due_by(market_clock.now()) == 0:
            return
    pytest.fail("work is left")


def use(organization: int, mntu: int) -> None:
    """Meter one finished request, as a gateway does."""
    request = uuid.uuid4()
    admission_models.Request.objects.create(
        id=request, organization_id=organization, key="k", grade=GRADE, cluster=CLUSTER,
        class_requested="P2", class_served="P2", outcome="ADMITTED", charge_mntu=mntu,
        body_digest=b"", arrived_at=market_clock.now(), gateway="g",
    )  # fmt: skip
    admission_models.UsageEvent.objects.create(
        request_id=request, sequence=1, prompt_tokens=0, cached_tokens=0, output_tokens=0,
        reasoning_tokens=0, mntu=mntu, state="COMPLETED", at=market_clock.now(), xid=1,
        number=admission_models.UsageEvent.objects.count() + 1,
    )  # fmt: skip


def override(market: Market, price: int) -> None:
    market.instruct(
        "override",
        instructions.OverrideIndex(
            grade=GRADE, hour_starts_at=STARTS_AT, version=2, price_ticks=price, reason="test",
            proposed_by=8, confirmed_by=9,
        ),
    )  # fmt: skip


def rows(organization: int) -> list[tuple[str, int, int, int, int]]:
    found = queries.insurance_payments(organization).order_by("symbol", "interval")
    return [(r.symbol, r.interval, r.lots, r.mntu, r.amount_micros) for r in found]


def test_an_hour_pays_its_caps_and_its_cover_into_rows_that_the_ledger_bears_out(
    market: Market, clock
) -> None:
    clock.set("2027-01-01T12:30Z")
    settle_all(market)
    assert Instrument.objects.get(symbol=CAP).state == "CLOSED"
    market.execute(sell(SELLER, 1_250, 3, "hs", instrument=HOUR))
    market.execute(buy(BUYER, 1_250, 3, "hb", instrument=HOUR))
    clock.set("2027-01-01T14:20Z")
    override(market, 1_450)
    use(BUYER, 90_000_000)
    use(SELLER, 5_000_000)
    clock.set("2027-01-01T15:01:30Z")
    settle_all(market)
    # Cover: 2,000 NTU at 1.250; the cap: 0.200 on 90,000 of the 120,000 NTU of two lots.
    assert rows(BUYER) == [(CAP, 0, 2, 90_000_000, 18_000), (COVER, 2, 2, 2_000_000, 2_500)]
    assert rows(OTHER) == [(CAP, 0, -2, 0, -18_000), (COVER, 2, -2, 0, -2_500)]
    assert models.InsurancePayment.objects.count() == 4
    paid = models.Transfer.objects.filter(
        code__in=(ledger.Code.CAP_PAYMENT, ledger.Code.COVER_PAYMENT),
        credit_account=ledger.cash_account(BUYER, ledger.Kind.CASH),
    )
    assert sorted(transfer.amount for transfer in paid) == [2_500, 18_000]
    clock.advance(seconds=1)
    shown = statements.statement(
        BUYER,
        since=market_clock.to_datetime(STARTS_AT),
        until=market_clock.now(),
    )
    groups = {(g.subject, g.code): g.total_micros for g in shown.accounts[0].groups}
    assert groups[CAP, "cap_payment"] == 18_000
    assert groups[COVER, "cover_payment"] == 2_500
    found = audit.run()
    assert [str(one) for one in found if one.violations] == []


def test_what_cover_pays_is_published_with_it(market: Market) -> None:
    published = dict(Instrument.objects.values_list("symbol", "pay_ticks"))
    assert (published[COVER], published[CAP], published["LLAMA70B.M.F27"]) == (1_250, None, None)


def test_what_was_set_aside_is_released_with_hours_nobody_was_entitled_in(
    market: Market, clock
) -> None:
    clock.set("2026-12-31T12:00Z")
    settle_all(market)
    aside = models.MarginAccount.objects.get(pk=OTHER).initial_margin_micros
    assert aside == 2 * 744 * 60 * (5 * 1_250 + 1_250)
    for hour in range(4):
        clock.set(f"2027-01-01T{hour:02}:01:30Z")
        settle_all(market)
    left = models.MarginAccount.objects.get(pk=OTHER).initial_margin_micros
    assert left == 2 * (744 - 3) * 60 * (5 * 1_250 + 1_250)
    states = dict(
        models.Instruction.objects.filter(id__startswith="insurance:").values_list("id", "state")
    )
    assert states == {f"insurance:{GRADE}:20270101T{hour:02}Z": "APPLIED" for hour in range(3)}


def test_a_payment_that_is_not_the_ledgers_is_found(market: Market, clock) -> None:
    clock.set("2026-12-31T12:00Z")
    settle_all(market)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(f"UPDATE settlement_position SET net_lots = 0 WHERE symbol = '{CAP}'")
            assert cursor.rowcount == 2
        names = {one.name for one in audit.run() if one.violations}
        assert "positions and what they became are the sums of trades" in names
        transaction.set_rollback(True)


# What later runs add


@pytest.fixture
def paid_hour(market: Market, clock) -> Market:
    """An hour that has paid 18,000 of a cap and 2,500 of cover, on the day before its final run."""
    clock.set("2027-01-01T12:30Z")
    settle_all(market)
    market.execute(sell(SELLER, 1_250, 3, "hs", instrument=HOUR))
    market.execute(buy(BUYER, 1_250, 3, "hb", instrument=HOUR))
    clock.set("2027-01-01T14:20Z")
    override(market, 1_450)
    use(BUYER, 90_000_000)
    clock.set("2027-01-01T15:01:30Z")
    settle_all(market)
    assert rows(BUYER) == [(CAP, 0, 2, 90_000_000, 18_000), (COVER, 2, 2, 2_000_000, 2_500)]
    return market


def to_the_last_run(market: Market, clock) -> None:
    """Let time pass to D+14; the hours from the second day on are left out."""
    kinds._registry.pop("open_insured_hour")
    models.DeliveryDay.objects.exclude(delivery_date="2027-01-01").delete()
    clock.set("2027-01-15T02:00:01Z")
    settle_all(market)


def corrected() -> list[tuple[str, str, int, int]]:
    found = models.InsuranceCorrection.objects.order_by("id")
    return list(found.values_list("run", "symbol", "organization_id", "amount_micros"))


def violations() -> list[str]:
    return [str(one) for one in audit.run() if one.violations]


def test_unchanged_hours_are_paid_nothing_more(paid_hour: Market, clock) -> None:
    clock.set("2027-01-02T02:00:01Z")
    settle_all(paid_hour)
    to_the_last_run(paid_hour, clock)
    final, revision = (models.SettlementRun.objects.get(id=name) for name in (FINAL, REVISION))
    assert bytes(final.inputs_digest) == bytes(revision.inputs_digest)
    assert bytes(revision.result_digest) == bytes(revision.posted_digest)
    # The delivery alone is settled again, at the index that two operators have set.
    corrections = models.Instruction.objects.filter(id__startswith="correct:")
    assert [one.id for one in corrections] == [f"correct:{FINAL}:20270101T14Z:0"]
    assert not models.InsuranceRunLine.objects.exists()
    assert corrected() == []


def test_tokens_that_are_known_late_are_paid_by_the_final_run(paid_hour: Market, clock) -> None:
    """The cap insures 120,000 NTU of the 130,000 that were used: 30,000 more at 0.200."""
    use_late(BUYER, 40_000_000)
    clock.set("2027-01-02T02:00:01Z")
    settle_all(paid_hour)
    assert corrected() == [(FINAL, CAP, BUYER, 6_000), (FINAL, CAP, OTHER, -6_000)]
    moved = models.Transfer.objects.filter(code=ledger.Code.INSURANCE_CORRECTION)
    assert [(one.amount, one.cause) for one in moved.order_by("sequence")] == [
        (6_000, f"insurance:{CAP}:{STARTS_AT}:final")
    ] * 2
    to_the_last_run(paid_hour, clock)
    assert len(corrected()) == 2
    assert violations() == []


def test_a_correction_that_nobody_asked_for_is_found(paid_hour: Market, clock) -> None:
    models.InsuranceCorrection.objects.create(
        run=FINAL, symbol=CAP, hour_starts_at=market_clock.to_datetime(STARTS_AT),
        organization_id=BUYER, amount_micros=5, at=market_clock.now(),
    )  # fmt: skip
    names = {one.name for one in audit.run() if one.violations}
    assert "corrections of insurance are what runs asked for" in names


def use_late(organization: int, mntu: int) -> None:
    """Meter what was used in the hour, now that it is over."""
    use(organization, mntu)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        at = market_clock.to_datetime(STARTS_AT + 30 * 60 * 1_000_000)
        cursor.execute("UPDATE admission_usageevent SET at = %s WHERE mntu = %s", [at, mntu])
        cursor.execute("SET session_replication_role = DEFAULT")


def test_an_index_that_is_corrected_and_a_miss_that_was_none_go_back(
    paid_hour: Market, clock
) -> None:
    """At an index of 1.250 the cap pays nothing; without the miss, nor does the cover."""
    override_again(paid_hour, 1_250)
    allocation = models.Allocation.objects.get(starts_at=market_clock.to_datetime(STARTS_AT))
    models.DeliveryRevision.objects.create(
        allocation=allocation, interval=2, source="REVIEW", available_mntu=15_000_000,
        short_mntu=0, delivered_mntu=0, at=market_clock.now(),
    )  # fmt: skip
    clock.set("2027-01-02T02:00:01Z")
    settle_all(paid_hour)
    assert corrected() == [
        (FINAL, CAP, BUYER, -18_000),
        (FINAL, CAP, OTHER, 18_000),
        (FINAL, COVER, BUYER, -2_500),
        (FINAL, COVER, OTHER, 2_500),
    ]
    # It was missed after all, and more of it: the last run pays it anew.
    models.DeliveryRevision.objects.create(
        allocation=allocation, interval=2, source="REVIEW", available_mntu=15_000_000,
        short_mntu=4_000_000, delivered_mntu=0, at=market_clock.now(),
    )  # fmt: skip
    to_the_last_run(paid_hour, clock)
    assert corrected()[4:] == [(REVISION, COVER, BUYER, 5_000), (REVISION, COVER, OTHER, -5_000)]
    assert rows(BUYER) == [(CAP, 0, 2, 90_000_000, 18_000), (COVER, 2, 2, 2_000_000, 2_500)]
    assert violations() == []


def override_again(market: Market, price: int) -> None:
    market.instruct(
        "override again",
        instructions.OverrideIndex(
            grade=GRADE, hour_starts_at=STARTS_AT, version=3, price_ticks=price, reason="test",
            proposed_by=8, confirmed_by=9,
        ),
    )  # fmt: skip


def test_a_run_waits_for_the_hours_that_options_have_yet_to_pay(market: Market, clock) -> None:
    day = contract.day_start(STARTS_AT)
    clock.set("2027-01-02T02:00:01Z")
    market.work()
    assert planning.unposted(GRADE, day, clock.at).startswith(f"options of {GRADE}")
    settle_all(market)
    assert planning.unposted(GRADE, day, clock.at) == ""
    assert models.SettlementRun.objects.get().id == FINAL
