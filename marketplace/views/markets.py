"""Pages that anyone may read: the front page, the markets, the index, the pools."""

import json
from collections import defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from admission import cover
from admission import queries as admission_queries
from exchange import curve as exchange_curve
from marketplace import clock, contract, disclosure, errors, queries, wire
from marketplace.views import instrument, shared
from settlement import index as txi
from settlement import index_queries
from settlement import models as settlement_models

PRODUCTS_SHOWN = (
    *(each for each in contract.Product if each is not contract.Product.SLOT),
    *contract.SLOT_CLASSES,
)
"""In the order in which the page shows them; slots by their class."""
NAMES: dict[str, str] = {
    **{each: f"{each} slot" for each in contract.SLOT_CLASSES},
    contract.Product.CAP: "price cap",
    contract.Product.COVER: "shortage cover",
}
"""What is called otherwise than in the symbol's terms."""
INDEX_HOURS_SHOWN = 24 * 7
HISTORY_ROWS_SHOWN = 96
POOL_CHARTS = (
    ("wait_ms_p99", "Wait, p99", "ms"),
    ("first_token_ms_p99", "Time to first token, p99", "ms"),
    ("delivered", "Delivered", "kNTU"),
    ("shed", "Shed", "requests"),
)


@require_safe
@shared.public_page
def home(request: HttpRequest) -> HttpResponse:
    """What this is, and the next open hour of each grade."""
    soonest: dict[str, instrument.Row] = {}
    for row in instrument.live_rows():
        if row.is_open and row.is_hour:
            soonest.setdefault(row.grade, row)
    grades = [
        {
            "code": grade.code,
            "name": grade.name,
            "region": grade.region,
            "context_tokens_max": grade.context_tokens_max,
            "output_weight": grade.weight_output // contract.NTU_PER_LOT_MINUTE,
            "reference_price_ticks": grade.reference_price_ticks,
            "list_price": grade.list_price,
        }
        for grade in queries.grades()
    ]
    values = {
        "rows": list(soonest.values()),
        "grades": grades,
        "has_sources": any(grade["list_price"] for grade in grades),
    }
    return shared.page(request, "marketplace/home.html", values)


@require_safe
@shared.public_page
def markets(request: HttpRequest) -> HttpResponse:
    """Everything listed, by grade and length of window, with the curve of the hours."""
    by_grade: dict[str, dict[str, list[instrument.Row]]] = defaultdict(lambda: defaultdict(list))
    for row in instrument.live_rows():
        by_grade[row.grade][row.service_class or row.product].append(row)
    grades = [
        {
            "code": grade.code,
            "name": grade.name,
            "region": grade.region,
            "groups": [
                {
                    "product": NAMES.get(product, product.lower()),
                    "rows": by_grade[grade.code][product],
                    "open_count": sum(row.is_open for row in by_grade[grade.code][product]),
                }
                for product in PRODUCTS_SHOWN
                if by_grade[grade.code][product]
            ],
            "open_count": sum(
                row.is_open for rows in by_grade[grade.code].values() for row in rows
            ),
            "curve": _curve(by_grade[grade.code][contract.Product.HOUR]),
            "curve_id": f"curve-{grade.code}",
        }
        for grade in queries.grades()
    ]
    return shared.page(request, "marketplace/markets.html", {"grades": grades})


def _curve(rows: list[instrument.Row]) -> dict[str, list[Any]]:
    return {
        "time": [int(row.starts_at.timestamp()) for row in rows],
        "bid": [instrument.number(row.bid) for row in rows],
        "ask": [instrument.number(row.ask) for row in rows],
        "last": [instrument.number(row.last) for row in rows],
    }


@require_safe
@shared.public_page
def curve(request: HttpRequest, grade: str) -> HttpResponse:
    """The forward curve of a grade: every window that trades, and the price of each hour."""
    found = exchange_curve.of_grade(grade)
    moment = clock.to_datetime
    ends = [*found.segments, *found.segments[-1:]]
    values = {
        "grade": queries.grade(grade),
        "list_price": found.list_price,
        "index_mean": found.index_mean,
        "index_hours": found.index_hours,
        "rows": [
            {
                "symbol": point.symbol,
                "product": point.product,
                "starts_at": moment(point.starts_at),
                "hours": (point.ends_at - point.starts_at) // contract.HOUR,
                "mark": point.mark,
                "last": point.last,
                "bid": point.bid,
                "ask": point.ask,
                "change": point.change,
                "fair": found.fair(point),
                "list_basis": found.above_list(point.mark),
                "index_basis": found.above_index(point.mark),
            }
            for point in found.points
        ],
        "series": {
            "time": [
                *(one.starts_at // contract.MICROS_PER_SECOND for one in found.segments),
                *(one.ends_at // contract.MICROS_PER_SECOND for one in found.segments[-1:]),
            ],
            "price": [instrument.number(one.price) for one in ends],
            "list": [instrument.number(found.list_price) for _ in ends],
            "index": [instrument.number(found.index_mean) for _ in ends],
        },
    }
    return shared.page(request, "marketplace/curve.html", values)


# The index


@require_safe
@shared.public_page
def index(request: HttpRequest) -> HttpResponse:
    """The index of the last days, by grade."""
    since = clock.now() - timedelta(hours=INDEX_HOURS_SHOWN)
    by_grade: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in index_queries.index_values().filter(hour_starts_at__gte=since):
        by_grade[row.grade].append(
            {
                "starts_at": row.hour_starts_at,
                "hour": f"{row.hour_starts_at:%Y%m%dT%HZ}",
                "price": row.price_ticks,
                "method": row.method,
                "at": row.at,
                "digest": bytes(row.digest).hex()[:12],
            }
        )
    periods = txi.reference_periods(clock.now_micros())
    grades = [
        {
            "code": grade.code,
            "rows": by_grade[grade.code],
            "latest": next(iter(by_grade[grade.code]), None),
            "means": [_mean(one) for one in index_queries.index_means(grade.code, periods=periods)],
            "series": {
                "time": [int(row["starts_at"].timestamp()) for row in by_grade[grade.code]][::-1],
                "price": [instrument.number(row["price"]) for row in by_grade[grade.code]][::-1],
            },
            "series_id": f"index-{grade.code}",
        }
        for grade in queries.grades()
    ]
    return shared.page(request, "marketplace/index.html", {"grades": grades})


def _mean(found: index_queries.IndexMean) -> dict[str, Any]:
    """Return a mean as the page prints it."""
    return {
        "period": found.period,
        "starts_at": clock.to_datetime(found.starts_at),
        "mean": found.mean_ticks,
        "hours": found.hours,
        "hours_max": found.hours_max,
    }


@require_safe
@shared.public_page
def index_hour(request: HttpRequest, grade: str, hour: str) -> HttpResponse:
    """One value of the index with the inputs that reproduce it, and the versions before it."""
    starts_at = clock.to_datetime(wire.parse_hour(hour, "hour"))
    versions = index_queries.index_versions(grade=grade, hour_starts_at=starts_at)
    if not versions:
        raise errors.NotFound("no index is published for that hour")
    values = {
        "grade": grade,
        "hour": hour,
        "starts_at": starts_at,
        "versions": [
            {
                "version": row.version,
                "price": row.price_ticks,
                "method": row.method,
                "at": row.at,
                "digest": bytes(row.digest).hex(),
                "inputs": _spread_out(json.loads(bytes(row.inputs))),
            }
            for row in versions
        ],
    }
    return shared.page(request, "marketplace/index_hour.html", values)


def _spread_out(inputs: dict[str, Any]) -> str:
    """Return the inputs of an index to be read: one of them a line, and one trade a line."""
    lines = []
    for name, value in inputs.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


# The pools


@require_safe
@shared.public_page
def transparency(request: HttpRequest) -> HttpResponse:
    """Every pool and class, as it is now."""
    pools = disclosure.pools_now()
    hour = clock.to_datetime(contract.hour_start(clock.now_micros()))
    entitled = settlement_models.Entitlement.objects.filter(starts_at=hour)
    values = {
        "pools": [
            {
                "id": one.pool.public_id,
                "name": one.pool.name,
                "grade": one.pool.grade,
                "classes": one.classes,
            }
            for one in pools
        ],
        "certified": sum(one.pool.certified_lots for one in pools),
        "entitled": sum(entitled.values_list("lots", flat=True)),
    }
    return shared.page(request, "marketplace/transparency.html", values)


@require_safe
@shared.public_page
def pool(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """One pool: now, and its history as charts and a table."""
    found = disclosure.pools_now(str(public_id))
    if not found:
        raise errors.NotFound("there is no such pool")
    one = found[0]
    history = admission_queries.pool_history(one.pool.id)
    times = sorted({row.interval_starts_at for row in history})
    classes = sorted({row.service_class for row in history})
    cells = {(row.interval_starts_at, row.service_class): _published(row) for row in history}
    series: dict[str, Any] = {
        "time": [int(at.timestamp()) for at in times],
        "classes": classes,
    }
    for field, _, _ in POOL_CHARTS:
        series[field] = {
            name: [cells.get((at, name), {}).get(field) for at in times] for name in classes
        }
    values = {
        "pool": {
            "id": one.pool.public_id,
            "name": one.pool.name,
            "grade": one.pool.grade,
            "accelerators": accelerators(one.pool),
            "certified_lots": one.pool.certified_lots,
            "is_down": one.pool.state == "DOWN",
            "classes": one.classes,
        },
        "covers": [
            {"created_at": row.created_at, "price": row.price_ticks, "lots": row.lots}
            for row in cover.open_offers(one.pool.id).order_by("price_ticks", "id")
        ],
        "has_history": bool(history),
        "history": series,
        "charts": [
            {"field": field, "title": title, "unit": unit} for field, title, unit in POOL_CHARTS
        ],
        "history_rows": [_published(row) for row in history[:HISTORY_ROWS_SHOWN]],
    }
    return shared.page(request, "marketplace/pool.html", values)


def accelerators(cluster: Any) -> str:
    """Say what a cluster is made of."""
    return f"{cluster.replicas} × {cluster.tensor_parallel} {cluster.accelerator}"


def _published(row: Any) -> dict[str, Any]:
    """Return what is published of an interval of a pool and class."""
    return {
        "starts_at": row.interval_starts_at,
        "service_class": row.service_class,
        "admitted": row.admitted,
        "shed": row.shed,
        "wait_ms_p99": row.queue_ms_p99,
        "first_token_ms_p99": row.first_token_ms_p99,
        "guaranteed_mntu": row.guaranteed_mntu,
        "delivered_mntu": row.delivered_mntu,
        "delivered": row.delivered_mntu // 1_000_000,
    }
