"""What drives the simulated market: list prices of a real model, request rates of real clients.

A token of the grade is taken to cost what `MODEL` was listed at, three input tokens to one output,
by the weights of the contract; the change points of summer 2026 are kept, each for as long as it
held. Listed prices have outliers (a third of the price for a day, and back), and nobody settles on
those blindly: what traders believe is the mean over the last `MEMORY`, or with `is_raw` the listed
price itself, as a stress.

Demand is the arrival rate of clients of one served model in ten-minute steps over two weeks, each
client scaled to a mean of one. How the whole of it swings through the day is what makes one hour
dearer than another. Without the data (`made_up`) both are simple functions, for the small version.
"""

import csv
import gzip
import math
import os
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from marketplace.contract import DAY, HOUR

MODEL = "z-ai/glm-5.2"
FROM = "2026-06-28T00:00:00+00:00"
"""Where in the listed prices the simulation begins."""
INPUTS_PER_OUTPUT, OUTPUT_WEIGHT = 3, 4
MEMORY = DAY
STEP = 600_000_000
STEPS_PER_DAY = DAY // STEP
STEPS = 14 * STEPS_PER_DAY
CLIENT_STEPS_MIN = 1_200
"""A client that was seen in fewer steps has no shape to speak of."""
SWING = 0.35
"""How far an hour's price follows its share of demand."""
TICKS_PER_USD = 1_000_000_000
"""Ticks of a USD per token."""
SOURCES = ("openrouter_prices", "servegen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Change points of the price, in microseconds from the start, and demand by client."""

    changes: tuple[tuple[int, float], ...]
    shapes: tuple[tuple[float, ...], ...]
    swing: tuple[float, ...]
    """By hour of the day: what the hour costs over the mean of the day."""
    source: str
    is_raw: bool = False

    def listed(self, since: int) -> float:
        """Return the listed price in ticks, so long after the start."""
        place = bisect_right(self.changes, (since, math.inf)) - 1
        return self.changes[max(0, place)][1]

    def level(self, since: int) -> float:
        """Return what traders believe tokens cost, in ticks."""
        if self.is_raw:
            return self.listed(since)
        return sum(self.listed(since - n * MEMORY // 24) for n in range(24)) / 24

    def fair(self, since: int, starts: int, ends: int) -> float:
        """Return what a window's tokens are worth; all three are since the start."""
        level = self.level(since)
        if ends - starts >= DAY:
            return level
        return level * self.swing[starts % DAY // HOUR]

    def demand(self, client: int, since: int) -> float:
        """Return a client's rate in a step over its mean."""
        shape = self.shapes[client % len(self.shapes)]
        return shape[since // STEP % STEPS]


def load(*, is_raw: bool = False) -> Data:
    """Return the data of `BASELOAD_DATA`.

    :raises KeyError: when it is not set.
    """
    folder = Path(os.environ["BASELOAD_DATA"])
    shapes = _shapes(folder / "servegen" / "rates_m-mid.csv.gz")
    return Data(
        changes=_changes(folder / "openrouter_prices" / "price_events.csv.gz"),
        shapes=shapes,
        swing=_swing(shapes),
        source=f"{MODEL} from {FROM[:10]}; {len(shapes)} clients of m-mid",
        is_raw=is_raw,
    )


def made_up(*, changes: tuple[tuple[int, float], ...] = ((0, 1_000.0),)) -> Data:
    """Return demand that swings with the day, and a price that changes where it is told to."""
    shapes = tuple(
        tuple(
            1 + 0.5 * math.sin(2 * math.pi * (step / STEPS_PER_DAY + client / 11))
            for step in range(STEPS)
        )
        for client in range(11)
    )
    swing = tuple(1 + 0.2 * math.sin(2 * math.pi * hour / 24) for hour in range(24))
    return Data(changes=changes, shapes=shapes, swing=swing, source="made up")


def _changes(path: Path) -> tuple[tuple[int, float], ...]:
    begins = datetime.fromisoformat(FROM)
    found = []
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["model_id"] != MODEL or row["event"] == "DELIST":
                continue
            since = datetime.fromisoformat(row["ts_utc"]) - begins
            price = INPUTS_PER_OUTPUT * float(row["prompt"]) + float(row["completion"])
            ticks = price / (INPUTS_PER_OUTPUT + OUTPUT_WEIGHT) * TICKS_PER_USD
            found.append((int(since.total_seconds()) * 1_000_000, ticks))
    return tuple(sorted(found))


def _shapes(path: Path) -> tuple[tuple[float, ...], ...]:
    rates: dict[int, list[float]] = {}
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            step = int(row["t_s"]) * 1_000_000 // STEP
            if step < STEPS:
                rates.setdefault(int(row["client_id"]), [0.0] * STEPS)[step] = float(
                    row["rate_rps"]
                )
    shapes = []
    for client in sorted(rates):
        of = rates[client]
        if sum(1 for rate in of if rate) >= CLIENT_STEPS_MIN:
            mean = sum(of) / STEPS
            shapes.append(tuple(rate / mean for rate in of))
    return tuple(shapes)


def _swing(shapes: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    """Return by hour of the day what its price is over the mean, from all clients alike."""
    by_hour = [0.0] * 24
    for shape in shapes:
        for step, rate in enumerate(shape):
            by_hour[step % STEPS_PER_DAY * 24 // STEPS_PER_DAY] += min(rate, 5.0)
    mean = sum(by_hour) / 24
    return tuple(1 + SWING * (value / mean - 1) for value in by_hour)
