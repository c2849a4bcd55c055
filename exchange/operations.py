"""What code of our own asks of the engine: pages, the market-maker, listings, the demo's clock.

These wait for the outcome like any caller of order entry does, through the same stream; nothing
here writes a row. Outside of asyncio only: each thread has a connection of its own.
"""

import threading
from collections.abc import Sequence

from exchange import client, commands, envelope, events, intake, queries, reasons, wire
from marketplace import clock, contract, errors, http


class Rejected(errors.Refusal):
    """The order was refused by a rule of the market; its code is the rule's name."""

    code, status, title = "rejected", 422, "Order rejected"


class UnknownOrder(errors.NotFound):
    """No such order of this organization."""

    code, title = "unknown_order", "Unknown order"


class NotResting(errors.Refusal):
    """The order has left the book already."""

    code, status, title = "order_closed", 422, "The order is not in the book any more"


def place(
    *,
    organization: int,
    instrument: str,
    side: int,
    price_ticks: int,
    lots: int,
    client_order_id: str,
    time_in_force: str = "GTC",
) -> wire.OrderOut:
    """Place a limit order and return it as its command left it; `side` is 1 to buy, -1 to sell.

    The same id with the same terms returns the first outcome again.

    :raises Rejected: with the reason as its code.
    :raises KeyReuse: when the id stands for another order.
    :raises Unavailable: when it was not placed and will not be.
    :raises OutcomeUnknown: when that could not be learned; ask again with the same id.
    """
    command = place_command(
        organization=organization,
        instrument=instrument,
        side=side,
        price_ticks=price_ticks,
        lots=lots,
        client_order_id=client_order_id,
        time_in_force=time_in_force,
    )
    (outcome,) = submit([command])
    return order_of(outcome)


def place_command(
    *,
    organization: int,
    instrument: str,
    side: int,
    price_ticks: int,
    lots: int,
    client_order_id: str,
    time_in_force: str = "GTC",
    terms: commands.Terms | None = None,
) -> commands.PlaceOrder:
    """Return the command of an order, with the digest that tells its retries.

    :raises Malformed: when the symbol or the id is none, so that it could not be stored.
    """
    http.parse_idempotency_key(client_order_id, "client_order_id")
    if not 0 < len(instrument) <= intake.SYMBOL_LENGTH_MAX or not instrument.isascii():
        raise http.malformed("instrument", "invalid_value", "no such form of symbol")
    return commands.PlaceOrder(
        account=organization,
        instrument=instrument,
        side=side,
        price=price_ticks,
        lots=lots,
        time_in_force=time_in_force,
        client_order_id=client_order_id,
        fingerprint=intake.fingerprint(
            instrument=instrument,
            side=side,
            price_ticks=price_ticks,
            lots=lots,
            time_in_force=time_in_force,
            terms=terms,
        ),
        terms=terms,
    )


def cancel(*, organization: int, order: int) -> wire.OrderOut:
    """Withdraw a resting order and return it.

    :raises UnknownOrder: when the organization has no such order.
    :raises NotResting: when it is not in the book any more.
    :raises Unavailable: when nothing was done.
    :raises OutcomeUnknown: when that could not be learned.
    """
    (outcome,) = submit([commands.CancelOrder(account=organization, order=order)])
    if isinstance(outcome, errors.Refusal):
        raise outcome
    return canceled(organization=organization, order=order, reply=outcome)


def cancel_all(
    *, organization: int, instrument: str = "", grade: str = "", side: int = 0
) -> list[int]:
    """Withdraw every resting order that matches and return their ids.

    :raises Unavailable: when nothing was done.
    :raises OutcomeUnknown: when that could not be learned; it may be asked again.
    """
    command = commands.CancelOrders(
        account=organization, instrument=instrument, grade=grade, side=side
    )
    (outcome,) = submit([command])
    if isinstance(outcome, errors.Refusal):
        raise outcome
    return closed_orders(outcome)


def submit(wanted: Sequence[commands.Asked]) -> list[client.Outcome]:
    """Send commands together and return the outcome of each: a reply, or its refusal.

    This is the way of whoever requotes in batches: one entry of the stream, one wait.
    """
    return _sender().submit_many(wanted)


def tick() -> int:
    """Bring the calendar up to the market's present and return the instant it reached.

    For a demo whose clock was moved: when this returns, everything due by then has happened in the
    machine. Instructions that follow from it may still be on their way.

    :raises Unavailable: when there is no engine.
    :raises OutcomeUnknown: when it did not answer in time.
    """
    (outcome,) = submit([commands.Tick()])
    if isinstance(outcome, errors.Refusal):
        raise outcome
    return outcome.at


def order_of(outcome: client.Outcome) -> wire.OrderOut:
    """Return the order or strip that an outcome is of.

    :raises Rejected: with the reason as its code.
    :raises Refusal: the outcome itself, when it is one.
    """
    if isinstance(outcome, errors.Refusal):
        raise outcome
    order = wire.order_out(outcome.events)
    if order.status == "rejected":
        raise rejected(order)
    return order


def rejected(order: wire.OrderOut) -> Rejected:
    """Return the refusal of an order that a rule refused."""
    return refused(order.reason or "rejected")


def refused(reason: str, what: str = "order") -> Rejected:
    """Return the refusal of an order, an amendment or a cancel (`what`) that a rule refused.

    One for too many orders says when the next hour begins, which counts them anew.
    """
    detail = f"the {what} was refused: {reason.replace('_', ' ')}"
    if reason != reasons.Reject.ORDER_TO_TRADE_RATIO:
        return Rejected(detail, code=reason)
    left = contract.HOUR - clock.now_micros() % contract.HOUR
    return Rejected(detail, code=reason, status=429, retry_after_s=-(-left // clock.SECOND))


def amend(
    *,
    organization: int,
    order: int,
    price_ticks: int = 0,
    lots: int = 0,
    stop_price_ticks: int = 0,
    decimals: int = 0,
) -> wire.OrderOut:
    """Change a live order and return it as it stands now; zero keeps what it has.

    With `decimals` the prices are ticks of an instrument that has so many, and of no other.

    :raises UnknownOrder: when the organization has no such order.
    :raises NotResting: when it has left the book already.
    :raises Rejected: with the rule as its code; nothing changed.
    :raises Unavailable: when nothing was done.
    :raises OutcomeUnknown: when that could not be learned.
    """
    command = intake.amend_command(
        organization,
        order,
        price=price_ticks,
        lots=lots,
        stop_price=stop_price_ticks,
        decimals=decimals,
    )
    (outcome,) = submit([command])
    if isinstance(outcome, errors.Refusal):
        raise outcome
    return amended(organization=organization, order=order, reply=outcome)


def amended(*, organization: int, order: int, reply: envelope.Reply) -> wire.OrderOut:
    """Return the order that an amendment's reply is of, as it stands now.

    :raises UnknownOrder: when the organization has no such order.
    :raises NotResting: when it has left the book already.
    :raises Rejected: with the rule as its code; nothing changed.
    """
    return amended_order(queries.order(organization=organization, order_id=order), reply)


def amended_order(order: wire.OrderOut | None, reply: envelope.Reply) -> wire.OrderOut:
    """Return an order that was read after its amendment, which `reply` answered.

    :raises UnknownOrder: when there is none.
    :raises NotResting: when it has left the book already.
    :raises Rejected: with the rule as its code; nothing changed.
    """
    if order is None:
        raise UnknownOrder()
    for event in reply.events:
        if isinstance(event, events.AmendRefused):
            raise _refused_change(order, event.reason, "amendment")
    return order


def _refused_change(order: wire.OrderOut, reason: str, what: str) -> errors.Refusal:
    """Return why a known order was not amended or canceled."""
    if reason == reasons.UNKNOWN_ORDER:
        return NotResting(f"the order is {order.status.replace('_', ' ')}")
    return refused(reason, what)


def canceled(*, organization: int, order: int, reply: envelope.Reply) -> wire.OrderOut:
    """Return the order that a cancel's reply is of, as it stands now.

    :raises UnknownOrder: when the organization has no such order.
    :raises NotResting: when the cancel came too late.
    :raises Rejected: when its auction is in its last minutes.
    """
    return canceled_order(queries.order(organization=organization, order_id=order), reply)


def canceled_order(order: wire.OrderOut | None, reply: envelope.Reply) -> wire.OrderOut:
    """Return an order that was read after its cancel, which `reply` answered.

    :raises UnknownOrder: when there is none.
    :raises NotResting: when the cancel came too late.
    :raises Rejected: when its auction is in its last minutes.
    """
    if order is None:
        raise UnknownOrder()
    for event in reply.events:
        if isinstance(event, events.CancelRefused):
            raise _refused_change(order, event.reason, "cancel")
    return order


def closed_orders(reply: envelope.Reply) -> list[int]:
    """Return the orders that a cancel took out of the book."""
    return [event.order for event in reply.events if isinstance(event, events.OrderClosed)]


def _sender() -> client.SyncClient:
    """Return this thread's client."""
    sender: client.SyncClient | None = getattr(_local, "sender", None)
    if sender is None:
        sender = client.SyncClient()
        _local.sender = sender
    return sender


_local = threading.local()
