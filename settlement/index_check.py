"""Whether a published index follows from its inputs, and its inputs from the public record.

Anyone can ask this: it needs the values with their inputs, the tape, and nothing else. A value must
be what its inputs give, to the digit; the inputs must have the published hash, list exactly the
trades of the tape in their order, and name an opening auction, a parent's mark and a last value
that were published.
A correction must carry on from the version before it, in time.

What the record does not show an outsider are the names behind the group numbers, the obligations,
the middle of the book by groups and the mark: those are stated. A group can check its own number
against its fills, and the exchange's own check (`groups`) and the replay of the journal prove the
rest.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from marketplace import contract
from settlement import index
from settlement.index import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One version of an hour's index, as it was published."""

    version: int
    price: int
    method: str
    digest: bytes
    inputs: bytes
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A line of the tape; `groups` are those of buyer and seller, where the reader knows them."""

    lots: int
    price: int
    is_auction: bool
    at: int
    groups: tuple[int, int] | None = None


def differences(
    *,
    grade: str,
    hour: int,
    versions: Sequence[Value],
    tape: Sequence[Trade],
    before: Mapping[int, Sequence[Value]],
    parent: int | None = None,
) -> list[str]:
    """Return what is wrong with the index of an hour; nothing, when it can be believed.

    `versions` are in order, `tape` the trades of the hour's book in order, and `before` the
    versions of other hours of the grade, as far back as the reader has them. `parent` is the mark
    of the day that cascaded into the hour, None where the reader does not know it.
    """
    if [value.version for value in versions] != list(range(1, len(versions) + 1)):
        return ["versions are missing"]
    found = []
    for value in versions:
        found += [f"version {value.version}: {text}" for text in _recomputed(value, grade, hour)]
    if found:
        return found
    inputs = index.decode(versions[0].inputs)
    found += _tape(inputs, tape)
    found += _auction(inputs, hour, tape)
    found += _last(inputs, hour, versions[0].at, before)
    if inputs.parent and parent is not None and parent != inputs.parent:
        found.append(f"the parent's final mark is {parent}, and not {inputs.parent}")
    for older, newer in itertools.pairwise(versions):
        found += _correction(older, newer, hour)
    return found


def _recomputed(value: Value, grade: str, hour: int) -> list[str]:
    """Return where a value is not what its inputs give."""
    if index.digest(value.inputs) != value.digest:
        return ["the inputs have another hash than the published one"]
    is_first = value.version == 1
    if is_first == (value.method == Method.OVERRIDE):
        return ["only what follows the first version is a correction"]
    try:
        inputs = index.decode(value.inputs) if is_first else index.decode_correction(value.inputs)
        price, method = index.recompute(value.method, value.inputs)
    except (msgspec.DecodeError, AssertionError) as error:
        return [f"the inputs are not an index's: {error}"]
    found = []
    if index.encode(inputs) != value.inputs:
        found.append("the inputs are not in their canonical form")
    if (inputs.grade, inputs.hour_starts_at) != (grade, hour):
        found.append("the inputs are of another hour")
    if (price, str(method)) != (value.price, value.method):
        found.append(
            f"{value.price} by {value.method} is published, the inputs give {price} by {method}"
        )
    return found


def _tape(inputs: index.Inputs, tape: Sequence[Trade]) -> list[str]:
    """Return where the trades of the inputs are not those of the tape."""
    named = [(trade.at, trade.lots, trade.price) for trade in inputs.trades]
    shown = [(trade.at, trade.lots, trade.price) for trade in tape]
    if named != shown:
        count = sum(a == b for a, b in zip(named, shown, strict=False))
        return [
            f"the inputs have {len(named)} trades and the tape {len(shown)}, {count} of them alike"
        ]
    seen = 0
    for trade in inputs.trades:
        for number in (trade.buyer, trade.seller):
            if number > seen + 1:
                return ["groups are not numbered in the order of their appearance"]
            seen = max(seen, number)
    known = [(one.at, one.lots, one.price, *one.groups) for one in tape if one.groups is not None]
    if len(known) == len(tape) and index.number_groups(known) != inputs.trades:
        return ["the numbers of the groups are not those of who traded"]
    return []


def _auction(inputs: index.Inputs, hour: int, tape: Sequence[Trade]) -> list[str]:
    """Return where the opening auction's price is not the tape's."""
    opened_at = contract.day_start(hour) - contract.DAY + contract.OPENING_HOUR
    if inputs.auction:
        prices = {trade.price for trade in tape if trade.is_auction}
        return [] if inputs.auction in prices else ["no auction of the tape has that price"]
    missed = [trade for trade in tape if trade.is_auction and trade.at == opened_at]
    return ["the opening auction made a price that the inputs leave out"] if missed else []


def _last(
    inputs: index.Inputs, hour: int, at: int, before: Mapping[int, Sequence[Value]]
) -> list[str]:
    """Return where the last value is not the latest of earlier hours that was no fallback."""
    latest: tuple[int, int, int] | None = None
    for other in sorted(before):
        known = [value for value in before[other] if value.at < at]
        if other == hour or not known:
            continue
        value = known[-1]
        if value.method in index.SOUND:
            latest = (known[0].at, known[0].at, value.price)
        elif value.method == Method.OVERRIDE:
            as_old_as = other - contract.GATE_CLOSURE_LEAD
            latest = (known[0].at, as_old_as, value.price)
    if latest is None:
        return [] if not inputs.last or not before else ["no earlier value can be the last one"]
    published_at, as_old_as, price = latest
    if price != inputs.last or at - inputs.last_age not in (published_at, as_old_as):
        return [f"the last value is {price}, and not {inputs.last}"]
    return []


def _correction(older: Value, newer: Value, hour: int) -> list[str]:
    """Return where a correction does not follow from the version before it."""
    stated = index.decode_correction(newer.inputs)
    found = []
    if (stated.version, stated.replaces) != (newer.version, older.price):
        found.append(f"version {newer.version} does not replace what version {older.version} says")
    if newer.at < older.at or newer.at >= index.corrected_until(hour):
        found.append(f"version {newer.version} was not published in time")
    return found
