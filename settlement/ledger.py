"""Double entry: the kinds of account, the codes of transfers, and what may not go negative.

A transfer moves a positive amount from the account it debits to the account it credits, both of
one unit. An account's balance is its posted credits less its posted debits; what is available is
the balance less what is held. A *hold* reserves an amount on the account it would debit; it is
posted (up to what is held, the rest is free again), voided, or it expires, and ends in one of these
once. Holds and their ends are transfers like all others, told apart by their phase. Cash accounts
are identified by owner and kind; owner 0 is the exchange. Everything here is arithmetic on
integers; the database enforces the same rules again (`ledger_post`).
"""

from enum import IntEnum

EXCHANGE = 0
"""Owner of the exchange's own accounts."""


class Kind(IntEnum):
    """What an account is for. Cash kinds are below 50, capacity kinds from 50 on."""

    CASH = 1
    ESCROW = 2
    USAGE_HOLD = 3
    FUND = 4
    OUTSIDE = 10
    FEES = 11
    CLEARING = 12
    LAYER = 13
    ISSUED = 50
    ENTITLED = 51
    CONSUMED = 52
    EXPIRED = 53
    OVERRUN = 54
    SHARED = 55


class Phase(IntEnum):
    """What a transfer does: move, reserve, or end a hold; only `AT_ONCE` and `POST` move."""

    AT_ONCE = 0
    HOLD = 1
    POST = 2
    VOID = 3
    EXPIRE = 4


class Code(IntEnum):
    """Why a transfer was made."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    TRADING_FEE = 3
    VARIATION = 4
    ESCROW = 5
    RELEASE = 6
    REFUND = 7
    COMPENSATION = 8
    USAGE_HOLD = 9
    USAGE_CHARGE = 10
    USAGE_RELEASE = 11
    LAYER_LOAN = 12
    LAYER_REPAYMENT = 13
    USAGE_FEE = 14
    REVERSAL = 15
    FUND_CONTRIBUTION = 16
    FUND_RETURN = 17
    FUND_USE = 18
    FUND_SHARE = 19
    FUND_REPAYMENT = 20
    SLOT = 21
    PREMIUM = 22
    CAP_PAYMENT = 23
    COVER_PAYMENT = 24
    PURCHASE = 25
    SLOT_DAMAGES = 26
    PACKAGE_ESCROW = 27
    PACKAGE_RESALE = 28
    PACKAGE_FEE = 29
    DELIVERY_CORRECTION = 30
    DAMAGES_CORRECTION = 31
    INSURANCE_CORRECTION = 32
    USAGE_IDLE = 33
    POSITION_TRANSFER = 34
    COVER_RELEASE = 35
    COVER_EXCESS = 36
    GRANT = 50
    CONSUME = 51
    EXPIRE = 52
    OVERRUN = 53
    SHARED_USE = 54


MAY_GO_NEGATIVE = frozenset({Kind.OUTSIDE, Kind.CLEARING, Kind.LAYER, Kind.ISSUED})
"""Accounts that stand for the world outside, for a sum that nets to zero within a batch, or for
the exchange's own capital, which it adds to by hand."""

USD = "USD"
KINDS_MAX = 64
LAYER_LIMIT_MICROS = 10**11
"""What the exchange's own layer bears in all, unless two operators say otherwise."""


def cash_account(owner: int, kind: int) -> int:
    """Return the id of a cash account; capacity accounts get theirs from a sequence."""
    return owner * KINDS_MAX + kind


def capacity_unit(grade: str, hour: str) -> str:
    """Return the unit of capacity accounts: mNTU of one grade and hour, e.g. `20261205T14Z`."""
    return f"mNTU:{grade}:{hour}"
