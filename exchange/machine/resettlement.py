"""What a later run adds to a delivery that was settled before: signed differences, nothing else.

The machine forgets an hour when its last interval is settled, so a run says of each allocation who
took part, and how much goes to the holder beyond what has gone to it (below zero: back from it). It
is believed within bounds: the hour is over and settled, the allocation was once made, and neither
amount is larger than what the lots could ever have moved at the higher price they were settled by.

What goes back and forth for availability is owed in full, so whoever lacks the cash is lent it, as
at gate closure. Damages are paid as far as the seller's own cash reaches and no further, as in
the interval itself, and no further than its month goes (RULEBOOK 3.7, 6.5, `damages`); what was
paid too much of them comes back in full.
"""

from exchange import events
from exchange.machine import coverage, damages, waterfall
from exchange.machine.state import Account, State
from exchange.reasons import Refuse
from marketplace import contract
from settlement import instructions
from settlement import resettlement as rules
from settlement.ledger import Code, Kind


def correct(state: State, order: instructions.CorrectDelivery) -> Refuse | None:
    """Pay the differences of an hour, or say why not."""
    refused = _refuse_hour(state, order)
    for line in order.lines:
        refused = refused or _refuse_line(state, line)
    if refused is not None:
        return refused
    paid: dict[int, int] = {}
    month = damages.MonthOf(order.grade, order.hour_starts_at)
    for line in order.lines:
        cause = _cause(order, line)
        holder, seller = state.accounts[line.holder], state.accounts[line.seller]
        if line.delivery_micros > 0:
            _pay(state, seller, holder, line.delivery_micros, Code.DELIVERY_CORRECTION, cause)
        else:
            _pay(state, holder, seller, -line.delivery_micros, Code.DELIVERY_CORRECTION, cause)
        if line.damages_micros < 0:
            _pay(state, holder, seller, -line.damages_micros, Code.DAMAGES_CORRECTION, cause)
            paid[line.allocation] = line.damages_micros
            damages.note_paid(seller, month, line.damages_micros)
    _pay_damages(state, order, paid)
    for line in order.lines:
        state.events.append(
            events.DeliveryCorrected(
                order.run,
                line.allocation,
                line.delivery_micros,
                paid.get(line.allocation, 0),
                line.due_micros,
                state.at,
            )
        )
    return None


def _refuse_hour(state: State, order: instructions.CorrectDelivery) -> Refuse | None:
    """Return what is wrong with an instruction as a whole."""
    if order.grade not in state.grades:
        return Refuse.UNKNOWN_GRADE
    starts_at = order.hour_starts_at
    if starts_at % contract.HOUR or starts_at < 0 or state.at < starts_at + contract.HOUR:
        return Refuse.UNKNOWN_HOUR
    if (order.grade, starts_at) in state.hours:
        return Refuse.HOUR_NOT_SETTLED
    numbers = [line.allocation for line in order.lines]
    if not 1 <= len(numbers) <= instructions.CORRECTION_LINES_MAX:
        return Refuse.INVALID_TERMS
    if numbers != sorted(set(numbers)) or not 1 <= len(order.run) <= instructions.RUN_MAX:
        return Refuse.INVALID_TERMS
    return None


def _refuse_line(state: State, line: instructions.CorrectionLine) -> Refuse | None:
    """Return what is wrong with one difference."""
    holder, seller = state.accounts.get(line.holder), state.accounts.get(line.seller)
    if holder is None or seller is None:
        return Refuse.UNKNOWN_ACCOUNT
    if holder is seller or not 1 <= line.allocation <= state.counters["allocation"]:
        return Refuse.INVALID_TERMS
    if (
        not 1 <= line.lots <= contract.LOTS_MAX
        or not 1 <= line.price_ticks <= contract.PRICE_TICKS_MAX
    ):
        return Refuse.INVALID_TERMS
    delivery_max, damages_max = rules.bounds(price=line.price_ticks, lots=line.lots)
    if abs(line.delivery_micros) > delivery_max or abs(line.due_micros) > damages_max:
        return Refuse.INVALID_AMOUNT
    if line.due_micros > 0 and line.damages_micros != line.due_micros:
        return Refuse.INVALID_AMOUNT
    if line.due_micros <= 0 and not -damages_max <= line.damages_micros <= 0:
        return Refuse.INVALID_AMOUNT
    if holder.group == seller.group and (line.damages_micros or line.due_micros):
        return Refuse.INVALID_AMOUNT  # nothing inside a group (RULEBOOK 6.5)
    return None


def _pay(
    state: State, payer: Account, receiver: Account, amount: int, code: Code, cause: str
) -> None:
    """Move what is owed in full; what the payer lacks is lent."""
    if not amount:
        return
    waterfall.lend(state, payer, amount - payer.cash, cause)
    state.transfer((payer.id, Kind.CASH), (receiver.id, Kind.CASH), amount, code, cause)
    waterfall.repay(state, receiver, amount, cause)
    coverage.withdraw_unfunded(state, payer)


def _pay_damages(state: State, order: instructions.CorrectDelivery, paid: dict[int, int]) -> None:
    """Pay what sellers owe more for missed demand, as far as each reaches; note what was paid."""
    owing = [line for line in order.lines if line.damages_micros > 0]
    for seller in sorted({line.seller for line in owing}):
        own = [line for line in owing if line.seller == seller]
        amounts = damages.pay(
            state,
            state.accounts[seller],
            [(line.holder, line.damages_micros, _cause(order, line)) for line in own],
            Code.DAMAGES_CORRECTION,
            damages.MonthOf(order.grade, order.hour_starts_at),
        )
        for line, amount in zip(own, amounts, strict=True):
            paid[line.allocation] = amount


def _cause(order: instructions.CorrectDelivery, line: instructions.CorrectionLine) -> str:
    return f"correction:{line.allocation}:{order.run}"
