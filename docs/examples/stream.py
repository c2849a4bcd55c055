"""The client's stream: own orders and fills, a book that is kept, orders over the WebSocket.

pip install clients/python
python docs/examples/stream.py var/demo.json
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from baseload import AsyncClient, NewOrder, Stream

SECONDS_MAX = 60


async def main(demo: dict[str, Any]) -> None:
    """Rest an order one tick below the best bid, see it in the book, and cancel it."""
    key = next(one["key"] for one in demo["organizations"] if one["role"] == "buyer")
    async with AsyncClient(demo["web"]) as client:
        hours = [one async for one in client.instruments(state="continuous")]
    hour = max(hours, key=lambda one: one.trading_ends_at)

    async with asyncio.timeout(SECONDS_MAX), Stream(demo["web"], key=key) as stream:
        await stream.cancel_on_disconnect()  # all orders of the organization leave with us
        await stream.subscribe("book", hour.symbol)
        await stream.subscribe("orders")
        order = await stream.place_order(
            NewOrder(instrument=hour.symbol, side="buy", quantity=2, price=hour.band[0])
        )
        print(f"{order.id} is {order.status}")
        await stream.cancel_order(order.id)
        async for message in stream:
            if message.channel == "book":
                book = stream.books[hour.symbol]
                print(f"book at {book.sequence}: {book.best_bid} {book.best_ask}")
            elif message.channel == "orders":
                mine = [one for one in message.value() if one.id == order.id]
                print(f"orders: {[one.status for one in mine]}")
                if any(one.status == "canceled" for one in mine):
                    return


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json")
    asyncio.run(main(json.loads(path.read_text())))
