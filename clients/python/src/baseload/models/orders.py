"""Own orders and fills, and what an order would do."""

from datetime import datetime
from decimal import Decimal

import msgspec

from baseload.models.base import Model


class Fill(Model, frozen=True, kw_only=True):
    """One order's side of a trade."""

    id: str
    price: Decimal
    quantity: int
    liquidity: str
    fee: Decimal
    at: datetime
    instrument: str | None = None
    """Named in the fills of a strip."""


class Order(Model, frozen=True, kw_only=True):
    """An order or strip as it stands; `fills` is empty where they were not asked for.

    A strip has its `grade`, `starts_at` and `ends_at`, `min_share` and `alternatives`, and its
    quantities are lots in each hour.
    """

    id: str
    instrument: str
    side: str
    type: str
    price: Decimal | None = None
    stop_price: Decimal | None = None
    quantity: int
    display_quantity: int | None = None
    min_quantity: int | None = None
    time_in_force: str
    expires_at: datetime | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: str = "cancel_newest"
    client_order_id: str
    status: str
    filled_quantity: int
    remaining_quantity: int
    average_price: Decimal | None = None
    fee: Decimal
    sequence: int
    reason: str | None = None
    created_at: datetime
    updated_at: datetime
    fills: tuple[Fill, ...] = ()
    grade: str | None = None
    starts_at: datetime | None = msgspec.field(name="from", default=None)
    ends_at: datetime | None = msgspec.field(name="to", default=None)
    min_share: int | None = None
    alternatives: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether it may still trade."""
        return self.status in ("open", "partially_filled", "untriggered")


class PreviewFill(Model, frozen=True, kw_only=True):
    """Lots that an order would trade at one price."""

    price: Decimal
    quantity: int


class Impact(Model, frozen=True, kw_only=True):
    """What an order would do to the best price that it trades against."""

    best_before: Decimal | None = None
    best_after: Decimal | None = None
    price_move: Decimal | None = None


class Preview(Model, frozen=True, kw_only=True):
    """What an order would do now; nothing was sent to the market. `reason` says why not."""

    reason: str | None = None
    status: str
    filled_quantity: int = 0
    average_price: Decimal | None = None
    fills: tuple[PreviewFill, ...] = ()
    fee: Decimal = Decimal(0)
    margin: Decimal = Decimal(0)
    available_after: Decimal | None = None
    impact: Impact | None = None


class StripPreviewHour(Model, frozen=True, kw_only=True):
    """What a strip would trade in one of its hours."""

    instrument: str
    average_price: Decimal | None = None
    fills: tuple[PreviewFill, ...] = ()
    impact: Impact | None = None


class StripPreview(Model, frozen=True, kw_only=True):
    """What a strip would do now; `grade` is the one that it would trade, None where none.

    Quantities are lots in each hour; price, fee and margin are of all hours together.
    """

    reason: str | None = None
    status: str
    grade: str | None = None
    filled_quantity: int = 0
    average_price: Decimal | None = None
    hours: tuple[StripPreviewHour, ...] = ()
    fee: Decimal = Decimal(0)
    margin: Decimal = Decimal(0)
    available_after: Decimal | None = None


class Switch(Model, frozen=True, kw_only=True):
    """The dead-man's switch: when all orders leave, unless it is renewed."""

    timeout_ms: int
    cancel_at: datetime | None = None


class OwnFill(Model, frozen=True, kw_only=True):
    """A fill with the order that it belongs to."""

    id: str
    order_id: str
    client_order_id: str
    instrument: str
    side: str
    price: Decimal
    quantity: int
    liquidity: str
    fee: Decimal
    at: datetime
