"""Takes a request in, has it decided, recorded and flown, and says what came of it.

Everything a caller can be told no for is said here, in one order: what the request itself lacks,
the limits of its key, its holder's level, its cash, the record, the upstream. A failure of an
upstream before its first byte is recorded against it and tried once elsewhere: on another
cluster of the holder, or for pay-as-you-go on any other of the grade. Before what was bought is
paid for a second time, the standing offers of other sellers are asked, the cheapest first: what
they take over is delivered, and debited to the holder as if its own cluster had served it.
"""

import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from admission import dialect, metering, upstream
from admission.decisions import Decision, Outcome, Overflow, Reason, Request, ServiceClass
from admission.flight import Ask, Flight, Out
from admission.pools import Pool, Pools
from admission.reserves import Hold, InsufficientQuota, Reserves
from admission.snapshot import Grade, Offer
from marketplace import clock, contract, errors

ATTEMPTS_MAX = 2
COVERS_MAX = 3
"""How many standing offers are asked for one request."""
BYTES_PER_TOKEN = 4
"""Assumed of an organization that has not finished a request yet."""
ORGANIZATIONS_KEPT = 10_000
NOBODY = "The cluster did not answer."
RETRY_AFTER_S = 1
RETRY_AFTER_NO_ENTITLEMENT_S = 60
MICRO = 1_000_000
_CAPACITY = frozenset({Reason.NO_CAPACITY, Reason.QUEUE_FULL})


class NoCapacity(dialect.Refused):
    """No cluster can serve the request now."""

    def __init__(self, detail: str, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(
            detail, code="no_capacity", status=503, kind="server_error", retry_after_s=retry_after_s
        )


class NotServed(Exception):
    """A cluster could not serve a request in profile, and another may; the refusal is recorded."""


@dataclass(slots=True)
class Course:
    """What has become of a request so far."""

    tried: set[int] = field(default_factory=set)
    covers: int = 0
    """How many of those that were tried were asked to cover."""
    failed: Pool | None = None
    """The holder's own pool that did not serve it though it was in profile,"""
    service_class: ServiceClass = ServiceClass.P2
    """and the class of the level that it counts against there."""

    @property
    def own(self) -> Pool:
        """The pool that is covered."""
        assert self.failed is not None, "only what has failed is covered"
        return self.failed

    @contextlib.contextmanager
    def covering(
        self, organization: int, decision: Decision, flight: Flight, *, is_cover: bool
    ) -> Iterator[None]:
        """Debit the holder's own level by what a cover is charged, and then by what it used."""
        if not is_cover:
            yield
            return
        self._consume(organization, decision.charge_mntu)
        try:
            yield
        finally:
            self._consume(organization, flight.meter.mntu - decision.charge_mntu)

    def _consume(self, organization: int, mntu: int) -> None:
        self.own.scheduler.consume(
            organization, mntu=mntu, at=self.own.now(), service_class=self.service_class
        )


class PromptLengths:
    """How many bytes of its prompts an organization's tokens have, learned as it goes."""

    def __init__(self) -> None:
        self._sums: OrderedDict[tuple[int, str], tuple[int, int]] = OrderedDict()

    def estimate(self, organization: int, grade: str, prompt_bytes: int) -> int:
        """Return how many tokens a prompt will probably have."""
        seen_bytes, seen_tokens = self._sums.get((organization, grade), (BYTES_PER_TOKEN, 1))
        return max(1, -(-prompt_bytes * seen_tokens // seen_bytes))

    def learn(self, organization: int, grade: str, prompt_bytes: int, tokens: int) -> None:
        """Take a prompt into account whose tokens were counted."""
        if tokens <= 0:
            return
        key = organization, grade
        seen_bytes, seen_tokens = self._sums.pop(key, (0, 0))
        if seen_tokens > MICRO:
            seen_bytes, seen_tokens = seen_bytes // 2, seen_tokens // 2
        self._sums[key] = max(1, seen_bytes + prompt_bytes), seen_tokens + tokens
        if len(self._sums) > ORGANIZATIONS_KEPT:
            self._sums.popitem(last=False)


class Desk:
    """Where requests are taken in; one per gateway."""

    def __init__(
        self,
        *,
        pools: Pools,
        reserves: Reserves,
        writer: metering.Writer,
        client: upstream.Client,
        gateway: str,
    ) -> None:
        self.pools = pools
        self.reserves = reserves
        self.writer = writer
        self.client = client
        self.gateway = gateway
        self.lengths = PromptLengths()

    async def serve_any(self, ask: Ask, substitutes: Iterable[Grade], out: Out) -> None:
        """Serve a request; where there is no capacity for it, as the cheapest substitute that can.

        :raises Refusal: that of the grade asked for, when none can; nothing was sent to `out` then.
        """
        try:
            await self.serve(ask, out)
        except NoCapacity:
            if out.is_started:
                raise
            for grade in self.pools.by_price(
                substitutes, ask.organization, service_class=ask.service_class
            ):
                try:
                    prompt_tokens, limit = self.tokens(ask.organization, grade, ask.call)
                    instead = replace(
                        ask, grade=grade, prompt_tokens=prompt_tokens, output_tokens_max=limit
                    )
                    await self.serve(instead, out)
                    return
                except errors.Refusal:
                    if out.is_started:
                        raise
            raise

    def tokens(self, organization: int, grade: Grade, call: dialect.Call) -> tuple[int, int]:
        """Return the estimated tokens of a prompt, and the limit of the output to it.

        :raises Refused: when it asks for more than the grade gives.
        """
        prompt_tokens = self.lengths.estimate(organization, grade.code, call.prompt_bytes)
        limit = call.output_tokens_max
        if limit is None:
            room = max(16, grade.context_tokens_max - prompt_tokens)
            return prompt_tokens, min(grade.output_tokens_max, room)
        if limit > grade.output_tokens_max:
            raise dialect.Refused(
                f"max_tokens is too large: {limit}. This model supports at most"
                f" {grade.output_tokens_max} completion tokens.",
                code="invalid_value",
                param="max_tokens",
            )
        return prompt_tokens, limit

    async def serve(self, ask: Ask, out: Out) -> None:
        """Serve a request to its end.

        :raises Refusal: in OpenAI's terms; nothing was sent to `out` then.
        """
        course = Course()
        while True:
            pool, offer = self._place(ask, course)
            if pool is None:
                await self._refuse_without_pool(ask, is_first=not course.tried)
                pool = self._fallback(ask, course.tried)
                if pool is None:
                    raise NoCapacity("No cluster can serve this model at the moment.")
            own = self._own_class(ask, pool) if course.failed is None else None
            try:
                await self._attempt(ask, pool, out, course, offer)
                return
            except NotServed:
                pass
            except InsufficientQuota:
                if not course.tried:
                    raise
                raise NoCapacity(NOBODY) from None
            except upstream.UpstreamFailed as failure:
                if failure.reason == "metering_unavailable":
                    raise metering.MeteringUnavailable(retry_after_s=RETRY_AFTER_S) from None
                if not self._elsewhere(ask, course, pool, offer):
                    raise NoCapacity(NOBODY) from None
            if course.failed is None and own is not None:
                course.failed, course.service_class = pool, own
            course.tried.add(pool.cluster.id)
            course.covers += offer is not None

    def _own_class(self, ask: Ask, pool: Pool) -> ServiceClass | None:
        """Return the class that a request is in profile at on a pool, or None where it is not."""
        if ask.only_pool:
            return None
        flows = pool.flows(ask.organization, highest=ask.service_class)
        return next((flow.service_class for flow in flows if flow.level_mntu > 0), None)

    def _place(self, ask: Ask, course: Course) -> tuple[Pool | None, Offer | None]:
        """Return where a request goes next: to a pool of its holder's, to cover, or to P3."""
        pool = self._choose(ask, course.tried)
        if course.failed is None or (pool is not None and self._own_class(ask, pool) is not None):
            return pool, None
        cover = None
        if course.covers < COVERS_MAX:
            cover = self._cover(ask, course.failed, course.tried)
        return cover or (pool, None)

    def _cover(self, ask: Ask, failed: Pool, tried: set[int]) -> tuple[Pool, Offer] | None:
        """Return the cheapest standing offer that may take over what a pool has failed to serve."""
        return self.pools.cover(
            ask.grade.code, holder=ask.organization, failed=failed, without=tried
        )

    def _choose(self, ask: Ask, tried: set[int]) -> Pool | None:
        """Return the pool that a request belongs to, or None."""
        if ask.only_pool:
            return None if tried else self.pools.pools.get(ask.only_pool)
        if ask.service_class is not ServiceClass.P3:
            pool = self.pools.entitled(
                ask.organization,
                ask.grade.code,
                service_class=ask.service_class,
                without=tried,
            )
            if pool is not None:
                return pool
            if tried:
                return self._fallback(ask, tried)
            if self.pools.has_failed_lots(ask.organization, ask.grade.code, clock.now_micros()):
                return None
        return self.pools.shared(ask.grade.code, without=tried)

    def _elsewhere(self, ask: Ask, course: Course, pool: Pool, offer: Offer | None) -> bool:
        """Whether a request that a pool did not serve is tried on another one."""
        after = course.tried | {pool.cluster.id}
        covers = course.covers + (offer is not None)
        if len(after) - covers < ATTEMPTS_MAX and self._choose(ask, after) is not None:
            return True
        failed = course.failed or (pool if self._own_class(ask, pool) is not None else None)
        return (
            failed is not None
            and covers < COVERS_MAX
            and self._cover(ask, failed, after) is not None
        )

    def _fallback(self, ask: Ask, tried: set[int]) -> Pool | None:
        """Return where what its cluster cannot serve runs as P3, if its holder spills."""
        if ask.only_pool or ask.overflow is not Overflow.SPILL:
            return None
        return self.pools.shared(ask.grade.code, without=tried)

    async def _refuse_without_pool(self, ask: Ask, *, is_first: bool) -> None:
        """Record that nothing serves a request: its holder's demand was missed."""
        if is_first and ask.service_class is not ServiceClass.P3:
            charge = (
                ask.prompt_tokens * ask.grade.weights.uncached
                + min(256, ask.output_tokens_max) * ask.grade.weights.output
            )
            row = self._row(
                ask,
                _new_id(),
                0,
                outcome="SHED",
                reason="NO_CAPACITY",
                charge_mntu=charge,
                is_in_profile=True,
                retry_after_s=RETRY_AFTER_S if self._fallback(ask, set()) is None else 0,
            )
            await self.writer.admit(row)

    async def _attempt(
        self, ask: Ask, pool: Pool, out: Out, course: Course, offer: Offer | None
    ) -> None:
        """Have a request decided by one pool, and fly it; there it may be covered by an offer.

        :raises NotServed: when the pool cannot serve it, and another one is to.
        :raises UpstreamFailed: before the upstream's first byte; the failure is recorded.
        :raises Refusal: in OpenAI's terms.
        """
        request_id = _new_id()
        request = Request(
            id=request_id,
            organization=ask.organization if offer is None else offer.holder,
            service_class=ask.service_class if offer is None else ServiceClass.P2,
            prompt_tokens=ask.prompt_tokens,
            output_tokens_max=ask.output_tokens_max * ask.call.choices,
            overflow=ask.overflow if offer is None else Overflow.REJECT,
        )
        flows = pool.flows(ask.organization, highest=ask.service_class)
        is_in_profile = offer is None and any(flow.level_mntu > 0 for flow in flows)
        try:
            decision = await pool.decide(request)
        except BaseException:
            row = self._hung_up_row(ask, pool, request, is_in_profile=is_in_profile)
            self.writer.record(row)
            raise
        cover = (0, 0) if offer is None else (offer.id, course.own.cluster.id)
        if decision.outcome is Outcome.SHED:
            reason = decision.reason if offer else self._shed_reason(ask, pool, decision)
            is_failure = offer is not None or reason is Reason.NO_CAPACITY
            goes_on = is_failure and self._elsewhere(ask, course, pool, offer)
            refusal = _shed(decision) if offer is None else NoCapacity(NOBODY)
            row = self._decided_row(
                ask,
                pool,
                decision,
                outcome="SHED",
                reason=reason,
                is_in_profile=is_in_profile,
                retry_after_s=0 if goes_on else refusal.retry_after_s or 0,
                cover=cover,
            )
            await self.writer.admit(row)
            raise NotServed if goes_on else refusal
        hold = await self._admit(
            ask, pool, request_id, decision, is_in_profile=is_in_profile, cover=cover
        )
        flight = Flight(
            request_id=request_id,
            ask=ask,
            pool=pool,
            decision=decision,
            hold=hold,
            writer=self.writer,
            client=self.client,
            out=out,
            headers=self._headers(ask, pool, decision, request_id),
        )
        with course.covering(ask.organization, decision, flight, is_cover=offer is not None):
            try:
                await flight.run()
            except upstream.UpstreamRefused as refused:
                raise _passed_on(refused) from None
        if flight.meter.has_claim:
            self.lengths.learn(
                ask.organization,
                ask.grade.code,
                ask.call.prompt_bytes,
                flight.meter.usage.prompt,
            )

    async def _admit(
        self,
        ask: Ask,
        pool: Pool,
        request_id: str,
        decision: Decision,
        *,
        is_in_profile: bool,
        cover: tuple[int, int],
    ) -> Hold | None:
        """Record an admission before it is dispatched; return the cash held for it, if it pays.

        :raises Refusal: when it cannot pay or cannot be recorded; the pool has it no more then.
        """
        hold: Hold | None = None
        is_written = False
        try:
            if decision.class_served is ServiceClass.P3 and not ask.is_probe:
                hold = await self._hold(ask, pool)
            is_written = True
            await self.writer.admit(
                self._decided_row(
                    ask,
                    pool,
                    decision,
                    outcome="ADMITTED",
                    reason=decision.reason,
                    class_served=decision.class_served.name,
                    is_in_profile=is_in_profile and decision.class_served is not ServiceClass.P3,
                    cover=cover,
                )
            )
        except BaseException as failure:
            pool.abort(request_id)
            if hold is not None:
                hold.end(0)
            if is_written and not isinstance(failure, errors.Refusal):
                # Hung up while the admission was being written: it stands, and used nothing.
                self.writer.record(metering.nothing_used(request_id, pool.now()))
            if isinstance(failure, InsufficientQuota):
                row = self._row(
                    ask,
                    request_id,
                    pool.cluster.id,
                    outcome="REFUSED",
                    reason="INSUFFICIENT_QUOTA",
                )
                self.writer.record(row)
            raise
        return hold

    async def _hold(self, ask: Ask, pool: Pool) -> Hold:
        """Set aside the most a pay-as-you-go request may cost."""
        bound = dialect.bound(ask.call, ask.output_tokens_max)
        weights = ask.grade.weights
        mntu_max = (
            bound.prompt_tokens_max * weights.uncached + bound.output_tokens_max * weights.output
        )
        return await self.reserves.hold(
            organization=ask.organization,
            grade=ask.grade.code,
            hour_starts_at=contract.hour_start(pool.now()),
            usage_price_ticks=ask.grade.usage_price_ticks,
            mntu_max=mntu_max,
        )

    # What is written down and said

    def _row(
        self,
        ask: Ask,
        request_id: str,
        cluster: int,
        *,
        outcome: str,
        reason: str,
        charge_mntu: int = 0,
        class_served: str = "",
        queue_ms: int = 0,
        is_in_profile: bool = False,
        retry_after_s: int = 0,
        cover: tuple[int, int] = (0, 0),
    ) -> metering.RequestRow:
        ask.decided.append(request_id)
        return metering.RequestRow(
            id=request_id,
            organization_id=ask.organization,
            key=ask.key,
            grade=ask.grade.code,
            cluster=cluster,
            class_requested=ask.service_class.name,
            class_served=class_served,
            outcome=outcome,
            reason=reason,
            charge_mntu=charge_mntu,
            body_digest=ask.body_digest,
            is_probe=ask.is_probe,
            arrived_at=ask.arrived_at,
            queue_ms=queue_ms,
            gateway=self.gateway,
            is_in_profile=is_in_profile,
            is_retry=ask.is_retry,
            nonce=ask.nonce,
            retry_after_ms=1_000 * retry_after_s,
            cover_offer=cover[0],
            covered_cluster=cover[1],
        )

    def _decided_row(
        self,
        ask: Ask,
        pool: Pool,
        decision: Decision,
        *,
        outcome: str,
        reason: Reason,
        is_in_profile: bool,
        class_served: str = "",
        retry_after_s: int = 0,
        cover: tuple[int, int] = (0, 0),
    ) -> metering.RequestRow:
        """Return the record of what a scheduler has decided; `cover` is (offer, its cluster)."""
        return self._row(
            ask,
            decision.request_id,
            pool.cluster.id,
            outcome=outcome,
            reason=reason.value,
            charge_mntu=decision.charge_mntu,
            class_served=class_served,
            queue_ms=_queue_ms(decision),
            is_in_profile=is_in_profile,
            retry_after_s=retry_after_s,
            cover=cover,
        )

    def _hung_up_row(
        self, ask: Ask, pool: Pool, request: Request, *, is_in_profile: bool
    ) -> metering.RequestRow:
        """Return the record of a caller that gave up in line, and of how long it had waited."""
        waited_ms = (clock.monotonic_ns() - ask.arrived_ns) // 1_000_000
        return self._row(
            ask,
            request.id,
            pool.cluster.id,
            outcome="ABORTED",
            reason="HUNG_UP",
            charge_mntu=pool.scheduler.estimate_mntu(request),
            queue_ms=min(waited_ms, 1 << 30),
            is_in_profile=is_in_profile,
        )

    def _shed_reason(self, ask: Ask, pool: Pool, decision: Decision) -> Reason:
        """Return why a request was refused; where the cluster is to blame it says so."""
        reason = decision.reason
        flows = pool.flows(ask.organization, highest=ask.service_class)
        is_holder = bool(flows)
        is_late = (
            reason is Reason.WAITED_TOO_LONG
            and decision.class_served is not ServiceClass.P3
            and ask.overflow is not Overflow.QUEUE
        )
        is_full = reason in _CAPACITY and any(flow.level_mntu > 0 for flow in flows)
        if is_holder and (is_late or is_full):
            return Reason.NO_CAPACITY
        return Reason.OVERLOADED if reason is Reason.NO_CAPACITY else reason

    def _headers(
        self, ask: Ask, pool: Pool, decision: Decision, request_id: str
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers that say how a request is served."""
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"x-baseload-receipt", request_id.encode()),
            (b"x-baseload-class-requested", ask.service_class.name.encode()),
            (b"x-baseload-class-served", decision.class_served.name.encode()),
            (b"x-baseload-queue-ms", b"%d" % _queue_ms(decision)),
            (b"x-baseload-grade-served", ask.grade.code.encode()),
            (b"x-baseload-pool", pool.cluster.public_id.encode()),
        ]
        flows = pool.flows(ask.organization, highest=ask.service_class)
        if flows:
            lots = sum(flow.lots for flow in flows)
            level_ntu = sum(max(0, flow.level_mntu) for flow in flows) // 1_000
            reset_us = min(max(0, -flow.level_mntu * 60 // flow.lots) for flow in flows)
            headers += [
                (b"x-ratelimit-limit-tokens", b"%d" % (lots * contract.NTU_PER_LOT_MINUTE)),
                (b"x-ratelimit-remaining-tokens", b"%d" % level_ntu),
                (b"x-ratelimit-reset-tokens", b"%dms" % (reset_us // 1_000)),
            ]
        remaining = self.pools.remaining_mntu(ask.organization, ask.grade.code, pool.now())
        headers.append((b"x-baseload-entitlement-remaining-ntu", b"%d" % (remaining // 1_000)))
        return headers


def _queue_ms(decision: Decision) -> int:
    return min(decision.waited_us // 1_000, 1 << 30)


def _new_id() -> str:
    return str(uuid.uuid4())


def _shed(decision: Decision) -> errors.Refusal:
    """Return how a scheduler's refusal is said."""
    retry_us = decision.retry_after_us
    retry_after_s = None if retry_us is None else max(1, -(-retry_us // MICRO))
    match decision.reason:
        case Reason.CONTEXT_TOO_LONG:
            return dialect.Refused(
                "The prompt is longer than the model's context.",
                code="context_length_exceeded",
                param="messages",
            )
        case Reason.NO_CAPACITY | Reason.OVERLOADED | Reason.WAITED_TOO_LONG | Reason.QUEUE_FULL:
            return NoCapacity(
                "The pool cannot take this request now.", retry_after_s or RETRY_AFTER_S
            )
        case Reason.NO_ENTITLEMENT:
            return dialect.Refused(
                "Your organization has no entitlement to this model in this hour.",
                code="no_entitlement",
                status=429,
                kind="tokens",
                retry_after_s=retry_after_s or RETRY_AFTER_NO_ENTITLEMENT_S,
            )
        case _:
            return dialect.Refused(
                "The entitlement's rate is used up for now.",
                code="rate_limit_exceeded",
                status=429,
                kind="tokens",
                retry_after_s=retry_after_s or RETRY_AFTER_S,
            )


def _passed_on(refused: upstream.UpstreamRefused) -> errors.Refusal:
    """Return an upstream's refusal of the request itself, with its own words."""
    message = upstream.message_of(refused.body) or "The model server refused the request."
    return dialect.Refused(message, code="invalid_request", status=refused.status)
