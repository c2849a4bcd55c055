"""What has moved an organization's cash accounts, and what they had when.

Balances are counted back from today's, since recent pages are read most; a period's two are counted
together, over the same transfers once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from settlement import ledger
from settlement.ledger import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """A transfer as one account sees it: `amount_micros` is signed, the balance is after it."""

    sequence: int
    at: datetime
    code: int
    amount_micros: int
    balance_micros: int
    cause: str
    other_account: int


def ledger_entries(
    organization_id: int,
    *,
    kind: int = Kind.CASH,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
) -> list[LedgerEntry]:
    """Return transfers of one cash account, the newest first, with the balance after each.

    `before` is the sequence of the last entry of the page before.
    """
    rows = _transfers(organization_id, kind, before, since, until, limit)
    if not rows:
        return []
    balance = balance_at(organization_id, kind=kind, sequence=rows[0][0])
    entries = []
    for sequence, at, code, amount, cause, other in rows:
        entries.append(
            LedgerEntry(
                sequence=sequence,
                at=at,
                code=code,
                amount_micros=amount,
                balance_micros=balance,
                cause=cause,
                other_account=other,
            )
        )
        balance -= amount
    return entries


class Moved(NamedTuple):
    """One transfer, signed as the account sees it."""

    sequence: int
    at: datetime
    code: int
    amount_micros: int
    cause: str
    other_account: int


def moved(
    organization_id: int, *, kind: int, since: datetime, until: datetime, limit: int
) -> list[Moved]:
    """Return the transfers of one cash account in a period, the newest first."""
    rows = _transfers(organization_id, kind, None, since, until, limit)
    return [Moved(*row) for row in rows]


def _transfers(
    organization_id: int,
    kind: int,
    before: int | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[tuple[Any, ...]]:
    """Return (sequence, at, code, signed amount, cause, other account) of one cash account."""
    account_id = ledger.cash_account(organization_id, kind)
    one_side = """
        (SELECT sequence, at, code, {sign}amount AS amount, cause, {other} AS other
         FROM settlement_transfer
         WHERE {side} = %(account)s AND chain = 'cash' AND phase IN (0, 2)
           AND (%(before)s::bigint IS NULL OR sequence < %(before)s)
           AND (%(since)s::timestamptz IS NULL OR at >= %(since)s AND sequence > %(first)s)
           AND (%(until)s::timestamptz IS NULL OR at < %(until)s AND sequence <= %(last)s)
         ORDER BY sequence DESC LIMIT %(limit)s)"""
    received = one_side.format(sign="", side="credit_account", other="debit_account")
    paid = one_side.format(sign="-", side="debit_account", other="credit_account")
    with connection.cursor() as cursor:
        # A period is a range of sequences, which the index of an account has in order.
        cursor.execute(
            "SELECT ledger_sequence_before('cash', %(since)s),"
            " ledger_sequence_before('cash', %(until)s)",
            {"since": since, "until": until},
        )
        first, last = cursor.fetchone()
        values = {
            "account": account_id,
            "before": before,
            "since": since,
            "until": until,
            "first": first,
            "last": last,
            "limit": limit,
        }
        cursor.execute(
            f"{received} UNION ALL {paid} ORDER BY sequence DESC LIMIT %(limit)s",
            values,
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def balance_at(
    organization_id: int,
    *,
    kind: int = Kind.CASH,
    sequence: int | None = None,
) -> int:
    """Return a cash account's balance after a sequence; else now.

    It is counted back from today's balance, since recent pages are read most.
    """
    account_id = ledger.cash_account(organization_id, kind)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce((SELECT credits - debits FROM settlement_account
                             WHERE id = %(account)s), 0)
                - coalesce((SELECT sum(amount) FROM settlement_transfer
                            WHERE credit_account = %(account)s AND chain = 'cash'
                              AND phase IN (0, 2)
                              AND sequence > %(sequence)s), 0)
                + coalesce((SELECT sum(amount) FROM settlement_transfer
                            WHERE debit_account = %(account)s AND chain = 'cash'
                              AND phase IN (0, 2)
                              AND sequence > %(sequence)s), 0)
            """,
            {"account": account_id, "sequence": sequence},
        )
        return int(cursor.fetchone()[0])


def balances_at(
    organization_id: int, *, kinds: Iterable[int], since: datetime, until: datetime
) -> dict[int, tuple[int, int]]:
    """Return the balances of an organization's cash accounts before two instants, by kind.

    Both are counted back from today's balances, over what has moved since the earlier one, once.
    """
    accounts = {ledger.cash_account(organization_id, kind): kind for kind in kinds}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT one.account,
                   coalesce(present.credits - present.debits, 0) - coalesce(later.all_of_it, 0),
                   coalesce(present.credits - present.debits, 0) - coalesce(later.last_of_it, 0)
            FROM unnest(%(accounts)s::bigint[]) AS one (account)
            LEFT JOIN settlement_account present ON present.id = one.account
            LEFT JOIN LATERAL (
                SELECT sum(amount) AS all_of_it,
                       sum(amount) FILTER (WHERE at >= %(until)s) AS last_of_it
                FROM (SELECT at, amount FROM settlement_transfer
                      WHERE credit_account = one.account AND chain = 'cash' AND phase IN (0, 2)
                        AND at >= %(since)s
                      UNION ALL
                      SELECT at, -amount FROM settlement_transfer
                      WHERE debit_account = one.account AND chain = 'cash' AND phase IN (0, 2)
                        AND at >= %(since)s) moved) later ON true
            """,
            {"accounts": list(accounts), "since": since, "until": until},
        )
        return {accounts[row[0]]: (int(row[1]), int(row[2])) for row in cursor.fetchall()}
