"""Metered usage becomes consumed capacity and a report, once, whatever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import openai
import psycopg
import pytest
import valkey as valkey_client
from django.conf import settings
from django.db import IntegrityError, connection, transaction

from admission import consumption, demand, metering, models, reporting
from marketplace import clock as market_clock
from marketplace import contract, keys
from settlement import models as clearing
from tests.delivery import LOTS, Stage, fetch, free_port, stage
from tests.market import BUYER, CLUSTER, GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "Say what an hour of capacity costs, and why."}]


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


@pytest.fixture
def unserved(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    """The same without a gateway: the test starts its own."""
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch, has_gateway=False) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def consume() -> int:
    with transaction.atomic():
        return consumption.consume(market_clock.now_micros())


def report(delivery: Stage, number: int) -> list[clearing.DeliveryReport]:
    """Report on an interval of the present hour a minute after its end."""
    hour = contract.hour_start(market_clock.now_micros())
    interval = demand.Interval(grade=GRADE, hour_starts_at=hour, number=number)
    with transaction.atomic():
        reporting.report(interval, market_clock.now_micros())
    return list(clearing.DeliveryReport.objects.filter(interval=number).order_by("allocation_id"))


def ask(delivery: Stage, **more):
    return delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=10, **more
    )


def consume_when_it_can() -> None:
    """Consume something; another database's transactions may hold the horizon back for a while."""
    until = time.monotonic() + 10
    while consume() == 0:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_usage_is_consumed_once_however_often_it_is_read(delivery: Stage) -> None:
    ask(delivery)
    (end,) = delivery.ends(1)
    consume_when_it_can()
    assert consume() == 0
    metered = models.MeteredRequest.objects.get()
    assert (metered.mntu, metered.entitled_mntu, metered.overrun_mntu) == (end.mntu, end.mntu, 0)
    assert metered.is_final
    models.MeterCursor.objects.update(xid=0, number=0)
    consume_when_it_can()
    entitlement = clearing.Entitlement.objects.get(organization_id=BUYER)
    assert entitlement.delivered_mntu == end.mntu
    posted = clearing.Transfer.objects.filter(cause=f"request:{end.request_id}")
    assert [transfer.amount for transfer in posted] == [end.mntu]


def test_an_event_of_a_transaction_that_commits_late_is_not_skipped(delivery: Stage) -> None:
    parameters = metering.connection_parameters()
    with psycopg.connect(**parameters) as late:
        late.execute("INSERT INTO admission_metercursor (name, xid, number) VALUES ('other', 0, 0)")
        ask(delivery)
        delivery.ends(1)
        assert consume() == 0  # something older is still being written
        late.rollback()
    consume_when_it_can()


def test_a_report_says_what_was_owed_available_and_delivered(delivery: Stage) -> None:
    ask(delivery)
    (end,) = delivery.ends(1)
    made_at = market_clock.to_datetime(market_clock.now_micros() // 30_000_000 * 30_000_000)
    models.Probe.objects.create(cluster=CLUSTER, slot_at=made_at, passed=True)
    delivery.clock.set("2026-12-01T14:06:01Z")
    (row,) = report(delivery, 1)
    owed = LOTS * contract.MNTU_PER_LOT_INTERVAL
    assert (row.owed_mntu, row.available_mntu, row.short_mntu) == (owed, owed, 0)
    assert (row.delivered_mntu, row.probes, row.probes_passed) == (end.mntu, 1, 1)
    assert not row.is_suspended
    (pool,) = models.PoolInterval.objects.filter(cluster=CLUSTER)
    assert (pool.service_class, pool.admitted, pool.shed) == ("P2", 1, 0)
    assert (pool.guaranteed_mntu, pool.delivered_mntu) == (owed, end.mntu)


def test_what_a_cluster_refused_is_short_once_a_minute(delivery: Stage) -> None:
    delivery.fault(0.0)
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            ask(delivery)
    delivery.ends(3)
    charge = delivery.requests()[0].charge_mntu
    delivery.clock.set("2026-12-01T14:06:01Z")
    (row,) = report(delivery, 1)
    # One refusal and no probe: nothing of what was seen was served.
    assert (row.available_mntu, row.short_mntu, row.delivered_mntu) == (0, charge, 0)


def test_an_interval_without_a_gateway_is_suspended(delivery: Stage) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM admission_heartbeat")
    delivery.clock.set("2026-12-01T14:06:01Z")
    (row,) = report(delivery, 2)
    assert row.is_suspended


def test_probes_at_a_leap_stand_for_what_was_leapt_over(delivery: Stage) -> None:
    hour = contract.hour_start(market_clock.now_micros())
    clearing.ClockJump.objects.create(
        from_at=market_clock.to_datetime(hour + 6_000_000),
        to_at=market_clock.to_datetime(hour + contract.HOUR),
        probes={str(CLUSTER): [4, 10]},
    )
    delivery.clock.set("2026-12-01T15:01:01Z")
    interval = demand.Interval(grade=GRADE, hour_starts_at=hour, number=3)
    with transaction.atomic():
        reporting.report(interval, market_clock.now_micros())
    row = clearing.DeliveryReport.objects.get(interval=3)
    assert (row.probes, row.probes_passed) == (10, 4)
    assert row.available_mntu == LOTS * contract.MNTU_PER_LOT_INTERVAL * 4 // 10


def test_pay_as_you_go_is_charged_by_interval_and_the_rest_given_back(delivery: Stage) -> None:
    with delivery.market.running():
        delivery.client("other").chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=10, extra_headers={"x-baseload-class": "P3"}
        )
    (end,) = delivery.ends(1)
    hour = contract.hour_start(market_clock.now_micros())
    for number in (1, 12):
        interval = demand.Interval(grade=GRADE, hour_starts_at=hour, number=number)
        with transaction.atomic():
            reporting.report(interval, market_clock.now_micros())
    charges = clearing.Instruction.objects.filter(id__startswith="charge:").order_by("number")
    delivery.market.work()
    assert [row.state for row in charges.all()] == ["APPLIED", "APPLIED"]
    used = clearing.Account.objects.filter(kind=3)
    assert [account.credits - account.debits for account in used] == [0]
    assert end.mntu > 0


def test_what_runs_into_an_hour_nobody_bought_is_charged_with_that_hour(delivery: Stage) -> None:
    with delivery.market.running():
        delivery.client("other").chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=10, extra_headers={"x-baseload-class": "P3"}
        )
    (end,) = delivery.ends(1)
    following = contract.hour_start(market_clock.now_micros()) + contract.HOUR
    late = metering.UsageRow(
        request_id=str(end.request_id),
        sequence=end.sequence + 1,
        prompt_tokens=end.prompt_tokens,
        cached_tokens=end.cached_tokens,
        output_tokens=end.output_tokens + 1,
        reasoning_tokens=0,
        mntu=end.mntu + 4_000,
        state="COMPLETED",
        is_estimated=False,
        is_bounded=False,
        first_token_ms=None,
        per_token_us=None,
        at=following + 1_000_000,
    )
    with connection.cursor() as cursor:
        metering.store(cursor, [], [late])
    hours = clearing.DeliveryHour.objects.filter(starts_at=market_clock.to_datetime(following))
    assert not hours.exists()
    until = time.monotonic() + 10
    while not hours.exists():
        consume()
        assert time.monotonic() < until
        time.sleep(0.01)
    assert hours.get().grade == GRADE


def test_nothing_is_served_while_usage_cannot_be_recorded(delivery: Stage) -> None:
    ask(delivery)
    delivery.ends(1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE admission_request RENAME TO admission_request_away")
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'gateway metering'"
            )
        before = len(delivery.generated())
        with pytest.raises(openai.InternalServerError):
            ask(delivery)
        assert len(delivery.generated()) == before
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE admission_request_away RENAME TO admission_request")
    until = time.monotonic() + 10
    while True:
        try:
            ask(delivery)
            break
        except openai.InternalServerError:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_killed_gateway_loses_nothing_that_was_completed(unserved: Stage, tmp_path) -> None:
    port = free_port()
    offset = market_clock.now_micros() - market_clock.system_micros()
    with (tmp_path / "clock").open("wb") as file:
        file.write(offset.to_bytes(8, "little", signed=True))
    environment = os.environ | {
        "GATEWAY_PORT": str(port),
        "BASELOAD_VAR": str(tmp_path),
        "DATABASE_URL": _database_url(),
        "CLUSTER_PORT": str(unserved.cluster_port),
        "KEY_PEPPER": settings.KEY_PEPPER,
        "SECRET_KEY": settings.SECRET_KEY,
        "RECEIPTS_SECRET": settings.RECEIPTS_SECRET,
    }
    process = subprocess.Popen([sys.executable, "-m", "config.serve", "gateway"], env=environment)
    try:
        _await_ready(port)
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=unserved.keys["buyer"], max_retries=0
        )
        done = client.chat.completions.create(model=GRADE, messages=HELLO, max_tokens=20)
        stream = client.chat.completions.create(
            model=GRADE,
            messages=HELLO,
            max_tokens=1_000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for _ in range(200):
            next(stream)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with pytest.raises(openai.APIError):
            list(stream)
    finally:
        process.kill()
        process.wait(10)
    rows = {row.id: row for row in unserved.requests()}
    events = list(models.UsageEvent.objects.filter(request_id__in=rows).order_by("number"))
    ended = [event for event in events if event.state == "COMPLETED"]
    assert [event.output_tokens for event in ended] == [done.usage.completion_tokens] == [20]
    open_totals = [event.output_tokens for event in events if event.state == "OPEN"]
    assert max(open_totals) >= 200 - 2 * metering.CHECKPOINT_TOKENS
    consume_when_it_can()
    while consume():
        pass
    entitlement = clearing.Entitlement.objects.get(organization_id=BUYER)
    assert entitlement.delivered_mntu == sum(
        max(event.mntu for event in events if event.request_id == request_id)
        for request_id in {event.request_id for event in events}
    )


def test_a_row_that_is_written_again_is_there_once(delivery: Stage) -> None:
    import asyncio

    row = metering.UsageRow(
        request_id=str(uuid.uuid4()),
        sequence=1,
        prompt_tokens=3,
        cached_tokens=0,
        output_tokens=1,
        reasoning_tokens=0,
        mntu=7_000,
        state="COMPLETED",
        is_estimated=False,
        is_bounded=False,
        first_token_ms=None,
        per_token_us=None,
        at=market_clock.now_micros(),
    )

    async def write() -> None:
        writer = metering.Writer(metering.connection_parameters())
        await writer.start()
        await asyncio.gather(writer.end(row), writer.end(row))
        await writer.end(row)
        await writer.close()

    asyncio.run(write())
    assert models.UsageEvent.objects.filter(request_id=row.request_id).count() == 1


def test_usage_that_comes_again_after_forty_days_or_says_otherwise_is_what_it_was(
    delivery: Stage, clock
) -> None:
    ask(delivery)
    (end,) = delivery.ends(1)
    consume_when_it_can()
    entitlement = clearing.Entitlement.objects.get(organization_id=BUYER)
    assert entitlement.delivered_mntu == end.mntu
    same = set(metering.UsageRow.__struct_fields__) - {"request_id", "at"}
    row = metering.UsageRow(
        **{field: getattr(end, field) for field in same},
        request_id=str(end.request_id),
        at=market_clock.to_micros(end.at),
    )
    other = msgspec.structs.replace(row, mntu=row.mntu + 9_000, output_tokens=999)
    clock.set(f"{end.at + timedelta(days=40):%Y-%m-%dT%H:%MZ}")
    with connection.cursor() as cursor:
        metering.store(cursor, [], [row])
        metering.store(cursor, [], [other])
    while consume():
        pass
    kept = models.UsageEvent.objects.get(request_id=end.request_id, sequence=end.sequence)
    assert (kept.mntu, kept.output_tokens, kept.number) == (end.mntu, end.output_tokens, end.number)
    entitlement.refresh_from_db()
    assert entitlement.delivered_mntu == end.mntu


def _database_url() -> str:
    """Return the address of the test's own database."""
    described = connection.settings_dict
    base, _, query = os.environ["DATABASE_URL"].partition("?")
    root = base.rsplit("/", 1)[0]
    return f"{root}/{described['NAME']}" + (f"?{query}" if query else "")


def _await_ready(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            if fetch(f"http://127.0.0.1:{port}/readyz")["ready"]:
                return
        except OSError:
            assert time.monotonic() < until, "the gateway did not become ready"
            time.sleep(0.1)


@pytest.mark.parametrize(
    "counts", [{"prompt_tokens": -1}, {"output_tokens": -1}, {"cached_tokens": 11}]
)
def test_counts_that_cannot_be_are_refused_and_never_billed(db: None, counts) -> None:
    """What a claim may be at most is `admission.bounds`; this is the law beneath it (FAULTS 91)."""
    possible = {
        "request_id": str(uuid.uuid4()), "sequence": 1, "prompt_tokens": 10, "cached_tokens": 10,
        "output_tokens": 5, "reasoning_tokens": 0, "mntu": 30_000, "state": "COMPLETED",
        "is_estimated": False, "is_bounded": False, "first_token_ms": 1, "per_token_us": 1,
        "at": 1,
    }  # fmt: skip
    with connection.cursor() as cursor:
        with pytest.raises(IntegrityError, match="usage_is_possible"), transaction.atomic():
            metering.store(cursor, [], [metering.UsageRow(**(possible | counts))])
        assert not models.UsageEvent.objects.exists()
        metering.store(cursor, [], [metering.UsageRow(**possible)])
    assert models.UsageEvent.objects.get().mntu == possible["mntu"]
