"""Clusters, offers, packages and their slices, pooled purchases, standing resale."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from baseload.models.base import Model


class Cluster(Model, frozen=True, kw_only=True):
    """A cluster that serves one grade; `pool` is the name that is public."""

    id: str
    name: str
    grade: str
    pool: str
    accelerator: str
    tensor_parallel: int
    replicas: int
    is_modelled: bool
    endpoint: str
    state: str
    certified_lots: int
    certified_until: datetime | None = None
    created_at: datetime


class Certification(Model, frozen=True, kw_only=True):
    """A search for the rate that a cluster may sell; `progress` is in percent."""

    id: str
    cluster: str
    state: str
    progress: int
    lots: int | None = None
    report: dict[str, Any] = {}
    created_at: datetime
    finished_at: datetime | None = None


class Offer(Model, frozen=True, kw_only=True):
    """A listing: lots of a cluster that are offered, and the order that offers them."""

    id: str
    cluster: str
    instrument: str
    price: Decimal
    quantity: int
    filled_quantity: int
    state: str
    order_id: str | None = None
    created_at: datetime


class Discount(Model, frozen=True, kw_only=True):
    """Taken off the list price of a term of at least so many days."""

    days: int
    percent: int


class Package(Model, frozen=True, kw_only=True):
    """Hourly lots that a provider offers by the day; `to_date` is the first that it leaves out."""

    id: str
    provider: str
    provider_name: str
    grade: str
    from_date: date
    to_date: date
    lots: tuple[int, ...]
    p1_lots: tuple[int, ...] = ()
    list_price: Decimal
    discounts: tuple[Discount, ...] = ()
    quantity: int
    available: int
    state: str
    reason: str | None = None
    created_at: datetime


class PackageQuote(Model, frozen=True, kw_only=True):
    """What a term of a package costs, and the same at the list price and on the curve."""

    from_date: date
    to_date: date
    days: int
    quantity: int
    available: int
    lot_hours: int
    list_price: Decimal
    discount_percent: int
    price: Decimal
    total: Decimal
    list_total: Decimal
    curve_price: Decimal
    curve_total: Decimal
    saved_against_list: Decimal
    saved_against_curve: Decimal
    is_suspended: bool


class PackageHours(Model, frozen=True, kw_only=True):
    """Hours in which a package has lots by the same pattern."""

    starts_at: datetime
    ends_at: datetime
    lots: tuple[int, ...]
    p1_lots: tuple[int, ...] = ()


class BoughtPackage(Model, frozen=True, kw_only=True):
    """A package that was bought, and what it has in hours whose gate is open."""

    id: str
    package: str
    parent: str | None = None
    provider: str
    provider_name: str
    holder: str
    holder_name: str
    grade: str
    starts_at: datetime
    ends_at: datetime
    price: Decimal
    list_price: Decimal
    remaining: tuple[PackageHours, ...] = ()
    remaining_lot_hours: int
    remaining_value: Decimal
    bought_at: datetime


class PackageSlice(Model, frozen=True, kw_only=True):
    """A slice of a package that its holder offers, to `buyer` alone or to everybody."""

    id: str
    holder: str
    holder_name: str
    buyer: str | None = None
    grade: str
    starts_at: datetime
    ends_at: datetime
    lots: tuple[int, ...]
    p1_lots: tuple[int, ...] = ()
    lot_hours: int
    price: Decimal
    total: Decimal
    fee: Decimal
    state: str
    reason: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


class Commitment(Model, frozen=True, kw_only=True):
    """What will be, or was, bought with others at a deadline."""

    id: str
    instrument: str
    deadline: datetime
    quantity: int
    price: Decimal
    state: str
    filled_quantity: int
    average_price: Decimal | None = None
    evened: Decimal
    order_id: str | None = None
    reason: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


class PurchasePool(Model, frozen=True, kw_only=True):
    """A pool that can be joined, by committing to its instrument and deadline."""

    instrument: str
    deadline: datetime
    members: int
    quantity: int


class PurchasePools(Model, frozen=True, kw_only=True):
    """The pools that can be joined."""

    results: tuple[PurchasePool, ...]


class CoverOffer(Model, frozen=True, kw_only=True):
    """A standing offer to take over what other sellers' clusters fail to serve."""

    id: str
    cluster: str
    price: Decimal
    quantity: int
    created_at: datetime
    withdrawn_at: datetime | None = None


class ResaleInstruction(Model, frozen=True, kw_only=True):
    """A standing wish to sell surplus of a grade, and what it had on offer at its last look."""

    id: str
    grade: str
    floor_price: Decimal
    forecast: str
    keep_lots: int
    state: str
    offered_lots: int
    looked_at: datetime | None = None
    created_at: datetime
    stopped_at: datetime | None = None


class TransferOffer(Model, frozen=True, kw_only=True):
    """Lots that somebody is short of, offered with the capacity behind them."""

    id: str
    instrument: str
    quantity: int
    price_max: Decimal
    mark_price: Decimal | None = None
    announced_at: datetime
    due_at: datetime
    moved_quantity: int
    outcome: str | None = None
    ended_at: datetime | None = None


class TransferBid(Model, frozen=True, kw_only=True):
    """What was bid for an offer; `received` was paid from the mark to its price, signed."""

    id: str
    offer: str
    instrument: str
    quantity: int
    price: Decimal
    state: str
    reason: str | None = None
    moved_quantity: int
    mark_price: Decimal | None = None
    received: Decimal
    created_at: datetime
    ended_at: datetime | None = None
