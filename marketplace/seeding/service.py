"""What was served in the demo's past, and settled.

A gateway was alive all the time and every cluster answered its probes, but for one outage. In the
last hours before the present the buyers who hold capacity for their own use also used it: their
requests go through the real scheduler and the cluster model in virtual time, and what comes out
is written as the gateway writes it. Reports, metering and settlement are then done by the very
jobs that do them live, at the instant the clock is frozen at.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.db import connection, transaction

from admission import cluster as cluster_model
from admission import metering, simulator
from admission import models as admission_models
from admission.decisions import Outcome, Overflow, ServiceClass
from admission.levels import Window
from marketplace import clock, contract, models, traders
from marketplace.seeding import catalog
from settlement import jobs, kinds
from settlement import models as settlement_models

GATEWAY = "history"
RECENT = contract.HOUR
"""How far back requests were sent; before that, what was bought stood ready and was not used."""
PROBE_EVERY = 30 * contract.MICROS_PER_SECOND
OUTAGE = (catalog.SECOND_PROVIDER, "LLAMA70B", 20 * contract.HOUR, 3 * contract.INTERVAL)
"""Whose cluster of what grade was down, how long before the present, and for how long."""
OUTAGE_PASSED_OF_TEN = 4
PROMPT_TOKENS = (180, 420, 900, 1_500, 2_600)
OUTPUT_TOKENS = (40, 120, 210, 330, 480)
"""Sizes of requests: about the 10th, 25th, 50th, 75th and 90th percentile of the Azure
conversation trace of 2023."""
MNTU_PER_LOT_SECOND = contract.MNTU_PER_LOT_HOUR // 3_600
REQUEST_SECONDS_MAX = 3
"""A holder sends requests of at most what its lots bring in so many seconds."""


@dataclass(slots=True, kw_only=True)
class Service:
    """Serves the past, one stretch after the other; `present` is where it ends."""

    present: int
    _simulations: dict[int, simulator.Simulation] = field(default_factory=dict)

    def deliver(self, since: int, until: int) -> None:
        """Serve what is allocated between two instants, then report and settle what has ended."""
        allocations = _allocations(since, until)
        self._watch(allocations, since, until)
        for cluster, of_cluster in _by_cluster(allocations).items():
            if until > self.present - RECENT:
                self._serve(cluster, of_cluster, max(since, self.present - RECENT), until)
        kinds.load()
        jobs.work(kinds.URGENT)  # probes, seals and reports of the books can wait for the present

    def _watch(
        self, allocations: Sequence[settlement_models.Allocation], since: int, until: int
    ) -> None:
        """Write the heartbeat of each interval and the probes of each cluster with a duty."""
        first = since - since % contract.INTERVAL
        admission_models.Heartbeat.objects.bulk_create(
            [
                admission_models.Heartbeat(
                    gateway=GATEWAY, interval_starts_at=clock.to_datetime(at)
                )
                for at in range(first, until, contract.INTERVAL)
            ],
            ignore_conflicts=True,
        )
        down = self._outage_cluster()
        probes = []
        for cluster in _by_cluster(allocations):
            for slot in range(-(-since // PROBE_EVERY) * PROBE_EVERY, until, PROBE_EVERY):
                is_down = cluster == down and self._is_outage(slot)
                passed = not is_down or slot // PROBE_EVERY % 10 < OUTAGE_PASSED_OF_TEN
                probes.append(
                    admission_models.Probe(
                        cluster=cluster,
                        slot_at=clock.to_datetime(slot),
                        passed=passed,
                        reason="" if passed else "no_answer",
                    )
                )
        admission_models.Probe.objects.bulk_create(probes, ignore_conflicts=True)

    def _is_outage(self, at: int) -> bool:
        _, _, before, length = OUTAGE
        starts_at = (self.present - before) // contract.INTERVAL * contract.INTERVAL
        return starts_at <= at < starts_at + length

    def _outage_cluster(self) -> int:
        owner, grade, _, _ = OUTAGE
        return models.Cluster.objects.get(organization__name=owner, grade_id=grade).pk

    def _serve(
        self,
        cluster_id: int,
        allocations: Sequence[settlement_models.Allocation],
        since: int,
        until: int,
    ) -> None:
        """Play the requests of holders with a need of their own, and write what became of them."""
        cluster = models.Cluster.objects.select_related("grade").get(pk=cluster_id)
        simulation = self._simulations.get(cluster_id) or _simulation(cluster)
        self._simulations[cluster_id] = simulation
        arrivals: list[simulator.Arrival] = []
        users = _users()
        for holder in sorted({one.holder for one in allocations} & users.keys()):
            own = [one for one in allocations if one.holder == holder]
            simulation.set_flow(holder, _windows(own), since)
            for one in own:
                arrivals += _arrivals(users[holder], one, cluster.grade, since, until)
        arrivals.sort(key=lambda one: (one.at, one.organization, one.prompt_tokens))
        _write(cluster, simulation.run(arrivals))


def _users() -> dict[int, str]:
    """Return the organizations that need what they hold: id to name."""
    needing = [
        one.name for one in catalog.ORGANIZATIONS if one.trader and one.trader.needs_lots > 0
    ]
    return dict(models.Organization.objects.filter(name__in=needing).values_list("pk", "name"))


def _allocations(since: int, until: int) -> list[settlement_models.Allocation]:
    """Return what clusters have to serve in the hours that overlap a stretch of time."""
    return list(
        settlement_models.Allocation.objects.filter(
            cluster__gt=0,
            starts_at__gt=clock.to_datetime(since - contract.HOUR),
            starts_at__lt=clock.to_datetime(until),
        ).order_by("id")
    )


def _by_cluster(
    allocations: Iterable[settlement_models.Allocation],
) -> dict[int, list[settlement_models.Allocation]]:
    found: dict[int, list[settlement_models.Allocation]] = defaultdict(list)
    for one in allocations:
        found[one.cluster].append(one)
    return found


def _windows(allocations: Sequence[settlement_models.Allocation]) -> list[Window]:
    """Return the hours of a holder on a cluster, in order, with its lots in each."""
    lots: dict[int, int] = defaultdict(int)
    for one in allocations:
        lots[clock.to_micros(one.starts_at)] += one.lots
    return [Window(starts_at=at, ends_at=at + contract.HOUR, lots=lots[at]) for at in sorted(lots)]


def _simulation(cluster: models.Cluster) -> simulator.Simulation:
    grade = cluster.grade
    hardware = cluster_model.Cluster(
        accelerator=cluster.accelerator,
        model=grade.model_shape,
        precision=grade.precision,
        tensor_parallel=cluster.tensor_parallel,
        replicas=cluster.replicas,
    )
    terms = simulator.terms_of(
        hardware, weights=_weights(grade), certified_lots=cluster.certified_lots
    )
    return simulator.Simulation(hardware, terms)


def _weights(grade: models.Grade) -> contract.WeightSchedule:
    return contract.WeightSchedule(
        version=grade.schedule_version, cached=grade.weight_cached, output=grade.weight_output
    )


def _arrivals(
    name: str,
    allocation: settlement_models.Allocation,
    grade: models.Grade,
    since: int,
    until: int,
) -> list[simulator.Arrival]:
    """Return the requests a holder sends by an allocation, interval by interval."""
    hour_starts_at = clock.to_micros(allocation.starts_at)
    weights = _weights(grade)
    sizes = [
        (prompt, output, mntu)
        for prompt, output in zip(PROMPT_TOKENS, OUTPUT_TOKENS, strict=True)
        for mntu in [weights.mntu(contract.Usage(prompt=prompt, cached=0, output=output))]
        if mntu <= allocation.lots * MNTU_PER_LOT_SECOND * REQUEST_SECONDS_MAX
    ]
    arrivals: list[simulator.Arrival] = []
    for number in range(contract.INTERVALS_PER_HOUR):
        starts_at = hour_starts_at + number * contract.INTERVAL
        if not (since <= starts_at < until and sizes):
            continue
        demand = traders.demand_mntu(
            organization=name, lots=allocation.lots, interval_starts_at=starts_at
        )
        asked = 0
        while asked < demand:
            draw = traders.noise("request", name, allocation.pk, starts_at, asked)
            prompt, output, mntu = sizes[draw % len(sizes)]
            arrivals.append(
                simulator.Arrival(
                    at=starts_at + contract.INTERVAL * asked // demand,
                    organization=allocation.holder,
                    prompt_tokens=prompt,
                    output_tokens=output,
                    service_class=ServiceClass.P2,
                    overflow=Overflow.QUEUE,
                )
            )
            asked += mntu
    return arrivals


def _write(cluster: models.Cluster, served: Sequence[simulator.Served]) -> None:
    """Write requests and their usage as the gateway does."""
    requests: list[metering.RequestRow] = []
    events: list[metering.UsageRow] = []
    for one in served:
        name = f"{GATEWAY}:{cluster.pk}:{one.decision.request_id}:{one.arrival.at}"
        request_id = uuid.uuid5(uuid.NAMESPACE_OID, name)
        requests.append(_request_row(request_id, cluster, one))
        if one.finished_at is not None:
            events.append(_usage_row(request_id, one))
    with transaction.atomic(), connection.cursor() as cursor:
        metering.store(cursor, requests, events)


def _request_row(
    request_id: uuid.UUID, cluster: models.Cluster, one: simulator.Served
) -> metering.RequestRow:
    decision = one.decision
    is_shed = decision.outcome is Outcome.SHED
    return metering.RequestRow(
        id=str(request_id),
        organization_id=one.arrival.organization,
        key="",
        grade=cluster.grade_id,
        cluster=cluster.pk,
        class_requested=decision.class_requested.name,
        class_served="" if is_shed else decision.class_served.name,
        outcome="SHED" if is_shed else "ADMITTED",
        reason=decision.reason.value,
        charge_mntu=decision.charge_mntu,
        body_digest=request_id.hex,
        is_probe=False,
        arrived_at=one.arrival.at,
        queue_ms=decision.waited_us // 1_000,
        gateway=GATEWAY,
    )


def _usage_row(request_id: uuid.UUID, one: simulator.Served) -> metering.UsageRow:
    assert one.finished_at is not None, "only what ended was used"
    first = one.first_token_us
    return metering.UsageRow(
        request_id=str(request_id),
        sequence=1,
        prompt_tokens=one.arrival.prompt_tokens,
        cached_tokens=0,
        output_tokens=one.arrival.output_tokens,
        reasoning_tokens=0,
        mntu=one.mntu,
        state="COMPLETED",
        is_estimated=False,
        is_bounded=False,
        first_token_ms=None if first is None else first // 1_000,
        per_token_us=one.per_token_us,
        at=one.finished_at,
    )
