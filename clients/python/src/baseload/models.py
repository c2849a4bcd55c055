"""What the exchange answers, as frozen structs.

The names are the API's own, so that its document is this module's too. Prices, money and tokens are
`Decimal` with the decimals they were sent with, lots are `int`, instants aware `datetime`s in UTC,
ids opaque text. Enumerations that the exchange may lengthen are plain `str`. Fields that a later
exchange adds are ignored, and those that an earlier one lacks have a default.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A value that the exchange sent."""


class Page(Model, Generic[T], frozen=True, kw_only=True):
    """Part of a list; `next_cursor` asks for what comes behind it."""

    results: tuple[T, ...]
    next_cursor: str | None = None


# The market


class Time(Model, frozen=True, kw_only=True):
    """Market time, and how far it is ahead of the exchange's clock."""

    now: datetime
    offset_ms: int = 0


class Status(Model, frozen=True, kw_only=True):
    """Whether orders are taken: `running`, or why not."""

    state: str
    epoch: int
    sequence: int
    at: datetime
    now: datetime


class Weights(Model, frozen=True, kw_only=True):
    """What each kind of token counts, in NTU."""

    version: int
    input: Decimal
    cached: Decimal
    output: Decimal


class Grade(Model, frozen=True, kw_only=True):
    """What is delivered: a model in a region, with limits and weights."""

    code: str
    name: str
    aliases: tuple[str, ...] = ()
    region: str
    precision: str
    context_tokens_max: int
    output_tokens_max: int
    weights: Weights
    reference_price: Decimal
    maker_fee_bp: int = 0
    taker_fee_bp: int = 0


class Instrument(Model, frozen=True, kw_only=True):
    """A tradable contract, and where its market stands."""

    symbol: str
    grade: str
    product: str
    service_class: str | None = msgspec.field(name="class", default=None)
    strike: Decimal | None = None
    starts_at: datetime
    ends_at: datetime
    trading_ends_at: datetime
    state: str
    tick: Decimal
    lot_ntu_per_minute: int
    reference_price: Decimal
    band: tuple[Decimal, Decimal]
    last: Decimal | None = None
    mark: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    volume: int = 0
    open_interest: int = 0


class BookSnapshot(Model, frozen=True, kw_only=True):
    """A book at one instant, best first; each level is a price and its lots."""

    instrument: str
    sequence: int
    checksum: int
    bids: tuple[tuple[Decimal, int], ...]
    asks: tuple[tuple[Decimal, int], ...]


class Trade(Model, frozen=True, kw_only=True):
    """A line of the tape; `side` is the taker's."""

    id: str
    price: Decimal
    quantity: int
    side: str
    at: datetime
    is_auction: bool = False


class BookDelta(Model, frozen=True, kw_only=True):
    """Levels that changed, with what is on them now; zero removes a level."""

    bids: tuple[tuple[Decimal, int], ...]
    asks: tuple[tuple[Decimal, int], ...]
    checksum: int


class Delta(Model, frozen=True, kw_only=True):
    """What changed a book from `previous_sequence` to `sequence`."""

    instrument: str
    sequence: int
    previous_sequence: int
    data: BookDelta


class Candle(Model, frozen=True, kw_only=True):
    """Prices of one interval."""

    starts_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    trades: int = 0


class Ticker(Model, frozen=True, kw_only=True):
    """An instrument at a glance."""

    state: str
    last: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    volume: int = 0
    open_interest: int = 0
    reference_price: Decimal | None = None
    band: tuple[Decimal, Decimal] | None = None


class Uncrossed(Model, frozen=True, kw_only=True):
    """What an auction ended with."""

    price: Decimal
    quantity: int
    at: datetime


class Auction(Model, frozen=True, kw_only=True):
    """The auction of an instrument: the one that runs, and the last one."""

    instrument: str
    kind: str | None = None
    state: str
    ends_at: datetime | None = None
    frozen_at: datetime | None = None
    indicative_price: Decimal | None = None
    indicative_quantity: int | None = None
    surplus: int | None = None
    surplus_side: str | None = None
    last_auction: Uncrossed | None = None


class CurvePoint(Model, frozen=True, kw_only=True):
    """One instrument of a forward curve."""

    instrument: str
    product: str
    starts_at: datetime
    ends_at: datetime
    price: Decimal
    source: str
    mark: Decimal
    fair_price: Decimal
    change: Decimal
    list_basis: Decimal
    index_basis: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None


class CurveSegment(Model, frozen=True, kw_only=True):
    """Hours that have one price on a forward curve, the mark of `instrument`."""

    starts_at: datetime
    ends_at: datetime
    price: Decimal
    instrument: str


class Curve(Model, frozen=True, kw_only=True):
    """What each window of a grade costs now, the nearest first."""

    grade: str
    at: datetime
    list_price: Decimal
    index_mean: Decimal | None
    points: tuple[CurvePoint, ...]
    segments: tuple[CurveSegment, ...]


class IndexValue(Model, frozen=True, kw_only=True):
    """The index of one hour; `method` says how it was found. Corrections are further versions."""

    grade: str
    hour: str
    starts_at: datetime
    price: Decimal
    method: str
    version: int
    digest: str
    published_at: datetime
    inputs: Any = None
    inputs_base64: str | None = None


class Pool(Model, frozen=True, kw_only=True):
    """A cluster as everybody may see it."""

    id: str
    grade: str
    name: str
    seller: str
    state: str
    certified_lots: int
    certified_until: datetime | None = None


# Own orders


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


# The account


class Account(Model, frozen=True, kw_only=True):
    """Money of an organization."""

    cash: Decimal
    available: Decimal
    order_margin: Decimal
    initial_margin: Decimal
    maintenance_margin: Decimal
    withdrawable: Decimal
    escrow: Decimal
    debt: Decimal | None = None


class Position(Model, frozen=True, kw_only=True):
    """Net lots of an instrument; negative lots are owed."""

    instrument: str
    quantity: int
    average_price: Decimal | None = None
    mark_price: Decimal | None = None
    cost: Decimal
    product: str | None = None
    gain: Decimal | None = None
    variation: Decimal | None = None
    initial_margin: Decimal | None = None
    updated_at: datetime


class Requirement(Model, frozen=True, kw_only=True):
    """The margin of one position."""

    instrument: str
    quantity: int
    hours: int | None = None
    prepaid_hours: int | None = None
    tick_value: Decimal | None = None
    cost: Decimal
    variation: Decimal | None = None
    unpaid: Decimal | None = None
    mark_price: Decimal
    initial_margin: Decimal


class DeliveryMargin(Model, frozen=True, kw_only=True):
    """The margin behind an hour that is being delivered."""

    grade: str
    starts_at: datetime
    lots: int
    price: Decimal
    initial_margin: Decimal


class UncoveredMargin(Model, frozen=True, kw_only=True):
    """What lots sold beyond all that covers them need."""

    grade: str
    starts_at: datetime
    ends_at: datetime
    lots: int
    price: Decimal
    hours: int
    prepaid_hours: int
    initial_margin: Decimal


class Margin(Model, frozen=True, kw_only=True):
    """What positions, deliveries, uncovered shorts and resting orders have behind them."""

    cash: Decimal | None = None
    available: Decimal
    order_margin: Decimal
    initial_margin: Decimal
    maintenance_margin: Decimal
    margin_call_due_at: datetime | None = None
    locked: Decimal | None = None
    default_fund: Decimal | None = None
    positions: tuple[Requirement, ...] = ()
    deliveries: tuple[DeliveryMargin, ...] = ()
    uncovered: tuple[UncoveredMargin, ...] = ()


class LedgerEntry(Model, frozen=True, kw_only=True):
    """A transfer as the account sees it; `amount` is signed."""

    sequence: int
    at: datetime
    code: str
    amount: Decimal
    balance: Decimal
    cause: str


class Entitlement(Model, frozen=True, kw_only=True):
    """A right to use capacity."""

    id: str
    grade: str
    starts_at: datetime
    ends_at: datetime
    lots: int
    class_rates: dict[str, int] = {}
    pool: str | None = None
    delivered_ntu: Decimal
    remaining_ntu: Decimal
    owed_ntu: Decimal
    state: str


class Settlement(Model, frozen=True, kw_only=True):
    """One settled interval of one allocation, seen from the caller's side."""

    id: str
    grade: str
    hour: str
    interval: int
    starts_at: datetime
    ends_at: datetime
    role: str
    lots: int
    price: Decimal
    available_ntu: Decimal
    short_ntu: Decimal
    delivered_ntu: Decimal
    released: Decimal
    refunded: Decimal
    compensated: Decimal
    settled_at: datetime


class UsageSpan(Model, frozen=True, kw_only=True):
    """What was used in one span, by grade and class."""

    starts_at: datetime
    grade: str
    service_class: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ntu: Decimal


class Usage(Model, frozen=True, kw_only=True):
    """Tokens used in a period."""

    since: datetime
    until: datetime
    span: str
    results: tuple[UsageSpan, ...]


class Movement(Model, frozen=True, kw_only=True):
    """A deposit or withdrawal."""

    id: str
    amount: Decimal
    state: str
    created_at: datetime


class ApiKey(Model, frozen=True, kw_only=True):
    """A key; its text is in `key` once, when it was made."""

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    public_key: str | None = None
    addresses: tuple[str, ...] = ()
    created_at: datetime
    key: str | None = None


class Revoked(Model, frozen=True, kw_only=True):
    """A key that works no more."""

    id: str
    revoked_at: datetime


class DemoOrganization(Model, frozen=True, kw_only=True):
    """An organization of a demo, with a key of all its scopes."""

    id: str
    name: str
    role: str
    key: str


class StatementLine(Model, frozen=True, kw_only=True):
    """One transfer, signed as the account sees it."""

    sequence: int
    at: datetime
    amount: Decimal
    cause: str


class StatementGroup(Model, frozen=True, kw_only=True):
    """The transfers of one reason about one instrument."""

    instrument: str | None = None
    code: str
    total: Decimal
    lines: tuple[StatementLine, ...]


class StatementPart(Model, frozen=True, kw_only=True):
    """One account: what it opened with, what moved it, what it closed with."""

    account: str
    opening: Decimal
    closing: Decimal
    groups: tuple[StatementGroup, ...]


class Statement(Model, frozen=True, kw_only=True):
    """What moved an organization's money in `[since, until)`."""

    id: str
    since: datetime
    until: datetime
    accounts: tuple[StatementPart, ...]


# Capacity


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
