"""What happened to an organization's money in a period, to the micro-USD.

A statement has one part per cash account (cash, escrow, held for usage): the balance it opened
with, every transfer, grouped by what it was about and why, and the balance it closed with. Opening
and closing are counted from the ledger apart from the lines, and a statement that does not add up
is not shown. Beside the money stand the settled intervals with what was available, delivered,
released, covered, refunded and compensated: the same rows for the holder and for the seller.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from marketplace import clock, contract, text, wire
from settlement import cash, ledger, models, queries
from settlement.ledger import Code, Kind

TRANSFERS_MAX = 100_000
"""Of one account in one statement; a longer period is asked for in parts."""

KINDS = {Kind.CASH: "cash", Kind.ESCROW: "escrow", Kind.USAGE_HOLD: "usage_hold"}

TradeSymbols = Callable[[list[int]], Mapping[int, str]]
"""Tells the instruments of trades, which settlement does not know."""


class PeriodTooLong(Exception):
    """An account has more transfers in the period than one statement shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One transfer, signed as the account sees it."""

    sequence: int
    at: datetime
    amount_micros: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The transfers of one reason about one instrument; `subject` is empty for none."""

    subject: str
    code: str
    lines: tuple[Line, ...]
    total_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPart:
    """One account of the organization: opening balance, what moved it, closing balance."""

    account: str
    opening_micros: int
    groups: tuple[Group, ...]
    closing_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalLine:
    """A settled interval of one allocation, as both its holder and its seller see it."""

    symbol: str
    interval: int
    role: str
    """`holder` or `seller`: which of the two the organization is; `both` when it is both."""
    allocation: int
    lots: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    released_micros: int
    covered_micros: int
    refunded_micros: int
    compensated_micros: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """An organization's statement for `[since, until)`."""

    organization_id: int
    since: datetime
    until: datetime
    accounts: tuple[AccountPart, ...]
    intervals: tuple[IntervalLine, ...]


def statement(
    organization_id: int,
    *,
    since: datetime,
    until: datetime,
    trade_symbols: TradeSymbols | None = None,
) -> Statement:
    """Return the statement of an organization for `[since, until)`.

    :raises PeriodTooLong: when an account has more than `TRANSFERS_MAX` transfers in it.
    """
    assert since < until, "a period has a length"
    balances = cash.balances_at(organization_id, kinds=KINDS, since=since, until=until)
    parts = tuple(
        _account_part(organization_id, kind, since, until, balances[kind], trade_symbols)
        for kind in KINDS
    )
    return Statement(
        organization_id=organization_id,
        since=since,
        until=until,
        accounts=parts,
        intervals=tuple(_intervals(organization_id, since, until)),
    )


def to_csv(shown: Statement) -> str:
    """Return the money of a statement as CSV: one row per balance and per transfer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["account", "at", "sequence", "subject", "code", "cause", "amount", "balance"])
    for part in shown.accounts:
        balance = part.opening_micros
        opening = wire.micros_text(balance)
        start = wire.time_text(clock.to_micros(shown.since))
        writer.writerow([part.account, start, "", "", "opening", "", "", opening])
        rows = [(line, group) for group in part.groups for line in group.lines]
        for line, group in sorted(rows, key=lambda row: row[0].sequence):
            balance += line.amount_micros
            writer.writerow(
                [
                    part.account,
                    wire.time_text(clock.to_micros(line.at)),
                    line.sequence,
                    group.subject,
                    group.code,
                    text.spreadsheet_cell(line.cause),
                    wire.micros_text(line.amount_micros),
                    wire.micros_text(balance),
                ]
            )
        end = wire.time_text(clock.to_micros(shown.until))
        closing = wire.micros_text(part.closing_micros)
        writer.writerow([part.account, end, "", "", "closing", "", "", closing])
    return out.getvalue()


def _account_part(
    organization_id: int,
    kind: Kind,
    since: datetime,
    until: datetime,
    balances: tuple[int, int],
    trade_symbols: TradeSymbols | None,
) -> AccountPart:
    """Return one account's part, which adds up."""
    entries = cash.moved(
        organization_id, kind=kind, since=since, until=until, limit=TRANSFERS_MAX + 1
    )
    if len(entries) > TRANSFERS_MAX:
        raise PeriodTooLong(
            f"more than {TRANSFERS_MAX} transfers of organization {organization_id}"
        )
    opening, closing = balances
    total = sum(entry.amount_micros for entry in entries)
    assert opening + total == closing, "a statement adds up"
    subjects = _subjects({entry.cause for entry in entries}, trade_symbols)
    groups: dict[tuple[str, int], list[Line]] = {}
    for entry in reversed(entries):
        line = Line(
            sequence=entry.sequence,
            at=entry.at,
            amount_micros=entry.amount_micros,
            cause=entry.cause,
        )
        groups.setdefault((subjects[entry.cause], entry.code), []).append(line)
    return AccountPart(
        account=KINDS[kind],
        opening_micros=opening,
        groups=tuple(
            Group(
                subject=subject,
                code=Code(code).name.lower(),
                lines=tuple(lines),
                total_micros=sum(line.amount_micros for line in lines),
            )
            for (subject, code), lines in sorted(groups.items())
        ),
        closing_micros=closing,
    )


def _subjects(causes: Iterable[str], trade_symbols: TradeSymbols | None) -> dict[str, str]:
    """Return the instrument each cause is about, empty where there is none."""
    named: dict[str, dict[str, int]] = {"entitlement": {}, "interval": {}, "trade": {}}
    found: dict[str, str] = {}
    for cause in causes:
        found[cause] = ""
        word, *rest = cause.split(":")
        if word in named and rest and rest[0].isdecimal():
            named[word][cause] = int(rest[0])
        elif word in ("gate", "insurance") and rest:
            found[cause] = rest[0]
        elif word == "usage" and len(rest) > 1:
            found[cause] = rest[1]
    entitlements = models.Entitlement.objects.filter(id__in=named["entitlement"].values())
    allocations = models.Allocation.objects.filter(id__in=named["interval"].values())
    symbols: dict[str, Mapping[int, str]] = {
        "entitlement": {
            id_: _symbol(grade, starts_at)
            for id_, grade, starts_at in entitlements.values_list("id", "grade", "starts_at")
        },
        "interval": {
            id_: _symbol(grade, starts_at)
            for id_, grade, starts_at in allocations.values_list("id", "grade", "starts_at")
        },
        "trade": trade_symbols(sorted(set(named["trade"].values()))) if trade_symbols else {},
    }
    for word, numbers in named.items():
        for cause, number in numbers.items():
            found[cause] = symbols[word].get(number, "")
    return found


def _symbol(grade: str, starts_at: datetime) -> str:
    """Return the symbol of an hour."""
    return contract.hour_contract(grade, clock.to_micros(starts_at)).symbol


def _intervals(organization_id: int, since: datetime, until: datetime) -> Iterable[IntervalLine]:
    """Yield the intervals settled in the period, the earliest first."""
    rows: Any = queries.settlements(organization_id).filter(at__gte=since, at__lt=until)
    for row in rows.order_by("allocation__starts_at", "interval", "id"):
        lots = row.allocation
        is_holder = lots.holder == organization_id
        is_seller = lots.seller == organization_id
        yield IntervalLine(
            symbol=_symbol(lots.grade, lots.starts_at),
            interval=row.interval,
            role="both" if is_holder and is_seller else "holder" if is_holder else "seller",
            allocation=lots.id,
            lots=lots.lots,
            available_mntu=row.available_mntu,
            short_mntu=row.short_mntu,
            delivered_mntu=row.delivered_mntu,
            released_micros=row.released_micros,
            covered_micros=row.covered_micros,
            refunded_micros=row.refunded_micros,
            compensated_micros=row.compensated_micros,
            at=row.at,
        )


assert set(KINDS) <= set(Kind) - ledger.MAY_GO_NEGATIVE, "organizations' accounts stay positive"
