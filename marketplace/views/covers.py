"""Standing offers of cover as a provider sees them: made, listed, withdrawn (RULEBOOK 6.6)."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST

from admission import cover
from marketplace import errors, forms, models, queries, wire
from marketplace.views import once, shared


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def offers(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The open offers of all its clusters; a post makes one."""
    if request.method != "POST":
        return _page(request, member, forms.OfferCover())
    member.require("capacity")
    form = forms.OfferCover(request.POST)
    if not form.is_valid():
        return _page(request, member, form, status=422)
    given = form.cleaned_data
    found = _own(member, given["cluster"])
    try:
        once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="cover",
                terms=f"{found.pk} {given['price']} {given['lots']}",
            ),
            lambda: str(
                cover.offer(cluster=found, price_ticks=given["price"], lots=given["lots"]).pk
            ),
        )
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _page(request, member, form, status=refusal.status)
    messages.success(
        request,
        f"{found.name} covers up to {given['lots']} lots at {wire.price_text(given['price'])}.",
    )
    return redirect("/sell/cover")


@require_POST
@shared.member_page
def withdraw(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Withdraw an offer; what it covers at the moment is delivered and paid."""
    member.require("capacity")
    found = _own(member, request.POST.get("cluster", ""))
    row = cover.withdraw(cluster_id=found.pk, offer_id=wire.parse_id(request.POST.get("offer", "")))
    messages.success(
        request, f"The offer of {found.name} at {wire.price_text(row.price_ticks)} is withdrawn."
    )
    return redirect("/sell/cover")


def _page(
    request: HttpRequest, member: shared.Member, form: forms.OfferCover, status: int = 200
) -> HttpResponse:
    clusters = list(
        queries.clusters(organization_id=member.organization.pk).select_related("grade")
    )
    values = {
        "is_provider": member.organization.role == models.Organization.Role.PROVIDER,
        "form": form,
        "form_id": shared.fresh_id("page"),
        "clusters": [
            {
                "public_id": str(row.public_id),
                "name": row.name,
                "grade": row.grade_id,
                "certified_lots": row.certified_lots,
                "highest": cover.PRICE_MULTIPLE_MAX * row.grade.reference_price_ticks,
            }
            for row in clusters
            if row.state == models.Cluster.State.CERTIFIED
        ],
        "offers": [
            {
                "id": offer.pk,
                "cluster": str(row.public_id),
                "name": row.name,
                "grade": row.grade_id,
                "price": offer.price_ticks,
                "lots": offer.lots,
                "created_at": offer.created_at,
            }
            for row in clusters
            for offer in cover.open_offers(row.pk)[: cover.OFFERS_MAX]
        ],
    }
    return shared.page(request, "marketplace/cover.html", values, status=status)


def _own(member: shared.Member, public_id: str) -> models.Cluster:
    """Return one of the member's clusters.

    :raises NotFound: when it is none of the member's.
    """
    for row in queries.clusters(organization_id=member.organization.pk):
        if str(row.public_id) == public_id:
            return row
    raise errors.NotFound("there is no such cluster")
