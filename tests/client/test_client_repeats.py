"""What the client does when answers are lost, late or refused: an order is never placed twice.

The exchange is played by a small server on a socket that does what a script says to each request:
it carries it out or does not, and answers, hangs up, or says nothing. It remembers client order ids
as the exchange does, so that a doubled order would show in `placed`.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from baseload import (
    AsyncClient,
    Cancel,
    Client,
    NewOrder,
    OutcomeUnknown,
    Policy,
    conversation,
    errors,
    models,
)
from baseload.api import Api

QUICK = Policy(
    attempts_max=5, attempt_timeout_s=0.4, patience_s=20, backoff_s_min=0.001, backoff_s_max=0.01
)
INSTRUMENT = "LLAMA70B.H.20261205T14Z"


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Deed:
    """What the server does to one request: whether it acts, and what it says then."""

    acts: bool
    says: Callable[["Asked", Any], tuple[int, dict[str, str], Any] | None] | str


def problem(status: int, code: str, **headers: str) -> Callable[..., Any]:
    document = {"status": status, "code": code, "title": code, "detail": "", "errors": []}
    return lambda asked, order: (status, headers, document)


def answered(asked: Asked, order: Any) -> tuple[int, dict[str, str], Any]:
    return 200 if asked.method != "POST" else 201, {}, order


OK = Deed(acts=True, says=answered)


@dataclass
class Exchange:
    """A server that follows a script, then behaves."""

    script: list[Deed] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    placed: dict[str, dict[str, Any]] = field(default_factory=dict)
    url: str = ""

    def act(self, asked: Asked) -> Any:
        """Carry a request out as the exchange would."""
        body = asked.body or {}
        if asked.method == "POST" and asked.path.endswith("/orders"):
            return self.place(body)
        if asked.path.endswith("/orders/batch"):
            return {"results": [self.one(operation) for operation in body["operations"]]}
        order = next(o for o in self.placed.values() if asked.path.endswith("/" + o["id"]))
        if asked.method == "DELETE":
            return self.cancel(order)
        if asked.method == "PATCH":
            if order["status"] != "open":
                return CLOSED
            order |= body
        return dict(order)

    def one(self, operation: dict[str, Any]) -> Any:
        if operation["op"] == "place":
            return self.place(operation)
        return self.cancel(next(o for o in self.placed.values() if o["id"] == operation["id"]))

    def place(self, body: dict[str, Any]) -> dict[str, Any]:
        self.placed.setdefault(body["client_order_id"], order_of(len(self.placed), body))
        return dict(self.placed[body["client_order_id"]])

    def cancel(self, order: dict[str, Any]) -> Any:
        if order["status"] != "open":
            return CLOSED
        order["status"] = "canceled"
        return dict(order)


CLOSED = {"status": 422, "code": "order_closed", "title": "", "detail": "", "errors": []}


def order_of(number: int, body: dict[str, Any]) -> dict[str, Any]:
    moment = "2026-12-01T09:00:00.000000Z"
    return {
        "id": str(1000 + number),
        "instrument": body["instrument"],
        "side": body["side"],
        "type": "limit",
        "price": body["price"],
        "quantity": body["quantity"],
        "time_in_force": "gtc",
        "client_order_id": body["client_order_id"],
        "status": "open",
        "filled_quantity": 0,
        "remaining_quantity": body["quantity"],
        "fee": "0.000000",
        "sequence": number,
        "created_at": moment,
        "updated_at": moment,
    }


def serve(exchange: Exchange, listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=converse, args=(exchange, connection), daemon=True).start()


def converse(exchange: Exchange, connection: socket.socket) -> None:
    """Answer one request and close, so that every attempt is a connection of its own."""
    with connection, connection.makefile("rb") as lines:
        method, path, _ = lines.readline().decode().split()
        headers = {}
        while (line := lines.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        body = json.loads(lines.read(length)) if length else None
        asked = Asked(method, path.partition("?")[0], headers, body)
        exchange.asked.append(asked)
        deed = exchange.script.pop(0) if exchange.script else OK
        outcome = exchange.act(asked) if deed.acts else None
        if deed.says == "reset":
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        if deed.says == "silence":
            connection.settimeout(5)
            with connection:
                connection.recv(1)  # until the client gives up and closes
            return
        if deed.says == "drops":
            connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\n")
            with suppress(OSError):
                for _ in range(500):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            return
        if deed.says == "half":
            connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\n{")
            return
        assert callable(deed.says)
        status, extra, document = deed.says(asked, outcome)
        if outcome is CLOSED:
            status, document = 422, CLOSED
        data = json.dumps(document).encode()
        head = {"content-length": str(len(data)), "connection": "close"} | extra
        lines_out = [f"{name}: {value}" for name, value in head.items()]
        connection.sendall(f"HTTP/1.1 {status} X\r\n".encode())
        connection.sendall("\r\n".join([*lines_out, "", ""]).encode() + data)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    listener = socket.create_server(("127.0.0.1", 0))
    made = Exchange(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=serve, args=(made, listener), daemon=True).start()
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def place_blocking(url: str, order: NewOrder) -> models.Order:
    with Client(url, key="k", policy=QUICK) as client:
        return client.place_order(order)


def place_awaiting(url: str, order: NewOrder) -> models.Order:
    async def place() -> models.Order:
        async with AsyncClient(url, key="k", policy=QUICK) as client:
            return await client.place_order(order)

    return asyncio.run(place())


def trader(exchange: Exchange) -> Client:
    return Client(exchange.url, key="k", policy=QUICK)


def buy() -> NewOrder:
    return NewOrder(instrument=INSTRUMENT, side="buy", quantity=5, price="1.250")


MISHAPS = {
    "reset before it acted": Deed(acts=False, says="reset"),
    "reset after it acted": Deed(acts=True, says="reset"),
    "half an answer": Deed(acts=True, says="half"),
    "an answer in drops": Deed(acts=True, says="drops"),
    "silence before it acted": Deed(acts=False, says="silence"),
    "silence after it acted": Deed(acts=True, says="silence"),
    "503": Deed(acts=False, says=problem(503, "engine_unavailable")),
    "429": Deed(acts=False, says=problem(429, "rate_limited")),
    "504 after it acted": Deed(acts=True, says=problem(504, "outcome_unknown")),
    "504 before it acted": Deed(acts=False, says=problem(504, "outcome_unknown")),
    "500": Deed(acts=True, says=problem(500, "internal_error")),
    "502 of a proxy": Deed(acts=True, says=lambda asked, order: (502, {}, "Bad Gateway")),
}


@pytest.mark.parametrize("place", [place_blocking, place_awaiting])
@pytest.mark.parametrize("mishap", MISHAPS)
def test_an_order_is_placed_once_whatever_happens(exchange: Exchange, mishap: str, place) -> None:
    exchange.script = [MISHAPS[mishap], MISHAPS[mishap]]
    order = place(exchange.url, buy())
    assert len(exchange.placed) == 1
    assert exchange.placed[order.client_order_id]["id"] == order.id
    assert len(exchange.asked) == 3
    assert len({asked.body["client_order_id"] for asked in exchange.asked}) == 1


def test_an_order_without_an_answer_carries_its_id_and_can_be_asked_for(exchange: Exchange) -> None:
    order = buy()
    exchange.script = [Deed(acts=True, says="reset")] * 5
    with trader(exchange) as client:
        with pytest.raises(OutcomeUnknown) as raised:
            client.place_order(order)
        assert raised.value.id == order.client_order_id
        found = client.place_order(order)
    assert (len(exchange.placed), found.client_order_id) == (1, order.client_order_id)


def test_a_refusal_after_a_lost_answer_is_not_the_outcome(exchange: Exchange) -> None:
    refusals = [problem(503, "engine_unavailable"), problem(401, "invalid_key")]
    for refusal in refusals:
        exchange.script = [Deed(acts=True, says="reset"), *[Deed(acts=False, says=refusal)] * 4]
        with trader(exchange) as client, pytest.raises(OutcomeUnknown):
            client.place_order(buy())


def test_a_rules_refusal_is_an_outcome_also_after_a_lost_answer(exchange: Exchange) -> None:
    exchange.script = [
        Deed(acts=False, says="reset"),
        Deed(acts=False, says=problem(422, "insufficient_funds")),
    ]
    with trader(exchange) as client, pytest.raises(errors.InsufficientFunds):
        client.place_order(buy())
    assert len(exchange.asked) == 2


def test_what_was_never_done_is_said_as_it_is(exchange: Exchange) -> None:
    exchange.script = [Deed(acts=False, says=problem(503, "engine_unavailable"))] * 5
    with trader(exchange) as client, pytest.raises(errors.EngineUnavailable):
        client.place_order(buy())
    assert len(exchange.asked) == 5


def test_a_wait_longer_than_the_callers_patience_is_not_waited(exchange: Exchange) -> None:
    says = problem(429, "order_to_trade_ratio", **{"retry-after": "1800"})
    exchange.script = [Deed(acts=False, says=says)]
    with trader(exchange) as client, pytest.raises(errors.OrderToTradeRatio) as raised:
        client.place_order(buy())
    assert (raised.value.retry_after_s, len(exchange.asked)) == (1800.0, 1)


def test_the_exchange_says_how_long_to_wait() -> None:
    call = Api.place_order.describe(buy())
    steps = conversation.converse(call, Policy(), lambda: 0.0)
    assert isinstance(next(steps), conversation.Attempt)
    body = json.dumps({"status": 429, "code": "rate_limited"}).encode()
    busy = conversation.Reply(status=429, headers={"retry-after": "3"}, body=body)
    assert steps.send(busy) == conversation.Pause(seconds=3.0)
    assert steps.send(None).call is call


def test_what_has_no_id_is_not_sent_again_once_it_may_have_arrived(exchange: Exchange) -> None:
    exchange.script = [Deed(acts=False, says="reset")]
    with trader(exchange) as client, pytest.raises(OutcomeUnknown):
        client.create_api_key(["read"])
    assert len(exchange.asked) == 1
    key = {"id": "1", "name": "", "prefix": "", "scopes": [], "created_at": "2026-12-01T09:00:00Z"}
    exchange.script = [
        Deed(acts=False, says=problem(429, "rate_limited")),
        Deed(acts=False, says=lambda asked, order: (201, {}, key)),
    ]
    with trader(exchange) as client:
        assert client.create_api_key(["read"]).id == "1"


def test_money_moves_under_one_key_over_all_attempts(exchange: Exchange) -> None:
    done = {"id": "1", "amount": "5.000000", "state": "posted", "created_at": "2026-12-01T09:00Z"}
    done["created_at"] = "2026-12-01T09:00:00Z"
    exchange.script = [
        Deed(acts=False, says="reset"),
        Deed(acts=False, says="silence"),
        Deed(acts=False, says=lambda asked, order: (201, {}, done)),
    ]
    with trader(exchange) as client:
        client.deposit(5)
    assert len({asked.headers["idempotency-key"] for asked in exchange.asked}) == 1
    assert [asked.body for asked in exchange.asked] == [{"amount": "5.000000"}] * 3


def test_a_cancel_whose_answer_was_lost_is_found_done(exchange: Exchange) -> None:
    with trader(exchange) as client:
        order = client.place_order(buy())
        exchange.script = [Deed(acts=True, says="reset")]
        assert client.cancel_order(order.id).status == "canceled"
        with pytest.raises(errors.OrderClosed):
            client.cancel_order(order.id)


def test_an_amendment_whose_answer_was_lost_is_found_done(exchange: Exchange) -> None:
    with trader(exchange) as client:
        order = client.place_order(buy())

        def closes(asked: Asked, outcome: Any) -> None:
            exchange.placed[order.client_order_id]["status"] = "filled"

        exchange.script = [Deed(acts=True, says=lambda a, o: closes(a, o) or (502, {}, ""))]
        found = client.amend_order(order.id, price="1.300")
        assert (str(found.price), found.status) == ("1.300", "filled")
        exchange.script = [Deed(acts=True, says="reset")]
        with pytest.raises(errors.OrderClosed):
            client.amend_order(order.id, price="1.400")


def test_a_batch_with_a_lost_answer_and_unknown_items_places_and_cancels_once(
    exchange: Exchange,
) -> None:
    with trader(exchange) as client:
        old = client.place_order(buy())
        unknown = {"status": 504, "code": "outcome_unknown", "title": "", "detail": "no"}

        def half_known(asked: Asked, outcome: Any) -> tuple[int, dict[str, str], Any]:
            return 200, {}, {"results": [outcome["results"][0], unknown, outcome["results"][2]]}

        exchange.script = [Deed(acts=True, says="reset"), Deed(acts=True, says=half_known)]
        first, second, canceled = client.batch([buy(), buy(), Cancel(id=old.id)])
    assert len(exchange.placed) == 3
    assert isinstance(first, models.Order) and isinstance(second, models.Order)
    assert isinstance(canceled, models.Order) and canceled.status == "canceled"
    assert [len(a.body["operations"]) for a in exchange.asked if "batch" in a.path] == [3, 3, 1]


def test_what_does_not_answer_as_the_exchange_is_unreadable(exchange: Exchange) -> None:
    exchange.script = [Deed(acts=False, says=lambda asked, order: (200, {}, {"hello": 1}))]
    with Client(exchange.url, policy=QUICK) as client, pytest.raises(errors.UnreadableAnswer):
        client.time()


def test_nobody_there_is_a_transport_error_for_orders_too() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url, key="k", policy=QUICK) as client, pytest.raises(errors.TransportError):
        client.place_order(buy())
