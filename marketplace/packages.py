"""Packages as rows: what providers list, what a term costs, and who has bought what.

A listing never changes: its terms are what a quote was made of, so what is confirmed costs what was
shown. A purchase is written with its instruction while the listing's row is locked, so two buyers
never get the same units; coverage, margin and money are the machine's to judge. What was bought
the engine writes (`settlement.models.Package`), and it is only read here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import QuerySet

from exchange import curve as forward
from marketplace import (
    clock,
    contract,
    errors,
    models,
    offers,
    operations,
    package_terms,
    queries,
)
from marketplace.package_terms import Terms
from settlement import instructions, packages
from settlement import models as settlement_models
from settlement import operations as settlement_operations

LISTINGS_PER_ORGANIZATION_MAX = 1_000
"""Open ones of a provider."""
State = models.PackageListing.State
Bought = models.PackagePurchase.State
CURVE_ABOVE_LIST = "curve_above_list_price"
"""Why a listing is suspended."""


class Withdrawn(errors.Refusal):
    """Nothing is sold of the listing any more."""

    code, status, title = "package_withdrawn", 422, "The package was withdrawn"


class UnitsUnavailable(errors.Refusal):
    """Not so many units are left."""

    code, status, title = "units_unavailable", 422, "Not so many units are left"


class ListingLimit(errors.Refusal):
    """The provider has as many open packages as it may have."""

    code, status, title = "package_limit", 422, "Too many packages"


class NotCovered(errors.Refusal):
    """More is offered than is certified."""

    code, status, title = "insufficient_coverage", 422, "More than is certified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A listing as it stands now."""

    row: models.PackageListing
    terms: Terms
    free_units: int
    """Left on every day that can still be bought."""
    state: str
    """`OPEN`, `SUSPENDED`, `WITHDRAWN` or `ENDED`."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A quote, and how much of the listing is left for its term."""

    quote: package_terms.Quote
    free_units: int


def offer(*, organization_id: int, grade: str, terms: Terms, now: int) -> models.PackageListing:
    """Write a listing in the caller's transaction.

    :raises NotAProvider: when the organization is none.
    :raises UnknownGrade: when no such grade is listed.
    :raises InvalidPackage: when the terms do not fit each other.
    :raises NotCertified: when no cluster is certified to the end of the span.
    :raises NotCovered: when all units together are more than is certified until then.
    :raises ListingLimit: when it has `LISTINGS_PER_ORGANIZATION_MAX` open ones.
    """
    assert connection.in_atomic_block, "a listing is noted with its idempotency record"
    if queries.organization(organization_id).role != models.Organization.Role.PROVIDER:
        raise offers.NotAProvider("only providers list packages")
    if not models.Grade.objects.filter(code=grade, is_listed=True).exists():
        raise offers.UnknownGrade(f"no grade {grade[:16]} is listed")
    package_terms.check(terms, now=now)
    certified = sum(
        queries.clusters(organization_id=organization_id)
        .filter(
            grade_id=grade,
            state=models.Cluster.State.CERTIFIED,
            certified_until__gte=clock.to_datetime(terms.ends_at),
        )
        .values_list("certified_lots", flat=True)
    )
    if not certified:
        raise offers.NotCertified("no cluster of the grade is certified to the end of the span")
    if terms.units * max(terms.lots) > certified:
        raise NotCovered(f"{certified} lots are certified to the end of the span")
    models.Organization.objects.select_for_update().get(pk=organization_id)
    own = models.PackageListing.objects.filter(organization_id=organization_id, state=State.OPEN)
    if own.filter(ends_at__gt=clock.to_datetime(now)).count() >= LISTINGS_PER_ORGANIZATION_MAX:
        raise ListingLimit(f"at most {LISTINGS_PER_ORGANIZATION_MAX} open packages")
    return models.PackageListing.objects.create(
        organization_id=organization_id,
        grade_id=grade,
        starts_at=clock.to_datetime(terms.starts_at),
        ends_at=clock.to_datetime(terms.ends_at),
        lots=list(terms.lots),
        p1_lots=list(terms.p1_lots),
        list_price_ticks=terms.list_price_ticks,
        discounts=[list(one) for one in terms.discounts],
        units=terms.units,
        state=State.OPEN,
        created_at=clock.to_datetime(now),
    )


def listing(listing_id: int) -> models.PackageListing:
    """Return a listing, whoever's it is.

    :raises NotFound: when there is none.
    """
    found = (
        models.PackageListing.objects.filter(pk=listing_id).select_related("organization").first()
    )
    if found is None:
        raise errors.NotFound()
    return found


def own_listing(*, organization_id: int, listing_id: int) -> models.PackageListing:
    """Return a listing of the organization's.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = listing(listing_id)
    if found.organization_id != organization_id:
        raise errors.NotFound()
    return found


def listings(
    *, now: int, grade: str = "", provider: int | None = None
) -> QuerySet[models.PackageListing]:
    """Return what is offered, the newest first; of one provider, all it ever listed."""
    rows = models.PackageListing.objects.select_related("organization").order_by("-id")
    if grade:
        rows = rows.filter(grade_id=grade)
    if provider is not None:
        return rows.filter(organization_id=provider)
    first = clock.to_datetime(first_day(now))
    return rows.filter(state=State.OPEN, ends_at__gt=first)


def first_day(now: int) -> int:
    """Return the first day of which a package can still be bought."""
    day = contract.day_start(now) + contract.DAY
    return day if now < packages.sold_until(day) else day + contract.DAY


def withdraw(row: models.PackageListing) -> models.PackageListing:
    """Sell nothing more of a listing; what was bought of it stays."""
    models.PackageListing.objects.filter(pk=row.pk, state=State.OPEN).update(
        state=State.WITHDRAWN, reason="requested", ended_at=clock.now()
    )
    row.refresh_from_db()
    return row


def terms_of(row: models.PackageListing) -> Terms:
    """Return what a listing offers."""
    return Terms(
        starts_at=clock.to_micros(row.starts_at),
        ends_at=clock.to_micros(row.ends_at),
        lots=tuple(row.lots),
        p1_lots=tuple(row.p1_lots),
        list_price_ticks=row.list_price_ticks,
        discounts=tuple((days, percent) for days, percent in row.discounts),
        units=row.units,
    )


def shown(rows: Sequence[models.PackageListing], *, now: int) -> list[Shown]:
    """Return listings as they stand now, in the order given."""
    curves = {grade: _segments(grade) for grade in {row.grade_id for row in rows}}
    sold = _sold([row.pk for row in rows])
    found = []
    for row in rows:
        terms = terms_of(row)
        starts_at = max(terms.starts_at, first_day(now))
        state, reason, free = str(row.state), row.reason, 0
        if starts_at >= terms.ends_at:
            state = "WITHDRAWN" if state == State.WITHDRAWN else "ENDED"
        elif state == State.OPEN:
            free = package_terms.free_units(
                terms.units, sold.get(row.pk, ()), starts_at=starts_at, ends_at=terms.ends_at
            )
            quote = _quote(terms, curves[row.grade_id], starts_at, terms.ends_at, 1)
            if quote.is_suspended:
                state, reason = "SUSPENDED", CURVE_ABOVE_LIST
        found.append(Shown(row=row, terms=terms, free_units=free, state=state, reason=reason))
    return found


def quoted(
    row: models.PackageListing, *, starts_at: int, ends_at: int, units: int, now: int
) -> Offered:
    """Return what a term of some units would cost now, and how many are left for it.

    :raises Withdrawn: when nothing is sold of the listing any more.
    :raises InvalidPackage: when it does not offer the term.
    :raises TermPassed: when the term can no longer be bought.
    """
    terms = terms_of(row)
    if row.state != State.OPEN:
        raise Withdrawn("nothing of it is sold any more")
    package_terms.check_term(terms, starts_at=starts_at, ends_at=ends_at, units=units, now=now)
    sold = _sold([row.pk]).get(row.pk, [])
    return Offered(
        quote=_quote(terms, _segments(row.grade_id), starts_at, ends_at, units),
        free_units=package_terms.free_units(
            terms.units, sold, starts_at=starts_at, ends_at=ends_at
        ),
    )


def buy(
    *, organization_id: int, listing_id: int, starts_at: int, ends_at: int, units: int, now: int
) -> models.PackagePurchase:
    """Write a purchase and its instruction in the caller's transaction.

    :raises NotFound: when there is no such listing.
    :raises Withdrawn: when nothing is sold of it any more.
    :raises InvalidPackage: when it does not offer the term.
    :raises TermPassed: when the term can no longer be bought.
    :raises UnitsUnavailable: when not so many units are left on every day of it.
    """
    assert connection.in_atomic_block, "a purchase is noted with its idempotency record"
    row = models.PackageListing.objects.select_for_update().filter(pk=listing_id).first()
    if row is None:
        raise errors.NotFound()
    _learn(row.pk)
    offered = quoted(row, starts_at=starts_at, ends_at=ends_at, units=units, now=now)
    if units > offered.free_units:
        raise UnitsUnavailable(f"{offered.free_units} units are left on every day of the term")
    quote, terms = offered.quote, terms_of(row)
    made = models.PackagePurchase.objects.create(
        listing=row,
        organization_id=organization_id,
        starts_at=clock.to_datetime(starts_at),
        ends_at=clock.to_datetime(ends_at),
        units=units,
        percent=quote.percent,
        price_ticks=quote.price_ticks,
        total_micros=quote.total_micros,
        state=Bought.PENDING,
        created_at=clock.to_datetime(now),
    )
    settlement_operations.instruct(
        id=made.instruction,
        command=instructions.BuyPackage(
            listing=row.pk,
            seller=row.organization_id,
            buyer=organization_id,
            grade=row.grade_id,
            starts_at=starts_at,
            ends_at=ends_at,
            lots=package_terms.scaled(terms.lots, units),
            p1_lots=package_terms.scaled(terms.p1_lots, units),
            price_ticks=quote.price_ticks,
            list_price_ticks=terms.list_price_ticks,
        ),
    )
    return made


def finish(purchase_id: int) -> settlement_models.Package:
    """Return the package of a purchase once the machine has taken it.

    :raises Refusal: with the machine's reason as its code.
    :raises OutcomeUnknown: when it did not take it in time; it will.
    """
    row = models.PackagePurchase.objects.get(pk=purchase_id)
    try:
        operations.accepted(row.instruction)
    finally:
        _learn(row.listing_id)
    return settlement_models.Package.objects.get(instruction=row.instruction)


def held(organization_id: int) -> QuerySet[settlement_models.Package]:
    """Return the packages that an organization has, or had, the newest first."""
    return settlement_models.Package.objects.filter(holder=organization_id).order_by("-id")


def sold(organization_id: int) -> QuerySet[settlement_models.Package]:
    """Return the packages that an organization delivers, or has delivered, the newest first."""
    return settlement_models.Package.objects.filter(seller=organization_id).order_by("-id")


def package_of(*, organization_id: int, package_id: int) -> settlement_models.Package:
    """Return a package that the organization holds.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = held(organization_id).filter(pk=package_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def remaining(row: settlement_models.Package, *, now: int) -> list[packages.Stretch]:
    """Return what a package has in hours whose gate is still open, cut to these hours."""
    first = first_open_hour(now)
    found = []
    for starts_at, ends_at, lots, p1_lots in row.schedule:
        begins = max(starts_at, first)
        if begins < ends_at:
            found.append(packages.Stretch(begins, ends_at, tuple(lots), tuple(p1_lots)))
    return found


def lot_hours(stretches: Iterable[packages.Stretch]) -> int:
    """Return the lots of stretches, summed over their hours."""
    return sum(package_terms.lot_hours(one.lots, one.starts_at, one.ends_at) for one in stretches)


def first_open_hour(now: int) -> int:
    """Return the start of the first hour whose gate is not closed yet."""
    return contract.hour_start(now + contract.GATE_CLOSURE_LEAD) + contract.HOUR


def names(ids: Iterable[int]) -> dict[int, str]:
    """Return the names of organizations."""
    rows = models.Organization.objects.filter(pk__in=set(ids))
    return dict(rows.values_list("pk", "name"))


def _learn(listing_id: int) -> None:
    """Note what the machine has said of purchases whose buyer did not wait for it."""
    pending = {
        row.instruction: row
        for row in models.PackagePurchase.objects.filter(
            listing_id=listing_id, state=Bought.PENDING
        )
    }
    outcomes = settlement_models.Instruction.objects.filter(pk__in=list(pending)).exclude(
        state=settlement_models.Instruction.State.PENDING
    )
    for outcome in outcomes:
        is_applied = outcome.state == settlement_models.Instruction.State.APPLIED
        models.PackagePurchase.objects.filter(
            pk=pending[outcome.pk].pk, state=Bought.PENDING
        ).update(state=Bought.BOUGHT if is_applied else Bought.REFUSED, reason=outcome.reason[:40])


def _sold(listing_ids: Sequence[int]) -> dict[int, list[tuple[int, int, int]]]:
    """Return (start, end, units) of what was bought, or may yet be, of each listing."""
    rows = models.PackagePurchase.objects.filter(listing_id__in=listing_ids).exclude(
        state=Bought.REFUSED
    )
    found: dict[int, list[tuple[int, int, int]]] = {}
    for row in rows.order_by("id"):
        found.setdefault(row.listing_id, []).append(
            (clock.to_micros(row.starts_at), clock.to_micros(row.ends_at), row.units)
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Marks of a grade by hour, and the price of hours that nothing listed covers."""

    segments: tuple[tuple[int, int, int], ...]
    otherwise: int


def _segments(grade: str) -> _Curve:
    found = forward.of_grade(grade)
    return _Curve(
        segments=tuple((one.starts_at, one.ends_at, one.price) for one in found.segments),
        otherwise=found.list_price,
    )


def _quote(
    terms: Terms, curve: _Curve, starts_at: int, ends_at: int, units: int
) -> package_terms.Quote:
    spans = package_terms.spans(
        curve.segments, starts_at=starts_at, ends_at=ends_at, otherwise=curve.otherwise
    )
    return package_terms.quote(terms, spans, starts_at=starts_at, ends_at=ends_at, units=units)
