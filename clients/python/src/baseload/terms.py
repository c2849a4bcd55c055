"""What a caller asks for: orders, strips, and the operations of a batch.

`NewOrder` and `NewStrip` make their `client_order_id` when they are made. So the object *is* the
order: sending it again, after whatever went wrong, cannot place it twice. For another order make
another object; `order.again()` has the same terms under a new id.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

Side = Literal["buy", "sell"]
OrderType = Literal["limit", "market", "stop", "stop_limit"]
TimeInForce = Literal["gtc", "ioc", "fok", "gtd", "day"]
SelfTradePrevention = Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"]
Interval = Literal["1m", "5m", "15m", "1h", "1d"]
Number = Decimal | str | int
"""A price or amount; never a float, which is another number than it looks."""

PRICE_DECIMALS = 3
SLOT_PRICE_DECIMALS = 4
MONEY_DECIMALS = 6


def new_id() -> str:
    """Return an id that nobody has used."""
    return secrets.token_hex(12)


class NewOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order to be placed; the order types that need a field are in docs/rest.md."""

    instrument: str
    side: Side
    quantity: int
    type: OrderType = "limit"
    price: Number | None = None
    stop_price: Number | None = None
    display_quantity: int | None = None
    min_quantity: int | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: datetime | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: SelfTradePrevention = "cancel_newest"
    client_order_id: str = msgspec.field(default_factory=new_id)

    def again(self) -> "NewOrder":
        """Return another order with the same terms."""
        return msgspec.structs.replace(self, client_order_id=new_id())

    def body(self) -> dict[str, Any]:
        """Return the order as the API wants it.

        :raises ValueError: when a price has more decimals than the tick.
        """
        return _without_none(
            {
                "instrument": self.instrument,
                "side": self.side,
                "type": self.type,
                "price": price_text(self.price, decimals_of(self.instrument)),
                "stop_price": price_text(self.stop_price, decimals_of(self.instrument)),
                "quantity": self.quantity,
                "display_quantity": self.display_quantity,
                "min_quantity": self.min_quantity,
                "time_in_force": self.time_in_force,
                "expires_at": None if self.expires_at is None else instant(self.expires_at),
                "post_only": self.post_only or None,
                "reduce_only": self.reduce_only or None,
                "self_trade_prevention": self.self_trade_prevention,
                "client_order_id": self.client_order_id,
            }
        )


class NewStrip(msgspec.Struct, frozen=True, kw_only=True):
    """The same lots in every hour of `[starts_at, ends_at)`, at once or never."""

    grade: str
    side: Side
    starts_at: datetime
    ends_at: datetime
    price: Number
    """The limit on the average price over all lots and hours."""
    quantity: int
    min_share: int = 100
    """The least part of `quantity` to accept, in percent."""
    alternatives: Sequence[str] = ()
    client_order_id: str = msgspec.field(default_factory=new_id)

    def body(self) -> dict[str, Any]:
        """Return the strip as the API wants it.

        :raises ValueError: when the price has more decimals than the tick.
        """
        body: dict[str, Any] = {
            "grade": self.grade,
            "side": self.side,
            "from": instant(self.starts_at),
            "to": instant(self.ends_at),
            "price": fixed(self.price, PRICE_DECIMALS),
            "quantity": self.quantity,
            "min_share": self.min_share,
            "client_order_id": self.client_order_id,
        }
        return body | ({"alternatives": list(self.alternatives)} if self.alternatives else {})


class Amend(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an order: `quantity` is the new total, what is filled included.

    Prices of slots are written with all four decimals, `"0.0050"`: that is how they are known.
    """

    id: str
    price: Number | None = None
    quantity: int | None = None
    stop_price: Number | None = None

    def body(self) -> dict[str, Any]:
        """Return what changes."""
        return _without_none(
            {
                "price": amended_price(self.price),
                "quantity": self.quantity,
                "stop_price": amended_price(self.stop_price),
            }
        )


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """The cancel of an order."""

    id: str


Operation = NewOrder | Amend | Cancel


def operation(wanted: Operation) -> dict[str, Any]:
    """Return an operation of a batch."""
    match wanted:
        case NewOrder():
            return {"op": "place"} | wanted.body()
        case Amend():
            return {"op": "amend", "id": wanted.id} | wanted.body()
        case Cancel():
            return {"op": "cancel", "id": wanted.id}


def decimals_of(symbol: str) -> int:
    """Return the digits after the point that an instrument's prices have: four for slots."""
    return SLOT_PRICE_DECIMALS if ".P" in symbol else PRICE_DECIMALS


def price_text(value: Number | None, decimals: int = PRICE_DECIMALS) -> str | None:
    """Return a price as the API writes it.

    :raises ValueError: when it has more decimals than the tick.
    """
    return None if value is None else fixed(value, decimals)


def amended_price(value: Number | None) -> str | None:
    """Return a price of an order whose instrument is not known, with the decimals it has.

    :raises ValueError: when it has more than any tick.
    """
    if value is None or isinstance(value, float | int):
        return price_text(value)
    written = len(str(value).partition(".")[2])
    return fixed(value, SLOT_PRICE_DECIMALS if written > PRICE_DECIMALS else PRICE_DECIMALS)


def fixed(value: Number, decimals: int) -> str:
    """Return a number with exactly so many decimals; nothing is ever rounded.

    :raises ValueError: when it has more, or is no number.
    :raises TypeError: when it is a float.
    """
    if isinstance(value, float):
        raise TypeError("a price is a Decimal, a text or a whole number, never a float")
    try:
        number = Decimal(value)
        exact = number.quantize(Decimal(1).scaleb(-decimals))
    except ArithmeticError:
        raise ValueError(f"{value!r} is no number") from None
    if not number.is_finite() or exact != number:
        raise ValueError(f"{value} has more than {decimals} decimals")
    return f"{exact:f}"


def instant(moment: datetime) -> str:
    """Return an instant as the API writes it.

    :raises ValueError: when it has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("an instant needs its zone: datetime(..., tzinfo=UTC)")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
