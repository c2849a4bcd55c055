"""A million random trades, and whether the fee account has what was charged, to the micro-dollar.

A fee is rounded up once per order, and each of its fills is charged by how much that has grown
(RULEBOOK 3.9). So what the trades say they were charged, what each order comes to when its fills
are added up first and rounded once, and what the fee account received are one sum, counted
in three ways; the first two are made here from the events alone. The ratio is 1 where they agree.
"""

import os
import time
from collections import defaultdict

from benchmarks import environment, flow, machine
from benchmarks.report import Result

TRADES = int(os.environ.get("BENCH_TRADES", "1000000"))
SLICE = 100_000
"""Operations that are made and sent at once."""
BATCH = 64
MAKER_BP, TAKER_BP = 2, 20
LOT_TICK_MICROS = 60
BASIS_POINTS = 10_000


def run() -> Result:
    """Trade, and compare."""
    begun = time.process_time()
    found = counted(TRADES)
    spent = time.process_time() - begun
    agree = found["charged"] == found["by_order"] == found["account"]
    return Result(
        bench="fees",
        ours={**found, "trades_per_second": round(found["trades"] / spent)},
        ratio=int(agree),
        load={"trades": TRADES, "accounts": flow.ACCOUNTS, "shape": "deep", "in": "micro-USD"},
    )


def counted(wanted: int) -> dict[str, int]:
    """Make so many trades; return how many there were, and the fees counted in three ways."""
    from exchange import events
    from settlement.ledger import Kind

    engine = machine.prepared()
    points: dict[int, int] = defaultdict(int)
    trades = charged = slices = 0
    while trades < wanted:
        first = engine.state.next_order - 1
        for operation in machine.numbered(flow.stream("deep", SLICE, seed=slices)):
            command = machine.command_of((first + operation[0], *operation[1:]))
            for event in engine.apply(command, engine.sequence + 1, engine.at + 1):
                if isinstance(event, events.Traded):
                    trades += 1
                    charged += event.maker_fee + event.taker_fee
                    micros = event.lots * event.price * LOT_TICK_MICROS
                    points[event.maker_order] += micros * MAKER_BP
                    points[event.taker_order] += micros * TAKER_BP
                assert not isinstance(event, events.OrderRejected), event.reason
            if not engine.sequence % BATCH:
                engine.forget_touched()
        slices += 1
        environment.say(f"{trades:,} of {wanted:,} trades")
    return {
        "trades": trades,
        "orders": len(points),
        "charged": charged,
        "by_order": sum(-(-each // BASIS_POINTS) for each in points.values()),
        "account": engine.state.exchange[Kind.FEES],
    }
