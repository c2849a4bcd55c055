"""What must be true of accounts, transfers, holds, chains and seals."""

import hashlib
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from settlement import seals
from settlement.audit.findings import Check, Finding, from_list, from_sql

LINKS_PER_PAGE = 200

Link = tuple[int, int, bytes, bytes, datetime]
"""Last and first sequence, previous hash, hash and instant."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _identities(_since: datetime | None) -> Finding:
    """Accounts are what their ids say, and only those may go negative that stand for outside."""
    return from_sql(
        "accounts are what they say",
        "SELECT count(*) FROM settlement_account",
        """
        SELECT 'account ' || id FROM settlement_account
        WHERE (unit = 'USD') <> (kind < 50)
           OR unit = 'USD' AND id <> owner * 64 + kind
           OR unit <> 'USD' AND (mod(id, 64) <> 63 OR unit NOT LIKE 'mNTU:%%:%%')
           OR may_go_negative <> (kind IN (10, 12, 13, 50))
        """,
    )


def _overdrawn(_since: datetime | None) -> Finding:
    """No account is below zero that may not be, with what is held of it."""
    return from_sql(
        "no account is overdrawn",
        "SELECT count(*) FROM settlement_account",
        """
        SELECT 'account ' || id || ' has ' || credits - debits - held FROM settlement_account
        WHERE debits < 0 OR credits < 0 OR held < 0
           OR credits < debits + held AND kind NOT IN (10, 12, 13, 50)
           OR closed_in IS NOT NULL AND (credits <> debits OR held <> 0)
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


def _balances(_since: datetime | None) -> Finding:
    """Totals of accounts are the sums of their transfers, and no transfer is without account."""
    return from_sql(
        "balances are the sums of transfers",
        "SELECT count(*) FROM settlement_account",
        """
        WITH leg AS (
            SELECT debit_account AS account, sum(amount) AS debits, 0 AS credits
            FROM settlement_transfer WHERE phase IN (0, 2) GROUP BY 1
            UNION ALL
            SELECT credit_account, 0, sum(amount)
            FROM settlement_transfer WHERE phase IN (0, 2) GROUP BY 1
        ), total AS (
            SELECT account, sum(debits) AS debits, sum(credits) AS credits
            FROM leg GROUP BY account
        )
        SELECT 'account ' || coalesce(account.id, total.account)
        FROM settlement_account account FULL JOIN total ON total.account = account.id
        WHERE account.debits IS DISTINCT FROM coalesce(total.debits, 0)
           OR account.credits IS DISTINCT FROM coalesce(total.credits, 0)
        """,
    )


def _running(_since: datetime | None) -> Finding:
    """No account was ever below zero on its way, entry by entry, nor moved after it was closed."""
    return from_sql(
        "accounts were never overdrawn on the way",
        "SELECT count(*) FROM settlement_account",
        """
        WITH ended AS (
            SELECT transfer.*, hold.amount AS held_amount
            FROM settlement_transfer transfer
            LEFT JOIN settlement_transfer hold
              ON hold.chain = transfer.chain AND hold.id = transfer.hold AND hold.phase = 1
        ), entry AS (
            SELECT debit_account AS account, sequence,
                   CASE phase WHEN 0 THEN -amount WHEN 1 THEN -amount
                        WHEN 2 THEN held_amount - amount ELSE held_amount END AS freed
            FROM ended
            UNION ALL
            SELECT credit_account, sequence, amount FROM ended WHERE phase IN (0, 2)
        ), after AS (
            SELECT account, sequence,
                   sum(freed) OVER (PARTITION BY account ORDER BY sequence) AS available
            FROM entry
        ), way AS (
            SELECT account, min(available) AS lowest, max(sequence) AS last,
                   (array_agg(available ORDER BY sequence DESC))[1] AS available
            FROM after GROUP BY account
        )
        SELECT 'account ' || id FROM settlement_account LEFT JOIN way ON account = id
        WHERE coalesce(lowest, 0) < 0 AND kind NOT IN (10, 12, 13, 50)
           OR coalesce(available, 0) <> credits - debits - held
           OR closed_in < last
        """,
    )


def _held(_since: datetime | None) -> Finding:
    """What is held on an account is the sum of its open holds."""
    return from_sql(
        "what is held is the sum of open holds",
        "SELECT count(*) FROM settlement_account",
        """
        WITH open AS (
            SELECT debit_account AS id, sum(hold.amount) AS held
            FROM settlement_hold hold
            LEFT JOIN settlement_holdresolution ended
              ON ended.chain = hold.chain AND ended.hold = hold.id
            WHERE ended.hold IS NULL GROUP BY debit_account
        )
        SELECT 'account ' || coalesce(account.id, open.id) || ' holds ' || coalesce(account.held, 0)
            || ', not ' || coalesce(open.held, 0)
        FROM settlement_account account FULL JOIN open ON open.id = account.id
        WHERE coalesce(account.held, 0) <> coalesce(open.held, 0)
        """,
    )


def _holds(_since: datetime | None) -> Finding:
    """Holds and their ends are what the transfers say, and each hold ended at most once."""
    return from_sql(
        "holds and their ends are their transfers",
        "SELECT count(*) FROM settlement_hold",
        """
        WITH kept AS (
            SELECT chain, sequence, id AS name, 1 AS phase, amount, expires_at
            FROM settlement_hold
            UNION ALL
            SELECT chain, sequence, hold, phase, amount, NULL FROM settlement_holdresolution
        ), said AS (
            SELECT chain, sequence, CASE phase WHEN 1 THEN id ELSE hold END AS name,
                   phase::integer, CASE WHEN phase > 2 THEN 0 ELSE amount END AS amount, expires_at
            FROM settlement_transfer WHERE phase > 0
        )
        SELECT 'hold ' || coalesce(kept.name, said.name)
        FROM kept FULL JOIN said USING (chain, sequence)
        WHERE (kept.name, kept.phase, kept.amount) IS DISTINCT FROM
              (said.name, said.phase, said.amount)
           OR kept.expires_at IS DISTINCT FROM said.expires_at
        UNION ALL
        SELECT 'hold ' || ended.hold FROM settlement_transfer ended
        LEFT JOIN settlement_transfer hold
          ON hold.chain = ended.chain AND hold.id = ended.hold AND hold.phase = 1
         AND hold.sequence < ended.sequence
         AND hold.debit_account = ended.debit_account
         AND hold.credit_account = ended.credit_account
        WHERE ended.hold IS NOT NULL
        GROUP BY ended.chain, ended.hold
        HAVING count(*) <> 1 OR count(hold.id) <> 1 OR max(ended.amount) > max(hold.amount)
        UNION ALL
        SELECT 'id ' || coalesce(known.id, posted.id)
        FROM settlement_transferid known
        FULL JOIN (SELECT chain, sequence, id FROM settlement_transfer WHERE id IS NOT NULL) posted
          ON posted.chain = known.chain AND posted.sequence = known.sequence
        WHERE known.id IS DISTINCT FROM posted.id
        """,
    )


def _partitions(_since: datetime | None) -> Finding:
    """The ledger has partitions for at least the month after its last transfer's."""
    return from_sql(
        "partitions are made ahead",
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'settlement_transfer'::regclass",
        """
        SELECT part || ' of ' || to_char(month, 'YYYY-MM') || ' is missing'
        FROM (SELECT date_trunc('month', max(at), 'UTC') AS month FROM settlement_chainhead) last,
        LATERAL (VALUES (month), (month + interval '32 days')) AS wanted (ends),
        LATERAL (VALUES ('settlement_transfer'), ('settlement_chainlink')) AS parts (part)
        WHERE month > 'epoch' AND NOT EXISTS (
            SELECT 1 FROM pg_inherits WHERE inhparent = part::regclass AND inhrelid = to_regclass(
                part || '_' || to_char(ends AT TIME ZONE 'UTC', 'YYYYMM')))
        """,
    )


def _transfers(since: datetime | None) -> Finding:
    """Transfers are positive, once each, between two accounts of one unit, on its chain."""
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
        UNION ALL
        SELECT chain || ' ' || sequence FROM settlement_transfer
        WHERE %(since)s::timestamptz IS NULL OR at >= %(since)s
        GROUP BY chain, sequence HAVING count(*) > 1
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


def _chains(since: datetime | None) -> Finding:
    """Sequences have no gaps and every link's hash is that of its own rows and of all before."""
    wrong: list[str] = []
    checked = 0
    for chain in ("cash", "capacity"):
        last: tuple[int, bytes] | None = None if since else (0, bytes(32))
        for page in _pages(chain, since):
            rows, opened = _rows_of(chain, page[0][1], page[-1][0])
            for sequence, first, previous, stored, at in page:
                checked += 1
                if last is not None and (first, previous) != (last[0] + 1, last[1]):
                    wrong.append(f"{chain} {first} does not follow {last[0]}")
                batch = [rows.get(number) for number in range(first, sequence + 1)]
                if (
                    _link_hash(previous, first, sequence, at, opened.get(first, []), batch)
                    != stored
                ):
                    wrong.append(f"{chain} {first} to {sequence} does not hash to its link")
                last = (sequence, stored)
        wrong += _head_violations(chain, last)
    return from_list("the ledger's hash chains verify", checked, wrong)


def _pages(chain: str, since: datetime | None) -> Iterator[list[Link]]:
    """Yield the links of a chain in order, a page at a time."""
    after = 0
    if since is not None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(min(sequence), (SELECT max(sequence) FROM settlement_chainlink"
                " WHERE chain = %s) + 1, 1) - 1 FROM settlement_chainlink"
                " WHERE chain = %s AND at >= %s",
                [chain, chain, since],
            )
            after = cursor.fetchone()[0]
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sequence, first_sequence, previous_hash, hash, at"
                " FROM settlement_chainlink WHERE chain = %s AND sequence > %s"
                " ORDER BY sequence LIMIT %s",
                [chain, after, LINKS_PER_PAGE],
            )
            page = [
                (sequence, first, bytes(previous), bytes(stored), at)
                for sequence, first, previous, stored, at in cursor.fetchall()
            ]
        if not page:
            return
        yield page
        after = page[-1][0]


def _rows_of(
    chain: str, first: int, last: int
) -> tuple[dict[int, tuple[Any, ...]], dict[int, list[tuple[Any, ...]]]]:
    """Return the transfers of a stretch by sequence, and the accounts opened by its batches."""
    opened: dict[int, list[tuple[Any, ...]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT opened_in, id, owner, kind, unit FROM settlement_account"
            " WHERE opened_in BETWEEN %s AND %s AND (kind < 50) = %s ORDER BY id",
            [first, last, chain == "cash"],
        )
        for batch, *account in cursor.fetchall():
            opened.setdefault(batch, []).append(tuple(account))
        cursor.execute(
            "SELECT sequence, debit_account, credit_account, amount, code, cause, at, phase, id,"
            " hold, expires_at FROM settlement_transfer"
            " WHERE chain = %s AND sequence BETWEEN %s AND %s",
            [chain, first, last],
        )
        return {row[0]: row[1:] for row in cursor.fetchall()}, opened


def _link_hash(
    previous: bytes,
    first: int,
    last: int,
    at: datetime,
    opened: list[tuple[Any, ...]],
    batch: list[tuple[Any, ...] | None],
) -> bytes:
    """Return what a batch hashes to, nothing if it is not whole; the form is migration 0002's."""
    digest = hashlib.sha256(previous)
    digest.update(struct.pack(">qqq", first, last, (at - _EPOCH) // timedelta(microseconds=1)))
    digest.update(struct.pack(">i", len(opened)))
    for id_, owner, kind, unit in opened:
        digest.update(struct.pack(">qqh", id_, owner, kind) + _prefixed(unit))
    is_plain = all(row is None or (row[6], row[7]) == (0, None) for row in batch)
    digest.update(struct.pack(">i", 0 if is_plain else 1))
    for row in batch:
        if row is None or row[5] != at:
            return b""
        debit, credit, amount, code, cause, _, phase, id_, hold, expires_at = row
        digest.update(struct.pack(">qqqh", debit, credit, amount, code) + _prefixed(cause))
        if not is_plain:
            ends = 0 if expires_at is None else (expires_at - _EPOCH) // timedelta(microseconds=1)
            digest.update(
                struct.pack(">h", phase)
                + _prefixed(id_)
                + _prefixed(hold)
                + struct.pack(">q", ends)
            )
    return digest.digest()


def _prefixed(text: str | None) -> bytes:
    """Return a text with its length before it."""
    data = (text or "").encode()
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
    return from_list("seals verify", len(rows), wrong)


CHECKS: tuple[Check, ...] = (
    _identities,
    _overdrawn,
    _held,
    _partitions,
    _conserved,
    _transfers,
    _clearing,
    _chains,
    _seals,
)
SEALED: tuple[Check, ...] = (_chains, _seals)
"""What must hold before anything of a day is settled again."""
FULL_CHECKS: tuple[Check, ...] = (_balances, _running, _holds)
