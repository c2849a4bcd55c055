"""Traders that write down everything they were told, for the outcome to be checked afterwards.

Each is a thread with a key and a seed: orders of every kind, amendments, cancels, batches and
strips over REST, one after another. What it was told of an order is kept in a `Record`: the
first answer, the terms as last acknowledged, and every change that nobody answered. While the
traders are paused nothing is on its way, so that what they remember can be compared with what is
stored.
"""

import http.client
import json
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

REQUEST_TIMEOUT_S = 15
RETRY_PAUSE_S = 0.03
KEPT_LIVE_MAX = 200
"""Orders that a trader remembers as its own to amend or cancel."""
NOT_PLACED = frozenset(
    {"engine_unavailable", "engine_overloaded", "never_placed", "clock_skew", "rate_limited"}
)
"""Codes that promise that nothing happened and nothing will."""
HANGS_UP = 0.05
"""How often a trader does not wait for the answer to an order."""
LIVE = ("open", "partially_filled", "untriggered")
TICKS = 1_000
MIDDLE = 1_250
SPREAD = 12


@dataclass
class Record:
    """One order, and all that its trader was told of it."""

    trader: int
    path: str
    body: dict[str, Any]
    status: int = 0
    """Of the first answer; 0 while nobody has answered."""
    answer: dict[str, Any] = field(default_factory=dict)
    is_promised_absent: bool = False
    terms: tuple[str, int] = ("", 0)
    """Price and quantity as last acknowledged."""
    doubts: list[tuple[str, int]] = field(default_factory=list)
    """What nobody said whether it was amended to."""
    is_canceled: bool = False
    is_cancel_in_doubt: bool = False

    @property
    def name(self) -> str:
        """Return its client order id."""
        return str(self.body["client_order_id"])


@dataclass(frozen=True)
class Reply:
    """An answer; status 0 is none."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def is_unknown(self) -> bool:
        """Whether it says nothing about what happened."""
        return self.status in (0, HTTPStatus.GATEWAY_TIMEOUT) or (
            self.status >= 500 and self.body.get("code") not in NOT_PLACED
        )


class Door:
    """One connection to the API with a key."""

    def __init__(self, origin: str, key: str) -> None:
        self.address = origin.removeprefix("http://")
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        hangs_up: bool = False,
    ) -> Reply:
        """Send a request once; an answer that does not come is an answer of status 0."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self.address, timeout=REQUEST_TIMEOUT_S
                )
            data = None if body is None else json.dumps(body).encode()
            self._connection.request(method, f"/api/v1/{path}", data, self.headers)
            if hangs_up:
                raise ConnectionAbortedError
            response = self._connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            text = response.read()
            return Reply(response.status, json.loads(text) if text else {}, headers)
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return Reply(0, {}, {})


class Trader(threading.Thread):
    """One organization that does things at random until it is stopped."""

    def __init__(
        self,
        number: int,
        origin: str,
        key: str,
        instruments: list[str],
        *,
        seed: int,
        run: str,
        hours: tuple[datetime, datetime] | None = None,
    ) -> None:
        super().__init__(name=f"trader-{number}", daemon=True)
        self.number = number
        self.door = Door(origin, key)
        self.instruments = instruments
        self.hours = hours
        self.chance = random.Random(seed)
        self.prefix = f"{run}-{number}"
        self.records: dict[str, Record] = {}
        self.touched: dict[str, Record] = {}
        """Those that something was said of since the last look."""
        self.live: deque[Record] = deque(maxlen=KEPT_LIVE_MAX)
        self.counts: dict[str, int] = {}
        self.acknowledged: list[tuple[int, int]] = []
        """(sent at, answered at) of the orders accepted since the last look, in nanoseconds."""
        self.failures: list[str] = []
        self._may_run = threading.Event()
        self._rests = threading.Event()
        self._ended = threading.Event()

    # In the hands of a campaign

    def resume(self) -> None:
        """Go on."""
        self._rests.clear()
        self._may_run.set()

    def pause(self, timeout_s: float = 2 * REQUEST_TIMEOUT_S) -> None:
        """Return when nothing of this trader is on its way."""
        self._may_run.clear()
        if not self._rests.wait(timeout_s):
            raise TimeoutError(f"{self.name} does not come to rest")

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._may_run.set()

    def run(self) -> None:
        """Act, one thing after another."""
        acts = [
            (60, self._place),
            (12, self._amend),
            (12, self._cancel),
            (8, self._batch),
            (4, self._strip),
            (1, self._cancel_all),
        ]
        weights = [weight for weight, _ in acts]
        while True:
            if not self._may_run.is_set():
                self._rests.set()
                self._may_run.wait()
            if self._ended.is_set():
                return
            (act,) = self.chance.choices([act for _, act in acts], weights)
            try:
                act()
            except Exception as error:  # noqa: BLE001 - told to the campaign, which fails
                self.failures.append(f"{self.name}: {type(error).__name__}: {error}")
                self._rests.set()
                return

    # What it does

    def _place(self) -> None:
        record = self._new("orders", self._order())
        sent_at = time.monotonic_ns()
        hangs_up = self.chance.random() < HANGS_UP
        reply = self.door.send("POST", "orders", record.body, hangs_up=hangs_up)
        self.note(record, reply.status, reply.body, reply)
        if reply.status == HTTPStatus.CREATED:
            self.acknowledged.append((sent_at, time.monotonic_ns()))

    def _strip(self) -> None:
        if self.hours is None:
            return
        starts_at, ends_at = self.hours
        body = {
            "grade": self.instruments[0].partition(".")[0],
            "side": self.chance.choice(("buy", "sell")),
            "from": f"{starts_at:%Y-%m-%dT%H:%M:%SZ}",
            "to": f"{ends_at:%Y-%m-%dT%H:%M:%SZ}",
            "price": self._price(),
            "quantity": self.chance.randint(1, 5),
            "min_share": self.chance.choice((100, 50, 1)),
            "client_order_id": self._new_name(),
        }
        record = self._new("strips", body)
        reply = self.door.send("POST", "strips", body)
        self.note(record, reply.status, reply.body, reply)

    def _amend(self) -> None:
        record = self._one_of_mine()
        if record is None:
            return
        change: dict[str, Any] = {}
        if self.chance.random() < 0.6:
            change["quantity"] = self.chance.randint(1, 2 * record.terms[1])
        if record.terms[0] and (not change or self.chance.random() < 0.5):
            change["price"] = self._price()
        if not change:
            return
        wanted = (change.get("price", record.terms[0]), change.get("quantity", record.terms[1]))
        reply = self.door.send("PATCH", f"orders/{record.answer['id']}", change)
        self._note_amend(record, reply.status, reply.body, wanted, reply.is_unknown)

    def _cancel(self) -> None:
        record = self._one_of_mine()
        if record is None:
            return
        reply = self.door.send("DELETE", f"orders/{record.answer['id']}")
        self._note_cancel(record, reply.status, reply.body, reply.is_unknown)

    def _cancel_all(self) -> None:
        symbol = self.chance.choice(self.instruments)
        reply = self.door.send("DELETE", f"orders?instrument={symbol}")
        if reply.status == HTTPStatus.OK:
            for order in reply.body["results"]:
                record = self.records.get(order["client_order_id"])
                if record is not None:
                    self._note_cancel(record, HTTPStatus.OK, order, is_unknown=False)
        elif reply.is_unknown:
            for record in self.records.values():
                if record.body.get("instrument") == symbol and not record.is_canceled:
                    record.is_cancel_in_doubt = True
        self._count("cancel_all", reply.status)

    def _batch(self) -> None:
        operations: list[dict[str, Any]] = []
        steps: list[tuple[str, Record, tuple[str, int]]] = []
        used: set[str] = set()
        for _ in range(self.chance.randint(2, 12)):
            record = self._one_of_mine() if self.chance.random() < 0.4 else None
            if record is None or record.name in used:
                record = self._new("orders", self._order())
                operations.append({"op": "place", **record.body})
                steps.append(("place", record, ("", 0)))
                continue
            used.add(record.name)
            number = record.answer["id"]
            if self.chance.random() < 0.5:
                operations.append({"op": "cancel", "id": number})
                steps.append(("cancel", record, ("", 0)))
            else:
                quantity = self.chance.randint(1, 2 * record.terms[1])
                operations.append({"op": "amend", "id": number, "quantity": quantity})
                steps.append(("amend", record, (record.terms[0], quantity)))
        reply = self.door.send("POST", "orders/batch", {"operations": operations})
        outcomes = reply.body.get("results") if reply.status == HTTPStatus.OK else None
        for index, (what, record, wanted) in enumerate(steps):
            body = outcomes[index] if outcomes is not None else reply.body
            status = int(body["status"]) if isinstance(body.get("status"), int) else 0
            if outcomes is not None and "code" not in body:
                status = HTTPStatus.CREATED if what == "place" else HTTPStatus.OK
            each = Reply(status if outcomes is not None else reply.status, body, {})
            if what == "place":
                if each.status == HTTPStatus.CREATED and body["status"] == "rejected":
                    each = Reply(HTTPStatus.UNPROCESSABLE_ENTITY, body | {"code": ""}, {})
                self.note(record, each.status, body, each)
            elif what == "cancel":
                self._note_cancel(record, each.status, body, each.is_unknown)
            else:
                self._note_amend(record, each.status, body, wanted, each.is_unknown)
        self._count("batch", reply.status)

    # What it writes down

    def note(self, record: Record, status: int, body: dict[str, Any], reply: Reply) -> None:
        """Write down the first answer to an order."""
        self._count(record.path, status, body.get("code", ""))
        self.touched[record.name] = record
        if reply.is_unknown:
            return
        if status in (HTTPStatus.CREATED, HTTPStatus.OK):
            record.status, record.answer = HTTPStatus.CREATED, body
            record.terms = (record.body.get("price", ""), record.body["quantity"])
            if body["status"] in LIVE:
                self.live.append(record)
            return
        is_rule = status == HTTPStatus.UNPROCESSABLE_ENTITY
        if is_rule and body["code"] != "unsupported_order_type":
            record.status, record.answer = status, body
            return
        # Too many requests, malformed, or an engine that was not there: it is nowhere.
        record.is_promised_absent = True
        if status != HTTPStatus.TOO_MANY_REQUESTS:
            time.sleep(RETRY_PAUSE_S)
        else:
            time.sleep(float(reply.headers.get("retry-after", "1")))

    def _note_amend(
        self,
        record: Record,
        status: int,
        body: dict[str, Any],
        wanted: tuple[str, int],
        is_unknown: bool,
    ) -> None:
        self._count("amend", status, body.get("code", ""))
        self.touched[record.name] = record
        if is_unknown:
            record.doubts.append(wanted)
        elif status == HTTPStatus.OK:
            record.terms, record.doubts = wanted, []
        if not is_unknown:
            self._forget_if_ended(record, body)

    def _note_cancel(
        self, record: Record, status: int, body: dict[str, Any], is_unknown: bool
    ) -> None:
        self._count("cancel", status, body.get("code", ""))
        self.touched[record.name] = record
        if is_unknown:
            record.is_cancel_in_doubt = True
        elif status == HTTPStatus.OK:
            record.is_canceled = body["status"] == "canceled"
        if not is_unknown:
            self._forget_if_ended(record, body)

    def _forget_if_ended(self, record: Record, body: dict[str, Any]) -> None:
        has_ended = body.get("code") == "order_closed" or body["status"] not in LIVE
        if has_ended and record in self.live:
            self.live.remove(record)

    def _count(self, what: str, status: int, code: str = "") -> None:
        name = f"{what} {int(status)} {code}".rstrip()
        self.counts[name] = self.counts.get(name, 0) + 1

    # What it wants

    def _new(self, path: str, body: dict[str, Any]) -> Record:
        record = Record(self.number, path, body)
        self.records[record.name] = record
        return record

    def _new_name(self) -> str:
        return f"{self.prefix}-{len(self.records)}"

    def _price(self) -> str:
        ticks = MIDDLE + self.chance.randint(-SPREAD, SPREAD)
        return f"{ticks // TICKS}.{ticks % TICKS:03}"

    def _one_of_mine(self) -> Record | None:
        return self.chance.choice(self.live) if self.live else None

    def _order(self) -> dict[str, Any]:
        quantity = self.chance.randint(1, 20)
        order: dict[str, Any] = {
            "instrument": self.chance.choice(self.instruments),
            "side": self.chance.choice(("buy", "sell")),
            "type": "limit",
            "price": self._price(),
            "quantity": quantity,
            "client_order_id": self._new_name(),
        }
        match self.chance.choice(("gtc",) * 6 + KINDS):
            case "ioc" | "fok" | "day" as kind:
                order["time_in_force"] = kind
            case "gtd":
                moment = datetime.now(UTC) + timedelta(seconds=self.chance.randint(2, 90))
                order["time_in_force"] = "gtd"
                order["expires_at"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
            case "market":
                order["type"] = "market"
                del order["price"]
            case "stop_limit":
                order["type"] = "stop_limit"
                order["stop_price"] = self._price()
            case "post_only":
                order["post_only"] = True
            case "iceberg" if quantity > 1:
                order["display_quantity"] = self.chance.randint(1, quantity - 1)
            case "minimum":
                order["min_quantity"] = self.chance.randint(1, quantity)
            case "cancel_oldest" | "decrement" | "cancel_both" as mode:
                order["self_trade_prevention"] = mode
        return order


KINDS = (
    "ioc",
    "fok",
    "gtd",
    "day",
    "market",
    "stop_limit",
    "post_only",
    "iceberg",
    "minimum",
    "cancel_oldest",
    "cancel_both",
    "decrement",
)
