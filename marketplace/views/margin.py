"""The margin statement: what is set aside, and the numbers that each part of it follows from."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from marketplace import clock, contract, models
from marketplace.views import shared
from settlement import delivery
from settlement import margin as requirements
from settlement import queries as settlement_queries


@require_safe
@shared.member_page
def margin(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Positions, deliveries and uncovered shorts with the margin behind each."""
    organization = member.organization.pk
    account = settlement_queries.account(organization)
    values = {
        "account": account,
        "lacking": settlement_queries.lacking(account),
        "positions": _positions(organization),
        "deliveries": [
            {
                "row": row,
                "margin": delivery.delivery_margin(price=row.price_ticks, lots=row.lots),
            }
            for row in settlement_queries.open_obligations(organization)
        ],
        "uncovered": [
            {
                **line,
                "starts_at": clock.to_datetime(line["starts_at"]),
                "ends_at": clock.to_datetime(line["ends_at"]),
                "hours": (line["ends_at"] - line["starts_at"]) // contract.HOUR,
            }
            for line in account.uncovered
        ],
    }
    return shared.page(request, "marketplace/margin.html", values)


def _positions(organization: int) -> list[dict[str, Any]]:
    """Return each position with what its margin is reckoned from."""
    rows = list(settlement_queries.margined_positions(organization))
    marks = dict(
        models.Instrument.objects.filter(symbol__in=[row.symbol for row in rows]).values_list(
            "symbol", "mark_price_ticks"
        )
    )
    prepaid_until = contract.hour_start(clock.now_micros()) + requirements.PREPAID_WINDOW
    positions = []
    for row in rows:
        terms = contract.parse_symbol(row.symbol)
        assert terms is not None, "positions are in listed contracts"
        positions.append(
            {
                "row": row,
                "mark": marks.get(row.symbol),
                "hours": terms.hours,
                "prepaid": requirements.prepaid_hours(
                    starts_at=terms.starts_at, ends_at=terms.ends_at, prepaid_until=prepaid_until
                ),
                "unpaid": terms.tick_micros * (row.cost_ticks + row.received_ticks),
            }
        )
    return positions
