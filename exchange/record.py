"""The public record, made once more from the journal and compared with what is stored.

What the market has said in public follows from the journal alone: the deltas of its books, its
trades, the values of its index, and the state of every instrument. All of it is composed again
here, batch by batch from the first, and held against the tables that REST and the stream answer
from. A delta has to be the same to the byte. One that is missing is a fault too, unless its
instrument was settled so long ago that it may have been removed (`exchange.deltas`).

Every public message goes into one digest, so that two parties who replay one journal can compare
all that was ever said by comparing 32 bytes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from exchange import deltas, events, feed, machine, recovery, store
from exchange.machine import views
from marketplace import clock

PUBLIC = ("book", "trades", "ticker", "auction", "index")
COMPARED_MAX = 5_000
"""How many rows of a kind are gathered before they are compared."""
_LENGTH_BYTES = 8

Row = tuple[Any, ...]


class Altered(Exception):
    """What is stored is not what the journal says was public; names the first such thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was compared, and the digest of every public message there ever was."""

    recovered: recovery.Recovered
    messages: int
    deltas: int
    trades: int
    index_values: int
    instruments: int
    digest: bytes


def verify(connection: store.Connection, group: str, *, up_to: int) -> Verified:
    """Replay the journal from its beginning and compare all that is public.

    The caller holds a transaction in which everything is as of one instant.

    :raises Altered: when something that is stored is another, missing or too much.
    :raises Diverged: when the journal itself does not replay.
    """
    record = _Record(connection)
    recovered = recovery.rebuild(
        connection, group, up_to=up_to, from_genesis=True, tell=record.take
    )
    record.finish()
    return Verified(
        recovered=recovered,
        messages=record.messages,
        deltas=record.deltas.count,
        trades=record.trades.count,
        index_values=record.index_values.count,
        instruments=len(record.instruments),
        digest=record.digest.digest(),
    )


class _Table:
    """What one table should hold, compared a part at a time."""

    def __init__(
        self, connection: store.Connection, what: str, select: str, key: int, total: str
    ) -> None:
        self.count = 0
        self._connection = connection
        self._what = what
        self._select = select
        self._key = key
        self._total = total
        self._expected: dict[Row, Row] = {}

    def expect(self, row: Row, may_be_absent: bool = False) -> None:
        """Note a row, the first columns of which are its key."""
        self._expected[row[: self._key]] = (*row[self._key :], may_be_absent)
        self.count += 1
        if len(self._expected) >= COMPARED_MAX:
            self.compare()

    def compare(self) -> None:
        """:raises Altered: when a row is another, or missing."""
        if not self._expected:
            return
        keys = [list(column) for column in zip(*self._expected, strict=True)]
        stored = {
            tuple(row[: self._key]): tuple(_plain(value) for value in row[self._key :])
            for row in self._connection.execute(self._select.encode(), keys)
        }
        for key, (*row, may_be_absent) in self._expected.items():
            found = stored.get(key)
            if found is None and may_be_absent:
                self.count -= 1
            elif found is None:
                raise Altered(f"{self._what} {_name(key)} is missing")
            elif found != tuple(row):
                raise Altered(f"{self._what} {_name(key)} is not what was published")
        self._expected.clear()

    def finish(self) -> None:
        """:raises Altered: when there is more than there should be."""
        self.compare()
        row = self._connection.execute(self._total.encode()).fetchone()
        assert row is not None, "a count is a row"
        if row[0] != self.count:
            raise Altered(f"{row[0]} rows of {self._what} are stored, of {self.count}")


class _Record:
    """All that is public, as the replay comes by."""

    def __init__(self, connection: store.Connection) -> None:
        self.messages = 0
        self.digest = hashlib.sha256()
        self.instruments: dict[str, views.InstrumentView] = {}
        self._connection = connection
        limit = clock.now() - deltas.KEPT_AFTER_SETTLEMENT
        self._may_be_removed = {
            row[0]
            for row in connection.execute(
                "SELECT symbol FROM marketplace_instrument WHERE settled_at <= %s", [limit]
            )
        }
        self.deltas = _Table(
            connection,
            "the delta",
            """
            SELECT symbol, sequence, previous_sequence, body, at FROM exchange_bookdelta
            JOIN unnest(%s::text[], %s::bigint[]) AS wanted (symbol, sequence)
                USING (symbol, sequence)
            """,
            2,
            "SELECT count(*) FROM exchange_bookdelta",
        )
        self.trades = _Table(
            connection,
            "the trade",
            """
            SELECT id, symbol, price_ticks, lots, maker_order, taker_order, taker_side, is_auction,
                   sequence, at
            FROM exchange_trade JOIN unnest(%s::bigint[]) AS wanted (id) USING (id)
            """,
            1,
            "SELECT count(*) FROM exchange_trade",
        )
        self.index_values = _Table(
            connection,
            "the index",
            """
            SELECT grade, sequence, hour_starts_at, price_ticks, method, inputs, digest, at, version
            FROM settlement_indexvalue
            JOIN unnest(%s::text[], %s::bigint[]) AS wanted (grade, sequence)
                USING (grade, sequence)
            """,
            2,
            "SELECT count(*) FROM settlement_indexvalue",
        )

    def take(
        self,
        batch: store.Batch,
        facts: events.Facts,
        touched: views.Touched,
        state: machine.Machine,
    ) -> None:
        """Compose what a batch said, and note what has to be stored of it."""
        news = feed.compose(facts, touched, state)
        for topic, body in news.items:
            if topic.partition(":")[0] in PUBLIC:
                self.messages += 1
                for part in (topic.encode(), body):
                    self.digest.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
                    self.digest.update(part)
        moment = clock.to_datetime(batch.at)
        for symbol, previous, sequence, body in news.deltas:
            self.deltas.expect(
                (symbol, sequence, previous, body, moment), symbol in self._may_be_removed
            )
        for trade in facts.get(events.Traded, ()):
            self.trades.expect(_trade_row(trade))
        for value in facts.get(events.IndexPublished, ()):
            self.index_values.expect(_index_row(value))
        for view in touched.instruments:
            self.instruments[view.symbol] = view

    def finish(self) -> None:
        """:raises Altered: when something is not as it should be."""
        for table in (self.deltas, self.trades, self.index_values):
            table.finish()
        stored = {row[0]: row for row in self._connection.execute(_INSTRUMENTS)}
        for symbol, view in self.instruments.items():
            if stored.pop(symbol, None) != _instrument_row(view):
                raise Altered(f"the instrument {symbol} is not what was published")
        if stored:
            raise Altered(f"the instrument {min(stored)} was never listed")


_INSTRUMENTS = """
    SELECT symbol, state, reference_price_ticks, band_low_ticks, band_high_ticks, last_price_ticks,
           mark_price_ticks, volume_lots, open_interest_lots, book_sequence, trades_sequence,
           ticker_sequence, auction_sequence
    FROM marketplace_instrument
"""


def _instrument_row(view: views.InstrumentView) -> Row:
    return (
        view.symbol,
        view.state,
        view.reference_price,
        view.band_low,
        view.band_high,
        view.last or None,
        view.mark or None,
        view.volume,
        view.open_interest,
        view.book_sequence,
        view.trades_sequence,
        view.ticker_sequence,
        view.auction_sequence,
    )


def _trade_row(event: events.Traded) -> Row:
    return (
        event.trade,
        event.instrument,
        event.price,
        event.lots,
        event.maker_order,
        event.taker_order,
        event.taker_side,
        event.is_auction,
        event.sequence,
        clock.to_datetime(event.at),
    )


def _index_row(event: events.IndexPublished) -> Row:
    return (
        event.grade,
        event.sequence,
        clock.to_datetime(event.hour_starts_at),
        event.price,
        event.method,
        event.inputs,
        event.digest,
        clock.to_datetime(event.at),
        event.version,
    )


def _plain(value: Any) -> Any:
    """Return a column's value as events have it."""
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def _name(key: Row) -> str:
    return " ".join(str(part) for part in key)
