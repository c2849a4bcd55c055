"""Bare matching: one stream of orders through our book and through the peer's engine.

Both are driven through their public interface, order by order, in one process of one interpreter,
in turns; what is published is the median of the rounds, in operations per second of processor
time. Each side makes its own order object from the same numbers inside the measured loop, and has
to trade the same lots in the same number of fills, or there is no result. Books in C++ and Rust
that are driven per call from Python are measured beside them on the same stream.

Self-trade prevention is on at both (the arriving order gives way), or as near as a book has it.
Memory is what the interpreter allocated per order at rest (`tracemalloc`).
"""

import gc
import importlib
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import environment, flow
from benchmarks.report import Result

COUNT = int(os.environ.get("BENCH_ORDERS", "200000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
RESTING = 100_000
TARGET = 2.5

Feed = Callable[[Sequence[flow.Operation]], tuple[int, int]]
"""Runs a stream through a new book; returns fills and lots traded."""


def ours(operations: Sequence[flow.Operation], keep: list[Any] | None = None) -> tuple[int, int]:
    """Run a stream through `exchange.book` and `exchange.matching`."""
    from exchange import matching
    from exchange.book import Book, Resting

    book = Book()
    match, rest, cancel = matching.match, book.rest, book.cancel
    fills = lots = 0
    for operation in operations:
        if len(operation) == 2:
            cancel(operation[0])
            continue
        number, account, side, price, quantity = operation
        order = Resting(number, side, price, quantity, account, quantity)
        traded, stopped = match(book, order)
        for _, filled in traded:
            fills += 1
            lots += filled
        if order.remaining and not stopped:
            rest(order)
    if keep is not None:
        keep.append(book)
    return fills, lots


def peer(operations: Sequence[flow.Operation], keep: list[Any] | None = None) -> tuple[int, int]:
    """Run a stream through `matching_engine`."""
    from matching_engine.domain import CancelOrder, NewOrder, SequencedCommand, Side
    from matching_engine.engine import MatchingEngine
    from matching_engine.events import Trade

    engine = MatchingEngine()
    process = engine.process
    buy, sell = Side.BUY, Side.SELL
    fills = lots = sequence = 0
    for operation in operations:
        sequence += 1
        if len(operation) == 2:
            process(SequencedCommand(sequence, 0, CancelOrder(operation[0], operation[1])))
            continue
        number, account, side, price, quantity = operation
        order = NewOrder(number, account, buy if side > 0 else sell, price, quantity)
        for event in process(SequencedCommand(sequence, 0, order)):
            if type(event) is Trade:
                fills += 1
                lots += event.qty
    if keep is not None:
        keep.append(engine)
    return fills, lots


def liquibook(operations: Sequence[flow.Operation]) -> tuple[int, int]:
    """Run a stream through the C++ book of PyPI `liquibook`; it reports fills to a listener."""
    import liquibook as library

    seen = [0, 0]

    class Listener(library.OrderListener):  # type: ignore[misc]
        def on_accept(self, order: Any) -> None: ...

        def on_cancel(self, order: Any) -> None: ...

        def on_fill(self, passive: Any, aggressive: Any, quantity: int, price: int) -> None:
            passive.fill(quantity, price, 0)
            aggressive.fill(quantity, price, 0)
            seen[0] += 1
            seen[1] += quantity

    book = library.DepthOrderBook()
    listener = Listener()
    book.set_order_listener(listener)
    orders: dict[int, Any] = {}
    for operation in operations:
        if len(operation) == 2:
            order = orders.pop(operation[0], None)
            if order is not None and order.open_qty():
                book.cancel(order)
            continue
        number, _, side, price, quantity = operation
        orders[number] = order = library.SimpleOrder(side > 0, price, quantity)
        book.add(order)
    return seen[0], seen[1]


def litebook(operations: Sequence[flow.Operation]) -> tuple[int, int]:
    """Run a stream through the Rust book of PyPI `litebook`."""
    import litebook as library

    book = library.OrderBook(tick_size=1.0)
    buy, sell = library.OrderType.Buy, library.OrderType.Sell
    names: dict[int, str] = {}
    fills = lots = 0
    for operation in operations:
        if len(operation) == 2:
            if operation[0] in names:
                book.cancel(names.pop(operation[0]))
            continue
        number, _, side, price, quantity = operation
        order = book.create_order(buy if side > 0 else sell, float(price), float(quantity))
        names[number] = order.id
        for fill in book.add(order):
            fills += 1
            lots += int(fill.quantity)
    return fills, lots


def orderly_chaos(operations: Sequence[flow.Operation]) -> tuple[int, int]:
    """Run a stream through the C++ book of PyPI `orderly-chaos`, with its report of trades."""
    import orderly_chaos as library

    seen = [0, 0]

    def on_trade(trade: Any) -> None:
        seen[0] += 1
        seen[1] += trade.quantity

    book = library.LimitOrderBook(on_trade)
    limit, cancel = book.limit, book.cancel
    buy, sell = library.Side.BUY, library.Side.SELL
    unknown = importlib.import_module("orderly_chaos.errors").UnknownOrderIdError
    for operation in operations:
        if len(operation) == 2:
            try:
                cancel(operation[0])
            except unknown:
                continue
        else:
            number, _, side, price, quantity = operation
            limit(buy if side > 0 else sell, number, quantity, price)
    return seen[0], seen[1]


DRIVEN: dict[str, Feed] = {
    "liquibook": liquibook,
    "litebook": litebook,
    "orderly-chaos": orderly_chaos,
}
_MODULES = {"orderly-chaos": "orderly_chaos"}


def timed(feed: Feed, operations: Sequence[flow.Operation]) -> tuple[float, tuple[int, int]]:
    """Return operations per second of processor time, and what was traded."""
    gc.collect()
    gc.freeze()
    started = time.process_time()
    traded = feed(operations)
    spent = time.process_time() - started
    gc.unfreeze()
    return len(operations) / spent, traded


def measure(rounds: int, count: int) -> dict[str, Any]:
    """Return the medians of every engine that is installed, by shape; runs in the peers' Python."""
    engines: dict[str, Feed] = {"ours": ours, "matching-engine": peer}
    for name, feed in DRIVEN.items():
        try:
            importlib.import_module(_MODULES.get(name, name))
        except ImportError:
            continue
        engines[name] = feed
    table: dict[str, Any] = {}
    for shape in flow.SHAPES:
        operations = flow.stream(shape, count)
        rates: dict[str, list[float]] = {name: [] for name in engines}
        trades: dict[str, tuple[int, int]] = {}
        for number in range(rounds):
            for name, feed in engines.items():
                rate, trades[name] = timed(feed, operations)
                rates[name].append(rate)
            line = ", ".join(f"{name} {rates[name][-1]:,.0f}/s" for name in engines)
            environment.say(f"{shape} round {number + 1} of {rounds}: {line}")
        if trades["ours"] != trades["matching-engine"]:
            raise RuntimeError(f"{shape}: the two traded differently: {trades}")
        table[shape] = {
            name: {
                "per_second": round(statistics.median(values)),
                "fills": trades[name][0],
                "lots": trades[name][1],
            }
            for name, values in rates.items()
        }
    memory = {name: bytes_per_order(feed) for name, feed in (("ours", ours), ("peer", peer))}
    return {"table": table, "bytes_per_resting_order": memory}


def bytes_per_order(feed: Callable[..., Any]) -> int:
    """Return what an order at rest takes, of a book with `RESTING` of them."""
    operations = flow.resting(RESTING)
    keep: list[Any] = []
    feed(operations[:10], keep)
    keep.clear()
    gc.collect()
    tracemalloc.start()
    feed(operations, keep)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(taken / len(operations))


def run() -> Result:
    """Measure; the ratio is ours over the peer, of the worse of the two shapes."""
    load = {"operations": COUNT, "rounds": ROUNDS, "shapes": list(flow.SHAPES), "target": TARGET}
    try:
        found = environment.prepare()
    except environment.Unavailable as error:
        alone = {
            shape: round(statistics.median(timed(ours, operations)[0] for _ in range(ROUNDS)))
            for shape in flow.SHAPES
            if (operations := flow.stream(shape, COUNT))
        }
        return Result(
            bench="core",
            ours={"per_second": alone, "bytes_per_resting_order": bytes_per_order(ours)},
            peer={"name": environment.PEER, "not available": str(error)},
            ratio=0.0,
            load=load,
        )
    measured = environment.work("benchmarks.core", str(ROUNDS), str(COUNT), python=found.python)
    table = measured["table"]
    ratios = {
        shape: round(row["ours"]["per_second"] / row[environment.PEER]["per_second"], 2)
        for shape, row in table.items()
    }
    driven = {
        name: {
            shape: {**row[name], "ours_over_it": _over(row, name)} for shape, row in table.items()
        }
        if name in table["near"]
        else {"not available": found.missing.get(name, "it cannot be imported")}
        for name in DRIVEN
    }
    memory = measured["bytes_per_resting_order"]
    return Result(
        bench="core",
        ours={
            "python": found.version,
            **{shape: row["ours"] for shape, row in table.items()},
            "bytes_per_resting_order": memory["ours"],
            "ratios": ratios,
        },
        peer={
            "name": environment.PEER,
            "python": found.version,
            **{shape: row[environment.PEER] for shape, row in table.items()},
            "bytes_per_resting_order": memory["peer"],
            "driven per call": driven,
        },
        ratio=min(ratios.values()),
        load=load,
    )


def _over(row: dict[str, Any], name: str) -> float:
    return round(float(row["ours"]["per_second"] / row[name]["per_second"]), 2)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
