"""The order ticket: placing an order, and withdrawing orders."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from exchange import operations as exchange_operations
from exchange import wire as exchange_wire
from marketplace import errors, forms, http, wire
from marketplace.views import instrument, shared


@require_POST
@shared.member_page
def ticket(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Place an order, or show what it would cost."""
    member.require("trade")
    form = forms.Ticket(request.POST)
    symbol = request.POST.get("instrument", "")
    if not form.is_valid():
        return _again(request, symbol, form)
    given = form.cleaned_data
    if request.POST.get("intent") == "preview":
        return _again(request, symbol, form, status=200)
    try:
        order = exchange_operations.place(
            organization=member.organization.pk,
            instrument=given["instrument"],
            side=1 if given["side"] == "buy" else -1,
            price_ticks=given["price"],
            lots=given["lots"],
            client_order_id=given["client_order_id"],
            time_in_force=given["time_in_force"],
        )
    except errors.OutcomeUnknown:
        raise
    except errors.Refusal as refusal:
        if shared.wants_json(request) or refusal.status == 404:
            raise
        form.add_error(None, shared.sentence(refusal.detail))
        return _again(request, symbol, form, refusal=refusal)
    if shared.wants_json(request):
        return _json(order, next_client_order_id=shared.fresh_id("ticket"))
    messages.success(request, said_of(order))
    return redirect(f"/markets/{order.instrument}")


def said_of(order: exchange_wire.OrderOut) -> str:
    """Say what became of an order."""
    if order.filled_quantity == 0:
        return (
            f"Order {order.status.replace('_', ' ')}: {order.side} {order.quantity} lots "
            f"at {order.price}."
        )
    verb = "Bought" if order.side == "buy" else "Sold"
    return (
        f"{verb} {order.filled_quantity} of {order.quantity} lots at {order.average_price}; "
        f"order {order.status.replace('_', ' ')}."
    )


def _again(
    request: HttpRequest,
    symbol: str,
    form: forms.Ticket,
    *,
    status: int = 422,
    refusal: errors.Refusal | None = None,
) -> HttpResponse:
    """Show the ticket as it was typed, with what is wrong or what it would cost."""
    if shared.wants_json(request):
        detail = " ".join(
            f"{name.replace('_', ' ').capitalize()}: {' '.join(map(str, found))}"
            for name, found in form.errors.items()
        )
        return shared.refused_json(errors.Malformed(detail))
    for found in form.non_field_errors():
        messages.error(request, str(found))
    typed = {
        "side": request.POST.get("side", ""),
        "price": _padded(request.POST.get("price", "")),
        "lots": request.POST.get("lots", "").strip(),
        "time_in_force": request.POST.get("time_in_force", ""),
        "errors": {name: " ".join(map(str, found)) for name, found in form.errors.items()},
        # A refused id stands for the refused order; the next attempt is another order.
        "client_order_id": "" if refusal else request.POST.get("client_order_id", ""),
    }
    return instrument.render(
        request, symbol, ticket=typed, status=refusal.status if refusal else status
    )


def _padded(price: str) -> str:
    """Return a typed price with three decimals, or as it was typed."""
    whole, _, decimals = price.strip().partition(".")
    text = f"{whole}.{decimals.ljust(3, '0')}"
    try:
        wire.parse_price(text)
    except errors.Refusal:
        return price
    return text


@require_POST
@shared.member_page
def cancel(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Withdraw one order."""
    member.require("trade")
    form = forms.Cancel(request.POST)
    if not form.is_valid():
        raise errors.NotFound("there is no such order")
    order = exchange_operations.cancel(
        organization=member.organization.pk, order=wire.parse_id(form.cleaned_data["order"])
    )
    if shared.wants_json(request):
        return _json(order)
    messages.success(
        request, f"Order canceled: {order.remaining_quantity} lots at {order.price} withdrawn."
    )
    return shared.back(request, f"/markets/{order.instrument}")


@require_POST
@shared.member_page
def cancel_all(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Withdraw every resting order, of one instrument or of all."""
    member.require("trade")
    symbol = request.POST.get("instrument", "")
    closed = exchange_operations.cancel_all(organization=member.organization.pk, instrument=symbol)
    messages.success(request, f"{len(closed)} orders canceled.")
    return shared.back(request, "/portfolio")


def _json(order: exchange_wire.OrderOut, **more: str) -> HttpResponse:
    body = http.encode({"order": order, **more})
    response = HttpResponse(body, content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response
