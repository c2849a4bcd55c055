"""The index of an hour is corrected by two operators, or not at all (RULEBOOK 5.2).

The first proposes a price with a reason, and nothing happens. When an operator of another
organization asks for the same price, an instruction is written to the machine, which has the last
word: about the time, about the price, and about who the two are. Any other price is a new proposal
in place of the old one, so that nobody can confirm what they have not named.
"""

from dataclasses import dataclass

from django.db import transaction

from marketplace import clock, errors, operations
from settlement import index, index_queries, instructions, models
from settlement import operations as settlement_operations


class IndexFinal(errors.Refusal):
    """The day's final settlement has been made."""

    code, status, title = "index_final", 422, "Index is final"


class IndexUnchanged(errors.Refusal):
    """Nothing would be corrected."""

    code, status, title = "index_unchanged", 422, "Index is unchanged"


class SecondOperatorRequired(errors.Refusal):
    """Whoever proposes cannot confirm."""

    code, status, title = "second_operator_required", 422, "Second operator required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A proposal, and whether it was confirmed and carried out."""

    row: models.IndexOverride
    is_applied: bool


def override_index(
    *,
    grade: str,
    hour_starts_at: int,
    price_ticks: int,
    reason: str,
    organization_id: int,
    actor: str,
) -> Decided:
    """Propose a correction, or confirm the one that another operator has proposed.

    :raises NotFound: when nothing is published of the hour.
    :raises IndexFinal: when it is too late.
    :raises IndexUnchanged: when that is its price.
    :raises PriceUnresolved: when it is ten times more, or a tenth or less.
    :raises SecondOperatorRequired: when the operator has proposed this already.
    :raises Refusal: with the machine's reason as its code.
    """
    moment = clock.to_datetime(hour_starts_at)
    with transaction.atomic():
        # Whoever locks the first version decides alone about the hour.
        found = models.IndexValue.objects.select_for_update(no_key=True)
        first = found.filter(grade=grade, hour_starts_at=moment, version=1).first()
        if first is None:
            raise errors.NotFound("no index is published for that hour")
        now = index_queries.index_versions(grade=grade, hour_starts_at=moment)[0]
        _refuse(hour_starts_at, price_ticks, now.price_ticks)
        pending = models.IndexOverride.objects.filter(
            grade=grade, hour_starts_at=moment, state=models.IndexOverride.State.PENDING
        ).first()
        wanted = (now.version + 1, price_ticks)
        if pending is None or (pending.version, pending.price_ticks) != wanted:
            proposed = _propose(pending, first, wanted, reason, organization_id)
            _audit(actor, "propose_index", proposed, reason)
            return Decided(row=proposed, is_applied=False)
        if pending.proposed_by == organization_id:
            raise SecondOperatorRequired("another operator has to ask for the same price")
        instruction = _confirm(pending, organization_id)
        _audit(actor, "confirm_index", pending, reason)
    operations.accepted(instruction)
    return Decided(row=pending, is_applied=True)


def _refuse(hour_starts_at: int, price_ticks: int, in_force: int) -> None:
    """Refuse what the machine would, before anybody is asked to confirm it."""
    if clock.now_micros() >= index.corrected_until(hour_starts_at):
        raise IndexFinal("an index can be corrected until 02:00 on the day after")
    if price_ticks == in_force:
        raise IndexUnchanged("the index has that price already")
    if not index.is_plausible(price_ticks, in_force):
        raise index_queries.PriceUnresolved("the price is ten times off what it replaces")


def _propose(
    pending: models.IndexOverride | None,
    value: models.IndexValue,
    wanted: tuple[int, int],
    reason: str,
    organization_id: int,
) -> models.IndexOverride:
    """Write a proposal in place of the one that is pending."""
    if pending is not None:
        pending.state = models.IndexOverride.State.REPLACED
        pending.save(update_fields=["state"])
    version, price_ticks = wanted
    return models.IndexOverride.objects.create(
        grade=value.grade,
        hour_starts_at=value.hour_starts_at,
        version=version,
        price_ticks=price_ticks,
        reason=reason,
        state=models.IndexOverride.State.PENDING,
        proposed_by=organization_id,
        proposed_at=clock.now(),
    )


def _confirm(pending: models.IndexOverride, organization_id: int) -> str:
    """Instruct the machine; return the instruction's id."""
    pending.state = models.IndexOverride.State.CONFIRMED
    pending.confirmed_by = organization_id
    pending.confirmed_at = clock.now()
    pending.save(update_fields=["state", "confirmed_by", "confirmed_at"])
    written = settlement_operations.instruct(
        id=f"override:{pending.pk}",
        command=instructions.OverrideIndex(
            grade=pending.grade,
            hour_starts_at=clock.to_micros(pending.hour_starts_at),
            version=pending.version,
            price_ticks=pending.price_ticks,
            reason=pending.reason,
            proposed_by=pending.proposed_by,
            confirmed_by=organization_id,
        ),
    )
    return str(written.pk)


def _audit(actor: str, action: str, row: models.IndexOverride, reason: str) -> None:
    """Note who asked for what."""
    operations.audit(
        actor=actor,
        action=action,
        target=f"index:{row.grade}:{row.hour_starts_at:%Y%m%dT%HZ}",
        reason=reason,
        details={"override": row.pk, "version": row.version, "price_ticks": row.price_ticks},
    )
