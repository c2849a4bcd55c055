"""How many orders go in one entry of the stream: what gathers while the one before is answered."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from exchange import client, envelope, models, operations, store
from settlement import channels, doorbell
from tests.market import BUYER, HOUR, Market

pytestmark = pytest.mark.django_db(transaction=True)


def talk(market: Market, conversation: Callable[[client.Client], Awaitable[None]]) -> None:
    """Hold a conversation over a client whose engine shows life and takes what it is told to."""

    async def converse() -> None:
        sender = client.Client(reply_timeout_s=10.0)
        await sender.start()
        try:
            await conversation(sender)
        finally:
            await sender.stop()

    market.loop._beat()
    asyncio.run(converse())


def order(number: int):
    return operations.place_command(
        organization=BUYER,
        instrument=HOUR,
        side=1,
        price_ticks=1_250,
        lots=1,
        client_order_id=f"c{number}",
    )


def sizes(market: Market) -> list[int]:
    """Return how many commands each entry has that lies in the stream."""
    entries = market.client.xrange(doorbell.stream_key(1))
    bodies = [fields[channels.REQUEST_FIELD] for _, fields in entries if b"c" in fields]
    return [len(envelope.decode_request(body).items) for body in bodies]


async def until(market: Market, wanted: list[int]) -> None:
    async with asyncio.timeout(20.0):
        while await asyncio.to_thread(sizes, market) != wanted:
            await asyncio.sleep(0.001)


def test_orders_gather_until_the_entry_before_them_is_answered(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ENTRY_WAIT_S", 60.0)

    async def conversation(sender: client.Client) -> None:
        first = asyncio.create_task(sender.submit(order(1)))
        await until(market, [1])
        others = [asyncio.create_task(sender.submit(order(number))) for number in (2, 3, 4)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert await asyncio.to_thread(sizes, market) == [1]
        with market.running():
            await asyncio.gather(first, *others)

    talk(market, conversation)
    batches = models.JournalBatch.objects.order_by("-sequence")[:2]
    assert [batch.sequence - batch.first_sequence + 1 for batch in batches] == [3, 1]


def test_many_callers_are_parted_into_two_entries(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ENTRY_WAIT_S", 60.0)

    async def conversation(sender: client.Client) -> None:
        asked = [asyncio.create_task(sender.submit(order(number))) for number in range(20)]
        await until(market, [10, 10])
        with market.running():
            await asyncio.gather(*asked)

    talk(market, conversation)


def test_what_one_caller_sends_goes_in_one_entry(market: Market) -> None:
    async def conversation(sender: client.Client) -> None:
        asked = [
            asyncio.create_task(sender.submit_many([order(number) for number in range(20)])),
            asyncio.create_task(sender.submit(order(20))),
        ]
        await until(market, [21])
        await asyncio.to_thread(market.work)
        await asyncio.gather(*asked)

    talk(market, conversation)


def test_an_entry_that_is_not_answered_holds_the_next_only_so_long(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ENTRY_WAIT_S", 0.01)

    async def conversation(sender: client.Client) -> None:
        first = asyncio.create_task(sender.submit(order(1)))
        await until(market, [1])
        second = asyncio.create_task(sender.submit(order(2)))
        await until(market, [1, 1])
        await asyncio.to_thread(market.work)
        await asyncio.gather(first, second)

    talk(market, conversation)


def test_ids_are_looked_up_by_their_index_however_empty_the_table_was(market: Market) -> None:
    plan = market.connection.execute(b"EXPLAIN " + store._REMEMBERED, [[BUYER], ["c1"]]).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "client_order_id_is_single" in text
    assert "order_by_organization" not in text
    assert "Seq Scan" not in text


def test_an_entry_as_large_as_the_last_goes_before_that_is_answered_and_a_third_does_not(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ENTRY_WAIT_S", 60.0)

    async def conversation(sender: client.Client) -> None:
        asked = [asyncio.create_task(sender.submit(order(number))) for number in range(8)]
        await until(market, [8])
        asked += [asyncio.create_task(sender.submit(order(number))) for number in range(8, 16)]
        await until(market, [8, 8])
        asked += [asyncio.create_task(sender.submit(order(number))) for number in range(16, 24)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert await asyncio.to_thread(sizes, market) == [8, 8]
        with market.running():
            await asyncio.gather(*asked)

    talk(market, conversation)
