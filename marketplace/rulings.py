"""Operators decide disputes about deliveries; each decision stands in the audit trail.

What is decided moves no money here: the day's next run computes by it (`settlement.disputes`).
"""

from django.db import transaction

from marketplace import clock, operations
from settlement import disputes, models


def reject(*, dispute_id: int, organization_id: int, actor: str, reason: str) -> models.Dispute:
    """Decide against a dispute.

    :raises NotFound: when there is no such dispute.
    :raises DisputeClosed: when it is over.
    :raises OwnDispute: when the operator is a party.
    """
    with transaction.atomic():
        row = disputes.reject(
            dispute_id=dispute_id,
            operator_id=organization_id,
            reason=reason,
            at=clock.now_micros(),
        )
        _audit(row, actor, reason)
    return row


def uphold(
    *,
    dispute_id: int,
    organization_id: int,
    available_mntu: int,
    short_mntu: int,
    actor: str,
    reason: str,
) -> models.Dispute:
    """Decide for a dispute, or propose to where it takes two operators.

    :raises NotFound: when there is no such dispute.
    :raises DisputeClosed: when it is over.
    :raises OwnDispute: when the operator is a party.
    :raises SecondOperatorRequired: when the operator has proposed this already.
    :raises Malformed: when an interval cannot have had as much.
    """
    with transaction.atomic():
        row = disputes.uphold(
            dispute_id=dispute_id,
            operator_id=organization_id,
            available_mntu=available_mntu,
            short_mntu=short_mntu,
            reason=reason,
            at=clock.now_micros(),
        )
        _audit(row, actor, reason)
    return row


def _audit(row: models.Dispute, actor: str, reason: str) -> None:
    operations.audit(
        actor=actor,
        action=f"dispute_{row.state.lower()}",
        target=f"dispute:{row.pk}",
        reason=reason,
        details={
            "allocation": row.allocation_id,
            "available_mntu": row.available_mntu,
            "short_mntu": row.short_mntu,
            "moves_micros": row.moves_micros,
        },
    )
