"""What a cluster made available in an interval, and what of its holders' demand it missed.

Everything is counted in mNTU over one five-minute interval (RULEBOOK 6.1 to 6.3):

* *owed* is the holder's rate over the interval, less the debt it came with;
* *available* is the share of the obligation that the probes found served, where a real refusal for
  want of capacity counts as a probe that failed;
* *missed* is the charge of requests in profile that the cluster refused, failed, spilled or served
  too late, each request once, and what the holder would have asked for while it was told to wait;
* *short* is what of it counts: at most what was owed, and at most what the holder's past makes
  believable.

A demo's clock may leap over intervals. The probes made at the leap stand for every half minute
of them: of n probes, p passed, and slot k passes when `floor((k+1)p/n) > floor(kp/n)`, so that
the share is kept over any stretch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from marketplace.contract import INTERVAL, MNTU_PER_LOT_INTERVAL

PROBE_PERIOD = 30_000_000
"""Microseconds between two probes of a cluster."""
SAME_REQUEST = 60_000_000
"""The same body within this time is the same request."""
LATE_PERCENT = 1
"""Of an interval's tokens, what may come late and is no miss: a target is a percentile."""
PRESUMED_BY = 900_000_000
"""A holder that was told to wait is presumed to ask on as it did for so long before."""
BELIEVABLE_PERCENT = 150
"""Of the mean of the past intervals, what may be missed at most above the first lot."""
PAST_INTERVALS = 12
DOWN_INTERVALS = 12
"""A cluster that had nothing in so many intervals, one after the other, is down."""
BACK_PROBES = 12
"""A cluster that is down is back when so many probes in succession have passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A leap of the clock, and what the probes made at it found: (passed, made) by cluster."""

    from_at: int
    to_at: int
    probes: Mapping[int, tuple[int, int]]


class Fate(StrEnum):
    """Why a request in profile is missed."""

    REFUSED = "REFUSED"
    FAILED = "FAILED"
    SPILLED = "SPILLED"
    """The cluster could not serve it in its class, and it ran as pay-as-you-go."""
    LATE = "LATE"
    HUNG_UP = "HUNG_UP"
    """Its caller gave up; that is no demand before the target, and as good as late after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A request in profile that the cluster did not serve as it should have."""

    holder: int
    cluster: int
    body_digest: bytes
    charge_mntu: int
    arrived_at: int
    fate: Fate = Fate.REFUSED
    is_retry: bool = False
    """Whether its caller declared it one: then it was counted before."""
    waited_us: int = 0
    target_us: int = 0
    """How long the caller of one that hung up had waited, and for how long it had to."""
    retry_after_us: int = 0
    """For how long the caller of one that was refused was told to wait."""


def probe_slots(
    cluster: int, starts_at: int, *, made: Mapping[int, bool], jumps: Sequence[Jump]
) -> tuple[int, int]:
    """Return how many probes an interval had and how many of them passed.

    `made` are the probes that were made, by their half minute. One that should have been and was
    not, though the clock did not leap over it, tells nothing about the cluster.
    """
    probes = passed = 0
    for at in range(starts_at, starts_at + INTERVAL, PROBE_PERIOD):
        outcome = made.get(at)
        if outcome is None:
            outcome = _leapt_over(cluster, at, jumps)
        if outcome is not None:
            probes += 1
            passed += outcome
    return probes, passed


def _leapt_over(cluster: int, at: int, jumps: Sequence[Jump]) -> bool | None:
    """Return what a jump's probes say of a half minute it leapt over, or None."""
    for jump in jumps:
        if not jump.from_at < at <= jump.to_at:
            continue
        passed, made = jump.probes.get(cluster, (0, 0))
        if made:
            first = -(-(jump.from_at + 1) // PROBE_PERIOD) * PROBE_PERIOD
            k = (at - first) // PROBE_PERIOD
            return (k + 1) * passed // made > k * passed // made
    return None


def available_mntu(*, lots: int, probes: int, passed: int, refusals: int) -> int:
    """Return what of an obligation was available; all of it where nobody looked."""
    obligation = lots * MNTU_PER_LOT_INTERVAL
    seen = probes + refusals
    return obligation if seen == 0 else obligation * passed // seen


def is_down(available: Sequence[int]) -> bool:
    """Whether a cluster is down, by what it had in its last intervals, the latest first."""
    latest = available[:DOWN_INTERVALS]
    return len(latest) == DOWN_INTERVALS and not any(latest)


def is_back(passed: Sequence[bool]) -> bool:
    """Whether a cluster that was down is back, by its probes since then, the latest first."""
    latest = passed[:BACK_PROBES]
    return len(latest) == BACK_PROBES and all(latest)


def once_each(misses: Iterable[Miss]) -> list[Miss]:
    """Return the misses that count: of the same holder and body, one a minute; in order.

    A declared retry is the request that it repeats, and was counted with it.
    """
    counted: dict[tuple[int, bytes], int] = {}
    kept = []
    for miss in sorted(misses, key=lambda each: (each.arrived_at, each.body_digest)):
        if miss.is_retry or (miss.fate is Fate.HUNG_UP and miss.waited_us < miss.target_us):
            continue
        key = miss.holder, miss.body_digest
        last = counted.get(key)
        if last is None or miss.arrived_at - last >= SAME_REQUEST:
            counted[key] = miss.arrived_at
            kept.append(miss)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What a flow asked for in the 15 minutes before an interval, as far as its reports say."""

    whole_mntu: int = 0
    """In the intervals that are among the 15 minutes before any instant of this one."""
    oldest_mntu: int = 0
    """In the interval before those, which the 15 minutes cut."""
    oldest: Sequence[tuple[int, int]] = ()
    """(instant, mNTU) of what was asked for in that one."""

    def since(self, at: int, starts_at: int) -> int:
        """Return what was asked for from an instant of the oldest interval on, in mNTU.

        What its report has beyond what was asked for at some instant (what was presumed then) is
        spread over it evenly.
        """
        even = max(0, self.oldest_mntu - sum(mntu for _, mntu in self.oldest))
        asked = sum(mntu for when, mntu in self.oldest if when >= at)
        return self.whole_mntu + asked + even * (starts_at + INTERVAL - at) // INTERVAL


def missed_mntu(
    misses: Sequence[Miss],
    *,
    starts_at: int,
    delivered_mntu: int,
    recent: Recent = Recent(),
    served: Sequence[tuple[int, int]] = (),
) -> int:
    """Return the demand of one flow that was missed in an interval (RULEBOOK 6.3).

    `misses` are those of the interval, and of the minute before it; `served`, (instant, mNTU), is
    what the flow was served in it.
    """
    ends_at = starts_at + INTERVAL
    counted = [miss for miss in once_each(misses) if starts_at <= miss.arrived_at < ends_at]
    late = sum(miss.charge_mntu for miss in counted if miss.fate in _LATE)
    plain = sum(miss.charge_mntu for miss in counted if miss.fate not in _LATE)
    late = max(0, late - delivered_mntu * LATE_PERCENT // 100)
    asked = [(miss.arrived_at, miss.charge_mntu) for miss in counted if miss.fate is not Fate.LATE]
    waits = _waits(misses, starts_at, ends_at)
    return plain + late + _presumed(waits, [*asked, *served], recent, starts_at)


def _presumed(
    waits: Sequence[tuple[int, int]],
    asked: Sequence[tuple[int, int]],
    recent: Recent,
    starts_at: int,
) -> int:
    """Return what a flow is presumed to have asked for beyond what it did, while it was waiting.

    In each wait it is the mean of the 15 minutes before it, what was presumed in them included;
    who asks on in spite of being told to wait is presumed to ask for so much less.
    """
    presumed = 0
    for since, until in waits:
        before = presumed + sum(mntu for at, mntu in asked if at < since)
        oldest_at = since - PRESUMED_BY
        before += recent.since(oldest_at, starts_at - PRESUMED_BY)
        mean = before * (until - since) // PRESUMED_BY
        # The refusal that a wait begins with is not what was asked in it.
        meanwhile = sum(mntu for at, mntu in asked if since < at < until)
        presumed += max(0, mean - meanwhile)
    return presumed


_LATE = frozenset({Fate.LATE, Fate.HUNG_UP})


def _waits(misses: Iterable[Miss], starts_at: int, ends_at: int) -> list[tuple[int, int]]:
    """Return the spans of an interval in which a caller was told to wait, none over another."""
    spans: list[tuple[int, int]] = []
    for miss in sorted(misses, key=lambda each: each.arrived_at):
        if miss.fate is not Fate.REFUSED:
            continue
        since = max(starts_at, miss.arrived_at)
        until = min(ends_at, miss.arrived_at + miss.retry_after_us)
        if since >= until:
            continue
        if spans and since <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(until, spans[-1][1]))
        else:
            spans.append((since, until))
    return spans


def debt_mntu(past: Iterable[tuple[int, int]]) -> int:
    """Return the debt after intervals of (lots, delivered), the oldest first (RULEBOOK 7.2)."""
    debt = 0
    for lots, delivered in past:
        debt = max(0, debt + delivered - lots * MNTU_PER_LOT_INTERVAL)
    return debt


def owed_mntu(*, lots: int, debt: int) -> int:
    """Return what is owed in an interval that begins with this debt (RULEBOOK 6.1)."""
    return max(0, lots * MNTU_PER_LOT_INTERVAL - debt)


def short_mntu(*, missed: int, owed: int, past_demand: Sequence[int]) -> int:
    """Return the demand that counts as missed (RULEBOOK 6.3).

    `past_demand` is what the holder's last entitled intervals asked for. Up to one lot is believed
    of anybody.
    """
    recent = past_demand[-PAST_INTERVALS:]
    believable = MNTU_PER_LOT_INTERVAL
    if recent:
        mean = sum(recent) * BELIEVABLE_PERCENT // (100 * len(recent))
        believable = max(believable, mean)
    return min(missed, owed, believable)


def parts(total: int, weights: Sequence[int]) -> list[int]:
    """Return a total split by weights; the parts sum to it exactly."""
    whole = sum(weights)
    assert whole > 0, "something is split over somebody"
    shares, before = [], 0
    for weight in weights:
        after = before + weight
        shares.append(total * after // whole - total * before // whole)
        before = after
    return shares
