"""What the machine shows of itself: frozen rows, safe to keep after the state has moved on.

The engine writes its projections from these. Amounts are micro-USD, prices ticks, quantities lots,
instants microseconds since the epoch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """Cash of an account and what is asked of it.

    `available` is cash less everything reserved; it can be negative after a mark moved against the
    account, and is what new orders are paid from. `initial_margin` is what positions and open
    deliveries need, `order_margin` what resting orders need beyond that.
    """

    account: int
    group: int
    cash: int
    available: int
    order_margin: int
    initial_margin: int
    maintenance_margin: int
    withdrawable: int
    escrow: int
    usage_hold: int
    debt: int
    killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionView:
    """Net lots and their signed cost (sum of lots x price over all fills) in one instrument."""

    account: int
    symbol: str
    net_lots: int
    cost_ticks: int
    resting_buy_lots: int
    resting_sell_lots: int
    initial_margin: int
    order_margin: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order as it is, or as it ended; `value_ticks` sums lots x price over its fills."""

    order: int
    account: int
    symbol: str
    side: int
    price: int
    lots: int
    remaining: int
    filled: int
    value_ticks: int
    fee: int
    time_in_force: str
    client_order_id: str
    fingerprint: bytes
    status: str
    reason: str
    sequence: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentView:
    """An instrument as it is, or as it ended; `last` and the bests are 0 where there is none."""

    id: int
    symbol: str
    grade: str
    starts_at: int
    ends_at: int
    trading_ends_at: int
    state: str
    reference_price: int
    band_low: int
    band_high: int
    mark: int
    last: int
    best_bid: int
    best_ask: int
    volume: int
    open_interest: int
    book_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Everything that changed since the last drain, each once, in order of id."""

    accounts: tuple[AccountView, ...]
    positions: tuple[PositionView, ...]
    orders: tuple[OrderView, ...]
    instruments: tuple[InstrumentView, ...]
