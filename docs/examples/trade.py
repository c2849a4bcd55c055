"""Trade with the Python client: test an order, place it, amend it, batch, strip, cancel.

pip install clients/python
python docs/examples/trade.py var/demo.json
"""

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from baseload import Amend, Cancel, Client, NewOrder, NewStrip, errors


def main(demo: dict[str, Any]) -> None:
    """Do what a trader does in a morning."""
    key = next(one["key"] for one in demo["organizations"] if one["role"] == "buyer")
    with Client(demo["web"], key=key) as client:
        money = client.account()
        print(f"{money.available} USD available, {money.order_margin} behind orders")
        listed = client.instruments(state="continuous", product="hour")
        hours = sorted(listed, key=lambda one: one.starts_at)
        hour = next(one for one in reversed(hours) if one.best_ask is not None)
        assert hour.best_ask is not None

        # What would it do? Nothing is placed.
        order = NewOrder(instrument=hour.symbol, side="buy", quantity=2, price=hour.best_ask)
        preview = client.test_order(order)
        print(f"would be {preview.status}, {preview.filled_quantity} lots, fee {preview.fee}")

        # Do it. Whatever happens on the way, this object is one order.
        done = client.place_order(order)
        print(f"{done.status}: {done.filled_quantity} lots at {done.average_price}")

        # Orders that rest, changed and canceled in one request, each with an outcome of its own.
        low = hour.band[0]
        cheap = NewOrder(instrument=hour.symbol, side="buy", quantity=5, price=low)
        first = client.place_order(cheap)
        outcomes = client.batch(
            [
                Amend(id=first.id, quantity=3),
                cheap.again(),
                NewOrder(instrument=hour.symbol, side="buy", quantity=1, price=Decimal("999")),
                Cancel(id=first.id),
            ]
        )
        for outcome in outcomes:
            said = outcome.code if isinstance(outcome, errors.ApiError) else outcome.status
            print(f"  {said}")

        # The same lots in the last three hours, at an average price, at once or not at all.
        last = [one for one in hours if one.grade == hour.grade][-3:]
        wanted = NewStrip(
            grade=hour.grade,
            side="buy",
            starts_at=last[0].starts_at,
            ends_at=last[-1].ends_at,
            price=max(one.band[1] for one in last),
            quantity=1,
        )
        try:
            strip = client.place_strip(wanted)
            print(f"strip {strip.instrument}: {strip.status}, {len(strip.fills)} fills")
        except errors.Refused as refusal:  # a rule says no: an hour that is in an auction, for one
            print(f"strip refused: {refusal.code}")

        # If this program dies, its orders leave with it.
        client.cancel_all_after(30_000)
        print(f"{len(client.cancel_orders(instrument=hour.symbol).results)} canceled")
        client.cancel_all_after(0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json").read_text()))
