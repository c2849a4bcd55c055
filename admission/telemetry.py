"""What a gateway tells Prometheus: each pool as its scheduler has it, and how long answers took.

Times and tokens of answers have the names, attributes, units and buckets of OpenTelemetry's
semantic conventions for generative AI (`gen_ai.server.time_to_first_token` and its like), dots as
underscores and the unit behind as Prometheus spells them; a pool and the class served are added.
They count what was dispatched, the deployment's own probes excepted. Pools are read when they are
asked for, and held nowhere.
"""

from collections.abc import Iterable, Iterator

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from admission import dialect
from admission.decisions import ServiceClass
from admission.inspection import ClassReport
from admission.metering import UsageRow
from admission.pools import Pool, Pools
from admission.scaling import PARTS

OPERATIONS = {
    dialect.CHAT: "chat",
    dialect.COMPLETIONS: "text_completion",
    dialect.EMBEDDINGS: "embeddings",
}
"""`gen_ai.operation.name` of a path."""
PROVIDER = "baseload"
_LABELS = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "baseload_pool",
    "baseload_class",
)
_DOUBLING_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(float(4**power) for power in range(14))

DURATION = prometheus_client.Histogram(
    "gen_ai_server_request_duration_seconds",
    "From a request's arrival to its end, the wait for a replica included.",
    (*_LABELS, "error_type"),
    buckets=_DOUBLING_S,
)
FIRST_TOKEN = prometheus_client.Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From a request's arrival to the upstream's first token.",
    _LABELS,
    buckets=_FIRST_TOKEN_S,
)
PER_TOKEN = prometheus_client.Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Mean time per output token after the first, without the caller's own stalls.",
    _LABELS,
    buckets=_PER_TOKEN_S,
)
TOKENS = prometheus_client.Histogram(
    "gen_ai_client_token_usage",
    "Tokens that were read or generated, as they are billed.",
    (*_LABELS, "gen_ai_token_type"),
    buckets=_TOKENS,
)


def ended(
    row: UsageRow, *, path: str, model: str, pool: str, service_class: ServiceClass, elapsed_ns: int
) -> None:
    """Count a request that was dispatched and has ended, however it did."""
    labels = OPERATIONS[path], PROVIDER, model, pool, service_class.name
    error = "" if row.state == "COMPLETED" else row.state.lower()
    DURATION.labels(*labels, error).observe(elapsed_ns / 1e9)
    if row.first_token_ms is not None:
        FIRST_TOKEN.labels(*labels).observe(row.first_token_ms / 1e3)
    if row.per_token_us is not None:
        PER_TOKEN.labels(*labels).observe(row.per_token_us / 1e6)
    TOKENS.labels(*labels, "input").observe(row.prompt_tokens)
    TOKENS.labels(*labels, "output").observe(row.output_tokens)


def text(pools: Pools) -> bytes:
    """Return everything this process has counted, and its pools, in Prometheus's form."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(_PoolGauges(pools.pools.values()))
    return prometheus_client.generate_latest() + prometheus_client.generate_latest(registry)


class _PoolGauges(Collector):
    """One look at every scheduler, as metrics."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        of_class = ["pool", "class"]
        waiting = GaugeMetricFamily(
            "baseload_pool_queue_length", "Requests that wait.", labels=of_class
        )
        running = GaugeMetricFamily(
            "baseload_pool_running", "Requests on a replica.", labels=of_class
        )
        waits = GaugeMetricFamily(
            "baseload_pool_wait_seconds",
            "Time from arrival to dispatch of the last 1,024 requests.",
            labels=[*of_class, "quantile"],
        )
        decided = CounterMetricFamily(
            "baseload_pool_requests",
            "Requests since this gateway took the pool, by what became of them.",
            labels=[*of_class, "outcome"],
        )
        fairness = GaugeMetricFamily(
            "baseload_pool_jain",
            "Jain's index of flows that waited through the last ten seconds.",
            labels=of_class,
        )
        utilisation = GaugeMetricFamily(
            "baseload_pool_utilisation", "Share of the sequences in use.", labels=["pool"]
        )
        memory = GaugeMetricFamily(
            "baseload_pool_kv_utilisation", "Share of the KV tokens spoken for.", labels=["pool"]
        )
        replicas = GaugeMetricFamily(
            "baseload_pool_replicas_available", "Replicas in dispatch.", labels=["pool"]
        )
        reachable = GaugeMetricFamily(
            "baseload_pool_reachable", "0 while the upstream keeps failing.", labels=["pool"]
        )
        for pool in self._pools:
            name, terms = pool.cluster.public_id, pool.cluster.terms
            seen = pool.scheduler.inspect(pool.now())
            for each, report in seen.classes.items():
                labels = [name, each.name]
                waiting.add_metric(labels, report.queued_now)
                running.add_metric(labels, report.running_now)
                for quantile, wait_us in _quantiles(report):
                    waits.add_metric([*labels, quantile], wait_us / 1e6)
                for outcome, count in _outcomes(report):
                    decided.add_metric([*labels, outcome], count)
                if report.jain is not None:
                    fairness.add_metric(labels, float(report.jain))
            sequences = sum(replica.sequences for replica in seen.replicas)
            kv_tokens = sum(replica.kv_tokens for replica in seen.replicas)
            utilisation.add_metric([name], sequences / (terms.replicas * terms.sequences_max))
            memory.add_metric([name], kv_tokens / (terms.replicas * terms.kv_tokens))
            replicas.add_metric([name], sum(replica.available for replica in seen.replicas))
            reachable.add_metric([name], float(not pool.is_ejected))
        yield from (waiting, running, waits, decided, fairness)
        yield from (utilisation, memory, replicas, reachable)
        yield from self._promises()

    def _promises(self) -> Iterator[Metric]:
        """Yield what is promised of each class, and how close it came."""
        of_class = ["pool", "class"]
        bound = GaugeMetricFamily(
            "baseload_pool_bound_seconds",
            "How late the first token of a timed request may be.",
            labels=of_class,
        )
        lag = GaugeMetricFamily(
            "baseload_pool_lag_seconds",
            "The worst first token of the last timed requests less the bound.",
            labels=of_class,
        )
        factor = GaugeMetricFamily(
            "baseload_pool_rate_factor",
            "What of the rates of the class holds while a replica is lost.",
            labels=of_class,
        )
        for pool in self._pools:
            for each, report in pool.scheduler.inspect(pool.now()).classes.items():
                labels = [pool.cluster.public_id, each.name]
                factor.add_metric(labels, report.factor / PARTS)
                if report.bound_us is not None:
                    bound.add_metric(labels, report.bound_us / 1e6)
                if report.lag_us is not None:
                    lag.add_metric(labels, report.lag_us / 1e6)
        yield from (bound, lag, factor)


def _quantiles(report: ClassReport) -> tuple[tuple[str, int], ...]:
    return (
        ("0.5", report.wait_us_p50),
        ("0.95", report.wait_us_p95),
        ("0.99", report.wait_us_p99),
    )


def _outcomes(report: ClassReport) -> tuple[tuple[str, int], ...]:
    return (
        ("admitted", report.admitted),
        ("queued", report.queued),
        ("shed", report.shed),
        ("spilled", report.spilled),
        ("aborted", report.aborted),
    )
