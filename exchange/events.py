"""What the machine answers: facts in the past tense, frozen, in the order they happened.

All that is outside the machine is derived from these and from nothing else. Prices are ticks,
amounts micro-USD, times microseconds since the epoch. Owner 0 is the exchange. There are no cycles.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from exchange import commands, default_events, insurance_events, package_events


class OrderPlaced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An order was accepted; fills and its close follow as events of their own."""

    order: int
    request: commands.PlaceOrder
    sequence: int
    at: int


class OrderRejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """An order was refused by a rule; it is remembered so that a retry is refused alike."""

    order: int
    request: commands.PlaceOrder
    sequence: int
    at: int
    reason: str


class Traded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Two orders met: at the maker's price, or at an auction's, where the taker came later."""

    trade: int
    instrument: str
    price: int
    lots: int
    maker_order: int
    taker_order: int
    maker: int
    taker: int
    taker_side: int
    maker_fee: int
    taker_fee: int
    sequence: int
    at: int
    is_auction: bool = False


class OrderClosed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """An order left the book: `status` is filled, canceled or expired."""

    order: int
    account: int
    status: str
    reason: str
    sequence: int
    at: int


class CancelRefused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """A cancel named no resting order of the account."""

    account: int
    order: int
    reason: str
    sequence: int


class BookChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Absolute lots of the levels that one command touched: (side, price, lots)."""

    instrument: str
    book_sequence: int
    levels: tuple[tuple[int, int, int], ...]


class Transferred(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Cash moved between two accounts of the ledger; kinds are `settlement.ledger.Kind`."""

    debit_owner: int
    debit_kind: int
    credit_owner: int
    credit_kind: int
    amount: int
    code: int
    cause: str


class AccountOpened(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """The machine knows an organization from here on."""

    account: int
    group: int


class GradeDefined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A grade has these terms from here on."""

    grade: str
    reference_price: int
    maker_fee_bp: int
    taker_fee_bp: int
    slot_reference_prices: tuple[int, int] = (0, 0)


class InstrumentListed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """An instrument exists; shortage cover pays `pay_price` for what is missed."""

    id: int
    symbol: str
    reference_price: int
    band_low: int
    band_high: int
    at: int
    pay_price: int = 0


class InstrumentChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """State, reference price or band of an instrument are these from here on."""

    symbol: str
    state: str
    reference_price: int
    band_low: int
    band_high: int
    at: int


class Marked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """A mark: every position of the instrument is settled to this price from here on."""

    instrument: str
    price: int
    method: str
    at: int


class IndexPublished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The hourly index by a rung of the ladder, with its canonical inputs and their SHA-256."""

    grade: str
    hour_starts_at: int
    price: int
    method: str
    inputs: bytes
    digest: bytes
    at: int
    sequence: int = 0
    """How many values of the grade there have been, with this one."""
    version: int = 1
    """Which value of the hour it is: each correction is one more."""


class GateClosed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """An hour no longer trades; `price` is its delivery price, `lots` the open interest."""

    instrument: str
    grade: str
    hour_starts_at: int
    price: int
    lots: int
    at: int


class EntitlementGranted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """The holder may use `lots` in the hour; `escrow` holds their price."""

    entitlement: int
    account: int
    grade: str
    hour_starts_at: int
    lots: int
    price: int
    escrow: int


class ObligationIncurred(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """The seller owes `lots` in the hour; `failed_lots` of them have no cluster behind them."""

    obligation: int
    account: int
    grade: str
    hour_starts_at: int
    lots: int
    failed_lots: int
    price: int


class Allocated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """These lots of an entitlement are served by this cluster (0: none), from a package or not."""

    allocation: int
    entitlement: int
    obligation: int
    holder: int
    seller: int
    cluster: int
    grade: str
    hour_starts_at: int
    lots: int
    price: int
    p0_lots: int = 0
    p1_lots: int = 0
    """Of its lots, those that slots of the holder go with."""
    package: int = 0


class IntervalSettled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """One allocation's interval: what the seller was released and the holder got back."""

    allocation: int
    interval: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    released: int
    refunded: int
    compensated: int
    compensation_due: int
    at: int
    next_mark: int = 0
    """Mark of the next hour that could be bought then, which replacement is priced by; 0: none."""


class CoverSettled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=75):
    """What a standing offer was paid for delivering in a failing cluster's stead.

    `released` came from the holder's escrow, `excess` of `excess_due` from the failing seller.
    """

    allocation: int
    interval: int
    offer: int
    cluster: int
    seller: int
    price: int
    mntu: int
    released: int
    excess: int
    excess_due: int
    at: int


class CertificationChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """A cluster may sell this much from here on."""

    cluster: int
    account: int
    grade: str
    lots: int
    valid_until: int
    at: int
    p0_lots: int = 0
    timed_lots: int = 0


class InstructionApplied(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """An instruction was carried out."""

    id: str
    sequence: int
    at: int


class InstructionRefused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """An instruction was refused by a rule, and changed nothing."""

    id: str
    reason: str
    sequence: int
    at: int


class Quarantined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """A command was set aside."""

    assertion: str
    instrument: str
    sequence: int
    at: int


class Upgraded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """The rules changed."""

    rules: int
    at: int


class OrderAmended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """A live order has these terms from here on; `left` is what of `lots` is not filled."""

    order: int
    account: int
    price: int
    lots: int
    left: int
    stop_price: int
    sequence: int
    at: int


class AmendRefused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """An amendment broke a rule, or named no live order; nothing changed."""

    account: int
    order: int
    reason: str
    sequence: int


class OrderTriggered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """The market reached an order's stop price: it is an order like others from here on."""

    order: int
    account: int
    sequence: int
    at: int


class StripPlaced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """A strip was accepted; it trades `lots` in every hour of `grade` (0: it could not)."""

    order: int
    request: commands.PlaceStrip
    grade: str
    lots: int
    sequence: int
    at: int


class StripRejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """A strip was refused by a rule; it is remembered so that a retry is refused alike."""

    order: int
    request: commands.PlaceStrip
    sequence: int
    at: int
    reason: str


class CallOpened(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """An auction of a book began: `kind` is opening, reopening or volatility."""

    instrument: str
    kind: str
    frozen_at: int
    ends_at: int
    at: int


class Uncrossed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """An auction ended: `lots` traded at `price`, both 0 where no two orders crossed."""

    instrument: str
    kind: str
    price: int
    lots: int
    at: int


class SwitchSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """A dead-man's switch fires at `due_at` unless it is set again; 0: it is unset."""

    account: int
    name: str
    due_at: int
    at: int


class Previewed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """What an order would do; never journaled.

    `fills` are (price, lots); `margin` is what would be reserved more, `fee` what the fills cost;
    the best price of the other side before and after is 0 where there is none.
    """

    reason: str
    status: str
    lots: int
    fills: tuple[tuple[int, int], ...]
    fee: int
    margin: int
    available_after: int
    best_before: int
    best_after: int
    capped: tuple[int, int, int] = (0, 0, 0)
    """Of a purchase of a price cap: lots, and at most their lots x ticks and their fee."""


class StripHour(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a strip would trade in one of its hours: as of an order (`Previewed`)."""

    instrument: str
    fills: tuple[tuple[int, int], ...]
    best_before: int
    best_after: int


class StripPreviewed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """What a strip would do; never journaled.

    `grade` is the one of its alternatives that would trade, its own where none would; `lots` are
    those in each hour; margin, fee and what is left are of all hours together.
    """

    reason: str
    status: str
    grade: str
    lots: int
    hours: tuple[StripHour, ...]
    fee: int
    margin: int
    available_after: int


class DeliveryCorrected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=60):
    """A later run added this to what an allocation had paid: signed micro-USD to its holder.

    `damages` is what was paid of the `due` that was added.
    """

    run: str
    allocation: int
    delivery: int
    damages: int
    due: int
    at: int


class Cascaded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """A longer product became its parts, lot for lot, at its final mark."""

    instrument: str
    price: int
    lots: int
    at: int


class SlotsSettled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """What became of an account's slots of a class in an hour; sold ones are negative lots.

    `failed` of them nobody delivers, `backed` have a lot behind them: of the holder's own, or the
    seller's. What is neither only orders its holder's P3. `amount` was paid for slots and `damages`
    of `damages_due` for failed ones, in signed micro-USD of the account.
    """

    account: int
    grade: str
    hour_starts_at: int
    service_class: str
    lots: int
    failed: int
    backed: int
    price: int
    amount: int
    damages: int
    damages_due: int
    at: int


class CommitmentChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=62):
    """What became of a commitment to a pooled purchase: committed, withdrawn, filled or unfilled.

    `lots` were bought by `order` at the average `price`; `evened` micro-USD were paid beyond (or,
    below zero, returned of) what that order paid, so that all pay the same.
    """

    commitment: int
    purchase: int
    account: int
    state: str
    lots: int
    price: int
    evened: int
    order: int
    reason: str
    at: int


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """Cash was held for a transfer, or a hold ended: `phase` is a `settlement.ledger.Phase`.

    `id` names the hold that was placed, `hold` the one that ended.
    """

    debit_owner: int
    debit_kind: int
    credit_owner: int
    credit_kind: int
    amount: int
    code: int
    cause: str
    phase: int
    id: str
    hold: str


Event = (
    OrderPlaced
    | OrderRejected
    | Traded
    | OrderClosed
    | CancelRefused
    | BookChanged
    | Transferred
    | AccountOpened
    | GradeDefined
    | InstrumentListed
    | InstrumentChanged
    | Marked
    | IndexPublished
    | GateClosed
    | EntitlementGranted
    | ObligationIncurred
    | Allocated
    | IntervalSettled
    | CoverSettled
    | CertificationChanged
    | InstructionApplied
    | InstructionRefused
    | Quarantined
    | Upgraded
    | OrderAmended
    | AmendRefused
    | OrderTriggered
    | StripPlaced
    | StripRejected
    | CallOpened
    | Uncrossed
    | SwitchSet
    | Previewed
    | StripPreviewed
    | Cascaded
    | DeliveryCorrected
    | SlotsSettled
    | Held
    | CommitmentChanged
    | default_events.DefaultEvent
    | insurance_events.InsuranceEvent
    | package_events.PackageEvent
)
CASH = (Transferred, Held)
"""What the cash chain is written from."""
INSURANCE = insurance_events.INSURANCE
PACKAGES = (package_events.PackageChanged, package_events.PackageResold)
Facts = Mapping[type[Any], Sequence[Any]]
"""Events of a batch by their type, each in the order they happened."""
NOTHING: Facts = {}


def by_type(happened: Iterable[Event]) -> dict[type[Any], list[Any]]:
    """Return events by their type."""
    found: dict[type[Any], list[Any]] = defaultdict(list)
    for event in happened:
        found[type(event)].append(event)
    return found


def encode_batch(batch: list[Event]) -> bytes:
    """Return the journaled form of a batch's events."""
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> list[Event]:
    """Return the events of a journaled form."""
    return _batch_decoder.decode(data)


_encoder = msgspec.msgpack.Encoder()
_batch_decoder: msgspec.msgpack.Decoder[list[Event]] = msgspec.msgpack.Decoder(list[Event])
