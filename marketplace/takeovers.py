"""Bids for covered shorts that are offered: rows, and the instructions about them.

A bid is written with its instruction and stays pending until the machine has taken it; what becomes
of it the engine writes into the row (`exchange.machine.transfers`).
"""

from django.db import connection, transaction

from marketplace import clock, errors, operations
from settlement import default_queries, instructions, models
from settlement import operations as settlement_operations

State = models.TransferBid.State


def bid(*, organization_id: int, offer_id: int, lots: int, price_ticks: int) -> models.TransferBid:
    """Write a bid and its instruction in the caller's transaction.

    :raises NotFound: when nothing was ever offered under that number.
    """
    assert connection.in_atomic_block, "a bid is noted with its idempotency record"
    if not models.TransferOffer.objects.filter(pk=offer_id).exists():
        raise errors.NotFound()
    row = models.TransferBid.objects.create(
        organization_id=organization_id,
        offer_id=offer_id,
        lots=lots,
        price_ticks=price_ticks,
        state=State.PENDING,
        created_at=clock.now(),
    )
    settlement_operations.instruct(
        id=row.instruction,
        command=instructions.BidTransfer(
            bid=row.pk,
            account=organization_id,
            transfer=offer_id,
            lots=lots,
            price_ticks=price_ticks,
        ),
    )
    return row


def finish(bid_id: int) -> models.TransferBid:
    """Return a bid once the machine has taken it.

    :raises Refusal: with the machine's reason as its code.
    :raises OutcomeUnknown: when it did not take it in time; it will.
    """
    row = models.TransferBid.objects.get(pk=bid_id)
    try:
        operations.accepted(row.instruction)
    except errors.OutcomeUnknown:
        raise
    except errors.Refusal as refusal:
        models.TransferBid.objects.filter(pk=row.pk, state=State.PENDING).update(
            state=State.REFUSED, reason=refusal.code[:40], ended_at=clock.now()
        )
        raise
    row.refresh_from_db()
    return row


def take_back(row: models.TransferBid) -> models.TransferBid:
    """Withdraw a bid before its deadline; one that was withdrawn before stays so.

    :raises Refusal: `transfer_ended`, when it has won or lost.
    :raises OutcomeUnknown: when the machine did not take it in time.
    """
    if row.state != State.WITHDRAWN:
        with transaction.atomic():
            settlement_operations.instruct(
                id=f"{row.instruction}:back",
                command=instructions.WithdrawBid(bid=row.pk, account=row.organization_id),
            )
        operations.accepted(f"{row.instruction}:back")
        row.refresh_from_db()
    return row


def bid_of(*, organization_id: int, bid_id: int) -> models.TransferBid:
    """Return a bid of the organization.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = default_queries.bids(organization_id).filter(pk=bid_id).first()
    if found is None:
        raise errors.NotFound()
    return found
