"""Everything that is not a single order: instructions, mass cancels, quarantine, upgrade.

An instruction either changes the state and ends with `InstructionApplied`, or breaks a rule,
changes nothing and ends with `InstructionRefused`: each handler checks first and acts after.
"""

import re

import msgspec

from exchange import commands, events
from exchange.machine import (
    amendments,
    books,
    buy_in,
    calendar,
    commitments,
    corrections,
    coverage,
    delivery,
    insurance,
    limits,
    listing,
    margin_calls,
    orders,
    packages,
    payouts,
    purchases,
    resettlement,
    sessions,
    slot_rooms,
    strips,
    switches,
    transfers,
    uncrossing,
    usage,
    waterfall,
    withdrawals,
)
from exchange.machine.records import Cluster, Grade
from exchange.machine.state import UNKNOWN, Instrument, State
from exchange.reasons import Close, Refuse
from marketplace import contract
from settlement import instructions
from settlement.ledger import EXCHANGE, Code, Kind

OUTSIDE_MAX = 10**18
"""Micro-USD that the exchange may owe in all: what every account's sums can hold."""
CAUSE_MAX = 80
NUMBER_MAX = 2**62
"""Highest id or instant that is taken from outside: all of them fit a row."""
_BASIS_POINTS_MAX = 1_000
_ROOT = re.compile("[0-9a-f]{64}")
_PREMIUM_PERCENT_MAX = 1_000


def carry_out(state: State, command: commands.Command) -> None:
    """Carry out a command that is neither a new order nor a single cancel."""
    match command:
        case commands.Instruct():
            _instruct(state, command)
        case commands.CancelOrders():
            orders.cancel_matching(state, command)
        case commands.AmendOrder():
            amendments.amend(state, command)
        case commands.CancelAllAfter():
            switches.renew(state, command)
        case commands.PlaceStrip():
            strips.place(state, command)
        case commands.Tick():
            pass
        case commands.Quarantine():
            state.events.append(
                events.Quarantined(command.assertion, command.instrument, state.sequence, state.at)
            )
            instrument = state.instruments.get(command.instrument)
            if instrument is not None:
                _switch(state, instrument, [instrument], halted=True)
        case commands.Upgrade():
            state.rules = command.rules
            state.events.append(events.Upgraded(command.rules, state.at))
        case _:
            raise AssertionError("orders and cancels have a way of their own")
    books.flush(state)


def _instruct(state: State, command: commands.Instruct) -> None:
    """Carry out an instruction and say whether it was applied."""
    try:
        instruction = commands.decode_instruction(command)
    except msgspec.DecodeError:
        refused: Refuse | None = Refuse.MALFORMED
    else:
        cause = command.id if len(command.id) <= CAUSE_MAX else f"command:{state.sequence}"
        refused = _dispatch(state, instruction, cause)
    if refused is None:
        state.events.append(events.InstructionApplied(command.id, state.sequence, state.at))
    else:
        state.events.append(
            events.InstructionRefused(command.id, str(refused), state.sequence, state.at)
        )


def _dispatch(state: State, instruction: instructions.AnyInstruction, cause: str) -> Refuse | None:
    """Carry an instruction out, or return why it is refused."""
    match instruction:
        case instructions.OpenAccount():
            return _open_account(state, instruction)
        case instructions.DefineGrade():
            return _define_grade(state, instruction)
        case instructions.Deposit():
            return _deposit(state, instruction, cause)
        case instructions.Withdraw():
            return payouts.withdraw(state, instruction, cause)
        case instructions.Certify():
            return _certify(state, instruction)
        case instructions.SettleInterval():
            return delivery.settle_interval(state, instruction)
        case instructions.ReserveUsage():
            return usage.reserve(state, instruction)
        case instructions.ChargeUsage():
            return usage.charge(state, instruction)
        case instructions.Halt():
            return _set_halt(state, instruction, halted=True)
        case instructions.Resume():
            return _set_halt(state, instruction, halted=False)
        case instructions.KillSwitch():
            return _kill(state, instruction)
        case instructions.CorrectDelivery():
            return resettlement.correct(state, instruction)
        case instructions.OverrideIndex():
            return corrections.override_index(state, instruction)
        case instructions.HoldWithdrawal():
            return payouts.hold(state, instruction, cause)
        case instructions.PostWithdrawal():
            return payouts.post(state, instruction, cause)
        case instructions.VoidWithdrawal():
            return payouts.void(state, instruction, cause)
        case instructions.CommitPurchase():
            return purchases.commit(state, instruction)
        case instructions.WithdrawCommitment():
            return purchases.take_back(state, instruction)
        case instructions.PayInsurance():
            return insurance.pay_hour(state, instruction)
        case instructions.CorrectInsurance():
            return insurance.correct(state, instruction)
        case instructions.AnchorReceipts():
            return _anchor(state, instruction)
        case instructions.BidTransfer():
            return transfers.bid(state, instruction)
        case instructions.WithdrawBid():
            return transfers.take_back(state, instruction)
        case instructions.SetLayer():
            return waterfall.set_layer(state, instruction.limit_micros)
        case instructions.BuyPackage():
            return packages.buy(state, instruction, cause)
        case instructions.ResellPackage():
            return packages.resell(state, instruction, cause)


def _open_account(state: State, order: instructions.OpenAccount) -> Refuse | None:
    if order.account in state.accounts:
        return Refuse.ACCOUNT_EXISTS
    if not 1 <= order.account <= NUMBER_MAX or not 1 <= order.group <= NUMBER_MAX:
        return Refuse.INVALID_TERMS
    account = state.open_account(order.account, order.group)
    state.touched_accounts.add(account)
    state.events.append(events.AccountOpened(order.account, order.group))
    return None


def _define_grade(state: State, order: instructions.DefineGrade) -> Refuse | None:
    """List a grade, or change its terms for what is listed from now on."""
    if (
        not contract.is_grade(order.grade)
        or not 1 <= order.reference_price_ticks <= contract.PRICE_TICKS_MAX
        or not 0 <= order.maker_fee_bp <= order.taker_fee_bp <= _BASIS_POINTS_MAX
        or not 1 <= order.band_percent <= 99
        or not 1 <= order.dynamic_percent <= 99
        or not all(0 <= ticks <= contract.PRICE_TICKS_MAX for ticks in order.slot_reference_ticks)
        or not all(0 <= percent <= _PREMIUM_PERCENT_MAX for percent in order.premium_percents)
    ):
        return Refuse.INVALID_TERMS
    grade = state.grades.get(order.grade)
    state.events.append(
        events.GradeDefined(
            order.grade,
            order.reference_price_ticks,
            order.maker_fee_bp,
            order.taker_fee_bp,
            order.slot_reference_ticks,
        )
    )
    if grade is not None:
        grade.reference = order.reference_price_ticks
        grade.maker_fee_bp = order.maker_fee_bp
        grade.taker_fee_bp = order.taker_fee_bp
        grade.band_percent = order.band_percent
        grade.dynamic_percent = order.dynamic_percent
        grade.slot_references = order.slot_reference_ticks
        grade.premium_percents = order.premium_percents
        return None
    grade = Grade(
        state.number("grade"),
        order.grade,
        order.reference_price_ticks,
        order.maker_fee_bp,
        order.taker_fee_bp,
        order.band_percent,
        contract.hour_start(state.at),
        dynamic_percent=order.dynamic_percent,
        slot_references=order.slot_reference_ticks,
        premium_percents=order.premium_percents,
    )
    state.grades[order.grade] = grade
    listing.start_grade(state, grade)
    return None


def _deposit(state: State, order: instructions.Deposit, cause: str) -> Refuse | None:
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if not 1 <= order.amount_micros <= payouts.AMOUNT_MAX:
        return Refuse.INVALID_AMOUNT
    if order.amount_micros - state.exchange[Kind.OUTSIDE] > OUTSIDE_MAX:
        return Refuse.INVALID_AMOUNT
    state.transfer(
        (EXCHANGE, Kind.OUTSIDE),
        (account.id, Kind.CASH),
        order.amount_micros,
        Code.DEPOSIT,
        cause,
    )
    waterfall.repay(state, account, order.amount_micros, cause)
    margin_calls.look(state, account)
    return None


def _certify(state: State, order: instructions.Certify) -> Refuse | None:
    """Set what a cluster is certified for; sales beyond it are withdrawn at once."""
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if order.grade not in state.grades:
        return Refuse.UNKNOWN_GRADE
    if (
        not 0 <= order.lots <= contract.LOTS_MAX
        or not 1 <= order.cluster <= NUMBER_MAX
        or not 0 <= order.valid_until <= NUMBER_MAX
        or not -1 <= order.p0_lots <= order.lots
        or not -1 <= order.timed_lots <= order.lots
    ):
        return Refuse.INVALID_TERMS
    known = state.clusters.get(order.cluster)
    if known is not None and known.account != order.account:
        return Refuse.CLUSTER_OF_ANOTHER
    cluster = Cluster(
        order.cluster,
        order.account,
        order.grade,
        order.lots,
        order.valid_until,
        *slot_rooms.certified(order),
    )
    state.clusters[cluster.id] = account.clusters[cluster.id] = cluster
    state.events.append(
        events.CertificationChanged(
            order.cluster,
            order.account,
            order.grade,
            order.lots,
            order.valid_until,
            state.at,
            cluster.p0_lots,
            cluster.timed_lots,
        )
    )
    for position in account.positions.values():
        position.certified = UNKNOWN
    grades = {order.grade} if known is None else {order.grade, known.grade}
    limits.forget_supply(state, grades)
    for grade in sorted(grades):
        coverage.withdraw_uncovered(state, account, grade)
        slot_rooms.withdraw_beyond(state, account, grade)
        coverage.refresh(state, account, grade)
        insurance.withdraw_ineligible(state, account, grade)
    for concerned in (account, *transfers.beneficiaries(state, account)):
        if concerned is not account:
            coverage.settle_account(state, concerned)
            for grade in sorted(grades):
                coverage.withdraw_uncovered(state, concerned, grade)
        coverage.withdraw_unfunded(state, concerned)
        margin_calls.look(state, concerned)
        buy_in.look(state, concerned)
    return None


def _set_halt(
    state: State, order: instructions.Halt | instructions.Resume, *, halted: bool
) -> Refuse | None:
    """Halt or resume an instrument, a grade or everything; each has a switch of its own."""
    if order.instrument:
        instrument = state.instruments.get(order.instrument)
        if instrument is None:
            return Refuse.UNKNOWN_INSTRUMENT
        target: State | Grade | Instrument = instrument
        affected = [instrument]
    elif order.grade:
        grade = state.grades.get(order.grade)
        if grade is None:
            return Refuse.UNKNOWN_GRADE
        target = grade
        affected = [i for i in state.instruments.values() if i.grade is grade]
    else:
        target = state
        affected = list(state.instruments.values())
    _switch(state, target, affected, halted=halted)
    return None


def _switch(
    state: State,
    target: State | Grade | Instrument,
    affected: list[Instrument],
    *,
    halted: bool,
) -> None:
    """Set a switch; instruments whose state that changes stop, or go on by way of a call."""
    before = {instrument.id: state.state_of(instrument) for instrument in affected}
    target.halted = halted
    for instrument in sorted(affected, key=lambda instrument: instrument.id):
        if state.state_of(instrument) is before[instrument.id]:
            continue
        if halted:
            sessions.halt(state, instrument)
        elif state.at >= instrument.contract.trading_ends_at:
            calendar.end_trading(state, instrument)  # It was due in the halt and could not be done.
        else:
            uncrossing.resume(state, instrument)


def _anchor(state: State, order: instructions.AnchorReceipts) -> Refuse | None:
    """Note a head of the log of receipts; the log only grows, and has one root at each size."""
    if not 0 <= order.size <= NUMBER_MAX or not _ROOT.fullmatch(order.root):
        return Refuse.INVALID_TERMS
    size, root = state.anchored
    if order.size < size or (order.size == size and order.root != root):
        return Refuse.LOG_REWRITTEN
    state.anchored = order.size, order.root
    return None


def _kill(state: State, order: instructions.KillSwitch) -> Refuse | None:
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    account.killed = order.enabled
    state.touched_accounts.add(account)
    if order.enabled:
        withdrawals.withdraw_all(state, account, Close.KILLED)
        commitments.withdraw_all(state, account, Close.KILLED)
    return None
