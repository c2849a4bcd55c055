"""What must be true of days that were settled again."""

from datetime import datetime

from settlement.audit.findings import Check, Finding, from_sql


def _correction_transfers(_since: datetime | None) -> Finding:
    """A correction moved exactly what its row says, between holder and seller."""
    return from_sql(
        "corrections have exactly their transfers",
        "SELECT count(*) FROM settlement_deliverycorrection",
        """
        WITH said AS (
            SELECT 'correction:' || allocation_id || ':' || run AS cause, leg.*
            FROM settlement_deliverycorrection
            JOIN settlement_allocation allocation ON allocation.id = allocation_id,
            LATERAL (VALUES
                (30, seller * 64 + 1, holder * 64 + 1, delivery_micros),
                (30, holder * 64 + 1, seller * 64 + 1, -delivery_micros),
                (31, seller * 64 + 1, holder * 64 + 1, damages_micros),
                (31, holder * 64 + 1, seller * 64 + 1, -damages_micros)
            ) AS leg (code, debit_account, credit_account, amount)
            WHERE amount > 0
        ), done AS (
            SELECT cause, code, debit_account, credit_account, amount FROM settlement_transfer
            WHERE code IN (30, 31)
        )
        SELECT cause || ', code ' || code
        FROM said FULL JOIN done USING (cause, code, debit_account, credit_account, amount)
        GROUP BY cause, code, debit_account, credit_account, amount
        HAVING count(said.*) <> 1 OR count(done.*) <> 1
        """,
    )


def _run_lines(_since: datetime | None) -> Finding:
    """What runs asked for was posted, in full but for damages that no means reached."""
    return from_sql(
        "corrections are what runs asked for",
        "SELECT count(*) FROM settlement_settlementrunline",
        """
        SELECT coalesce(line.run_id, posted.run) || ', allocation '
               || coalesce(line.allocation_id, posted.allocation_id)
        FROM settlement_settlementrunline line
        FULL JOIN settlement_deliverycorrection posted
          ON posted.run = line.run_id AND posted.allocation_id = line.allocation_id
        WHERE line.id IS NULL
           OR posted.id IS NULL AND EXISTS (
                SELECT 1 FROM settlement_instruction
                WHERE state <> 'PENDING' AND id LIKE 'correct:' || line.run_id || ':%%')
           OR posted.delivery_micros <> line.delivery_micros
           OR line.refunded_micros - line.posted_refunded_micros <> line.delivery_micros
           OR line.due_micros - line.posted_due_micros <> posted.due_micros
           OR NOT posted.damages_micros BETWEEN least(line.damages_micros, 0)
                AND greatest(line.damages_micros, 0)
           OR line.damages_micros < 0 AND posted.damages_micros <> line.damages_micros
        """,
    )


def _insurance_lines(_since: datetime | None) -> Finding:
    """What runs found of insured hours was posted as it was found, and adds up to nothing."""
    return from_sql(
        "corrections of insurance are what runs asked for",
        "SELECT count(*) FROM settlement_insurancerunline",
        """
        SELECT coalesce(line.run_id, posted.run) || ', ' || coalesce(line.symbol, posted.symbol)
        FROM settlement_insurancerunline line
        FULL JOIN settlement_insurancecorrection posted
          ON posted.run = line.run_id AND posted.symbol = line.symbol
          AND posted.hour_starts_at = line.hour_starts_at
          AND posted.organization_id = line.organization_id
        WHERE line.id IS NULL
           OR posted.id IS NULL AND EXISTS (
                SELECT 1 FROM settlement_instruction
                WHERE state <> 'PENDING' AND id LIKE 'correct:' || line.run_id || ':' || line.symbol
                      || ':%%')
           OR posted.amount_micros <> line.owed_micros - line.posted_micros
        UNION ALL
        SELECT run || ', ' || symbol FROM settlement_insurancecorrection
        GROUP BY run, symbol, hour_starts_at HAVING sum(amount_micros) <> 0
        """,
    )


def _insurance_transfers(_since: datetime | None) -> Finding:
    """A correction of insurance moved what its row says; no more where somebody lacked it."""
    return from_sql(
        "corrections of insurance have their transfers",
        "SELECT count(*) FROM settlement_insurancecorrection",
        """
        WITH said AS (
            SELECT 'insurance:' || symbol || ':'
                   || (extract(epoch FROM hour_starts_at) * 1000000)::bigint || ':'
                   || split_part(run, '/', 3) AS cause,
                   organization_id * 64 + 1 AS account, amount_micros AS amount
            FROM settlement_insurancecorrection
        ), done AS (
            SELECT cause, account, sum(amount) AS amount FROM (
                SELECT cause, credit_account AS account, amount FROM settlement_transfer
                WHERE code = 32
                UNION ALL
                SELECT cause, debit_account, -amount FROM settlement_transfer WHERE code = 32
            ) leg WHERE account >= 64 GROUP BY cause, account
        )
        SELECT cause || ', account ' || account
        FROM said FULL JOIN done USING (cause, account)
        WHERE said.amount IS NULL
           OR coalesce(done.amount, 0) NOT BETWEEN least(said.amount, 0)
                AND greatest(said.amount, 0)
        """,
    )


FULL_CHECKS: tuple[Check, ...] = (
    _correction_transfers,
    _run_lines,
    _insurance_lines,
    _insurance_transfers,
)
