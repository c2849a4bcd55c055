"""Covered shorts of who has not met a margin call: what is offered, and bids for it."""

from exchange import queries as exchange_queries
from marketplace import contract, idempotency, takeovers, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict
from settlement import default_queries, models


class OfferOut(Answer):
    """Lots that somebody is short of, with the capacity behind them for all their hours.

    Bids are taken until `due_at`, at `price_max` or less. `outcome` is null while it runs, then
    taken_over, partly, no_bids or called_off.
    """

    id: str
    instrument: str
    quantity: int
    price_max: str
    mark_price: str | None
    announced_at: str
    due_at: str
    moved_quantity: int
    outcome: str | None
    ended_at: str | None


class BidOut(Answer):
    """What the organization has bid; `received` was paid from the mark to its price, signed."""

    id: str
    offer: str
    instrument: str
    quantity: int
    price: str
    state: str
    reason: str | None
    moved_quantity: int
    mark_price: str | None
    received: str
    created_at: str
    ended_at: str | None


class ListOffers(Endpoint):
    """Covered shorts that are or were offered, the latest first; not whose they are.

    Who takes lots over is short of them at its price from then on, with lots of a named cluster
    behind it, and owes them like any seller.
    """

    tag = "market"
    Item = OfferOut
    Output = Listed[OfferOut]

    def handle(self, call: Call) -> Listed[OfferOut]:
        """Answer."""
        rows = default_queries.offers()
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        found = list(rows[: call.page.fetch])
        return call.page.page(found, offer_out, position=lambda row: [row.pk])


class ListBids(Endpoint):
    """The organization's bids, the latest first."""

    scope = "read"
    tag = "capacity"
    Item = BidOut
    Output = Listed[BidOut]

    def handle(self, call: Call) -> Listed[BidOut]:
        """Answer."""
        rows = default_queries.bids(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(rows[: call.page.fetch], bid_out, position=lambda row: [row.pk])


class BidForOffer(Endpoint):
    """Bid for lots at a price, in place of the organization's last bid for them.

    `price` is that at which it would be short of them; the lowest is served first, the earlier of
    equal ones. Until the deadline what it would cost at the band's top is set aside.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_found",
        "killed",
        "transfer_ended",
        "own_group",
        "invalid_terms",
        "account_in_debt",
        "insufficient_funds",
    )
    Output = BidOut

    class Input(Strict):
        """How many lots at most, and at which price."""

        quantity: wire.LotsNumber
        price: wire.PriceText

    def handle(self, call: Call, given: Input, transfer_id: str) -> Replayable:
        """Answer."""
        lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
        price_ticks = wire.parse_price(given.price)
        offer = wire.parse_id(transfer_id)

        def effect() -> str:
            return str(
                takeovers.bid(
                    organization_id=call.organization,
                    offer_id=offer,
                    lots=lots,
                    price_ticks=price_ticks,
                ).pk
            )

        def finish(reference: str) -> tuple[int, BidOut]:
            return 201, bid_out(takeovers.finish(int(reference)))

        return idempotency.once(call, effect=effect, finish=finish)


class WithdrawBid(Endpoint):
    """Take a bid back before its deadline; what it set aside is free again."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    codes = ("transfer_ended",)
    Output = BidOut

    def handle(self, call: Call, bid_id: str) -> BidOut:
        """Answer."""
        row = takeovers.bid_of(organization_id=call.organization, bid_id=wire.parse_id(bid_id))
        return bid_out(takeovers.take_back(row))


def offer_out(row: models.TransferOffer) -> OfferOut:
    """Return what everybody sees of an offer."""
    listed = exchange_queries.instrument(symbol=row.symbol)
    return OfferOut(
        id=str(row.pk),
        instrument=row.symbol,
        quantity=row.lots,
        price_max=wire.price_text(row.price_max_ticks),
        mark_price=wire.optional_price_text(
            None if listed is None else listed.instrument.mark_price_ticks
        ),
        announced_at=wire.moment_text(row.announced_at),
        due_at=wire.moment_text(row.due_at),
        moved_quantity=row.moved_lots,
        outcome=row.outcome or None,
        ended_at=wire.optional_moment_text(row.ended_at),
    )


def bid_out(row: models.TransferBid) -> BidOut:
    """Return what its owner sees of a bid."""
    return BidOut(
        id=str(row.pk),
        offer=str(row.offer_id),
        instrument=row.offer.symbol,
        quantity=row.lots,
        price=wire.price_text(row.price_ticks),
        state=row.state.lower(),
        reason=row.reason or None,
        moved_quantity=row.moved_lots,
        mark_price=wire.optional_price_text(row.mark_ticks),
        received=wire.micros_text(row.received_micros),
        created_at=wire.moment_text(row.created_at),
        ended_at=wire.optional_moment_text(row.ended_at),
    )
