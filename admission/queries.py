"""What is read of admission: the market as a gateway needs it, usage, pools and what they publish.

Everything here returns frozen values in an explicit order. Live numbers are the gateway's own; it
leaves them in Valkey once a second and they lapse with it, so that a page never shows a dead
gateway's numbers as present.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
import valkey
from django.conf import settings
from django.db import connection

from admission import models, receipts
from admission.decisions import FIRST_TOKEN_US, ServiceClass
from admission.levels import Window
from admission.live_cluster import ClusterConfig
from admission.snapshot import Cluster, Grade, Hours, Offer, Snapshot, cluster_terms
from marketplace import clock, contract
from marketplace import models as catalog
from settlement import delivery
from settlement import models as clearing
from settlement import queries as settlement_queries

LIVE_KEY = "pools:live"
"""Hash of cluster id to a JSON `LivePool`; lapses when the gateway stops."""
HISTORY_INTERVALS = 288
"""A day of intervals."""
REQUESTS_MAX = 1_000


# The market, for a gateway


def snapshot(at: int) -> Snapshot:
    """Return the state of the market at an instant: this hour's rights and the next's."""
    hour = contract.hour_start(at)
    prices = _usage_prices(hour)
    grades: dict[str, Grade] = {}
    aliases: dict[str, str] = {}
    shapes: dict[str, catalog.Grade] = {}
    for row in catalog.Grade.objects.order_by("code"):
        shapes[row.code] = row
        grades[row.code] = Grade(
            code=row.code,
            context_tokens_max=row.context_tokens_max,
            output_tokens_max=row.output_tokens_max,
            weights=_weights(row),
            usage_price_ticks=delivery.usage_price(prices.get(row.code, row.reference_price_ticks)),
            created_at=clock.to_micros(row.created_at),
        )
        for name in (*row.aliases, row.code.lower()):
            aliases.setdefault(name, row.code)
    aliases |= {code: code for code in grades}
    clusters = {
        row.id: _cluster(row, shapes[row.grade_id], at)
        for row in catalog.Cluster.objects.exclude(
            state=catalog.Cluster.State.DEREGISTERED
        ).order_by("id")
    }
    windows, failed = _windows(hour)
    members = catalog.Organization.objects.exclude(group=None).values_list("pk", "group")
    groups = {pk: group for pk, group in members if group is not None}
    clusters = {
        number: replace(found, group=groups.get(found.seller, found.seller))
        for number, found in clusters.items()
    }
    covers, rooms = _covers(hour, clusters)
    return Snapshot(
        at=at,
        grades=grades,
        aliases=aliases,
        clusters=clusters,
        windows=windows | rooms,
        failed=failed,
        idle_slots=_idle_slots(hour),
        covers=covers,
        groups=groups,
    )


def _covers(
    hour: int, clusters: Mapping[int, Cluster]
) -> tuple[dict[str, tuple[Offer, ...]], dict[tuple[int, int], Hours]]:
    """Return standing offers by grade, and what each may take over of an hour, as a holder's hours.

    That is at most what its cluster has certified and not allocated: cover never displaces those
    who have bought there. A cluster's cheaper offers have it first.
    """
    rows = models.CoverOffer.objects.filter(withdrawn_at=None).order_by("price_ticks", "id")
    offers: dict[str, list[Offer]] = {}
    windows: dict[tuple[int, int], dict[int, int]] = {}
    wanted = [row for row in rows if row.cluster in clusters and clusters[row.cluster].is_certified]
    if not wanted:
        return {}, {}
    for starts_at in (hour, hour + contract.HOUR):
        free = {row.cluster: clusters[row.cluster].terms.certified_lots for row in wanted}
        for of in settlement_queries.entitlements_snapshot(starts_at=clock.to_datetime(starts_at)):
            if of.cluster in free:
                free[of.cluster] -= of.lots
        for row in wanted:
            lots = max(0, min(row.lots, free[row.cluster]))
            free[row.cluster] -= lots
            if lots:
                windows.setdefault((row.cluster, -row.pk), {})[starts_at] = lots
    for row in wanted:
        offer = Offer(id=row.pk, cluster=row.cluster, price_ticks=row.price_ticks)
        offers.setdefault(clusters[row.cluster].grade, []).append(offer)
    return (
        {grade: tuple(found) for grade, found in offers.items()},
        {key: {ServiceClass.P2: _in_order(hours)} for key, hours in windows.items()},
    )


def _weights(grade: catalog.Grade) -> contract.WeightSchedule:
    return contract.WeightSchedule(
        version=grade.schedule_version, cached=grade.weight_cached, output=grade.weight_output
    )


def _cluster(row: catalog.Cluster, grade: catalog.Grade, at: int) -> Cluster:
    is_valid = row.certified_until is None or clock.to_micros(row.certified_until) > at
    return Cluster(
        id=row.id,
        public_id=str(row.public_id),
        grade=row.grade_id,
        seller=row.organization_id,
        endpoint=row.endpoint,
        is_modelled=row.is_modelled,
        is_certified=row.state == catalog.Cluster.State.CERTIFIED and is_valid,
        terms=cluster_terms(
            accelerator=row.accelerator,
            model_shape=grade.model_shape,
            precision=grade.precision,
            tensor_parallel=row.tensor_parallel,
            replicas=row.replicas,
            certified_lots=row.certified_lots,
            is_modelled=row.is_modelled,
            weights=_weights(grade),
            context_tokens_max=grade.context_tokens_max,
            first_token_us=_first_token_us(grade),
        ),
    )


def _first_token_us(grade: catalog.Grade) -> tuple[int, int, int, int]:
    match grade.first_token_ms:
        case [p0, p1, p2, p3]:
            return p0 * 1_000, p1 * 1_000, p2 * 1_000, p3 * 1_000
        case _:
            return FIRST_TOKEN_US


def _usage_prices(hour: int) -> dict[str, int]:
    """Return the index that pay-as-you-go follows, by grade: this hour's, else the last one."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (grade) grade, price_ticks FROM settlement_indexvalue
            WHERE hour_starts_at <= %s AND version = 1 ORDER BY grade, hour_starts_at DESC
            """,
            [clock.to_datetime(hour)],
        )
        return dict(cursor.fetchall())


def _windows(
    hour: int,
) -> tuple[dict[tuple[int, int], Hours], dict[tuple[str, int], tuple[Window, ...]]]:
    """Return the hours of every holder by (cluster, holder) and class, and failed ones by grade.

    Before the next gate closes nobody knows which cluster the next hour's lots will be on; for the
    debt a request may draw on they are taken to stay as they are (RULEBOOK 6.1).
    """
    lots: dict[tuple[int, int], dict[ServiceClass, dict[int, int]]] = {}
    failed: dict[tuple[str, int], dict[int, int]] = {}
    present = settlement_queries.entitlements_snapshot(starts_at=clock.to_datetime(hour))
    coming = settlement_queries.entitlements_snapshot(
        starts_at=clock.to_datetime(hour + contract.HOUR)
    )
    for row in (*present, *coming):
        starts_at = clock.to_micros(row.starts_at)
        if row.cluster == 0:
            hours = failed.setdefault((row.grade, row.holder), {})
            hours[starts_at] = hours.get(starts_at, 0) + row.lots
            continue
        of_holder = lots.setdefault((row.cluster, row.holder), {})
        for service_class, part in _by_class(row):
            hours = of_holder.setdefault(service_class, {})
            hours[starts_at] = hours.get(starts_at, 0) + part
    known = {(row.holder, row.grade) for row in coming}
    unknown = {(row.holder, row.grade) for row in present if row.cluster} - known
    length = settlement_queries.contiguous_hours(starts_at=clock.to_datetime(hour), holders=unknown)
    for row in present:
        if row.cluster and (row.holder, row.grade) in unknown:
            for hours in lots[row.cluster, row.holder].values():
                for ahead in range(1, length[row.holder, row.grade]):
                    hours[hour + ahead * contract.HOUR] = hours[hour]
    return (
        {
            key: {each: _in_order(hours) for each, hours in of_holder.items()}
            for key, of_holder in lots.items()
        },
        {key: _in_order(hours) for key, hours in failed.items()},
    )


def _idle_slots(hour: int) -> dict[str, dict[int, tuple[Window, ...]]]:
    """Return the slots without lots of this hour and the next, by grade and holder."""
    found: dict[str, dict[int, dict[int, int]]] = {}
    for starts_at in (hour, hour + contract.HOUR):
        rows = settlement_queries.idle_slots(starts_at=clock.to_datetime(starts_at))
        for grade, holder, slots in rows:
            found.setdefault(grade, {}).setdefault(holder, {})[starts_at] = slots
    return {
        grade: {holder: _in_order(hours) for holder, hours in of_grade.items()}
        for grade, of_grade in found.items()
    }


def _by_class(row: settlement_queries.AllocationRow) -> Iterator[tuple[ServiceClass, int]]:
    """Yield the lots of an allocation by the class they are served in (RULEBOOK 7.1)."""
    rest = row.lots - row.p0_lots - row.p1_lots
    for service_class, part in zip(ServiceClass, (row.p0_lots, row.p1_lots, rest), strict=False):
        if part:
            yield service_class, part


def _in_order(hours: dict[int, int]) -> tuple[Window, ...]:
    return tuple(
        Window(starts_at=starts_at, ends_at=starts_at + contract.HOUR, lots=hours[starts_at])
        for starts_at in sorted(hours)
    )


def modelled_clusters() -> list[tuple[str, ClusterConfig]]:
    """Return the clusters that the model server is to run, by the id in their path."""
    rows = (
        catalog.Cluster.objects.filter(is_modelled=True)
        .exclude(state=catalog.Cluster.State.DEREGISTERED)
        .select_related("grade")
        .order_by("id")
    )
    return [(str(row.id), modelled_cluster(row)) for row in rows]


def modelled_cluster(row: catalog.Cluster) -> ClusterConfig:
    """Return what the model server has to know of a cluster."""
    return ClusterConfig(
        accelerator=row.accelerator,
        model=row.grade.model_shape,
        precision=row.grade.precision,
        tensor_parallel=row.tensor_parallel,
        replicas=row.replicas,
        grade=row.grade_id,
    )


def cluster(cluster_id: int, *, organization_id: int | None = None) -> catalog.Cluster | None:
    """Return a cluster, or None; with an organization only where that owns it."""
    rows = catalog.Cluster.objects.filter(id=cluster_id).select_related("grade", "organization")
    if organization_id is not None:
        rows = rows.filter(organization_id=organization_id)
    return rows.first()


def certification(certification_id: int, *, cluster_id: int) -> models.Certification | None:
    """Return a certification of a cluster, or None."""
    return models.Certification.objects.filter(id=certification_id, cluster=cluster_id).first()


# Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What an organization used of a grade in one span, by class served."""

    starts_at: datetime
    grade: str
    service_class: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    mntu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One request of an organization with what it used."""

    id: str
    arrived_at: datetime
    grade: str
    cluster: int
    class_requested: str
    class_served: str
    outcome: str
    reason: str
    state: str
    """OPEN, COMPLETED, ABORTED or FAILED; empty when it was not admitted."""
    queue_ms: int
    first_token_ms: int | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    mntu: int
    is_estimated: bool
    is_bounded: bool


_LAST_EVENT = """
    LEFT JOIN LATERAL (
        SELECT * FROM admission_usageevent event WHERE event.request_id = request.id
        ORDER BY event.sequence DESC LIMIT 1) last ON true
"""


def usage(
    organization_id: int, *, since: datetime, until: datetime, span: str = "hour"
) -> list[UsageRow]:
    """Return an organization's usage by arrival, grade and class in spans of time, oldest first.

    `span` is `interval` (five minutes), `hour` or `day`.
    """
    stride = {"interval": "5 minutes", "hour": "1 hour", "day": "1 day"}[span]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT date_bin(%s::interval, request.arrived_at, 'epoch'::timestamptz), request.grade,
                request.class_served, count(*), coalesce(sum(last.prompt_tokens), 0)::bigint,
                coalesce(sum(last.cached_tokens), 0)::bigint,
                coalesce(sum(last.output_tokens), 0)::bigint, coalesce(sum(last.mntu), 0)::bigint
            FROM admission_request request {_LAST_EVENT}
            WHERE request.organization_id = %s AND request.arrived_at >= %s
              AND request.arrived_at < %s AND request.outcome = 'ADMITTED' AND NOT request.is_probe
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """,  # noqa: S608 - a constant of this module
            [stride, organization_id, since, until],
        )
        return [
            UsageRow(
                starts_at=row[0],
                grade=row[1],
                service_class=row[2],
                requests=row[3],
                prompt_tokens=row[4],
                cached_tokens=row[5],
                output_tokens=row[6],
                mntu=row[7],
            )
            for row in cursor.fetchall()
        ]


def requests(
    organization_id: int, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[RequestRow]:
    """Return an organization's requests, the newest first, refusals too.

    `before` is the (arrived_at, id) of the last one seen.
    """
    at, last_id = before or (None, None)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT request.id::text, request.arrived_at, request.grade, request.cluster,
                request.class_requested, request.class_served, request.outcome, request.reason,
                coalesce(last.state, ''), request.queue_ms, last.first_token_ms,
                coalesce(last.prompt_tokens, 0), coalesce(last.cached_tokens, 0),
                coalesce(last.output_tokens, 0), coalesce(last.mntu, 0),
                coalesce(last.is_estimated, false), coalesce(last.is_bounded, false)
            FROM admission_request request {_LAST_EVENT}
            WHERE request.organization_id = %s AND NOT request.is_probe
              AND (%s::timestamptz IS NULL
                   OR (request.arrived_at, request.id) < (%s::timestamptz, %s::uuid))
            ORDER BY request.arrived_at DESC, request.id DESC LIMIT %s
            """,  # noqa: S608 - a constant of this module
            [organization_id, at, at, last_id, min(limit, REQUESTS_MAX + 1)],
        )
        names = RequestRow.__dataclass_fields__
        return [RequestRow(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


# Pools and what is published of them


class LiveClass(msgspec.Struct, frozen=True, kw_only=True):
    """One class of a pool at this moment; waits of the last requests, counts since the start."""

    queue_length: int = 0
    running: int = 0
    wait_ms_p50: int = 0
    wait_ms_p95: int = 0
    wait_ms_p99: int = 0
    admitted: int = 0
    queued: int = 0
    shed: int = 0
    spilled: int = 0
    jain: float | None = None
    bound_ms: int | None = None
    """How late the first token of a timed request may be (RULEBOOK 7.6)."""
    is_bound_void: bool = False
    lag_ms: int | None = None
    """The worst of the last timed requests less the bound; below zero it was kept."""


class LivePool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool at this moment, as its gateway sees it."""

    at: int
    gateway: str
    is_reachable: bool
    sequences: int
    sequences_max: int
    classes: dict[str, LiveClass]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """A pool as everybody may see it."""

    id: int
    public_id: str
    grade: str
    name: str
    seller: str
    state: str
    accelerator: str
    tensor_parallel: int
    replicas: int
    is_modelled: bool
    certified_lots: int
    certified_until: datetime | None


def pools(grade: str = "") -> list[PoolRow]:
    """Return the pools, by id; of one grade, or of all."""
    rows = (
        catalog.Cluster.objects.exclude(state=catalog.Cluster.State.DEREGISTERED)
        .select_related("organization")
        .order_by("id")
    )
    if grade:
        rows = rows.filter(grade_id=grade)
    return [_pool(row) for row in rows]


def pool(public_id: str) -> PoolRow | None:
    """Return a pool by its public id, or None."""
    row = catalog.Cluster.objects.filter(public_id=public_id).select_related("organization").first()
    return None if row is None else _pool(row)


def _pool(row: catalog.Cluster) -> PoolRow:
    return PoolRow(
        id=row.id,
        public_id=str(row.public_id),
        grade=row.grade_id,
        name=row.name,
        seller=row.organization.name,
        state=row.state,
        accelerator=row.accelerator,
        tensor_parallel=row.tensor_parallel,
        replicas=row.replicas,
        is_modelled=row.is_modelled,
        certified_lots=row.certified_lots,
        certified_until=row.certified_until,
    )


def live_pools(cluster_ids: Iterable[int]) -> dict[int, LivePool]:
    """Return the live numbers of these pools, of those that a gateway serves now."""
    ids = list(cluster_ids)
    if not ids:
        return {}
    client = valkey.Valkey.from_url(
        settings.VALKEY_URL, socket_timeout=0.5, socket_connect_timeout=0.5
    )
    try:
        values: Any = client.hmget(LIVE_KEY, [str(each) for each in ids])
    except (valkey.ValkeyError, OSError):
        return {}
    finally:
        client.close()  # type: ignore[no-untyped-call]
    return {
        each: msgspec.json.decode(value, type=LivePool)
        for each, value in zip(ids, values, strict=True)
        if value is not None
    }


def pool_history(cluster_id: int, *, limit: int = HISTORY_INTERVALS) -> list[models.PoolInterval]:
    """Return a pool's last reported intervals by class, the newest first."""
    return list(
        models.PoolInterval.objects.filter(cluster=cluster_id).order_by(
            "-interval_starts_at", "service_class"
        )[:limit]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transparency:
    """Everything that is published of a pool."""

    pool: PoolRow
    live: LivePool | None
    history: tuple[models.PoolInterval, ...]


def transparency(public_id: str, *, limit: int = HISTORY_INTERVALS) -> Transparency | None:
    """Return what is published of a pool, or None when there is none."""
    found = pool(public_id)
    if found is None:
        return None
    live = live_pools([found.id]).get(found.id)
    return Transparency(pool=found, live=live, history=tuple(pool_history(found.id, limit=limit)))


def receipt(receipt_id: str, *, organization: int) -> receipts.Receipt | None:
    """Return a receipt of which an organization is the holder or the seller, or None."""
    row = models.Receipt.objects.filter(id=receipt_id).first()
    if row is None:
        return None
    sold = catalog.Cluster.objects.filter(pk=row.cluster, organization_id=organization)
    if row.organization_id != organization and not sold.exists():
        return None
    return receipts.Receipt(
        issuer=row.issuer,
        public=msgspec.json.decode(row.public),
        private=msgspec.json.decode(row.private),
        salt=bytes(row.salt),
        signature=bytes(row.signature),
    )


def clock_jumps(since: int, until: int) -> list[clearing.ClockJump]:
    """Return the jumps of a demo's clock that touch a span, in their order."""
    return list(
        clearing.ClockJump.objects.filter(
            from_at__lt=clock.to_datetime(until), to_at__gt=clock.to_datetime(since)
        ).order_by("from_at", "id")
    )
