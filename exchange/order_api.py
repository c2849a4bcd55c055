"""How orders are entered and read over REST.

Reading them is answered here. What enters, changes or cancels one is answered at the small
application beside Django (`exchange.entry`); its operations are only documented here, from the very
structs that it reads and writes. A list goes from the newest to the oldest.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from exchange import intake, preview_wire, queries, reasons, wire
from marketplace import errors
from marketplace import wire as texts
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict

ORDER_REASONS = tuple(reasons.Reject)
ENGINE_CODES: tuple[str, ...] = (
    "engine_unavailable",
    "engine_overloaded",
    "never_placed",
    "clock_skew",
    "outcome_unknown",
)
GRADE = r"^[A-Z][A-Z0-9]{1,15}$"
SYMBOL = r"^[A-Z][A-Z0-9]{1,15}\.H\.[0-9]{8}T[0-9]{2}Z$"
"""What the filters of a mass cancel look like; an empty one is refused."""


class ListOrders(Endpoint):
    """The organization's orders and strips, the newest first."""

    scope = "read"
    tag = "orders"
    Item = wire.OrderRead
    Output = Listed[wire.OrderRead]

    class Query(Strict):
        """Filters; `live` stands for orders that rest in a book or wait for their stop price."""

        instrument: Annotated[str, msgspec.Meta(max_length=intake.SYMBOL_LENGTH_MAX)] = ""
        side: Literal["", "buy", "sell"] = ""
        client_order_id: Annotated[str, msgspec.Meta(max_length=255)] = ""
        status: Literal[
            "",
            "live",
            "open",
            "partially_filled",
            "filled",
            "canceled",
            "expired",
            "rejected",
            "untriggered",
        ] = ""

    def handle(self, call: Call) -> Listed[wire.OrderOut]:
        """Answer."""
        query = call.query
        if query.client_order_id:
            found = queries.order_by_client_id(
                organization=call.organization, client_order_id=query.client_order_id
            )
            return Listed(results=[] if found is None else [found], next_cursor=None)
        rows = queries.orders(
            organization=call.organization,
            limit=call.page.fetch,
            before=call.page.number(),
            symbol=query.instrument,
            status=query.status,
            side={"": 0, "buy": 1, "sell": -1}[query.side],
        )
        shown = {order.id: order for order in queries.with_fills(rows[: call.page.limit])}
        return call.page.page(rows, lambda row: shown[str(row.id)], position=lambda row: [row.id])


class ShowOrder(Endpoint):
    """One order, or strip, with its fills."""

    scope = "read"
    tag = "orders"
    Output = wire.OrderRead

    def handle(self, call: Call, order_id: str) -> wire.OrderOut:
        """Answer."""
        found = queries.order(organization=call.organization, order_id=texts.parse_id(order_id))
        if found is None:
            raise errors.NotFound()
        return found


class _Entered(Endpoint):
    """An operation that `exchange.entry` answers."""

    scope = "trade"
    tag = "orders"
    is_documented_only = True
    codes: ClassVar[Sequence[str]] = ENGINE_CODES


class PlaceOrder(_Entered):
    """Enter an order; answered when it is durable, with what it traded at once.

    `client_order_id` is unique for the organization for ever: the same one with the same terms is
    answered as it was the first time, with `Idempotency-Replayed: true`; with others it is refused
    (409 `key_reuse`). An order that a rule refuses is a 422 with the reason as its code. `price`
    goes with types `limit` and `stop_limit`, `stop_price` with `stop` and `stop_limit`,
    `expires_at` with `gtd`; a market order is `gtc` (which for it is `ioc`), `ioc` or `fok`; only
    limit orders that can rest are `post_only`, and only orders with a limit that can rest have a
    `display_quantity`.
    """

    method = "POST"
    status = 201
    has_client_id = True
    codes = (*ORDER_REASONS, *ENGINE_CODES)
    Input = intake.OrderIn
    Output = wire.OrderOut


class PreviewOrder(_Entered):
    """Ask what an order would do now: reason, fills, fee, margin and impact. Nothing is placed.

    `reason` is why it would be refused or canceled, `margin` what would be reserved more for it.
    Stop orders that its own trades would trigger are left out; strips have a test of their own.
    The answer is that of one instant and promises nothing.
    """

    method = "POST"
    codes = ("engine_unavailable", "engine_overloaded", "clock_skew")
    Input = intake.PreviewIn
    Output = preview_wire.PreviewOut


class AmendOrder(_Entered):
    """Change price, quantity or stop price of a live order in place; answered with it as it is.

    `quantity` is the new total, with what is filled already; at or below that the order is
    canceled with reason `amended`. A smaller quantity alone keeps the order's time. Margin is
    judged for the order as it would be; what is refused changes nothing. A price that crosses
    trades at once, as a taker.
    """

    method = "PATCH"
    codes = (*ORDER_REASONS, "unknown_order", "order_closed", *ENGINE_CODES)
    Input = intake.AmendIn
    Output = wire.OrderOut


class PlaceStrip(_Entered):
    """Trade the same lots in every hour of `[from, to)`, at once or not at all.

    `price` limits the average over all lots and hours, `min_share` is the percent of `quantity`
    (lots in each hour) that must trade if anything does. `alternatives` are grades to try, in
    order, when `grade` cannot be had: one of them trades at most. What cannot trade is answered
    with status `canceled`, reason `strip_unfilled`. `client_order_id` is as for orders, in the same
    name space.
    """

    method = "POST"
    status = 201
    has_client_id = True
    codes = (*ORDER_REASONS, *ENGINE_CODES)
    Input = intake.StripIn
    Output = wire.StripOut


class PreviewStrip(_Entered):
    """Ask what a strip would do now: which grade it would trade, and what in each hour.

    As for an order (`POST orders/test`), and by the same code that places strips: fills and impact
    by hour, fee, margin and what would be left for all of them. Nothing is placed.
    """

    method = "POST"
    codes = ("engine_unavailable", "engine_overloaded", "clock_skew")
    Input = intake.StripPreviewIn
    Output = preview_wire.StripPreviewOut


class EnterBatch(_Entered):
    """Place, amend and cancel up to 500 orders; an order or a problem for each, in order.

    Each operation counts as a write. An order that an operation names by its id is answered as it
    stands when all are done.
    """

    method = "POST"
    codes = ("engine_unavailable", "outcome_unknown")
    Input = intake.BatchIn

    class Output(Answer):
        """An order, or a problem, for every operation, in order."""

        results: Annotated[
            list[Any],
            msgspec.Meta(
                extra_json_schema={
                    "items": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/OrderOut"},
                            {"$ref": "#/components/schemas/Problem"},
                        ]
                    }
                }
            ),
        ]


class CancelAllAfter(_Entered):
    """Set a dead-man's switch: unless this is said again in time, all orders are canceled.

    `timeout_ms` is 1,000 to 86,400,000, or 0, which unsets it. Orders that are frozen in an auction
    stay.
    """

    method = "POST"
    codes = ("unknown_account", *ENGINE_CODES)
    Input = intake.SwitchIn
    Output = wire.SwitchOut


class CancelOrder(_Entered):
    """Cancel a live order; answered with the order as it is then."""

    method = "DELETE"
    codes = ("unknown_order", "order_closed", "frozen", *ENGINE_CODES)
    Output = wire.OrderOut


class CancelOrders(_Entered):
    """Cancel every live order that matches the filters; without any, all of them.

    Orders that are frozen in an auction stay.
    """

    method = "DELETE"

    class Query(Strict):
        """Filters."""

        instrument: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SYMBOL})] | None = (
            None
        )
        side: Literal["buy", "sell"] | None = None
        grade: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": GRADE})] | None = None

    class Output(Answer):
        """The orders that were canceled."""

        results: list[wire.OrderOut]


class ListFills(Endpoint):
    """The organization's fills, the newest first."""

    scope = "read"
    tag = "orders"
    Item = wire.OwnFill
    Output = Listed[wire.OwnFill]

    class Query(Strict):
        """Of one instrument only."""

        instrument: Annotated[str, msgspec.Meta(max_length=intake.SYMBOL_LENGTH_MAX)] = ""

    def handle(self, call: Call) -> Listed[wire.OwnFill]:
        """Answer."""
        rows = queries.fills(
            organization=call.organization,
            limit=call.page.fetch,
            before=call.page.number(),
            symbol=call.query.instrument,
        )
        return call.page.page(rows, lambda row: row, position=lambda row: [int(row.id)])
