"""Every kind of background work that is registered, killed after each of its statements, and again.

Two worlds live through the same two days: an hour is traded, used, missed in part and insured, one
of its clusters is down, a certification waits, a month ends, and a day is settled finally. In one
of them each kind of work is done in a process that is killed by SIGKILL at its first statement,
then at a later one, and so on: at every one of them with `BASELOAD_DEEP`, else at a sample that
moves on by one statement a day, so that a week has had them all. What stands in the tables in the
end has to be the same, to the last byte (FAULTS J100, K112). A kind that is new to the registry and
never killed here fails the test.
"""

import dataclasses
import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import valkey as valkey_client
from django.core.management import call_command
from django.db import connection, transaction

from admission import metering
from admission import models as admission_models
from admission import operations as admission
from exchange import tasks as exchange_tasks
from marketplace import audit, contract
from marketplace import clock as market_clock
from settlement import instructions, jobs, kinds, models, planning
from tests.delivery import make_catalog, make_cluster
from tests.market import BUYER, CLUSTER, GRADE, OTHER, SELLER, Market, buy, define_grade, sell

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

HOUR = f"{GRADE}.H.20270101T14Z"
STARTS_AT = contract.parse_symbol(HOUR).starts_at  # type: ignore[union-attr]
CAP, COVER = f"{GRADE}.M.F27.C1250", f"{GRADE}.M.F27.S"
DARK = 8
"""A cluster that no probe finds."""
DEARER = instructions.OverrideIndex(
    grade=GRADE, hour_starts_at=STARTS_AT, version=2, price_ticks=1_450, reason="test",
    proposed_by=8, confirmed_by=9,
)  # fmt: skip
IS_DEEP = bool(os.environ.get("BASELOAD_DEEP"))
"""Kill each kind at every one of its statements; else at the first two, and each seventh."""
STEP = 1 if IS_DEEP else 7
KILLS_MAX = 1_000 if IS_DEEP else 8
"""Of one kind at one moment."""
ROUNDS_MAX = 40
NEVER = 10**9
MOMENTS = ("2027-01-01T13:56Z", "2027-01-01T15:01:30Z", "2027-01-02T02:01Z")
OUTCOME = (  # accounts of capacity are named by owner and unit: their ids have gaps
    "SELECT t.chain, t.sequence, d.owner, d.kind, d.unit, c.owner, c.kind, c.unit, t.amount,"
    " t.code, t.cause, t.at FROM settlement_transfer t"
    " JOIN settlement_account d ON d.id = t.debit_account"
    " JOIN settlement_account c ON c.id = t.credit_account ORDER BY t.chain, t.sequence",
    "SELECT sequence, hash FROM settlement_chainlink WHERE chain = 'cash' ORDER BY sequence",
    "SELECT id, body, state, reason FROM settlement_instruction ORDER BY number",
    "SELECT allocation_id, interval, owed_mntu, available_mntu, short_mntu, delivered_mntu,"
    " is_suspended FROM settlement_deliveryreport ORDER BY 1, 2",
    "SELECT allocation_id, interval, source, available_mntu, short_mntu, delivered_mntu"
    " FROM settlement_deliveryrevision ORDER BY 1, 2, 3",
    "SELECT grade, starts_at, granted_at, expired_at FROM settlement_deliveryhour ORDER BY 1, 2",
    "SELECT id, inputs_digest, result_digest, posted_digest FROM settlement_settlementrun"
    " ORDER BY id",
    "SELECT run_id, allocation_id, refunded_micros, due_micros FROM settlement_settlementrunline"
    " ORDER BY 1, 2",
    "SELECT organization_id, month_date, body, digest FROM settlement_monthlystatement ORDER BY 1",
    "SELECT symbol, organization_id, interval, mntu, amount_micros"
    " FROM settlement_insurancepayment ORDER BY 1, 2, 3",
    "SELECT chain, sequence, hash FROM settlement_seal WHERE chain = 'cash' ORDER BY 1, 2",
    "SELECT kind, slot, state FROM settlement_job ORDER BY kind, slot",
    "SELECT request_id, sequence, mntu, entitled_mntu, shared_mntu, overrun_mntu, is_final"
    " FROM admission_meteredrequest ORDER BY 1",
    "SELECT cluster, service_class, interval_starts_at, admitted, shed, guaranteed_mntu,"
    " delivered_mntu FROM admission_poolinterval ORDER BY 1, 2, 3",
    "SELECT cluster, slot_at, passed FROM admission_probe ORDER BY 1, 2",
    "SELECT cluster, began_at, ended_at, lots FROM admission_outage ORDER BY 1, 2",
    "SELECT cluster, state, lots FROM admission_certification ORDER BY 1",
    "SELECT id, hash, leaf FROM admission_logleaf ORDER BY id",
    "SELECT at, size, root FROM admission_loghead ORDER BY at",
    "SELECT sequence, state_digest FROM exchange_snapshot ORDER BY 1",
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No doorbells, no gateway to probe through, no search that takes minutes."""
    kinds.load()
    registered = dict(kinds._registry)
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    monkeypatch.setattr(admission, "probe", lambda cluster: (cluster != DARK, ""))
    monkeypatch.setattr("admission.tasks.CERTIFY_WAIT_S", 0.05)
    monkeypatch.setitem(exchange_tasks.write_snapshot.__kwdefaults__, "after_commands", 1)
    yield
    kinds._registry.clear()
    kinds._registry.update(registered)


@contextmanager
def traded(valkey: valkey_client.Valkey, clock: Any) -> Iterator[Market]:
    """An exchange on which an hour, a cap and cover were traded and nothing was delivered."""
    call_command("flush", interactive=False, verbosity=0)
    valkey.flushall()
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-29T12:30Z")
    define_grade()
    make_catalog()
    make_cluster(CLUSTER, lots=80)
    make_cluster(DARK, lots=30)
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
    market.certify(SELLER, CLUSTER, 80)
    market.certify(SELLER, DARK, 30)
    for number, (symbol, price) in enumerate(((CAP, 60), (COVER, 37))):
        market.execute(sell(OTHER, price, 2, f"s{number}", instrument=symbol))
        market.execute(buy(BUYER, price, 2, f"b{number}", instrument=symbol))
    for moment in ("2026-12-31T23:30Z", "2027-01-01T12:30Z"):  # no insured hour goes unseen
        clock.set(moment)
        drain(market, Counter(), is_killed=False)
    market.execute(sell(SELLER, 1_250, 100, "hs", instrument=HOUR))
    market.execute(buy(BUYER, 1_250, 100, "hb", instrument=HOUR))
    assert market.machine.position(BUYER, HOUR).net_lots == 100
    yield market
    market.close()


def use(*numbers: int) -> None:
    """Write requests of the hour as gateways would, one in an interval; every fourth is missed."""
    rows, events = [], []
    for number in numbers:
        name = str(uuid.UUID(int=number + 1, version=4))
        at = STARTS_AT + number * contract.INTERVAL + contract.MICROS_PER_SECOND
        served = "P3" if number == 5 else "P2"
        rows.append(
            metering.RequestRow(
                id=name, organization_id=BUYER, key="k", grade=GRADE, cluster=CLUSTER,
                class_requested=served, class_served=served, outcome="ADMITTED", reason="",
                charge_mntu=9_000_000, body_digest=f"{number:032x}", is_probe=False, arrived_at=at,
                queue_ms=number, gateway="g",
            )
        )  # fmt: skip
        events += [
            metering.UsageRow(
                request_id=name, sequence=sequence, prompt_tokens=1_000, cached_tokens=0,
                output_tokens=500 * sequence, reasoning_tokens=0,
                mntu=1_000_000 + 2_000_000 * sequence,
                state="OPEN" if sequence == 1 else "FAILED" if number % 4 == 3 else "COMPLETED",
                is_estimated=False, is_bounded=False, first_token_ms=90, per_token_us=20_000,
                at=at + sequence * contract.MICROS_PER_SECOND,
            )
            for sequence in (1, 2)
        ]  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        metering.store(cursor, rows, events)


def watch() -> None:
    """Write that a gateway was there in every interval, and what it saw of the dark cluster."""
    for interval in range(contract.INTERVALS_PER_HOUR):
        at = STARTS_AT + interval * contract.INTERVAL
        admission_models.Heartbeat.objects.create(
            gateway="g", interval_starts_at=market_clock.to_datetime(at)
        )
        admission_models.Probe.objects.create(
            cluster=DARK, slot_at=market_clock.to_datetime(at), passed=False
        )


def live(market: Market, clock: Any, *, is_killed: bool) -> Counter[str]:
    """Live through the moments; return how often each kind was killed."""
    kills: Counter[str] = Counter()
    for number, moment in enumerate(MOMENTS):
        clock.set(moment)
        market.work()
        if number == 0:
            asked = admission.request_certification(cluster_id=DARK)
            admission_models.Certification.objects.filter(pk=asked.pk).update(lots=30, report={})
        elif number == 1:
            market.instruct("override", DEARER)
            watch()
            use(*range(6))
        elif number == 2:
            use(7)
        drain(market, kills, is_killed=is_killed)
    return kills


def drain(market: Market, kills: Counter[str], *, is_killed: bool) -> None:
    """Let engine and workers take turns, kind by kind, until nothing is left to do."""
    polled = {kind.name for kind in kinds.every() if isinstance(kind.schedule, kinds.Repeat)}
    done: set[str] = set()
    for _ in range(ROUNDS_MAX):
        market.work()
        planning.plan(market_clock.now_micros())
        open_jobs = models.Job.objects.filter(
            state__in=("DUE", "RUNNING"), due_at__lte=market_clock.now()
        )
        due = set(open_jobs.values_list("kind", flat=True)) - (done & polled)
        if not due:
            return
        for name in sorted(due):
            spent = 0
            statement = 1
            later = 3 + market_clock.system_micros() // market_clock.DAY % STEP
            is_long = kinds.get(name).handler is None
            while is_killed and spent < KILLS_MAX:
                before = outcome() if is_long else []
                if not killed_at(name, statement):
                    break
                spent += 1
                free()
                # What a long kind has committed is not done again: it is killed from there on.
                has_moved = is_long and outcome() != before
                following = {1: 2, 2: later}.get(statement, statement + STEP)
                statement = 1 if has_moved else following
            kills[name] += spent
            assert not killed_at(name, NEVER)
            free()
            done.add(name)
    pytest.fail(f"work is left: {due}")


def free() -> None:
    """Let jobs that somebody died with, or that wait, be taken now."""
    models.Job.objects.filter(state="RUNNING").update(leased_until=None)
    models.Job.objects.update(not_before=None, attempts=0)


def killed_at(name: str, statement: int) -> bool:
    """Do a kind's due jobs in another process that is killed at its n-th statement of them."""
    connection.close()
    child = os.fork()
    if child == 0:
        try:
            _work_until(name, statement)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _work_until(name: str, statement: int) -> None:
    """Do the work; statements count from where the first of the handlers begins."""
    sent = 0
    is_inside = False
    kind = kinds.get(name)
    side = "handler" if kind.handler is not None else "long_handler"
    work: Any = getattr(kind, side)

    def inside(*arguments: Any) -> None:
        nonlocal is_inside
        is_inside = True
        work(*arguments)

    def count(execute: Any, sql: str, values: Any, many: bool, context: Any) -> Any:
        nonlocal sent
        result = execute(sql, values, many, context)
        sent += is_inside
        if sent >= statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    planning.plan = lambda now: 0  # planned already; of the other kinds this process knows nothing
    kinds._registry.clear()
    kinds.register(dataclasses.replace(kind, **{side: inside}))
    with connection.execute_wrapper(count):
        jobs.work(kind.queue)


def outcome() -> list[list[tuple[Any, ...]]]:
    """Return what stands in the tables, without the ids that PostgreSQL gives out."""
    found = []
    with connection.cursor() as cursor:
        for query in OUTCOME:
            cursor.execute(query)
            found.append([tuple(map(_plain, row)) for row in cursor.fetchall()])
    return found


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def test_every_kind_of_work_killed_anywhere_leaves_the_same_bytes(
    valkey: valkey_client.Valkey, transactional_db: None, clock
) -> None:
    with traded(valkey, clock) as market:
        live(market, clock, is_killed=False)
        expected = outcome()
        assert not [str(finding) for finding in audit.run() if finding.violations]
    with traded(valkey, clock) as market:
        kills = live(market, clock, is_killed=True)
        seen = outcome()
    for query, ours, theirs in zip(OUTCOME, seen, expected, strict=True):
        assert ours == theirs, query
    empty = [query for query, rows in zip(OUTCOME, expected, strict=True) if not rows]
    assert not empty, "the two days leave something everywhere"
    for kind in kinds.every():
        assert kills[kind.name] >= 2, f"{kind.name} is killed at a statement of its own"
