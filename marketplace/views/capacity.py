"""What a member may use and what it sells: entitlements, keys, clusters, listings."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from admission import cluster
from admission import models as admission_models
from admission import operations as admission_operations
from admission import queries as admission_queries
from marketplace import clock, errors, forms, models, offers, operations, queries, wire
from marketplace.views import instrument, markets, once, shared
from settlement import queries as settlement_queries

PAST_SHOWN = 100
LISTINGS_SHOWN = 100
RUNNING = ("PENDING", "RUNNING")
ACCELERATORS = tuple(cluster.ACCELERATORS)

PYTHON_CLIENT = """\
from openai import OpenAI

client = OpenAI(base_url="{gateway}/v1", api_key="{key}")
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "What is a base load?"}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)"""

CURL_CLIENT = """\
curl {gateway}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "stream": true,
       "messages": [{{"role": "user", "content": "What is a base load?"}}]}}'"""


@require_safe
@shared.member_page
def entitlements(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """What may be used now, next and before, and how to use it."""
    now = clock.now()
    rows = settlement_queries.entitlements(member.organization.pk, now=now, limit=PAST_SHOWN)
    pools = {
        pool.id: {"id": pool.public_id, "name": pool.name} for pool in admission_queries.pools()
    }
    current = [
        {
            "id": str(row.id),
            "grade": row.grade,
            "starts_at": row.starts_at,
            "state": row.state,
            "lots": row.lots,
            "classes": [
                (name, lots)
                for name, lots in (("P0", row.p0_lots), ("P1", row.p1_lots), ("P2", row.p2_lots))
                if lots
            ],
            "delivered_mntu": row.delivered_mntu,
            "remaining_mntu": row.remaining_mntu,
            "share_percent": 100 * row.delivered_mntu // row.owed_mntu,
            "pools": [pools[cluster] for cluster in row.clusters if cluster in pools],
        }
        for row in reversed(rows)
        if row.ends_at > now
    ]
    keys = [
        key.id
        for key in queries.api_keys(organization_id=member.organization.pk)
        if "gateway" in key.scopes
    ]
    grade = current[0]["grade"] if current else _first_grade()
    prefix = "bl_demo" if settings.IS_DEMO else "bl_live"
    terms = {
        "gateway": settings.GATEWAY_ORIGIN,
        "key": f"{prefix}_{keys[0]}_SECRET" if keys else "YOUR_KEY",
        "model": grade,
    }
    values = {
        "current": current,
        "past": [
            {
                "grade": row.grade,
                "starts_at": row.starts_at,
                "lots": row.lots,
                "delivered_mntu": row.delivered_mntu,
                "owed_mntu": row.owed_mntu,
                "price": row.price_ticks,
            }
            for row in rows
            if row.ends_at <= now
        ],
        "keys": keys,
        "gateway": settings.GATEWAY_ORIGIN,
        "python_client": PYTHON_CLIENT.format(**terms),
        "curl_client": CURL_CLIENT.format(**terms),
    }
    return shared.page(request, "marketplace/entitlements.html", values)


def _first_grade() -> str:
    first = queries.grades().first()
    return first.code if first else "GRADE"


# Keys


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def keys(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The organization's keys; a post makes one, whose text this answer alone shows."""
    if request.method != "POST":
        return _keys_page(request, member, forms.MakeKey(initial={"name": ""}))
    member.require("keys")
    form = forms.MakeKey(request.POST)
    if not form.is_valid():
        return _keys_page(request, member, form, status=422)
    given = form.cleaned_data
    made = operations.create_key(
        organization_id=member.organization.pk,
        scopes=given["scopes"],
        name=given["name"],
        default_class=given["default_class"],
        overflow=given["overflow"],
    )
    return _keys_page(request, member, forms.MakeKey(), made=made.text, status=201)


def _keys_page(
    request: HttpRequest,
    member: shared.Member,
    form: forms.MakeKey,
    *,
    made: str = "",
    status: int = 200,
) -> HttpResponse:
    checked = request.POST.getlist("scopes") if form.is_bound else ["read", "gateway"]
    values = {
        "keys": list(queries.api_keys(organization_id=member.organization.pk)),
        "form": form,
        "made": made,
        "scopes": [{"name": name, "is_checked": name in checked} for name in forms.SCOPES],
    }
    return shared.page(request, "marketplace/keys.html", values, status=status)


@require_POST
@shared.member_page
def revoke_key(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Revoke a key; when this answers, nobody takes it any more."""
    member.require("keys")
    row = operations.revoke_key(
        organization_id=member.organization.pk, key_id=request.POST.get("key", "")[:24]
    )
    messages.success(request, f"Key {row.pk} is revoked.")
    return redirect("/keys")


# Selling


@require_safe
@shared.member_page
def sell(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Clusters, their certification, and what is listed."""
    return _sell_page(request, member)


def _sell_page(
    request: HttpRequest,
    member: shared.Member,
    *,
    register: forms.RegisterCluster | None = None,
    listing: forms.ListCapacity | None = None,
    status: int = 200,
) -> HttpResponse:
    organization = member.organization.pk
    rows = list(queries.clusters(organization_id=organization))
    latest = {
        one.cluster: one
        for one in admission_models.Certification.objects.filter(
            cluster__in=[row.pk for row in rows]
        ).order_by("cluster", "id")
    }
    clusters = [_cluster(row, latest.get(row.pk)) for row in rows]
    listed = list(queries.listings(organization_id=organization)[:LISTINGS_SHOWN])
    names = {row.pk: row.name for row in rows}
    graded = {row.grade_id for row in rows if row.certified_lots}
    values = {
        "is_provider": member.organization.role == models.Organization.Role.PROVIDER,
        "clusters": clusters,
        "sellable": [one for one in clusters if one["certified_lots"]],
        "grades": list(queries.grades()),
        "accelerators": ACCELERATORS,
        "tensor_parallel": forms.TENSOR_PARALLEL,
        "open_rows": [row for row in instrument.live_rows() if row.is_open and row.grade in graded],
        "listings": [
            {
                "id": offer.listing.pk,
                "symbol": offer.listing.symbol,
                "cluster": names.get(offer.listing.cluster_id, ""),
                "price": offer.listing.price_ticks,
                "lots": offer.listing.lots,
                "sold": offer.filled_lots,
                "state": offer.state,
            }
            for offer in offers.with_orders(listed)
        ],
        "register": register or _register_form(),
        "listing": listing or forms.ListCapacity(),
        "register_id": shared.fresh_id("page"),
        "list_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/sell.html", values, status=status)


def _cluster(
    row: models.Cluster, certification: admission_models.Certification | None
) -> dict[str, Any]:
    shown = None
    if certification is not None:
        is_running = certification.state in RUNNING
        note = "" if certification.state == "CERTIFIED" else certification.state.lower()
        shown = {
            "id": certification.pk,
            "is_running": is_running,
            "progress": certification.progress,
            "note": "" if is_running else note,
        }
    return {
        "name": row.name,
        "public_id": str(row.public_id),
        "grade": row.grade_id,
        "accelerators": markets.accelerators(row),
        "state": row.state,
        "certified_lots": row.certified_lots,
        "certification": shown,
        "certify_id": shared.fresh_id("page"),
    }


def _register_form(data: Any = None) -> forms.RegisterCluster:
    return forms.RegisterCluster(
        data,
        grades=[(grade.code, grade.code) for grade in queries.grades()],
        accelerators=list(ACCELERATORS),
    )


@require_POST
@shared.member_page
def register(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Register a cluster."""
    member.require("capacity")
    form = _register_form(request.POST)
    if not form.is_valid():
        return _sell_page(request, member, register=form, status=422)
    given = form.cleaned_data

    def effect() -> str:
        cluster = offers.register_cluster(
            organization_id=member.organization.pk,
            grade=given["grade"],
            name=given["name"],
            accelerator=given["accelerator"],
            tensor_parallel=given["tensor_parallel"],
            replicas=given["replicas"],
            endpoint=given["endpoint"] or None,
        )
        return str(cluster.pk)

    try:
        _once(member, given["idempotency_key"], "register", given, effect)
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _sell_page(request, member, register=form, status=refusal.status)
    messages.success(request, f"{given['name']} is registered. Have it certified next.")
    return redirect("/sell")


@require_POST
@shared.member_page
def certify(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Begin to certify a cluster."""
    member.require("capacity")
    cluster = _own_cluster(member, request.POST.get("cluster", ""))
    key = request.POST.get("idempotency_key", "")[:64] or shared.fresh_id("page")
    _once(
        member,
        key,
        "certify",
        {"cluster": cluster.pk},
        lambda: str(admission_operations.request_certification(cluster_id=cluster.pk).pk),
    )
    messages.success(request, f"{cluster.name} is being certified.")
    return redirect("/sell")


@require_safe
@shared.member_page
def certification(
    request: HttpRequest,
    member: shared.Member,
    certification_id: int,
) -> HttpResponse:
    """How far a certification is, for the script of the page."""
    row = admission_models.Certification.objects.filter(pk=certification_id).first()
    owned = queries.clusters(organization_id=member.organization.pk)
    if row is None or not owned.filter(pk=row.cluster).exists():
        raise errors.NotFound()
    response = JsonResponse({"progress": row.progress, "is_running": row.state in RUNNING})
    response["Cache-Control"] = "no-store"
    return response


@require_POST
@shared.member_page
def list_capacity(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Offer certified lots of an hour at a price."""
    member.require("capacity")
    form = forms.ListCapacity(request.POST)
    if not form.is_valid():
        return _sell_page(request, member, listing=form, status=422)
    given = form.cleaned_data
    try:
        cluster = _own_cluster(member, given["cluster"])
        reference = _once(
            member,
            given["idempotency_key"],
            "list",
            given,
            lambda: str(
                offers.write_listing(
                    cluster=cluster,
                    symbol=given["instrument"],
                    price_ticks=given["price"],
                    lots=given["lots"],
                ).pk
            ),
        )
        offer = offers.place_listing(int(reference))
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _sell_page(request, member, listing=form, status=refusal.status)
    messages.success(
        request,
        f"Listed {offer.listing.lots} lots of {offer.listing.symbol} "
        f"at {wire.price_text(offer.listing.price_ticks)}.",
    )
    return redirect("/sell")


@require_POST
@shared.member_page
def withdraw(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Withdraw what is not sold of a listing."""
    member.require("capacity")
    listing = queries.listing(
        organization_id=member.organization.pk,
        listing_id=wire.parse_id(request.POST.get("listing", "")),
    )
    offers.withdraw_listing(listing)
    messages.success(request, f"The listing of {listing.symbol} is withdrawn.")
    return redirect("/sell")


def _own_cluster(member: shared.Member, public_id: str) -> models.Cluster:
    """:raises NotFound: when it is none of the member's."""
    for row in queries.clusters(organization_id=member.organization.pk):
        if str(row.public_id) == public_id:
            return row
    raise errors.NotFound("there is no such cluster")


def _once(member: shared.Member, key: str, what: str, terms: dict[str, Any], effect: Any) -> str:
    asked = {name: value for name, value in terms.items() if name != "idempotency_key"}
    return once.perform(
        once.PageRequest(
            organization=member.organization.pk,
            idempotency_key=key,
            what=what,
            terms=repr(sorted(asked.items())),
        ),
        effect,
    )
