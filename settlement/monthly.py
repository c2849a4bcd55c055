"""An organization's month, counted from the ledger: what it opened with, moved, and closed with.

Every amount here is a sum over transfers, so the parts add up by construction, and are checked all
the same: opening and movements to the closing balance of each account; fees of trades, days of
delivery and corrections to the movements they explain. Trades and intervals say beside that what
was traded and delivered; a month belongs to when money moved, so the last interval of a month, paid
a minute after its end, stands in the next.

The month is UTC. Its body is canonical JSON, and everything that is shown is made from it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
from django.db import connection

from settlement import cash
from settlement.ledger import Code, Kind, cash_account

ACCOUNTS = {Kind.CASH: "cash", Kind.ESCROW: "escrow", Kind.USAGE_HOLD: "usage_hold"}
DELIVERY_CODES = (
    Code.RELEASE,
    Code.REFUND,
    Code.COMPENSATION,
    Code.COVER_RELEASE,
    Code.COVER_EXCESS,
)
CORRECTION_CODES = (Code.DELIVERY_CORRECTION, Code.DAMAGES_CORRECTION)
CLOSED = 1
"""Format of the body."""


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """Transfers of one reason: how many, and what they brought and took, in micro-USD."""

    code: str
    count: int
    received_micros: int
    paid_micros: int

    @property
    def total_micros(self) -> int:
        """What they brought in all."""
        return self.received_micros - self.paid_micros


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One account of the organization."""

    account: str
    opening_micros: int
    movements: tuple[Movement, ...]
    closing_micros: int


class Trades(msgspec.Struct, frozen=True, kw_only=True):
    """What was traded of a grade and product; lots and micro-USD, both positive."""

    grade: str
    product: str
    count: int
    bought_lots: int
    sold_lots: int
    bought_micros: int
    sold_micros: int
    fees_micros: int


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What a day of a grade delivered and paid; amounts are signed as the organization sees them.

    `released` is what a seller, or cover in its stead, received and what left a holder's escrow for
    it, `refunded` what came back from there to the holder, `compensated` damages and what cover
    cost beyond the delivery price.
    """

    grade: str
    date: str
    role: str
    intervals: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    released_micros: int
    refunded_micros: int
    compensated_micros: int


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What a later run moved; signed as the organization sees it."""

    run: str
    role: str
    deliveries: int
    delivery_micros: int
    damages_micros: int


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """A statement of a month; `is_closed` when the month was over as it was made."""

    format: int = CLOSED
    organization_id: int
    organization: str
    month: str
    since: str
    until: str
    time_zone: str = "UTC"
    made_at: str
    is_closed: bool
    accounts: tuple[Part, ...]
    trades: tuple[Trades, ...]
    days: tuple[Day, ...]
    corrections: tuple[Correction, ...]


class DoesNotAddUp(Exception):
    """A statement that is not the ledger's is not shown."""


def month_text(month: date) -> str:
    """Return a month as it is written: `2026-12`."""
    return f"{month:%Y-%m}"


def span(month: date) -> tuple[datetime, datetime]:
    """Return the first instant of a month, and of the next."""
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    return first, next_month(first)


def next_month(first: datetime) -> datetime:
    """Return the first instant of the month after."""
    return (first + timedelta(days=32)).replace(day=1)


def previous_month(month: date) -> date:
    """Return the first day of the month before."""
    return (month.replace(day=1) - timedelta(days=1)).replace(day=1)


def compile_month(
    *, organization_id: int, organization: str, month: date, now: datetime, trades: Sequence[Trades]
) -> Month:
    """Return the statement of a month, as far as it has come by now.

    :raises DoesNotAddUp: when its parts are not the ledger's.
    """
    since, until = span(month)
    found = Month(
        organization_id=organization_id,
        organization=organization,
        month=month_text(month),
        since=_text(since),
        until=_text(until),
        made_at=_text(now),
        is_closed=now >= until,
        accounts=tuple(_part(organization_id, kind, since, until) for kind in ACCOUNTS),
        trades=tuple(trades),
        days=tuple(_days(organization_id, since, until)),
        corrections=tuple(_corrections(organization_id, since, until)),
    )
    check(found)
    return found


def check(month: Month) -> None:
    """Hold every part of a statement to the others.

    :raises DoesNotAddUp: naming what is off.
    """
    for part in month.accounts:
        moved = sum(movement.total_micros for movement in part.movements)
        _require(part.opening_micros + moved == part.closing_micros, part.account)
    moved_by = {
        (part.account, movement.code): movement.total_micros
        for part in month.accounts
        for movement in part.movements
    }

    def total(code: Code, account: str = "cash") -> int:
        return moved_by.get((account, code.name.lower()), 0)

    _require(sum(one.fees_micros for one in month.trades) == -total(Code.TRADING_FEE), "fees")
    for code, amounts in (
        (Code.REFUND, [day.refunded_micros for day in month.days]),
        (Code.DELIVERY_CORRECTION, [one.delivery_micros for one in month.corrections]),
        (Code.DAMAGES_CORRECTION, [one.damages_micros for one in month.corrections]),
    ):
        _require(sum(amounts) == total(code), code.name.lower())
    compensated = sum(day.compensated_micros for day in month.days)
    _require(compensated == total(Code.COMPENSATION) + total(Code.COVER_EXCESS), "compensation")
    released = sum(day.released_micros for day in month.days)
    of_both = [
        total(code, account)
        for code in (Code.RELEASE, Code.COVER_RELEASE)
        for account in ("cash", "escrow")
    ]
    _require(released == sum(of_both), "release")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise DoesNotAddUp(f"the statement's {what} is not the ledger's")


def encode(month: Month) -> bytes:
    """Return the canonical JSON of a statement."""
    return msgspec.json.encode(month, order="sorted")


def decode(body: bytes) -> Month:
    """Return the statement of its canonical JSON."""
    return msgspec.json.decode(body, type=Month)


def _part(organization_id: int, kind: Kind, since: datetime, until: datetime) -> Part:
    """Return one account's month."""
    account = cash_account(organization_id, kind)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT code, sum(count)::bigint, sum(received)::bigint, sum(paid)::bigint FROM (
                SELECT code, count(*) AS count, sum(amount) AS received, 0 AS paid
                FROM settlement_transfer
                WHERE credit_account = %(account)s AND chain = 'cash' AND phase IN (0, 2)
                  AND at >= %(since)s AND at < %(until)s GROUP BY code
                UNION ALL
                SELECT code, count(*), 0, sum(amount) FROM settlement_transfer
                WHERE debit_account = %(account)s AND chain = 'cash' AND phase IN (0, 2)
                  AND at >= %(since)s AND at < %(until)s GROUP BY code) moved
            GROUP BY code ORDER BY code
            """,
            {"account": account, "since": since, "until": until},
        )
        rows = cursor.fetchall()
    balances = cash.balances_at(organization_id, kinds=[kind], since=since, until=until)
    opening, closing = balances[kind]
    return Part(
        account=ACCOUNTS[kind],
        opening_micros=opening,
        movements=tuple(
            Movement(
                code=Code(code).name.lower(),
                count=count,
                received_micros=received,
                paid_micros=paid,
            )
            for code, count, received, paid in rows
        ),
        closing_micros=closing,
    )


def _days(organization_id: int, since: datetime, until: datetime) -> Iterable[Day]:
    """Yield what each day of a grade delivered and paid: the money from the ledger's own rows.

    A cause names the allocation of an interval, or else the instrument that damages were paid for.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH paid AS (
                SELECT split_part(cause, ':', 2) AS about,
                       cause ~ '^(interval|cover):' AS is_interval, code, side.amount
                FROM settlement_transfer,
                     LATERAL (VALUES (credit_account, amount), (debit_account, -amount))
                         AS side (account, amount)
                WHERE chain = 'cash' AND phase IN (0, 2) AND code = ANY(%(codes)s)
                  AND at >= %(since)s AND at < %(until)s
                  AND (credit_account = %(account)s OR debit_account IN (%(account)s, %(escrow)s))
                  AND (side.account = %(account)s OR side.account = %(escrow)s AND code IN (6, 35))
            ), money AS (
                SELECT coalesce(grade, split_part(about, '.', 1)) AS grade,
                       coalesce((starts_at AT TIME ZONE 'UTC')::date,
                                to_date(left(split_part(about, '.', 3), 8), 'YYYYMMDD')) AS day,
                       CASE WHEN holder = %(organization)s OR holder IS NULL AND amount > 0
                            THEN 'holder' ELSE 'seller' END AS role,
                       coalesce(sum(amount) FILTER (WHERE code IN (6, 35)), 0)::bigint AS released,
                       coalesce(sum(amount) FILTER (WHERE code = 7), 0)::bigint AS refunded,
                       coalesce(sum(amount) FILTER (WHERE code IN (8, 36)), 0)::bigint
                           AS compensated
                FROM paid LEFT JOIN settlement_allocation allocation
                  ON allocation.id = CASE WHEN is_interval THEN about::bigint END
                GROUP BY 1, 2, 3
            ), tokens AS (
                SELECT grade, (starts_at AT TIME ZONE 'UTC')::date AS day,
                       CASE holder WHEN %(organization)s THEN 'holder' ELSE 'seller' END AS role,
                       count(*) AS intervals, sum(available_mntu)::bigint AS available,
                       sum(short_mntu)::bigint AS short, sum(delivered_mntu)::bigint AS delivered
                FROM settlement_intervalsettlement settled
                JOIN settlement_allocation allocation ON allocation.id = settled.allocation_id
                WHERE (holder = %(organization)s OR seller = %(organization)s)
                  AND allocation.starts_at >= %(since)s - interval '3 days'
                  AND allocation.starts_at < %(until)s
                  AND settled.at >= %(since)s AND settled.at < %(until)s
                GROUP BY 1, 2, 3
            )
            SELECT grade, day::text, role, coalesce(intervals, 0), coalesce(available, 0),
                   coalesce(short, 0), coalesce(delivered, 0), coalesce(released, 0),
                   coalesce(refunded, 0), coalesce(compensated, 0)
            FROM money FULL JOIN tokens USING (grade, day, role) ORDER BY day, grade, role
            """,
            _scope(organization_id, since, until, DELIVERY_CODES),
        )
        for grade, day, role, *counts in cursor.fetchall():
            intervals, available, short, delivered, released, refunded, compensated = counts
            yield Day(
                grade=grade,
                date=day,
                role=role,
                intervals=intervals,
                available_mntu=available,
                short_mntu=short,
                delivered_mntu=delivered,
                released_micros=released,
                refunded_micros=refunded,
                compensated_micros=compensated,
            )


def _corrections(organization_id: int, since: datetime, until: datetime) -> Iterable[Correction]:
    """Yield what each later run moved."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT split_part(cause, ':', 3) AS run,
                   CASE holder WHEN %(organization)s THEN 'holder' ELSE 'seller' END AS role,
                   count(DISTINCT allocation.id),
                   coalesce(sum(signed) FILTER (WHERE code = 30), 0)::bigint,
                   coalesce(sum(signed) FILTER (WHERE code = 31), 0)::bigint
            FROM (
                SELECT cause, code,
                       CASE WHEN credit_account = %(account)s THEN amount ELSE -amount END
                           AS signed
                FROM settlement_transfer
                WHERE chain = 'cash' AND phase IN (0, 2) AND code = ANY(%(codes)s)
                  AND at >= %(since)s AND at < %(until)s
                  AND (credit_account = %(account)s OR debit_account = %(account)s)) moved
            JOIN settlement_allocation allocation
              ON allocation.id = split_part(cause, ':', 2)::bigint
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            _scope(organization_id, since, until, CORRECTION_CODES),
        )
        for run, role, count, delivery, damages in cursor.fetchall():
            yield Correction(
                run=run,
                role=role,
                deliveries=count,
                delivery_micros=delivery,
                damages_micros=damages,
            )


def _scope(
    organization_id: int, since: datetime, until: datetime, codes: Sequence[Code]
) -> dict[str, Any]:
    return {
        "organization": organization_id,
        "account": cash_account(organization_id, Kind.CASH),
        "escrow": cash_account(organization_id, Kind.ESCROW),
        "since": since,
        "until": until,
        "codes": [int(code) for code in codes],
    }


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def organizations_of(month: date) -> list[int]:
    """Return whose money had ever moved by the end of a month, in order of id."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT owner FROM settlement_account
            WHERE unit = 'USD' AND owner > 0 AND created_at < %s ORDER BY owner
            """,
            [span(month)[1]],
        )
        return [row[0] for row in cursor.fetchall()]
