"""What is published of pools, in one shape for the pages and the WebSocket.

Live numbers are the gateway's of this second; times to first token and per token are those of the
last five-minute interval that was closed. Where nothing was measured there is None, never zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from admission import models as admission_models
from admission import queries as admission_queries

CLASSES = ("P0", "P1", "P2", "P3")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNow:
    """A pool and each of its classes at this moment."""

    pool: admission_queries.PoolRow
    is_live: bool
    classes: tuple[dict[str, Any], ...]


def pools_now(public_id: str | None = None) -> list[PoolNow]:
    """Return the pools, or the one asked for, with what each class does now."""
    if public_id is None:
        pools = [p for p in admission_queries.pools() if p.certified_lots > 0 or p.state == "DOWN"]
    else:
        found = admission_queries.pool(public_id)
        pools = [] if found is None else [found]
    ids = [pool.id for pool in pools]
    live = admission_queries.live_pools(ids)
    last = _last_intervals(ids)
    return [
        PoolNow(
            pool=pool,
            is_live=pool.id in live,
            classes=_classes(live.get(pool.id), last.get(pool.id, {})),
        )
        for pool in pools
    ]


def _last_intervals(ids: Sequence[int]) -> dict[int, dict[str, admission_models.PoolInterval]]:
    """Return the last closed interval of each pool and class."""
    rows = (
        admission_models.PoolInterval.objects.filter(cluster__in=ids)
        .order_by("cluster", "service_class", "-interval_starts_at")
        .distinct("cluster", "service_class")
    )
    found: dict[int, dict[str, admission_models.PoolInterval]] = {}
    for row in rows:
        found.setdefault(row.cluster, {})[row.service_class] = row
    return found


def _classes(
    live: admission_queries.LivePool | None,
    last: dict[str, admission_models.PoolInterval],
) -> tuple[dict[str, Any], ...]:
    """Return the classes that have anything to show; P2 and P3 always do."""
    busy = [
        name
        for name, now in (live.classes if live else {}).items()
        if now.admitted or now.queue_length or now.shed
    ]
    present = {"P2", "P3", *last, *busy}
    rows = []
    for name in (one for one in CLASSES if one in present):
        now = live.classes.get(name) if live else None
        closed = last.get(name)
        rows.append(
            {
                "service_class": name,
                "queue_length": now.queue_length if now else None,
                "wait_ms_p50": now.wait_ms_p50 if now else None,
                "wait_ms_p95": now.wait_ms_p95 if now else None,
                "wait_ms_p99": now.wait_ms_p99 if now else None,
                "first_token_ms_p50": closed.first_token_ms_p50 if closed else None,
                "first_token_ms_p99": closed.first_token_ms_p99 if closed else None,
                "per_token_ms_p50": _milliseconds(closed.per_token_us_p50 if closed else None),
                "admitted": now.admitted if now else None,
                "queued": now.queued if now else None,
                "shed": now.shed if now else None,
                "spilled": now.spilled if now else None,
                "jain": None if now is None or now.jain is None else round(now.jain, 4),
                "bound_ms": now.bound_ms if now else None,
                "lag_ms": now.lag_ms if now else None,
                "utilisation": _utilisation(live),
            }
        )
    return tuple(rows)


def _milliseconds(micros: int | None) -> float | None:
    return None if micros is None else round(micros / 1_000, 1)


def _utilisation(live: admission_queries.LivePool | None) -> float | None:
    if live is None or live.sequences_max == 0:
        return None
    return round(live.sequences / live.sequences_max, 4)
