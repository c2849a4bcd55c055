"""What an organization has traded in a period, for its statement.

A trade belongs to when its fee was paid, so that the fees are those of the ledger; one without a
fee to when it was made.
"""

from datetime import datetime

from django.db import connection

from marketplace import contract
from settlement import ledger
from settlement.monthly import Trades


def trades(organization_id: int, *, since: datetime, until: datetime) -> list[Trades]:
    """Return what was bought and sold in `[since, until)`, by grade and product."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH charged AS (
                SELECT split_part(cause, ':', 2)::bigint AS id, amount
                FROM settlement_transfer
                WHERE chain = 'cash' AND phase IN (0, 2) AND code = %(fee)s
                  AND debit_account = %(account)s AND at >= %(since)s AND at < %(until)s
            ), mine AS (
                SELECT symbol, lots, price_ticks, taker, taker_side, charged.amount AS fee
                FROM charged JOIN exchange_trade trade ON trade.id = charged.id
                UNION ALL
                SELECT symbol, lots, price_ticks, taker, taker_side, 0 FROM exchange_trade
                WHERE at >= %(since)s AND at < %(until)s
                  AND (maker = %(organization)s AND maker_fee_micros = 0
                    OR taker = %(organization)s AND taker_fee_micros = 0)
            ), sided AS (
                SELECT mine.*, (taker = %(organization)s) = (taker_side > 0) AS is_buy FROM mine
            )
            SELECT symbol, count(*), sum(fee)::bigint,
                   coalesce(sum(lots) FILTER (WHERE is_buy), 0)::bigint,
                   coalesce(sum(lots) FILTER (WHERE NOT is_buy), 0)::bigint,
                   coalesce(sum(lots * price_ticks) FILTER (WHERE is_buy), 0)::bigint,
                   coalesce(sum(lots * price_ticks) FILTER (WHERE NOT is_buy), 0)::bigint
            FROM sided GROUP BY symbol ORDER BY symbol
            """,
            {
                "fee": int(ledger.Code.TRADING_FEE),
                "account": ledger.cash_account(organization_id, ledger.Kind.CASH),
                "organization": organization_id,
                "since": since,
                "until": until,
            },
        )
        rows = cursor.fetchall()
    totals: dict[tuple[str, str], list[int]] = {}
    for symbol, count, fees, bought, sold, bought_ticks, sold_ticks in rows:
        terms = contract.parse_symbol(symbol)
        assert terms is not None, "what was traded was listed"
        unit = terms.tick_micros
        total = totals.setdefault((terms.grade, str(terms.product).lower()), [0] * 6)
        added = (count, bought, sold, bought_ticks * unit, sold_ticks * unit, fees)
        for place, amount in enumerate(added):
            total[place] += amount
    return [
        Trades(
            grade=grade,
            product=product,
            count=total[0],
            bought_lots=total[1],
            sold_lots=total[2],
            bought_micros=total[3],
            sold_micros=total[4],
            fees_micros=total[5],
        )
        for (grade, product), total in sorted(totals.items())
    ]
