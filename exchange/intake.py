"""How orders come in: their bodies, strictly read, and the commands they stand for.

The same forms serve order entry, batches and the WebSocket. A body that is understood becomes a
command and is judged by the machine; one whose fields have no valid form, or do not go together, is
malformed, names the field and is never journaled. What a field means is RULEBOOK 2 and 3.
"""

import hashlib
import secrets
from typing import Annotated, Literal

import msgspec

from exchange import commands
from marketplace import contract, errors, http, wire

SYMBOL_LENGTH_MAX = 40
BATCH_OPERATIONS_MAX = 500
STRIP_HOURS_MAX = 48
STRIP_ALTERNATIVES_MAX = 8
SWITCH_MS_MIN, SWITCH_MS_MAX = 1_000, 86_400_000
NONCE_BYTES = 8

Symbol = Annotated[
    str, msgspec.Meta(min_length=1, max_length=SYMBOL_LENGTH_MAX, pattern=r"^[A-Z0-9.]+\Z")
]
GradeCode = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9]{1,15}\Z")]
ClientOrderId = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[ -~]+\Z")]
HourStart = Annotated[
    str,
    wire.described(
        "2026-12-05T14:00:00Z",
        pattern=r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00:00(?:\.0{1,6})?Z$",
    ),
]
OrderType = Literal["limit", "market", "stop", "stop_limit"]
TimeInForce = Literal["gtc", "ioc", "fok", "gtd", "day"]
SelfTradePrevention = Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"]


class OrderTerms(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What an order asks for; prices are text with the tick's decimals, lots an integer."""

    instrument: Symbol
    side: Literal["buy", "sell"]
    quantity: wire.LotsNumber
    type: OrderType = "limit"
    price: wire.AnyPriceText | None = None
    stop_price: wire.AnyPriceText | None = None
    display_quantity: wire.LotsNumber | None = None
    min_quantity: wire.LotsNumber | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: wire.TimeText | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: SelfTradePrevention = "cancel_newest"


class OrderIn(OrderTerms, kw_only=True):
    """An order as it is asked for."""

    client_order_id: ClientOrderId


class PreviewIn(OrderTerms, kw_only=True):
    """An order that is only asked about."""

    client_order_id: ClientOrderId | None = None


class AmendIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What of an order is to be another; `quantity` counts what is filled already."""

    price: wire.AnyPriceText | None = None
    quantity: wire.LotsNumber | None = None
    stop_price: wire.AnyPriceText | None = None


class PlaceOperation(OrderIn, tag="place", tag_field="op", kw_only=True):
    """An order in a batch."""


class AmendOperation(AmendIn, tag="amend", tag_field="op", kw_only=True):
    """The amendment of an order in a batch."""

    id: str


class CancelOperation(
    msgspec.Struct, tag="cancel", tag_field="op", forbid_unknown_fields=True, kw_only=True
):
    """The cancel of an order in a batch."""

    id: str


Operation = PlaceOperation | AmendOperation | CancelOperation


class BatchIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Operations that are carried out in order, each with an outcome of its own."""

    operations: Annotated[
        list[Operation], msgspec.Meta(min_length=1, max_length=BATCH_OPERATIONS_MAX)
    ]


class StripTerms(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The same lots in every hour of `[from, to)`, at once or not at all.

    `price` limits the average over all lots and hours.
    """

    grade: GradeCode
    side: Literal["buy", "sell"]
    from_: HourStart = msgspec.field(name="from")
    to: HourStart
    price: wire.PriceText
    quantity: wire.LotsNumber
    min_share: Annotated[int, msgspec.Meta(ge=0, le=100)] = 100
    alternatives: Annotated[list[GradeCode], msgspec.Meta(max_length=STRIP_ALTERNATIVES_MAX)] = []


class StripIn(StripTerms, kw_only=True):
    """A strip as it is asked for."""

    client_order_id: ClientOrderId


class StripPreviewIn(StripTerms, kw_only=True):
    """A strip that is only asked about."""

    client_order_id: ClientOrderId | None = None


class SwitchIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """When all orders leave, unless it is said again; 0 unsets it."""

    timeout_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=SWITCH_MS_MAX,
            extra_json_schema={"anyOf": [{"const": 0}, {"minimum": SWITCH_MS_MIN}]},
        ),
    ]


def place_order(account: int, given: OrderIn) -> commands.PlaceOrder:
    """Return the command of an order.

    :raises Malformed: when a field has no valid form, or does not go with the others.
    """
    return _order(account, given, given.client_order_id)


def preview_order(account: int, given: PreviewIn) -> commands.PreviewOrder:
    """Return the question what an order would do.

    :raises Malformed: as its order would be.
    """
    return commands.PreviewOrder(_order(account, given, given.client_order_id or ""))


def _order(account: int, given: OrderTerms, client_order_id: str) -> commands.PlaceOrder:
    lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
    side, time_in_force = 1 if given.side == "buy" else -1, given.time_in_force.upper()
    terms: commands.Terms | None = None
    if _is_plain(given):
        if given.price is None:
            raise http.malformed("price", "missing_field", "a limit order has a price")
        price = wire.parse_price(given.price, "price", contract.decimals_of(given.instrument))
    else:
        price = _price(given, given.price, "price", ("limit", "stop_limit"))
        terms = _terms(given, lots)
        if given.type == "market" and time_in_force == commands.GTC:
            time_in_force = commands.IOC  # a market order never rests: the two are the same
    return commands.PlaceOrder(
        account=account,
        instrument=given.instrument,
        side=side,
        price=price,
        lots=lots,
        time_in_force=time_in_force,
        client_order_id=client_order_id,
        fingerprint=fingerprint(
            instrument=given.instrument,
            side=side,
            price_ticks=price,
            lots=lots,
            time_in_force=time_in_force,
            terms=terms,
        ),
        terms=terms,
    )


def _is_plain(given: OrderTerms) -> bool:
    """Whether an order is a plain limit order, good till canceled or immediate or cancel."""
    return (
        given.type == "limit"
        and given.time_in_force in ("gtc", "ioc")
        and given.self_trade_prevention == "cancel_newest"
        and not (given.post_only or given.reduce_only)
        and given.stop_price is None
        and given.display_quantity is None
        and given.min_quantity is None
        and given.expires_at is None
    )


def _terms(given: OrderTerms, lots: int) -> commands.Terms:
    """Return what makes an order more than a plain limit order.

    :raises Malformed: when a field has no valid form, or does not go with the others.
    """
    in_force = given.time_in_force
    if given.type == "market" and in_force in ("gtd", "day"):
        raise _apart("time_in_force", "a market order does not rest")
    expires_at = 0
    if in_force == "gtd":
        if given.expires_at is None:
            raise http.malformed("expires_at", "missing_field", "gtd names when it expires")
        expires_at = wire.parse_time(given.expires_at, "expires_at")
    elif given.expires_at is not None:
        raise _apart("expires_at", "only gtd names when it expires")
    may_rest = given.type in ("limit", "stop_limit") and in_force in ("gtc", "gtd", "day")
    if given.post_only and not (may_rest and given.type == "limit"):
        raise _apart("post_only", "only a limit order that can rest is post-only")
    display = min_lots = 0
    if given.display_quantity is not None:
        display = wire.parse_lots(given.display_quantity, "display_quantity")
        if not may_rest:
            raise _apart("display_quantity", "only an order that can rest shows a part of itself")
        if display >= lots:
            raise http.malformed(
                "display_quantity", "out_of_range", "display_quantity is less than quantity"
            )
    if given.min_quantity is not None:
        min_lots = wire.parse_lots(given.min_quantity, "min_quantity")
        if given.post_only:
            raise _apart("min_quantity", "a post-only order trades nothing at once")
        if min_lots > lots:
            raise http.malformed("min_quantity", "out_of_range", "min_quantity is at most quantity")
    return commands.Terms(
        type=given.type.upper(),
        stop_price=_price(given, given.stop_price, "stop_price", ("stop", "stop_limit")),
        display_lots=display,
        min_lots=min_lots,
        expires_at=expires_at,
        post_only=given.post_only,
        reduce_only=given.reduce_only,
        prevention=given.self_trade_prevention.upper(),
    )


def _price(given: OrderTerms, text: str | None, field: str, kinds: tuple[str, ...]) -> int:
    """Return a price that orders of some kinds have and others do not; 0 for those.

    :raises Malformed: when it is missing, is there against the kind, or is none.
    """
    kind = given.type
    if kind not in kinds:
        if text is not None:
            raise _apart(field, f"an order of type {kind} has no {field}")
        return 0
    if text is None:
        raise http.malformed(field, "missing_field", f"an order of type {kind} has a {field}")
    return wire.parse_price(text, field, contract.decimals_of(given.instrument))


def _apart(field: str, detail: str) -> errors.Malformed:
    """Return the refusal of a field that does not go with the others."""
    return http.malformed(field, "not_applicable", detail)


def amend_order(account: int, order: int, given: AmendIn) -> commands.AmendOrder:
    """Return the command of an amendment.

    :raises Malformed: when a field has no valid form, or none is there.
    """
    if given.price is None and given.quantity is None and given.stop_price is None:
        raise http.malformed(
            "", "missing_field", "an amendment names a price, a quantity or a stop_price"
        )
    price, quantity, stop_price = given.price, given.quantity, given.stop_price
    # Whose price it is only the machine knows: it refuses what has other decimals than its tick.
    decimals = wire.price_decimals(price or stop_price or "")
    return amend_command(
        account,
        order,
        price=0 if price is None else wire.parse_price(price, "price", decimals),
        lots=0 if quantity is None else wire.parse_lots(quantity, lots_max=contract.LOTS_MAX),
        stop_price=0
        if stop_price is None
        else wire.parse_price(stop_price, "stop_price", decimals),
        decimals=decimals,
    )


def amend_command(
    account: int,
    order: int,
    *,
    price: int = 0,
    lots: int = 0,
    stop_price: int = 0,
    decimals: int = contract.PRICE_DECIMALS,
) -> commands.AmendOrder:
    """Return the command of an amendment, like no other; zero keeps what the order has."""
    return commands.AmendOrder(
        account, order, price, lots, stop_price, secrets.token_bytes(NONCE_BYTES), decimals
    )


def place_strip(account: int, given: StripIn) -> commands.PlaceStrip:
    """Return the command of a strip.

    :raises Malformed: when a field has no valid form.
    """
    return _strip(account, given, given.client_order_id)


def preview_strip(account: int, given: StripPreviewIn) -> commands.PreviewOrder:
    """Return the question what a strip would do.

    :raises Malformed: as its strip would be.
    """
    return commands.PreviewOrder(_strip(account, given, given.client_order_id or ""))


def _strip(account: int, given: StripTerms, client_order_id: str) -> commands.PlaceStrip:
    lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
    price = wire.parse_price(given.price)
    starts_at, ends_at = _full_hour(given.from_, "from"), _full_hour(given.to, "to")
    if not 0 < ends_at - starts_at <= STRIP_HOURS_MAX * contract.HOUR:
        raise http.malformed("to", "out_of_range", f"a strip has 1 to {STRIP_HOURS_MAX} hours")
    grades = [given.grade, *given.alternatives]
    if len(set(grades)) != len(grades):
        raise http.malformed("alternatives", "invalid_value", "each grade is named once")
    side = 1 if given.side == "buy" else -1
    terms = (
        f"strip {side} {price} {lots} {starts_at} {ends_at} {given.min_share} {' '.join(grades)}"
    )
    return commands.PlaceStrip(
        account=account,
        grade=given.grade,
        side=side,
        from_at=starts_at,
        to_at=ends_at,
        price=price,
        lots=lots,
        min_share=given.min_share,
        client_order_id=client_order_id,
        fingerprint=hashlib.sha256(terms.encode()).digest(),
        alternatives=tuple(given.alternatives),
    )


def _full_hour(text: str, field: str) -> int:
    """:raises Malformed: when it is no instant, or not that of a full hour."""
    at = wire.parse_time(text, field)
    if at % contract.HOUR:
        raise http.malformed(field, "invalid_hour", f"{field} is a full hour")
    return at


def set_switch(account: int, given: SwitchIn) -> commands.CancelAllAfter:
    """Return the command that sets or unsets an organization's own dead-man's switch.

    :raises Malformed: when the time is shorter than `SWITCH_MS_MIN` and not 0.
    """
    if 0 < given.timeout_ms < SWITCH_MS_MIN:
        raise http.malformed(
            "timeout_ms", "out_of_range", f"timeout_ms is 0 or at least {SWITCH_MS_MIN}"
        )
    return commands.CancelAllAfter(
        account=account, timeout=given.timeout_ms * 1_000, nonce=secrets.token_bytes(NONCE_BYTES)
    )


def fingerprint(
    *,
    instrument: str,
    side: int,
    price_ticks: int,
    lots: int,
    time_in_force: str,
    terms: commands.Terms | None = None,
) -> bytes:
    """Return the digest of an order's terms: what a retry must have in common with the first.

    It is made of the terms and not of the request's bytes, so that a retry may spell out a default
    or come through another door.
    """
    text = f"{side} {price_ticks} {lots} {time_in_force} {instrument}"
    if terms is not None:
        text += "".join(f" {value}" for value in msgspec.structs.astuple(terms))
    return hashlib.sha256(text.encode()).digest()
