"""What can be read of the exchange: orders, fills, books, the tape, candles, the engine's state.

Reads go to the projections, which hold everything that was ever acknowledged: a reply is sent after
the commit, so whoever reads after its reply reads its own write. Instants come in as microseconds
and go out as the database's aware datetimes; every list has an order with a unique last key.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import valkey
from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet

from exchange import auction as core
from exchange import commands, envelope, events, models, wire
from exchange.machine import views
from marketplace import clock
from marketplace.models import Instrument
from settlement import channels, doorbell

BOOK_DEPTH_MAX = 500
BOOK_DEPTH_DEFAULT = 50
CANDLES_MAX = 1_000
CANDLE_INTERVALS = {
    "1m": "1 minute",
    "5m": "5 minutes",
    "15m": "15 minutes",
    "1h": "1 hour",
    "1d": "1 day",
}
RESTING = (models.Order.Status.OPEN, models.Order.Status.PARTIALLY_FILLED)
LIVE = (*RESTING, models.Order.Status.UNTRIGGERED)
LOOKUP_COMMANDS_MAX = 200_000
"""How far back a command is looked for that was sent a moment ago: seconds of a full load."""


# Orders and fills


def order(*, organization: int, order_id: int) -> wire.OrderOut | None:
    """Return an order of the organization with its fills, or None when it has no such order."""
    row = models.Order.objects.filter(organization_id=organization, id=order_id).first()
    return None if row is None else with_fills([row])[0]


def order_by_client_id(*, organization: int, client_order_id: str) -> wire.OrderOut | None:
    """Return the order that a client order id stands for, or None."""
    row = models.Order.objects.filter(
        organization_id=organization, client_order_id=client_order_id
    ).first()
    return None if row is None else with_fills([row])[0]


def orders(
    *,
    organization: int,
    limit: int,
    before: int | None = None,
    symbol: str = "",
    status: str = "",
    side: int = 0,
) -> list[models.Order]:
    """Return up to `limit` orders of the organization, newest first, with ids below `before`.

    `status` is one of the statuses in lower case, or `live` for those that rest in a book or
    wait for their stop price.
    """
    found = models.Order.objects.filter(organization_id=organization)
    if before is not None:
        found = found.filter(id__lt=before)
    if symbol:
        found = found.filter(symbol=symbol)
    if side:
        found = found.filter(side=side)
    if status == "live":
        found = found.filter(status__in=LIVE)
    elif status:
        found = found.filter(status=status.upper())
    return list(found.order_by("-id")[:limit])


def orders_by_id(*, organization: int, ids: Sequence[int]) -> list[wire.OrderOut]:
    """Return orders of the organization with their fills, in the order of their ids."""
    found = models.Order.objects.filter(organization_id=organization, id__in=ids).order_by("id")
    return with_fills(list(found))


def with_fills(rows: Sequence[models.Order]) -> list[wire.OrderOut]:
    """Return orders as callers see them, each with its fills, oldest first."""
    ids = [row.id for row in rows]
    fills: dict[int, list[models.Trade]] = {row.id: [] for row in rows}
    found = models.Trade.objects.filter(Q(maker_order__in=ids) | Q(taker_order__in=ids))
    for trade in found.order_by("id"):
        for own in (trade.maker_order, trade.taker_order):
            if own in fills:
                fills[own].append(trade)
    return [wire.order_row(row, fills[row.id]) for row in rows]


def fills(
    *, organization: int, limit: int, before: int | None = None, symbol: str = ""
) -> list[wire.OwnFill]:
    """Return up to `limit` fills of the organization, newest first, of trades below `before`."""
    found = models.Trade.objects.filter(Q(maker=organization) | Q(taker=organization))
    if before is not None:
        found = found.filter(id__lt=before)
    if symbol:
        found = found.filter(symbol=symbol)
    trades = list(found.order_by("-id")[:limit])
    own = [
        trade.maker_order if trade.maker == organization else trade.taker_order for trade in trades
    ]
    names = dict(models.Order.objects.filter(id__in=own).values_list("id", "client_order_id"))
    return [
        wire.fill_row(trade, order=order, client_order_id=names[order])
        for trade, order in zip(trades, own, strict=True)
    ]


# Market data


def book(*, symbol: str, depth: int = BOOK_DEPTH_DEFAULT) -> wire.Book | None:
    """Return a book with its sequence, both of one instant, or None for an unknown instrument."""
    levels = max(depth, wire.CHECKSUM_LEVELS)
    with connection.cursor() as cursor:
        # One statement is one snapshot: the sequence is that of exactly these levels.
        cursor.execute(
            """
            SELECT instrument.book_sequence, level.side, level.price_ticks, level.lots
            FROM marketplace_instrument instrument
            LEFT JOIN LATERAL (
                (SELECT side, price_ticks, sum(lots - filled_lots - hidden_lots)::bigint AS lots
                 FROM exchange_order
                 WHERE symbol = instrument.symbol AND side = 1
                   AND status IN ('OPEN', 'PARTIALLY_FILLED')
                 GROUP BY side, price_ticks ORDER BY price_ticks DESC LIMIT %s)
                UNION ALL
                (SELECT side, price_ticks, sum(lots - filled_lots - hidden_lots)::bigint
                 FROM exchange_order
                 WHERE symbol = instrument.symbol AND side = -1
                   AND status IN ('OPEN', 'PARTIALLY_FILLED')
                 GROUP BY side, price_ticks ORDER BY price_ticks LIMIT %s)
            ) AS level ON true
            WHERE instrument.symbol = %s
            """,
            [levels, levels, symbol],
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    bids = sorted(((price, lots) for _, side, price, lots in rows if side == 1), reverse=True)
    asks = sorted((price, lots) for _, side, price, lots in rows if side == -1)
    return wire.book_out(symbol, rows[0][0], bids, asks, depth=depth)


def auction(*, symbol: str) -> views.AuctionView | None:
    """Return a call as it runs and what it would give now, or None for an unknown instrument.

    The indication is counted from the orders by the function that the machine ends the call with,
    what icebergs do not show among them.
    """
    with connection.cursor() as cursor:
        # One statement is one snapshot: the orders are those of exactly this call.
        cursor.execute(
            """
            SELECT instrument.state, instrument.reference_price_ticks, call.kind, call.frozen_at,
                   call.ends_at, call.last_price_ticks, call.last_lots, call.last_at,
                   level.side, level.price_ticks, level.lots
            FROM marketplace_instrument instrument
            LEFT JOIN exchange_auction call USING (symbol)
            LEFT JOIN LATERAL (
                SELECT side, price_ticks, sum(lots - filled_lots)::bigint AS lots
                FROM exchange_order
                WHERE symbol = instrument.symbol AND instrument.state = 'CALL'
                  AND status IN ('OPEN', 'PARTIALLY_FILLED')
                GROUP BY side, price_ticks
            ) AS level ON true
            WHERE instrument.symbol = %s
            """,
            [symbol],
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    state, reference, kind, frozen_at, ends_at, last_price, last_lots, last_at, *_ = rows[0]
    is_call = state == "CALL" and kind is not None
    bids = sorted(((price, lots) for *_, side, price, lots in rows if side == 1), reverse=True)
    asks = sorted((price, lots) for *_, side, price, lots in rows if side == -1)
    found = core.uncross(bids, asks, reference) if is_call else core.NOTHING
    return views.AuctionView(
        symbol=symbol,
        state=state,
        kind=kind if is_call else "",
        frozen_at=clock.to_micros(frozen_at) if is_call else 0,
        ends_at=clock.to_micros(ends_at) if is_call else 0,
        indicative_price=found.price,
        indicative_lots=found.lots,
        surplus=abs(found.surplus),
        surplus_side=(found.surplus > 0) - (found.surplus < 0),
        last_price=last_price or 0,
        last_lots=last_lots or 0,
        last_at=clock.to_micros(last_at) if last_at else 0,
    )


def trades(*, symbol: str, limit: int, before: int | None = None) -> list[models.Trade]:
    """Return up to `limit` trades of an instrument, newest first, with ids below `before`."""
    found = models.Trade.objects.filter(symbol=symbol)
    if before is not None:
        found = found.filter(id__lt=before)
    return list(found.order_by("-at", "-id")[:limit])


def trade_symbols(ids: Sequence[int]) -> dict[int, str]:
    """Return the instruments of trades: what a statement needs to say what a fee was for."""
    return dict(models.Trade.objects.filter(id__in=ids).values_list("id", "symbol"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """Prices of an interval in ticks; an interval without trades has no candle."""

    starts_at: datetime
    open: int
    high: int
    low: int
    close: int
    lots: int
    trades: int


def candles(
    *, symbol: str, interval: str, limit: int = CANDLES_MAX, before: datetime | None = None
) -> list[Candle]:
    """Return up to `limit` candles, newest first, that start before an instant.

    Intervals are aligned to the epoch in UTC. One without trades is left out, not filled in.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT date_bin(%s::interval, at, timestamptz 'epoch') AS starts_at,
                   (array_agg(price_ticks ORDER BY at, id))[1],
                   max(price_ticks), min(price_ticks),
                   (array_agg(price_ticks ORDER BY at DESC, id DESC))[1],
                   sum(lots)::bigint, count(*)
            FROM exchange_trade
            WHERE symbol = %s AND (%s::timestamptz IS NULL OR at < %s)
            GROUP BY 1 ORDER BY 1 DESC LIMIT %s
            """,
            [CANDLE_INTERVALS[interval], symbol, before, before, limit],
        )
        return [
            Candle(
                starts_at=row[0],
                open=row[1],
                high=row[2],
                low=row[3],
                close=row[4],
                lots=row[5],
                trades=row[6],
            )
            for row in cursor.fetchall()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """An instrument with the best prices of its book in ticks, None where a side is empty."""

    instrument: Instrument
    best_bid: int | None
    best_ask: int | None


def instruments(
    *,
    grade: str = "",
    product: str = "",
    state: str = "",
    after: int | None = None,
    limit: int = 1_000,
) -> list[Quoted]:
    """Return up to `limit` instruments in order of id, with ids above `after`.

    `state` is one of the states, or `live` for those that are not closed or settled.
    """
    found = Instrument.objects.all()
    if grade:
        found = found.filter(grade_id=grade)
    if product:
        found = found.filter(product=product.upper())
    if state == "live":
        found = found.exclude(state__in=(Instrument.State.CLOSED, Instrument.State.SETTLED))
    elif state:
        found = found.filter(state=state.upper())
    if after is not None:
        found = found.filter(id__gt=after)
    return quoted(found.order_by("id")[:limit])


def instrument(*, symbol: str) -> Quoted | None:
    """Return one instrument, or None when it is unknown."""
    found = quoted(Instrument.objects.filter(symbol=symbol))
    return found[0] if found else None


def quoted(found: "QuerySet[Instrument]") -> list[Quoted]:
    """Return instruments with the best prices of their books."""
    rows = list(found)
    bests = best_prices([row.symbol for row in rows])
    return [
        Quoted(instrument=row, best_bid=bid, best_ask=ask)
        for row in rows
        for bid, ask in [bests.get(row.symbol, (None, None))]
    ]


def best_prices(symbols: Sequence[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return best bid and best ask in ticks of books that have any."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT symbol, max(price_ticks) FILTER (WHERE side = 1),
                   min(price_ticks) FILTER (WHERE side = -1)
            FROM exchange_order
            WHERE status IN ('OPEN', 'PARTIALLY_FILLED') AND symbol = ANY(%s)
            GROUP BY symbol
            """,
            [list(symbols)],
        )
        return {row[0]: (row[1], row[2]) for row in cursor.fetchall()}


# The engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What the engine says of itself; `state` is running, clock_skew or down."""

    epoch: int
    sequence: int
    at: datetime
    state: str


def status(group: str = doorbell.GROUP) -> EngineStatus:
    """Return the engine's state, and where the journal ends."""
    head = models.Head.objects.filter(group=group).first()
    state = "down"
    try:
        with valkey.Valkey.from_url(settings.VALKEY_URL, socket_timeout=1.0) as client:
            data: Any = client.get(channels.status_key(group))
        if data is not None:
            state = json.loads(data)["state"]
    except (valkey.ValkeyError, OSError):
        state = "down"
    if head is None:
        return EngineStatus(epoch=0, sequence=0, at=clock.EPOCH, state=state)
    return EngineStatus(epoch=head.epoch, sequence=head.sequence, at=head.at, state=state)


def epoch(group: str = doorbell.GROUP) -> int:
    """Return the present epoch of a clearing group; 0 before the first."""
    found = models.Head.objects.filter(group=group).values_list("epoch", flat=True).first()
    return found or 0


def first_answer(
    *, organization: int, client_order_id: str, group: str = doorbell.GROUP
) -> tuple[bytes, int, list[events.Event]] | None:
    """Return fingerprint, sequence and events of the command that entered an order, or None.

    These are the events its first answer was made of, whatever became of the order since.
    """
    row = models.Order.objects.filter(
        organization_id=organization, client_order_id=client_order_id
    ).first()
    if row is None:
        return None
    batch = (
        models.JournalBatch.objects.filter(group=group, sequence__gte=row.placed_sequence)
        .order_by("sequence")
        .first()
    )
    assert batch is not None, "an order stands in the journal"
    happened = events.decode_batch(bytes(batch.events))
    own = envelope.of_order(row.id, row.placed_sequence, happened)
    return bytes(row.fingerprint), row.placed_sequence, own


def outcome(command: commands.Asked, group: str = doorbell.GROUP) -> envelope.Reply | None:
    """Return what became of a command whose reply was lost, or None when nothing is known of it.

    A cancel counts as done when its order has left the book, whatever took it out.
    """
    if isinstance(command, commands.PlaceOrder | commands.PlaceStrip):
        found = first_answer(
            organization=command.account, client_order_id=command.client_order_id, group=group
        )
        if found is None:
            return None
        fingerprint, sequence, happened = found
        result = envelope.APPLIED if fingerprint == command.fingerprint else envelope.KEY_REUSE
        return envelope.Reply(0, result, sequence, 0, happened)
    if isinstance(command, commands.CancelOrder):
        row = (
            models.Order.objects.filter(organization_id=command.account, id=command.order)
            .exclude(status__in=LIVE)
            .first()
        )
        if row is None:
            return None
        closed = events.OrderClosed(
            row.id,
            row.organization_id,
            row.status.lower(),
            row.reason,
            row.sequence,
            clock.to_micros(row.updated_at),
        )
        return envelope.Reply(0, envelope.APPLIED, row.sequence, closed.at, [closed])
    if isinstance(command, commands.AmendOrder | commands.CancelAllAfter):
        return _journaled(command, group)
    return None


def _journaled(
    command: commands.AmendOrder | commands.CancelAllAfter, group: str
) -> envelope.Reply | None:
    """Return what the journal says of a command that was sent a moment ago, None if nothing.

    Its nonce makes its bytes its own, so the batch that has them is the one that carried it out.
    """
    head = models.Head.objects.get(group=group).sequence
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT commands, events FROM exchange_journalbatch
            WHERE "group" = %s AND sequence > %s AND position(%s::bytea IN commands) > 0
            """,
            [group, head - LOOKUP_COMMANDS_MAX, commands.encode(command)],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    for item in commands.decode_batch(bytes(row[0])):
        if item.command == command:
            happened = events.decode_batch(bytes(row[1]))
            own = envelope.caused_by(command, item.sequence, happened)
            return envelope.Reply(0, envelope.APPLIED, item.sequence, item.at, own)
    return None  # set aside: it broke an invariant
