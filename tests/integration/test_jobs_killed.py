"""Every short kind of an hour's work, killed after each of its statements and begun again.

The work is done in a process that is forked for it and killed by SIGKILL, so that nothing of
Python's own tidying up takes part. What stands in the tables afterwards is compared, to the last
byte, with what an uninterrupted run leaves (FAULTS J100, K112).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import valkey as valkey_client
from django.core.management import call_command
from django.db import connection

from marketplace import clock as market_clock
from settlement import jobs, kinds, models, queries
from tests import settling
from tests.market import BUYER, SELLER, Market, buy, sell

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

STATEMENTS_MAX = 200
"""More than any of these kinds sends."""
OUTCOME = (  # accounts of capacity are named by owner and unit: their ids have gaps
    "SELECT t.chain, t.sequence, d.owner, d.kind, d.unit, c.owner, c.kind, c.unit, t.amount,"
    " t.code, t.cause, t.at FROM settlement_transfer t"
    " JOIN settlement_account d ON d.id = t.debit_account"
    " JOIN settlement_account c ON c.id = t.credit_account ORDER BY t.chain, t.sequence",
    "SELECT id, body, state, reason FROM settlement_instruction ORDER BY number",
    "SELECT allocation_id, interval, available_mntu, short_mntu, delivered_mntu"
    " FROM settlement_deliveryreport ORDER BY allocation_id, interval",
    "SELECT grade, starts_at, granted_at IS NULL, expired_at IS NULL"
    " FROM settlement_deliveryhour ORDER BY grade, starts_at",
    "SELECT sequence, hash FROM settlement_chainlink WHERE chain = 'cash' ORDER BY sequence",
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settlement's own kinds, and no doorbell."""
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    with settling.only_settlements_kinds():
        yield


@contextmanager
def traded(valkey: valkey_client.Valkey, clock: Any) -> Iterator[Market]:
    """An empty exchange on which an hour was traded and not yet delivered."""
    call_command("flush", interactive=False, verbosity=0)
    valkey.flushall()
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-01T12:30Z")
    market.open()
    market.execute(sell(SELLER, settling.PRICE, 100, "s1"))
    market.execute(buy(BUYER, settling.PRICE, settling.LOTS, "b1"))
    yield market
    market.close()


def killed_at(statement: int) -> bool:
    """Work in another process that is killed at its n-th statement; return whether it was."""
    connection.close()
    child = os.fork()
    if child == 0:
        try:
            _work_until(statement)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _work_until(statement: int) -> None:
    sent = 0

    def count(execute: Any, sql: str, values: Any, many: bool, context: Any) -> Any:
        nonlocal sent
        result = execute(sql, values, many, context)
        sent += 1
        if sent >= statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with connection.execute_wrapper(count):
        jobs.work(kinds.URGENT)


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


def deliver(market: Market, clock: Any, *, is_killed: bool) -> int:
    """Deliver the hour in three steps; return how often a worker was killed on the way."""
    kills = 0
    for moment in ("2026-12-01T13:56Z", "2026-12-01T14:06:30Z", "2026-12-01T15:02Z"):
        clock.set(moment)
        market.work()
        statement = 1
        while is_killed and statement < STATEMENTS_MAX and killed_at(statement):
            kills += 1
            statement += 1
            models.Job.objects.update(leased_until=None, attempts=0)
        settling.settle_all(market)
    assert queries.work_due_by(market_clock.to_datetime(clock.at)) == 0
    return kills


def test_workers_killed_at_every_step_of_an_hour_leave_the_same_bytes(
    valkey: valkey_client.Valkey, transactional_db, clock
) -> None:
    with traded(valkey, clock) as market:
        deliver(market, clock, is_killed=False)
        expected = outcome()
    with traded(valkey, clock) as market:
        kills = deliver(market, clock, is_killed=True)
        seen = outcome()
    assert all(expected)
    assert seen == expected
    assert kills > 60
