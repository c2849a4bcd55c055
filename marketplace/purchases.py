"""Pooled purchases: rows of what organizations have committed, and the instructions about them.

A commitment is written with its instruction and stays pending until the machine has taken it; what
becomes of it at the deadline the engine writes into the row (`exchange.machine.purchases`).
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Count, QuerySet, Sum

from marketplace import clock, errors, models, operations
from settlement import instructions
from settlement import operations as settlement_operations

State = models.PurchaseCommitment.State
POOLS_MAX = 500
"""Open pools that are shown at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What has been committed for one instrument and deadline, by how many members."""

    symbol: str
    deadline: datetime
    members: int
    lots: int


def commit(
    *, organization_id: int, symbol: str, deadline: int, lots: int, price_ticks: int
) -> models.PurchaseCommitment:
    """Write a commitment and its instruction in the caller's transaction.

    :raises NotFound: when no such instrument was ever listed.
    """
    assert connection.in_atomic_block, "a commitment is noted with its idempotency record"
    if not models.Instrument.objects.filter(symbol=symbol).exists():
        raise errors.NotFound()
    row = models.PurchaseCommitment.objects.create(
        organization_id=organization_id,
        symbol=symbol,
        deadline=clock.to_datetime(deadline),
        lots=lots,
        price_ticks=price_ticks,
        state=State.PENDING,
        created_at=clock.now(),
    )
    settlement_operations.instruct(
        id=row.instruction,
        command=instructions.CommitPurchase(
            commitment=row.pk,
            account=organization_id,
            instrument=symbol,
            deadline=deadline,
            lots=lots,
            price_ticks=price_ticks,
        ),
    )
    return row


def finish(commitment_id: int) -> models.PurchaseCommitment:
    """Return a commitment once the machine has taken it.

    :raises Refusal: with the machine's reason as its code.
    :raises OutcomeUnknown: when it did not take it in time; it will.
    """
    row = models.PurchaseCommitment.objects.get(pk=commitment_id)
    try:
        operations.accepted(row.instruction)
    except errors.OutcomeUnknown:
        raise
    except errors.Refusal as refusal:
        models.PurchaseCommitment.objects.filter(pk=row.pk, state=State.PENDING).update(
            state=State.REFUSED, reason=refusal.code[:40], ended_at=clock.now()
        )
        raise
    row.refresh_from_db()
    return row


def take_back(row: models.PurchaseCommitment) -> models.PurchaseCommitment:
    """Withdraw a commitment before its deadline; one that was withdrawn before stays so.

    :raises Refusal: `commitment_ended`, when it has bought, or its deadline has passed.
    :raises OutcomeUnknown: when the machine did not take it in time.
    """
    if row.state != State.WITHDRAWN:
        with transaction.atomic():
            settlement_operations.instruct(
                id=f"{row.instruction}:back",
                command=instructions.WithdrawCommitment(
                    commitment=row.pk, account=row.organization_id
                ),
            )
        operations.accepted(f"{row.instruction}:back")
        row.refresh_from_db()
    return row


def commitments(organization_id: int) -> QuerySet[models.PurchaseCommitment]:
    """Return an organization's commitments, the newest first."""
    return models.PurchaseCommitment.objects.filter(organization_id=organization_id).order_by("-id")


def commitment(*, organization_id: int, commitment_id: int) -> models.PurchaseCommitment:
    """Return a commitment of the organization.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = commitments(organization_id).filter(pk=commitment_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def open_pools() -> list[Pool]:
    """Return the pools that can still be joined, the nearest deadline first."""
    rows = (
        models.PurchaseCommitment.objects.filter(state=State.COMMITTED, deadline__gt=clock.now())
        .values("symbol", "deadline")
        .annotate(members=Count("id"), total=Sum("lots"))
        .order_by("deadline", "symbol")[:POOLS_MAX]
    )
    return [
        Pool(
            symbol=row["symbol"],
            deadline=row["deadline"],
            members=row["members"],
            lots=row["total"],
        )
        for row in rows
    ]
