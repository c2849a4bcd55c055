"""The names of jobs: what a slot says and how it is read back.

A slot is unique within its kind, sorts as text in the order of time within a grade, and says
everything its handler needs, so that a job has no arguments. *Core*: no clock, no database.
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)

ALWAYS = "-"
"""The one slot of a kind that repeats."""


def hour_text(hour_starts_at: int) -> str:
    """Return an hour as it stands in slots, units and instruction ids: `20261205T14Z`."""
    return f"{_EPOCH + hour_starts_at * _MICRO:%Y%m%dT%HZ}"


def of_instant(at: int) -> str:
    """Return the slot of a periodic kind: `20261205T140500Z`."""
    return f"{_EPOCH + at * _MICRO:%Y%m%dT%H%M%SZ}"


def of_hour(grade: str, hour_starts_at: int) -> str:
    """Return the slot of an hour of a grade: `LLAMA70B/20261205T14Z`."""
    return f"{grade}/{hour_text(hour_starts_at)}"


def of_interval(grade: str, hour_starts_at: int, interval: int) -> str:
    """Return the slot of an interval, 1 to 12: `LLAMA70B/20261205T14Z/03`."""
    return f"{grade}/{hour_text(hour_starts_at)}/{interval:02}"


def of_run(grade: str, day_starts_at: int, run: str) -> str:
    """Return the slot of a run over a day: `LLAMA70B/20261205/final`."""
    return f"{grade}/{_EPOCH + day_starts_at * _MICRO:%Y%m%d}/{run.lower()}"


def read_instant(slot: str) -> int:
    """Return the instant of the slot of a periodic kind.

    :raises ValueError: when it is not one.
    """
    return (datetime.strptime(slot, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - _EPOCH) // _MICRO


def read_hour(slot: str) -> tuple[str, int]:
    """Return grade and start of the slot of an hour.

    :raises ValueError: when it is not one.
    """
    grade, hour = slot.split("/")
    return grade, _instant(hour)


def read_interval(slot: str) -> tuple[str, int, int]:
    """Return grade, start of the hour and number of the slot of an interval.

    :raises ValueError: when it is not one.
    """
    grade, hour, interval = slot.split("/")
    return grade, _instant(hour), int(interval)


def read_run(slot: str) -> tuple[str, int, str]:
    """Return grade, first instant of the day and name of the slot of a run, in upper case.

    :raises ValueError: when it is not one.
    """
    grade, day, run = slot.split("/")
    starts_at = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return grade, (starts_at - _EPOCH) // _MICRO, run.upper()


def _instant(hour: str) -> int:
    """Return the instant of an hour's text."""
    return (datetime.strptime(hour, "%Y%m%dT%HZ").replace(tzinfo=UTC) - _EPOCH) // _MICRO
