"""How fast an engine is back: a replay of the journal, and the newest snapshot with its tail.

A journal is made as the engine makes it (batches of commands with their events, chained by hash)
in a PostgreSQL of its own, then read back by `recovery.rebuild`, which checks every link, applies
every command and compares every event. Measured are commands per second from the first command on,
and the seconds from a snapshot with 100,000 commands behind it; medians of the rounds. Both are by
the wall's clock, and both are given in processor time too, which a busy machine leaves alone.
"""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import environment, flow
from benchmarks import machine as bench_machine
from benchmarks.report import Result
from config import servers

COUNT = int(os.environ.get("BENCH_ORDERS", "300000"))
TAIL = 100_000
BATCH = 64
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
REPLAY_TARGET = 250_000
TAIL_TARGET_S = 2.0
GROUP = "bench"


def run() -> Result:
    """Measure; the ratio is the worse of both over their targets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        addresses = servers.start(var, valkey=False)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "BASELOAD_VAR": str(var),
            "DATABASE_URL": addresses.database_url,
            "DATABASE_POOL_SIZE_MAX": "0",
            "DATABASE_ROLE": "",
        }
        try:
            done = environment.work(
                "benchmarks.recovery", str(COUNT), str(ROUNDS), python=Path(sys.executable)
            )
        finally:
            servers.erase(var)
    replay, tail = done["replay_commands_per_second"], done["snapshot_and_tail_s"]
    return Result(
        bench="recovery",
        ours=done,
        ratio=round(min(replay / REPLAY_TARGET, TAIL_TARGET_S / tail), 3),
        load={
            "commands": COUNT,
            "tail": TAIL,
            "commands_per_batch": BATCH,
            "accounts": flow.ACCOUNTS,
            "rounds": ROUNDS,
            "target": {
                "replay_commands_per_second": REPLAY_TARGET,
                "snapshot_and_tail_s": TAIL_TARGET_S,
            },
        },
    )


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Make the journal and read it back, in an environment that names its database."""
    import django

    django.setup()
    from django.core.management import call_command

    from exchange import recovery, store

    call_command("migrate", verbosity=0)
    connection = store.connect()
    last = write_journal(connection, count)
    ends_at = (last - TAIL) // BATCH * BATCH
    before = recovery.rebuild(connection, GROUP, up_to=ends_at)
    resting = len(before.machine.state.orders)
    recovery.store_snapshot(connection, GROUP, before)
    del before
    replays: list[float] = []
    tails: list[float] = []
    costs: list[float] = []
    tail_costs: list[float] = []
    for number in range(rounds):
        seconds, cost, found = timed(connection, last, from_genesis=True)
        replays.append(found.commands / seconds)
        costs.append(found.commands / cost)
        seconds, cost, found = timed(connection, last, from_genesis=False)
        tail_costs.append(cost)
        assert found.commands == last - ends_at, "the snapshot is used"
        tails.append(seconds)
        environment.say(
            f"round {number + 1} of {rounds}: {replays[-1]:,.0f} commands/s, "
            f"snapshot and tail {tails[-1]:.2f} s"
        )
    return {
        "replay_commands_per_second": round(statistics.median(replays)),
        "replay_commands_per_processor_second": round(statistics.median(costs)),
        "snapshot_and_tail_s": round(statistics.median(tails), 3),
        "snapshot_and_tail_processor_s": round(statistics.median(tail_costs), 3),
        "resting_orders": resting,
    }


def timed(connection: Any, last: int, *, from_genesis: bool) -> tuple[float, float, Any]:
    """Return the seconds of a rebuild, those of the processor, and what it gave."""
    from exchange import recovery

    gc.collect()
    started, spent = time.perf_counter(), time.process_time()
    found = recovery.rebuild(connection, GROUP, up_to=last, from_genesis=from_genesis)
    return time.perf_counter() - started, time.process_time() - spent, found


def write_journal(connection: Any, count: int) -> int:
    """Journal a stream of `count` operations batch by batch; return its last sequence."""
    from exchange import commands, events, journal, machine, store
    from marketplace import clock

    state = machine.Machine()
    wanted = bench_machine.instructed()
    wanted += [
        bench_machine.command_of(each)
        for each in bench_machine.numbered(flow.stream("steady", count))
    ]
    chain, at = journal.GENESIS_HASH, bench_machine.START
    columns = "first_sequence, sequence, at, format, rules, commands, events, previous_hash, hash"
    with connection.cursor().copy(
        f'COPY exchange_journalbatch ("group", epoch, {columns}) FROM STDIN'
    ) as copy:
        for start in range(0, len(wanted), BATCH):
            at += 1_000
            items = [
                commands.Sequenced(start + place, at, command)
                for place, command in enumerate(wanted[start : start + BATCH], 1)
            ]
            happened = [
                event
                for item in items
                for event in state.apply(item.command, item.sequence, item.at)
            ]
            state.forget_touched(events.by_type(happened))
            body, facts = commands.encode_batch(items), events.encode_batch(happened)
            previous, chain = chain, journal.batch_hash(chain, body, facts)
            copy.write_row(
                (GROUP, 1, items[0].sequence, items[-1].sequence, clock.to_datetime(at),
                 store.JOURNAL_FORMAT, state.rules, body, facts, previous, chain)
            )  # fmt: skip
            if start % (BATCH * 1_000) == 0:
                environment.say(f"journal: {start} of {len(wanted)} commands")
    return len(wanted)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
