"""Order entry: the small ASGI application beside Django that orders and cancels come through.

    POST   /api/v1/orders            201 with the order, once it is durable
    POST   /api/v1/orders/batch      200 with an order or a problem per operation, in order
    DELETE /api/v1/orders/{id}       200 with the order
    DELETE /api/v1/orders            200 with the canceled orders (instrument, side, grade)

It is raw ASGI because this is the path that is measured: no framework stands between a request's
bytes and the engine's stream, and nothing on the way to it waits for anything but the reply. Keys
come from the ring in memory, limits from buckets in memory, bodies through the strict decoder that
every door has. A repeated `client_order_id` is answered as the first request was, with
`Idempotency-Replayed: true`. A refusal by a rule of the market is a 422 with the reason as its
code; what was never understood is a 400 and was never journaled.
"""

import logging
import secrets
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import msgspec
from django.conf import settings

from exchange import client, commands, operations, queries, wire
from marketplace import contract, errors, http, keys
from marketplace import wire as text

logger = logging.getLogger(__name__)

ORDERS = "/api/v1/orders"
QUERY_FIELDS_MAX = 8
SIDES = {"": 0, "buy": 1, "sell": -1}


class Canceled(msgspec.Struct, kw_only=True):
    """The orders that a mass cancel took out of their books."""

    results: list[wire.OrderOut]


class BatchOut(msgspec.Struct, kw_only=True):
    """An order, or a problem, for every operation, in order."""

    results: list[wire.OrderOut | http.Problem]


class InternalError(errors.Refusal):
    """A defect on our side; nothing of it is shown."""

    code, status, title = "internal_error", 500, "Internal error"


class Entry:
    """The application: one per web process."""

    _order: ClassVar[msgspec.json.Decoder[wire.OrderIn]] = msgspec.json.Decoder(wire.OrderIn)
    _batch: ClassVar[msgspec.json.Decoder[wire.BatchIn]] = msgspec.json.Decoder(wire.BatchIn)

    def __init__(self) -> None:
        self.client: client.Client | None = None
        self.ring: keys.KeyRing | None = None

    async def start(self, *, reply_timeout_s: float = client.REPLY_TIMEOUT_S) -> None:
        """Connect to the engine and load the keys."""
        self.ring = await client.in_thread(keys.shared_ring)
        self.client = client.Client(url=settings.VALKEY_URL, reply_timeout_s=reply_timeout_s)
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
        self.request_id = "req_" + secrets.token_hex(12)
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
        if method == "POST" and path in (ORDERS, ORDERS + "/batch"):
            http.require_json(http.header(self.scope, b"content-type"))
            self._refuse_query()
            if path == ORDERS:
                return await self._place(key, body)
            return await self._carry_out(key, body)
        if method == "DELETE":
            if body.strip() not in (b"", b"{}"):
                raise http.malformed("", "unexpected_body", "this operation takes no body")
            if path == ORDERS:
                return await self._cancel_all(key)
            rest = path.removeprefix(ORDERS + "/")
            if "/" not in rest:
                self._refuse_query()
                return await self._cancel(key, text.parse_id(rest))
        if path == ORDERS or "/" not in path.removeprefix(ORDERS + "/"):
            raise http.MethodNotAllowed()
        raise errors.NotFound()

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
        given = http.decode(body, Entry._order)
        reply = await self._client().submit(wire.place_order(key.organization, given))
        order = wire.order_out(reply.events)
        self.is_replay = reply.result == "replayed"
        if order.status == "rejected":
            raise operations.rejected(order)
        self.status = 201
        return http.encode(order)

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
        given = http.decode(body, Entry._batch)
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
        named = [each.order for each in sent if isinstance(each, commands.CancelOrder)]
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
        instrument, grade = given.get("instrument", ""), given.get("grade", "")
        if instrument and contract.parse_symbol(instrument) is None:
            raise http.malformed("instrument", "invalid_value", "no such form of symbol")
        if grade and not contract.is_grade(grade):
            raise http.malformed("grade", "invalid_value", "no such form of grade")
        if given.get("side", "") not in SIDES:
            raise http.malformed("side", "invalid_value", "side is buy or sell")
        return instrument, grade, SIDES[given.get("side", "")]

    def _refuse_query(self) -> None:
        """:raises Malformed: when there is a query where none belongs."""
        if self.scope.get("query_string"):
            raise http.malformed("", "unknown_field", "this operation takes no parameters")


def _allowed(path: str) -> bytes:
    """Return the methods that a path has, those that Django answers included."""
    if path == ORDERS:
        return b"DELETE, GET, POST"
    return b"POST" if path == ORDERS + "/batch" else b"DELETE, GET"


def _command(
    organization: int, operation: wire.PlaceOperation | wire.CancelOperation
) -> commands.Command:
    """Return the command of one operation of a batch.

    :raises Refusal: when it has no valid form.
    """
    if isinstance(operation, wire.CancelOperation):
        return commands.CancelOrder(account=organization, order=text.parse_id(operation.id))
    return wire.place_order(organization, operation)


def _order_of(
    command: commands.Command | errors.Refusal,
    outcome: client.Outcome,
    known: dict[int, wire.OrderOut],
) -> wire.OrderOut:
    """Return the order of one operation of a batch; `known` has those that cancels named.

    :raises Refusal: when it has a problem instead.
    """
    if isinstance(outcome, errors.Refusal):
        raise outcome
    if isinstance(command, commands.CancelOrder):
        return operations.canceled_order(known.get(command.order), outcome)
    return operations.order_of(outcome)


application: Any = Entry()
