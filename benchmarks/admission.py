"""A real trace through the scheduler and the cluster model, beside what others do with it.

The conversations that Azure served in an hour arrive at 80, 100, 150 and 200 % of the rate that
four replicas are certified for, in virtual time. Who sends is drawn by the mean rates of real
clients (ServeGen). Of the certified rate 27, 27 and 36 % are sold as P0, P1 and P2, each holder's
lots by its part of the class; holders ask for what they bought and everything above it is P3. The
same arrivals meet three peers on the same replicas: first come first served, strict priority
without levels, and a replica for each class. The attacks are played on top of 150 %.
"""

import csv
import gzip
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from admission import simulator
from admission.cluster import Cluster
from admission.decisions import Outcome, Overflow, Reason, ServiceClass
from admission.levels import Window
from admission.simulator import Arrival, Served
from benchmarks import report

NEEDS_DATA = True
HARDWARE = Cluster(
    accelerator="H100", model="LLAMA70B", precision="fp8", tensor_parallel=4, replicas=4
)
CONTEXT_TOKENS_MAX = 32_768
LOADS = (80, 100, 150, 200)
SOLD_PERCENT = {ServiceClass.P0: 27, ServiceClass.P1: 27, ServiceClass.P2: 36}
ORGANIZATIONS = 30
"""Of each class; the clients with the highest rates of the sample, in turn."""
REPEATS = int(os.environ.get("BENCH_REPEATS", "2"))
"""How often the trace is played; once is about eight minutes at 100 %."""
WARM_UP_US = 60_000_000
WAIT_MS = {ServiceClass.P0: 100, ServiceClass.P1: 250, ServiceClass.P2: 1_000}
HOUR = 3_600_000_000
Lots = dict[int, tuple[ServiceClass, int]]


def run() -> report.Result:
    """Play every load against every peer, then the attacks."""
    mix, trace = _trace()
    found = simulator.certify(HARDWARE, mix)
    certified, batch = found.certified_lots, found.sequences_max
    print(f"certified {certified} lots, {batch} sequences a replica", flush=True)
    rates = _client_rates()
    table: dict[str, Any] = {}
    for load in LOADS:
        arrivals, lots = _arrivals(trace, certified, load, rates)
        for name, play in _PLAYERS.items():
            began = time.perf_counter()
            served = play(arrivals, lots, certified, batch)
            table[f"{name} {load}"] = _summary(served)
            print(f"{name} at {load} %: {time.perf_counter() - began:.0f} s", flush=True)
            _print(table[f"{name} {load}"])
    arrivals, lots = _arrivals(trace, certified, 150, rates)
    for name, attack in _ATTACKS.items():
        attacked, holders = attack(arrivals, dict(lots), certified)
        table[f"{name} 150"] = _summary(_ours(attacked, holders, certified, batch))
        print(f"{name} on 150 %", flush=True)
        _print(table[f"{name} 150"])
    scheduler = _held(lots, certified, batch).scheduler
    bounds = {each.name: scheduler.bound_us(each, 0) for each in SOLD_PERCENT}
    bounds_ms = {name: None if us is None else us / 1_000 for name, us in bounds.items()}
    ours, fcfs = table["ours 150"], table["first_come 150"]
    targets = {
        f"{each.name} wait": limit / max(1.0, ours[each.name]["timed_wait_ms_p99"])
        for each, limit in WAIT_MS.items()
    }
    for each, target in simulator.TARGETS.items():
        first = max(1.0, ours[each.name]["first_token_ms_p99"])
        targets[f"{each.name} first token"] = target.first_token_us / 1_000 / first
        per_token = max(1.0, ours[each.name]["per_token_ms_p99"])
        targets[f"{each.name} per token"] = target.per_token_us / 1_000 / per_token
    for name, bound_ms in bounds_ms.items():
        if bound_ms is not None:
            worst = max(row[name]["timed_first_token_ms_max"] for row in _of_ours(table))
            targets[f"{name} bound"] = bound_ms / max(1.0, worst)
    targets["throughput"] = ours["mntu_per_s"] / (0.99 * fcfs["mntu_per_s"])
    return report.Result(
        bench="admission",
        ours={name: row for name, row in table.items() if not name.startswith(tuple(_PEERS))},
        peer={name: row for name, row in table.items() if name.startswith(tuple(_PEERS))},
        ratio=round(min(targets.values()), 3),
        load={
            "certified_lots": certified,
            "sequences_max": batch,
            "bound_ms": bounds_ms,
            "sold_percent": {each.name: share for each, share in SOLD_PERCENT.items()},
            "of_targets_at_150": {name: round(value, 3) for name, value in targets.items()},
        },
    )


def _of_ours(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for name, row in table.items() if not name.startswith(tuple(_PEERS))]


def _trace() -> tuple[simulator.Mix, list[tuple[int, int, int]]]:
    folder = Path(os.environ["BASELOAD_DATA"]) / "azure_llm_2023"
    trace = simulator.read_azure_trace(folder / "AzureLLMInferenceTrace_conv.csv.gz")
    prompt = sum(each[1] for each in trace) // len(trace)
    output = sum(each[2] for each in trace) // len(trace)
    mix = simulator.Mix(name="Azure conversations", prompt_tokens=prompt, output_tokens=output)
    return mix, trace


def _client_rates() -> list[float]:
    """Return the mean rates of real clients, the highest first."""
    path = Path(os.environ["BASELOAD_DATA"]) / "servegen" / "rates_m-mid.csv.gz"
    sums: dict[str, float] = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            sums[row["client_id"]] = sums.get(row["client_id"], 0.0) + float(row["rate_rps"])
    return sorted(sums.values(), reverse=True)[: ORGANIZATIONS * len(ServiceClass)]


def _arrivals(
    trace: Sequence[tuple[int, int, int]], certified: int, load: int, rates: Sequence[float]
) -> tuple[list[Arrival], Lots]:
    """Return the trace at a load, each request with its sender, and who holds what."""
    weights = simulator.WeightSchedule()
    mntu = sum(prompt * weights.uncached + output * weights.output for _, prompt, output in trace)
    span = trace[-1][0]
    wanted_us = mntu * 60 / (certified * load / 100)
    asked = {each: min(share, share * load / 100) for each, share in SOLD_PERCENT.items()}
    asked[ServiceClass.P3] = load - sum(asked.values())
    senders, chances, lots = [], [], {}
    for each in ServiceClass:
        of_class = rates[each :: len(ServiceClass)]
        for number, rate in enumerate(of_class):
            organization = 100 * (each + 1) + number
            part = rate / sum(of_class)
            senders.append((organization, each))
            chances.append(part * asked[each])
            if each is not ServiceClass.P3:
                share = certified * SOLD_PERCENT[each] / 100
                lots[organization] = each, max(1, round(share * part))
    random = Random(1)
    arrivals = []
    for repeat in range(REPEATS):
        for offset, prompt, output in trace:
            organization, each = random.choices(senders, chances)[0]
            at = WARM_UP_US + int((repeat * span + offset) * wanted_us / span)
            arrivals.append(
                Arrival(
                    at=at,
                    organization=organization,
                    prompt_tokens=max(prompt, 1),
                    output_tokens=max(output, 1),
                    service_class=each,
                )
            )
    return arrivals, lots


def _simulation(certified: int, batch: int, cluster: Cluster = HARDWARE) -> simulator.Simulation:
    terms = simulator.terms_of(
        cluster,
        certified_lots=certified,
        sequences_max=batch,
        context_tokens_max=CONTEXT_TOKENS_MAX,
    )
    return simulator.Simulation(cluster, terms)


def _ours(arrivals: list[Arrival], lots: Lots, certified: int, batch: int) -> list[Served]:
    return _held(lots, certified, batch).run(arrivals)


def _held(lots: Lots, certified: int, batch: int) -> simulator.Simulation:
    simulation = _simulation(certified, batch)
    for organization, (each, held) in lots.items():
        hours = [Window(starts_at=0, ends_at=24 * HOUR, lots=held)]
        simulation.scheduler.set_flow(organization, windows=hours, at=0, service_class=each)
    return simulation


def _first_come(arrivals: list[Arrival], lots: Lots, certified: int, batch: int) -> list[Served]:
    """Everybody in one line, whoever it is."""
    alike = [replace(one, organization=1, service_class=ServiceClass.P3) for one in arrivals]
    return _as_asked(arrivals, _simulation(certified, batch).run(alike))


def _strict(arrivals: list[Arrival], lots: Lots, certified: int, batch: int) -> list[Served]:
    """By class, with no limit to what anybody may ask of one."""
    simulation = _simulation(certified, batch)
    for organization, (each, _) in lots.items():
        hours = [Window(starts_at=0, ends_at=24 * HOUR, lots=1_000_000)]
        simulation.scheduler.set_flow(organization, windows=hours, at=0, service_class=each)
    return simulation.run(arrivals)


def _partition(arrivals: list[Arrival], lots: Lots, certified: int, batch: int) -> list[Served]:
    """A replica for each class."""
    served: list[Served] = []
    for each in ServiceClass:
        part = [one for one in arrivals if one.service_class is each]
        alike = [replace(one, organization=1, service_class=ServiceClass.P3) for one in part]
        alone = replace(HARDWARE, replicas=1)
        served += _as_asked(part, _simulation(certified // 4, batch, alone).run(alike))
    return served


def _as_asked(arrivals: Sequence[Arrival], served: list[Served]) -> list[Served]:
    for arrival, one in zip(arrivals, served, strict=True):
        one.arrival = arrival
    return served


_PEERS = {"first_come": _first_come, "strict": _strict, "partition": _partition}
_PLAYERS: dict[str, Callable[[list[Arrival], Lots, int, int], list[Served]]] = {
    "ours": _ours,
    **_PEERS,
}


def _small_holders(arrivals: list[Arrival], lots: Lots, certified: int) -> tuple[Any, Lots]:
    """Thirty holders of one lot of P0 send prompts of 30,000 tokens at one instant, and again."""
    added = [
        Arrival(
            at=WARM_UP_US + round_ * 60_000_000,
            organization=900 + number,
            prompt_tokens=30_000,
            output_tokens=10,
            service_class=ServiceClass.P0,
        )
        for round_ in range(1, 5)
        for number in range(30)
    ]
    lots |= {900 + number: (ServiceClass.P0, 1) for number in range(30)}
    return sorted([*arrivals, *added], key=lambda one: one.at), lots


def _twice_its_rate(arrivals: list[Arrival], lots: Lots, certified: int) -> tuple[Any, Lots]:
    """The largest holder of P0 sends everything twice."""
    doubled = [one for one in arrivals if one.organization == 100]
    return sorted([*arrivals, *doubled], key=lambda one: one.at), lots


def _long_shared(arrivals: list[Arrival], lots: Lots, certified: int) -> tuple[Any, Lots]:
    """Ten prompts of 30,000 tokens a second at P3, from ten organizations."""
    ends_at = arrivals[-1].at
    added = [
        Arrival(
            at=at,
            organization=950 + number,
            prompt_tokens=30_000,
            output_tokens=10,
            service_class=ServiceClass.P3,
            overflow=Overflow.REJECT,
        )
        for at in range(WARM_UP_US, ends_at, 1_000_000)
        for number in range(10)
    ]
    return sorted([*arrivals, *added], key=lambda one: one.at), lots


def _cached(percent: int) -> Callable[[list[Arrival], Lots, int], tuple[Any, Lots]]:
    def attack(arrivals: list[Arrival], lots: Lots, certified: int) -> tuple[Any, Lots]:
        return [
            replace(one, cached_tokens=one.prompt_tokens * percent // 100) for one in arrivals
        ], lots

    return attack


_ATTACKS = {
    "thirty_one_lot_holders": _small_holders,
    "p0_at_twice_its_rate": _twice_its_rate,
    "long_shared_prompts": _long_shared,
    "cache_hits_50": _cached(50),
    "cache_hits_90": _cached(90),
}


def _summary(served: Sequence[Served]) -> dict[str, Any]:
    """Return waits, first tokens and times per token by class, and what was served a second."""
    span = max(one.arrival.at for one in served) - WARM_UP_US
    until = WARM_UP_US + span
    mntu = sum(one.mntu for one in served if one.finished_at and one.finished_at <= until)
    found: dict[str, Any] = {"mntu_per_s": round(mntu * 1_000_000 / span)}
    for each in ServiceClass:
        asked = [one for one in served if one.arrival.service_class is each]
        timed = [one for one in asked if one.decision.reason is Reason.TIMED]
        ran = [one for one in asked if one.decision.outcome is not Outcome.SHED]
        found[each.name] = {
            "requests": len(asked),
            "timed": len(timed),
            "spilled": sum(one.decision.outcome is Outcome.SPILL for one in asked),
            "shed": len(asked) - len(ran),
            "wait_ms_p99": _ms([one.decision.waited_us for one in ran]),
            "timed_wait_ms_p99": _ms([one.decision.waited_us for one in timed]),
            "first_token_ms_p99": _ms([one.first_token_us or 0 for one in timed or ran]),
            "timed_first_token_ms_max": max((one.first_token_us or 0 for one in timed), default=0)
            / 1_000,
            "per_token_ms_p99": _ms([one.per_token_us or 0 for one in ran]),
        }
    return found


def _ms(values: list[int]) -> float:
    return (report.percentile([float(value) for value in values], 99) or 0.0) / 1_000


def _print(row: dict[str, Any]) -> None:
    for each in ServiceClass:
        one = row[each.name]
        print(
            f"  {each.name}: {one['requests']:6} asked {one['timed']:6} timed {one['spilled']:6} "
            f"spilled {one['shed']:6} shed, wait p99 {one['wait_ms_p99']:8.1f} ms (timed "
            f"{one['timed_wait_ms_p99']:8.1f}), first token p99 {one['first_token_ms_p99']:8.1f} "
            f"ms, per token p99 {one['per_token_ms_p99']:6.1f} ms",
            flush=True,
        )
