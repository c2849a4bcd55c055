"""Things that happen at once, on a real engine behind its stream (FAULTS C).

Each test lets several clients loose on one engine and then reads what is stored: the journal's
events say in which order things happened, whatever the callers believed.

`BASELOAD_RACE_S=60` lets withdrawals, trades and moves of margin race for as many seconds.
"""

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import valkey as valkey_client
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from exchange import client, commands, events, models, operations
from marketplace import clock as market_clock
from marketplace import contract, errors
from settlement import instructions
from settlement import models as settlement_models
from settlement import operations as settlement
from tests.market import BUYER, GRADE, HOUR, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 60
RACE_S = float(os.environ.get("BASELOAD_RACE_S", "1"))
"""How long withdrawals, trades and moves of margin race at least; FAULTS C26 wants 60 s."""
SAMPLE_S = 0.02
"""How often the balances are looked at meanwhile."""


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    market.open()
    yield market
    market.close()


def at_once(*works: Callable[[client.SyncClient], None]) -> None:
    """Run each in a thread of its own, with a client of its own; raise what one raises."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[client.SyncClient], None]) -> None:
        sender = client.SyncClient(url=settings.VALKEY_URL)
        try:
            start.wait(10)
            work(sender)
        finally:
            sender.close()
            connection.close()

    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(run, work) for work in works]:
            done.result(60 + RACE_S)


def history() -> list[events.Event]:
    """Return every event of the journal, in order."""
    rows = models.JournalBatch.objects.order_by("sequence")
    return [event for row in rows for event in events.decode_batch(bytes(row.events))]


def test_an_amendment_and_a_fill_at_once_never_overfill_nor_trade_beyond_the_limit(
    market: Market,
) -> None:
    """FAULTS C28."""
    with market.running():
        (placed,) = operations.submit([sell(SELLER, 1_250, 10, "amended")])
        number = int(operations.order_of(placed).id)

        def amend(sender: client.SyncClient) -> None:
            for turn in range(ROUNDS):
                lots = 10 + turn if turn % 3 else 5 + turn
                price = 1_250 + turn % 4
                sender.submit_many([commands.AmendOrder(SELLER, number, price, lots)])

        def take(buyer: int) -> Callable[[client.SyncClient], None]:
            def work(sender: client.SyncClient) -> None:
                for turn in range(ROUNDS):
                    name = f"take-{buyer}-{turn}"
                    sender.submit_many([buy(buyer, 1_251, 2, name, time_in_force="IOC")])

            return work

        at_once(amend, take(BUYER), take(OTHER))
    lots, price, filled, fills = 10, 1_250, 0, 0
    for event in history():
        if isinstance(event, events.OrderAmended) and event.order == number:
            lots, price = event.lots, event.price
            assert event.left == lots - filled, "what is filled stays filled"
        elif isinstance(event, events.Traded) and number in (event.maker_order, event.taker_order):
            filled += event.lots
            fills += 1
            assert filled <= lots, "never above the quantity in force"
            assert price <= event.price <= 1_251, "never worse than either limit"
    order = models.Order.objects.get(id=number)
    assert (order.filled_lots, order.lots) == (filled, lots)
    assert fills > 1
    call_command("verify_journal")


def test_orders_that_race_the_gate_trade_before_it_or_not_at_all(market: Market, clock) -> None:
    """FAULTS C29: two wake the calendar while orders keep coming."""
    ends_at = contract.parse_symbol(HOUR).trading_ends_at
    clock.set(ends_at - 40 * market_clock.SECOND)
    is_over = threading.Event()

    def trade(account: int, side: int) -> Callable[[client.SyncClient], None]:
        def work(sender: client.SyncClient) -> None:
            turn = 0
            while not is_over.is_set():
                turn += 1
                name = f"{account}-{turn}"
                order = (buy if side > 0 else sell)(account, 1_250, 1, name)
                (outcome,) = sender.submit_many([order])
                assert not isinstance(outcome, errors.Refusal), outcome

        return work

    def wake(sender: client.SyncClient) -> None:
        while not is_over.is_set():
            sender.submit_many([commands.Tick()])

    def let_time_pass(sender: client.SyncClient) -> None:
        for _ in range(80):
            clock.advance(seconds=1)
            sender.submit_many([commands.Tick()])
        is_over.set()

    with market.running():
        at_once(trade(BUYER, 1), trade(SELLER, -1), wake, wake, let_time_pass)
    happened = history()
    trades = [e.at for e in happened if isinstance(e, events.Traded) and e.instrument == HOUR]
    gates = [e for e in happened if isinstance(e, events.GateClosed) and e.instrument == HOUR]
    late = [
        event
        for event in happened
        if isinstance(event, events.OrderRejected) and event.reason == "closed"
    ]
    assert len(gates) == 1
    assert trades
    assert max(trades) < ends_at
    assert late
    assert min(event.at for event in late) >= ends_at
    position = happened.index(gates[0])
    assert not [
        event
        for event in happened[position:]
        if isinstance(event, events.Traded) and event.instrument == HOUR
    ]
    call_command("verify_journal")


def _turns(until: float, rounds: int) -> Iterator[int]:
    """Count to `rounds`, and on until the time is up."""
    for turn in itertools.count():
        if turn >= rounds and time.monotonic() >= until:
            return
        yield turn


def test_withdrawals_trades_and_lost_coverage_at_once_never_overdraw(market: Market) -> None:
    """FAULTS C26."""
    is_over = threading.Event()
    overdrawn: list[tuple[int, int]] = []
    samples: list[int] = []
    until = time.monotonic() + RACE_S

    turns = functools.partial(_turns, until)

    def withdraw(sender: client.SyncClient) -> None:
        for turn in turns(ROUNDS):
            if turn >= ROUNDS:  # The money is gone: some of it comes back, and is fought over.
                settlement.instruct(
                    id=f"refill:{turn}",
                    command=instructions.Deposit(account=BUYER, amount_micros=10_000_000),
                )
            settlement.instruct(
                id=f"race:{turn}",
                command=instructions.Withdraw(account=BUYER, amount_micros=20_000_000 + turn),
            )

    def trade(sender: client.SyncClient) -> None:
        for turn in turns(ROUNDS):
            sender.submit_many(
                [
                    sell(SELLER, 1_250, 40, f"s{turn}"),
                    buy(BUYER, 1_250, 40, f"b{turn}"),
                    buy(BUYER, 1_240, 40, f"r{turn}"),
                ]
            )

    def lose_coverage(sender: client.SyncClient) -> None:
        for turn in turns(ROUNDS // 2):
            settlement.instruct(
                id=f"certify:race:{turn}",
                command=instructions.Certify(
                    cluster=7,
                    account=SELLER,
                    grade=GRADE,
                    lots=200 + 800 * (turn % 2),
                    valid_until=market_clock.now_micros() + contract.DAY,
                ),
            )
            sender.submit_many([commands.CancelOrders(BUYER)])

    def watch(sender: client.SyncClient) -> None:
        while not is_over.is_set():
            row = settlement_models.MarginAccount.objects.get(organization_id=BUYER)
            if row.cash_micros < 0 or row.available_micros < 0:
                overdrawn.append((row.cash_micros, row.available_micros))
            samples.append(row.available_micros)
            is_over.wait(SAMPLE_S)

    def act(sender: client.SyncClient) -> None:
        try:
            at_once(withdraw, trade, lose_coverage)
        finally:
            is_over.set()

    with market.running():
        at_once(act, watch)
    market.work()
    assert not overdrawn
    assert len(samples) >= RACE_S / 0.1, "looked at least every 100 ms"
    refused = settlement_models.Instruction.objects.filter(reason="insufficient_funds").count()
    rejected = models.Order.objects.filter(reason="insufficient_funds").count()
    assert refused + rejected > 0, "the money ran out, which is the point"
    market.machine.check()
    call_command("verify_journal")
    call_command("audit_ledger")


def test_what_was_answered_is_read_at_once(market: Market) -> None:
    """FAULTS C34: a read that starts after the answer sees the effect."""
    with market.running():
        sender = client.SyncClient(url=settings.VALKEY_URL)
        for turn in range(ROUNDS):
            (reply,) = sender.submit_many([buy(BUYER, 1_240, 1, f"b{turn}")])
            told = operations.order_of(reply)
            row = models.Order.objects.get(id=int(told.id))
            assert (row.status, row.client_order_id) == ("OPEN", f"b{turn}")
            margin = settlement_models.MarginAccount.objects.get(organization_id=BUYER)
            assert margin.order_margin_micros >= (turn + 1) * 1_240 * 60
        sender.close()
