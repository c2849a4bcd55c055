"""Keep a book over the raw WebSocket: snapshot, deltas, sequence, checksum, and gaps on purpose.

    pip install websockets
    python docs/examples/book_by_hand.py var/demo.json

It places small orders so that the book moves, ignores every third delta, as a bad line would, asks
for what is missing by `range`, and shows that the book is right afterwards. Its orders leave with
its connection.
"""

import asyncio
import itertools
import json
import sys
import urllib.request
import uuid
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

RECOVERIES_WANTED = 3
SECONDS_MAX = 60


class Book:
    """The levels of both sides, by price as text, and the sequence they are of."""

    def __init__(self) -> None:
        self.levels: dict[str, dict[str, int]] = {"bids": {}, "asks": {}}
        self.sequence = 0

    def take(self, message: dict[str, Any]) -> None:
        """Take a snapshot, or the delta that comes next."""
        if message["type"] == "snapshot":
            self.levels = {"bids": {}, "asks": {}}
        for side in ("bids", "asks"):
            for price, lots in message["data"][side]:
                self.levels[side][price] = lots
                if lots == 0:
                    del self.levels[side][price]
        self.sequence = message["sequence"]
        assert self.checksum() == message["data"]["checksum"], "the book is the exchange's"

    def checksum(self) -> int:
        """Return the CRC32 of the ten best bids, then the ten best asks."""
        bids = sorted(self.levels["bids"].items(), key=lambda one: -Decimal(one[0]))[:10]
        asks = sorted(self.levels["asks"].items(), key=lambda one: Decimal(one[0]))[:10]
        return zlib.crc32("|".join(f"{price}:{lots}" for price, lots in bids + asks).encode())


async def follow(socket: ClientConnection, instrument: dict[str, Any], key: str) -> None:
    """Follow one book, losing messages and getting them back."""
    symbol, number = instrument["symbol"], itertools.count(1)
    order = {"op": "place", "instrument": symbol, "side": "buy", "quantity": 1}
    order |= {"price": instrument["band"][0]}  # the lowest of the day: it rests

    async def tell(message: dict[str, Any]) -> None:
        await socket.send(json.dumps(message))

    async def place() -> None:
        await tell(order | {"id": next(number), "client_order_id": str(uuid.uuid4())})

    await tell({"op": "auth", "key": key})
    await tell({"op": "cancel_on_disconnect", "enabled": True})
    await tell({"op": "subscribe", "channel": "book", "instrument": symbol})
    book, seen, recoveries = Book(), 0, 0
    while recoveries < RECOVERIES_WANTED:
        message = json.loads(await socket.recv())
        if "status" in message:
            sys.exit(f"{message['code']}: {message['detail']}")
        if message["type"] == "placed":
            await place()
        elif message["channel"] != "book":
            continue
        elif message["type"] == "snapshot":
            book.take(message)
            print(f"snapshot at {book.sequence}: {len(book.levels['bids'])} bids")
            await place()
        elif message["sequence"] <= book.sequence:
            continue  # it came before
        elif message["previous_sequence"] == book.sequence:
            is_again = message.get("id") == "missing"
            seen += not is_again
            if is_again or seen % 3:
                book.take(message)
                recoveries += is_again
        else:
            missing = {"from": book.sequence + 1, "to": message["sequence"], "id": "missing"}
            await tell({"op": "range", "instrument": symbol} | missing)
    print(f"{seen} deltas, {recoveries} recovered by range, the checksum agrees")


async def main(demo: dict[str, Any]) -> None:
    """Choose the busiest book and follow it."""
    key = next(one["key"] for one in demo["organizations"] if one["role"] == "buyer")
    url = f"{demo['web']}/api/v1/instruments?state=continuous&limit=1000"
    with urllib.request.urlopen(url, timeout=10) as response:
        instruments = json.load(response)["results"]
    busiest = max(instruments, key=lambda one: one["volume"])
    async with asyncio.timeout(SECONDS_MAX), connect(demo["websocket"]) as socket:
        await follow(socket, busiest, key)


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json")
    asyncio.run(main(json.loads(path.read_text())))
