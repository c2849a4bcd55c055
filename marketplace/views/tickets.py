"""The order ticket: placing an order, amending and withdrawing orders.

A page sends the same order as a program does, through the same checks (`exchange.intake`), so that
what a program may not ask for a person cannot either.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from exchange import commands, intake, preview_wire
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
    is_preview = request.POST.get("intent") == "preview"
    try:
        given = intake.OrderIn(**form.terms())
        command = intake.place_order(member.organization.pk, given)
        if is_preview:
            return _foresee(request, symbol, form, commands.PreviewOrder(command))
        (outcome,) = exchange_operations.submit([command])
        order = exchange_operations.order_of(outcome)
    except errors.OutcomeUnknown:
        raise
    except errors.Refusal as refusal:
        if shared.wants_json(request) or refusal.status == 404:
            raise
        _blame(form, refusal)
        return _again(request, symbol, form, refusal=refusal)
    if shared.wants_json(request):
        return _json(order, next_client_order_id=shared.fresh_id("ticket"))
    messages.success(request, said_of(order))
    return redirect(f"/markets/{order.instrument}")


def said_of(order: exchange_wire.OrderOut) -> str:
    """Say what became of an order."""
    if order.filled_quantity == 0:
        at = f" at {order.price}" if order.price else ""
        at += f", once {order.stop_price} is reached" if order.status == "untriggered" else ""
        why = f" ({order.reason.replace('_', ' ')})" if order.reason else ""
        return (
            f"Order {order.status.replace('_', ' ')}{why}: {order.side} {order.quantity} lots{at}."
        )
    verb = "Bought" if order.side == "buy" else "Sold"
    return (
        f"{verb} {order.filled_quantity} of {order.quantity} lots at {order.average_price}; "
        f"order {order.status.replace('_', ' ')}."
    )


def _foresee(
    request: HttpRequest, symbol: str, form: forms.Ticket, question: commands.PreviewOrder
) -> HttpResponse:
    """Say what the order would do now; what it would cost is told also while the engine is away."""
    try:
        (outcome,) = exchange_operations.submit([question])
        if isinstance(outcome, errors.Refusal):
            raise outcome
        said = foreseen(preview_wire.preview_out(symbol, outcome.events))
    except errors.Unavailable as refusal:
        said = f"What it would do cannot be told now: {refusal.detail or refusal.title}."
    if shared.wants_json(request):
        return _json(foreseen=said)
    return _again(request, symbol, form, status=200, said=said)


def foreseen(preview: preview_wire.PreviewOut) -> str:
    """Say what an order would do."""
    if preview.reason is not None and preview.status == "rejected":
        return f"It would be refused: {preview.reason.replace('_', ' ')}."
    parts = []
    if preview.filled_quantity:
        parts.append(f"{preview.filled_quantity} lots would trade at {preview.average_price}")
    parts.append(f"the order would be {preview.status.replace('_', ' ')}")
    if preview.reason is not None:
        parts[-1] += f" ({preview.reason.replace('_', ' ')})"
    text = ", ".join(parts)
    worst = preview.worst_case
    return (
        f"{text[:1].upper()}{text[1:]}. Fee {_usd(preview.fee)}, set aside {_usd(preview.margin)} "
        f"more, {_usd(preview.available_after)} left."
    ) + (worst_case_said(worst) if worst is not None else "")


def worst_case_said(worst: preview_wire.WorstCase) -> str:
    """Say what a price cap leaves to pay at most."""
    tokens = f"{int(worst.insured_ntu.partition('.')[0]):,} NTU"
    return (
        f" In the worst case a million insured tokens cost ${worst.price} at the index, premium "
        f"and strike together, and all {tokens} of the month {_usd(worst.total)}. Where the index "
        f"is above ${worst.holds_to_index}, what it is above comes on top."
    )


def _usd(amount: str) -> str:
    """Return an amount as the pages print it: `$1,000.50`."""
    return f"${wire.short_money_text(int(amount.replace('.', '')))}"


def _blame(form: forms.Ticket, refusal: errors.Refusal) -> None:
    """Put a refusal beside the field it is of, or above the form."""
    detail = shared.sentence(refusal.detail)
    fields = [each.field for each in refusal.errors]
    named = [FIELDS.get(field, field) for field in fields]
    found = [field for field in named if field in form.fields]
    form.add_error(found[0] if found else None, detail)


FIELDS = {"quantity": "lots"}
"""What the page calls a field of the interface, where that is another name."""


def _again(
    request: HttpRequest,
    symbol: str,
    form: forms.Ticket,
    *,
    status: int = 422,
    refusal: errors.Refusal | None = None,
    said: str = "",
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
    typed: dict[str, Any] = {
        name: request.POST.get(name, "").strip() for name in forms.Ticket.base_fields
    }
    typed |= {
        "price": _padded(request.POST.get("price", ""), form.decimals),
        "stop_price": _padded(request.POST.get("stop_price", ""), form.decimals),
        "has_terms": any(
            request.POST.get(name)
            for name in ("display_quantity", "min_quantity", "post_only", "reduce_only")
        ),
        "errors": {name: " ".join(map(str, found)) for name, found in form.errors.items()},
        # A refused id stands for the refused order; the next attempt is another order.
        "client_order_id": "" if refusal else request.POST.get("client_order_id", ""),
    }
    return instrument.render(
        request, symbol, ticket=typed, said=said, status=refusal.status if refusal else status
    )


def _padded(price: str, decimals: int) -> str:
    """Return a typed price with the tick's decimals, or as it was typed."""
    if not price.strip():
        return ""
    text = wire.padded_price(price, decimals)
    try:
        wire.parse_price(text, decimals=decimals)
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
        request,
        f"Order canceled: {order.remaining_quantity} lots"
        f"{f' at {order.price}' if order.price else ''} withdrawn.",
    )
    return shared.back(request, f"/markets/{order.instrument}")


@require_POST
@shared.member_page
def amend(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Change price, quantity or both of one order."""
    member.require("trade")
    form = forms.Amend(request.POST)
    if not form.is_valid():
        found = [str(text) for texts in form.errors.values() for text in texts]
        raise errors.Malformed(" ".join(found) or "there is nothing to change")
    given = form.cleaned_data
    order = exchange_operations.amend(
        organization=member.organization.pk,
        order=wire.parse_id(given["order"]),
        price_ticks=given["price"] or 0,
        lots=given["lots"] or 0,
        decimals=form.decimals,
    )
    if shared.wants_json(request):
        return _json(order)
    messages.success(request, f"Order amended: {said_of(order)}")
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


def _json(order: exchange_wire.OrderOut | None = None, **more: str) -> HttpResponse:
    body = http.encode({**({"order": order} if order is not None else {}), **more})
    response = HttpResponse(body, content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response
