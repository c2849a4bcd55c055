"""REST with nothing but the standard library: read the market, place an order once, cancel it.

Run it beside `make run`:

    python docs/examples/rest_by_hand.py var/demo.json

It shows the one habit that matters: the `client_order_id` is made before the first attempt and is
kept, so that a request whose answer was lost can be sent again and places nothing twice.
"""

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

ATTEMPTS_MAX = 5
AGAIN = (429, 503, 504)


def call(web: str, key: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer; ask again when it was lost, or when the exchange says to."""
    request = urllib.request.Request(
        f"{web}/api/v1/{path}",
        method=method,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        data=None if body is None else json.dumps(body).encode(),
    )
    for attempt in range(1, ATTEMPTS_MAX + 1):
        wait_s = 0.1 * 2**attempt
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if error.code not in AGAIN or attempt == ATTEMPTS_MAX:
                sys.exit(f"{method} {path}: {problem['code']}: {problem['detail']}")
            wait_s = max(wait_s, float(error.headers.get("Retry-After", 0)))
        except OSError:  # the connection was lost: it may or may not have been carried out
            if attempt == ATTEMPTS_MAX:
                raise
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def main(demo: dict[str, Any]) -> None:
    """Place an order that rests, look at it, and cancel it."""
    web = demo["web"]
    key = next(one["key"] for one in demo["organizations"] if one["role"] == "buyer")
    listed = call(web, key, "GET", "instruments?state=continuous&limit=1000")["results"]
    instrument = max(listed, key=lambda one: one["trading_ends_at"])
    book = call(web, key, "GET", f"instruments/{instrument['symbol']}/book?depth=3")
    print(f"{instrument['symbol']}: bids {book['bids']}, asks {book['asks']}")

    order = {
        "instrument": instrument["symbol"],
        "side": "buy",
        "type": "limit",
        "price": instrument["band"][0],  # the lowest price of the day: it will rest
        "quantity": 2,
        "time_in_force": "gtc",
        "client_order_id": str(uuid.uuid4()),
    }
    placed = call(web, key, "POST", "orders", order)
    print(f"placed {placed['id']}: {placed['status']} at sequence {placed['sequence']}")
    again = call(web, key, "POST", "orders", order)
    print(f"sent again: the same order {again['id']}")
    canceled = call(web, key, "DELETE", f"orders/{placed['id']}")
    print(f"now it is {canceled['status']}")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json").read_text()))
