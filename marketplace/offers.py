"""Offering capacity: a cluster is registered, certified, and its lots are listed.

A listing is the provider's verified offer; what makes it binding is the sell order that it places
through the fast door. The row is written first and the order carries the row's id as its client
order id, so a listing whose answer was lost finds its order again instead of placing a second one.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from admission import operations as admission_operations
from exchange import models as exchange_models
from exchange import operations as exchange_operations
from exchange import queries as exchange_queries
from marketplace import clock, contract, errors, models, queries

CLUSTERS_PER_ORGANIZATION_MAX = 1_000
PENDING = "PENDING"
"""A listing whose order is not in the book yet: its placing was not answered."""
_ENDED = ("FILLED", "CANCELED", "EXPIRED", "REJECTED")


class NotAProvider(errors.Forbidden):
    """Only providers offer capacity."""

    code, title = "not_a_provider", "Not a provider"


class UnknownGrade(errors.Refusal):
    """No such grade is listed."""

    code, status, title = "unknown_grade", 422, "Unknown grade"


class ClusterLimit(errors.Refusal):
    """The organization has as many clusters as it may have."""

    code, status, title = "cluster_limit", 422, "Too many clusters"


class NotCertified(errors.Refusal):
    """Nothing of the cluster may be sold in that hour."""

    code, status, title = "cluster_not_certified", 422, "Cluster is not certified"


class OtherGrade(errors.Refusal):
    """The cluster serves another grade than the instrument delivers."""

    code, status, title = "other_grade", 422, "Cluster serves another grade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A listing and what became of its order."""

    listing: models.Listing
    filled_lots: int
    state: str


def register_cluster(
    *,
    organization_id: int,
    grade: str,
    name: str,
    accelerator: str,
    tensor_parallel: int,
    replicas: int,
    endpoint: str | None,
) -> models.Cluster:
    """Register a cluster of a provider; `endpoint` is None for a modelled one.

    :raises NotAProvider: when the organization is none.
    :raises UnknownGrade: when no such grade is listed.
    :raises ClusterLimit: when it has `CLUSTERS_PER_ORGANIZATION_MAX`.
    :raises Refusal: whatever admission has against the accelerator or the endpoint.
    """
    if queries.organization(organization_id).role != models.Organization.Role.PROVIDER:
        raise NotAProvider("only providers register clusters")
    if not models.Grade.objects.filter(code=grade, is_listed=True).exists():
        raise UnknownGrade(f"no grade {grade[:16]} is listed")
    if queries.clusters(organization_id=organization_id).count() >= CLUSTERS_PER_ORGANIZATION_MAX:
        raise ClusterLimit(f"at most {CLUSTERS_PER_ORGANIZATION_MAX} clusters")
    return admission_operations.register_cluster(
        organization_id=organization_id,
        grade=grade,
        name=name,
        accelerator=accelerator,
        tensor_parallel=tensor_parallel,
        replicas=replicas,
        endpoint=endpoint,
    )


def write_listing(
    *, cluster: models.Cluster, symbol: str, price_ticks: int, lots: int
) -> models.Listing:
    """Write a listing in the caller's transaction; `place_listing` must follow its commit.

    :raises OtherGrade: when the cluster serves another grade.
    :raises NotCertified: when it is not certified to the end of the window.
    """
    terms = contract.parse_symbol(symbol)
    if terms is None:
        raise errors.NotFound()
    if terms.grade != cluster.grade_id:
        raise OtherGrade(f"the cluster serves {cluster.grade_id}")
    until = cluster.certified_until
    is_covered = until is not None and clock.to_micros(until) >= terms.ends_at
    if not cluster.certified_lots or not is_covered:
        raise NotCertified("the cluster is not certified for that window")
    return models.Listing.objects.create(
        organization_id=cluster.organization_id,
        cluster=cluster,
        symbol=symbol,
        price_ticks=price_ticks,
        lots=lots,
        state=models.Listing.State.OPEN,
        created_at=clock.now(),
    )


def place_listing(listing_id: int) -> Offer:
    """Place the order of a listing, or find the one that was placed.

    :raises Refusal: with the machine's reason as its code; the listing is closed then.
    """
    listing = models.Listing.objects.get(pk=listing_id)
    if listing.state != models.Listing.State.OPEN:
        return with_orders([listing])[0]
    try:
        placed = exchange_operations.place(
            organization=listing.organization_id,
            instrument=listing.symbol,
            side=contract.Side.SELL,
            price_ticks=listing.price_ticks,
            lots=listing.lots,
            client_order_id=client_order_id(listing.pk),
        )
    except errors.Refusal as refusal:
        if refusal.status == 422:
            models.Listing.objects.filter(pk=listing_id).update(state=models.Listing.State.CLOSED)
        raise
    listing.order = int(placed.id)
    listing.save(update_fields=["order"])
    return with_orders([listing])[0]


def withdraw_listing(listing: models.Listing) -> Offer:
    """Cancel what is not sold of a listing; one that has ended stays as it is."""
    offer = with_orders([listing])[0]
    if offer.state not in (PENDING, models.Listing.State.OPEN):
        return offer
    # Withdrawn first, so that a retry of its placing finds it so.
    listing.state = models.Listing.State.WITHDRAWN
    listing.save(update_fields=["state"])
    if listing.order is None:
        placed = exchange_queries.order_by_client_id(
            organization=listing.organization_id, client_order_id=client_order_id(listing.pk)
        )
        if placed is not None:
            listing.order = int(placed.id)
            listing.save(update_fields=["order"])
    if listing.order is not None:
        # It may have been filled, or have expired, meanwhile.
        with contextlib.suppress(exchange_operations.NotResting):
            exchange_operations.cancel(organization=listing.organization_id, order=listing.order)
    return with_orders([listing])[0]


def with_orders(listings: Sequence[models.Listing]) -> list[Offer]:
    """Return listings with what became of their orders."""
    orders = {
        order.pk: order
        for order in exchange_models.Order.objects.filter(
            pk__in=[listing.order for listing in listings if listing.order is not None]
        )
    }
    offers = []
    for listing in listings:
        order = orders.get(listing.order) if listing.order is not None else None
        state: str = listing.state
        if state == models.Listing.State.OPEN and order is None:
            state = PENDING
        elif state == models.Listing.State.OPEN and order is not None and order.status in _ENDED:
            state = models.Listing.State.CLOSED
        offers.append(
            Offer(
                listing=listing,
                filled_lots=0 if order is None else order.filled_lots,
                state=state,
            )
        )
    return offers


def client_order_id(listing_id: int) -> str:
    """Return the client order id of a listing's order."""
    return f"listing:{listing_id}"
