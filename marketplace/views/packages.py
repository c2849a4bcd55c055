"""The pages of packages: listed, looked through, bought, held, sold on."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace import (
    clock,
    contract,
    errors,
    models,
    package_slices,
    package_terms,
    packages,
    queries,
    wire,
)
from marketplace.views import once, package_forms, shared
from settlement import models as settlement_models
from settlement import packages as rules

SHOWN = 200
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TERM_DAYS_DEFAULT = 7


# Looked through and bought


@require_safe
@shared.public_page
def browse(request: HttpRequest) -> HttpResponse:
    """Packages on offer, and the slices that the reader's organization can buy."""
    return _browse(request)


def _browse(request: HttpRequest, status: int = 200) -> HttpResponse:
    now = clock.now_micros()
    grade = request.GET.get("grade", "")[:16]
    rows = list(packages.listings(now=now, grade=grade)[:SHOWN])
    member = shared.member_of(request)
    slices: Iterable[models.PackageSlice] = ()
    if member is not None:
        slices = package_slices.offered_to(member.organization.pk, now=now, grade=grade)[:SHOWN]
    values = {
        "packages": [_listing(one) for one in packages.shown(rows, now=now)],
        "slices": [_slice(row) | {"take_id": shared.fresh_id("page")} for row in slices],
        "grades": list(queries.grades()),
        "grade": grade,
        "is_provider": member is not None
        and member.organization.role == models.Organization.Role.PROVIDER,
    }
    return shared.page(request, "marketplace/packages.html", values, status=status)


@require_safe
@shared.public_page
def package(request: HttpRequest, listing_id: int) -> HttpResponse:
    """One package; with a term, what that costs and saves."""
    row = packages.listing(listing_id)
    asked = "from_date" in request.GET
    form = package_forms.Term(request.GET) if asked else None
    return _package(request, row, form)


def _package(
    request: HttpRequest,
    row: models.PackageListing,
    form: package_forms.Term | None,
    status: int = 200,
) -> HttpResponse:
    now = clock.now_micros()
    one = packages.shown([row], now=now)[0]
    refusal = ""
    offered: packages.Offered | None = None
    if form is not None and form.is_valid():
        given = form.cleaned_data
        try:
            offered = packages.quoted(
                row,
                starts_at=given["from_date"],
                ends_at=given["last_date"] + contract.DAY,
                units=given["units"],
                now=now,
            )
        except errors.Refusal as found:
            refusal, status = shared.sentence(found.detail), max(status, found.status)
    elif form is not None:
        status = 422
    values = {
        "package": _listing(one),
        "rows": pattern_rows(one.terms.lots),
        "p1_rows": pattern_rows(one.terms.p1_lots),
        "hours": range(24),
        "form": form,
        "term": _typed(form) if form is not None else _first_term(one, now),
        "offered": offered,
        "has_units": offered is not None and offered.quote.units <= offered.free_units,
        "refusal": refusal,
        "buy_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/package.html", values, status=status)


def _first_term(one: packages.Shown, now: int) -> dict[str, str]:
    """Return the first week that can be bought, or what there is of it."""
    starts_at = max(one.terms.starts_at, packages.first_day(now))
    ends_at = min(one.terms.ends_at, starts_at + TERM_DAYS_DEFAULT * contract.DAY)
    last = max(starts_at, ends_at - contract.DAY)
    return {"from_date": _day(starts_at), "last_date": _day(last), "units": "1"}


def _typed(form: package_forms.Term) -> dict[str, str]:
    return {
        name: str(form[name].value() or "")[:20] for name in ("from_date", "last_date", "units")
    }


@require_POST
@shared.member_page
def buy(request: HttpRequest, member: shared.Member, listing_id: int) -> HttpResponse:
    """Buy the term that was confirmed."""
    member.require("trade")
    row = packages.listing(listing_id)
    form = package_forms.BuyTerm(request.POST)
    if not form.is_valid():
        return _package(request, row, form, status=422)
    given = form.cleaned_data
    starts_at, ends_at = given["from_date"], given["last_date"] + contract.DAY
    try:
        reference = once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="package",
                terms=f"{listing_id} {starts_at} {ends_at} {given['units']}",
            ),
            lambda: str(
                packages.buy(
                    organization_id=member.organization.pk,
                    listing_id=listing_id,
                    starts_at=starts_at,
                    ends_at=ends_at,
                    units=given["units"],
                    now=clock.now_micros(),
                ).pk
            ),
        )
        bought = packages.finish(int(reference))
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _package(request, row, form, status=refusal.status)
    messages.success(
        request,
        f"Bought package {bought.pk} at {wire.price_text(bought.price_ticks)}. "
        "Its price is in escrow until it is delivered.",
    )
    return redirect("/portfolio/packages")


# Listed


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def sell(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """A provider's packages; a post lists one."""
    grades = [(grade.code, grade.code) for grade in queries.grades()]
    if request.method != "POST":
        return _sell(request, member, package_forms.OfferPackage(grades=grades))
    member.require("capacity")
    form = package_forms.OfferPackage(request.POST, grades=grades)
    if not form.is_valid():
        return _sell(request, member, form, status=422)
    given = form.cleaned_data
    terms = form.terms()
    try:
        once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="package-listing",
                terms=f"{given['grade']} {terms}",
            ),
            lambda: str(
                packages.offer(
                    organization_id=member.organization.pk,
                    grade=given["grade"],
                    terms=terms,
                    now=clock.now_micros(),
                ).pk
            ),
        )
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _sell(request, member, form, status=refusal.status)
    messages.success(request, f"The package of {given['grade']} is listed.")
    return redirect("/sell/packages")


def _sell(
    request: HttpRequest,
    member: shared.Member,
    form: package_forms.OfferPackage,
    status: int = 200,
) -> HttpResponse:
    now = clock.now_micros()
    rows = list(packages.listings(now=now, provider=member.organization.pk)[:SHOWN])
    values = {
        "is_provider": member.organization.role == models.Organization.Role.PROVIDER,
        "form": form,
        "packages": [_listing(one) for one in packages.shown(rows, now=now)],
        "sold": _bought(packages.sold(member.organization.pk)[:SHOWN]),
        "first_date": _day(packages.first_day(now)),
        "form_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/packages_sell.html", values, status=status)


@require_POST
@shared.member_page
def withdraw(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Sell nothing more of a package."""
    member.require("capacity")
    row = packages.own_listing(
        organization_id=member.organization.pk,
        listing_id=wire.parse_id(request.POST.get("row", "")),
    )
    packages.withdraw(row)
    messages.success(request, f"Package {row.pk} is withdrawn. What was bought is delivered.")
    return redirect("/sell/packages")


# Held and sold on


@require_safe
@shared.member_page
def held(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """The packages that the organization holds, and the slices that it has offered."""
    values = {
        "held": _bought(packages.held(member.organization.pk)[:SHOWN]),
        "slices": [_slice(row) for row in package_slices.own(member.organization.pk)[:SHOWN]],
    }
    return shared.page(request, "marketplace/packages_held.html", values)


@require_http_methods(["GET", "HEAD", "POST"])
@shared.member_page
def resell(request: HttpRequest, member: shared.Member, package_id: int) -> HttpResponse:
    """What remains of a package; a post offers a slice of it."""
    row = packages.package_of(organization_id=member.organization.pk, package_id=package_id)
    if request.method != "POST":
        return _resell(request, row, package_forms.Slice())
    member.require("trade")
    form = package_forms.Slice(request.POST)
    if not form.is_valid():
        return _resell(request, row, form, status=422)
    given = form.cleaned_data
    try:
        once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="package-slice",
                terms=repr(sorted((k, v) for k, v in given.items() if k != "idempotency_key")),
            ),
            lambda: str(
                package_slices.offer(
                    organization_id=member.organization.pk,
                    package_id=package_id,
                    starts_at=given["starts_at"],
                    ends_at=given["ends_at"],
                    lots=given["lots"],
                    p1_lots=given["p1_lots"],
                    price_ticks=given["price"],
                    buyer_id=_named(given["buyer"]),
                    now=clock.now_micros(),
                ).pk
            ),
        )
    except errors.Refusal as refusal:
        form.add_error(None, shared.sentence(refusal.detail))
        return _resell(request, row, form, status=refusal.status)
    messages.success(request, "The slice is offered. Take it back until somebody buys it.")
    return redirect("/portfolio/packages")


def _named(name: str) -> int | None:
    """:raises NotFound: when a name is given and no organization has it."""
    if not name:
        return None
    found = models.Organization.objects.filter(name__iexact=name).order_by("pk").first()
    if found is None:
        raise errors.NotFound(f"there is no organization {name}")
    return found.pk


def _resell(
    request: HttpRequest,
    row: settlement_models.Package,
    form: package_forms.Slice,
    status: int = 200,
) -> HttpResponse:
    now = clock.now_micros()
    left = packages.remaining(row, now=now)
    values = {
        "package": _bought([row])[0],
        "stretches": [
            {
                "starts_at": clock.to_datetime(one.starts_at),
                "ends_at": clock.to_datetime(one.ends_at),
                "lots": pattern_text(one.lots),
                "rows": pattern_rows(one.lots),
            }
            for one in left
        ],
        "hours": range(24),
        "first_hour": f"{clock.to_datetime(packages.first_open_hour(now)):%Y-%m-%dT%H:%M}",
        "fee_bp": models.Grade.objects.get(pk=row.grade).resale_fee_bp,
        "form": form,
        "form_id": shared.fresh_id("page"),
    }
    return shared.page(request, "marketplace/package_resell.html", values, status=status)


@require_POST
@shared.member_page
def take_back(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Take a slice back that nobody has bought."""
    member.require("trade")
    row = package_slices.own_slice(
        organization_id=member.organization.pk,
        slice_id=wire.parse_id(request.POST.get("row", "")),
    )
    try:
        with transaction.atomic():
            package_slices.withdraw(row)
    except errors.Refusal as refusal:
        messages.error(request, shared.sentence(refusal.detail))
    else:
        messages.success(request, "The slice is withdrawn.")
    return redirect("/portfolio/packages")


@require_POST
@shared.member_page
def take(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Buy a slice that is offered."""
    member.require("trade")
    form = package_forms.Chosen(request.POST)
    if not form.is_valid() or not form.cleaned_data["idempotency_key"]:
        raise errors.NotFound()
    given = form.cleaned_data
    try:
        reference = once.perform(
            once.PageRequest(
                organization=member.organization.pk,
                idempotency_key=given["idempotency_key"],
                what="take-slice",
                terms=given["row"],
            ),
            lambda: (
                package_slices.take(
                    organization_id=member.organization.pk, slice_id=int(given["row"])
                ).instruction
            ),
        )
        bought = package_slices.finish(reference)
    except errors.NotFound:
        raise
    except errors.Refusal as refusal:
        messages.error(request, shared.sentence(refusal.detail))
        return _browse(request, status=refusal.status)
    messages.success(request, f"Bought the slice: it is package {bought.pk} of yours.")
    return redirect("/portfolio/packages")


# What the tables show


def pattern_text(pattern: Sequence[int]) -> str:
    """Say a pattern of lots in a few words."""
    if not any(pattern):
        return "none"
    if len(set(pattern)) == 1:
        return f"{pattern[0]:,} in every hour"
    by = "hour of day" if len(pattern) == 24 else "weekday and hour"
    return f"{min(pattern):,} to {max(pattern):,} by {by}"


def pattern_rows(pattern: Sequence[int]) -> list[tuple[str, Sequence[int]]]:
    """Return a pattern as rows of 24 numbers; none for one that is flat."""
    if len(pattern) == 24:
        return [("Every day", pattern)]
    if len(pattern) == package_terms.HOURS_PER_WEEK:
        return [(day, pattern[24 * n : 24 * n + 24]) for n, day in enumerate(DAYS)]
    return []


def _day(at: int) -> str:
    return f"{clock.to_datetime(at):%Y-%m-%d}"


def _listing(one: packages.Shown) -> dict[str, Any]:
    terms = one.terms
    return {
        "id": one.row.pk,
        "provider": one.row.organization.name,
        "grade": one.row.grade_id,
        "from_date": _day(terms.starts_at),
        "last_date": _day(terms.ends_at - contract.DAY),
        "lots": pattern_text(terms.lots),
        "p1_lots": pattern_text(terms.p1_lots),
        "list_price": terms.list_price_ticks,
        "discounts": [
            {
                "days": days,
                "percent": percent,
                "price": rules.discounted(terms.list_price_ticks, percent),
            }
            for days, percent in terms.discounts
        ],
        "lowest_price": rules.discounted(
            terms.list_price_ticks, terms.discounts[-1][1] if terms.discounts else 0
        ),
        "units": terms.units,
        "free_units": one.free_units,
        "state": one.state,
        "is_open": one.state in ("OPEN", "SUSPENDED"),
        "is_suspended": one.state == "SUSPENDED",
    }


def _slice(row: models.PackageSlice) -> dict[str, Any]:
    return {
        "row": row,
        "lots": pattern_text(row.lots),
        "lot_hours": package_slices.lot_hours(row),
        "total": package_slices.total_micros(row),
        "fee": package_slices.fee_micros(row),
        "is_offered": row.state == models.PackageSlice.State.OFFERED,
    }


def _bought(rows: Iterable[settlement_models.Package]) -> list[dict[str, Any]]:
    found = list(rows)
    now = clock.now_micros()
    names = packages.names(party for row in found for party in (row.seller, row.holder))
    shown = []
    for row in found:
        left = packages.remaining(row, now=now)
        hours = packages.lot_hours(left)
        shown.append(
            {
                "row": row,
                "seller": names.get(row.seller, ""),
                "holder": names.get(row.holder, ""),
                "lots": pattern_text(left[0].lots) if left else "–",
                "lot_hours": hours,
                "value": rules.price_micros(price_ticks=row.price_ticks, lot_hours=hours),
                "is_over": not hours,
            }
        )
    return shown
