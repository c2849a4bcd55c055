"""Standing offers of cover: made, withdrawn, and what they have delivered (RULEBOOK 6.6).

An offer says at which price, and for how many lots at most, a certified cluster takes requests over
that others' clusters fail to serve. It stands until it is withdrawn and never changes, so what was
covered can always be traced to the price it was offered at. What its cluster has sold comes first:
an hour's room for cover is what is certified and not allocated (`queries.snapshot`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from django.db import connection, transaction
from django.db.models import QuerySet

from admission import models, shortfall
from marketplace import clock, contract, errors
from marketplace import models as catalog
from settlement import instructions

PRICE_MULTIPLE_MAX = 5
"""Of the grade's reference price: more than five times the delivery price is never paid."""
OFFERS_MAX = 20
"""Open offers of one cluster."""


class NotCertified(errors.Refusal):
    """Only a certified cluster can stand in for another."""

    code, title = "cluster_not_certified", "The cluster is not certified"


class TooMuch(errors.Refusal):
    """An offer is of no more than its cluster may sell."""

    code, title = "over_certified", "More lots than are certified"


class PriceTooHigh(errors.Refusal):
    """No more than five times the reference price is ever paid."""

    code, title = "cover_price_too_high", "The price is too high"


class OfferLimit(errors.Refusal):
    """The cluster has as many open offers as it may have."""

    code, title = "cover_offer_limit", "Too many open offers"


@transaction.atomic
def offer(*, cluster: catalog.Cluster, price_ticks: int, lots: int) -> models.CoverOffer:
    """Make a standing offer.

    :raises NotCertified: when the cluster is not certified, or not any more.
    :raises TooMuch: when it may sell fewer lots.
    :raises PriceTooHigh: when the price is beyond what is ever paid.
    :raises OfferLimit: when it has too many open offers.
    """
    row = catalog.Cluster.objects.select_for_update(no_key=True).get(pk=cluster.pk)
    now = clock.now()
    if row.state != catalog.Cluster.State.CERTIFIED or (
        row.certified_until is not None and row.certified_until <= now
    ):
        raise NotCertified("only a certified cluster can cover")
    if lots > row.certified_lots:
        raise TooMuch(f"the cluster may sell {row.certified_lots} lots")
    highest = PRICE_MULTIPLE_MAX * row.grade.reference_price_ticks
    if price_ticks > highest:
        raise PriceTooHigh(f"at most {PRICE_MULTIPLE_MAX} times the grade's reference price")
    if open_offers(row.pk).count() >= OFFERS_MAX:
        raise OfferLimit(f"a cluster has at most {OFFERS_MAX} open offers")
    return models.CoverOffer.objects.create(
        cluster=row.pk, price_ticks=price_ticks, lots=lots, created_at=now
    )


def open_offers(cluster_id: int) -> QuerySet[models.CoverOffer]:
    """Return a cluster's open offers, the newest first."""
    return models.CoverOffer.objects.filter(cluster=cluster_id, withdrawn_at=None).order_by("-id")


def withdraw(*, cluster_id: int, offer_id: int) -> models.CoverOffer:
    """Withdraw an offer; one that is withdrawn stays so. What it covers now ends in peace.

    :raises NotFound: when the cluster has no such offer.
    """
    rows = models.CoverOffer.objects.filter(pk=offer_id, cluster=cluster_id)
    rows.filter(withdrawn_at=None).update(withdrawn_at=clock.now())
    found = rows.first()
    if found is None:
        raise errors.NotFound()
    return found


# What they have delivered


def delivered(span: Mapping[str, Any]) -> dict[tuple[int, int], list[instructions.CoverLine]]:
    """Return what cover has delivered by (holder, its own cluster), the cheapest offer first.

    `span` is the interval: `grade`, `starts_at` and `ends_at`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT request.organization_id, request.covered_cluster, offer.id, offer.cluster,
                   cluster.organization_id, offer.price_ticks,
                   sum(now.mntu - coalesce(before.mntu, 0))::bigint
            FROM (SELECT request_id, max(mntu) AS mntu FROM admission_usageevent
                  WHERE at >= %(starts_at)s AND at < %(ends_at)s GROUP BY request_id) now
            JOIN admission_request request ON request.id = now.request_id
            JOIN admission_coveroffer offer ON offer.id = request.cover_offer
            JOIN marketplace_cluster cluster ON cluster.id = offer.cluster
            LEFT JOIN LATERAL (
                SELECT max(mntu) AS mntu FROM admission_usageevent event
                WHERE event.request_id = now.request_id AND event.at < %(starts_at)s) before
              ON true
            WHERE request.grade = %(grade)s
            GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 6, 3
            """,
            span,
        )
        found: dict[tuple[int, int], list[instructions.CoverLine]] = defaultdict(list)
        for holder, own, offer, cluster, seller, price, mntu in cursor.fetchall():
            if mntu:
                line = instructions.CoverLine(offer, cluster, seller, price, mntu)
                found[holder, own].append(line)
        return found


def parts(
    covered: Sequence[instructions.CoverLine], lots: Sequence[int]
) -> list[tuple[instructions.CoverLine, ...]]:
    """Return what of a flow's cover belongs to each of its allocations, by lots.

    No more than their interval holds is paid; what was used beyond it is the flow's debt, and its
    next intervals owe so much less.
    """
    left = [own * contract.MNTU_PER_LOT_INTERVAL for own in lots]
    found: list[list[instructions.CoverLine]] = [[] for _ in lots]
    for line in covered:
        shares = shortfall.parts(min(line.mntu, sum(left)), lots)
        for number, share in enumerate(shares):
            part = min(share, left[number])  # shares of several lines may round up together
            left[number] -= part
            if part:
                found[number].append(msgspec.structs.replace(line, mntu=part))
    return [tuple(own) for own in found]
