"""The clusters as a gateway sees them: one scheduler each, who waits in it, and how it is doing.

A pool asks its scheduler at every arrival, end and due instant, and hands each final decision to
the request that waits for it. Market time may be advanced but never goes back here, whatever the
system's clock does. Which pool a request goes to: of those that serve its holder's lots, the one
whose level is highest; for pay-as-you-go, the least loaded certified one of the grade. A pool
whose upstream keeps failing is left out for a moment where there is another.
"""

import asyncio
from collections.abc import Callable, Container, Iterable

from admission.decisions import Decision, Outcome, Request, ServiceClass
from admission.inspection import FlowReport
from admission.levels import GRAINS_PER_MNTU
from admission.scheduler import Scheduler
from admission.snapshot import Cluster, Grade, Hours, Offer, Snapshot
from marketplace import clock, contract

FAILURES_MAX = 3
"""Failures in a row after which a pool is left out."""
EJECTED_NS = 2_000_000_000
_NO_HOURS: Hours = {}


class Pool:
    """One cluster, its scheduler and the requests that wait for a decision."""

    def __init__(self, cluster: Cluster, at: int) -> None:
        self.cluster = cluster
        self.scheduler = Scheduler(cluster.terms)
        self.holders: dict[int, Hours] = {}
        self.running = 0
        self.arrivals = 0
        self.failures = 0
        self._ejected_until_ns = 0
        self._at = at
        self._waiting: dict[str, asyncio.Future[Decision]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> int:
        """Return market time as this pool's scheduler has it: it never goes back."""
        self._at = max(self._at, clock.now_micros())
        return self._at

    def change(self, cluster: Cluster, windows: dict[int, Hours]) -> None:
        """Take the cluster's present terms and its holders' hours.

        Hours that are only known now, because the clock leapt into them, count from when the pool
        last decided anything: nothing of them was used since.
        """
        since = self._at
        if cluster != self.cluster:
            if cluster.terms.replicas == self.cluster.terms.replicas:
                self.scheduler.terms = cluster.terms
            self.cluster = cluster
        for holder in self.holders.keys() | windows.keys():
            before, after = self.holders.get(holder, _NO_HOURS), windows.get(holder, _NO_HOURS)
            for each in sorted(before.keys() | after.keys()):
                hours = after.get(each, ())
                if hours != before.get(each, ()):
                    self.scheduler.set_flow(holder, windows=hours, at=since, service_class=each)
        self.holders = windows
        self.pump()

    async def decide(self, request: Request) -> Decision:
        """Return the final decision on a request, which may have to wait for it.

        When the caller is canceled while it waits, the request leaves the queue, free of charge.
        """
        self.arrivals += 1
        decision = self.scheduler.arrive(request, self.now())
        if decision.final:
            return decision
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        self.pump()
        try:
            return await future
        except asyncio.CancelledError:
            self._waiting.pop(request.id, None)
            if future.done() and not future.cancelled() and _runs(future.result()):
                self.running -= 1
            self.scheduler.abort(request.id, at=self.now())
            self.pump()
            raise

    def pump(self) -> None:
        """Carry out what the scheduler decides now, and be called again when it is due."""
        at = self.now()
        for decision in self.scheduler.dispatch(at):
            future = self._waiting.pop(decision.request_id, None)
            if future is None or future.done():
                self.scheduler.abort(decision.request_id, at=at)
                continue
            if _runs(decision):
                self.running += 1
            future.set_result(decision)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self.scheduler.next_wake(at)
        if wake is not None and self._waiting:
            delay_s = max(wake - at, 1_000) / 1_000_000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)

    def first_token(self, request_id: str) -> None:
        """Note that a prompt was read."""
        self.scheduler.first_token(request_id, self.now())
        self.pump()

    def charged(self, request_id: str, mntu: int) -> int:
        """Note what a request used so far; return the instant."""
        at = self.now()
        self.scheduler.charged(request_id, mntu=mntu, at=at)
        return at

    def finish(self, request_id: str, *, mntu: int, output_tokens: int) -> None:
        """End a request that ran to its end."""
        self.running -= 1
        self.scheduler.finish(
            request_id, actual_mntu=mntu, output_tokens=output_tokens, at=self.now()
        )
        self.pump()

    def abort(self, request_id: str, *, mntu: int = 0) -> None:
        """End a request that ran and did not come to its end."""
        self.running -= 1
        self.scheduler.abort(request_id, at=self.now(), actual_mntu=mntu)
        self.pump()

    def succeeded(self) -> None:
        """Note that the upstream answered."""
        self.failures = 0
        self._ejected_until_ns = 0

    def failed(self) -> None:
        """Note that the upstream failed; too often in a row leaves the pool out for a moment."""
        self.failures += 1
        if self.failures >= FAILURES_MAX:
            self._ejected_until_ns = clock.monotonic_ns() + EJECTED_NS

    @property
    def is_ejected(self) -> bool:
        """Whether the upstream failed too often just now."""
        return clock.monotonic_ns() < self._ejected_until_ns

    def flows(self, holder: int, *, highest: ServiceClass = ServiceClass.P0) -> list[FlowReport]:
        """Return the state of a holder's flows that have a rate now, from a class downwards."""
        known = [each for each in sorted(self.holders.get(holder, _NO_HOURS)) if each >= highest]
        at = self.now() if known else 0
        found = [self.scheduler.flow(holder, at=at, service_class=each) for each in known]
        return [flow for flow in found if flow is not None and flow.lots]

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()


class Pools:
    """Every pool of a gateway, as the last snapshot has them."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(at=0)
        self.pools: dict[int, Pool] = {}
        self._synthetic: Callable[[Cluster], dict[int, Hours]] = lambda _: {}

    def add_synthetic(self, windows: Callable[[Cluster], dict[int, Hours]]) -> None:
        """Have hours of the gateway's own added to every cluster: those of its probes."""
        self._synthetic = windows

    def take(self, snapshot: Snapshot) -> None:
        """Replace the state of the market."""
        self.snapshot = snapshot
        holders: dict[int, dict[int, Hours]] = {}
        for (number, holder), hours in snapshot.windows.items():
            holders.setdefault(number, {})[holder] = hours
        for cluster in snapshot.clusters.values():
            pool = self.pools.get(cluster.id)
            if pool is None:
                pool = self.pools[cluster.id] = Pool(cluster, snapshot.at)
            pool.scheduler.set_idle_slots(snapshot.idle_slots.get(cluster.grade, {}))
            pool.change(cluster, holders.get(cluster.id, {}) | self._synthetic(cluster))
        for gone in self.pools.keys() - snapshot.clusters.keys():
            self.pools[gone].change(self.pools[gone].cluster, {})

    def entitled(
        self,
        holder: int,
        grade: str,
        *,
        service_class: ServiceClass = ServiceClass.P0,
        without: Container[int] = (),
    ) -> Pool | None:
        """Return the pool that serves a holder's lots of a class, or of a lower one, now.

        That is where the highest class has something left, and of these the one whose level is
        highest.
        """
        best: Pool | None = None
        best_level = (False, 0, 0)
        for pool in self.pools.values():
            if pool.cluster.grade != grade or pool.cluster.id in without:
                continue
            flows = pool.flows(holder, highest=service_class)
            if not flows:
                continue
            filled = next((flow for flow in flows if flow.level_mntu > 0), None)
            if filled is not None:
                level = (not pool.is_ejected, -filled.service_class, filled.level_mntu)
            else:
                most = max(flow.level_mntu for flow in flows)
                level = (not pool.is_ejected, -ServiceClass.P3, most)
            if best is None or level > best_level:
                best, best_level = pool, level
        return best

    def by_price(
        self, grades: Iterable[Grade], holder: int, *, service_class: ServiceClass
    ) -> list[Grade]:
        """Return grades in the order of what they cost a holder now.

        Those whose lots it has left are paid for already; of the others the cheapest at P3 is next.
        """

        def cost(grade: Grade) -> tuple[bool, int, str]:
            pool = self.entitled(holder, grade.code, service_class=service_class)
            flows = () if pool is None else pool.flows(holder, highest=service_class)
            is_paid = any(flow.level_mntu > 0 for flow in flows)
            return not is_paid, grade.usage_price_ticks, grade.code

        return sorted(grades, key=cost)

    def remaining_mntu(self, holder: int, grade: str, at: int) -> int:
        """Return what a holder may still use of a grade in this hour, on all its clusters."""
        left_us = contract.hour_start(at) + contract.HOUR - at
        return sum(
            max(0, flow.lots * left_us // GRAINS_PER_MNTU + flow.level_mntu)
            for pool in self.pools.values()
            if pool.cluster.grade == grade
            for flow in pool.flows(holder)
        )

    def shared(self, grade: str, *, without: Container[int] = ()) -> Pool | None:
        """Return the least loaded certified pool of a grade."""
        candidates = [
            pool
            for pool in self.pools.values()
            if pool.cluster.grade == grade
            and pool.cluster.is_certified
            and pool.cluster.id not in without
        ]
        if not candidates:
            return None
        return min(
            candidates,
            key=lambda pool: (
                pool.is_ejected,
                pool.running / max(1, pool.cluster.terms.certified_lots),
                pool.cluster.id,
            ),
        )

    def cover(
        self, grade: str, *, holder: int, failed: Pool, without: Container[int] = ()
    ) -> tuple[Pool, Offer] | None:
        """Return the cheapest standing offer that may take a request over, and its pool.

        Offers of the group that has failed and of the holder's own never do (RULEBOOK 6.6).
        """
        groups = failed.cluster.group, self.snapshot.group(holder)
        for offer in self.snapshot.covers.get(grade, ()):
            pool = self.pools.get(offer.cluster)
            if pool is None or offer.cluster in without or pool.cluster.group in groups:
                continue
            if not pool.is_ejected and any(
                flow.level_mntu > 0 for flow in pool.flows(offer.holder)
            ):
                return pool, offer
        return None

    def has_failed_lots(self, holder: int, grade: str, at: int) -> bool:
        """Whether a holder has lots now that no cluster is behind."""
        hours = self.snapshot.failed.get((grade, holder), ())
        return any(window.starts_at <= at < window.ends_at for window in hours)

    def close(self) -> None:
        """Stop every timer."""
        for pool in self.pools.values():
            pool.close()


def _runs(decision: Decision) -> bool:
    return decision.outcome in (Outcome.ADMIT, Outcome.SPILL)
