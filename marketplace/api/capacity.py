"""Selling capacity: register a cluster, have it certified, list its lots."""

from typing import Annotated, Any, Literal

import msgspec

from admission import operations as admission_operations
from admission import queries as admission_queries
from exchange import intake, reasons
from marketplace import contract, errors, idempotency, models, offers, queries, text, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict


class ClusterOut(Answer):
    """A cluster. `pool` is the name under which its performance is published."""

    id: str
    name: str
    grade: str
    pool: str
    accelerator: str
    tensor_parallel: int
    replicas: int
    is_modelled: bool
    endpoint: str
    state: str
    certified_lots: int
    certified_until: str | None
    created_at: str


class ListClusters(Endpoint):
    """The organization's clusters, the oldest first."""

    scope = "read"
    tag = "capacity"
    Item = ClusterOut
    Output = Listed[ClusterOut]

    def handle(self, call: Call) -> Listed[ClusterOut]:
        """Answer."""
        rows = queries.clusters(organization_id=call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__gt=after)
        return call.page.page(rows[: call.page.fetch], cluster_out, position=lambda row: [row.pk])


class RegisterCluster(Endpoint):
    """Register a cluster that serves one grade.

    Without an `endpoint` the cluster is modelled: requests are served by the cluster model at the
    speed that the accelerators named would have. With one, it is an OpenAI-compatible base URL up
    to and with `/v1`, which the exchange must be allowed to call.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_a_provider",
        "unknown_grade",
        "cluster_limit",
        "unknown_accelerator",
        "unsupported_tensor_parallel",
        "model_does_not_fit",
        "endpoint_not_allowed",
    )
    Output = ClusterOut

    class Input(Strict):
        """What it is made of and where it answers."""

        name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
        grade: Annotated[str, msgspec.Meta(min_length=2, max_length=16)]
        accelerator: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
        tensor_parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
        replicas: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
        endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        name = text.parse_name(given.name)

        def effect() -> str:
            cluster = offers.register_cluster(
                organization_id=call.organization,
                grade=given.grade,
                name=name,
                accelerator=given.accelerator,
                tensor_parallel=given.tensor_parallel,
                replicas=given.replicas,
                endpoint=given.endpoint,
            )
            return str(cluster.pk)

        def finish(reference: str) -> tuple[int, ClusterOut]:
            cluster = queries.cluster(organization_id=call.organization, cluster_id=int(reference))
            return 201, cluster_out(cluster)

        return idempotency.once(call, effect=effect, finish=finish)


class ShowCluster(Endpoint):
    """One cluster."""

    scope = "read"
    tag = "capacity"
    Output = ClusterOut

    def handle(self, call: Call, cluster_id: str) -> ClusterOut:
        """Answer."""
        return cluster_out(
            queries.cluster(organization_id=call.organization, cluster_id=wire.parse_id(cluster_id))
        )


class CertificationOut(Answer):
    """A search for the rate that a cluster may sell; `progress` is in percent."""

    id: str
    cluster: str
    state: str
    progress: int
    lots: int | None
    report: dict[str, Any]
    created_at: str
    finished_at: str | None


class CertifyCluster(Endpoint):
    """Begin to certify a cluster; the answer names the certification to look at."""

    method = "POST"
    scope = "trade"
    status = 202
    tag = "capacity"
    is_idempotent = True
    codes = ("certification_running", "cluster_down")
    Output = CertificationOut

    def handle(self, call: Call, cluster_id: str) -> Replayable:
        """Answer."""
        cluster = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(cluster_id)
        )

        def effect() -> str:
            return str(admission_operations.request_certification(cluster_id=cluster.pk).pk)

        def finish(reference: str) -> tuple[int, CertificationOut]:
            return 202, _certification(cluster.pk, int(reference))

        return idempotency.once(call, effect=effect, finish=finish)


class ShowCertification(Endpoint):
    """How far a certification is and, when it is done, its report."""

    scope = "read"
    tag = "capacity"
    Output = CertificationOut

    def handle(self, call: Call, cluster_id: str, certification_id: str) -> CertificationOut:
        """Answer."""
        cluster = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(cluster_id)
        )
        return _certification(cluster.pk, wire.parse_id(certification_id))


class ListingOut(Answer):
    """An offer of a cluster's lots in an instrument, and the order by which it is offered."""

    id: str
    cluster: str
    instrument: str
    price: str
    quantity: int
    filled_quantity: int
    state: str
    order_id: str | None
    created_at: str


class ListListings(Endpoint):
    """The organization's listings, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = ListingOut
    Output = Listed[ListingOut]

    def handle(self, call: Call) -> Listed[ListingOut]:
        """Answer."""
        rows = queries.listings(organization_id=call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            offers.with_orders(list(rows[: call.page.fetch])),
            listing_out,
            position=lambda offer: [offer.listing.pk],
        )


class ListCapacity(Endpoint):
    """Offer lots of a certified cluster: the listing places the sell order that offers them."""

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_found",
        "cluster_not_certified",
        "other_grade",
        *reasons.Reject,
        "engine_unavailable",
    )
    Output = ListingOut

    class Input(Strict):
        """What is offered at which price."""

        cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
        instrument: intake.Symbol
        price: wire.PriceText
        quantity: wire.LotsNumber
        time_in_force: Literal["gtc"] = "gtc"

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        price_ticks = wire.parse_price(given.price)
        lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
        cluster = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(given.cluster)
        )
        if not models.Instrument.objects.filter(symbol=given.instrument).exists():
            raise errors.NotFound()

        def effect() -> str:
            listing = offers.write_listing(
                cluster=cluster, symbol=given.instrument, price_ticks=price_ticks, lots=lots
            )
            return str(listing.pk)

        def finish(reference: str) -> tuple[int, ListingOut]:
            return 201, listing_out(offers.place_listing(int(reference)))

        return idempotency.once(call, effect=effect, finish=finish)


class WithdrawListing(Endpoint):
    """Withdraw a listing: what is not sold yet is canceled."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    Output = ListingOut

    def handle(self, call: Call, listing_id: str) -> ListingOut:
        """Answer."""
        listing = queries.listing(
            organization_id=call.organization, listing_id=wire.parse_id(listing_id)
        )
        return listing_out(offers.withdraw_listing(listing))


def cluster_out(row: models.Cluster) -> ClusterOut:
    """Return what its owner sees of a cluster."""
    return ClusterOut(
        id=str(row.pk),
        name=row.name,
        grade=row.grade_id,
        pool=str(row.public_id),
        accelerator=row.accelerator,
        tensor_parallel=row.tensor_parallel,
        replicas=row.replicas,
        is_modelled=row.is_modelled,
        endpoint=row.endpoint,
        state=row.state.lower(),
        certified_lots=row.certified_lots,
        certified_until=wire.optional_moment_text(row.certified_until),
        created_at=wire.moment_text(row.created_at),
    )


def listing_out(offer: offers.Offer) -> ListingOut:
    """Return what its owner sees of a listing."""
    listing = offer.listing
    return ListingOut(
        id=str(listing.pk),
        cluster=str(listing.cluster_id),
        instrument=listing.symbol,
        price=wire.price_text(listing.price_ticks),
        quantity=listing.lots,
        filled_quantity=offer.filled_lots,
        state=offer.state.lower(),
        order_id=None if listing.order is None else str(listing.order),
        created_at=wire.moment_text(listing.created_at),
    )


def _certification(cluster_id: int, certification_id: int) -> CertificationOut:
    """:raises NotFound: when the cluster has no such certification."""
    row = admission_queries.certification(certification_id, cluster_id=cluster_id)
    if row is None:
        raise errors.NotFound()
    return CertificationOut(
        id=str(row.pk),
        cluster=str(row.cluster),
        state=row.state.lower(),
        progress=row.progress,
        lots=row.lots,
        report=row.report,
        created_at=wire.moment_text(row.created_at),
        finished_at=wire.optional_moment_text(row.finished_at),
    )
