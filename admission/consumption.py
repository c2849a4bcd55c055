"""Reads what the gateways metered and posts it to the capacity chain, each token once.

Events are read in the order of the transactions that wrote them, and only below the oldest one
still running: a number is handed out before its transaction commits, so a cursor over numbers
alone would skip what commits late. Totals are running: of each request only how far its total
has grown since it was last posted is consumed, and how far that was stands in a row that is
written in the same transaction, so that reading an event twice posts nothing (FAULTS I89).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

from admission import models
from marketplace import clock, contract
from marketplace import models as catalog
from settlement import operations

EVENTS_MAX = 5_000
"""How many events one transaction reads."""
CURSOR = "capacity"
_FINAL = frozenset({"COMPLETED", "ABORTED", "FAILED"})


@dataclass(slots=True, kw_only=True)
class Total:
    """The latest total of one request among the events that were read."""

    organization: int
    cluster: int
    grade: str
    is_shared: bool
    arrived_at: datetime
    metered_at: datetime
    sequence: int
    mntu: int
    is_final: bool


def consume(at: int) -> int:
    """Post what was metered since the last time, bounded; return how many events were read.

    The caller holds the transaction and whatever makes it the only one.
    """
    cursor_row, _ = models.MeterCursor.objects.select_for_update(no_key=True).get_or_create(
        name=CURSOR, defaults={"xid": 0, "number": 0}
    )
    events = _read(cursor_row)
    if not events:
        return 0
    totals = _latest(events)
    known = models.MeteredRequest.objects.in_bulk(list(totals))
    _post(totals, known, at)
    cursor_row.xid, cursor_row.number = events[-1][0], events[-1][1]
    cursor_row.save(update_fields=["xid", "number"])
    return len(events)


def _read(cursor_row: models.MeterCursor) -> list[tuple[Any, ...]]:
    """Return the next events whose order is settled."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT event.xid, event.number, event.request_id, event.sequence, event.mntu,
                   event.state, request.organization_id, request.cluster, request.grade,
                   request.class_served, request.arrived_at, request.is_probe, event.at
            FROM admission_usageevent event
            LEFT JOIN admission_request request ON request.id = event.request_id
            WHERE (event.xid, event.number) > (%s, %s)
              AND event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
            ORDER BY event.xid, event.number LIMIT %s
            """,
            [cursor_row.xid, cursor_row.number, EVENTS_MAX],
        )
        return list(cursor.fetchall())


def _latest(events: list[tuple[Any, ...]]) -> dict[Any, Total]:
    """Return the highest total of each request; probes are nobody's consumption."""
    totals: dict[Any, Total] = {}
    for row in events:
        _, _, request_id, sequence, mntu, state, who, cluster, grade, served, at, probe, now = row
        assert who is not None, "usage has a request, written before it"
        if probe:
            continue
        before = totals.get(request_id)
        if before is None or sequence > before.sequence:
            totals[request_id] = Total(
                organization=who,
                cluster=cluster,
                grade=grade,
                is_shared=served == "P3",
                arrived_at=at,
                metered_at=now,
                sequence=sequence,
                mntu=mntu,
                is_final=state in _FINAL,
            )
    return totals


def _post(totals: dict[Any, Total], known: dict[Any, models.MeteredRequest], at: int) -> None:
    """Consume how far each total has grown, and note how far it is."""
    sellers = dict(
        catalog.Cluster.objects.filter(
            pk__in={total.cluster for total in totals.values()}
        ).values_list("pk", "organization_id")
    )
    grown = [
        (request_id, total, known.get(request_id))
        for request_id, total in sorted(totals.items())
        if known.get(request_id) is None or total.sequence > known[request_id].sequence
    ]
    # A stream may run past its hour: what it used then is charged with that hour's intervals.
    operations.open_hours(
        sorted(
            {
                (total.grade, contract.hour_start(clock.to_micros(total.metered_at)))
                for _, total, _ in grown
                if total.is_shared
            }
        )
    )
    usages, rows = [], []
    for request_id, total, before in grown:
        hour = contract.hour_start(clock.to_micros(total.arrived_at))
        usages.append(
            operations.Consumption(
                holder=total.organization,
                seller=sellers[total.cluster],
                grade=total.grade,
                hour_starts_at=hour,
                mntu=total.mntu - (before.mntu if before else 0),
                cause=f"request:{request_id}",
                shared=total.is_shared,
            )
        )
        rows.append(
            before
            or models.MeteredRequest(
                request_id=request_id,
                sequence=0,
                mntu=0,
                entitled_mntu=0,
                shared_mntu=0,
                overrun_mntu=0,
                hour_starts_at=clock.to_datetime(hour),
            )
        )
    for row, (_, total, _), parts in zip(
        rows, grown, operations.consume(usages=usages, at=at), strict=True
    ):
        row.sequence, row.mntu, row.is_final = total.sequence, total.mntu, total.is_final
        row.entitled_mntu += parts.entitled_mntu
        row.shared_mntu += parts.shared_mntu
        row.overrun_mntu += parts.overrun_mntu
    counted = ["sequence", "mntu", "entitled_mntu", "shared_mntu", "overrun_mntu", "is_final"]
    models.MeteredRequest.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["request_id"], update_fields=counted
    )
