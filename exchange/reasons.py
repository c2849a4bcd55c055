"""Why an order is refused, why one leaves the book, why an instruction is refused.

Each is a closed enumeration. `Reject` is listed in order of precedence: an order that breaks
several rules is answered with the first. The values are the public codes of `docs/errors.md`.
"""

from enum import StrEnum


class Reject(StrEnum):
    """Why an order, a strip or an amendment was not accepted, in order of precedence."""

    INVALID_ORDER = "invalid_order"
    UNKNOWN_ACCOUNT = "unknown_account"
    KILLED = "killed"
    UNKNOWN_INSTRUMENT = "unknown_instrument"
    NOT_OPEN = "not_open"
    HALTED = "halted"
    CLOSED = "closed"
    NOT_IN_CALL = "not_in_call"
    FROZEN = "frozen"
    ALREADY_EXPIRED = "already_expired"
    OUTSIDE_BAND = "outside_band"
    QUANTITY_LIMIT = "quantity_limit"
    DISPLAY_TOO_SMALL = "display_quantity_too_small"
    OPEN_ORDER_LIMIT = "open_order_limit"
    ORDER_TO_TRADE_RATIO = "order_to_trade_ratio"
    ACCOUNT_IN_DEBT = "account_in_debt"
    REDUCE_ONLY = "reduce_only"
    NOT_ELIGIBLE = "not_eligible"
    POSITION_LIMIT = "position_limit"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    INSUFFICIENT_COVERAGE = "insufficient_coverage"
    POST_ONLY_WOULD_TRADE = "post_only_would_trade"
    VOLATILITY = "volatility"


class Close(StrEnum):
    """Why an order left the book without being filled."""

    REQUESTED = "requested"
    IOC_REMAINDER = "ioc_remainder"
    FILL_OR_KILL = "fill_or_kill"
    MIN_QUANTITY = "min_quantity"
    PROTECTION_BAND = "protection_band"
    STRIP_UNFILLED = "strip_unfilled"
    SELF_TRADE = "self_trade"
    REDUCE_ONLY = "reduce_only"
    AMENDED = "amended"
    CANCEL_ALL_AFTER = "cancel_all_after"
    DISCONNECTED = "disconnected"
    KILLED = "killed"
    COVERAGE_LOST = "coverage_lost"
    UNFUNDED = "unfunded"
    COVERED = "covered"
    NOT_ELIGIBLE = "not_eligible"
    BAND_MOVED = "band_moved"
    EXPIRED = "expired"


UNKNOWN_ORDER = "unknown_order"
"""Why a cancel or an amendment is refused: no such live order of this account."""


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
    HOUR_NOT_SETTLED = "hour_not_settled"
    INDEX_FINAL = "index_final"
    INDEX_CHANGED = "index_changed"
    INDEX_UNCHANGED = "index_unchanged"
    SECOND_OPERATOR_REQUIRED = "second_operator_required"
    PRICE_UNRESOLVED = "price_unresolved"
    HOLD_UNKNOWN = "hold_unknown"
    EXCEEDS_HOLD = "exceeds_hold"
    KILLED = "killed"
    DEADLINE_PASSED = "deadline_passed"
    POOL_FULL = "pool_full"
    COMMITMENT_ENDED = "commitment_ended"
    OWN_GROUP = "own_group"
    SELLER_UNAVAILABLE = "seller_unavailable"
    LISTING_SUSPENDED = "listing_suspended"
    INSUFFICIENT_COVERAGE = "insufficient_coverage"
    POSITION_LIMIT = "position_limit"
    PACKAGE_UNKNOWN = "package_unknown"
    EXCEEDS_PACKAGE = "exceeds_package"
    TRANSFER_ENDED = "transfer_ended"
    LOG_REWRITTEN = "log_rewritten"


class OrderStatus(StrEnum):
    """Where an order is in its life."""

    UNTRIGGERED = "untriggered"
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
