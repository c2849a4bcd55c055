"""The client's stream against the market's WebSocket, with somebody in between who loses things."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from baseload import (
    AsyncClient,
    Book,
    Message,
    NewOrder,
    OutcomeUnknown,
    Signer,
    Stream,
    errors,
    models,
)
from baseload.stream import stream_url, watch
from tests.market import HOUR
from tests.served import Served

CASH = 1_000_000_000
PATIENCE_S = 60


@dataclass
class Wire:
    """A man in the middle: passes frames on unless it is told otherwise."""

    loses: Callable[[dict[str, Any]], bool] = lambda frame: False
    cuts_after: Callable[[dict[str, Any]], bool] = lambda frame: False
    """Which frame of the client is passed on before the connection is cut, unanswered."""
    lost: int = 0
    url: str = ""
    open: set[ServerConnection] = field(default_factory=set)

    def cut(self) -> None:
        """End every connection without a word."""
        for one in self.open:
            one.transport.abort()


@asynccontextmanager
async def wire_to(origin: str, wire: Wire) -> AsyncIterator[Wire]:
    async def pass_on(caller: ServerConnection) -> None:
        wire.open.add(caller)
        async with connect(stream_url(origin)) as market:

            async def down() -> None:
                async for text in market:
                    if wire.loses(json.loads(text)):
                        wire.lost += 1
                    else:
                        await caller.send(text)

            task = asyncio.create_task(down())
            with suppress(ConnectionClosed):
                async for text in caller:
                    if wire.cuts_after(json.loads(text)):
                        task.cancel()
                        await market.send(text)
                        await (await market.ping())  # it has arrived
                        caller.transport.abort()
                    else:
                        await market.send(text)
            task.cancel()
        wire.open.discard(caller)

    async with serve(pass_on, "127.0.0.1", 0) as server:
        wire.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws/v1"
        yield wire


def buy(price: str, quantity: int, **more: Any) -> NewOrder:
    return NewOrder(instrument=HOUR, side="buy", quantity=quantity, price=price, **more)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    asyncio.run(bounded())


async def first(stream: Stream, wanted: Callable[[Message], bool]) -> Message:
    async for message in stream:
        if wanted(message):
            return message
    raise AssertionError("a stream goes on")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_book_is_right_though_frames_and_connections_are_lost(served: Served, seed: int) -> None:
    buyer = served.world.party("Buyer", cash=CASH)
    chance = random.Random(seed)

    def loses(frame: dict[str, Any]) -> bool:
        return frame.get("type") == "delta" and frame.get("id") is None and chance.random() < 0.3

    async def work() -> None:
        client = AsyncClient(served.origin, key=buyer.api.key)
        async with (
            client,
            wire_to(served.origin, Wire(loses=loses)) as wire,
            Stream(wire.url) as stream,
        ):
            await stream.subscribe("book", HOUR)
            await first(stream, lambda one: one.channel == "book")
            for number in range(40):
                price = f"{1.150 + chance.randrange(30) / 1000:.3f}"
                await client.place_order(buy(price, 1))
                if number % 10 == 9:
                    await client.cancel_orders()
                if number == 20:
                    wire.cut()
            wire.loses = lambda frame: False
            await client.place_order(buy("1.190", 2))
            truth = await client.book(HOUR)
            book = stream.books[HOUR]
            await first(stream, lambda one: book.is_live and book.sequence >= truth.sequence)
            assert tuple(book.bids()) == truth.bids
            assert book.checksum() == truth.checksum
            assert wire.lost > 5
            assert stream.connections == 2

    run(work)


def test_orders_are_placed_amended_and_canceled_over_the_stream(served: Served) -> None:
    buyer = served.world.party("Buyer", cash=CASH)

    async def work() -> None:
        async with Stream(served.origin, key=buyer.api.key) as stream:
            await stream.subscribe("orders")
            order = await stream.place_order(buy("1.200", 5))
            assert (order.status, order.price) == ("open", Decimal("1.200"))
            amended = await stream.amend_order(order.id, quantity=3)
            assert (amended.id, amended.quantity) == (order.id, 3)
            assert (await stream.cancel_order(order.id)).status == "canceled"
            with pytest.raises(errors.OrderClosed):
                await stream.cancel_order(order.id)
            with pytest.raises(errors.OutsideBand):
                await stream.place_order(buy("9.000", 5))
            seen = await first(stream, lambda one: _statuses(one) == ["canceled"])
            assert seen.value()[0].quantity == 3

    run(work)


def _statuses(message: Message) -> list[str]:
    orders = message.value() if message.channel == "orders" else ()
    return [one.status for one in orders if isinstance(one, models.Order)]


def test_an_order_whose_answer_was_lost_with_the_connection_is_placed_once(served: Served) -> None:
    buyer = served.world.party("Buyer", cash=CASH)
    cuts = [True, True]

    def cuts_after(frame: dict[str, Any]) -> bool:
        return frame["op"] == "place" and bool(cuts) and cuts.pop()

    async def work() -> None:
        async with (
            AsyncClient(served.origin, key=buyer.api.key) as client,
            wire_to(served.origin, Wire(cuts_after=cuts_after)) as wire,
            Stream(wire.url, key=buyer.api.key) as stream,
        ):
            order = await stream.place_order(buy("1.200", 5))
            assert [one.id async for one in client.orders()] == [order.id]
            assert stream.connections == 3

    run(work)


def test_an_order_that_nobody_answers_carries_its_id(served: Served, monkeypatch) -> None:
    buyer = served.world.party("Buyer", cash=CASH)
    monkeypatch.setattr("baseload.stream.OPERATION_TIMEOUT_S", 0.3)

    async def work() -> None:
        async with (
            wire_to(served.origin, Wire(loses=lambda one: one["type"] == "placed")) as wire,
            Stream(wire.url, key=buyer.api.key) as stream,
        ):
            order = buy("1.200", 5)
            with pytest.raises(OutcomeUnknown) as raised:
                await stream.place_order(order)
            assert raised.value.id == order.client_order_id
            wire.loses = lambda frame: False
            assert (await stream.place_order(order)).status == "open"
        async with AsyncClient(served.origin, key=buyer.api.key) as client:
            assert len([one async for one in client.orders()]) == 1

    run(work)


def test_orders_leave_with_the_connection_that_was_told_so(served: Served) -> None:
    buyer = served.world.party("Buyer", cash=CASH)

    async def work() -> None:
        async with AsyncClient(served.origin, key=buyer.api.key) as client:
            async with Stream(served.origin, key=buyer.api.key) as stream:
                await stream.cancel_on_disconnect()
                order = await stream.place_order(buy("1.200", 5))
            while (found := await client.order(order.id)).is_live:
                await asyncio.sleep(0.05)
            assert (found.status, found.reason) == ("canceled", "disconnected")

    run(work)


def test_a_wrong_key_ends_the_stream_before_it_begins(served: Served) -> None:
    async def work() -> None:
        with pytest.raises(errors.InvalidKey):
            async with Stream(served.origin, key="bl_demo_x_y"):
                raise AssertionError("nobody gets here")

    run(work)


def test_a_private_channel_without_a_key_is_a_message_with_a_status(served: Served) -> None:
    async def work() -> None:
        async with Stream(served.origin) as stream:
            await stream.subscribe("orders")
            refused = await first(stream, lambda one: True)
            assert (refused.status, refused.code) == (401, "unauthenticated")
            await stream.ping()

    run(work)


def test_a_script_iterates_without_a_loop_of_its_own(served: Served) -> None:
    buyer = served.world.party("Buyer", cash=CASH)
    from baseload import Client

    with Client(served.origin, key=buyer.api.key) as client:
        client.place_order(buy("1.200", 5))
        messages = watch(served.origin, [("book", HOUR)])
        begun = next(messages)
        assert isinstance(begun.book, Book)
        assert begun.book.bids() == [(Decimal("1.200"), 5)]
        client.place_order(buy("1.210", 2))
        followed = next(messages)
        assert followed.message.type == "delta"
        assert followed.book is not None
        assert followed.book.best_bid == (Decimal("1.210"), 2)
        messages.close()


def test_a_book_over_rest_is_caught_up_with_deltas(served: Served) -> None:
    buyer = served.world.party("Buyer", cash=CASH)
    from baseload import Client

    with Client(served.origin, key=buyer.api.key) as client:
        client.place_order(buy("1.200", 5))
        book = Book(HOUR)
        assert book.load(client.book(HOUR, depth=500)) is None
        for number in range(5):
            client.place_order(buy(f"1.20{number + 1}", 1))
        assert book.take_all(client.deltas(HOUR, book.sequence + 1)) is None
        truth = client.book(HOUR)
        assert (book.sequence, book.checksum()) == (truth.sequence, truth.checksum)
        assert tuple(book.bids()) == truth.bids


def test_a_script_is_told_what_was_refused_and_that_nobody_is_there(served: Served) -> None:
    with pytest.raises(errors.NotFound):
        next(watch(served.origin, [("book", "NOTHING")]))
    with pytest.raises(errors.StreamClosed, match="cannot be reached"):
        next(watch("http://127.0.0.1:9", [("ticker", None)]))


def test_a_bound_key_signs_the_handshake_reads_and_does_not_trade(served: Served) -> None:
    party = served.world.party("Buyer", cash=CASH)
    signer = Signer(bytes(range(32)))

    async def work() -> None:
        async with AsyncClient(served.origin, key=party.api.key) as client:
            made = await client.create_api_key(["read", "trade"], public_key=signer.public_key)
        assert made.key is not None
        async with Stream(served.origin, key=made.key, signer=signer) as stream:
            await stream.subscribe("account")
            begun = await first(stream, lambda one: one.channel == "account")
            assert begun.value().cash == 1_000
            with pytest.raises(errors.Forbidden):
                await stream.place_order(buy("1.200", 5))
        with pytest.raises(errors.InvalidSignature):
            async with Stream(served.origin, key=made.key):
                raise AssertionError("nobody gets here")

    run(work)
