"""What the state is made of where it has no behavior: plain rows, each written as it is.

A snapshot holds them as they stand here, field by field in this order, so a field may only be added
at the end and with a default.
"""

from typing import NamedTuple

import msgspec

from marketplace import contract


class AccountNews(msgspec.Struct, array_like=True):
    """How many messages each topic of an organization has had (`exchange.machine.news`)."""

    orders: int = 0
    fills: int = 0
    account: int = 0


class InstrumentNews(msgspec.Struct, array_like=True):
    """How many messages each topic of an instrument has had; its book counts by itself."""

    trades: int = 0
    ticker: int = 0
    auction: int = 0


class Call(NamedTuple):
    """A call that runs: what for, from when it is frozen, and when it uncrosses."""

    kind: contract.CallKind
    frozen_at: int
    ends_at: int


class Auction(NamedTuple):
    """The last auction of a book that found a price; all 0 before the first."""

    price: int
    lots: int
    at: int


class Grade(msgspec.Struct, array_like=True):
    """Terms of a grade and the history of its index."""

    id: int
    code: str
    reference: int
    maker_fee_bp: int
    taker_fee_bp: int
    band_percent: int
    first_hour: int
    halted: bool = False
    index: dict[int, int] = {}
    """Published index by hour, for as long as something may still refer to it."""
    sound_price: int = 0
    sound_at: int = 0
    """The last value that was not itself a fallback, and when it was published."""
    published: int = 0
    """How many values its index has had."""
    dynamic_percent: int = 5
    sound_hour: int = 0
    """The hour whose value `sound_price` is."""
    corrections: dict[int, tuple[int, int]] = {}
    """(version, price) of hours whose index two operators have corrected."""
    slot_references: tuple[int, int] = (0, 0)
    """The operator's price of slots, P0 and P1, in their ticks; 0: they are not listed."""
    premium_percents: tuple[int, int] = (0, 0)
    """What of a month's mark the premiums of its caps and cover begin at; 0: none are listed."""

    def premium_percent(self, terms: contract.Contract) -> int:
        """Return what of its month's mark an option's premium begins at, in percent."""
        return self.premium_percents[terms.product is contract.Product.COVER]

    def index_in_force(self, hour: int) -> int | None:
        """Return the index of an hour as it was last corrected; None where none is kept."""
        corrected = self.corrections.get(hour)
        return self.index.get(hour) if corrected is None else corrected[1]


class Cluster(msgspec.Struct, array_like=True):
    """What a cluster is certified for."""

    id: int
    account: int
    grade: str
    lots: int
    valid_until: int
    p0_lots: int = 0
    timed_lots: int = 0
    """How many of its lots may be sold as P0, and as P0 and P1 together."""


class Entitlement(msgspec.Struct, array_like=True):
    """A holder's right in an hour, and what of its price is still in escrow."""

    id: int
    account: int
    lots: int
    escrow: int


class Obligation(msgspec.Struct, array_like=True):
    """A seller's duty in an hour, and the margin behind it."""

    id: int
    account: int
    lots: int
    failed_lots: int
    margin: int


class Allocation(msgspec.Struct, array_like=True):
    """Lots of a holder on a cluster."""

    id: int
    entitlement: int
    obligation: int
    holder: int
    seller: int
    cluster: int
    lots: int
    p0_lots: int = 0
    p1_lots: int = 0
    """Of its lots, those that slots go with."""
    price: int = 0
    """What they are paid: the hour's delivery price, or their package's."""
    package: int = 0
    """What they were bought in; 0: in the market."""


class Hour(msgspec.Struct, array_like=True):
    """An hour from gate closure until its last interval is settled; `settled` is a bit set."""

    grade: str
    starts_at: int
    symbol: str
    price: int
    entitlements: dict[int, Entitlement]
    obligations: dict[int, Obligation]
    allocations: dict[int, Allocation]
    settled: int = 0


class Hold(msgspec.Struct, array_like=True):
    """Cash held for pay-as-you-go tokens, and the (seller, interval) charged already."""

    amount: int
    charged: list[tuple[int, int]] = []


class Payout(msgspec.Struct, array_like=True):
    """Cash held for a withdrawal that waits to be paid out."""

    account: int
    amount: int


class Backing(msgspec.Struct, array_like=True):
    """Lots of an account's cluster that stand behind another's shorts, from one time to another."""

    id: int
    cluster: int
    owner: int
    beneficiary: int
    grade: str
    starts_at: int
    ends_at: int
    lots: int

    def covers(self, grade: str, hour_ends_at: int) -> bool:
        """Whether it is for the hour of a grade that ends at an instant."""
        return self.grade == grade and self.starts_at < hour_ends_at <= self.ends_at


class Bid(msgspec.Struct, array_like=True):
    """At which price an account would be short of so many lots, and what it reserves for it."""

    id: int
    account: int
    lots: int
    price: int
    reserve: int


class Transfer(msgspec.Struct, array_like=True):
    """An offer: lots that an account is short of, with the capacity behind them."""

    id: int
    account: int
    symbol: str
    lots: int
    price_max: int
    due_at: int
    bids: dict[int, Bid]


class Month(msgspec.Struct, array_like=True):
    """What a seller has delivered of a grade in a month, and has paid in damages, in micro-USD."""

    delivered: int = 0
    """Its obligations at their hours' delivery prices, from gate closure on."""
    paid: int = 0
