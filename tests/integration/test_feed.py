"""What the engine tells: numbered, stored as it was published, and the same when told again."""

import io
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator

import pytest
import valkey as valkey_client
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from exchange import deltas, envelope, feed, models, recovery, tasks
from marketplace import clock as market_clock
from marketplace import errors
from marketplace.models import Instrument
from settlement import channels
from tests.market import BUYER, HOUR, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.usefixtures("transactional_db", "clock")


class Ear:
    """Everything that was published on the feed, in order."""

    def __init__(self, client: valkey_client.Valkey) -> None:
        self.pubsub = client.pubsub()
        self.pubsub.subscribe(channels.feed_channel())
        self.pubsub.get_message(timeout=5)

    def heard(self) -> list[envelope.Release]:
        found = []
        while (message := self.pubsub.get_message(timeout=0.2)) is not None:
            if message["type"] == "message":
                found.append(envelope.decode_release(message["data"]))
        return found


@pytest.fixture
def market(valkey: valkey_client.Valkey) -> Iterator[Market]:
    made = Market(valkey)
    made.take_over()
    yield made
    made.close()


def trade(market: Market, name: str) -> None:
    """Three batches: two orders rest, a third trades with both, and one is replaced."""
    market.execute(sell(SELLER, 1_250, 5, f"{name}a"), sell(SELLER, 1_251, 5, f"{name}b"))
    market.execute(buy(BUYER, 1_251, 7, f"{name}c"), buy(OTHER, 1_240, 3, f"{name}d"))
    market.execute(buy(OTHER, 1_251, 9, f"{name}e"))


def successor(market: Market, valkey: valkey_client.Valkey) -> Market:
    """Another engine that takes over from the first."""
    market.close()
    made = Market(valkey)
    made.take_over()
    return made


def chains(releases: list[envelope.Release]) -> dict[str, list[tuple[int, int]]]:
    """By topic (previous sequence, sequence) of its messages."""
    found = defaultdict(list)
    for release in releases:
        for topic, body in release.items + feed.private_items(release.private):
            message = json.loads(body)
            found[topic].append((message["previous_sequence"], message["sequence"]))
    return found


def test_every_topic_is_without_a_gap_though_the_engine_is_replaced(market, valkey) -> None:
    ear = Ear(valkey)
    market.open()
    trade(market, "x")
    with market.connection.transaction():
        recovered = recovery.rebuild(market.connection, "main", up_to=market.engine.head.sequence)
        recovery.store_snapshot(market.connection, "main", recovered)
    trade(market, "y")
    second = successor(market, valkey)
    trade(second, "z")
    second.close()

    found = chains(ear.heard())
    kinds = {topic.partition(":")[0] for topic in found}
    assert kinds == {"auction", "book", "trades", "ticker", "orders", "fills", "account"}
    for topic, chain in found.items():
        last = 0
        for previous, sequence in chain:
            # The last batch of an engine is told once more by the next; a reader drops it.
            assert previous == last or sequence <= last, topic
            last = max(last, sequence)
    assert found[f"trades:{HOUR}"][-1] == (4, 5)
    assert found[f"fills:{SELLER}"][-1] == (4, 5)


def test_what_is_released_again_is_what_was_released_to_the_byte(market, valkey) -> None:
    ear = Ear(valkey)
    market.open()
    trade(market, "x")
    first = ear.heard()
    middle = first[len(first) // 2].sequence
    models.Head.objects.update(released_sequence=middle)

    second = successor(market, valkey)
    again = ear.heard()
    second.close()

    assert again == [release for release in first if release.sequence > middle]
    assert again
    assert models.Head.objects.get().released_sequence == first[-1].sequence


def test_a_snapshot_behind_what_was_released_does_not_hide_what_was_not(market, valkey) -> None:
    ear = Ear(valkey)
    market.open()
    first = ear.heard()
    released = first[-1].sequence
    trade(market, "x")
    told = ear.heard()
    recovered = recovery.rebuild(market.connection, "main", up_to=released)
    recovery.store_snapshot(market.connection, "main", recovered)
    recovered = recovery.rebuild(market.connection, "main", up_to=market.engine.head.sequence)
    recovery.store_snapshot(market.connection, "main", recovered)
    models.Head.objects.update(released_sequence=released)

    second = successor(market, valkey)

    assert ear.heard() == told
    second.close()


def test_news_of_batches_without_valkey_is_released_when_it_is_back(market, valkey) -> None:
    market.open()
    ear = Ear(valkey)
    away = valkey_client.Valkey(port=1, socket_connect_timeout=0.2)
    market.engine.client, there = away, market.engine.client
    trade(market, "x")
    assert ear.heard() == []
    assert market.engine.head.released_sequence < market.engine.head.sequence

    market.engine.client = there
    market.engine.release_again()

    heard = ear.heard()
    assert len(heard) == 3
    assert chains(heard)[f"trades:{HOUR}"] == [(0, 1), (1, 2)]
    assert market.engine.head.released_sequence == market.engine.head.sequence


def test_what_happened_to_a_book_is_stored_as_it_was_published(market, valkey) -> None:
    ear = Ear(valkey)
    market.open()
    trade(market, "x")

    told = [
        body for release in ear.heard() for topic, body in release.items if topic == f"book:{HOUR}"
    ]
    rows = deltas.since(symbol=HOUR, first=1, last=None, limit=100)
    assert [bytes(row.body) for row in rows] == told
    assert [(row.previous_sequence, row.sequence) for row in rows] == [(0, 2), (2, 4), (4, 5)]
    assert json.loads(told[1])["data"] == {
        "bids": [["1.240", 3]],
        "asks": [["1.251", 3], ["1.250", 0]],
        "checksum": zlib.crc32(b"1.240:3|1.251:3"),
    }


def test_a_range_has_every_delta_that_holds_one_of_its_changes(market) -> None:
    market.open()
    trade(market, "x")

    def spans(first: int, last: int) -> list[tuple[int, int]]:
        rows = deltas.between(symbol=HOUR, first=first, last=last)
        return [(row.previous_sequence, row.sequence) for row in rows]

    assert spans(1, 5) == [(0, 2), (2, 4), (4, 5)]
    assert spans(2, 3) == [(0, 2), (2, 4)]
    assert spans(3, 4) == [(2, 4)]
    with pytest.raises(errors.NotFound):
        spans(5, 6)
    with pytest.raises(errors.NotFound):
        deltas.between(symbol="LLAMA70B.H.20201201T14Z", first=1, last=1)


def test_deltas_are_kept_for_a_day_after_settlement_and_then_are_gone(market, clock) -> None:
    market.open()
    trade(market, "x")
    other = "LLAMA70B.H.20261201T15Z"
    market.execute(buy(BUYER, 1_240, 1, "other", instrument=other))
    settled_at = market_clock.to_datetime(clock.at)
    Instrument.objects.filter(symbol=HOUR).update(settled_at=settled_at)

    tasks.purge_deltas("", clock.at + 24 * market_clock.HOUR - 1)
    assert len(deltas.since(symbol=HOUR, first=1, last=None, limit=9)) == 3
    tasks.purge_deltas("", clock.at + 24 * market_clock.HOUR)
    with pytest.raises(deltas.Gone):
        deltas.since(symbol=HOUR, first=1, last=None, limit=9)
    with pytest.raises(deltas.Gone):
        deltas.between(symbol=HOUR, first=5, last=5)
    assert len(deltas.since(symbol=other, first=1, last=None, limit=9)) == 1


def verify() -> dict[str, object]:
    out = io.StringIO()
    call_command("verify_journal", "--public", "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_public_record_is_made_again_from_the_journal_byte_by_byte(market, clock) -> None:
    market.open()
    trade(market, "x")
    clock.set("2026-12-01T14:00Z")
    market.work()

    first = verify()
    assert (first["deltas"], first["trades"], first["index_values"]) == (4, 3, 5)
    assert first["instruments"] == Instrument.objects.count()
    assert verify() == first
    market.execute(buy(BUYER, 1_240, 1, "later", instrument="LLAMA70B.H.20261201T15Z"))
    assert verify()["public"] != first["public"]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        (
            "UPDATE exchange_bookdelta SET body = set_byte(body, 40, get_byte(body, 40) # 1)"
            f" WHERE symbol = '{HOUR}' AND sequence = 4",
            f"the delta {HOUR} 4 is not what was published",
        ),
        (
            f"DELETE FROM exchange_bookdelta WHERE symbol = '{HOUR}' AND sequence = 2",
            f"the delta {HOUR} 2 is missing",
        ),
        (
            "INSERT INTO exchange_bookdelta SELECT symbol, sequence + 100, sequence + 99, body, at"
            f" FROM exchange_bookdelta WHERE symbol = '{HOUR}' AND sequence = 2",
            "4 rows of the delta are stored, of 3",
        ),
        (
            "UPDATE exchange_trade SET price_ticks = price_ticks + 1 WHERE id = 1",
            "the trade 1 is not what was published",
        ),
        (
            f"UPDATE marketplace_instrument SET state = 'HALTED' WHERE symbol = '{HOUR}'",
            f"the instrument {HOUR} is not what was published",
        ),
    ],
)
def test_a_public_record_that_was_altered_is_seen(market, statement, complaint) -> None:
    market.open()
    trade(market, "x")
    verify()

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)

    with pytest.raises(CommandError, match=complaint):
        verify()
