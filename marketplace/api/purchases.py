"""Pooled purchases over REST: commit, look, take back."""

from exchange import intake
from marketplace import contract, idempotency, models, purchases, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict


class CommitmentOut(Answer):
    """What the organization will buy with others, or has bought."""

    id: str
    instrument: str
    deadline: str
    quantity: int
    price: str
    state: str
    filled_quantity: int
    average_price: str | None
    evened: str
    order_id: str | None
    reason: str | None
    created_at: str
    ended_at: str | None


class ListCommitments(Endpoint):
    """The organization's commitments to pooled purchases, the newest first.

    `average_price` is what every member of the pool paid, rounded up to the tick; `evened` what was
    paid beyond (or, below zero, returned of) what the organization's own order paid.
    """

    scope = "read"
    tag = "capacity"
    Item = CommitmentOut
    Output = Listed[CommitmentOut]

    def handle(self, call: Call) -> Listed[CommitmentOut]:
        """Answer."""
        rows = purchases.commitments(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            rows[: call.page.fetch], commitment_out, position=lambda row: [row.pk]
        )


class CommitPurchase(Endpoint):
    """Commit lots and a limit price to the pool of an instrument and a deadline.

    The deadline is a full five minutes, before trading ends. Until then the whole price at the
    limit, with the fee, is set aside, and the commitment can be taken back. At the deadline the
    pool buys at once what the book has; all who buy pay the same price.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = (
        "not_found",
        "killed",
        "unknown_instrument",
        "deadline_passed",
        "invalid_terms",
        "account_in_debt",
        "insufficient_funds",
        "pool_full",
    )
    Output = CommitmentOut

    class Input(Strict):
        """What is to be bought at most, at which price at most, and when."""

        instrument: intake.Symbol
        deadline: wire.TimeText
        quantity: wire.LotsNumber
        price: wire.PriceText

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        deadline = wire.parse_time(given.deadline, "deadline")
        lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
        price_ticks = wire.parse_price(given.price)

        def effect() -> str:
            return str(
                purchases.commit(
                    organization_id=call.organization,
                    symbol=given.instrument,
                    deadline=deadline,
                    lots=lots,
                    price_ticks=price_ticks,
                ).pk
            )

        def finish(reference: str) -> tuple[int, CommitmentOut]:
            return 201, commitment_out(purchases.finish(int(reference)))

        return idempotency.once(call, effect=effect, finish=finish)


class TakeCommitmentBack(Endpoint):
    """Take a commitment back before its deadline; what it set aside is free again."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    codes = ("commitment_ended",)
    Output = CommitmentOut

    def handle(self, call: Call, commitment_id: str) -> CommitmentOut:
        """Answer."""
        row = purchases.commitment(
            organization_id=call.organization, commitment_id=wire.parse_id(commitment_id)
        )
        return commitment_out(purchases.take_back(row))


class OpenPool(Answer):
    """A pool that can be joined, by committing to its instrument and deadline."""

    instrument: str
    deadline: str
    members: int
    quantity: int


class ListOpenPools(Endpoint):
    """The pools of everybody that can still be joined, the nearest deadline first."""

    tag = "market"

    class Output(Answer):
        """What has been committed; not by whom."""

        results: list[OpenPool]

    def handle(self, call: Call) -> Output:
        """Answer."""
        return self.Output(
            results=[
                OpenPool(
                    instrument=pool.symbol,
                    deadline=wire.moment_text(pool.deadline),
                    members=pool.members,
                    quantity=pool.lots,
                )
                for pool in purchases.open_pools()
            ]
        )


def commitment_out(row: models.PurchaseCommitment) -> CommitmentOut:
    """Return what its owner sees of a commitment."""
    return CommitmentOut(
        id=str(row.pk),
        instrument=row.symbol,
        deadline=wire.moment_text(row.deadline),
        quantity=row.lots,
        price=wire.price_text(row.price_ticks),
        state=row.state.lower(),
        filled_quantity=row.filled_lots,
        average_price=wire.optional_price_text(row.average_price_ticks),
        evened=wire.micros_text(row.evened_micros),
        order_id=None if row.order is None else str(row.order),
        reason=row.reason or None,
        created_at=wire.moment_text(row.created_at),
        ended_at=wire.optional_moment_text(row.ended_at),
    )
