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


FULL_CHECKS: tuple[Check, ...] = (_correction_transfers, _run_lines)
