"""Deliveries with three figures beside each other, and disputes about them."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from marketplace import clock, contract, forms
from marketplace.views import once, shared
from settlement import deliveries as settled
from settlement import disputes

DELIVERIES_SHOWN = 100
DISPUTES_SHOWN = 50


@require_safe
@shared.member_page
def deliveries(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The latest deliveries, and disputes of either party."""
    return _page(request, member)


def _page(
    request: HttpRequest,
    member: shared.Member,
    form: forms.Dispute | None = None,
) -> HttpResponse:
    organization = member.organization.pk
    now = clock.now_micros()
    rows = settled.deliveries(organization, limit=DELIVERIES_SHOWN)
    shown = [
        {
            "row": row,
            "role": "holder" if row.holder == organization else "seller",
            "is_disputable": row.intervals and now < disputes.disputed_until(row.starts_at),
            "until": clock.to_datetime(disputes.disputed_until(row.starts_at)),
        }
        for row in rows
    ]
    values = {
        "deliveries": shown,
        "disputable": [one for one in shown if one["is_disputable"]],
        "disputes": [
            {
                "row": row,
                "is_own": row.opened_by == organization,
                "is_open": row.state in ("OPEN", "PROPOSED"),
                "intervals": ", ".join(map(str, row.intervals)),
            }
            for row in settled.disputes(organization)[:DISPUTES_SHOWN]
        ],
        "dispute_id": shared.fresh_id("dispute"),
        "form": form,
    }
    return shared.page(
        request, "marketplace/deliveries.html", values, status=422 if form is not None else 200
    )


@require_POST
@shared.member_page
def dispute(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Object to one interval of a delivery, or to all twelve."""
    member.require("transfer")
    form = forms.Dispute(request.POST)
    if not form.is_valid():
        return _page(request, member, form)
    given = form.cleaned_data
    wanted = [given["interval"]] if given["interval"] else range(1, contract.INTERVALS_PER_HOUR + 1)
    once.perform(
        once.PageRequest(
            organization=member.organization.pk,
            idempotency_key=given["idempotency_key"],
            what="dispute",
            terms=f"{given['delivery']} {given['interval']} {given['reason']}",
        ),
        lambda: str(
            disputes.open_dispute(
                organization_id=member.organization.pk,
                allocation_id=int(given["delivery"]),
                intervals=wanted,
                reason=given["reason"],
                at=clock.now_micros(),
            ).pk
        ),
    )
    messages.success(request, "The dispute is open. An operator decides it.")
    return redirect("/deliveries")


@require_POST
@shared.member_page
def withdraw(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Take a dispute back."""
    member.require("transfer")
    form = forms.Withdraw(request.POST)
    if form.is_valid():
        disputes.withdraw_dispute(
            organization_id=member.organization.pk,
            dispute_id=int(form.cleaned_data["dispute"]),
            at=clock.now_micros(),
        )
        messages.success(request, "The dispute is withdrawn.")
    return redirect("/deliveries")
