"""Statements: what moved an organization's money, day by day or in a period of the caller's."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime

from django.db import connection

from exchange import queries as exchange_queries
from marketplace import clock, contract, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict
from settlement import ledger
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
