"""Order entry: the small ASGI application beside Django that orders and cancels come through.

    POST   /api/v1/orders                   201 with the order, once it is durable
    POST   /api/v1/orders/batch             200 with an order or a problem per operation, in order
    POST   /api/v1/orders/test              200 with what an order would do; nothing is placed
    POST   /api/v1/orders/cancel-all-after  200 with when all orders will leave
    POST   /api/v1/strips                   201 with the strip, once it is durable
    POST   /api/v1/strips/test              200 with what a strip would do; nothing is placed
    PATCH  /api/v1/orders/{id}              200 with the order as amended
    DELETE /api/v1/orders/{id}              200 with the order
    DELETE /api/v1/orders                   200 with the canceled orders (instrument, side, grade)

It is raw ASGI because this is the path that is measured: no framework stands between a request's
bytes and the engine's stream, and nothing on the way to it waits for anything but the reply. Keys
come from the ring in memory, limits from buckets in memory, bodies through the strict decoder that
every door has. A repeated `client_order_id` is answered as the first request was, with
`Idempotency-Replayed: true`. A refusal by a rule of the market is a 422 with the reason as its
code; what was never understood is a 400 and was never journaled.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from django.conf import settings

from exchange import client, commands, events, intake, operations, preview_wire, queries, wire
from marketplace import contract, errors, http, keys
from marketplace import wire as text

logger = logging.getLogger(__name__)

ORDERS = "/api/v1/orders"
STRIPS = "/api/v1/strips"
METHODS = frozenset({"POST", "PATCH", "DELETE"})
QUERY_FIELDS_MAX = 8
SIDES = {None: 0, "buy": 1, "sell": -1}


class Canceled(msgspec.Struct, kw_only=True):
    """The orders that a mass cancel took out of their books."""

    results: list[wire.OrderOut]


class BatchOut(msgspec.Struct, kw_only=True):
    """An order, or a problem, for every operation, in order."""

    results: list[wire.OrderOut | http.Problem]


class InternalError(errors.Refusal):
    """A defect on our side; nothing of it is shown."""

    code, status, title = "internal_error", 500, "Internal error"


def serves(method: str, path: str) -> bool:
    """Whether a request is one of those that this application answers."""
    return method in METHODS and (path in _POSTS or path.startswith(ORDERS + "/"))


class Entry:
    """The application: one per web process."""

    def __init__(self) -> None:
        self.client: client.Client | None = None
        self.ring: keys.KeyRing | None = None

    async def start(self, *, reply_timeout_s: float | None = None) -> None:
        """Connect to the engine and load the keys; replies have `client.REPLY_TIMEOUT_S`."""
        self.ring = await client.in_thread(keys.shared_ring)
        self.client = client.Client(
            url=settings.VALKEY_URL, reply_timeout_s=reply_timeout_s or client.REPLY_TIMEOUT_S
        )
        await self.client.start()

    async def stop(self) -> None:
        """Disconnect; the ring is the process's and stays."""
        if self.client is not None:
            await self.client.stop()
            self.client = None

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one request, or the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        exchange = _Exchange(self, scope, receive)
        try:
            body = await exchange.answer()
            headers = [(b"content-type", http.JSON.encode()), *http.NO_STORE]
            status = exchange.status
        except http.Disconnected:
            return
        except errors.Refusal as refusal:
            status, headers, body = http.problem(refusal, exchange.request_id)
            if isinstance(refusal, http.RateLimited):
                exchange.allowance = refusal.allowance
                await http.hold(refusal)
            elif isinstance(refusal, http.MethodNotAllowed):
                headers.append((b"allow", _allowed(scope["path"])))
        except Exception:
            logger.exception("order entry broke")
            status, headers, body = http.problem(InternalError(), exchange.request_id)
        await http.respond(send, status, [*headers, *exchange.headers()], body)

    async def _live(self, receive: http.Receive, send: http.Send) -> None:
        """Start and stop with the server."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Exchange:
    """One request and its answer."""

    def __init__(self, entry: Entry, scope: http.Scope, receive: http.Receive) -> None:
        self.entry = entry
        self.scope = scope
        self.receive = receive
        self.request_id = f"{_PROCESS}{next(_numbers):08x}"
        self.status = 200
        self.allowance: http.Allowance | None = None
        self.is_replay = False

    def headers(self) -> http.Headers:
        """Return the headers that the answer has beside its type."""
        found: http.Headers = [(b"request-id", self.request_id.encode())]
        if self.allowance is not None:
            found += self.allowance.headers()
        if self.is_replay:
            found.append((b"idempotency-replayed", b"true"))
        return found

    async def answer(self) -> bytes:
        """Return the body of the answer; its status is in `status`.

        :raises Refusal: what the answer is otherwise.
        """
        path, method = self.scope["path"], self.scope["method"]
        body = await http.read_body(self.receive)
        key = await self._authenticate(method, body)
        carry_out = _POSTS.get(path)
        if method == "POST" and carry_out is not None:
            self._require_body()
            return await carry_out(self, key, body)
        if path == ORDERS and method == "DELETE":
            self._refuse_body(body)
            return await self._cancel_all(key)
        if path == ORDERS or carry_out is not None:
            raise http.MethodNotAllowed()
        rest = path.removeprefix(ORDERS + "/")
        if "/" in rest:
            raise errors.NotFound()
        if method == "DELETE":
            self._refuse_body(body)
            self._refuse_query()
            return await self._cancel(key, text.parse_id(rest))
        if method == "PATCH":
            self._require_body()
            return await self._amend(key, text.parse_id(rest), body)
        raise http.MethodNotAllowed()

    async def _authenticate(self, method: str, body: bytes) -> keys.Key:
        """Return the key, having counted the request against its limit and checked its scope."""
        ring = self.entry.ring
        assert ring is not None, "order entry was started"
        try:
            key = await ring.authenticate_async(
                http.header(self.scope, b"authorization"),
                address=http.peer(self.scope),
                method=method,
                target=http.target(self.scope),
                body=body,
                headers=self.scope["headers"],
            )
        except errors.Unauthenticated:
            self.allowance = http.WRITES.take(f"address:{http.peer(self.scope)}")
            raise
        self.allowance = http.WRITES.take(f"key:{key.id}")
        key.require("trade")
        return key

    async def _place(self, key: keys.Key, body: bytes) -> bytes:
        """Enter one order."""
        given = http.decode(body, _order)
        return await self._enter(intake.place_order(key.organization, given))

    async def _place_strip(self, key: keys.Key, body: bytes) -> bytes:
        """Enter one strip."""
        given = http.decode(body, _strip)
        return await self._enter(intake.place_strip(key.organization, given))

    async def _enter(self, command: commands.PlaceOrder | commands.PlaceStrip) -> bytes:
        """Send what has a client order id, and answer as the first such request was."""
        reply = await self._client().submit(command)
        order = wire.order_out(reply.events)
        self.is_replay = reply.result == "replayed"
        if order.status == "rejected":
            raise operations.rejected(order)
        self.status = 201
        return http.encode(order)

    async def _preview(self, key: keys.Key, body: bytes) -> bytes:
        """Say what an order would do."""
        given = http.decode(body, _question)
        reply = await self._client().submit(intake.preview_order(key.organization, given))
        return http.encode(preview_wire.preview_out(given.instrument, reply.events))

    async def _preview_strip(self, key: keys.Key, body: bytes) -> bytes:
        """Say what a strip would do."""
        given = http.decode(body, _strip_question)
        reply = await self._client().submit(intake.preview_strip(key.organization, given))
        return http.encode(preview_wire.strip_preview_out(reply.events))

    async def _set_switch(self, key: keys.Key, body: bytes) -> bytes:
        """Set or unset the organization's dead-man's switch."""
        command = intake.set_switch(key.organization, http.decode(body, _switch))
        reply = await self._client().submit(command)
        due_at = [event.due_at for event in reply.events if isinstance(event, events.SwitchSet)][-1]
        if command.timeout and not due_at:
            raise operations.refused("unknown_account")
        return http.encode(
            wire.SwitchOut(
                timeout_ms=command.timeout // 1_000,
                cancel_at=text.time_text(due_at) if due_at else None,
            )
        )

    async def _amend(self, key: keys.Key, order: int, body: bytes) -> bytes:
        """Amend one order."""
        given = http.decode(body, _amendment)
        reply = await self._client().submit(intake.amend_order(key.organization, order, given))
        found = await client.in_thread(
            operations.amended, organization=key.organization, order=order, reply=reply
        )
        return http.encode(found)

    async def _cancel(self, key: keys.Key, order: int) -> bytes:
        """Cancel one order."""
        reply = await self._client().submit(
            commands.CancelOrder(account=key.organization, order=order)
        )
        found = await client.in_thread(
            operations.canceled, organization=key.organization, order=order, reply=reply
        )
        return http.encode(found)

    async def _cancel_all(self, key: keys.Key) -> bytes:
        """Cancel the orders that the query names."""
        instrument, grade, side = self._filters()
        reply = await self._client().submit(
            commands.CancelOrders(
                account=key.organization, instrument=instrument, grade=grade, side=side
            )
        )
        results = await client.in_thread(
            queries.orders_by_id,
            organization=key.organization,
            ids=operations.closed_orders(reply),
        )
        return http.encode(Canceled(results=results))

    async def _carry_out(self, key: keys.Key, body: bytes) -> bytes:
        """Carry out a batch: whatever cannot be understood is its operation's own problem."""
        given = http.decode(body, _batch)
        if len(given.operations) > 1:
            self.allowance = http.WRITES.take(f"key:{key.id}", count=len(given.operations) - 1)
        wanted: list[commands.Command | errors.Refusal] = []
        for operation in given.operations:
            try:
                wanted.append(_command(key.organization, operation))
            except errors.Refusal as refusal:
                wanted.append(refusal)
        sent = [each for each in wanted if not isinstance(each, errors.Refusal)]
        replies = iter(await self._client().submit_many(sent))
        named = [each.order for each in sent if isinstance(each, _BY_ID)]
        known: dict[int, wire.OrderOut] = {}
        if named:
            found = await client.in_thread(
                queries.orders_by_id, organization=key.organization, ids=named
            )
            known = {int(order.id): order for order in found}
        results: list[wire.OrderOut | http.Problem] = []
        for each in wanted:
            outcome = each if isinstance(each, errors.Refusal) else next(replies)
            try:
                results.append(_order_of(each, outcome, known))
            except errors.Refusal as refusal:
                results.append(http.problem_of(refusal, self.request_id))
        return http.encode(BatchOut(results=results))

    def _client(self) -> client.Client:
        assert self.entry.client is not None, "order entry was started"
        return self.entry.client

    def _filters(self) -> tuple[str, str, int]:
        """Return instrument, grade and side of a mass cancel.

        :raises Malformed: when the query has anything else.
        """
        try:
            pairs = parse_qsl(
                self.scope["query_string"].decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(self.scope["query_string"]),
                max_num_fields=QUERY_FIELDS_MAX,
            )
        except (UnicodeDecodeError, ValueError):
            raise http.malformed("", "invalid_query", "the query cannot be read") from None
        given = dict(pairs)
        for name in given:
            if name not in ("instrument", "grade", "side"):
                raise http.malformed(name, "unknown_field", "unknown parameter")
        if len(given) != len(pairs):
            raise http.malformed("", "duplicate_key", "a parameter appears twice")
        # A filter that is there and empty is a caller's mistake, and must not cancel everything.
        instrument, grade, side = map(given.get, ("instrument", "grade", "side"))
        if instrument is not None and not contract.is_symbol(instrument):
            raise http.malformed("instrument", "invalid_value", "no such form of symbol")
        if grade is not None and not contract.is_grade(grade):
            raise http.malformed("grade", "invalid_value", "no such form of grade")
        if side not in SIDES:
            raise http.malformed("side", "invalid_value", "side is buy or sell")
        return instrument or "", grade or "", SIDES[side]

    def _require_body(self) -> None:
        """:raises Malformed: when the body is not declared as JSON, or there is a query too."""
        http.require_json(http.header(self.scope, b"content-type"))
        self._refuse_query()

    def _refuse_body(self, body: bytes) -> None:
        """:raises Malformed: when there is a body where none belongs."""
        if body.strip() not in (b"", b"{}"):
            raise http.malformed("", "unexpected_body", "this operation takes no body")

    def _refuse_query(self) -> None:
        """:raises Malformed: when there is a query where none belongs."""
        if self.scope.get("query_string"):
            raise http.malformed("", "unknown_field", "this operation takes no parameters")


_POSTS: dict[str, Callable[[_Exchange, keys.Key, bytes], Awaitable[bytes]]] = {
    ORDERS: _Exchange._place,
    ORDERS + "/batch": _Exchange._carry_out,
    ORDERS + "/test": _Exchange._preview,
    ORDERS + "/cancel-all-after": _Exchange._set_switch,
    STRIPS: _Exchange._place_strip,
    STRIPS + "/test": _Exchange._preview_strip,
}
_PROCESS, _numbers = "req_" + secrets.token_hex(8), count(1)
"""Requests are numbered within a process, which has a name of its own."""
_BY_ID = (commands.CancelOrder, commands.AmendOrder)
_order = msgspec.json.Decoder(intake.OrderIn)
_question = msgspec.json.Decoder(intake.PreviewIn)
_amendment = msgspec.json.Decoder(intake.AmendIn)
_batch = msgspec.json.Decoder(intake.BatchIn)
_strip = msgspec.json.Decoder(intake.StripIn)
_strip_question = msgspec.json.Decoder(intake.StripPreviewIn)
_switch = msgspec.json.Decoder(intake.SwitchIn)


def _allowed(path: str) -> bytes:
    """Return the methods that a path has, those that Django answers included."""
    if path == ORDERS:
        return b"DELETE, GET, POST"
    return b"POST" if path in _POSTS else b"DELETE, GET, PATCH"


def _command(organization: int, operation: intake.Operation) -> commands.Command:
    """Return the command of one operation of a batch.

    :raises Refusal: when it has no valid form.
    """
    if isinstance(operation, intake.CancelOperation):
        return commands.CancelOrder(account=organization, order=text.parse_id(operation.id))
    if isinstance(operation, intake.AmendOperation):
        return intake.amend_order(organization, text.parse_id(operation.id), operation)
    return intake.place_order(organization, operation)


def _order_of(
    command: commands.Command | errors.Refusal,
    outcome: client.Outcome,
    known: dict[int, wire.OrderOut],
) -> wire.OrderOut:
    """Return the order of one operation of a batch; `known` has those that ids named.

    :raises Refusal: when it has a problem instead.
    """
    if isinstance(outcome, errors.Refusal):
        raise outcome
    if isinstance(command, commands.CancelOrder):
        return operations.canceled_order(known.get(command.order), outcome)
    if isinstance(command, commands.AmendOrder):
        return operations.amended_order(known.get(command.order), outcome)
    return operations.order_of(outcome)


application: Any = Entry()
