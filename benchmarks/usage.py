"""A month of usage through the clearing house: events metered, intervals reported, hours settled.

Requests and their usage events are written by the statement that gateways write them with. Then
the clock goes to the end of their hour, and the real background work is done from the queue of
record in this process: the meter posts every token to the capacity chain, each interval is reported
on and settled, what was not used expires, and the engine (a machine and its journal, in the same
PostgreSQL, fsync on) takes the instructions and pays. Days are reviewed and settled finally when
they are due. Two holders in ten ask for more than they hold and pay for it as they go; a probe
stands for each half minute, and one cluster was down in one interval of each day.

A month is `MONTH_EVENTS` over its 720 hours. `BENCH_EVENTS` says how many of them are done, hour
by hour from the first one on; the hours that are left out have not been simulated. Measured is the
time of the work alone, by kind; writing the events is beside it. At the end what was metered has
to be what was written, and the audit has to find nothing.
"""

import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.report import Result
from config import servers

MONTH_EVENTS, MONTH_HOURS = 10_000_000, 720
EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
EVENTS_PER_REQUEST = 2
"""A checkpoint and the end."""
TARGET = round(MONTH_EVENTS / 3_600)
"""Events/s: a month's are done again within an hour."""
GRADE, CLUSTER, SELLER = "LLAMA70B", 7, 100
HOLDERS = range(101, 121)
LOTS, PRICE = 40, 1_250
CASH = 20_000_000_000
STORED = 2_000
"""Requests in one statement of the writer."""
LISTED_AT = 1_795_177_800_000_000
"""November 20, 2026, 12:30 UTC: the month of December trades for nine days more."""
STARTS_AT = 1_796_083_200_000_000
"""December 1, 2026, 00:00 UTC."""
BAD_HOUR, BAD_INTERVAL = 5, 3
SHARED_EVERY = 20
"""Of so many requests, those of some holders ask for one that is paid as it goes."""


def run() -> Result:
    """Measure; the ratio is over the target, and 0 if a token or an invariant is lost."""
    days = max(1, EVENTS * MONTH_HOURS // MONTH_EVENTS // 24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        addresses = servers.start(var)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "BASELOAD_VAR": str(var),
            "DATABASE_URL": addresses.database_url,
            "VALKEY_URL": addresses.valkey_url,
            "CELERY_BROKER_URL": addresses.broker_url,
            "DATABASE_POOL_SIZE_MAX": "0",
            "DATABASE_ROLE": "",
        }
        try:
            done = environment.work("benchmarks.usage", str(24 * days), python=Path(sys.executable))
        finally:
            servers.erase(var)
    is_true = done["mntu_metered"] == done["mntu_written"] and not done["violations"]
    return Result(
        bench="usage",
        ours=done,
        ratio=round(done["events_per_second"] / TARGET, 3) if is_true else 0.0,
        load={
            "month_events": MONTH_EVENTS,
            "month_hours": MONTH_HOURS,
            "days_done": days,
            "is_whole_month": 24 * days >= MONTH_HOURS,
            "events_per_request": EVENTS_PER_REQUEST,
            "holders": len(HOLDERS),
            "durability": "fsync on",
            "target": {"events_per_second": TARGET},
        },
    )


class Month:
    """An exchange on which a month was sold, and the time that its background work takes."""

    def __init__(self) -> None:
        from exchange import store
        from exchange.engine import Engine
        from settlement import kinds

        self.seconds: Counter[str] = Counter()
        self.connection = store.connect()
        assert store.try_lock(self.connection, "main"), "the only engine"
        self.engine = Engine(connection=self.connection, client=None)
        self.engine.take_over()
        self.random = random.Random(7)
        self.requests = self.events = self.mntu = 0
        kinds.load()
        for kind in kinds.every():
            self._time(kind)

    def _time(self, kind: Any) -> None:
        """Have a kind's work timed; probes are written down and not made."""
        import dataclasses

        from settlement import kinds

        work = kind.handler or kind.long_handler
        is_left_out = kind.name == "probe"

        def timed(*arguments: Any) -> None:
            begun = time.perf_counter()
            if not is_left_out:
                work(*arguments)
            self.seconds[kind.name] += time.perf_counter() - begun

        side = "handler" if kind.handler is not None else "long_handler"
        kinds.register(dataclasses.replace(kind, **{side: timed}))

    # The market

    def sell(self) -> None:
        """Open the accounts, certify the cluster and sell each holder its lots of the month."""
        from exchange import operations
        from marketplace import clock
        from marketplace.models import Cluster, Grade, Organization
        from settlement import instructions
        from settlement import operations as clearing

        clock.freeze(LISTED_AT)
        now = clock.now()
        Grade.objects.create(
            code=GRADE, name="Llama 70B", region="us", precision="fp8", model_shape="llama-70b",
            context_tokens_max=131_072, output_tokens_max=8_192, reference_price_ticks=PRICE,
            created_at=now,
        )  # fmt: skip
        certified = len(HOLDERS) * LOTS * 5 // 4
        for number in (SELLER, *HOLDERS):
            Organization.objects.create(
                id=number, name=f"Usage {number}", skeleton=f"usage{number}", created_at=now
            )
        Cluster.objects.create(
            id=CLUSTER, organization_id=SELLER, grade_id=GRADE, name="usage",
            certified_lots=certified, created_at=now,
        )  # fmt: skip
        wanted: list[Any] = [instructions.DefineGrade(grade=GRADE, reference_price_ticks=PRICE)]
        for number in (SELLER, *HOLDERS):
            wanted.append(instructions.OpenAccount(account=number, group=number))
            wanted.append(instructions.Deposit(account=number, amount_micros=CASH))
        wanted.append(
            instructions.Certify(
                cluster=CLUSTER,
                account=SELLER,
                grade=GRADE,
                lots=certified,
                valid_until=STARTS_AT + 400 * clock.DAY,
            )
        )
        for number, command in enumerate(wanted):
            clearing.instruct(id=f"usage:{number}", command=command)
        self.work()
        clock.freeze(LISTED_AT + clock.DAY)
        self.work()
        symbol = f"{GRADE}.M.Z26"
        orders = [(SELLER, -1, len(HOLDERS) * LOTS), *((each, 1, LOTS) for each in HOLDERS)]
        for account, side, lots in orders:
            self.engine.execute(
                [
                    operations.place_command(
                        organization=account,
                        instrument=symbol,
                        side=side,
                        price_ticks=PRICE,
                        lots=lots,
                        client_order_id=f"usage-{account}",
                        time_in_force="GTC",
                    )
                ]
            )
        held = self.engine.machine.position(HOLDERS[-1], symbol).net_lots
        assert held == LOTS, "the month is sold"

    def work(self) -> None:
        """Let engine and workers take turns until nothing is left to do."""
        from marketplace import clock
        from settlement import jobs, kinds, queries

        while True:
            begun = time.perf_counter()
            self._engine_works()
            self.seconds["engine"] += time.perf_counter() - begun
            before = sum(self.seconds.values())
            begun = time.perf_counter()
            done = sum(jobs.work(queue) for queue in kinds.queues())
            spent = time.perf_counter() - begun
            self.seconds["queue"] += spent - (sum(self.seconds.values()) - before)
            if not done and not self._engine_works() and not queries.work_due_by(clock.now()):
                return

    def _engine_works(self) -> int:
        from exchange import commands
        from exchange.passing import Incoming

        count = 0
        while True:
            incoming = self.engine.take_instructions()
            if not incoming and self.engine.is_due():
                incoming = [Incoming(commands.Tick())]
            if not incoming:
                return count
            self.engine.run_batch(incoming)
            count += len(incoming)

    # Usage

    def write(self, hour: int, events: int) -> None:
        """Write an hour's requests with their usage, its probes and its heartbeats."""
        from django.db import connection, transaction

        from admission import metering, models
        from marketplace import clock

        count = events // EVENTS_PER_REQUEST
        requests, usage = [], []
        for number in range(count):
            at = hour + number * clock.HOUR // count
            one, its = self._request(number, at)
            requests.append(one)
            usage += its
        # In the order of the hour, as gateways write; several statements in a transaction each.
        for first in range(0, count, STORED):
            last = first + STORED
            with transaction.atomic(), connection.cursor() as cursor:
                metering.store(
                    cursor,
                    requests[first:last],
                    usage[first * EVENTS_PER_REQUEST : last * EVENTS_PER_REQUEST],
                )
        self.requests += count
        self.events += len(usage)
        self.mntu += sum(each.mntu for each in usage if each.state == "COMPLETED")
        interval = clock.HOUR // 12
        models.Heartbeat.objects.bulk_create(
            [
                models.Heartbeat(
                    gateway="usage", interval_starts_at=clock.to_datetime(hour + n * interval)
                )
                for n in range(12)
            ]
        )
        bad = BAD_INTERVAL if hour // clock.HOUR % 24 == BAD_HOUR else 0
        models.Probe.objects.bulk_create(
            [
                models.Probe(
                    cluster=CLUSTER,
                    slot_at=clock.to_datetime(hour + n * 30 * clock.SECOND),
                    passed=n // 10 + 1 != bad,
                )
                for n in range(120)
            ]
        )

    def _request(self, number: int, at: int) -> tuple[Any, list[Any]]:
        """Return a request and its events: a checkpoint after a second, the end after four."""
        from admission.metering import RequestRow, UsageRow
        from marketplace import clock

        choice = self.random
        name = str(uuid.UUID(int=choice.getrandbits(128), version=4))
        is_shared = number % SHARED_EVERY == 0
        holder = HOLDERS[0] + number % 2 if is_shared else choice.choice(HOLDERS)
        prompt, output = choice.randint(200, 2_000), choice.randint(50, 400)
        served = "P3" if is_shared else "P2"
        request = RequestRow(
            id=name, organization_id=holder, key="bench", grade=GRADE, cluster=CLUSTER,
            class_requested=served, class_served=served, outcome="ADMITTED", reason="",
            charge_mntu=1_000 * (prompt + 4 * output), body_digest=name.replace("-", ""),
            is_probe=False, arrived_at=at, queue_ms=number % 7, gateway="usage",
        )  # fmt: skip
        events = []
        for sequence, (tokens, state, after) in enumerate(
            ((output // 3, "OPEN", 1), (output, "COMPLETED", 4)), start=1
        ):
            ends_at = min(at + after * clock.SECOND, at - at % clock.HOUR + clock.HOUR - 1)
            events.append(
                UsageRow(
                    request_id=name, sequence=sequence, prompt_tokens=prompt, cached_tokens=0,
                    output_tokens=tokens, reasoning_tokens=0, mntu=1_000 * (prompt + 4 * tokens),
                    state=state, is_estimated=False, is_bounded=False, first_token_ms=90,
                    per_token_us=20_000, at=ends_at,
                )
            )  # fmt: skip
        return request, events


def measure(hours: int) -> dict[str, Any]:
    """Write and settle so many hours of a month; return what it took."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from django.db.models import Sum

    from admission import models
    from marketplace import audit, clock
    from settlement import models as clearing

    month = Month()
    month.sell()
    clock.freeze(STARTS_AT - 4 * clock.MINUTE)
    month.work()
    month.seconds.clear()
    writing = working = 0.0
    for number in range(hours):
        hour = STARTS_AT + number * clock.HOUR
        begun = time.perf_counter()
        first, last = (n * MONTH_EVENTS // MONTH_HOURS for n in (number, number + 1))
        month.write(hour, last - first)
        written = time.perf_counter()
        clock.freeze(hour + clock.HOUR - 4 * clock.MINUTE)
        month.work()
        clock.freeze(hour + clock.HOUR + 61 * clock.SECOND)
        month.work()
        writing += written - begun
        working += time.perf_counter() - written
        if number % 6 == 5 or number + 1 == hours:
            environment.say(
                f"hour {number + 1} of {hours}: {month.events:,} events, written in "
                f"{writing:,.0f} s, metered and settled in {working:,.0f} s"
            )
    clock.freeze(STARTS_AT + (hours + 2) * clock.HOUR + 61 * clock.SECOND)
    begun = time.perf_counter()
    month.work()
    working += time.perf_counter() - begun
    return _found(month, writing, working, audit, models, clearing, Sum)


def _found(
    month: Month, writing: float, working: float, audit: Any, models: Any, clearing: Any, total: Any
) -> dict[str, Any]:
    """Return the figures, and what the tables say in the end."""
    findings = [finding for finding in audit.run() if finding.violations]
    for finding in findings:
        environment.say(str(finding))
    metered = models.MeteredRequest.objects.aggregate(total=total("mntu"))["total"]
    by_kind = {name: round(spent, 1) for name, spent in month.seconds.most_common()}
    meter = month.seconds["meter_usage"]
    return {
        "events": month.events,
        "requests": month.requests,
        "events_per_second": round(month.events / working),
        "metered_events_per_second": round(month.events / meter),
        "seconds": round(working, 1),
        "seconds_by_kind": by_kind,
        "written_events_per_second": round(month.events / writing),
        "intervals_settled": clearing.IntervalSettlement.objects.count(),
        "final_runs": clearing.SettlementRun.objects.count(),
        "transfers": clearing.Transfer.objects.count(),
        "mntu_written": month.mntu,
        "mntu_metered": metered,
        "parked_jobs": clearing.Job.objects.filter(state="PARKED").count(),
        "violations": sum(finding.violations for finding in findings),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
