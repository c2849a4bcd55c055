"""The engine as a process: killed, stopped, replaced, with nothing lost or done twice."""

import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import valkey as valkey_client
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from exchange import client, loop, models, operations
from marketplace import clock as market_clock
from marketplace import contract, errors
from settlement import doorbell
from settlement import models as settlement_models
from tests.market import BUYER, GRADE, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 20
ROUNDS = 5
ATTEMPTS_MAX = 2_000
TAKEOVER_S = 3.0
"""What a hot standby has, from the kill to the first order acknowledged."""


class Processes:
    """Engines as processes of their own, on the test's database."""

    def __init__(self, valkey: valkey_client.Valkey) -> None:
        self.valkey = valkey
        self.started: list[subprocess.Popen] = []

    def start(self, **environment: str) -> subprocess.Popen:
        parts = urlsplit(os.environ["DATABASE_URL"])
        name = connection.settings_dict["NAME"]
        process = subprocess.Popen(
            [sys.executable, "manage.py", "engine"],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": urlunsplit(parts._replace(path="/" + name)),
                "DATABASE_ROLE": "baseload_app",
                **environment,
            },
        )
        self.started.append(process)
        return process

    def wait_for_epoch(self, epoch: int) -> None:
        """Wait until an engine serves an epoch at least as late."""
        until(lambda: int(self.valkey.get(doorbell.engine_key()) or 0) >= epoch)

    def wait_for_standby(self) -> None:
        """Wait until an engine waits for the lock of another."""

        def waits() -> bool:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = %s)",
                    [connection.settings_dict["NAME"]],
                )
                return cursor.fetchone()[0] > 0

        until(waits)

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def until(is_true) -> None:
    """Wait for something that another process does."""
    pause = threading.Event()
    deadline = market_clock.monotonic_ns() + WAIT_S * 10**9
    while not is_true():
        assert market_clock.monotonic_ns() < deadline, "it did not happen in time"
        pause.wait(0.02)


@pytest.fixture
def processes(valkey: valkey_client.Valkey, transactional_db: None) -> Iterator[Processes]:
    market = Market(valkey)
    market.take_over()
    market.open()
    market.loop.close()
    market.close()
    processes = Processes(valkey)
    yield processes
    processes.stop()


@pytest.fixture
def hour() -> str:
    """An hour that trades now."""
    starts_at = contract.hour_start(market_clock.now_micros()) + 2 * contract.HOUR
    return contract.hour_contract(GRADE, starts_at).symbol


@pytest.fixture
def sender() -> Iterator[client.SyncClient]:
    sender = client.SyncClient(url=settings.VALKEY_URL, reply_timeout_s=1.0)
    yield sender
    sender.close()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_a_kill_around_the_commit_loses_nothing_and_doubles_nothing(
    processes: Processes, sender: client.SyncClient, hour: str, point: str
) -> None:
    killed = processes.start(BASELOAD_FAILPOINT=point)
    processes.wait_for_epoch(2)
    (first,) = sender.submit_many([sell(SELLER, 1_250, 5, "s1", instrument=hour)])
    assert killed.wait(WAIT_S) == -signal.SIGKILL
    processes.start()
    processes.wait_for_epoch(3)
    (again,) = sender.submit_many([sell(SELLER, 1_250, 5, "s1", instrument=hour)])
    order = operations.order_of(again)
    if point == "after_commit":
        # The reply was lost with the engine; what was committed is the answer, then and now.
        assert operations.order_of(first) == order
        assert again.result == "replayed"
    else:
        assert isinstance(first, errors.OutcomeUnknown | client.NeverPlaced)
        assert again.result == "applied"
    assert models.Order.objects.count() == 1
    assert (order.status, order.remaining_quantity) == ("open", 5)
    call_command("verify_journal")


def test_a_standby_takes_over_when_the_engine_is_killed(
    processes: Processes, sender: client.SyncClient, hour: str
) -> None:
    first = processes.start()
    processes.wait_for_epoch(2)
    processes.start()
    (placed,) = sender.submit_many([sell(SELLER, 1_250, 5, "s1", instrument=hour)])
    first.kill()
    processes.wait_for_epoch(3)
    (again, bought) = sender.submit_many(
        [
            sell(SELLER, 1_250, 5, "s1", instrument=hour),
            buy(BUYER, 1_250, 5, "b1", instrument=hour),
        ]
    )
    assert operations.order_of(again) == operations.order_of(placed)
    assert operations.order_of(bought).status == "filled"


def test_a_hot_standby_answers_within_three_seconds_of_a_kill(
    processes: Processes, sender: client.SyncClient, hour: str
) -> None:
    serving = processes.start()
    processes.wait_for_epoch(2)
    waited_s = []
    for round_ in range(ROUNDS):
        standby = processes.start()
        processes.wait_for_standby()
        serving.kill()
        killed_at = market_clock.monotonic_ns()
        attempt = 0
        while True:
            order = sell(SELLER, 1_250, 1, f"s{round_}-{attempt}", instrument=hour)
            (outcome,) = sender.submit_many([order])
            attempt += 1
            if not isinstance(outcome, errors.Refusal):
                break
            assert attempt < ATTEMPTS_MAX, outcome
            threading.Event().wait(0.01)
        waited_s.append((market_clock.monotonic_ns() - killed_at) / 1e9)
        serving = standby
    print(f"from the kill to the first order acknowledged: {sorted(waited_s)} s")
    assert statistics.median(waited_s) <= TAKEOVER_S
    assert models.Order.objects.count() == ROUNDS
    call_command("verify_journal")


def _journal() -> list[tuple[int, int, bytes]]:
    rows = models.JournalBatch.objects.order_by("sequence")
    return [(row.sequence, row.epoch, bytes(row.hash)) for row in rows]


def test_an_engine_that_takes_long_to_recover_is_left_to_it(
    processes: Processes, valkey: valkey_client.Valkey, monkeypatch
) -> None:
    market = Market(valkey)
    standby = Market(valkey)
    valkey.delete(doorbell.engine_key())
    heard: list[bool] = []
    take_over = market.engine.take_over

    def replay_a_long_journal() -> None:
        for _ in range(4):
            threading.Event().wait(loop.LIVENESS_MS / 2_000)
            heard.append(standby.loop._is_holder_heard())
        take_over()

    assert not standby.loop._is_holder_heard()
    monkeypatch.setattr(market.engine, "take_over", replay_a_long_journal)
    market.take_over()
    assert heard == [True] * 4
    assert standby.loop._is_holder_heard()
    market.close()
    standby.close()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_an_engine_that_was_stopped_around_its_commit_writes_nothing_after_a_takeover(
    processes: Processes, sender: client.SyncClient, hour: str, point: str
) -> None:
    stopped = processes.start(BASELOAD_FAILPOINT=point, BASELOAD_FAILSIGNAL="SIGSTOP")
    processes.wait_for_epoch(2)
    processes.start()
    processes.wait_for_standby()
    with ThreadPoolExecutor(1) as threads:
        # It is read by the engine that stops, and nobody hears of it before the takeover.
        order = sell(SELLER, 1_250, 5, "s1", instrument=hour)
        sent = threads.submit(sender.submit_many, [order])
        processes.wait_for_epoch(3)
        (outcome,) = sent.result(WAIT_S)
    is_placed = point == "after_commit"
    assert models.Order.objects.filter(client_order_id="s1").exists() == is_placed
    assert isinstance(outcome, errors.Refusal) != is_placed
    (bought,) = sender.submit_many([buy(BUYER, 1_240, 5, "b1", instrument=hour)])
    assert operations.order_of(bought).status == "open"
    journal = _journal()
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(WAIT_S) not in (0, -signal.SIGKILL)
    written = _journal()
    assert written[: len(journal)] == journal
    assert {epoch for _, epoch, _ in written[len(journal) :]} <= {3}
    assert models.Order.objects.filter(client_order_id="s1").exists() == is_placed
    assert int(processes.valkey.get(doorbell.engine_key())) == 3
    call_command("verify_journal")


def test_a_stopped_engine_is_replaced_and_cannot_write_when_it_wakes(
    processes: Processes, sender: client.SyncClient, hour: str
) -> None:
    stopped = processes.start()
    processes.wait_for_epoch(2)
    processes.start()
    stopped.send_signal(signal.SIGSTOP)
    processes.wait_for_epoch(3)
    (placed,) = sender.submit_many([sell(SELLER, 1_250, 5, "s1", instrument=hour)])
    assert operations.order_of(placed).status == "open"
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(WAIT_S) != 0
    assert models.Head.objects.get().epoch == 3
    assert int(processes.valkey.get(doorbell.engine_key())) == 3
    (bought,) = sender.submit_many([buy(BUYER, 1_250, 5, "b1", instrument=hour)])
    assert operations.order_of(bought).status == "filled"
    positions = settlement_models.Position.objects.values_list("net_lots", flat=True)
    assert sorted(positions) == [-5, 5]
    call_command("verify_journal")


def test_an_engine_stops_when_it_is_asked_to_and_is_known_to_be_gone(
    processes: Processes, sender: client.SyncClient, hour: str
) -> None:
    process = processes.start()
    processes.wait_for_epoch(2)
    process.terminate()
    assert process.wait(WAIT_S) == 0
    (refused,) = sender.submit_many([sell(SELLER, 1_250, 5, "s1", instrument=hour)])
    assert isinstance(refused, client.EngineDown)
    processes.start()
    processes.wait_for_epoch(3)
    assert operations.tick() > 0
    assert not models.Order.objects.exists()
