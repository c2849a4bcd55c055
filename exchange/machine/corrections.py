"""What two operators correct of what was published (RULEBOOK 5.2).

A correction is a new version beside the old one: no event, transfer or delivery price of the past
is touched. What was settled at the old price is settled again by the day's final run, which asks
for the price in force; what is priced later, as the reference of a new book or the fallback of a
later hour, follows the correction at once. Pay-as-you-go keeps the price at which it was let in.
"""

from exchange import events
from exchange.machine.state import State
from exchange.reasons import Refuse
from marketplace import contract
from settlement import index, instructions


def override_index(state: State, order: instructions.OverrideIndex) -> Refuse | None:
    """Publish a further version of an hour's index, or say why not."""
    grade = state.grades.get(order.grade)
    if grade is None:
        return Refuse.UNKNOWN_GRADE
    hour = order.hour_starts_at
    if hour not in grade.index:
        return Refuse.UNKNOWN_HOUR
    if state.at >= index.corrected_until(hour):
        return Refuse.INDEX_FINAL
    if order.proposed_by == order.confirmed_by:
        return Refuse.SECOND_OPERATOR_REQUIRED
    if not order.reason.strip() or len(order.reason) > index.REASON_CHARACTERS_MAX:
        return Refuse.INVALID_TERMS
    version, price = grade.corrections.get(hour, (1, grade.index[hour]))
    if order.version != version + 1:
        return Refuse.INDEX_CHANGED
    if order.price_ticks == price:
        return Refuse.INDEX_UNCHANGED
    if order.price_ticks > contract.PRICE_TICKS_MAX or not index.is_plausible(
        order.price_ticks, price
    ):
        return Refuse.PRICE_UNRESOLVED
    body = index.encode(
        index.Correction(
            grade=grade.code,
            hour_starts_at=hour,
            version=order.version,
            price=order.price_ticks,
            replaces=price,
            reason=order.reason,
        )
    )
    grade.corrections[hour] = (order.version, order.price_ticks)
    if hour >= grade.sound_hour:
        # The latest value that is no fallback; as old as it would be had it been right at once.
        grade.sound_price, grade.sound_hour = order.price_ticks, hour
        grade.sound_at = max(grade.sound_at, hour - contract.GATE_CLOSURE_LEAD)
    grade.published += 1
    state.events.append(
        events.IndexPublished(
            grade.code,
            hour,
            order.price_ticks,
            str(index.Method.OVERRIDE),
            body,
            index.digest(body),
            state.at,
            grade.published,
            order.version,
        )
    )
    return None
