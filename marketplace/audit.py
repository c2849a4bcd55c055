"""What must be true across the apps: journal and ledger, trades and cash, meter and capacity.

The command `audit_ledger` runs these beside `settlement.audit`. Like those they read rows only and
share nothing with their writers: the journal's events are taken apart as plain arrays, and what a
trade, a gate closure or a request must have moved is worked out again from its own terms.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection

from settlement import audit
from settlement.audit.findings import Check, Finding, from_list, from_sql

BATCHES_PER_PAGE = 500
TRANSFERRED, HELD = 7, 61
"""Tags of the events that cash transfers are written from."""
DEFAULTED, HAIRCUT = 41, 42
"""Tags of the events that say who did not pay, and who was not paid in full."""


def run() -> list[Finding]:
    """Carry out every check there is, settlement's first."""
    return [*audit.run(), *(check(None) for check in CHECKS)]


def _journal(_since: datetime | None) -> Finding:
    """The journal has no gap and every batch's hash binds its bytes and all before it."""
    wrong: list[str] = []
    checked = 0
    last: dict[str, tuple[int, bytes]] = {}
    for group, sequence, first, commands, events, previous, stored in _batches():
        checked += 1
        before = last.get(group, (0, bytes(32)))
        if (first, previous) != (before[0] + 1, before[1]):
            wrong.append(f"batch {first} of {group} does not follow {before[0]}")
        digest = hashlib.sha256()
        for field in (previous, commands, events):
            digest.update(len(field).to_bytes(8, "big") + field)
        if digest.digest() != stored:
            wrong.append(f"batch {first} of {group} does not hash to what is stored")
        last[group] = (sequence, stored)
    with connection.cursor() as cursor:
        cursor.execute('SELECT "group", sequence, hash FROM exchange_head')
        heads = {row[0]: (row[1], bytes(row[2])) for row in cursor.fetchall()}
    for group in sorted(heads.keys() | last.keys()):
        end = last.get(group, (0, bytes(32)))
        if heads.get(group, (0, bytes(32))) != end:
            wrong.append(f"the head of {group} is not its last batch")
    return from_list("the journal's hash chain verifies", checked, wrong)


def _posted(_since: datetime | None) -> Finding:
    """The cash chain is, transfer for transfer, what the journal's events say was moved."""
    wrong: list[str] = []
    checked = 0
    posted = _cash_transfers()
    for event in _transferred():
        checked += 1
        row = next(posted, None)
        if row is None:
            wrong.append(f"event {checked} ({event[4]}) was never posted")
        elif row[1:] != event:
            wrong.append(f"cash {row[0]} is not what the journal says")
    wrong += [f"cash {row[0]} is in no event" for row in posted]
    return from_list("cash transfers are the journal's", checked, wrong)


def _batches() -> Iterator[tuple[str, int, int, bytes, bytes, bytes, bytes]]:
    """Yield the journal in order, a page at a time."""
    with connection.cursor() as cursor:
        cursor.execute('SELECT DISTINCT "group" FROM exchange_journalbatch ORDER BY 1')
        groups = [row[0] for row in cursor.fetchall()]
    for group in groups:
        after = 0
        while True:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT sequence, first_sequence, commands, events, previous_hash, hash"
                    ' FROM exchange_journalbatch WHERE "group" = %s AND sequence > %s'
                    " ORDER BY sequence LIMIT %s",
                    [group, after, BATCHES_PER_PAGE],
                )
                rows = cursor.fetchall()
            if not rows:
                break
            for sequence, first, *fields in rows:
                commands, events, previous, stored = (bytes(field) for field in fields)
                yield group, sequence, first, commands, events, previous, stored
            after = rows[-1][0]


def _transferred() -> Iterator[tuple[int, int, int, int, str, int, str, str]]:
    """Yield (debit, credit, amount, code, cause, phase, id, hold) of the journal's transfers."""
    for _, _, _, _, events, _, _ in _batches():
        for tag, *fields in msgspec.msgpack.decode(events):
            if tag in (TRANSFERRED, HELD):
                debit_owner, debit_kind, credit_owner, credit_kind, *rest = fields
                amount, code, cause, phase, name, hold = [*rest, 0, "", ""][:6]
                debit, credit = debit_owner * 64 + debit_kind, credit_owner * 64 + credit_kind
                yield debit, credit, amount, code, cause, phase, name, hold


def _cash_transfers() -> Iterator[tuple[int, int, int, int, int, str, int, str, str]]:
    """Yield the sequence and what `_transferred` yields of the cash chain, in order."""
    after = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sequence, debit_account, credit_account, amount, code, cause, phase,"
                " coalesce(id, ''), coalesce(hold, '') FROM settlement_transfer"
                " WHERE chain = 'cash' AND sequence > %s"
                " ORDER BY sequence LIMIT %s",
                [after, BATCHES_PER_PAGE * 10],
            )
            rows: list[Any] = cursor.fetchall()
        if not rows:
            return
        yield from rows
        after = rows[-1][0]


def _trade_fees(_since: datetime | None) -> Finding:
    """Every trade has exactly its two fee transfers, and no fee is without a trade."""
    return from_sql(
        "trades have exactly their fees",
        "SELECT count(*) FROM exchange_trade",
        """
        WITH said AS (
            SELECT 'trade:' || id AS cause, fee.*
            FROM exchange_trade, LATERAL (VALUES
                (maker * 64 + 1, maker_fee_micros), (taker * 64 + 1, taker_fee_micros)
            ) AS fee (account, amount)
            WHERE amount <> 0
        ), done AS (
            SELECT cause, debit_account AS account, amount, credit_account
            FROM settlement_transfer
            WHERE code = 3
        )
        SELECT cause FROM said FULL JOIN done USING (cause, account, amount)
        GROUP BY cause, account, amount
        HAVING count(said.*) <> 1 OR count(done.*) <> 1 OR min(credit_account) <> 11
        """,
    )


def _orders(_since: datetime | None) -> Finding:
    """Orders are filled by their trades, to the lot, the tick and the fee."""
    return from_sql(
        "orders are the sums of their fills",
        "SELECT count(*) FROM exchange_order",
        """
        WITH fill AS (
            SELECT maker_order AS id, lots, lots * price_ticks AS ticks, maker_fee_micros AS fee,
                   maker AS organization, -taker_side AS side, symbol
            FROM exchange_trade
            UNION ALL
            SELECT taker_order, lots, lots * price_ticks, taker_fee_micros, taker, taker_side,
                   symbol
            FROM exchange_trade
        ), total AS (
            SELECT id, sum(lots) AS lots, sum(ticks) AS ticks, sum(fee) AS fee,
                   min(organization) AS organization, min(side) AS side, min(symbol) AS symbol,
                   count(DISTINCT symbol) AS hours
            FROM fill GROUP BY id
        )
        SELECT 'order ' || coalesce(o.id, total.id)
        FROM exchange_order o FULL JOIN total ON total.id = o.id
        WHERE o.id IS NULL
            OR o.filled_lots * CASE o.type WHEN 'STRIP' THEN coalesce(total.hours, 0) ELSE 1 END
                <> coalesce(total.lots, 0)
            OR o.notional_ticks <> coalesce(total.ticks, 0)
            OR o.fee_micros <> coalesce(total.fee, 0)
            OR total.id IS NOT NULL AND (total.organization <> o.organization_id
                OR total.side <> o.side OR o.type <> 'STRIP' AND total.symbol <> o.symbol)
        """,
    )


_ENTERED = """
    leg AS (
        SELECT symbol, maker AS organization, -taker_side * lots AS lots,
               -taker_side * lots * price_ticks AS ticks
        FROM exchange_trade
        UNION ALL
        SELECT symbol, taker, taker_side * lots, taker_side * lots * price_ticks
        FROM exchange_trade
    ), traded AS (
        SELECT symbol, organization, sum(lots) AS lots, sum(ticks) AS ticks
        FROM leg GROUP BY symbol, organization
    ), listed AS (
        SELECT symbol, product, grade_id AS grade, starts_at, ends_at,
               state = 'SETTLED' OR state = 'CLOSED' AND product NOT IN ('CAP', 'COVER')
                   AS is_closed,
               CASE product WHEN 'SLOT' THEN 100
                    ELSE extract(epoch FROM ends_at - starts_at)::bigint / 60 END AS unit
        FROM marketplace_instrument
    ), final AS (
        SELECT DISTINCT ON (symbol) symbol, price_ticks AS price
        FROM settlement_mark ORDER BY symbol, at DESC, id DESC
    ), day AS (
        SELECT symbol, organization, sum(lots) AS lots, sum(ticks) AS ticks
        FROM (
            SELECT symbol, organization, lots, ticks FROM traded JOIN listed USING (symbol)
            WHERE product = 'DAY'
            UNION ALL
            SELECT child.symbol, organization, lots, lots * price
            FROM traded JOIN listed parent USING (symbol) JOIN final USING (symbol)
            JOIN listed child ON child.product = 'DAY' AND child.grade = parent.grade
             AND child.starts_at >= parent.starts_at AND child.ends_at <= parent.ends_at
            WHERE parent.product IN ('MONTH', 'WEEK') AND parent.is_closed
        ) AS part GROUP BY symbol, organization
    ), entered AS (
        SELECT symbol, organization, sum(lots) AS lots, sum(ticks) AS ticks
        FROM (
            SELECT * FROM day
            UNION ALL
            SELECT symbol, organization, lots, ticks FROM traded JOIN listed USING (symbol)
            WHERE product <> 'DAY'
            UNION ALL
            SELECT child.symbol, organization, lots, lots * price
            FROM day JOIN listed parent USING (symbol) JOIN final USING (symbol)
            JOIN listed child ON child.product = 'HOUR' AND child.grade = parent.grade
             AND child.starts_at >= parent.starts_at AND child.ends_at <= parent.ends_at
            WHERE parent.is_closed
        ) AS part GROUP BY symbol, organization
    )
"""
"""What came into every position, by trades and, at the final mark, by what cascaded into it."""


def _netted(_since: datetime | None) -> Finding:
    """Positions are the sums of trades; what ended became its parts, or is owed and entitled."""
    return from_sql(
        "positions and what they became are the sums of trades",
        "SELECT count(*) FROM settlement_position",
        f"""
        WITH {_ENTERED}, became AS (
            SELECT organization_id AS organization, grade, starts_at, lots
            FROM settlement_entitlement
            UNION ALL
            SELECT organization_id, grade, starts_at, -lots FROM settlement_obligation
        ), held AS (
            SELECT symbol, organization, sum(became.lots) AS lots, NULL AS ticks
            FROM became JOIN listed USING (grade, starts_at)
            WHERE product = 'HOUR' AND is_closed
            GROUP BY symbol, organization
            UNION ALL
            SELECT symbol, organization_id, net_lots, cost_ticks FROM settlement_position
            JOIN listed USING (symbol) WHERE NOT is_closed OR product NOT IN ('HOUR', 'SLOT')
        ), expected AS (
            SELECT symbol, organization,
                   CASE WHEN is_closed AND product <> 'HOUR' THEN 0 ELSE lots END AS lots,
                   CASE WHEN is_closed THEN 0 ELSE ticks END AS ticks
            FROM entered JOIN listed USING (symbol) WHERE NOT is_closed OR product <> 'SLOT'
        )
        SELECT symbol || ' of organization ' || organization
        FROM expected FULL JOIN held USING (symbol, organization)
        WHERE coalesce(expected.lots, 0) <> coalesce(held.lots, 0)
           OR coalesce(held.ticks, expected.ticks) <> expected.ticks
        """,  # noqa: S608 - a constant of this module
    )


def _variation(_since: datetime | None) -> Finding:
    """Everyone was paid the way from what its lots were traded at to what they were marked at.

    What has ended was paid up to its delivery price or its final mark, what is open up to its last
    mark, less what the default waterfall did not reach.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PAID_FOR_MARKS)
        organizations = cursor.fetchall()
        cursor.execute(_UNSETTLED)
        wrong = [row[0] for row in cursor.fetchall()]
    lost: dict[int, int] = {}
    in_default = set()
    for _, _, _, _, events, _, _ in _batches():
        for tag, *fields in msgspec.msgpack.decode(events):
            if tag == HAIRCUT:
                lost[fields[0]] = lost.get(fields[0], 0) + fields[1]
            elif tag == DEFAULTED:
                in_default.add(fields[0])
    spared = 0
    for organization, due, paid in organizations:
        missing = due - paid - lost.get(organization, 0)
        if missing < 0 and organization in in_default:
            spared -= missing
        elif missing:
            wrong.append(f"organization {organization} was paid {paid} for marks, not {due}")
    if spared != sum(lost.values()):
        wrong.append(f"{spared} were not paid in, and {sum(lost.values())} not paid out")
    return from_list("marks paid their variation", len(organizations), wrong)


_PAID_FOR_MARKS = f"""
    WITH {_ENTERED}, settled AS (
        SELECT symbol, index.price_ticks AS price
        FROM listed JOIN settlement_indexvalue index
          ON index.grade = listed.grade AND index.hour_starts_at = listed.starts_at
         AND index.version = 1
        WHERE product = 'HOUR' AND is_closed
        UNION ALL
        SELECT symbol, price FROM listed JOIN final USING (symbol)
        WHERE product <> 'HOUR' AND is_closed
    ), due AS (
        SELECT organization, unit * (price * lots - ticks) AS amount
        FROM entered JOIN listed USING (symbol) JOIN settled USING (symbol)
        WHERE product NOT IN ('CAP', 'COVER')
        UNION ALL
        SELECT organization_id, unit * received_ticks
        FROM settlement_position JOIN listed USING (symbol)
        WHERE NOT is_closed AND product NOT IN ('CAP', 'COVER')
    ), total AS (
        SELECT organization, sum(amount) AS amount FROM due GROUP BY organization
    ), paid AS (
        SELECT owner AS organization,
               sum(CASE WHEN credit_account = account.id THEN amount ELSE -amount END) AS amount
        FROM settlement_transfer
        JOIN settlement_account account
          ON account.id IN (debit_account, credit_account) AND account.kind = 1
        WHERE code = 4 GROUP BY 1
    )
    SELECT organization, coalesce(total.amount, 0)::bigint, coalesce(paid.amount, 0)::bigint
    FROM total FULL JOIN paid USING (organization) ORDER BY organization
"""  # noqa: S608 - a constant of this module

_UNSETTLED = """
    SELECT position.symbol || ' of organization ' || organization_id || ' is not at its mark'
    FROM settlement_position position JOIN marketplace_instrument listed USING (symbol)
    WHERE cost_ticks + received_ticks <> net_lots * mark_price_ticks
      AND product NOT IN ('CAP', 'COVER') AND state NOT IN ('CLOSED', 'SETTLED')
      AND NOT EXISTS (
        SELECT FROM exchange_trade trade
        WHERE trade.symbol = position.symbol AND organization_id IN (maker, taker)
          AND trade.at >= date_trunc('hour', position.updated_at AT TIME ZONE 'UTC')
                          AT TIME ZONE 'UTC')
"""
"""Open positions that were not settled at the full hour after they last traded."""


def _metered(_since: datetime | None) -> Finding:
    """What was metered of each organization and hour is what the capacity chain consumed."""
    return from_sql(
        "metered usage equals capacity consumed",
        "SELECT count(*) FROM admission_meteredrequest",
        """
        WITH metered AS (
            SELECT request.organization_id AS owner, 'mNTU:' || request.grade || ':'
                    || to_char(hour_starts_at AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24"Z"') AS unit,
                   sum(entitled_mntu) AS entitled, sum(overrun_mntu) AS overrun,
                   sum(shared_mntu) AS shared
            FROM admission_meteredrequest
            JOIN admission_request request ON request.id = request_id
            GROUP BY 1, 2
        ), consumed AS (
            SELECT owner, unit,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 52), 0) AS entitled,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 54), 0) AS overrun,
                   coalesce(sum(credits - debits) FILTER (WHERE kind = 55), 0) AS shared
            FROM settlement_account WHERE kind IN (52, 54, 55) GROUP BY 1, 2
        )
        SELECT unit || ' of organization ' || owner
        FROM metered FULL JOIN consumed USING (owner, unit)
        WHERE coalesce(metered.entitled, 0) <> coalesce(consumed.entitled, 0)
           OR coalesce(metered.overrun, 0) <> coalesce(consumed.overrun, 0)
           OR coalesce(metered.shared, 0) <> coalesce(consumed.shared, 0)
        """,
    )


def _usage(_since: datetime | None) -> Finding:
    """A request was metered for what its last event says, split without remainder."""
    return from_sql(
        "requests are metered to their last event",
        "SELECT count(*) FROM admission_meteredrequest",
        """
        SELECT 'request ' || metered.request_id
        FROM admission_meteredrequest metered
        LEFT JOIN admission_usageevent event
          ON event.request_id = metered.request_id AND event.sequence = metered.sequence
        WHERE metered.mntu <> entitled_mntu + overrun_mntu + shared_mntu
           OR event.mntu IS DISTINCT FROM metered.mntu
           OR metered.is_final <> (event.state <> 'OPEN')
        """,
    )


def _down(_since: datetime | None) -> Finding:
    """A cluster is down exactly while it has an outage, and sells nothing then."""
    return from_sql(
        "a cluster that is down has one outage and nothing certified",
        "SELECT count(*) FROM admission_outage",
        """
        SELECT 'cluster ' || cluster.id || ' is ' || cluster.state
               || ' with ' || cluster.certified_lots || ' lots'
        FROM marketplace_cluster cluster
        LEFT JOIN admission_outage outage
          ON outage.cluster = cluster.id AND outage.ended_at IS NULL
        LEFT JOIN settlement_instruction told ON told.id = 'down:' || outage.id
        WHERE (cluster.state = 'DOWN') <> (outage.id IS NOT NULL)
           OR outage.id IS NOT NULL AND told.id IS NULL
           OR told.state = 'APPLIED' AND cluster.certified_lots > 0
        ORDER BY cluster.id
        """,
    )


CHECKS: tuple[Check, ...] = (
    _journal,
    _posted,
    _trade_fees,
    _orders,
    _netted,
    _variation,
    _metered,
    _usage,
    _down,
)
