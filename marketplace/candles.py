"""The running candle of an instrument: folded from the tape, as the tape goes on.

The stream's candles are not news of the engine. Whoever knows the candle as of a message of the
tape, and the next message, knows the candle after it; so a process folds each message once for all
its readers of an interval. A candle is what `GET candles` would say at the same moment. Candles of
a topic are numbered as the messages of the tape are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from marketplace import clock, wire

INTERVALS: Final = {
    "1m": clock.MINUTE,
    "5m": 5 * clock.MINUTE,
    "15m": 15 * clock.MINUTE,
    "1h": 60 * clock.MINUTE,
    "1d": 24 * 60 * clock.MINUTE,
}
"""Lengths in microseconds; candles are aligned to the epoch."""
INTERVAL_DEFAULT: Final = "1m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """Prices of an interval in ticks, and what was traded in it; `starts_at` in microseconds."""

    starts_at: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int


class Line(msgspec.Struct):
    """What a candle needs of a line of the tape."""

    price: str
    quantity: int
    at: str


class Tape(msgspec.Struct):
    """A message of the channel `trades`."""

    instrument: str
    sequence: int
    previous_sequence: int | None
    data: list[Line]


def read_tape(message: bytes) -> Tape:
    """Return a message of the tape, as far as candles go."""
    return _tapes.decode(message)


def fold(
    running: Candle | None, lines: Sequence[Line], interval: str, decimals: int
) -> tuple[Candle | None, list[Candle]]:
    """Return the running candle after some trades, and every candle that they changed."""
    length = INTERVALS[interval]
    changed: dict[int, Candle] = {}
    for line in lines:
        price = wire.parse_price(line.price, decimals=decimals)
        at = clock.to_micros(datetime.fromisoformat(line.at))
        starts_at = at - at % length
        if running is None or running.starts_at != starts_at:
            running = Candle(
                starts_at=starts_at,
                open=price,
                high=price,
                low=price,
                close=price,
                volume=line.quantity,
                trades=1,
            )
        else:
            running = Candle(
                starts_at=starts_at,
                open=running.open,
                high=max(running.high, price),
                low=min(running.low, price),
                close=price,
                volume=running.volume + line.quantity,
                trades=running.trades + 1,
            )
        changed[starts_at] = running
    return running, list(changed.values())


def candle_out(candle: Candle, interval: str, decimals: int) -> dict[str, Any]:
    """Return a candle as callers see it."""
    return {
        "interval": interval,
        "starts_at": wire.time_text(candle.starts_at),
        "open": wire.price_text(candle.open, decimals),
        "high": wire.price_text(candle.high, decimals),
        "low": wire.price_text(candle.low, decimals),
        "close": wire.price_text(candle.close, decimals),
        "volume": candle.volume,
        "trades": candle.trades,
    }


_tapes = msgspec.json.Decoder(Tape)
