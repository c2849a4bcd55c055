"""Slices of packages over REST: offered by their holder, bought by who wants them."""

from typing import Annotated

import msgspec
from django.db import transaction

from marketplace import clock, idempotency, models, package_slices, wire
from marketplace.api import packages as api
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict


class SliceOut(Answer):
    """A slice that is, or was, offered; `buyer` may alone buy it (null: anybody)."""

    id: str
    holder: str
    holder_name: str
    buyer: str | None
    grade: str
    starts_at: str
    ends_at: str
    lots: list[int]
    p1_lots: list[int]
    lot_hours: int
    price: str
    total: str
    fee: str
    state: Annotated[str, wire.one_of("offered", "pending", "sold", "withdrawn")]
    reason: str | None
    created_at: str
    ended_at: str | None


class ResellPackage(Endpoint):
    """Offer a slice of a bought package, to everybody or to one organization.

    `lots` of each hour of `[starts_at, ends_at)`, full hours whose gates are open, are written as
    those of a package and may be at most what it has. Whoever buys the slice pays `total` to the
    holder, and has its lots paid for; the holder pays `fee` of it. The escrow, and the price that
    is refunded where nothing is delivered, stay those of the package.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = ("not_found", "invalid_package", "deadline_passed", "exceeds_package")
    Output = SliceOut

    class Input(Strict):
        """What is sold on, and at which price of a lot-hour."""

        starts_at: wire.TimeText
        ends_at: wire.TimeText
        lots: api.Pattern
        price: wire.PriceText
        p1_lots: Annotated[list[api.Lots], msgspec.Meta(max_length=168)] = []
        buyer: Annotated[str, msgspec.Meta(min_length=1, max_length=19)] | None = None

    def handle(self, call: Call, given: Input, bought_id: str) -> Replayable:
        """Answer."""
        starts_at = wire.parse_time(given.starts_at, "starts_at")
        ends_at = wire.parse_time(given.ends_at, "ends_at")
        price = wire.parse_price(given.price)
        package_id = wire.parse_id(bought_id)
        buyer = None if given.buyer is None else wire.parse_id(given.buyer)

        def effect() -> str:
            return str(
                package_slices.offer(
                    organization_id=call.organization,
                    package_id=package_id,
                    starts_at=starts_at,
                    ends_at=ends_at,
                    lots=tuple(given.lots),
                    p1_lots=tuple(given.p1_lots),
                    price_ticks=price,
                    buyer_id=buyer,
                    now=clock.now_micros(),
                ).pk
            )

        def finish(reference: str) -> tuple[int, SliceOut]:
            return 201, slice_out(
                package_slices.own_slice(organization_id=call.organization, slice_id=int(reference))
            )

        return idempotency.once(call, effect=effect, finish=finish)


class ListSlices(Endpoint):
    """Slices of others' packages that the organization can buy now, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = SliceOut
    Output = Listed[SliceOut]

    class Query(Strict):
        """Which of them."""

        grade: str = ""

    def handle(self, call: Call) -> Listed[SliceOut]:
        """Answer."""
        rows = package_slices.offered_to(
            call.organization, now=clock.now_micros(), grade=call.query.grade
        )
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(rows[: call.page.fetch], slice_out, position=lambda row: [row.pk])


class ListOwnSlices(Endpoint):
    """Slices that the organization has offered, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = SliceOut
    Output = Listed[SliceOut]

    def handle(self, call: Call) -> Listed[SliceOut]:
        """Answer."""
        rows = package_slices.own(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(rows[: call.page.fetch], slice_out, position=lambda row: [row.pk])


class WithdrawSlice(Endpoint):
    """Take a slice back that nobody has bought."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    codes = ("slice_gone",)
    Output = SliceOut

    def handle(self, call: Call, slice_id: str) -> SliceOut:
        """Answer."""
        row = package_slices.own_slice(
            organization_id=call.organization, slice_id=wire.parse_id(slice_id)
        )
        with transaction.atomic():
            package_slices.withdraw(row)
        row.refresh_from_db()
        return slice_out(row)


class BuySlice(Endpoint):
    """Buy a slice: its `total` goes to its holder at once, and its lots become a package."""

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_found",
        "slice_gone",
        "killed",
        "own_group",
        "account_in_debt",
        "deadline_passed",
        "package_unknown",
        "exceeds_package",
        "position_limit",
        "insufficient_funds",
    )
    Output = api.BoughtPackageOut

    def handle(self, call: Call, offered_slice_id: str) -> Replayable:
        """Answer."""
        slice_id = wire.parse_id(offered_slice_id)

        def effect() -> str:
            return package_slices.take(
                organization_id=call.organization, slice_id=slice_id
            ).instruction

        def finish(reference: str) -> tuple[int, api.BoughtPackageOut]:
            return 201, api.bought_out([package_slices.finish(reference)])[0]

        return idempotency.once(call, effect=effect, finish=finish)


def slice_out(row: models.PackageSlice) -> SliceOut:
    """Return what those see of a slice who may buy it."""
    return SliceOut(
        id=str(row.pk),
        holder=str(row.organization_id),
        holder_name=row.organization.name,
        buyer=None if row.buyer_id is None else str(row.buyer_id),
        grade=row.grade_id,
        starts_at=wire.moment_text(row.starts_at),
        ends_at=wire.moment_text(row.ends_at),
        lots=row.lots,
        p1_lots=row.p1_lots,
        lot_hours=package_slices.lot_hours(row),
        price=wire.price_text(row.price_ticks),
        total=wire.micros_text(package_slices.total_micros(row)),
        fee=wire.micros_text(package_slices.fee_micros(row)),
        state=row.state.lower(),
        reason=row.reason or None,
        created_at=wire.moment_text(row.created_at),
        ended_at=wire.optional_moment_text(row.ended_at),
    )
