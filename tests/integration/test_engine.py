"""The engine on PostgreSQL: what a batch writes, what it answers twice, and what it survives."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import valkey as valkey_client
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection

from exchange import (
    commands,
    envelope,
    events,
    feed,
    loop,
    models,
    passing,
    queries,
    recovery,
    store,
    tasks,
)
from exchange.machine import Machine
from marketplace import contract
from marketplace.models import Instrument
from settlement import channels, instructions, ledger
from settlement import models as settlement_models
from settlement import operations as settlement
from tests.market import BUYER, HOUR, OTHER, SELLER, Market, buy, sell

EVENING = "LLAMA70B.H.20261201T20Z"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    market.open()
    yield market
    market.close()


def test_a_trade_is_written_with_everything_that_follows_from_it(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"))
    ((placed, *rest),) = market.execute(buy(BUYER, 1_260, 40, "b1"))
    assert isinstance(placed, events.OrderPlaced)
    assert [type(event) for event in rest] == [events.Traded, events.OrderClosed]

    trade = models.Trade.objects.get()
    assert (trade.symbol, trade.price_ticks, trade.lots) == (HOUR, 1_250, 40)
    assert (trade.maker, trade.taker, trade.taker_side) == (SELLER, BUYER, 1)
    orders = {row.client_order_id: row for row in models.Order.objects.all()}
    assert (orders["s1"].status, orders["s1"].filled_lots) == ("PARTIALLY_FILLED", 40)
    assert (orders["b1"].status, orders["b1"].filled_lots) == ("FILLED", 40)
    positions = settlement_models.Position.objects.order_by("organization_id")
    assert [(row.organization_id, row.net_lots) for row in positions] == [
        (BUYER, 40),
        (SELLER, -40),
    ]
    fees = settlement_models.Account.objects.get(
        id=ledger.cash_account(ledger.EXCHANGE, ledger.Kind.FEES)
    )
    assert fees.credits == trade.maker_fee_micros + trade.taker_fee_micros > 0
    book = queries.book(symbol=HOUR)
    assert book is not None
    assert (book.bids, book.asks) == ([], [("1.250", 60)])


def test_the_journal_replays_to_the_same_state_and_the_same_hash(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"), buy(BUYER, 1_260, 40, "b1"))
    market.execute(buy(OTHER, 1_240, 7, "o1"))
    recovered = recovery.rebuild(
        market.connection, "main", up_to=market.engine.head.sequence, from_genesis=True
    )
    assert recovered.hash == market.engine.head.hash
    assert recovered.machine.snapshot() == market.machine.snapshot()
    call_command("verify_journal")


def test_a_changed_byte_in_the_journal_stops_the_replay_at_its_batch(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"))
    sequence = market.engine.head.sequence
    market.execute(buy(BUYER, 1_260, 40, "b1"))
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(
            "UPDATE exchange_journalbatch SET events = set_byte(events, 9, get_byte(events, 9) # 1)"
            " WHERE sequence = %s",
            [sequence],
        )
        cursor.execute("SET session_replication_role = origin")
    with pytest.raises(recovery.Diverged) as caught:
        recovery.rebuild(market.connection, "main", up_to=sequence + 1, from_genesis=True)
    assert caught.value.sequence == sequence
    with pytest.raises(CommandError):
        call_command("verify_journal")


def test_the_journal_and_the_trades_are_append_only(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"), buy(BUYER, 1_260, 40, "b1"))
    for statement in (
        "UPDATE exchange_journalbatch SET at = at",
        "DELETE FROM exchange_journalbatch",
        "TRUNCATE exchange_journalbatch",
        "UPDATE exchange_trade SET lots = 1",
        "DELETE FROM exchange_trade",
    ):
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute(statement)


def test_recovery_starts_at_the_newest_snapshot(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"))
    assert tasks.write_snapshot(after_commands=10_000) is None
    sequence = tasks.write_snapshot(after_commands=1)
    market.execute(buy(BUYER, 1_260, 40, "b1"))
    recovered = recovery.rebuild(market.connection, "main", up_to=market.engine.head.sequence)
    assert (recovered.started_from, recovered.commands) == (sequence, 1)
    assert recovered.machine.digest() == market.machine.digest()
    for number in range(5):
        market.execute(buy(OTHER, 1_240, 1, f"o{number}"))
        tasks.write_snapshot(after_commands=1)
    assert models.Snapshot.objects.count() == store.SNAPSHOTS_KEPT


def test_a_snapshot_that_is_not_the_state_it_names_is_refused(market: Market) -> None:
    tasks.write_snapshot(after_commands=1)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE exchange_snapshot SET state_digest = %s", [bytes(32)])
        cursor.execute("SET session_replication_role = origin")
    with pytest.raises(recovery.Diverged):
        recovery.rebuild(market.connection, "main", up_to=market.engine.head.sequence)


def test_a_client_order_id_is_remembered_for_ever_and_across_a_restart(market: Market) -> None:
    (first,) = market.execute(sell(SELLER, 1_250, 100, "s1"))
    market.execute(buy(BUYER, 1_250, 100, "b1"))
    market.close()
    successor = Market(market.client)
    successor.take_over()
    (again,) = successor.execute(sell(SELLER, 1_250, 100, "s1"))
    assert again == first
    (answer,) = successor.engine.run_batch([passing.Incoming(sell(SELLER, 1_250, 99, "s1"))])
    assert answer.result == envelope.KEY_REUSE
    assert models.Order.objects.count() == 2
    assert successor.engine.head.sequence == market.engine.head.sequence
    successor.close()


def test_one_id_twice_in_a_batch_is_one_order(market: Market) -> None:
    answers = market.engine.run_batch(
        [
            passing.Incoming(sell(SELLER, 1_250, 5, "s1"), "", 1),
            passing.Incoming(sell(SELLER, 1_250, 5, "s1"), "", 2),
            passing.Incoming(sell(SELLER, 1_250, 6, "s1"), "", 3),
        ]
    )
    assert [(answer.incoming.correlation, answer.result) for answer in answers] == [
        (1, envelope.APPLIED),
        (2, envelope.REPLAYED),
        (3, envelope.KEY_REUSE),
    ]
    assert answers[1].happened == answers[0].happened != []
    assert models.Order.objects.get().lots == 5


def test_a_rejected_order_stays_rejected_when_its_reason_is_gone(market: Market) -> None:
    poor = 909
    market.instruct("open:poor", instructions.OpenAccount(account=poor, group=poor))
    (first,) = market.execute(buy(poor, 1_250, 5, "p1"))
    assert first[0].reason == "insufficient_funds"
    market.instruct("rich", instructions.Deposit(account=poor, amount_micros=10**9))
    (again,) = market.execute(buy(poor, 1_250, 5, "p1"))
    assert again == first
    (fresh,) = market.execute(buy(poor, 1_250, 5, "p2"))
    assert isinstance(fresh[0], events.OrderPlaced)


def test_an_engine_that_was_replaced_cannot_write(market: Market) -> None:
    stale = market
    head = stale.engine.head
    store.raise_epoch(stale.connection, "main")
    with pytest.raises(store.Fenced):
        stale.execute(sell(SELLER, 1_250, 5, "s1"))
    assert not models.Order.objects.exists()
    assert models.Head.objects.get().sequence == head.sequence


def test_a_batch_that_broke_an_assertion_is_done_one_by_one_and_the_culprit_set_aside(
    market: Market, valkey: valkey_client.Valkey
) -> None:
    class Poisoned(Machine):
        __slots__ = ()

        def apply(self, command, sequence, at):
            happened = super().apply(command, sequence, at)
            assert getattr(command, "client_order_id", "") != "bad", "nobody expects this"
            return happened

    market.close()
    poisoned = Market(valkey, machine_type=Poisoned)
    poisoned.take_over()
    answers = poisoned.engine.run_batch(
        [
            passing.Incoming(sell(SELLER, 1_250, 5, "good"), "", 1),
            passing.Incoming(sell(SELLER, 1_251, 5, "bad"), "", 2),
            passing.Incoming(buy(BUYER, 1_240, 5, "after", instrument=EVENING), "", 3),
            passing.Incoming(buy(BUYER, 1_240, 5, "halted"), "", 4),
        ]
    )
    assert [answer.result for answer in answers] == [
        envelope.APPLIED,
        envelope.INTERNAL_ERROR,
        envelope.APPLIED,
        envelope.APPLIED,
    ]
    assert models.Order.objects.get(client_order_id="after").status == "OPEN"
    halted = models.Order.objects.get(client_order_id="halted")
    assert (halted.status, halted.reason) == ("REJECTED", "halted")
    assert Instrument.objects.get(symbol=HOUR).state == "HALTED"
    assert not models.Order.objects.filter(client_order_id="bad").exists()
    poisoned.close()
    # The journal replays with a machine that knows nothing of it.
    call_command("verify_journal")


def test_an_entry_of_the_calendar_that_breaks_is_set_aside_and_halts_its_instrument(
    market: Market, clock, monkeypatch
) -> None:
    from exchange.machine import delivery

    end_trading = delivery.end_trading

    def broken(state, instrument):
        end_trading(state, instrument)
        assert instrument.symbol != HOUR, "this hour cannot end"

    monkeypatch.setattr(delivery, "end_trading", broken)
    clock.set("2026-12-01T14:56:00Z")  # past the gate of HOUR and of the one after it
    answers = market.engine.run_batch(
        [passing.Incoming(buy(BUYER, 1_250, 5, "late", instrument=EVENING), "", 1)]
    )

    assert [answer.result for answer in answers] == [envelope.APPLIED]
    assert models.Order.objects.get(client_order_id="late").status == "OPEN"
    assert Instrument.objects.get(symbol=HOUR).state == "HALTED"
    after = Instrument.objects.get(symbol="LLAMA70B.H.20261201T15Z")
    assert after.state in ("CLOSED", "SETTLED")
    market.machine.check()
    # The journal says so itself: a replay needs nothing of what broke.
    monkeypatch.undo()
    call_command("verify_journal")


def test_entries_of_the_calendar_that_break_before_one_command_are_all_set_aside(
    market: Market, clock, monkeypatch
) -> None:
    from exchange.machine import delivery

    def broken(state, instrument):
        raise AssertionError("no hour can end")

    monkeypatch.setattr(delivery, "end_trading", broken)
    clock.set("2026-12-01T14:56:00Z")  # past the gates of six hours
    answers = market.engine.run_batch(
        [passing.Incoming(buy(BUYER, 1_250, 5, "late", instrument=EVENING), "", 1)]
    )

    assert [answer.result for answer in answers] == [envelope.APPLIED]
    halted = [f"LLAMA70B.H.20261201T{hour}Z" for hour in range(10, 16)]
    found = Instrument.objects.filter(state="HALTED").order_by("id")
    assert [row.symbol for row in found] == halted
    monkeypatch.undo()
    call_command("verify_journal")


def test_an_entry_that_breaks_when_it_is_entered_and_due_in_one_leap_is_set_aside(
    market: Market, clock, monkeypatch
) -> None:
    from exchange.machine import marks

    mark_all = marks.mark_all
    broken_at = contract.parse_symbol("LLAMA70B.H.20261201T15Z").starts_at

    def broken(state):
        assert state.at != broken_at, "no mark at this hour"
        mark_all(state)

    monkeypatch.setattr(marks, "mark_all", broken)
    clock.set("2026-12-01T16:30:00Z")  # the mark before it enters it
    answers = market.engine.run_batch(
        [passing.Incoming(buy(BUYER, 1_250, 5, "late", instrument=EVENING), "", 1)]
    )

    assert [answer.result for answer in answers] == [envelope.APPLIED]
    market.machine.check()
    monkeypatch.undo()
    call_command("verify_journal")


@contextmanager
def law(table: str, rule: str) -> Iterator[None]:
    """One more constraint, for rows to come, that nothing in the machine knows of."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT planted CHECK ({rule}) NOT VALID")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT planted")


def quarantined() -> list[commands.Quarantine]:
    """Return what the journal has set aside."""
    rows = models.JournalBatch.objects.order_by("sequence")
    items = [one for row in rows for one in commands.decode_batch(bytes(row.commands))]
    return [one.command for one in items if isinstance(one.command, commands.Quarantine)]


def test_an_entry_whose_rows_break_the_databases_law_is_set_aside_and_the_rest_goes_on(
    market: Market, clock
) -> None:
    clock.set("2026-12-01T14:56:00Z")  # past the gates of six hours
    with law("settlement_indexvalue", "hour_starts_at <> '2026-12-01T14:00Z'"):
        answers = market.engine.run_batch(
            [
                passing.Incoming(buy(BUYER, 1_250, 5, "late", instrument=EVENING), "", 1),
                passing.Incoming(buy(BUYER, 1_250, 5, "next", instrument=EVENING), "", 2),
            ]
        )
        market.execute(commands.Tick())

    assert [answer.result for answer in answers] == [envelope.APPLIED] * 2
    assert models.Order.objects.filter(status="OPEN").count() == 2
    (aside,) = quarantined()
    assert (aside.instrument, aside.command) == (HOUR, b"")
    assert aside.assertion.startswith("CheckViolation: ")
    assert Instrument.objects.get(symbol=HOUR).state == "HALTED"
    hours = settlement_models.IndexValue.objects.values_list("hour_starts_at__hour", flat=True)
    assert sorted(hours) == [10, 11, 12, 13, 15]
    market.machine.check()
    call_command("verify_journal")


def test_a_command_whose_rows_break_the_databases_law_is_set_aside_and_the_calendar_is_not(
    market: Market, clock
) -> None:
    clock.set("2026-12-01T14:56:00Z")
    with law("exchange_order", "client_order_id <> 'bad'"):
        answers = market.engine.run_batch(
            [
                passing.Incoming(buy(BUYER, 1_250, 5, "bad", instrument=EVENING), "", 1),
                passing.Incoming(buy(BUYER, 1_250, 5, "good", instrument=EVENING), "", 2),
            ]
        )

    assert [answer.result for answer in answers] == [envelope.INTERNAL_ERROR, envelope.APPLIED]
    (aside,) = quarantined()
    assert (aside.instrument, aside.entry) == (EVENING, None)
    good = models.Order.objects.get()
    assert (good.client_order_id, good.status, good.reason) == ("good", "REJECTED", "halted")
    assert settlement_models.IndexValue.objects.count() == 6
    assert Instrument.objects.get(symbol=HOUR).state != "HALTED"
    call_command("verify_journal")


def test_an_instruction_that_broke_an_assertion_is_refused(market: Market, monkeypatch) -> None:
    from exchange.machine import instructions as carried

    deposit = carried._deposit

    def broken(state, order, cause):
        assert cause != "d1", "this deposit is not possible"
        return deposit(state, order, cause)

    monkeypatch.setattr(carried, "_deposit", broken)
    market.instruct("d1", instructions.Deposit(account=BUYER, amount_micros=5))
    row = settlement_models.Instruction.objects.get(id="d1")
    assert (row.state, row.reason) == ("REFUSED", "internal_error")
    market.instruct("d2", instructions.Deposit(account=BUYER, amount_micros=5))
    assert settlement_models.Instruction.objects.get(id="d2").state == "APPLIED"


def test_instructions_are_taken_by_state_in_order_of_arrival(market: Market) -> None:
    settlement.instruct(id="w1", command=instructions.Withdraw(account=BUYER, amount_micros=10**9))
    settlement.instruct(id="w2", command=instructions.Withdraw(account=BUYER, amount_micros=1))
    market.work()
    rows = settlement_models.Instruction.objects.filter(id__in=("w1", "w2")).order_by("number")
    assert [(row.state, row.reason) for row in rows] == [
        ("APPLIED", ""),
        ("REFUSED", "insufficient_funds"),
    ]
    assert rows[0].sequence + 1 == rows[1].sequence


def test_clocks_that_are_apart_stop_the_engine_until_they_agree(
    market: Market, monkeypatch
) -> None:
    true = store.database_clock
    monkeypatch.setattr(store, "database_clock", lambda c: true(c) + 2_000_000)
    assert not market.engine.check_clock()
    before = market.engine.head.sequence
    (answer,) = market.engine.run_batch([passing.Incoming(sell(SELLER, 1_250, 5, "s1"))])
    assert answer.result == envelope.CLOCK_SKEW
    settlement.instruct(id="d", command=instructions.Deposit(account=BUYER, amount_micros=5))
    market.work()
    assert market.engine.head.sequence == before
    monkeypatch.setattr(store, "database_clock", true)
    assert market.engine.check_clock()
    market.work()
    assert settlement_models.Instruction.objects.get(id="d").state == "APPLIED"


def test_a_clock_that_jumps_back_stamps_nothing_out_of_order_and_does_nothing_twice(
    market: Market, clock
) -> None:
    clock.set("2026-12-01T10:00Z")
    market.work()
    before = market.machine.at
    clock.set("2026-12-01T09:50Z")
    market.execute(sell(SELLER, 1_250, 5, "early"))
    market.work()
    assert market.machine.at >= before
    instants = models.JournalBatch.objects.order_by("sequence").values_list("at", flat=True)
    assert list(instants) == sorted(instants)
    symbols = list(Instrument.objects.order_by("id").values_list("symbol", flat=True))
    clock.set("2026-12-01T10:00Z")
    market.work()
    again = list(Instrument.objects.order_by("id").values_list("symbol", flat=True))
    assert again == symbols


def test_a_lost_stream_begins_a_new_epoch(market: Market, valkey: valkey_client.Valkey) -> None:
    valkey.flushall()
    market.loop._beat_at = 0
    with pytest.raises(loop.StreamLost):
        market.loop.step(wait_ms=1)
    market.loop._take_over()
    assert market.loop.epoch == 2
    market.execute(sell(SELLER, 1_250, 5, "s1"))
    assert models.JournalBatch.objects.order_by("-sequence").first().epoch == 2


def test_an_idle_engine_journals_nothing_and_a_due_calendar_is_performed(
    market: Market, clock
) -> None:
    before = market.engine.head.sequence
    assert market.loop.step(wait_ms=1) == 0
    clock.advance(seconds=1)
    market.work()
    assert market.engine.head.sequence == before
    clock.set("2026-12-01T10:00Z")
    market.work()
    assert market.engine.head.sequence > before
    assert Instrument.objects.get(symbol="LLAMA70B.H.20261202T09Z").state == "CALL"


def test_what_was_committed_and_not_released_is_released_by_the_next_engine(
    market: Market, valkey: valkey_client.Valkey, monkeypatch
) -> None:
    market.engine.mark_released()
    monkeypatch.setattr(market.engine, "_publish", lambda *_: None)
    market.execute(sell(SELLER, 1_250, 100, "s1"), buy(BUYER, 1_260, 40, "b1"))
    market.close()
    heard = valkey.pubsub()
    heard.subscribe(channels.feed_channel())
    assert heard.get_message(timeout=1)["type"] == "subscribe"
    successor = Market(valkey)
    successor.take_over()
    release = envelope.decode_release(heard.get_message(timeout=1)["data"])
    items = release.items + feed.private_items(release.private)
    topics = {topic: json.loads(payload) for topic, payload in items}
    book = queries.book(symbol=HOUR)
    delta = topics[f"book:{HOUR}"]
    assert delta["sequence"] == book.sequence
    assert delta["data"]["checksum"] == book.checksum == zlib.crc32(b"1.250:60")
    assert [trade["quantity"] for trade in topics[f"trades:{HOUR}"]["data"]] == [40]
    assert [fill["liquidity"] for fill in topics[f"fills:{BUYER}"]["data"]] == ["taker"]
    assert models.Head.objects.get().released_sequence == successor.engine.head.sequence
    successor.close()


def test_deltas_rebuild_the_book_that_a_reader_gets(
    market: Market, valkey: valkey_client.Valkey
) -> None:
    heard = valkey.pubsub()
    heard.subscribe(channels.feed_channel())
    heard.get_message(timeout=1)
    sequence = queries.book(symbol=HOUR).sequence
    market.execute(sell(SELLER, 1_250, 100, "s1"), sell(SELLER, 1_260, 50, "s2"))
    market.execute(buy(BUYER, 1_255, 120, "b1"))
    market.execute(buy(OTHER, 1_240, 7, "o1"), buy(OTHER, 1_240, 3, "o2"))
    levels: dict[str, dict[str, int]] = {"bids": {}, "asks": {}}
    for _ in range(3):
        release = envelope.decode_release(heard.get_message(timeout=1)["data"])
        message = json.loads(dict(release.items)[f"book:{HOUR}"])
        assert message["previous_sequence"] == sequence
        sequence = message["sequence"]
        for side, changed in levels.items():
            changed |= dict(message["data"][side])
    book = queries.book(symbol=HOUR)
    assert (book.sequence, book.checksum) == (sequence, message["data"]["checksum"])
    bids = {price: lots for price, lots in levels["bids"].items() if lots}
    asks = {price: lots for price, lots in levels["asks"].items() if lots}
    assert (dict(book.bids), dict(book.asks)) == (bids, asks)


def test_candles_are_made_of_trades_and_leave_quiet_intervals_out(market: Market, clock) -> None:
    market.execute(sell(SELLER, 1_250, 10, "s1"), sell(SELLER, 1_260, 10, "s2"))
    market.execute(buy(BUYER, 1_260, 15, "b1"))
    clock.advance(seconds=180)
    market.execute(buy(BUYER, 1_260, 5, "b2"))
    newest, oldest = queries.candles(symbol=HOUR, interval="1m")
    assert (oldest.open, oldest.high, oldest.low, oldest.close) == (1_250, 1_260, 1_250, 1_260)
    assert (oldest.lots, oldest.trades, newest.lots) == (15, 2, 5)
    assert (newest.starts_at - oldest.starts_at).seconds == 180


def test_a_skewed_engine_waits_instead_of_spinning(market: Market, clock, monkeypatch) -> None:
    true = store.database_clock
    monkeypatch.setattr(store, "database_clock", lambda c: true(c) - 2_000_000)
    market.engine.check_clock()
    clock.set("2026-12-01T12:00Z")
    assert market.engine.is_due()
    market.loop._poll_at = 2**62
    waited: list[int] = []
    monkeypatch.setattr(
        market.loop, "_read", lambda wait_ms: (waited.append(wait_ms), ([], False))[1]
    )
    assert market.loop.step(wait_ms=200) == 0
    assert waited == [200]
