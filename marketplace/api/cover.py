"""Standing offers of cover over REST: a cluster's own, made, listed and withdrawn."""

from typing import Annotated

import msgspec

from admission import cover, models
from marketplace import contract, idempotency, queries, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict


class CoverOfferOut(Answer):
    """A standing offer: at most so many lots of other sellers' failed requests, at this price."""

    id: str
    cluster: str
    price: str
    quantity: int
    created_at: str
    withdrawn_at: str | None


class ListCoverOffers(Endpoint):
    """The open offers of cover of one of the organization's clusters, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = CoverOfferOut
    Output = Listed[CoverOfferOut]

    def handle(self, call: Call, cluster_id: str) -> Listed[CoverOfferOut]:
        """Answer."""
        found = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(cluster_id)
        )
        rows = cover.open_offers(found.pk)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(rows[: call.page.fetch], offer_out, position=lambda row: [row.pk])


class OfferCover(Endpoint):
    """Offer to take over what other sellers' clusters of the grade fail to serve, at a price.

    The gateway asks offers in order of price. What one delivers is paid at its price: up to the
    delivery price from the holder's escrow, beyond it by the seller that failed. Cover never
    displaces what the cluster itself has sold. An offer stands until it is withdrawn; it does not
    change.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "cluster_not_certified",
        "over_certified",
        "cover_price_too_high",
        "cover_offer_limit",
    )
    Output = CoverOfferOut

    class Input(Strict):
        """At which price, and how much at most."""

        price: wire.PriceText
        quantity: Annotated[int, msgspec.Meta(ge=1, le=contract.LOTS_MAX)]

    def handle(self, call: Call, given: Input, cluster_id: str) -> Replayable:
        """Answer."""
        found = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(cluster_id)
        )
        price = wire.parse_price(given.price, "price")

        def effect() -> str:
            return str(cover.offer(cluster=found, price_ticks=price, lots=given.quantity).pk)

        def finish(reference: str) -> tuple[int, CoverOfferOut]:
            return 201, offer_out(models.CoverOffer.objects.get(pk=int(reference)))

        return idempotency.once(call, effect=effect, finish=finish)


class WithdrawCover(Endpoint):
    """Withdraw an offer of cover; what it covers at the moment is delivered and paid."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    Output = CoverOfferOut

    def handle(self, call: Call, cluster_id: str, cover_offer_id: str) -> CoverOfferOut:
        """Answer."""
        found = queries.cluster(
            organization_id=call.organization, cluster_id=wire.parse_id(cluster_id)
        )
        return offer_out(
            cover.withdraw(cluster_id=found.pk, offer_id=wire.parse_id(cover_offer_id))
        )


def offer_out(row: models.CoverOffer) -> CoverOfferOut:
    """Return what its owner sees of an offer."""
    return CoverOfferOut(
        id=str(row.pk),
        cluster=str(row.cluster),
        price=wire.price_text(row.price_ticks),
        quantity=row.lots,
        created_at=wire.moment_text(row.created_at),
        withdrawn_at=wire.optional_moment_text(row.withdrawn_at),
    )
