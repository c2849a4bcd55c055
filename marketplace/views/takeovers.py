"""Covered shorts that are offered with their capacity: the page to look at and bid on."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST

from exchange import queries as exchange_queries
from marketplace import errors, forms, takeovers, wire
from marketplace.views import once, shared
from settlement import default_queries, models

SHOWN = 100


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def offers(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """What is offered now, and the organization's bids; a post bids."""
    if request.method != "POST":
        return _page(request, member, forms.Bid())
    member.require("trade")
    form = forms.Bid(request.POST)
    if not form.is_valid():
        return _page(request, member, form, status=422)
    given = form.cleaned_data
    try:
        reference = once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="transfer-bid",
                terms=f"{given['offer']} {given['lots']} {given['price']}",
            ),
            lambda: str(
                takeovers.bid(
                    organization_id=member.organization.pk,
                    offer_id=int(given["offer"]),
                    lots=given["lots"],
                    price_ticks=given["price"],
                ).pk
            ),
        )
        row = takeovers.finish(int(reference))
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _page(request, member, form, status=refusal.status)
    messages.success(
        request, f"Bid for {row.lots} lots of {row.offer.symbol}. Withdraw it until the deadline."
    )
    return redirect("/transfers")


def _page(
    request: HttpRequest, member: shared.Member, form: forms.Bid, status: int = 200
) -> HttpResponse:
    running = default_queries.offers(is_running=True)[:SHOWN]
    values = {
        "form": form,
        "offers": [
            {"row": row, "mark": listed.instrument.mark_price_ticks if listed is not None else None}
            for row in running
            for listed in [exchange_queries.instrument(symbol=row.symbol)]
        ],
        "rows": [
            {"row": row, "is_open": row.state == models.TransferBid.State.PLACED}
            for row in default_queries.bids(member.organization.pk)[:SHOWN]
        ],
        "form_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/transfers.html", values, status=status)


@require_POST
@shared.member_page
def withdraw(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Take a bid back."""
    member.require("trade")
    row = takeovers.bid_of(
        organization_id=member.organization.pk,
        bid_id=wire.parse_id(request.POST.get("bid", "")),
    )
    try:
        takeovers.take_back(row)
    except errors.Refusal as refusal:
        messages.error(request, shared.sentence(refusal.detail))
    else:
        messages.success(request, f"The bid for {row.offer.symbol} is withdrawn.")
    return redirect("/transfers")
