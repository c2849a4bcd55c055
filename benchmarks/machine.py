"""The whole machine in memory, beside the peer's bare matching of the same stream.

Ours does what the exchange does of an order but for writing it down: `Machine.apply` with a
thousand accounts in as many groups, margin and coverage judged before every order, fees, positions,
self-trade prevention, the calendar looked at, public and private events made. The peer's engine
matches the same stream and nothing else. Both begin with a command that is made in the measured
loop, run in turns on one interpreter, and have to trade the same lots; published is the median of
the rounds, in operations per second of processor time.

`per command` breaks our time down: what decoding, judging, matching and encoding take, each
measured on its own over the same commands. Judging is all that `apply` does beside the bare book.
"""

import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import core, environment, flow
from benchmarks.report import Result
from exchange import commands

COUNT = int(os.environ.get("BENCH_ORDERS", "100000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
RESTING = 100_000
GRADE = "LLAMA70B"
START = 1_796_083_200_000_000
"""2026-12-01T00:00Z: the hours of the day are listed and open."""
HOUR = f"{GRADE}.H.20261201T20Z"
DEPOSIT = 10**14
LOTS = 100_000
FAR = START + 10**15


def instructed(accounts: int = flow.ACCOUNTS) -> list[Any]:
    """Return the commands that open an hour in which every account may buy and sell."""
    from settlement import instructions

    wanted: list[Any] = [
        instructions.DefineGrade(grade=GRADE, reference_price_ticks=flow.MIDDLE),
    ]
    for account in range(1, accounts + 1):
        wanted += [
            instructions.OpenAccount(account=account, group=account),
            instructions.Deposit(account=account, amount_micros=DEPOSIT),
            instructions.Certify(
                cluster=account, account=account, grade=GRADE, lots=LOTS, valid_until=FAR
            ),
        ]
    found: list[Any] = [
        commands.Instruct(id=f"bench:{number}", body=instructions.encode(instruction))
        for number, instruction in enumerate(wanted, 1)
    ]
    return [*found, commands.Tick()]


def prepared(accounts: int = flow.ACCOUNTS) -> Any:
    """Return a machine with an open hour in which every account may buy and sell."""
    from exchange.machine import Machine

    state = Machine()
    for number, command in enumerate(instructed(accounts), 1):
        state.apply(command, number, START + number)
    state.forget_touched()
    return state


def command_of(operation: flow.Operation) -> Any:
    """Return the command of an operation; a cancel names the order as the machine numbers them."""
    if len(operation) == 2:
        return commands.CancelOrder(operation[1], operation[0])
    number, account, side, price, lots = operation
    return commands.PlaceOrder(account, HOUR, side, price, lots, "GTC", f"{number:08d}", _DIGEST)


_DIGEST = bytes(32)


def ours(operations: Sequence[flow.Operation], state: Any) -> tuple[int, int]:
    """Run a stream through a machine, batch by batch as the engine does; return fills and lots."""
    from exchange import events

    apply, traded = state.apply, events.Traded
    fills = lots = 0
    sequence, at = state.sequence, state.at
    for operation in operations:
        sequence += 1
        at += 1
        for event in apply(command_of(operation), sequence, at):
            if type(event) is traded:
                fills += 1
                lots += event.lots
        if not sequence % 64:
            state.forget_touched()
    return fills, lots


def numbered(operations: Sequence[flow.Operation]) -> list[flow.Operation]:
    """Return a stream whose orders are numbered one by one, as the machine numbers them."""
    numbers: dict[int, int] = {}
    found: list[flow.Operation] = []
    for operation in operations:
        if len(operation) == 2:
            found.append((numbers[operation[0]], operation[1]))
        else:
            numbers[operation[0]] = len(numbers) + 1
            found.append((len(numbers), *operation[1:]))
    return found


def timed(count: int, run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return microseconds of processor time for each of `count`, and what `run` returned."""
    gc.collect()
    gc.freeze()
    started = time.process_time()
    found = run(*arguments)
    spent = time.process_time() - started
    gc.unfreeze()
    return spent / count * 1e6, found


def measure(rounds: int, count: int) -> dict[str, Any]:
    """Return medians by shape, and what a command's time goes into; in the peers' Python."""
    table: dict[str, Any] = {}
    for shape in flow.SHAPES:
        operations = numbered(flow.stream(shape, count))
        micros: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(rounds):
            state = prepared()
            spent, trades = timed(count, ours, operations, state)
            micros["ours"].append(spent)
            spent, others = timed(count, core.peer, operations)
            micros["peer"].append(spent)
            if trades != others:
                raise RuntimeError(f"{shape}: {trades} here, {others} at the peer")
            environment.say(
                f"{shape} round {number + 1} of {rounds}: "
                + ", ".join(f"{name} {1e6 / each[-1]:,.0f}/s" for name, each in micros.items())
            )
        state.check()
        table[shape] = {
            name: {"per_second": round(1e6 / statistics.median(each)), "fills": trades[0]}
            for name, each in micros.items()
        }
        table[shape]["per command"] = breakdown(operations, rounds)
    return {"table": table, "bytes_per_resting_order": bytes_per_order()}


def breakdown(operations: Sequence[flow.Operation], rounds: int) -> dict[str, float]:
    """Return the medians of what a command's time goes into, in microseconds."""
    from exchange import events

    wanted = [command_of(each) for each in operations]
    count = len(wanted)
    stored = [commands.encode(each) for each in wanted]
    parts: dict[str, list[float]] = {}
    for _ in range(max(3, rounds // 2)):
        state = prepared()
        whole, happened = timed(count, _applied, wanted, state)
        bare, _ = timed(count, core.ours, operations)
        batches = [
            [event for each in happened[start : start + 64] for event in each]
            for start in range(0, count, 64)
        ]
        spent = {
            "decode": timed(count, _each, commands.decode, stored)[0],
            "judge and book": whole - bare,
            "match": bare,
            "encode": timed(count, _each, events.encode_batch, batches)[0],
        }
        for name, value in spent.items():
            parts.setdefault(name, []).append(value)
    return {f"{name}_us": round(statistics.median(each), 2) for name, each in parts.items()}


def _applied(wanted: Sequence[Any], state: Any) -> list[list[Any]]:
    apply, first, at = state.apply, state.sequence + 1, state.at
    return [apply(command, first + n, at + n) for n, command in enumerate(wanted)]


def _each(function: Callable[[Any], Any], values: Sequence[Any]) -> None:
    for value in values:
        function(value)


def bytes_per_order() -> int:
    """Return what an order at rest takes in the machine, with all that is kept of it."""
    operations = flow.resting(RESTING)
    state = prepared()
    ours(operations[:10], state)
    gc.collect()
    tracemalloc.start()
    ours(operations[10:], state)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(taken / (len(operations) - 10))


def run() -> Result:
    """Measure; the ratio is the machine over the peer's bare matching, of the worse shape."""
    load = {
        "operations": COUNT,
        "rounds": ROUNDS,
        "shapes": list(flow.SHAPES),
        "accounts": flow.ACCOUNTS,
        "target": 1.0,
    }
    try:
        found = environment.prepare()
    except environment.Unavailable as error:
        alone: dict[str, Any] = {}
        for shape in flow.SHAPES:
            operations = numbered(flow.stream(shape, COUNT))
            alone[shape] = breakdown(operations, ROUNDS)
        return Result(
            bench="machine",
            ours={"per command": alone, "bytes_per_resting_order": bytes_per_order()},
            peer={"name": environment.PEER, "not available": str(error)},
            ratio=0.0,
            load=load,
        )
    measured = environment.work("benchmarks.machine", str(ROUNDS), str(COUNT), python=found.python)
    table = measured["table"]
    ratios = {
        shape: round(row["ours"]["per_second"] / row["peer"]["per_second"], 2)
        for shape, row in table.items()
    }
    return Result(
        bench="machine",
        ours={
            "python": found.version,
            **{shape: {**row["ours"], **row["per command"]} for shape, row in table.items()},
            "bytes_per_resting_order": measured["bytes_per_resting_order"],
            "ratios": ratios,
        },
        peer={
            "name": f"{environment.PEER}, bare matching",
            "python": found.version,
            **{shape: row["peer"] for shape, row in table.items()},
        },
        ratio=min(ratios.values()),
        load=load,
    )


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
