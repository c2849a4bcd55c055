"""The channels of the WebSocket: what each is called, who may read it, and how it begins.

Every channel begins with a snapshot of what is true now. It is read in one repeatable-read
transaction together with the number of the last message that its topic had, so that whoever merges
it with the feed knows exactly which of the updates it already holds, and which comes next. A topic
is one instrument, grade, organization or pool of a channel, and counts its messages by itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import cookies
from typing import Any, Final, TypeVar

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils.crypto import constant_time_compare

from exchange import deltas as exchange_deltas
from exchange import feed
from exchange import queries as exchange_queries
from exchange import wire as exchange_wire
from marketplace import candles, clock, contract, disclosure, errors, keys, models, queries, wire
from settlement import models as settlement_models
from settlement import queries as settlement_queries

ALL: Final = "*"
"""The name that stands for every instrument, grade or pool of a channel."""
TRADES_MAX: Final = 50
ORDERS_MAX: Final = 500
FILLS_MAX: Final = 100
CANDLES_MAX: Final = 100

T = TypeVar("T")
log = logging.getLogger(__name__)


class Message(msgspec.Struct, kw_only=True):
    """A message of a channel, as INTERFACES section 4 has it."""

    channel: str
    sequence: int
    data: Any
    instrument: str | None = None
    previous_sequence: int | None = None
    type: str = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a subscription begins, and how many messages each of its topics has had so far.

    Topics have the names by which the feed publishes them.
    """

    messages: list[Message]
    sequences: dict[str, int]
    candle: candles.Candle | None = None
    """The running candle, for a subscription to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One channel; `snapshot` is given the name within it: a symbol, a grade, an organization."""

    name: str
    snapshot: Callable[..., Snapshot]
    is_private: bool = False
    may_be_all: bool = False
    has_interval: bool = False
    """Its snapshot is given an interval too, and its messages are folded from the tape."""
    is_polled: bool = False
    """The engine does not announce it; it is read again and compared."""

    @property
    def source(self) -> str:
        """Name of the feed's topics that it is made of."""
        return "trades" if self.has_interval else self.name


async def read(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that reads the database, on a thread, and return its connection.

    :raises Unavailable: when the database cannot be read.
    """

    def call() -> T:
        try:
            return function(*arguments)
        except DatabaseError:
            log.warning("the database cannot be read", exc_info=True)
            raise errors.Unavailable("try again in a moment", retry_after_s=1) from None
        finally:
            connection.close()

    return await sync_to_async(call, thread_sensitive=False)()


def _at_one_instant(function: Callable[..., Snapshot]) -> Callable[..., Snapshot]:
    """Read a snapshot and the numbers of its topics as of one instant."""

    def together(*arguments: str) -> Snapshot:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return function(*arguments)

    return together


def _one(channel: str, name: str, sequence: int, data: Any, instrument: str | None) -> Snapshot:
    """Return the snapshot of a single topic."""
    message = Message(channel=channel, instrument=instrument, sequence=sequence, data=data)
    return Snapshot(messages=[message], sequences={f"{channel}:{name}": sequence})


def _book(symbol: str) -> Snapshot:
    found = exchange_queries.book(symbol=symbol, depth=exchange_queries.BOOK_DEPTH_MAX)
    if found is None:
        raise errors.NotFound(f"there is no instrument {symbol[:40]}")
    data = {"bids": found.bids, "asks": found.asks, "checksum": found.checksum}
    return _one("book", symbol, found.sequence, data, symbol)


def _trades(symbol: str) -> Snapshot:
    sequence = _instrument(symbol).trades_sequence
    rows = exchange_queries.trades(symbol=symbol, limit=TRADES_MAX)
    data = [exchange_wire.trade_row(row) for row in reversed(rows)]
    return _one("trades", symbol, sequence, data, symbol)


def _auction(symbol: str) -> Snapshot:
    """Return the call of an instrument, if one runs, and the last price an auction made."""
    sequence = _instrument(symbol).auction_sequence
    found = exchange_queries.auction(symbol=symbol)
    assert found is not None, "a listed instrument has an auction, or had none yet"
    return _one("auction", symbol, sequence, exchange_wire.auction_out(found), symbol)


def _candles(symbol: str, interval: str) -> Snapshot:
    """Return the latest candles, the oldest first; the last of them is the running one."""
    sequence = _instrument(symbol).trades_sequence
    rows = exchange_queries.candles(symbol=symbol, interval=interval, limit=CANDLES_MAX)
    found = [
        candles.Candle(
            starts_at=clock.to_micros(row.starts_at),
            open=row.open,
            high=row.high,
            low=row.low,
            close=row.close,
            volume=row.lots,
            trades=row.trades,
        )
        for row in reversed(rows)
    ]
    decimals = contract.decimals_of(symbol)
    data = [candles.candle_out(candle, interval, decimals) for candle in found]
    message = Message(channel="candles", instrument=symbol, sequence=sequence, data=data)
    return Snapshot(
        messages=[message],
        sequences={f"trades:{symbol}": sequence},
        candle=found[-1] if found else None,
    )


def _ticker(symbol: str) -> Snapshot:
    """Return the ticker of an instrument, or of all that are not settled."""
    if symbol == ALL:
        wanted = models.Instrument.objects.exclude(state=models.Instrument.State.SETTLED)
        found = exchange_queries.quoted(wanted.order_by("id"))
    else:
        _instrument(symbol)
        found = exchange_queries.quoted(models.Instrument.objects.filter(symbol=symbol))
    messages = [
        Message(
            channel="ticker",
            instrument=one.instrument.symbol,
            sequence=one.instrument.ticker_sequence,
            data=ticker_of(one),
        )
        for one in found
    ]
    return _many("ticker", messages)


def _many(channel: str, messages: list[Message]) -> Snapshot:
    """Return the snapshot of several topics, with a message for each."""
    return Snapshot(
        messages=messages,
        sequences={f"{channel}:{message.instrument}": message.sequence for message in messages},
    )


def ticker_of(one: exchange_queries.Quoted) -> dict[str, Any]:
    """Return an instrument at a glance."""
    row = one.instrument
    decimals = contract.decimals_of(row.symbol)
    return {
        "state": row.state.lower(),
        "last": wire.optional_price_text(row.last_price_ticks, decimals),
        "best_bid": wire.optional_price_text(one.best_bid, decimals),
        "best_ask": wire.optional_price_text(one.best_ask, decimals),
        "volume": row.volume_lots,
        "open_interest": row.open_interest_lots,
        "reference_price": wire.price_text(row.reference_price_ticks, decimals),
        "band": [
            wire.price_text(row.band_low_ticks, decimals),
            wire.price_text(row.band_high_ticks, decimals),
        ],
    }


def _index(grade: str) -> Snapshot:
    """Return the latest value of a grade, or of every grade."""
    latest = settlement_models.IndexValue.objects.order_by("grade", "-sequence")
    if grade != ALL:
        queries.grade(grade)
        latest = latest.filter(grade=grade)
    messages = [
        Message(
            channel="index",
            instrument=row.grade,
            sequence=row.sequence,
            data={
                "hour": wire.moment_text(row.hour_starts_at),
                "price": wire.price_text(row.price_ticks),
                "method": row.method,
                "version": row.version,
                "at": wire.moment_text(row.at),
            },
        )
        for row in latest.distinct("grade")
    ]
    return _many("index", messages)


def _orders(organization: str) -> Snapshot:
    sequence = settlement_queries.account(int(organization)).orders_sequence
    rows = exchange_queries.orders(organization=int(organization), limit=ORDERS_MAX, status="live")
    data = [_without_fills(one) for one in exchange_queries.with_fills(rows)]
    return _one("orders", organization, sequence, data, None)


def _without_fills(order: exchange_wire.OrderOut) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(order)
    del values["fills"]
    return values


def _fills(organization: str) -> Snapshot:
    sequence = settlement_queries.account(int(organization)).fills_sequence
    found = exchange_queries.fills(organization=int(organization), limit=FILLS_MAX)
    return _one("fills", organization, sequence, found[::-1], None)


def _account(organization: str) -> Snapshot:
    row = settlement_queries.account(int(organization))
    names = ("cash", "available", "order_margin", "initial_margin", "maintenance_margin")
    data: dict[str, Any] = {
        name: wire.micros_text(getattr(row, f"{name}_micros"))
        for name in (*names, "withdrawable", "escrow")
    }
    due_at = row.margin_call_due_at
    call = feed.margin_call_out(
        clock.to_micros(due_at) if due_at is not None else 0,
        initial=row.initial_margin_micros,
        cash=row.cash_micros,
    )
    data["margin_call"] = msgspec.to_builtins(call)
    return _one("account", organization, row.account_sequence, data, None)


def _entitlements(organization: str) -> Snapshot:
    now = clock.now()
    found = settlement_queries.entitlements(int(organization), now=now, since=now)
    data = [
        {
            "id": str(row.id),
            "grade": row.grade,
            "starts_at": wire.moment_text(row.starts_at),
            "ends_at": wire.moment_text(row.ends_at),
            "lots": row.lots,
            "delivered_ntu": wire.ntu_text(row.delivered_mntu),
            "remaining_ntu": wire.ntu_text(row.remaining_mntu),
            "owed_ntu": wire.ntu_text(row.owed_mntu),
            "state": row.state,
        }
        for row in found
    ]
    return _one("entitlements", organization, 0, data, None)


def _transparency(pool: str) -> Snapshot:
    found = disclosure.pools_now(None if pool == ALL else pool)
    if pool != ALL and not found:
        raise errors.NotFound("there is no such pool")
    messages = [
        Message(
            channel="transparency",
            instrument=one.pool.public_id,
            sequence=0,
            data={
                "pool": one.pool.public_id,
                "grade": one.pool.grade,
                "is_live": one.is_live,
                "classes": one.classes,
            },
        )
        for one in found
    ]
    return _many("transparency", messages)


def _instrument(symbol: str) -> models.Instrument:
    """Return an instrument.

    :raises NotFound: when there is none.
    """
    found = models.Instrument.objects.filter(symbol=symbol).first()
    if found is None:
        raise errors.NotFound(f"there is no instrument {symbol[:40]}")
    return found


CHANNELS: Final = {
    channel.name: channel
    for channel in (
        Channel(name="book", snapshot=_book),
        Channel(name="trades", snapshot=_at_one_instant(_trades)),
        Channel(name="candles", snapshot=_at_one_instant(_candles), has_interval=True),
        Channel(name="auction", snapshot=_at_one_instant(_auction)),
        Channel(name="ticker", snapshot=_at_one_instant(_ticker), may_be_all=True),
        Channel(name="index", snapshot=_at_one_instant(_index), may_be_all=True),
        Channel(
            name="transparency",
            snapshot=_at_one_instant(_transparency),
            may_be_all=True,
            is_polled=True,
        ),
        Channel(name="orders", snapshot=_at_one_instant(_orders), is_private=True),
        Channel(name="fills", snapshot=_at_one_instant(_fills), is_private=True),
        Channel(name="account", snapshot=_at_one_instant(_account), is_private=True),
        Channel(
            name="entitlements",
            snapshot=_at_one_instant(_entitlements),
            is_private=True,
            is_polled=True,
        ),
    )
}


def changes(symbol: str, first: int, last: int) -> list[bytes]:
    """Return the deltas of a book that hold some changes, as they were published.

    :raises NotFound: when there is no such instrument, or its book has not come that far.
    :raises Gone: when they are not kept any more.
    """
    rows = exchange_deltas.between(symbol=symbol, first=first, last=last)
    return [bytes(row.body) for row in rows]


# Sessions of browsers


def session_of(cookie_header: str) -> str:
    """Return the session's id from a Cookie header, or an empty text."""
    jar: cookies.SimpleCookie = cookies.SimpleCookie()
    try:
        jar.load(cookie_header)
    except cookies.CookieError:
        return ""
    found = jar.get(settings.SESSION_COOKIE_NAME)
    return found.value if found else ""


def session_key(session_id: str) -> keys.Key | None:
    """Return what the holder of a session may do, or None when it has ended.

    The same checks as Django's own: the user is active and has not changed the password since.
    """
    session = SessionStore(session_key=session_id)
    try:
        user_id = int(session[SESSION_KEY])
    except (KeyError, ValueError):
        return None
    if session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = models.User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or not constant_time_compare(
        session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()
    ):
        return None
    return queries.member_key(user=user, organization_id=session.get("organization"))
