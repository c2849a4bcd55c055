"""What must be true of the clearing house, found out from the rows alone.

Written apart from everything that writes them: it shares no function with posting, delivery or
margin, computes hashes in Python where the database computed them in SQL, and spells the rules'
numbers out again. A checker that shares code with what it checks finds nothing (PITFALLS).

Every check says how much it looked at and what was wrong. With `since`, checks that would read all
history look only at what is younger; totals and heads are always checked.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from settlement import seals

VIOLATIONS_SHOWN_MAX = 20
"""How many violations of one check are spelled out; all are counted."""
FETCH_ROWS = 5_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check saw: how many things, how many of them wrong, and some of those."""

    name: str
    checked: int
    violations: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it on one line."""
        if not self.violations:
            return f"{self.name}: OK ({self.checked})"
        return f"{self.name}: VIOLATION ({self.violations} of {self.checked}: {self.examples[0]})"


Check = Callable[[datetime | None], Finding]


def run(*, since: datetime | None = None) -> list[Finding]:
    """Carry out every check of settlement's own rows."""
    return [check(since) for check in CHECKS]


def from_sql(name: str, counted: str, wrong: str, values: dict[str, Any] | None = None) -> Finding:
    """Return a finding of two queries: one counts, the other selects a text per violation."""
    with connection.cursor() as cursor:
        cursor.execute(counted, values or {})
        checked = int(cursor.fetchone()[0])
        cursor.execute(
            f"SELECT wrong, count(*) OVER () FROM ({wrong}) AS found (wrong)"  # noqa: S608
            f" ORDER BY wrong LIMIT {VIOLATIONS_SHOWN_MAX}",
            values or {},
        )
        rows = cursor.fetchall()
    return Finding(
        name=name,
        checked=checked,
        violations=rows[0][1] if rows else 0,
        examples=tuple(row[0] for row in rows),
    )


def _identities(_since: datetime | None) -> Finding:
    """Accounts are what their ids say, and only those may go negative that stand for outside."""
    return from_sql(
        "accounts are what they say",
        "SELECT count(*) FROM settlement_account",
        """
        SELECT 'account ' || id FROM settlement_account
        WHERE (unit = 'USD') <> (kind < 50)
           OR unit = 'USD' AND id <> owner * 64 + kind
           OR unit <> 'USD' AND (id % 64 <> 63 OR unit NOT LIKE 'mNTU:%%:%%')
           OR may_go_negative <> (kind IN (10, 12, 13, 50))
        """,
    )


def _overdrawn(_since: datetime | None) -> Finding:
    """No account is below zero that may not be."""
    return from_sql(
        "no account is overdrawn",
        "SELECT count(*) FROM settlement_account",
        """
        SELECT 'account ' || id || ' has ' || credits - debits FROM settlement_account
        WHERE debits < 0 OR credits < 0 OR credits < debits AND kind NOT IN (10, 12, 13, 50)
        """,
    )


def _conserved(_since: datetime | None) -> Finding:
    """Debits equal credits in every unit: cash, and capacity of each grade and hour."""
    return from_sql(
        "cash and capacity are conserved",
        "SELECT count(DISTINCT unit) FROM settlement_account",
        """
        SELECT unit || ' is off by ' || sum(credits) - sum(debits) FROM settlement_account
        GROUP BY unit HAVING sum(credits) <> sum(debits)
        """,
    )


def _balances(since: datetime | None) -> Finding:
    """Totals of accounts are the sums of their transfers, and no transfer is without account."""
    return from_sql(
        "balances are the sums of transfers",
        "SELECT count(*) FROM settlement_account",
        """
        WITH leg AS (
            SELECT debit_account AS account, sum(amount) AS debits, 0 AS credits
            FROM settlement_transfer GROUP BY 1
            UNION ALL
            SELECT credit_account, 0, sum(amount) FROM settlement_transfer GROUP BY 1
        ), total AS (
            SELECT account, sum(debits) AS debits, sum(credits) AS credits
            FROM leg GROUP BY account
        )
        SELECT 'account ' || coalesce(account.id, total.account)
        FROM settlement_account account FULL JOIN total ON total.account = account.id
        WHERE account.debits IS DISTINCT FROM coalesce(total.debits, 0)
           OR account.credits IS DISTINCT FROM coalesce(total.credits, 0)
        """
        if since is None
        else "SELECT '' WHERE false",
    )


def _transfers(since: datetime | None) -> Finding:
    """Transfers are positive, between two accounts of one unit, on the chain of that unit."""
    return from_sql(
        "transfers keep their form",
        "SELECT count(*) FROM settlement_transfer WHERE %(since)s::timestamptz IS NULL"
        " OR at >= %(since)s",
        """
        SELECT chain || ' ' || sequence
        FROM settlement_transfer
        LEFT JOIN settlement_account debit ON debit.id = debit_account
        LEFT JOIN settlement_account credit ON credit.id = credit_account
        WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)
          AND (amount <= 0 OR debit_account = credit_account
            OR debit.unit IS DISTINCT FROM credit.unit OR debit.unit IS NULL
            OR chain <> CASE debit.unit WHEN 'USD' THEN 'cash' ELSE 'capacity' END)
        """,
        {"since": since},
    )


def _clearing(_since: datetime | None) -> Finding:
    """What passes through clearing nets to zero."""
    return from_sql(
        "clearing nets to zero",
        "SELECT count(*) FROM settlement_account WHERE kind = 12",
        "SELECT 'account ' || id || ' has ' || credits - debits FROM settlement_account"
        " WHERE kind = 12 AND credits <> debits",
    )


def _positions(_since: datetime | None) -> Finding:
    """For every long lot of an instrument there is a short one, at the same cost."""
    return from_sql(
        "positions sum to zero",
        "SELECT count(DISTINCT symbol) FROM settlement_position",
        """
        SELECT symbol || ' is off by ' || sum(net_lots) || ' lots, ' || sum(cost_ticks) || ' ticks'
        FROM settlement_position
        GROUP BY symbol HAVING sum(net_lots) <> 0 OR sum(cost_ticks) <> 0
        """,
    )


def _margin_accounts(_since: datetime | None) -> Finding:
    """What the machine says of an organization's money is what its ledger accounts hold."""
    return from_sql(
        "the machine's money is the ledger's",
        "SELECT count(*) FROM settlement_marginaccount",
        """
        SELECT 'organization ' || organization_id
        FROM settlement_marginaccount margin
        LEFT JOIN settlement_account cash ON cash.id = organization_id * 64 + 1
        LEFT JOIN settlement_account escrow ON escrow.id = organization_id * 64 + 2
        WHERE cash_micros <> coalesce(cash.credits - cash.debits, 0)
           OR escrow_micros <> coalesce(escrow.credits - escrow.debits, 0)
        """,
    )


def _entitlements(since: datetime | None) -> Finding:
    """Entitled, owed and allocated lots of an hour are equal, in total and one by one."""
    return from_sql(
        "entitlements equal obligations equal allocations",
        "SELECT count(DISTINCT (grade, starts_at)) FROM settlement_entitlement"
        " WHERE %(since)s::timestamptz IS NULL OR starts_at >= %(since)s",
        """
        WITH entitled AS (
            SELECT grade, starts_at, sum(lots) AS lots, min(price_ticks) AS price,
                   max(price_ticks) AS price_max
            FROM settlement_entitlement GROUP BY 1, 2
        ), owed AS (
            SELECT grade, starts_at, sum(lots) AS lots, min(price_ticks) AS price,
                   max(price_ticks) AS price_max
            FROM settlement_obligation GROUP BY 1, 2
        ), hour AS (
            SELECT grade, starts_at, entitled.lots IS NOT DISTINCT FROM owed.lots
                AND entitled.price = owed.price AND entitled.price = entitled.price_max
                AND owed.price = owed.price_max AS is_right
            FROM entitled FULL JOIN owed USING (grade, starts_at)
        ), entitlement AS (
            SELECT id, grade, starts_at, lots = (
                SELECT coalesce(sum(lots), 0) FROM settlement_allocation allocation
                WHERE entitlement_id = entitlement.id AND holder = entitlement.organization_id
                  AND allocation.starts_at = entitlement.starts_at
                  AND allocation.grade = entitlement.grade
                  AND allocation.price_ticks = entitlement.price_ticks)
                AND escrow_micros = price_ticks * 60 * lots AS is_right
            FROM settlement_entitlement entitlement
        ), obligation AS (
            SELECT id, grade, starts_at, lots = (
                SELECT coalesce(sum(lots), 0) FROM settlement_allocation allocation
                WHERE obligation_id = obligation.id AND seller = obligation.organization_id
                  AND allocation.starts_at = obligation.starts_at
                  AND allocation.grade = obligation.grade)
                AND failed_lots = (
                SELECT coalesce(sum(lots), 0) FROM settlement_allocation
                WHERE obligation_id = obligation.id AND cluster = 0) AS is_right
            FROM settlement_obligation obligation
        )
        SELECT what FROM (
            SELECT 'hour ' || grade || ' ' || starts_at AS what, starts_at, is_right FROM hour
            UNION ALL SELECT 'entitlement ' || id, starts_at, is_right FROM entitlement
            UNION ALL SELECT 'obligation ' || id, starts_at, is_right FROM obligation
        ) AS everything
        WHERE is_right IS NOT TRUE AND (%(since)s::timestamptz IS NULL OR starts_at >= %(since)s)
        """,
        {"since": since},
    )


def _intervals(since: datetime | None) -> Finding:
    """A settled interval pays out exactly its part of the escrow, once, within its bounds."""
    return from_sql(
        "settled intervals pay out their escrow",
        "SELECT count(*) FROM settlement_intervalsettlement"
        " WHERE %(since)s::timestamptz IS NULL OR at >= %(since)s",
        """
        SELECT 'allocation ' || allocation_id || ', interval ' || settled.interval
        FROM settlement_intervalsettlement settled
        JOIN settlement_allocation allocation ON allocation.id = allocation_id
        WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)
          AND (released_micros + refunded_micros <> 5 * price_ticks * lots
            OR released_micros < 0 OR refunded_micros < 0
            OR compensated_micros < 0 OR compensated_micros > compensation_due_micros
            OR available_mntu < 0 OR available_mntu > lots * 5000000 OR short_mntu < 0
            OR settled.interval NOT BETWEEN 1 AND 12
            OR released_micros > 5 * price_ticks * lots * available_mntu / (lots * 5000000) + 1)
        """,
        {"since": since},
    )


def _escrow(_since: datetime | None) -> Finding:
    """Escrow holds what was paid for and is neither delivered nor returned, per holder."""
    return from_sql(
        "escrow equals undelivered paid value",
        "SELECT count(*) FROM settlement_account WHERE kind = 2",
        """
        WITH open AS (
            SELECT holder, sum(5 * price_ticks * lots * (12 - (
                SELECT count(*) FROM settlement_intervalsettlement
                WHERE allocation_id = allocation.id))) AS micros
            FROM settlement_allocation allocation GROUP BY holder
        )
        SELECT 'organization ' || coalesce(account.owner, open.holder) || ' holds '
            || coalesce(credits - debits, 0) || ', not ' || coalesce(micros, 0)
        FROM (SELECT * FROM settlement_account WHERE kind = 2) account
        FULL JOIN open ON open.holder = account.owner
        WHERE coalesce(credits - debits, 0) <> coalesce(micros, 0)
        """,
    )


def _granted(_since: datetime | None) -> Finding:
    """What an hour granted is what its allocations entitle to, and is left, used or expired."""
    return from_sql(
        "granted capacity is left, used or expired",
        "SELECT count(*) FROM settlement_deliveryhour WHERE granted_at IS NOT NULL",
        """
        WITH hour AS (
            SELECT grade, starts_at, expired_at, 'mNTU:' || grade || ':'
                || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24"Z"') AS unit
            FROM settlement_deliveryhour WHERE granted_at IS NOT NULL
        ), granted AS (
            SELECT hour.unit, hour.expired_at, entitlement.organization_id AS owner,
                   entitlement.lots * 60000000 AS mntu, entitlement.delivered_mntu
            FROM hour JOIN settlement_entitlement entitlement USING (grade, starts_at)
        ), held AS (
            SELECT unit, owner,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 51), 0) AS entitled,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 52), 0) AS consumed,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 53), 0) AS expired
            FROM settlement_account WHERE kind IN (51, 52, 53) GROUP BY unit, owner
        )
        SELECT coalesce(granted.unit, held.unit) || ' of organization '
            || coalesce(granted.owner, held.owner)
        FROM granted FULL JOIN held USING (unit, owner)
        WHERE mntu IS DISTINCT FROM entitled + consumed + expired
           OR delivered_mntu IS DISTINCT FROM consumed
           OR expired_at IS NOT NULL AND entitled <> 0
           OR expired_at IS NULL AND expired <> 0
        """,
    )


def _chains(since: datetime | None) -> Finding:
    """Sequences have no gaps and every link's hash is that of its own rows and of all before."""
    wrong: list[str] = []
    checked = 0
    for chain in ("cash", "capacity"):
        last: tuple[int, bytes] | None = None if since else (0, bytes(32))
        for link in _links(chain, since):
            checked += 1
            sequence, first, previous, stored, at = link
            if last is not None and (first != last[0] + 1 or previous != last[1]):
                wrong.append(f"{chain} {first} does not follow {last[0]}")
            if _link_hash(chain, first, sequence, previous, at) != stored:
                wrong.append(f"{chain} {first} to {sequence} does not hash to its link")
            last = (sequence, stored)
        wrong += _head_violations(chain, last)
    return Finding(
        name="the ledger's hash chains verify",
        checked=checked,
        violations=len(wrong),
        examples=tuple(wrong[:VIOLATIONS_SHOWN_MAX]),
    )


def _links(chain: str, since: datetime | None) -> Iterator[tuple[int, int, bytes, bytes, datetime]]:
    """Yield the links of a chain in order, a page at a time."""
    after = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sequence, first_sequence, previous_hash, hash, at"
                " FROM settlement_chainlink WHERE chain = %s AND sequence > %s"
                " AND (%s::timestamptz IS NULL OR at >= %s) ORDER BY sequence LIMIT %s",
                [chain, after, since, since, FETCH_ROWS],
            )
            rows = cursor.fetchall()
        if not rows:
            return
        for sequence, first, previous, stored, at in rows:
            yield sequence, first, bytes(previous), bytes(stored), at
        after = rows[-1][0]


def _link_hash(chain: str, first: int, last: int, previous: bytes, at: datetime) -> bytes:
    """Return what the rows of a batch hash to; the form is stated in migration 0002."""
    digest = hashlib.sha256(previous)
    digest.update(struct.pack(">qqq", first, last, (at - _EPOCH) // timedelta(microseconds=1)))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, owner, kind, unit FROM settlement_account"
            " WHERE opened_in = %s AND (kind < 50) = %s ORDER BY id",
            [first, chain == "cash"],
        )
        opened = cursor.fetchall()
        cursor.execute(
            "SELECT sequence, debit_account, credit_account, amount, code, cause"
            " FROM settlement_transfer WHERE chain = %s AND sequence BETWEEN %s AND %s"
            " ORDER BY sequence",
            [chain, first, last],
        )
        rows = cursor.fetchall()
    digest.update(struct.pack(">i", len(opened)))
    for id_, owner, kind, unit in opened:
        digest.update(struct.pack(">qqh", id_, owner, kind) + _prefixed(unit))
    if [row[0] for row in rows] != list(range(first, last + 1)):
        return b""
    for _, debit, credit, amount, code, cause in rows:
        digest.update(struct.pack(">qqqh", debit, credit, amount, code) + _prefixed(cause))
    return digest.digest()


def _prefixed(text: str) -> bytes:
    """Return a text with its length before it."""
    data = text.encode()
    return struct.pack(">i", len(data)) + data


def _head_violations(chain: str, last: tuple[int, bytes] | None) -> list[str]:
    """Return how a chain's head and transfers go beyond its last link, or fall short of it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sequence, hash FROM settlement_chainhead WHERE chain = %s", [chain])
        row = cursor.fetchone()
        cursor.execute(
            "SELECT coalesce(max(sequence), 0) FROM settlement_transfer WHERE chain = %s", [chain]
        )
        transfer = cursor.fetchone()[0]
    head = (0, bytes(32)) if row is None else (row[0], bytes(row[1]))
    wrong = []
    if last is not None and head != last:
        wrong.append(f"the head of {chain} is at {head[0]}, its last link at {last[0]}")
    if transfer != head[0]:
        wrong.append(f"the head of {chain} is at {head[0]}, its last transfer at {transfer}")
    return wrong


def _seals(since: datetime | None) -> Finding:
    """Every seal is its key's signature over the hash that the chain still has there."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT seal.chain, seal.sequence, seal.hash, seal.signature, seal.at, key.public_key,
                   link.hash
            FROM settlement_seal seal
            JOIN settlement_signingkey key ON key.id = seal.signing_key_id
            LEFT JOIN settlement_chainlink link
              ON link.chain = seal.chain AND link.sequence = seal.sequence
            WHERE %s::timestamptz IS NULL OR seal.at >= %s
            ORDER BY seal.chain, seal.sequence
            """,
            [since, since],
        )
        rows = cursor.fetchall()
    wrong = []
    for chain, sequence, digest, signature, at, public_key, linked in rows:
        signed = seals.message(
            chain=chain,
            sequence=sequence,
            at=(at - _EPOCH) // timedelta(microseconds=1),
            digest=bytes(digest),
        )
        if linked is None or bytes(linked) != bytes(digest):
            wrong.append(f"{chain} {sequence} is no longer what was sealed")
        elif not seals.is_valid(
            public_key=bytes(public_key), signature=bytes(signature), signed=signed
        ):
            wrong.append(f"the seal of {chain} {sequence} is not signed by its key")
    return Finding(
        name="seals verify",
        checked=len(rows),
        violations=len(wrong),
        examples=tuple(wrong[:VIOLATIONS_SHOWN_MAX]),
    )


CHECKS: tuple[Check, ...] = (
    _identities,
    _overdrawn,
    _conserved,
    _balances,
    _transfers,
    _chains,
    _seals,
    _clearing,
    _positions,
    _margin_accounts,
    _entitlements,
    _intervals,
    _escrow,
    _granted,
)
