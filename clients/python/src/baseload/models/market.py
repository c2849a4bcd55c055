"""What is public: instruments, books, the tape, auctions, the curve, the index, pools."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from baseload.models.base import Model


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
    pay_price: Decimal | None = None
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
