"""Monthly statements: one for every organization and month, made once when the month is over.

What was made is kept and shown for ever as it was; of a month that still runs, the statement is
compiled when somebody looks. Made twice, or by two workers at once, the first one stands.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime

from django.db import transaction

from exchange import models as exchange_models
from exchange import turnover
from marketplace import clock, errors, models
from marketplace.endpoint import File
from settlement import models as settled
from settlement import monthly, statement_forms

PER_TRANSACTION = 50
"""How many statements of a closing month are written at once."""


def statement(organization_id: int, month: date) -> monthly.Month:
    """Return an organization's statement of a month, as it was made or as far as it has come.

    :raises NotFound: when the month has not begun, or was over before the organization was there.
    """
    kept = settled.MonthlyStatement.objects.filter(
        organization_id=organization_id, month_date=month
    ).first()
    if kept is not None:
        return monthly.decode(bytes(kept.body))
    organization = models.Organization.objects.get(pk=organization_id)
    now = clock.now()
    since, until = monthly.span(month)
    if since > now or organization.created_at >= until:
        raise errors.NotFound()
    return _compile(organization, month, now)


def months(organization_id: int) -> list[date]:
    """Return the months that an organization has a statement of, the latest first."""
    organization = models.Organization.objects.get(pk=organization_id)
    first = organization.created_at.date().replace(day=1)
    found = []
    month = clock.now().date().replace(day=1)
    while month >= first:
        found.append(month)
        month = monthly.previous_month(month)
    return found


def close_month(month: date, *, at: datetime, fence: Callable[[], None] = lambda: None) -> int:
    """Make the statements of a month that is over, those that are missing; return how many.

    `fence` is called in every transaction.

    :raises Unavailable: while the engine may still post something of the month.
    :raises DoesNotAddUp: when one is not the ledger's.
    """
    if exchange_models.Head.objects.filter(at__lt=monthly.span(month)[1]).exists():
        raise errors.Unavailable("the engine has not come to the end of the month")
    assert at >= monthly.span(month)[1], "a month is closed when it is over"
    made = set(
        settled.MonthlyStatement.objects.filter(month_date=month).values_list(
            "organization_id", flat=True
        )
    )
    due = [number for number in monthly.organizations_of(month) if number not in made]
    known = models.Organization.objects.in_bulk(due)
    for first in range(0, len(due), PER_TRANSACTION):
        with transaction.atomic():
            fence()
            rows = [
                _row(_compile(known[number], month, monthly.span(month)[1]), month)
                for number in due[first : first + PER_TRANSACTION]
                if number in known
            ]
            settled.MonthlyStatement.objects.bulk_create(rows, ignore_conflicts=True)
    return len(due)


def _compile(organization: models.Organization, month: date, now: datetime) -> monthly.Month:
    since, until = monthly.span(month)
    return monthly.compile_month(
        organization_id=organization.pk,
        organization=organization.name,
        month=month,
        now=now,
        trades=turnover.trades(organization.pk, since=since, until=until),
    )


def _row(made: monthly.Month, month: date) -> settled.MonthlyStatement:
    body = monthly.encode(made)
    return settled.MonthlyStatement(
        organization_id=made.organization_id,
        month_date=month,
        body=body,
        digest=hashlib.sha256(body).digest(),
        opening_micros=sum(part.opening_micros for part in made.accounts),
        closing_micros=sum(part.closing_micros for part in made.accounts),
        at=clock.now(),
    )


def month_file(month: monthly.Month, form: str) -> File:
    """Return a statement as something to keep."""
    name = f"baseload-{month.organization_id}-{month.month}.{form}"
    if form == "csv":
        body = statement_forms.to_csv(month).encode()
        return File(content_type="text/csv; charset=utf-8", name=name, body=body)
    return File(content_type="application/pdf", name=name, body=statement_forms.to_pdf(month))


def parse_month(text: str) -> date:
    """Return the first day of a month written `2026-12`.

    :raises NotFound: when it is not one.
    """
    try:
        found = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise errors.NotFound() from None
    if monthly.month_text(found) != text:
        raise errors.NotFound()
    return found
