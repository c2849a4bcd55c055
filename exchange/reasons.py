"""Why an order is refused, why one leaves the book, why an instruction is refused.

Each is a closed enumeration. `Reject` is listed in order of precedence: an order that breaks
several rules is answered with the first. The values are the public codes of `docs/errors.md`.
"""

from enum import StrEnum


class Reject(StrEnum):
    """Why an order was not accepted, in order of precedence."""

    INVALID_ORDER = "invalid_order"
    UNKNOWN_ACCOUNT = "unknown_account"
    KILLED = "killed"
    UNKNOWN_INSTRUMENT = "unknown_instrument"
    NOT_OPEN = "not_open"
    HALTED = "halted"
    CLOSED = "closed"
    OUTSIDE_BAND = "outside_band"
    QUANTITY_LIMIT = "quantity_limit"
    OPEN_ORDER_LIMIT = "open_order_limit"
    ACCOUNT_IN_DEBT = "account_in_debt"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    INSUFFICIENT_COVERAGE = "insufficient_coverage"


class Close(StrEnum):
    """Why an order left the book without being filled."""

    REQUESTED = "requested"
    IOC_REMAINDER = "ioc_remainder"
    SELF_TRADE = "self_trade"
    KILLED = "killed"
    COVERAGE_LOST = "coverage_lost"
    UNFUNDED = "unfunded"
    BAND_MOVED = "band_moved"
    EXPIRED = "expired"


UNKNOWN_ORDER = "unknown_order"
"""The only reason a cancel is refused for: no such resting order of this account."""


class Refuse(StrEnum):
    """Why an instruction changed nothing."""

    MALFORMED = "malformed_instruction"
    UNKNOWN_ACCOUNT = "unknown_account"
    ACCOUNT_EXISTS = "account_exists"
    UNKNOWN_GRADE = "unknown_grade"
    UNKNOWN_INSTRUMENT = "unknown_instrument"
    UNKNOWN_HOUR = "unknown_hour"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_TERMS = "invalid_terms"
    CLUSTER_OF_ANOTHER = "cluster_of_another"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    ACCOUNT_IN_DEBT = "account_in_debt"
    INTERVAL_NOT_OVER = "interval_not_over"
    ALREADY_SETTLED = "already_settled"
    ALREADY_CHARGED = "already_charged"
    INCOMPLETE_REPORT = "incomplete_report"
    INVALID_REPORT = "invalid_report"


class OrderStatus(StrEnum):
    """Where an order is in its life."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
