"""What admission shows over REST: an organization's own usage, and what is public of every pool."""

import uuid
from typing import Annotated, Literal

import msgspec

from admission import models, queries, receipts
from marketplace import clock, errors, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict

HISTORY_LIMIT_MAX = 2_000
USAGE_SPAN_DEFAULT = {"interval": 1, "hour": 7, "day": 92}
"""Days that are shown when the caller does not say from when."""
USAGE_SPAN_DAYS_MAX = 366


class ShowUsage(Endpoint):
    """Tokens used by span, grade and class served, the oldest span first."""

    scope = "read"
    tag = "account"

    class Query(Strict):
        """From when to when, and by which span; times are RFC 3339."""

        since: wire.TimeText | None = None
        until: wire.TimeText | None = None
        span: Literal["interval", "hour", "day"] = "hour"

    class Row(Answer):
        """What was used in one span."""

        starts_at: str
        grade: str
        service_class: str
        requests: int
        prompt_tokens: int
        cached_tokens: int
        output_tokens: int
        ntu: str

    class Output(Answer):
        """Every span with use in it."""

        since: str
        until: str
        span: str
        results: "list[ShowUsage.Row]"

    def handle(self, call: Call) -> Output:
        """Answer."""
        until = clock.now_micros()
        if call.query.until is not None:
            until = wire.parse_time(call.query.until, "until")
        since = until - USAGE_SPAN_DEFAULT[call.query.span] * clock.DAY
        if call.query.since is not None:
            since = wire.parse_time(call.query.since, "since")
        if not 0 <= until - since <= USAGE_SPAN_DAYS_MAX * clock.DAY:
            raise wire.invalid("since", "out_of_range", f"at most {USAGE_SPAN_DAYS_MAX} days")
        rows = queries.usage(
            call.organization,
            since=clock.to_datetime(since),
            until=clock.to_datetime(until),
            span=call.query.span,
        )
        return self.Output(
            since=wire.time_text(since),
            until=wire.time_text(until),
            span=call.query.span,
            results=[
                self.Row(
                    starts_at=wire.moment_text(row.starts_at),
                    grade=row.grade,
                    service_class=row.service_class.lower(),
                    requests=row.requests,
                    prompt_tokens=row.prompt_tokens,
                    cached_tokens=row.cached_tokens,
                    output_tokens=row.output_tokens,
                    ntu=wire.ntu_text(row.mntu),
                )
                for row in rows
            ],
        )


class ShowReceipt(Endpoint):
    """What a request came to, signed by the gateway: for its holder and for its seller.

    The body is the receipt itself: verify it with the key of `keys` that its issuer names.
    """

    scope = "read"
    tag = "account"

    class Output(Answer):
        """A receipt; every number in it is a string."""

        version: str
        issuer: str
        public: dict[str, str]
        private: dict[str, str]
        salt: str
        signature: str

    def handle(self, call: Call, receipt_id: str) -> Output:
        """Answer."""
        found = queries.receipt(_public_id(receipt_id), organization=call.organization)
        if found is None:
            raise errors.NotFound()
        return msgspec.convert(receipts.document(found), self.Output)


class Pool(Answer):
    """A cluster as everybody may see it."""

    id: str
    grade: str
    name: str
    seller: str
    state: str
    accelerator: str
    tensor_parallel: int
    replicas: int
    is_modelled: bool
    certified_lots: int
    certified_until: str | None


class ListPools(Endpoint):
    """The pools that serve, or served, requests."""

    tag = "transparency"
    Item = Pool
    Output = Listed[Pool]

    class Query(Strict):
        """Of one grade only."""

        grade: str = ""

    def handle(self, call: Call) -> Listed[Pool]:
        """Answer."""
        after = call.page.number()
        rows = [row for row in queries.pools(call.query.grade) if after is None or row.id > after]
        return call.page.page(rows[: call.page.fetch], _pool_out, position=lambda row: [row.id])


class LiveClass(Answer):
    """One class of a pool now: waits of its last requests, counts since its gateway started.

    `bound_ms` is how late the first token of a timed request may be; null: no bound. `lag_ms` is
    the worst of the last ones less the bound. While `is_bound_void`, they wait for memory.
    """

    queue_length: int
    running: int
    wait_ms_p50: int
    wait_ms_p95: int
    wait_ms_p99: int
    admitted: int
    queued: int
    shed: int
    spilled: int
    jain: float | None
    bound_ms: int | None
    is_bound_void: bool
    lag_ms: int | None


class Live(Answer):
    """A pool as its gateway sees it now."""

    at: str
    is_reachable: bool
    utilization: float | None
    classes: dict[str, LiveClass]


class Interval(Answer):
    """One class of a pool in one five-minute interval."""

    starts_at: str
    service_class: str
    admitted: int
    queued: int
    shed: int
    spilled: int
    queue_ms_p50: int | None
    queue_ms_p95: int | None
    queue_ms_p99: int | None
    first_token_ms_p50: int | None
    first_token_ms_p99: int | None
    per_token_ms_p50: float | None
    guaranteed_ntu: str
    delivered_ntu: str
    jain: float | None
    utilization: float | None


class ShowTransparency(Endpoint):
    """What is published of a pool: live, and the last intervals, the newest first.

    `live` is null while no gateway serves the pool.
    """

    tag = "transparency"

    class Query(Strict):
        """How many rows of history: one per interval and class."""

        limit: Annotated[str, wire.whole(1, HISTORY_LIMIT_MAX)] | None = None

    class Output(Answer):
        """Everything that is published."""

        pool: Pool
        live: Live | None
        history: list[Interval]

    def handle(self, call: Call, pool_id: str) -> Output:
        """Answer."""
        limit = queries.HISTORY_INTERVALS
        if call.query.limit is not None:
            limit = wire.parse_whole(call.query.limit, "limit", low=1, high=HISTORY_LIMIT_MAX)
        found = queries.transparency(_public_id(pool_id), limit=limit)
        if found is None:
            raise errors.NotFound()
        return self.Output(
            pool=_pool_out(found.pool),
            live=None if found.live is None else _live(found.live),
            history=[_interval(row) for row in found.history],
        )


def _public_id(text: str) -> str:
    """Return the id of a pool or a receipt in its one spelling.

    :raises NotFound: when it is not one.
    """
    try:
        if str(uuid.UUID(text)) != text:
            raise ValueError
    except ValueError:
        raise errors.NotFound() from None
    return text


def _pool_out(row: queries.PoolRow) -> Pool:
    return Pool(
        id=row.public_id,
        grade=row.grade,
        name=row.name,
        seller=row.seller,
        state=row.state.lower(),
        accelerator=row.accelerator,
        tensor_parallel=row.tensor_parallel,
        replicas=row.replicas,
        is_modelled=row.is_modelled,
        certified_lots=row.certified_lots,
        certified_until=wire.optional_moment_text(row.certified_until),
    )


def _live(row: queries.LivePool) -> Live:
    return Live(
        at=wire.time_text(row.at),
        is_reachable=row.is_reachable,
        utilization=row.sequences / row.sequences_max if row.sequences_max else None,
        classes={
            name.lower(): LiveClass(
                queue_length=one.queue_length,
                running=one.running,
                wait_ms_p50=one.wait_ms_p50,
                wait_ms_p95=one.wait_ms_p95,
                wait_ms_p99=one.wait_ms_p99,
                admitted=one.admitted,
                queued=one.queued,
                shed=one.shed,
                spilled=one.spilled,
                jain=one.jain,
                bound_ms=one.bound_ms,
                is_bound_void=one.is_bound_void,
                lag_ms=one.lag_ms,
            )
            for name, one in sorted(row.classes.items())
        },
    )


def _interval(row: models.PoolInterval) -> Interval:
    return Interval(
        starts_at=wire.moment_text(row.interval_starts_at),
        service_class=row.service_class.lower(),
        admitted=row.admitted,
        queued=row.queued,
        shed=row.shed,
        spilled=row.spilled,
        queue_ms_p50=row.queue_ms_p50,
        queue_ms_p95=row.queue_ms_p95,
        queue_ms_p99=row.queue_ms_p99,
        first_token_ms_p50=row.first_token_ms_p50,
        first_token_ms_p99=row.first_token_ms_p99,
        per_token_ms_p50=None if row.per_token_us_p50 is None else row.per_token_us_p50 / 1_000,
        guaranteed_ntu=wire.ntu_text(row.guaranteed_mntu),
        delivered_ntu=wire.ntu_text(row.delivered_mntu),
        jain=row.jain,
        utilization=row.utilisation,
    )
