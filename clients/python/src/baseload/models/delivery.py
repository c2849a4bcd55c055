"""Deliveries, disputes, payments of insurance, and statements of months."""

from datetime import date, datetime
from decimal import Decimal

from baseload.models.base import Model


class Correction(Model, frozen=True, kw_only=True):
    """What a later run added to a delivery; above zero it went to the holder."""

    run: str
    delivery: Decimal
    damages: Decimal
    due: Decimal
    at: datetime


class Delivery(Model, frozen=True, kw_only=True):
    """The lots of one holder that one cluster served in one hour; `role` is the caller's."""

    id: str
    grade: str
    hour: str
    role: str
    lots: int
    price: Decimal
    state: str
    intervals_settled: int
    available_ntu: Decimal
    short_ntu: Decimal
    covered_ntu: Decimal
    gateway_ntu: Decimal
    seller_ntu: Decimal | None = None
    holder_ntu: Decimal | None = None
    is_different: bool
    released: Decimal
    covered: Decimal
    """What others were paid from the escrow for covering it."""
    refunded: Decimal
    compensated: Decimal
    corrected_delivery: Decimal
    corrected_damages: Decimal
    figures_until: datetime
    disputed_until: datetime
    corrections: tuple[Correction, ...] = ()
    """Of a delivery that was asked for by its id."""


class Figure(Model, frozen=True, kw_only=True):
    """What a party has counted of a delivery."""

    delivery: str
    role: str
    delivered_ntu: Decimal
    reported_at: datetime


class Dispute(Model, frozen=True, kw_only=True):
    """An objection to intervals of a delivery, and what became of it."""

    id: str
    delivery: str
    grade: str
    hour: str
    intervals: tuple[int, ...]
    role: str
    is_own: bool
    reason: str
    state: str
    available_ntu: Decimal | None = None
    short_ntu: Decimal | None = None
    decision: str
    run: str | None = None
    opened_at: datetime
    proposed_at: datetime | None = None
    decided_at: datetime | None = None
    settled_at: datetime | None = None


class InsurancePayment(Model, frozen=True, kw_only=True):
    """What a price cap (by the hour) or shortage cover (by the interval) paid."""

    id: str
    instrument: str
    hour: str
    interval: int | None = None
    quantity: int
    insured_ntu: Decimal
    price: Decimal
    amount: Decimal
    paid_at: datetime


class Month(Model, frozen=True, kw_only=True):
    """A month that has a statement; `is_closed` when it is over."""

    month: str
    since: datetime
    until: datetime
    is_closed: bool


class MonthMovement(Model, frozen=True, kw_only=True):
    """Transfers of one reason: how many, and what they brought and took."""

    code: str
    count: int
    received: Decimal
    paid: Decimal
    total: Decimal


class MonthAccount(Model, frozen=True, kw_only=True):
    """One account: its opening balance and movements add up to the closing balance."""

    account: str
    opening: Decimal
    closing: Decimal
    movements: tuple[MonthMovement, ...]


class MonthTrades(Model, frozen=True, kw_only=True):
    """What was traded of a grade and product."""

    grade: str
    product: str
    count: int
    bought_quantity: int
    sold_quantity: int
    bought: Decimal
    sold: Decimal
    fees: Decimal


class MonthDay(Model, frozen=True, kw_only=True):
    """What was delivered of a grade on a day, signed as the organization sees it."""

    grade: str
    date: date
    role: str
    intervals: int
    available_ntu: Decimal
    short_ntu: Decimal
    delivered_ntu: Decimal
    released: Decimal
    refunded: Decimal
    compensated: Decimal


class InsuranceCorrection(Model, frozen=True, kw_only=True):
    """What a later run added to what an hour of a cap or of cover had paid; signed."""

    id: str
    run: str
    instrument: str
    hour: str
    amount: Decimal
    at: datetime


class SlotSettlement(Model, frozen=True, kw_only=True):
    """What became of the slots of a class in an hour; sold ones have a quantity below zero."""

    id: str
    grade: str
    hour: str
    service_class: str
    quantity: int
    backed: int
    failed: int
    price: Decimal
    amount: Decimal
    damages: Decimal
    damages_due: Decimal
    settled_at: datetime


class MonthCorrection(Model, frozen=True, kw_only=True):
    """What a later run moved, signed as the organization sees it."""

    run: str
    role: str
    deliveries: int
    delivery: Decimal
    damages: Decimal


class MonthStatement(Model, frozen=True, kw_only=True):
    """The statement of a month, which adds up to the ledger."""

    organization: str
    month: str
    since: datetime
    until: datetime
    time_zone: str
    made_at: datetime
    is_closed: bool
    accounts: tuple[MonthAccount, ...]
    trades: tuple[MonthTrades, ...]
    deliveries: tuple[MonthDay, ...]
    corrections: tuple[MonthCorrection, ...]
