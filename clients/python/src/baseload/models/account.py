"""Money, positions, margin, entitlements, usage, keys and statements of an organization."""

from datetime import datetime
from decimal import Decimal

from baseload.models.base import Model


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
    covered: Decimal
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
