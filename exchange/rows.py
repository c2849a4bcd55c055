"""Orders, trades, auctions and what becomes of books as rows, each written once for a batch.

A plain limit order is inserted and changed by the narrowest statements: what only other orders have
is left to the database's defaults. A strip is over with the command that entered it, so its row is
made from that command's events. The engine calls this inside the transaction of its batch.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from exchange import commands, events, wire
from exchange.machine import views
from marketplace import rowset

_ORDERS = rowset.Table(
    "exchange_order",
    {
        "id": "bigint",
        "organization_id": "bigint",
        "symbol": "text",
        "side": "smallint",
        "price_ticks": "bigint",
        "lots": "bigint",
        "filled_lots": "bigint",
        "notional_ticks": "bigint",
        "fee_micros": "bigint",
        "time_in_force": "text",
        "status": "text",
        "reason": "text",
        "client_order_id": "text",
        "fingerprint": "bytea",
        "sequence": "bigint",
        "placed_sequence": "bigint",
        "created_at": rowset.INSTANT,
        "updated_at": rowset.INSTANT,
    },
    key=["id"],
)
"""A plain limit order; the database knows the rest of it."""
_OTHER_ORDERS = rowset.Table(
    "exchange_order",
    {
        **_ORDERS.columns,
        "type": "text",
        "stop_price_ticks": "bigint",
        "hidden_lots": "bigint",
        "display_lots": "bigint",
        "min_lots": "bigint",
        "expires_at": rowset.INSTANT,
        "post_only": "boolean",
        "reduce_only": "boolean",
        "prevention": "text",
    },
    key=["id"],
)
_STRIPS = rowset.Table(
    "exchange_order",
    {
        **_ORDERS.columns,
        "type": "text",
        "min_share": "smallint",
        "grade": "text",
        "alternatives": "text",
    },
    key=["id"],
)
_ORDER_CHANGES = rowset.Table(
    "exchange_order",
    {
        "id": "bigint",
        "filled_lots": "bigint",
        "notional_ticks": "bigint",
        "fee_micros": "bigint",
        "status": "text",
        "reason": "text",
        "sequence": "bigint",
        "updated_at": rowset.INSTANT,
    },
    key=["id"],
)
_OTHER_CHANGES = rowset.Table(
    "exchange_order",
    {
        **_ORDER_CHANGES.columns,
        "price_ticks": "bigint",
        "lots": "bigint",
        "stop_price_ticks": "bigint",
        "hidden_lots": "bigint",
    },
    key=["id"],
)
"""Of orders that were amended, or show only a part of themselves."""
_TRADES = rowset.Table(
    "exchange_trade",
    {
        "id": "bigint",
        "symbol": "text",
        "price_ticks": "bigint",
        "lots": "bigint",
        "maker_order": "bigint",
        "taker_order": "bigint",
        "maker": "bigint",
        "taker": "bigint",
        "taker_side": "smallint",
        "maker_fee_micros": "bigint",
        "taker_fee_micros": "bigint",
        "is_auction": "boolean",
        "sequence": "bigint",
        "at": rowset.INSTANT,
    },
    key=["id"],
)


def write_orders(
    writer: rowset.Writer,
    orders: Sequence[views.OrderView],
    facts: events.Facts,
    happened: Sequence[events.Event],
) -> None:
    """Store every order of a batch once, as it stands after it; rejected ones are remembered."""
    placed = {event.order: event.sequence for event in facts.get(events.OrderPlaced, ())}
    amended = {event.order for event in facts.get(events.OrderAmended, ())}
    rejected = facts.get(events.OrderRejected, ())
    strips = [*facts.get(events.StripPlaced, ()), *facts.get(events.StripRejected, ())]
    new: list[tuple[Any, ...]] = []
    other: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    other_changed: list[tuple[Any, ...]] = []
    for view in orders:
        terms = view.request.terms
        if view.order in placed:
            row = _order_row(view, placed[view.order])
            if terms is None:
                new.append(row)
            else:
                other.append(row + _terms_row(terms, view.stop_price, view.hidden))
        elif terms is None and view.order not in amended:
            changed.append(_changed_row(view))
        else:
            other_changed.append(
                (
                    *_changed_row(view),
                    _limit(view.request, view.price),
                    view.lots,
                    _stop(terms, view.stop_price),
                    view.hidden,
                )
            )
    for event in rejected:
        row = _rejected_row(event)
        terms = event.request.terms
        if terms is None:
            new.append(row)
        else:
            other.append(row + _terms_row(terms, terms.stop_price, 0))
    _ORDERS.insert(writer, new)
    _OTHER_ORDERS.insert(writer, other)
    _STRIPS.insert(writer, [_strip_row(event, happened) for event in strips])
    _ORDER_CHANGES.update(writer, changed)
    _OTHER_CHANGES.update(writer, other_changed)


def _changed_row(view: views.OrderView) -> tuple[Any, ...]:
    return (
        view.order,
        view.filled,
        view.value_ticks,
        view.fee,
        view.status.upper(),
        view.reason,
        view.sequence,
        view.updated_at,
    )


def _order_row(view: views.OrderView, placed_sequence: int) -> tuple[Any, ...]:
    return (
        view.order,
        view.account,
        view.symbol,
        view.side,
        _limit(view.request, view.price),
        view.lots,
        view.filled,
        view.value_ticks,
        view.fee,
        view.request.time_in_force,
        view.status.upper(),
        view.reason,
        view.request.client_order_id,
        view.request.fingerprint,
        view.sequence,
        placed_sequence,
        view.created_at,
        view.updated_at,
    )


def _rejected_row(event: events.OrderRejected) -> tuple[Any, ...]:
    request = event.request
    return (
        event.order,
        request.account,
        request.instrument,
        request.side,
        _limit(request, request.price),
        request.lots,
        0,
        0,
        0,
        request.time_in_force,
        "REJECTED",
        event.reason,
        request.client_order_id,
        request.fingerprint,
        event.sequence,
        event.sequence,
        event.at,
        event.at,
    )


def _terms_row(terms: commands.Terms, stop_price: int, hidden: int) -> tuple[Any, ...]:
    """Return what a row has beyond a plain limit order's."""
    return (
        terms.type,
        _stop(terms, stop_price),
        hidden,
        terms.display_lots or None,
        terms.min_lots or None,
        terms.expires_at or None,
        terms.post_only,
        terms.reduce_only,
        terms.prevention,
    )


def _limit(request: commands.PlaceOrder, price: int) -> int | None:
    """Return an order's limit; what a market order is limited to is not its own."""
    terms = request.terms
    has_none = terms is not None and terms.type in (commands.MARKET, commands.STOP)
    return None if has_none else price


def _stop(terms: commands.Terms | None, stop_price: int) -> int | None:
    """Return the stop price of an order that has one."""
    has_one = terms is not None and terms.type in (commands.STOP, commands.STOP_LIMIT)
    return stop_price if has_one else None


def _strip_row(
    event: events.StripPlaced | events.StripRejected, happened: Sequence[events.Event]
) -> tuple[Any, ...]:
    """Return the row of a strip, which is over with the command that entered it."""
    request = event.request
    outcome = wire.strip_outcome(event, happened)
    return (
        event.order,
        request.account,
        outcome.symbol,
        request.side,
        request.price,
        request.lots,
        outcome.filled,
        outcome.value_ticks,
        outcome.fee,
        outcome.time_in_force,
        outcome.status.upper(),
        outcome.reason,
        request.client_order_id,
        request.fingerprint,
        event.sequence,
        event.sequence,
        event.at,
        event.at,
        "STRIP",
        request.min_share,
        request.grade,
        ",".join(request.alternatives),
    )


def write_trades(writer: rowset.Writer, trades: Iterable[events.Traded]) -> None:
    """Store the trades of a batch."""
    rows = [
        (
            event.trade,
            event.instrument,
            event.price,
            event.lots,
            event.maker_order,
            event.taker_order,
            event.maker,
            event.taker,
            event.taker_side,
            event.maker_fee,
            event.taker_fee,
            event.is_auction,
            event.sequence,
            event.at,
        )
        for event in trades
    ]
    _TRADES.insert(writer, rows)


_CALLS = rowset.Table(
    "exchange_auction",
    {"symbol": "text", "kind": "text", "frozen_at": rowset.INSTANT, "ends_at": rowset.INSTANT},
    key=["symbol"],
)
_PRICES = rowset.Table(
    "exchange_auction",
    {
        "symbol": "text",
        "last_price_ticks": "bigint",
        "last_lots": "bigint",
        "last_at": rowset.INSTANT,
    },
    key=["symbol"],
)


def write_auctions(
    writer: rowset.Writer,
    opened: Iterable[events.CallOpened],
    uncrossed: Iterable[events.Uncrossed],
) -> None:
    """Store the calls that began and the auctions that made a price, the last of each book."""
    calls = {
        event.instrument: (
            event.instrument,
            event.kind,
            event.frozen_at,
            event.ends_at,
        )
        for event in opened
    }
    prices = {
        event.instrument: (
            event.instrument,
            event.price,
            event.lots,
            event.at,
        )
        for event in uncrossed
        if event.lots
    }
    _CALLS.upsert(writer, list(calls.values()))
    _PRICES.update(writer, list(prices.values()))


_DELTAS = rowset.Table(
    "exchange_bookdelta",
    {
        "symbol": "text",
        "previous_sequence": "bigint",
        "sequence": "bigint",
        "body": "bytea",
        "at": rowset.INSTANT,
    },
    key=["symbol", "sequence"],
)


def write_deltas(
    writer: rowset.Writer, deltas: Sequence[tuple[str, int, int, bytes]], at: int
) -> None:
    """Keep what a batch did to each book, as it is published (`exchange.feed.Delta`)."""
    _DELTAS.insert(writer, [(*delta, at) for delta in deltas])
