"""What must be true of positions, entitlements, escrow, intervals and capacity."""

from datetime import datetime

from settlement.audit.findings import Check, Finding, from_sql


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
        WHERE cash_micros <> coalesce(cash.credits - cash.debits - cash.held, 0)
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
                  AND (allocation.price_ticks = entitlement.price_ticks OR allocation.package <> 0))
                AND escrow_micros = (
                SELECT coalesce(sum(price_ticks * 60 * lots), 0) FROM settlement_allocation
                WHERE entitlement_id = entitlement.id) AS is_right
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
          AND (released_micros + refunded_micros + coalesce((
                SELECT sum(cover.released_micros) FROM settlement_coversettlement cover
                WHERE cover.allocation_id = settled.allocation_id
                  AND cover.interval = settled.interval), 0) <> 5 * price_ticks * lots
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
        ), promised AS (
            SELECT package.id, package.holder, min(escrow_micros)
                - coalesce(sum(60 * allocation.price_ticks * lots), 0) AS micros
            FROM settlement_package package LEFT JOIN settlement_allocation allocation
              ON allocation.package = package.id
              AND allocation.starts_at - interval '5 minutes' > package.updated_at
            GROUP BY package.id
        ), due AS (
            SELECT holder, sum(micros) AS micros FROM (
                SELECT holder, micros FROM open
                UNION ALL SELECT holder, micros FROM promised) AS both_kinds GROUP BY holder
        )
        SELECT 'organization ' || coalesce(account.owner, due.holder) || ' holds '
            || coalesce(credits - debits, 0) || ', not ' || coalesce(micros, 0)
        FROM (SELECT * FROM settlement_account WHERE kind = 2) account
        FULL JOIN due ON due.holder = account.owner
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


def _moved_cash(_since: datetime | None) -> Finding:
    """Every deposit and withdrawal that was carried out moved its amount, once."""
    return from_sql(
        "deposits and withdrawals have exactly their transfers",
        "SELECT count(*) FROM settlement_transfer WHERE code IN (1, 2) AND phase IN (0, 2)",
        """
        WITH asked AS (
            SELECT CASE WHEN length(id) <= 80 THEN id ELSE 'command:' || sequence END AS cause,
                   CASE body ->> 'kind' WHEN 'deposit' THEN 1 ELSE 2 END AS code,
                   (body ->> 'account')::bigint * 64 + 1 AS account,
                   (body ->> 'amount_micros')::bigint AS amount
            FROM (SELECT id, sequence, convert_from(body, 'UTF8')::jsonb AS body
                  FROM settlement_instruction
                  WHERE state = 'APPLIED') applied
            WHERE body ->> 'kind' IN ('deposit', 'withdraw', 'post_withdrawal')
        ), done AS (
            SELECT cause, code, amount,
                   CASE code WHEN 1 THEN credit_account ELSE debit_account END AS account,
                   CASE code WHEN 1 THEN debit_account ELSE credit_account END AS other
            FROM settlement_transfer
            WHERE code IN (1, 2) AND phase IN (0, 2)
        )
        SELECT coalesce(cause, '') FROM asked FULL JOIN done USING (cause, code, account, amount)
        GROUP BY cause, code, account, amount
        HAVING count(asked.*) <> 1 OR count(done.*) <> 1 OR min(other) IS DISTINCT FROM 10
        """,
    )


def _interval_transfers(_since: datetime | None) -> Finding:
    """A settled interval moved exactly what its row says, between holder and seller."""
    return from_sql(
        "settled intervals have exactly their transfers",
        "SELECT count(*) FROM settlement_transfer WHERE code IN (6, 7, 8, 35, 36)",
        """
        WITH said AS (
            SELECT 'interval:' || allocation_id || ':' || settled.interval AS cause, leg.*
            FROM settlement_intervalsettlement settled
            JOIN settlement_allocation allocation ON allocation.id = allocation_id,
            LATERAL (VALUES
                (6, holder * 64 + 2, seller * 64 + 1, released_micros),
                (7, holder * 64 + 2, holder * 64 + 1, refunded_micros),
                (8, seller * 64 + 1, holder * 64 + 1, compensated_micros)
            ) AS leg (code, debit_account, credit_account, amount)
            WHERE amount <> 0
            UNION ALL
            SELECT 'cover:' || allocation_id || ':' || cover.interval || ':' || offer, leg.*
            FROM settlement_coversettlement cover
            JOIN settlement_allocation allocation ON allocation.id = allocation_id,
            LATERAL (VALUES
                (35, holder * 64 + 2, cover.seller * 64 + 1, released_micros),
                (36, allocation.seller * 64 + 1, cover.seller * 64 + 1, excess_micros)
            ) AS leg (code, debit_account, credit_account, amount)
            WHERE amount <> 0
        ), done AS (
            SELECT cause, code, debit_account, credit_account, amount FROM settlement_transfer
            WHERE code IN (6, 7, 8, 35, 36)
        )
        SELECT cause || ', code ' || code
        FROM said FULL JOIN done USING (cause, code, debit_account, credit_account, amount)
        GROUP BY cause, code, debit_account, credit_account, amount
        HAVING count(said.*) <> 1 OR count(done.*) <> 1
        """,
    )


def _slot_transfers(_since: datetime | None) -> Finding:
    """Slots of an hour moved exactly what their rows say, for every organization."""
    return from_sql(
        "settled slots have exactly their transfers",
        "SELECT count(*) FROM settlement_slotsettlement",
        """
        WITH said AS (
            SELECT 'slots:' || grade || '.' || service_class || '.'
                   || to_char(starts_at AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24"Z"') AS cause,
                   organization_id * 64 + 1 AS account, leg.*
            FROM settlement_slotsettlement,
            LATERAL (VALUES (21, amount_micros), (26, damages_micros)) AS leg (code, amount)
            WHERE amount <> 0
        ), legs AS (
            SELECT cause, credit_account AS account, code::integer, amount
            FROM settlement_transfer WHERE code IN (21, 26)
            UNION ALL
            SELECT cause, debit_account, code::integer, -amount
            FROM settlement_transfer WHERE code IN (21, 26)
        ), done AS (
            SELECT cause, account, code, sum(amount)::bigint AS amount
            FROM legs WHERE account >= 64 GROUP BY cause, account, code
        )
        SELECT cause || ', account ' || account
        FROM said FULL JOIN done USING (cause, account, code)
        WHERE said.amount IS DISTINCT FROM done.amount
        """,
    )


def _escrow_transfers(_since: datetime | None) -> Finding:
    """Every entitlement put the price of its market lots into escrow, once."""
    return from_sql(
        "entitlements have exactly their escrow",
        "SELECT count(*) FROM settlement_transfer WHERE code = 5",
        """
        WITH said AS (
            SELECT 'entitlement:' || entitlement_id AS cause, holder * 64 + 1 AS debit_account,
                   holder * 64 + 2 AS credit_account, sum(60 * price_ticks * lots) AS amount
            FROM settlement_allocation WHERE package = 0 GROUP BY 1, 2, 3
        ), done AS (
            SELECT cause, debit_account, credit_account, amount FROM settlement_transfer
            WHERE code = 5
        )
        SELECT cause FROM said FULL JOIN done USING (cause, debit_account, credit_account, amount)
        GROUP BY cause, debit_account, credit_account, amount
        HAVING count(said.*) <> 1 OR count(done.*) <> 1
        """,
    )


def _resale_transfers(_since: datetime | None) -> Finding:
    """Every slice of a package that was sold on was paid for, and its fee taken, once."""
    return from_sql(
        "resales of packages moved their cash",
        "SELECT count(*) FROM settlement_packageresale",
        """
        WITH sold AS (
            SELECT resale.*, instruction FROM settlement_packageresale resale
            JOIN settlement_package package ON package.id = resale.package
        ), said AS (
            SELECT instruction AS cause, buyer * 64 + 1 AS debit_account,
                   holder * 64 + 1 AS credit_account, amount_micros AS amount FROM sold
            UNION ALL SELECT instruction, holder * 64 + 1, 11, fee_micros FROM sold
            WHERE fee_micros > 0
        ), done AS (
            SELECT cause, debit_account, credit_account, amount FROM settlement_transfer
            WHERE code IN (28, 29)
        )
        SELECT cause FROM said FULL JOIN done USING (cause, debit_account, credit_account, amount)
        GROUP BY cause, debit_account, credit_account, amount
        HAVING count(said.*) <> 1 OR count(done.*) <> 1
        """,
    )


CHECKS: tuple[Check, ...] = (
    _positions,
    _margin_accounts,
    _entitlements,
    _escrow,
    _intervals,
    _granted,
)
FULL_CHECKS: tuple[Check, ...] = (
    _moved_cash,
    _escrow_transfers,
    _resale_transfers,
    _interval_transfers,
    _slot_transfers,
)
