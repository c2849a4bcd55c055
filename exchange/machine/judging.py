"""What the rules of the market say to an order, whether it is new or comes with other terms.

The rules are walked in the order of `Reject`; who may order at all, and what the session of the
book asks, was asked before. An order is judged by the whole of what it could cost: its worst-case
requirement, together with everything else that rests, is compared with what is available, so
nothing that follows can overdraw. A sale could trade at any better price, and is asked for its fee
there.
"""

from exchange import commands, matching
from exchange.machine import coverage, limits, premiums, sessions, slot_rooms, terms
from exchange.machine.state import UNKNOWN, Instrument, Position, State
from exchange.reasons import Reject

QUANTITY_MAX = 100_000
"""Lots of one order."""


def judge(
    state: State,
    instrument: Instrument,
    position: Position,
    request: commands.PlaceOrder,
    price: int,
    lots: int,
    left: int,
    waits: bool,
    *,
    is_new: bool = True,
) -> Reject | None:
    """Return the first rule that an order breaks with this price, and `left` of its lots to do.

    The sums of the position must not hold the order itself. One that `waits` meets no book yet.
    """
    side, wants, account = request.side, request.terms, position.account
    if not instrument.band_low <= price <= instrument.band_high:
        return Reject.OUTSIDE_BAND
    if lots > QUANTITY_MAX:
        return Reject.QUANTITY_LIMIT
    if wants is not None and terms.shows_too_little(wants.display_lots, lots):
        return Reject.DISPLAY_TOO_SMALL
    if (
        is_new
        and (
            position.order_count >= limits.BOOK_ORDERS_MAX
            or len(account.orders) >= limits.ACCOUNT_ORDERS_MAX
        )
        and terms.may_stay(request)
    ):
        return Reject.OPEN_ORDER_LIMIT
    if account.entered >= limits.ENTERED_FREE and limits.is_out_of_ratio(account):
        return Reject.ORDER_TO_TRADE_RATIO
    if account.debt and not reduces(position, side, left):
        return Reject.ACCOUNT_IN_DEBT
    if wants is not None and wants.reduce_only and not reduces(position, side, left):
        return Reject.REDUCE_ONLY
    bare = coverage.COVERED
    if side > 0:
        if instrument.is_option and not premiums.may_hold(position, left):
            return Reject.NOT_ELIGIBLE
        if limits.is_too_long(state, position, left):
            return Reject.POSITION_LIMIT
    else:
        bare = _offer(state, instrument, position, left)
        if bare.is_too_much:
            return Reject.POSITION_LIMIT
    dearest = price if side > 0 else instrument.band_high
    fee = -(-instrument.unit * dearest * left * instrument.fee_bp_max // 10_000)
    free = account.cash - account.required
    # No sum of a requirement can grow by more. Most accounts have it, and are not asked further.
    rates = instrument.rates
    if side > 0:
        most = max(rates.unit * price, rates.long_mark) * left + fee
    else:
        most = rates.short_cap * left + fee + bare.margin
    if most > free:
        increase = position.required_with(side, price, left, fee) - position.required + bare.margin
        if increase > 0 and increase > free:
            return Reject.INSUFFICIENT_FUNDS
    if bare.is_late:
        return Reject.INSUFFICIENT_COVERAGE
    if bare.margin:
        state.stale.add((account.id, instrument.grade.code))
    is_calm = wants is None and instrument.calm_low <= price <= instrument.calm_high
    if is_calm or waits or not instrument.is_open:
        return None
    return _judge_reach(state, instrument, position, request, price, left)


def _offer(state: State, instrument: Instrument, position: Position, left: int) -> coverage.Bare:
    """Return what offering so many more lots would leave without anything behind it."""
    if instrument.is_energy:
        certified = position.certified
        if certified == UNKNOWN:
            certified = position.certified_lots()
        if position.account.crossing or position.sell_lots + left - position.net > certified:
            return coverage.sell(state, position, left)
    elif instrument.sibling and not slot_rooms.may_offer(position, left):
        return coverage.LATE
    return coverage.COVERED


def reduces(position: Position, side: int, lots: int) -> bool:
    """Whether an order only brings a position nearer to flat, resting orders considered."""
    if side > 0:
        return position.net < 0 and position.buy_lots + lots <= -position.net
    return position.net > 0 and position.sell_lots + lots <= position.net


def _judge_reach(
    state: State,
    instrument: Instrument,
    position: Position,
    request: commands.PlaceOrder,
    price: int,
    left: int,
) -> Reject | None:
    """Return the rule that an order breaks by what it would meet in a book that trades."""
    wants = request.terms or commands.PLAIN
    group = position.account.group
    if not request.price:
        price = terms.protection_price(instrument, request.side)
    if wants.post_only and matching.reach(
        instrument.book, request.side, price, left, group, wants.prevention
    ):
        return Reject.POST_ONLY_WOULD_TRADE
    if (
        not instrument.calm_low <= price <= instrument.calm_high
        and sessions.is_late(instrument, state.at)
        and sessions.leaves_band(instrument, request.side, price, left, group, wants.prevention)
    ):
        return Reject.VOLATILITY
    return None
