"""Packages over REST: listed, quoted, bought, and what is held and sold."""

import re
from typing import Annotated

import msgspec

from marketplace import clock, contract, errors, idempotency, models, package_terms, packages, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict
from settlement import models as settlement_models
from settlement import packages as rules

DateText = Annotated[
    str,
    wire.described(
        "2026-12-05",
        format="date",
        pattern=r"^20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])$",
    ),
]
"""A UTC day; the pattern leaves out the last of a month, which are taken too."""
Lots = Annotated[int, msgspec.Meta(ge=0, le=contract.LOTS_MAX)]
Pattern = Annotated[list[Lots], msgspec.Meta(min_length=1, max_length=168)]
Units = Annotated[int, msgspec.Meta(ge=1, le=package_terms.UNITS_MAX)]
_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)


class Discount(Strict):
    """Taken off the list price of a term of at least so many days."""

    days: Annotated[int, msgspec.Meta(ge=1, le=rules.TERM_DAYS_MAX)]
    percent: Annotated[int, msgspec.Meta(ge=1, le=rules.DISCOUNT_PERCENT_MAX)]


class DiscountOut(Answer):
    """Taken off the list price of a term of at least so many days."""

    days: int
    percent: int


class PackageOut(Answer):
    """What a provider offers; `quantity` and `available` are units of its `lots`."""

    id: str
    provider: str
    provider_name: str
    grade: str
    from_date: str
    to_date: str
    lots: list[int]
    p1_lots: list[int]
    list_price: str
    discounts: list[DiscountOut]
    quantity: int
    available: int
    state: Annotated[str, wire.one_of("open", "suspended", "withdrawn", "ended")]
    reason: str | None
    created_at: str


class ListPackages(Endpoint):
    """Packages on offer, the newest first; with `provider`, all that it ever listed.

    `available` is what is left on every day that can still be bought; of a shorter term there may
    be more. `suspended` stands while the forward curve is more than 10 % above the list price.
    """

    tag = "market"
    Item = PackageOut
    Output = Listed[PackageOut]

    class Query(Strict):
        """Which of them."""

        grade: str = ""
        provider: str = ""

    def handle(self, call: Call) -> Listed[PackageOut]:
        """Answer."""
        now = clock.now_micros()
        given: ListPackages.Query = call.query
        provider = wire.parse_id(given.provider) if given.provider else None
        rows = packages.listings(now=now, grade=given.grade, provider=provider)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            packages.shown(list(rows[: call.page.fetch]), now=now),
            package_out,
            position=lambda one: [one.row.pk],
        )


class OfferPackage(Endpoint):
    """List a package: hourly lots over a span of days, at a list price with discounts by term.

    `lots` are one number for every hour, 24 for the hours of the day, or 168 for those of the week
    from Monday 00:00, UTC; `p1_lots`, of the same length, are those of them that are served as P1.
    Days are half open: `to_date` is the first that is not offered. A term of `days` or more has the
    discount of the last entry that it reaches; days and percent both rise. `quantity` is how often
    the schedule may be sold on one day. A cluster has to be certified to the end of the span.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_a_provider",
        "unknown_grade",
        "invalid_package",
        "cluster_not_certified",
        "insufficient_coverage",
        "package_limit",
    )
    Output = PackageOut

    class Input(Strict):
        """What is offered."""

        grade: Annotated[str, msgspec.Meta(min_length=2, max_length=16)]
        from_date: DateText
        to_date: DateText
        lots: Pattern
        list_price: wire.PriceText
        p1_lots: Annotated[list[Lots], msgspec.Meta(max_length=168)] = []
        discounts: Annotated[
            list[Discount], msgspec.Meta(max_length=package_terms.DISCOUNTS_MAX)
        ] = []
        quantity: Units = 1

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        terms = package_terms.Terms(
            starts_at=parse_date(given.from_date, "from_date"),
            ends_at=parse_date(given.to_date, "to_date"),
            lots=tuple(given.lots),
            p1_lots=tuple(given.p1_lots),
            list_price_ticks=wire.parse_price(given.list_price, "list_price"),
            discounts=tuple((one.days, one.percent) for one in given.discounts),
            units=given.quantity,
        )

        def effect() -> str:
            return str(
                packages.offer(
                    organization_id=call.organization,
                    grade=given.grade,
                    terms=terms,
                    now=clock.now_micros(),
                ).pk
            )

        def finish(reference: str) -> tuple[int, PackageOut]:
            return 201, listing_out(packages.listing(int(reference)))

        return idempotency.once(call, effect=effect, finish=finish)


class ShowPackage(Endpoint):
    """One package that is, or was, on offer."""

    tag = "market"
    Output = PackageOut

    def handle(self, call: Call, offer_id: str) -> PackageOut:
        """Answer."""
        return listing_out(packages.listing(wire.parse_id(offer_id)))


class WithdrawPackage(Endpoint):
    """Sell nothing more of a package; what was bought of it is delivered."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    Output = PackageOut

    def handle(self, call: Call, offer_id: str) -> PackageOut:
        """Answer."""
        row = packages.own_listing(
            organization_id=call.organization, listing_id=wire.parse_id(offer_id)
        )
        return listing_out(packages.withdraw(row))


class Term(Strict):
    """Whole days of a package, and how many units."""

    from_date: DateText
    to_date: DateText
    quantity: Units = 1


class QuotePackage(Endpoint):
    """Say what a term of a package costs now; nothing is bought.

    `total` is what would be paid into escrow. `list_total` is the same at the list price, and
    `curve_total` hour by hour at the forward curve's marks (the grade's reference price where
    nothing is listed); what is saved against them may be below zero.
    """

    method = "POST"
    scope = "read"
    tag = "capacity"
    codes = ("invalid_package", "deadline_passed", "package_withdrawn")
    Input = Term

    class Output(Answer):
        """What it costs, and what else it could."""

        from_date: str
        to_date: str
        days: int
        quantity: int
        available: int
        lot_hours: int
        list_price: str
        discount_percent: int
        price: str
        total: str
        list_total: str
        curve_price: str
        curve_total: str
        saved_against_list: str
        saved_against_curve: str
        is_suspended: bool

    def handle(self, call: Call, given: Term, offer_id: str) -> Output:
        """Answer."""
        starts_at, ends_at = term_of(given)
        offered = packages.quoted(
            packages.listing(wire.parse_id(offer_id)),
            starts_at=starts_at,
            ends_at=ends_at,
            units=given.quantity,
            now=clock.now_micros(),
        )
        quote = offered.quote
        return self.Output(
            from_date=date_text(quote.starts_at),
            to_date=date_text(quote.ends_at),
            days=quote.days,
            quantity=quote.units,
            available=offered.free_units,
            lot_hours=quote.lot_hours,
            list_price=wire.price_text(quote.list_price_ticks),
            discount_percent=quote.percent,
            price=wire.price_text(quote.price_ticks),
            total=wire.micros_text(quote.total_micros),
            list_total=wire.micros_text(quote.list_total_micros),
            curve_price=wire.price_text(quote.curve_price_ticks),
            curve_total=wire.micros_text(quote.curve_total_micros),
            saved_against_list=wire.micros_text(quote.saves_against_list_micros),
            saved_against_curve=wire.micros_text(quote.saves_against_curve_micros),
            is_suspended=quote.is_suspended,
        )


class Span(Answer):
    """Hours in which a package has lots by the same pattern."""

    starts_at: str
    ends_at: str
    lots: list[int]
    p1_lots: list[int]


class BoughtPackageOut(Answer):
    """A package that was bought; `remaining` is what it has in hours whose gate is open."""

    id: str
    package: str
    parent: str | None
    provider: str
    provider_name: str
    holder: str
    holder_name: str
    grade: str
    starts_at: str
    ends_at: str
    price: str
    list_price: str
    remaining: list[Span]
    remaining_lot_hours: int
    remaining_value: str
    bought_at: str


class BuyPackage(Endpoint):
    """Buy a term of a package: its whole price goes into escrow, and from there to who delivers.

    A term is whole days inside the package's own, bought until 11:30 UTC on the day before it
    starts. What costs what is said by `quote`; a package does not change. The schedule that was
    bought is delivered hour by hour, at its own price; it is never marked.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_found",
        "invalid_package",
        "deadline_passed",
        "package_withdrawn",
        "units_unavailable",
        "killed",
        "own_group",
        "account_in_debt",
        "seller_unavailable",
        "listing_suspended",
        "insufficient_coverage",
        "position_limit",
        "insufficient_funds",
    )
    Input = Term
    Output = BoughtPackageOut

    def handle(self, call: Call, given: Term, offer_id: str) -> Replayable:
        """Answer."""
        starts_at, ends_at = term_of(given)
        listing_id = packages.listing(wire.parse_id(offer_id)).pk

        def effect() -> str:
            return str(
                packages.buy(
                    organization_id=call.organization,
                    listing_id=listing_id,
                    starts_at=starts_at,
                    ends_at=ends_at,
                    units=given.quantity,
                    now=clock.now_micros(),
                ).pk
            )

        def finish(reference: str) -> tuple[int, BoughtPackageOut]:
            return 201, bought_out([packages.finish(int(reference))])[0]

        return idempotency.once(call, effect=effect, finish=finish)


class ListBoughtPackages(Endpoint):
    """Packages that the organization holds or held, the newest first.

    `package` is the listing that it was bought of, `parent` the bought package that it was cut from
    (null: none).
    """

    scope = "read"
    tag = "capacity"
    Item = BoughtPackageOut
    Output = Listed[BoughtPackageOut]

    def handle(self, call: Call) -> Listed[BoughtPackageOut]:
        """Answer."""
        rows = packages.held(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            bought_out(list(rows[: call.page.fetch])),
            lambda one: one,
            position=lambda one: [int(one.id)],
        )


class ShowBoughtPackage(Endpoint):
    """One package that the organization holds or held."""

    scope = "read"
    tag = "capacity"
    Output = BoughtPackageOut

    def handle(self, call: Call, bought_id: str) -> BoughtPackageOut:
        """Answer."""
        row = packages.package_of(
            organization_id=call.organization, package_id=wire.parse_id(bought_id)
        )
        return bought_out([row])[0]


class ListSoldPackages(Endpoint):
    """Packages that the organization delivers or has delivered, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = BoughtPackageOut
    Output = Listed[BoughtPackageOut]

    def handle(self, call: Call) -> Listed[BoughtPackageOut]:
        """Answer."""
        rows = packages.sold(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            bought_out(list(rows[: call.page.fetch])),
            lambda one: one,
            position=lambda one: [int(one.id)],
        )


def term_of(given: Term) -> tuple[int, int]:
    """Return the instants of a term.

    :raises Malformed: when one of its days is none.
    """
    return parse_date(given.from_date, "from_date"), parse_date(given.to_date, "to_date")


def parse_date(text: str, field: str) -> int:
    """Return 00:00 UTC of a day written `2026-12-05`.

    :raises Malformed: `invalid_date`.
    """
    if _DATE.match(text) is None:
        raise wire.invalid(field, "invalid_date", "a day is written 2026-12-05")
    try:
        return wire.parse_time(f"{text}T00:00:00Z", field)
    except errors.Malformed:
        raise wire.invalid(field, "invalid_date", "a day is written 2026-12-05") from None


def date_text(at: int) -> str:
    """Print the UTC day of an instant: `2026-12-05`."""
    return f"{clock.to_datetime(at):%Y-%m-%d}"


def listing_out(row: models.PackageListing) -> PackageOut:
    """Return what everybody sees of a listing."""
    return package_out(packages.shown([row], now=clock.now_micros())[0])


def package_out(one: packages.Shown) -> PackageOut:
    """Return what everybody sees of a listing as it stands."""
    terms = one.terms
    return PackageOut(
        id=str(one.row.pk),
        provider=str(one.row.organization_id),
        provider_name=one.row.organization.name,
        grade=one.row.grade_id,
        from_date=date_text(terms.starts_at),
        to_date=date_text(terms.ends_at),
        lots=list(terms.lots),
        p1_lots=list(terms.p1_lots),
        list_price=wire.price_text(terms.list_price_ticks),
        discounts=[DiscountOut(days=days, percent=off) for days, off in terms.discounts],
        quantity=terms.units,
        available=one.free_units,
        state=one.state.lower(),
        reason=one.reason or None,
        created_at=wire.moment_text(one.row.created_at),
    )


def bought_out(rows: list[settlement_models.Package]) -> list[BoughtPackageOut]:
    """Return what both parties see of packages."""
    now = clock.now_micros()
    names = packages.names(party for row in rows for party in (row.seller, row.holder))
    found = []
    for row in rows:
        left = packages.remaining(row, now=now)
        hours = packages.lot_hours(left)
        value = rules.price_micros(price_ticks=row.price_ticks, lot_hours=hours)
        found.append(
            BoughtPackageOut(
                id=str(row.pk),
                package=str(row.listing),
                parent=str(row.parent) if row.parent else None,
                provider=str(row.seller),
                provider_name=names.get(row.seller, ""),
                holder=str(row.holder),
                holder_name=names.get(row.holder, ""),
                grade=row.grade,
                starts_at=wire.moment_text(row.starts_at),
                ends_at=wire.moment_text(row.ends_at),
                price=wire.price_text(row.price_ticks),
                list_price=wire.price_text(row.list_price_ticks),
                remaining=[
                    Span(
                        starts_at=wire.time_text(one.starts_at),
                        ends_at=wire.time_text(one.ends_at),
                        lots=list(one.lots),
                        p1_lots=list(one.p1_lots),
                    )
                    for one in left
                ],
                remaining_lot_hours=hours,
                remaining_value=wire.micros_text(value),
                bought_at=wire.moment_text(row.bought_at),
            )
        )
    return found
