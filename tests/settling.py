"""An hour that is traded, reported on and settled, for tests of what comes after.

`Reports` stands in admission's place: it says of each interval what the test wants, and that
everything was available where the test wants nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from marketplace import clock as market_clock
from marketplace import contract
from settlement import instructions, jobs, kinds, operations, queries, slots
from settlement.kinds import Kind
from tests.market import BUYER, HOUR, SELLER, Market, buy, sell

LOTS, PRICE = 40, 1_250
WHOLE = LOTS * contract.MNTU_PER_LOT_INTERVAL
PER_INTERVAL = 5 * PRICE * LOTS
BAD = 2
"""The interval that could not be served at all."""
SHORT = 1_000_000
"""mNTU missed in it."""
USED = 123_456_000
"""mNTU used in the first interval."""
OWN_KINDS = (
    "grant_capacity", "settle_interval", "expire_capacity", "settle_day", "seal", "reconcile",
    "prune_jobs",
)  # fmt: skip
STARTS_AT = contract.parse_symbol(HOUR).starts_at  # type: ignore[union-attr]


def report(slot: str, at: int, covers: tuple[instructions.CoverLine, ...] = ()) -> None:
    """Report that everything was available but in one interval, which others have covered."""
    grade, hour, interval = slots.read_interval(slot)
    is_bad = interval == BAD
    helped = sum(cover.mntu for cover in covers)
    operations.report_delivery(
        deliveries=[
            operations.Delivery(
                allocation=row.allocation,
                interval=interval,
                owed_mntu=row.lots * contract.MNTU_PER_LOT_INTERVAL,
                available_mntu=0 if is_bad else row.lots * contract.MNTU_PER_LOT_INTERVAL,
                short_mntu=SHORT if is_bad else 0,
                delivered_mntu=helped if is_bad else USED if interval == 1 else 0,
                probes=10,
                probes_passed=0 if is_bad else 10,
                covers=covers if is_bad else (),
            )
            for row in queries.entitlements_snapshot(
                starts_at=market_clock.to_datetime(hour), grade=grade
            )
        ],
        at=at,
    )


@contextmanager
def only_settlements_kinds(covers: tuple[instructions.CoverLine, ...] = ()) -> Iterator[None]:
    """Leave settlement's own kinds of work, and a report in admission's place."""
    kinds.load()
    before = dict(kinds._registry)
    for name in set(before) - set(OWN_KINDS):
        del kinds._registry[name]
    kinds.register(
        Kind(
            name=kinds.REPORT_INTERVAL,
            queue=kinds.URGENT,
            schedule=kinds.PerInterval(),
            handler=partial(report, covers=covers),
        )
    )
    try:
        yield
    finally:
        kinds._registry.clear()
        kinds._registry.update(before)


def settle_all(market: Market) -> None:
    """Let engine and workers take turns until nothing is left to do."""
    for _ in range(12):
        market.work()
        jobs.work(kinds.URGENT)
        jobs.work(kinds.NORMAL)
        if queries.work_due_by(market_clock.now()) == 0:
            return
    pytest.fail("work is left")


def deliver(market: Market, clock) -> None:
    """Trade the hour, deliver it but for one interval, and settle it."""
    market.execute(sell(SELLER, PRICE, 100, "s1"))
    market.execute(buy(BUYER, PRICE, LOTS, "b1"))
    clock.set("2026-12-01T13:56Z")
    settle_all(market)
    clock.set("2026-12-01T15:02Z")
    settle_all(market)
