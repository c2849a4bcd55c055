"""How transfers get into the ledger: one call of one database function per batch.

`ledger_post` is the only writer of accounts, transfers and chains, and it keeps the law by itself
(migration 0002): both sides of one unit, amounts positive, no account below zero at any point of
the batch in its order with what is held of it, holds ended once, consecutive sequences, one hash
link per batch. This module only turns rows into arrays and the function's named errors into
refusals. Capacity is posted on a cursor and its outcome known at once; cash is part of the engine's
batch, sent by its writer and judged at the end.

A transfer may have an id of its writer's. A batch that comes again with the ids and the content it
had is answered as it was and posts nothing; other content under an id is refused.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

import msgspec
import psycopg
from django.db import Error as DjangoError

from marketplace import clock, rowset
from marketplace.errors import Refusal
from settlement import ledger

CASH = "cash"
CAPACITY = "capacity"

CAUSE_CHARACTERS_MAX = 80


class CashTransfer(Protocol):
    """A movement of micro-USD; `exchange.events.Transferred` is one as it stands."""

    @property
    def debit_owner(self) -> int:
        """Organization that pays; 0 is the exchange."""

    @property
    def debit_kind(self) -> int:
        """Which of its accounts, a `ledger.Kind`."""

    @property
    def credit_owner(self) -> int:
        """Organization that receives."""

    @property
    def credit_kind(self) -> int:
        """Which of its accounts."""

    @property
    def amount(self) -> int:
        """Micro-USD, positive."""

    @property
    def code(self) -> int:
        """Why, a `ledger.Code`."""

    @property
    def cause(self) -> str:
        """What caused it, in at most 80 characters."""


class Named(Protocol):
    """What a transfer has beyond a plain one's: an id, or a part in a hold.

    `exchange.events.Held` is one. A plain transfer may stand beside it in a batch.
    """

    @property
    def phase(self) -> int:
        """What it does, a `ledger.Phase`."""

    @property
    def id(self) -> str:
        """Name that is unique in its chain for ever; a hold has one; empty for none."""

    @property
    def hold(self) -> str:
        """Id of the hold that it ends; empty for none."""

    @property
    def expires_at(self) -> int:
        """Instant from which on a hold can only expire; 0 for never."""


class CapacityTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """A movement of mNTU of one grade and hour, whose unit is `ledger.capacity_unit`."""

    unit: str
    debit_owner: int
    debit_kind: int
    credit_owner: int
    credit_kind: int
    amount: int
    code: int
    cause: str


class PostingRefused(Refusal):
    """The ledger refused a batch; `code` is the broken rule's name, and nothing was posted.

    Codes: `insufficient_funds`, `same_account`, `unit_mismatch`, `invalid_amount`,
    `account_closed`, `account_not_empty`, `account_unknown`, `transfer_differs`,
    `already_reversed`, `batch_unknown`, and of holds `hold_unknown`, `hold_posted`, `hold_voided`,
    `hold_expired`, `hold_not_expired`, `exceeds_hold`.
    """

    code, status, title = "posting_refused", 422, "The ledger refused the transfer"


class ChainMoved(Exception):
    """The chain is not where its writer left it: another has taken over, so stop."""


def post_cash(
    writer: rowset.Writer,
    transfers: Sequence[CashTransfer],
    *,
    at: int,
    expected_sequence: int,
    is_plain: bool = True,
) -> int:
    """Send a batch to the cash chain and return the sequence of its last transfer.

    `at` is an instant in microseconds; `is_plain` says that no transfer is `Named`. The caller
    holds the transaction, inside `refusals`. An empty batch sends nothing and returns
    `expected_sequence`.
    """
    if transfers:
        arguments = _arguments(CASH, transfers, None, at, expected_sequence)
        if is_plain:
            writer.execute(_POST, arguments)
        else:
            writer.execute(_POST_NAMED, arguments + _named(transfers))
    return expected_sequence + len(transfers)


def post_capacity(
    cursor: Any, transfers: Sequence[CapacityTransfer], *, at: int, expected_sequence: int
) -> int:
    """Post a batch to the capacity chain and return the sequence of its last transfer.

    As `post_cash`, in mNTU and at once; every transfer names its unit.

    :raises PostingRefused: when a rule of the ledger is broken; nothing is posted.
    :raises ChainMoved: when the chain's head is not `expected_sequence`.
    """
    if not transfers:
        return expected_sequence
    units = [transfer.unit for transfer in transfers]
    with refusals():
        cursor.execute(_POST, _arguments(CAPACITY, transfers, units, at, expected_sequence))
    return expected_sequence + len(transfers)


def reverse(cursor: Any, *, chain: str, sequence: int, cause: str, at: int) -> int:
    """Post the opposite of what the batch that ends at `sequence` moved; return the new head.

    :raises PostingRefused: `already_reversed`, `batch_unknown`, or when an account lacks the money.
    """
    head = lock_chain(cursor, chain)
    with refusals():
        cursor.execute(
            "SELECT ledger_reverse(%s, %s, %s, %s::smallint, %s, %s)",
            [chain, head, sequence, int(ledger.Code.REVERSAL), cause, clock.to_datetime(at)],
        )
    return int(cursor.fetchone()[0])


def close(cursor: Any, *, chain: str, account: int) -> None:
    """Close an account that is empty; nothing is posted to it afterwards.

    :raises PostingRefused: `account_not_empty`, `account_closed` or `account_unknown`.
    """
    with refusals():
        cursor.execute("SELECT ledger_close(%s, %s)", [chain, account])


def make_partitions(cursor: Any, *, at: int, months: int) -> int:
    """Make the partitions of a month and of `months` after it; return how many were missing."""
    cursor.execute("SELECT ledger_partitions(%s, %s)", [clock.to_datetime(at), months])
    return int(cursor.fetchone()[0])


def lock_chain(cursor: Any, chain: str) -> int:
    """Take the chain to the end of the transaction and return the sequence of its head."""
    cursor.execute(
        "SELECT ledger_head(%s)",
        [chain],
    )
    return int(cursor.fetchone()[0])


_POST = b"""
    SELECT ledger_post(%s, %s, %s::bigint[], %s::smallint[], %s::bigint[], %s::smallint[],
        %s::text[], %s::bigint[], %s::smallint[], %s::text[], %s)
"""
_POST_NAMED = (
    _POST.rstrip()[:-1]
    + b""",
        %s::smallint[], array_replace(%s::text[], '', NULL), array_replace(%s::text[], '', NULL),
        %s::timestamptz[])
"""
)


def _arguments(
    chain: str,
    transfers: Sequence[Any],
    units: list[str] | None,
    at: int,
    expected_sequence: int,
) -> list[Any]:
    """Return what the one writer is called with."""
    array = rowset.array_text
    return [
        chain,
        expected_sequence,
        array("bigint", [transfer.debit_owner for transfer in transfers]),
        array("smallint", [int(transfer.debit_kind) for transfer in transfers]),
        array("bigint", [transfer.credit_owner for transfer in transfers]),
        array("smallint", [int(transfer.credit_kind) for transfer in transfers]),
        None if units is None else array("text", units),
        array("bigint", [transfer.amount for transfer in transfers]),
        array("smallint", [int(transfer.code) for transfer in transfers]),
        array("text", [transfer.cause for transfer in transfers]),
        clock.to_datetime(at),
    ]


def _named(transfers: Sequence[Any]) -> list[Any]:
    """Return what the one writer is called with beyond plain transfers."""
    array = rowset.array_text
    return [
        array("smallint", [int(getattr(each, "phase", 0)) for each in transfers]),
        array("text", [getattr(each, "id", "") for each in transfers]),
        array("text", [getattr(each, "hold", "") for each in transfers]),
        array(rowset.INSTANT, [getattr(each, "expires_at", 0) or None for each in transfers]),
    ]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Tell what the ledger refused inside the block by name.

    :raises PostingRefused: when a rule of the ledger is broken.
    :raises ChainMoved: when a chain's head is not what was expected.
    """
    try:
        yield
    except (psycopg.Error, DjangoError) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    """Raise what the ledger's named error stands for; any other error as it came."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    name = cause.diag.constraint_name if isinstance(cause, psycopg.Error) else None
    if name == "chain_moved":
        raise ChainMoved(str(error)) from error
    if name in _REFUSED:
        raise PostingRefused(str(error).splitlines()[0], code=_REFUSED[name]) from error
    raise error


_REFUSED = {
    "insufficient_funds": "insufficient_funds",
    "account_is_not_overdrawn": "insufficient_funds",
    "same_account": "same_account",
    "transfer_has_two_accounts": "same_account",
    "unit_mismatch": "unit_mismatch",
    "invalid_amount": "invalid_amount",
    "transfer_is_positive": "invalid_amount",
    "account_closed": "account_closed",
    "account_closed_is_empty": "account_not_empty",
    "account_not_empty": "account_not_empty",
    "account_unknown": "account_unknown",
    "transfer_differs": "transfer_differs",
    "transfer_id_is_single": "transfer_differs",
    "already_reversed": "already_reversed",
    "batch_unknown": "batch_unknown",
    "hold_unknown": "hold_unknown",
    "hold_posted": "hold_posted",
    "hold_voided": "hold_voided",
    "hold_expired": "hold_expired",
    "hold_not_expired": "hold_not_expired",
    "exceeds_hold": "exceeds_hold",
}

assert ledger.Kind.SHARED < 63, "63 marks the ids of capacity accounts"
