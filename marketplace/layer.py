"""What the exchange's own layer bears at most is set by two operators, or not at all (3.7).

The first proposes a limit with a reason, and nothing happens. When an operator of another
organization asks for the same limit, the machine is instructed; somebody who is a member of both
is one person and does not confirm either. Any other limit is a new proposal in place of the old
one, so that nobody can confirm what they have not named.
"""

from dataclasses import dataclass

from django.db import connection, transaction

from marketplace import clock, errors, operations
from marketplace import models as catalog
from settlement import instructions, models
from settlement import operations as settlement_operations

LIMIT_MICROS_MAX = 10**17
"""What the machine takes at most."""
_LOCK = 7_301_004
"""Advisory lock under which proposals are made and confirmed."""

State = models.LayerProposal.State


class InvalidLimit(errors.Refusal):
    """No layer has such a limit."""

    code, status, title = "invalid_amount", 422, "Invalid amount"


class SecondOperatorRequired(errors.Refusal):
    """Whoever proposes cannot confirm."""

    code, status, title = "second_operator_required", 422, "Second operator required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A proposal, and whether it was confirmed and carried out."""

    row: models.LayerProposal
    is_applied: bool


def set_layer(*, limit_micros: int, reason: str, organization_id: int, actor: str) -> Decided:
    """Propose a limit, or confirm the one that another operator has proposed.

    :raises InvalidLimit: when it is outside what an account can hold.
    :raises SecondOperatorRequired: when the operator has proposed this already.
    :raises Refusal: with the machine's reason as its code.
    """
    if not 0 <= limit_micros <= LIMIT_MICROS_MAX:
        raise InvalidLimit("the limit is outside what the layer can bear")
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        pending = models.LayerProposal.objects.filter(state=State.PENDING).first()
        if pending is None or pending.limit_micros != limit_micros:
            row = _propose(pending, limit_micros, reason, organization_id)
            _audit(actor, "propose_layer", row, reason)
            return Decided(row=row, is_applied=False)
        if pending.proposed_by == organization_id or _has_proposed(actor, pending):
            raise SecondOperatorRequired("another operator has to ask for the same")
        pending.state = State.CONFIRMED
        pending.confirmed_by = organization_id
        pending.confirmed_at = clock.now()
        pending.save(update_fields=["state", "confirmed_by", "confirmed_at"])
        written = settlement_operations.instruct(
            id=f"layer:{pending.pk}", command=instructions.SetLayer(limit_micros=limit_micros)
        )
        _audit(actor, "confirm_layer", pending, reason)
    operations.accepted(str(written.pk))
    return Decided(row=pending, is_applied=True)


def _propose(
    pending: models.LayerProposal | None, limit_micros: int, reason: str, organization_id: int
) -> models.LayerProposal:
    """Write a proposal in place of the one that is pending."""
    if pending is not None:
        pending.state = State.REPLACED
        pending.save(update_fields=["state"])
    return models.LayerProposal.objects.create(
        limit_micros=limit_micros,
        reason=reason,
        state=State.PENDING,
        proposed_by=organization_id,
        proposed_at=clock.now(),
    )


def _has_proposed(actor: str, row: models.LayerProposal) -> bool:
    """Whether it was the same person who proposed it, for another operator."""
    return catalog.AuditEntry.objects.filter(
        action="propose_layer", target="layer", actor=actor, details__proposal=row.pk
    ).exists()


def _audit(actor: str, action: str, row: models.LayerProposal, reason: str) -> None:
    """Note who asked for what."""
    operations.audit(
        actor=actor,
        action=action,
        target="layer",
        reason=reason,
        details={"proposal": row.pk, "limit_micros": row.limit_micros},
    )
