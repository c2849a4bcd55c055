"""A month's statement as a page, and as files to keep."""

from datetime import date, timedelta

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from marketplace import clock, months
from marketplace.views import shared
from settlement import monthly, statement_forms


@require_safe
@shared.member_page
def month(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """One month: balances, movements, trades, days of delivery, corrections."""
    shown = _month(request, member)
    since, until = monthly.span(date.fromisoformat(f"{shown.month}-01"))
    values = {
        "since": since,
        "last": until - timedelta(days=1),
        "month": shown,
        "months": [monthly.month_text(one) for one in months.months(member.organization.pk)],
        "accounts": [
            {"name": statement_forms.LABELS[part.account], "part": part}
            for part in shown.accounts
            if part.movements or part.opening_micros or part.account == "cash"
        ],
    }
    return shared.page(request, "marketplace/month.html", values)


@require_safe
@shared.member_page
def month_csv(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The month as CSV."""
    return _file(request, member, "csv")


@require_safe
@shared.member_page
def month_pdf(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The month as PDF."""
    return _file(request, member, "pdf")


def _file(request: HttpRequest, member: shared.Member, form: str) -> HttpResponse:
    made = months.month_file(_month(request, member), form)
    return HttpResponse(
        made.body,
        content_type=made.content_type,
        headers={
            "Content-Disposition": f'attachment; filename="{made.name}"',
            "Cache-Control": "no-store",
        },
    )


def _month(request: HttpRequest, member: shared.Member) -> monthly.Month:
    """Return the month asked for, else the current one.

    :raises NotFound: when the organization has no statement of it.
    """
    asked = request.GET.get("month", "") or monthly.month_text(clock.now().date())
    return months.statement(member.organization.pk, months.parse_month(asked))
