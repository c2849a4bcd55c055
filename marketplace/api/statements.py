"""Statements: what moved an organization's money, by month, by day, or in a period of the caller's.

A month's statement has totals; it is made once when the month is over, and is the same ever after.
A day's has every transfer.
"""

import dataclasses
from collections.abc import Iterator
from datetime import date, datetime
from typing import Literal

from django.db import connection

from exchange import queries as exchange_queries
from marketplace import clock, contract, months, wire
from marketplace.endpoint import Answer, Call, Endpoint, File, Listed, Strict
from settlement import ledger, monthly
from settlement import statements as settlement_statements

PERIOD_DAYS_MAX = 366
PER_PAGE_MAX = 7
"""Days on one page, whatever limit was asked for: a busy day has thousands of lines."""


class Line(Answer):
    """One transfer, signed as the account sees it."""

    sequence: int
    at: str
    amount: str
    cause: str


class Group(Answer):
    """The transfers of one reason about one instrument, which is null for none."""

    instrument: str | None
    code: str
    total: str
    lines: list[Line]


class Part(Answer):
    """One account: what it opened with, what moved it, what it closed with."""

    account: str
    opening: str
    closing: str
    groups: list[Group]


class IntervalLine(Answer):
    """A settled interval, the same for its holder and its seller."""

    instrument: str
    interval: int
    role: str
    lots: int
    available_ntu: str
    short_ntu: str
    delivered_ntu: str
    released: str
    covered: str
    refunded: str
    compensated: str
    settled_at: str


class Statement(Answer):
    """What happened in `[since, until)`."""

    id: str
    since: str
    until: str
    accounts: list[Part]
    intervals: list[IntervalLine]


class ListStatements(Endpoint):
    """A statement for every day (UTC) on which money moved, the latest first, a week on a page.

    With `since` and `until`, the one statement of that period.
    """

    scope = "read"
    tag = "account"
    Item = Statement
    Output = Listed[Statement]

    class Query(Strict):
        """A period of the caller's; both or neither, RFC 3339."""

        since: wire.TimeText | None = None
        until: wire.TimeText | None = None

    def handle(self, call: Call) -> Listed[Statement]:
        """Answer."""
        query = call.query
        if query.since is not None or query.until is not None:
            since = wire.parse_time(query.since or "", "since")
            until = wire.parse_time(query.until or "", "until")
            if not 0 < until - since <= PERIOD_DAYS_MAX * clock.DAY:
                raise wire.invalid("until", "out_of_range", f"at most {PERIOD_DAYS_MAX} days")
            found = _statement(call.organization, since, until)
            return Listed(results=[found], next_cursor=None)
        page = dataclasses.replace(call.page, limit=min(call.page.limit, PER_PAGE_MAX))
        days = list(_days(call.organization, before=page.number(), limit=page.fetch))
        return page.page(
            days,
            lambda day: _statement(call.organization, day, day + contract.DAY),
            position=lambda day: [day],
        )


def _days(organization_id: int, *, before: int | None, limit: int) -> Iterator[int]:
    """Yield the beginnings of days on which the organization's money moved, the latest first."""
    accounts = [ledger.cash_account(organization_id, kind) for kind in settlement_statements.KINDS]
    until = None if before is None else clock.to_datetime(before)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT date_trunc('day', at, 'UTC') AS day FROM settlement_transfer
            WHERE chain = 'cash' AND phase IN (0, 2)
              AND (credit_account = ANY(%s) OR debit_account = ANY(%s))
              AND (%s::timestamptz IS NULL OR at < %s)
            ORDER BY day DESC LIMIT %s
            """,
            [accounts, accounts, until, until, limit],
        )
        for (day,) in cursor.fetchall():
            yield clock.to_micros(day)


def _statement(organization_id: int, since: int, until: int) -> Statement:
    """:raises Malformed: when there is too much in the period for one statement."""
    try:
        shown = settlement_statements.statement(
            organization_id,
            since=clock.to_datetime(since),
            until=clock.to_datetime(until),
            trade_symbols=exchange_queries.trade_symbols,
        )
    except settlement_statements.PeriodTooLong as error:
        raise wire.invalid("until", "out_of_range", str(error)) from None
    return Statement(
        id=f"{since}-{until}",
        since=_text(shown.since),
        until=_text(shown.until),
        accounts=[_part(part) for part in shown.accounts],
        intervals=[
            IntervalLine(
                instrument=row.symbol,
                interval=row.interval,
                role=row.role,
                lots=row.lots,
                available_ntu=wire.ntu_text(row.available_mntu),
                short_ntu=wire.ntu_text(row.short_mntu),
                delivered_ntu=wire.ntu_text(row.delivered_mntu),
                released=wire.micros_text(row.released_micros),
                covered=wire.micros_text(row.covered_micros),
                refunded=wire.micros_text(row.refunded_micros),
                compensated=wire.micros_text(row.compensated_micros),
                settled_at=_text(row.at),
            )
            for row in shown.intervals
        ],
    )


def _part(part: settlement_statements.AccountPart) -> Part:
    return Part(
        account=part.account,
        opening=wire.micros_text(part.opening_micros),
        closing=wire.micros_text(part.closing_micros),
        groups=[
            Group(
                instrument=group.subject or None,
                code=group.code,
                total=wire.micros_text(group.total_micros),
                lines=[
                    Line(
                        sequence=line.sequence,
                        at=_text(line.at),
                        amount=wire.micros_text(line.amount_micros),
                        cause=line.cause,
                    )
                    for line in group.lines
                ],
            )
            for group in part.groups
        ],
    )


def _text(moment: datetime) -> str:
    return wire.moment_text(moment)


# Months


class MonthItem(Answer):
    """A month that has a statement; `is_closed` when it is over."""

    month: str
    since: str
    until: str
    is_closed: bool


class ListMonths(Endpoint):
    """The months that the organization has a statement of, the latest first, with the current."""

    scope = "read"
    tag = "account"
    Item = MonthItem
    Output = Listed[MonthItem]

    def handle(self, call: Call) -> Listed[MonthItem]:
        """Answer."""
        found = months.months(call.organization)
        after = call.page.number()
        if after is not None:
            found = [month for month in found if month.toordinal() < after]
        return call.page.page(
            found[: call.page.fetch], _month_item, position=lambda month: [month.toordinal()]
        )


class MovementOut(Answer):
    """Transfers of one reason: how many, and what they brought and took."""

    code: str
    count: int
    received: str
    paid: str
    total: str


class MonthAccount(Answer):
    """One account: opening balance and movements add up to the closing balance."""

    account: str
    opening: str
    closing: str
    movements: list[MovementOut]


class TradesOut(Answer):
    """What was traded of a grade and product; `bought` and `sold` are what it cost and brought."""

    grade: str
    product: str
    count: int
    bought_quantity: int
    sold_quantity: int
    bought: str
    sold: str
    fees: str


class DayOut(Answer):
    """What was delivered on a day, signed as the organization sees it."""

    grade: str
    date: str
    role: str
    intervals: int
    available_ntu: str
    short_ntu: str
    delivered_ntu: str
    released: str
    refunded: str
    compensated: str


class MonthCorrection(Answer):
    """What a later run moved, signed as the organization sees it."""

    run: str
    role: str
    deliveries: int
    delivery: str
    damages: str


class ShowMonth(Endpoint):
    """One month's statement, as JSON, CSV or PDF; it adds up to the ledger.

    `format` is `json`, `csv` (`text/csv`) or `pdf` (`application/pdf`). The month is UTC; of one
    that still runs, this is how far it has come.
    """

    scope = "read"
    tag = "account"

    class Query(Strict):
        """In which form."""

        format: Literal["json", "csv", "pdf"] = "json"

    class Output(Answer):
        """The statement; what is added up stands in the same order in every form."""

        organization: str
        month: str
        since: str
        until: str
        time_zone: str
        made_at: str
        is_closed: bool
        accounts: list[MonthAccount]
        trades: list[TradesOut]
        deliveries: list[DayOut]
        corrections: list[MonthCorrection]

    def handle(self, call: Call, month: str) -> Output | File:
        """Answer."""
        found = months.statement(call.organization, months.parse_month(month))
        if call.query.format != "json":
            return months.month_file(found, call.query.format)
        return self.Output(
            organization=found.organization,
            month=found.month,
            since=found.since,
            until=found.until,
            time_zone=found.time_zone,
            made_at=found.made_at,
            is_closed=found.is_closed,
            accounts=[_month_account(part) for part in found.accounts],
            trades=[
                TradesOut(
                    grade=one.grade,
                    product=one.product,
                    count=one.count,
                    bought_quantity=one.bought_lots,
                    sold_quantity=one.sold_lots,
                    bought=wire.micros_text(one.bought_micros),
                    sold=wire.micros_text(one.sold_micros),
                    fees=wire.micros_text(one.fees_micros),
                )
                for one in found.trades
            ],
            deliveries=[_month_day(day) for day in found.days],
            corrections=[
                MonthCorrection(
                    run=one.run,
                    role=one.role,
                    deliveries=one.deliveries,
                    delivery=wire.micros_text(one.delivery_micros),
                    damages=wire.micros_text(one.damages_micros),
                )
                for one in found.corrections
            ],
        )


def _month_item(month: date) -> MonthItem:
    since, until = monthly.span(month)
    return MonthItem(
        month=monthly.month_text(month),
        since=wire.moment_text(since),
        until=wire.moment_text(until),
        is_closed=clock.now() >= until,
    )


def _month_account(part: monthly.Part) -> MonthAccount:
    return MonthAccount(
        account=part.account,
        opening=wire.micros_text(part.opening_micros),
        closing=wire.micros_text(part.closing_micros),
        movements=[
            MovementOut(
                code=one.code,
                count=one.count,
                received=wire.micros_text(one.received_micros),
                paid=wire.micros_text(one.paid_micros),
                total=wire.micros_text(one.total_micros),
            )
            for one in part.movements
        ],
    )


def _month_day(day: monthly.Day) -> DayOut:
    return DayOut(
        grade=day.grade,
        date=day.date,
        role=day.role,
        intervals=day.intervals,
        available_ntu=wire.ntu_text(day.available_mntu),
        short_ntu=wire.ntu_text(day.short_mntu),
        delivered_ntu=wire.ntu_text(day.delivered_mntu),
        released=wire.micros_text(day.released_micros),
        refunded=wire.micros_text(day.refunded_micros),
        compensated=wire.micros_text(day.compensated_micros),
    )
