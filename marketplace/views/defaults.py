"""Margin calls and defaults as operators see them, and the limit of the exchange's layer."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from marketplace import clock, errors, forms, layer, models
from marketplace.views import shared
from marketplace.views.control_room import operator_page
from settlement import default_queries


@require_safe
@operator_page
def page(request: HttpRequest) -> HttpResponse:
    """Calls with their deadlines, offers, defaults and who bore them, fund and layer."""
    return _page(request, forms.Layer())


def _page(request: HttpRequest, form: forms.Layer, status: int = 200) -> HttpResponse:
    calls = default_queries.running_calls()
    draws = default_queries.draws()
    offers = list(default_queries.offers()[: default_queries.SHOWN])
    steps = list(default_queries.steps()[: default_queries.SHOWN])
    known = {row.organization for row in calls} | {one.row.organization_id for one in draws}
    known |= {row.organization_id for row in offers} | {row.organization_id for row in steps}
    known |= {step.other for one in draws for step in one.transfers}
    names = dict(models.Organization.objects.filter(pk__in=known).values_list("pk", "name"))
    names[0] = "the exchange"
    values = {
        "at": clock.now(),
        "calls": [{"row": row, "name": _name(names, row.organization)} for row in calls],
        "offers": [{"row": row, "name": _name(names, row.organization_id)} for row in offers],
        "draws": [
            {
                "row": one.row,
                "name": _name(names, one.row.organization_id),
                "transfers": [
                    {"step": step, "name": _name(names, step.other)} for step in one.transfers
                ],
            }
            for one in draws
        ],
        "steps": [{"row": row, "name": _name(names, row.organization_id)} for row in steps],
        "reserves": default_queries.reserves(),
        "form": form,
    }
    return shared.page(request, "marketplace/defaults.html", values, status=status)


def _name(names: dict[int, str], organization: int) -> str:
    return names.get(organization, str(organization))


@require_POST
@operator_page
def set_layer(request: HttpRequest) -> HttpResponse:
    """Propose a limit of the layer, or confirm another operator's."""
    member = shared.member_of(request)
    if member is None or member.organization.role != models.Organization.Role.OPERATOR:
        raise errors.Forbidden("act for an operator's organization to decide this")
    form = forms.Layer(request.POST)
    if not form.is_valid():
        return _page(request, form, status=422)
    try:
        decided = layer.set_layer(
            limit_micros=form.cleaned_data["limit"],
            reason=form.cleaned_data["reason"],
            organization_id=member.organization.pk,
            actor=member.user.email,
        )
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _page(request, form, status=refusal.status)
    if decided.is_applied:
        messages.success(request, "The layer has its new limit.")
    else:
        messages.success(request, "Proposed. Another operator has to ask for the same limit.")
    return redirect("/operations/defaults")
