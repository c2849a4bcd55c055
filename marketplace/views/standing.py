"""What a member has done for it while it looks elsewhere: surplus sold again, pools joined."""

from datetime import UTC

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_http_methods, require_POST

from marketplace import clock, contract, errors, forms, models, purchases, queries, resale, wire
from marketplace.views import instrument, once, shared

SHOWN = 100
DEADLINE_AHEAD = contract.HOUR // 2
"""A pool's deadline is proposed so far ahead, less what is over a full five minutes."""


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def resell(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Standing resale instructions; a post makes one, in place of the grade's last."""
    grades = [(grade.code, grade.code) for grade in queries.grades()]
    if request.method != "POST":
        return _resale_page(request, member, forms.Resale(grades=grades))
    member.require("trade")
    form = forms.Resale(request.POST, grades=grades)
    if not form.is_valid():
        return _resale_page(request, member, form, status=422)
    given = form.cleaned_data
    once.perform(
        once.PageRequest(
            organization=member.organization.pk,
            idempotency_key=given["idempotency_key"],
            what="resale",
            terms=f"{given['grade']} {given['floor_price']} {given['forecast']} {given['keep']}",
        ),
        lambda: str(
            resale.write(
                organization_id=member.organization.pk,
                grade=given["grade"],
                floor_price_ticks=given["floor_price"],
                forecast=given["forecast"],
                kept_lots=given["keep"] or 0,
            ).pk
        ),
    )
    messages.success(request, f"Surplus of {given['grade']} is sold from the next full hour on.")
    return redirect("/resale")


def _resale_page(
    request: HttpRequest, member: shared.Member, form: forms.Resale, status: int = 200
) -> HttpResponse:
    rows = models.ResaleInstruction.objects.filter(organization=member.organization)
    values = {
        "form": form,
        "rows": [
            {
                "row": row,
                "is_active": row.state == models.ResaleInstruction.State.ACTIVE,
                "has_forecast": row.forecast != models.ResaleInstruction.Forecast.NONE,
            }
            for row in rows.order_by("-id")[:SHOWN]
        ],
        "form_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/resale.html", values, status=status)


@require_POST
@shared.member_page
def stop_reselling(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Stop an instruction and cancel what it offers."""
    member.require("trade")
    row = resale.instruction_of(
        organization_id=member.organization.pk,
        instruction_id=wire.parse_id(request.POST.get("instruction", "")),
    )
    resale.stop(row)
    messages.success(request, f"Nothing of {row.grade_id} is sold by itself any more.")
    return redirect("/resale")


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def pools(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Pools to join, and what the organization has committed; a post commits."""
    if request.method != "POST":
        return _pools_page(request, member, forms.Commitment(initial=_wanted(request)))
    member.require("trade")
    form = forms.Commitment(request.POST)
    if not form.is_valid():
        return _pools_page(request, member, form, status=422)
    given = form.cleaned_data
    deadline = clock.to_micros(given["deadline"].replace(tzinfo=UTC))
    try:
        reference = once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="purchase",
                terms=f"{given['instrument']} {deadline} {given['lots']} {given['price']}",
            ),
            lambda: str(
                purchases.commit(
                    organization_id=member.organization.pk,
                    symbol=given["instrument"],
                    deadline=deadline,
                    lots=given["lots"],
                    price_ticks=given["price"],
                ).pk
            ),
        )
        row = purchases.finish(int(reference))
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _pools_page(request, member, form, status=refusal.status)
    messages.success(
        request, f"Committed {row.lots} lots of {row.symbol}. Take it back until the deadline."
    )
    return redirect("/purchases")


def _wanted(request: HttpRequest) -> dict[str, str]:
    """Return what a link to a pool fills in; else the next full hour as its deadline."""
    symbol = request.GET.get("instrument", "")[:40]
    deadline = _minute(request.GET.get("deadline", "")[:40])
    return {"instrument": symbol, "deadline": deadline}


def _minute(text: str) -> str:
    """Return an instant as the field for it wants it; without one, the proposed deadline."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        moment = clock.to_datetime(_proposed())
    return f"{moment:%Y-%m-%dT%H:%M}"


def _proposed() -> int:
    """Return the deadline that a new pool is offered."""
    ahead = clock.now_micros() + DEADLINE_AHEAD
    return ahead - ahead % contract.INTERVAL


def _pools_page(
    request: HttpRequest, member: shared.Member, form: forms.Commitment, status: int = 200
) -> HttpResponse:
    rows = list(purchases.commitments(member.organization.pk)[:SHOWN])
    asked = form["instrument"].value()
    soonest = clock.to_datetime(_proposed() + contract.INTERVAL)
    values = {
        "form": form,
        "pools": [
            {"pool": pool, "deadline": f"{pool.deadline:%Y-%m-%dT%H:%M}"}
            for pool in purchases.open_pools()
        ],
        "rows": [
            {"row": row, "is_open": row.state == models.PurchaseCommitment.State.COMMITTED}
            for row in rows
        ],
        "instruments": [
            row
            for row in instrument.live_rows()
            if (terms := contract.parse_symbol(row.symbol)) is not None
            and terms.is_energy
            and (row.trading_ends_at >= soonest or row.symbol == asked)
        ],
        "form_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/purchases.html", values, status=status)


@require_POST
@shared.member_page
def leave_pool(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Take a commitment back."""
    member.require("trade")
    row = purchases.commitment(
        organization_id=member.organization.pk,
        commitment_id=wire.parse_id(request.POST.get("commitment", "")),
    )
    try:
        purchases.take_back(row)
    except errors.Refusal as refusal:
        messages.error(request, shared.sentence(refusal.detail))
    else:
        messages.success(request, f"The commitment to {row.symbol} is withdrawn.")
    return redirect("/purchases")
