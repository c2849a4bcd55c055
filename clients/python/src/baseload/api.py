"""The API, described once for both kinds of client.

Each method says what is sent, what comes back and what may be done when the answer is lost. Its
docstring is the endpoint's; docs/rest.md has the conventions. Ids are made here, once per call, so
that they are the same on every attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from baseload import describe, errors, models, terms
from baseload.api_capacity import CapacityApi
from baseload.api_delivery import DeliveryApi
from baseload.api_operator import OperatorApi
from baseload.calls import Call, Outcome, Repeat, Settling, endpoint, listing
from baseload.terms import Number

BATCH_OPERATIONS_MAX = 500
UNKNOWN_ITEM_TRIES = 3
BatchItem = models.Order | errors.ApiError


class _BatchAnswer(msgspec.Struct):
    results: list[dict[str, Any]]


class Canceled(msgspec.Struct, frozen=True):
    """The orders that a mass cancel took out of their books."""

    results: tuple[models.Order, ...]


class Api(CapacityApi, DeliveryApi, OperatorApi):
    """Every endpoint; `Client` and `AsyncClient` send what it describes."""

    # The market

    @endpoint
    def time(self) -> Call[models.Time]:
        """Return market time."""
        return describe.get("time", models.Time)

    @endpoint
    def status(self) -> Call[models.Status]:
        """Return whether the exchange takes orders."""
        return describe.get("status", models.Status)

    @listing
    def grades(self) -> Call[models.Page[models.Grade]]:
        """List the grades."""
        return describe.get("grades", models.Page[models.Grade])

    @listing
    def instruments(
        self, *, grade: str = "", product: str = "", state: str = "", page_size: int = 1_000
    ) -> Call[models.Page[models.Instrument]]:
        """List instruments; the state `live` stands for all in which one may still trade."""
        return describe.get(
            "instruments",
            models.Page[models.Instrument],
            grade=grade,
            product=product,
            state=state,
            limit=page_size,
        )

    @endpoint
    def instrument(self, symbol: str) -> Call[models.Instrument]:
        """Return one instrument."""
        return describe.get(f"instruments/{describe.part(symbol)}", models.Instrument)

    @endpoint
    def book(self, symbol: str, *, depth: int = 50) -> Call[models.BookSnapshot]:
        """Return a book at one instant."""
        return describe.get(
            f"instruments/{describe.part(symbol)}/book", models.BookSnapshot, depth=depth
        )

    @listing
    def deltas(
        self, symbol: str, first: int, last: int | None = None, *, page_size: int = 500
    ) -> Call[models.Page[models.Delta]]:
        """List what changed a book from one sequence to another (both included), or to now."""
        path = f"instruments/{describe.part(symbol)}/deltas"
        query = {"from": first, "to": last, "limit": page_size}
        return describe.get(path, models.Page[models.Delta], **query)

    @listing
    def trades(self, symbol: str, *, page_size: int = 100) -> Call[models.Page[models.Trade]]:
        """List the tape of an instrument, the newest trade first."""
        path = f"instruments/{describe.part(symbol)}/trades"
        return describe.get(path, models.Page[models.Trade], limit=page_size)

    @listing
    def candles(
        self, symbol: str, *, interval: terms.Interval = "1h", page_size: int = 100
    ) -> Call[models.Page[models.Candle]]:
        """List the candles of an instrument, the newest first."""
        path = f"instruments/{describe.part(symbol)}/candles"
        return describe.get(path, models.Page[models.Candle], interval=interval, limit=page_size)

    @endpoint
    def auction(self, symbol: str) -> Call[models.Auction]:
        """Return the auction of an instrument: the one that runs, and the last one."""
        return describe.get(f"instruments/{describe.part(symbol)}/auction", models.Auction)

    @endpoint
    def curve(self, grade: str) -> Call[models.Curve]:
        """Return the forward curve of a grade."""
        return describe.get(f"curve/{describe.part(grade)}", models.Curve)

    @listing
    def index(self, grade: str, *, page_size: int = 100) -> Call[models.Page[models.IndexValue]]:
        """List the hourly index of a grade, the latest hour first."""
        return describe.get(
            f"index/{describe.part(grade)}", models.Page[models.IndexValue], limit=page_size
        )

    @endpoint
    def index_hour(self, grade: str, hour: str) -> Call[models.IndexValue]:
        """Return the index of one hour, `20261205T14Z`, with its inputs."""
        return describe.get(
            f"index/{describe.part(grade)}/{describe.part(hour)}", models.IndexValue
        )

    @listing
    def pools(self, *, grade: str = "") -> Call[models.Page[models.Pool]]:
        """List the pools that serve requests."""
        return describe.get("pools", models.Page[models.Pool], grade=grade)

    @endpoint
    def transparency(self, pool_id: str, *, limit: int = 100) -> Call[models.Transparency]:
        """Return how a pool serves now, and how it did in its last intervals."""
        path = f"pools/{describe.part(pool_id)}/transparency"
        return describe.get(path, models.Transparency, limit=limit)

    @listing
    def signing_keys(self) -> Call[models.Page[models.SigningKey]]:
        """List the exchange's public keys, and when each of them signs."""
        return describe.get("keys", models.Page[models.SigningKey])

    @listing
    def receipt_heads(self) -> Call[models.Page[models.LogHead]]:
        """List the signed heads of the log of receipts, the newest first."""
        return describe.get("receipts/heads", models.Page[models.LogHead])

    @listing
    def receipt_leaves(
        self, *, pool: str = "", interval: datetime | None = None
    ) -> Call[models.Page[models.LogLeaf]]:
        """List what is public of receipts: of a pool, and of the interval that begins then."""
        page = models.Page[models.LogLeaf]
        return describe.get("receipts/leaves", page, pool=pool, interval=interval)

    @endpoint
    def receipt_proof(self, leaf_hash: str, *, size: int = 0) -> Call[models.InclusionProof]:
        """Return the proof that a leaf is under the newest head, or under that of a size."""
        return describe.get(
            "receipts/proof", models.InclusionProof, hash=leaf_hash, size=size or None
        )

    @endpoint
    def receipt_consistency(self, old: int, new: int) -> Call[models.ConsistencyProof]:
        """Return the proof that the head of one size continues that of another."""
        return describe.get(
            "receipts/consistency", models.ConsistencyProof, **{"from": old, "to": new}
        )

    # Orders

    @endpoint
    def place_order(self, order: terms.NewOrder) -> Call[models.Order]:
        """Place an order; sending the same object again cannot place it twice."""
        return describe.keyed("orders", order.body(), models.Order, order.client_order_id)

    @endpoint
    def test_order(self, order: terms.NewOrder) -> Call[models.Preview]:
        """Return what an order would do now: fills, fee, margin, impact. Nothing is placed."""
        return describe.same("POST", "orders/test", models.Preview, order.body())

    @endpoint
    def place_strip(self, strip: terms.NewStrip) -> Call[models.Order]:
        """Buy or sell the same lots in a range of hours, at once or never."""
        return describe.keyed("strips", strip.body(), models.Order, strip.client_order_id)

    @endpoint
    def test_strip(self, strip: terms.NewStrip) -> Call[models.StripPreview]:
        """Return what a strip would do now, hour by hour. Nothing is placed."""
        return describe.same("POST", "strips/test", models.StripPreview, strip.body())

    @listing
    def orders(
        self,
        *,
        instrument: str = "",
        side: Literal["", "buy", "sell"] = "",
        status: str = "",
        page_size: int = 100,
    ) -> Call[models.Page[models.Order]]:
        """List own orders, the newest first; the status `live` stands for all that may trade."""
        return describe.get(
            "orders",
            models.Page[models.Order],
            instrument=instrument,
            side=side,
            status=status,
            limit=page_size,
        )

    @endpoint
    def order(self, order_id: str) -> Call[models.Order]:
        """Return one order with its fills."""
        return describe.get(f"orders/{describe.part(order_id)}", models.Order)

    @listing
    def orders_by_client_id(self, client_order_id: str) -> Call[models.Page[models.Order]]:
        """List the order with a client order id, if there is one; repeating it always tells."""
        return describe.get("orders", models.Page[models.Order], client_order_id=client_order_id)

    @endpoint
    def amend_order(
        self,
        order_id: str,
        *,
        price: Number | None = None,
        quantity: int | None = None,
        stop_price: Number | None = None,
    ) -> Call[models.Order]:
        """Change an order; `quantity` is the new total, what is filled included."""
        amend = terms.Amend(id=order_id, price=price, quantity=quantity, stop_price=stop_price)
        body = amend.body()
        return describe.same(
            "PATCH",
            f"orders/{describe.part(order_id)}",
            models.Order,
            body,
            settle=_settled_by(order_id, lambda order: is_amended(order, body)),
        )

    @endpoint
    def cancel_order(self, order_id: str) -> Call[models.Order]:
        """Cancel an order, and return it as it is then."""
        return describe.same(
            "DELETE",
            f"orders/{describe.part(order_id)}",
            models.Order,
            settle=_settled_by(order_id, lambda order: order.status == "canceled"),
        )

    @endpoint
    def cancel_orders(
        self, *, instrument: str = "", side: Literal["", "buy", "sell"] = "", grade: str = ""
    ) -> Call[Canceled]:
        """Cancel every order that matches; without a filter, all of them."""
        query = {"instrument": instrument, "side": side, "grade": grade}
        return Call(
            method="DELETE",
            path="orders",
            result=Canceled,
            repeat=Repeat.SAME,
            query=describe.parameters(query),
        )

    @endpoint
    def batch(self, operations: Sequence[terms.Operation]) -> Call[list[BatchItem]]:
        """Carry out up to 500 operations; an order or an `ApiError` for each, in order."""
        return _batch([terms.operation(one) for one in operations])

    @endpoint
    def cancel_all_after(self, timeout_ms: int) -> Call[models.Switch]:
        """Have all orders canceled in `timeout_ms`, unless this is called again; 0 is off."""
        return describe.same(
            "POST", "orders/cancel-all-after", models.Switch, {"timeout_ms": timeout_ms}
        )

    # The account

    @endpoint
    def account(self) -> Call[models.Account]:
        """Return what the organization owns and may use."""
        return describe.get("account", models.Account)

    @listing
    def positions(self, *, page_size: int = 1_000) -> Call[models.Page[models.Position]]:
        """List net lots per instrument."""
        return describe.get("positions", models.Page[models.Position], limit=page_size)

    @listing
    def fills(
        self, *, instrument: str = "", page_size: int = 100
    ) -> Call[models.Page[models.OwnFill]]:
        """List own fills, the newest first."""
        return describe.get(
            "fills", models.Page[models.OwnFill], instrument=instrument, limit=page_size
        )

    @listing
    def ledger(
        self,
        *,
        account: str = "cash",
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 1_000,
    ) -> Call[models.Page[models.LedgerEntry]]:
        """List transfers, the newest first, with the balance after each."""
        return describe.get(
            "ledger",
            models.Page[models.LedgerEntry],
            account=account,
            since=since,
            until=until,
            limit=page_size,
        )

    @endpoint
    def margin(self) -> Call[models.Margin]:
        """Return what positions and orders have behind them."""
        return describe.get("margin", models.Margin)

    @listing
    def entitlements(
        self, *, since: datetime | None = None, page_size: int = 100
    ) -> Call[models.Page[models.Entitlement]]:
        """List rights to use capacity, the latest hour first."""
        return describe.get(
            "entitlements", models.Page[models.Entitlement], since=since, limit=page_size
        )

    @listing
    def settlements(self, *, page_size: int = 1_000) -> Call[models.Page[models.Settlement]]:
        """List settled intervals, the latest first."""
        return describe.get("settlements", models.Page[models.Settlement], limit=page_size)

    @endpoint
    def usage(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        span: Literal["interval", "hour", "day"] = "hour",
    ) -> Call[models.Usage]:
        """Return tokens used, by span, grade and class."""
        return describe.get("usage", models.Usage, since=since, until=until, span=span)

    @endpoint
    def receipt(self, receipt_id: str) -> Call[models.Receipt]:
        """Return the signed receipt of a request, as its holder or its seller."""
        return describe.get(f"receipts/{describe.part(receipt_id)}", models.Receipt)

    @endpoint
    def deposit(self, amount: Number, *, idempotency_key: str = "") -> Call[models.Movement]:
        """Deposit money."""
        return describe.once("deposits", _amount(amount), models.Movement, idempotency_key)

    @endpoint
    def withdraw(self, amount: Number, *, idempotency_key: str = "") -> Call[models.Movement]:
        """Withdraw money, up to what is withdrawable."""
        return describe.once("withdrawals", _amount(amount), models.Movement, idempotency_key)

    @listing
    def api_keys(self) -> Call[models.Page[models.ApiKey]]:
        """List the active keys of the organization."""
        return describe.get("api-keys", models.Page[models.ApiKey])

    @endpoint
    def create_api_key(
        self,
        scopes: Sequence[str],
        *,
        name: str = "",
        public_key: str | None = None,
        addresses: Sequence[str] = (),
    ) -> Call[models.ApiKey]:
        """Make a key. Its text is in the answer and nowhere else, so this is never sent twice."""
        body: dict[str, Any] = {"scopes": list(scopes), "name": name, "addresses": list(addresses)}
        if public_key is not None:
            body["public_key"] = public_key
        return Call(
            method="POST",
            path="api-keys",
            result=models.ApiKey,
            repeat=Repeat.ONCE,
            body=msgspec.json.encode(body),
        )

    @endpoint
    def revoke_api_key(self, key_id: str) -> Call[models.Revoked]:
        """Revoke a key."""
        return describe.same("DELETE", f"api-keys/{describe.part(key_id)}", models.Revoked)

    @listing
    def statements(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Call[models.Page[models.Statement]]:
        """List a statement for each day on which money moved, or the one of a period."""
        return describe.get("statements", models.Page[models.Statement], since=since, until=until)

    # A demo

    @endpoint
    def create_demo_organization(
        self, name: str, role: Literal["buyer", "provider", "operator"]
    ) -> Call[models.DemoOrganization]:
        """Make an organization of a demo, with a key."""
        return Call(
            method="POST",
            path="demo/organizations",
            result=models.DemoOrganization,
            repeat=Repeat.ONCE,
            body=msgspec.json.encode({"name": name, "role": role}),
        )

    @endpoint
    def advance_clock(self, advance_to: datetime) -> Call[models.Time]:
        """Move a demo's clock forward; answered when everything due by then is done."""
        body = {"advance_to": terms.instant(advance_to)}
        return describe.same("POST", "demo/clock", models.Time, body, timeout_s=180.0)


def _amount(amount: Number) -> dict[str, Any]:
    return {"amount": terms.fixed(amount, terms.MONEY_DECIMALS)}


def is_amended(order: models.Order, wanted: Mapping[str, Any]) -> bool:
    """Whether an order has the terms that an amendment asked for."""
    shown = {
        "price": None if order.price is None else f"{order.price:f}",
        "quantity": order.quantity,
        "stop_price": None if order.stop_price is None else f"{order.stop_price:f}",
    }
    return all(shown[name] == value for name, value in wanted.items())


def _settled_by(
    order_id: str, is_done: Callable[[models.Order], bool]
) -> Callable[[Outcome[models.Order]], Settling[models.Order]]:
    """Say how a repeated cancel or amendment is judged: an earlier attempt may have done it."""

    def settle(outcome: Outcome[models.Order]) -> Settling[models.Order]:
        if outcome.is_repeat and isinstance(outcome.error, errors.OrderClosed):
            order: models.Order = yield describe.get(
                f"orders/{describe.part(order_id)}", models.Order
            )
            if is_done(order):
                return order
        return outcome.get()

    return settle


def _batch(
    operations: list[dict[str, Any]], tries: int = UNKNOWN_ITEM_TRIES
) -> Call[list[BatchItem]]:
    if not 1 <= len(operations) <= BATCH_OPERATIONS_MAX:
        raise ValueError(f"a batch has 1 to {BATCH_OPERATIONS_MAX} operations")

    def settle(outcome: Outcome[Any]) -> Settling[list[BatchItem]]:
        items: list[BatchItem] = [_batch_item(one) for one in outcome.get().results]
        unknown = [i for i, one in enumerate(items) if getattr(one, "status", 0) == 504]
        if unknown and tries:
            again: list[BatchItem] = yield _batch([operations[i] for i in unknown], tries - 1)
            for i, item in zip(unknown, again, strict=True):
                items[i] = item
        if outcome.is_repeat or unknown:
            for i, item in enumerate(items):
                if isinstance(item, errors.OrderClosed):
                    items[i] = yield from _settle_item(operations[i], item)
        return items

    return Call(
        method="POST",
        path="orders/batch",
        result=_BatchAnswer,
        repeat=Repeat.SAME,
        body=msgspec.json.encode({"operations": operations}),
        settle=settle,
    )


def _settle_item(wanted: Mapping[str, Any], item: errors.OrderClosed) -> Settling[BatchItem]:
    """Find out whether an earlier attempt of the batch canceled or amended the order."""
    order: models.Order = yield describe.get(f"orders/{describe.part(wanted['id'])}", models.Order)
    changes = {name: value for name, value in wanted.items() if name not in ("op", "id")}
    is_cancel = wanted["op"] == "cancel"
    is_done = order.status == "canceled" if is_cancel else is_amended(order, changes)
    return order if is_done else item


def _batch_item(item: dict[str, Any]) -> BatchItem:
    """Return an order, or the error of a problem document."""
    if isinstance(item.get("status"), int):
        return errors.api_error(msgspec.convert(item, errors.Problem))
    return msgspec.convert(item, models.Order)
