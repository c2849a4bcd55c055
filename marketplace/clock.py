"""The market's time: the one place that reads a clock.

Market time is the system's clock plus an offset. The offset lives in an eight-byte file that every
process of a deployment maps into memory, so that an advance is seen by all of them at once and a
read costs no system call. Only a demo or a test has the file; in production the offset is zero.

Instants are integer microseconds since the Unix epoch, UTC.
"""

import mmap
import os
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FORMAT = struct.Struct("<q")


class _Offset:
    """The shared offset, or a frozen instant that a test has set in this process."""

    def __init__(self) -> None:
        self.view: mmap.mmap | None = None
        self.frozen_at: int | None = None

    def micros(self) -> int:
        return 0 if self.view is None else int(_FORMAT.unpack_from(self.view, 0)[0])


_offset = _Offset()


def open_offset(path: Path) -> None:
    """Map the shared offset file, creating it at zero."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(handle).st_size < _FORMAT.size:
            os.write(handle, _FORMAT.pack(0))
        _offset.view = mmap.mmap(handle, _FORMAT.size)
    finally:
        os.close(handle)


def can_advance() -> bool:
    """Whether this deployment's clock may be moved forward."""
    return _offset.view is not None


def offset_micros() -> int:
    """Return how far market time is ahead of the system's clock."""
    return _offset.micros()


def now_micros() -> int:
    """Return market time in microseconds since the epoch."""
    if _offset.frozen_at is not None:
        return _offset.frozen_at
    return time.time_ns() // 1000 + _offset.micros()


def system_micros() -> int:
    """Return the system's own clock; only for comparing it with the database's."""
    return time.time_ns() // 1000


def now() -> datetime:
    """Return market time as an aware datetime."""
    return to_datetime(now_micros())


def monotonic_ns() -> int:
    """Return a clock for durations; it has no date and is never advanced."""
    return time.monotonic_ns()


def advance_to(at: int) -> int:
    """Move market time forward to `at` and return the instant it left; never backward."""
    assert _offset.view is not None, "only a demo or a test has a clock that moves"
    before = now_micros()
    if at > before:
        _FORMAT.pack_into(_offset.view, 0, at - time.time_ns() // 1000)
    return before


def freeze(at: int | None) -> None:
    """Hold this process's clock at `at`, or let it run again; for tests and the seed."""
    _offset.frozen_at = at


def to_datetime(at: int) -> datetime:
    """Return the aware datetime of an instant."""
    return EPOCH + timedelta(microseconds=at)


def to_micros(moment: datetime) -> int:
    """Return the instant of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)
