"""The published percentiles again, from nothing but the public side of receipts.

A leaf says how long one request waited and when its first token came. Leaves of an interval are
those of `receipts/leaves?pool=&interval=`; of them come the figures that `pools/{id}/transparency`
shows, by class served. A percentile is the smallest value that at least so many percent do not
exceed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from admission import merkle, receipts
from admission.receipts import Invalid

SERVED = {"completed", "aborted", "failed"}
"""Outcomes of requests that were admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one class of a pool did in an interval; None where nothing was measured."""

    admitted: int
    queue_ms_p50: int | None
    queue_ms_p95: int | None
    queue_ms_p99: int | None
    first_token_ms_p50: int | None
    first_token_ms_p99: int | None


def percentile(values: Sequence[int], percent: int) -> int | None:
    """Return the smallest value that at least so many percent of the values do not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def recompute(leaves: Iterable[tuple[str, str]]) -> dict[tuple[str, str, str], Figures]:
    """Return figures by pool, interval and class served, given (hash, leaf), each counted once.

    :raises Invalid: when a leaf is not what its hash says, or says no number where one belongs.
    """
    waits: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    first_tokens: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for name, leaf in sorted(set(leaves)):
        if merkle.leaf_hash(leaf.encode()).hex() != name:
            raise Invalid(f"the leaf is not that of hash {name}")
        public = receipts.fields(leaf).get("public")
        if not isinstance(public, dict) or public.get("outcome") not in SERVED:
            continue
        try:
            of = (public["pool"], public["interval_starts_at"], public["class_served"])
            waits[of].append(int(public["queue_ms"]))
            if public["first_token_ms"]:
                first_tokens[of].append(int(public["first_token_ms"]))
        except (KeyError, ValueError):
            raise Invalid(f"the leaf of hash {name} lacks a number") from None
    return {
        of: Figures(
            admitted=len(values),
            queue_ms_p50=percentile(values, 50),
            queue_ms_p95=percentile(values, 95),
            queue_ms_p99=percentile(values, 99),
            first_token_ms_p50=percentile(first_tokens[of], 50),
            first_token_ms_p99=percentile(first_tokens[of], 99),
        )
        for of, values in sorted(waits.items())
    }
