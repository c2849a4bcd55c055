"""Every reason is reached, and every reason is written down.

The order in which reasons to refuse are asked is walked in `test_machine_orders` (an order) and
`test_machine_strips` (a strip). Here each reason to close has the shortest story that leads to it,
so that none can be in the enumeration and never happen, or happen and not be told.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from exchange import commands
from exchange.reasons import Close, Reject
from marketplace import codes, contract
from settlement import instructions
from tests.floor import GRADE, Floor, instant

ROOT = Path(__file__).resolve().parents[2]
Terms = commands.Terms

SECOND = 1_000_000


def market(at: str = "13:10") -> Floor:
    """Account 1 offers 10 at 1,250 and bids 10 at 1,240; 2 and 3 are a group and deal."""
    floor = Floor(at)
    floor.account(1, certified=1_000)
    floor.account(2, group=22, certified=100)
    floor.account(3, group=22, certified=100)
    floor.sell(1, 10, 1_250)
    floor.buy(1, 10, 1_240)
    return floor


def requested(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_200)
    floor.cancel(2, order)
    return order


def ioc_remainder(floor: Floor) -> int:
    return floor.buy(2, 11, 1_250, time_in_force="IOC")


def fill_or_kill(floor: Floor) -> int:
    return floor.buy(2, 11, 1_250, time_in_force="FOK", terms=Terms())


def min_quantity(floor: Floor) -> int:
    return floor.buy(2, 20, 1_250, terms=Terms(min_lots=11))


def protection_band(floor: Floor) -> int:
    return floor.buy(2, 11, 0, time_in_force="IOC", terms=Terms(type="MARKET"))


def strip_unfilled(floor: Floor) -> int:
    return floor.strip(2, 1, 1, 1_250)


def self_trade(floor: Floor) -> int:
    floor.sell(3, 1, 1_245)
    return floor.buy(2, 1, 1_245)


def reduce_only(floor: Floor) -> int:
    floor.buy(2, 10, 1_250)
    order = floor.sell(2, 10, 1_300, terms=Terms(reduce_only=True))
    floor.sell(2, 1, 1_240)
    return order


def amended(floor: Floor) -> int:
    order = floor.buy(2, 15, 1_250)
    assert floor.amend(2, order, lots=10) is None
    return order


def cancel_all_after(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_200)
    floor.switch(2, SECOND)
    floor.to("13:11")
    return order


def disconnected(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_200)
    floor.switch(2, SECOND, "connection")
    floor.at += SECOND
    floor.apply(commands.Tick())
    return order


def killed(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_200)
    floor.instruct(instructions.KillSwitch(account=2, enabled=True))
    return order


def coverage_lost(floor: Floor) -> int:
    order = floor.sell(2, 100, 1_300)
    floor.certify(2, 99)
    return order


def unfunded(floor: Floor) -> int:
    """A short goes against account 4, whose other money is behind a bid."""
    floor.to("13:40")
    floor.account(4, cash=120_000, certified=1_000)
    floor.sell(4, 10, 1_240)
    order = floor.buy(4, 1, 1_100, at="22")
    floor.sell(1, 200, 1_300)
    floor.buy(3, 210, 1_300)
    floor.to("14:00")
    return order


def covered(floor: Floor) -> int:
    """What was sold loses its cover a day ahead, is bought in, and is covered again."""
    day = contract.day_contract(GRADE, instant("+2 00:00")).symbol
    floor.sell(2, 60, 1_250, instrument=day)
    floor.buy(1, 60, 1_250, instrument=day)
    floor.certify(2, 10)
    floor.to("+1 00:00")
    (order,) = [o.id for o in floor.machine.state.orders.values() if o.is_of_clearing]
    floor.certify(2, 100)
    return order


def not_eligible(floor: Floor) -> int:
    """Cover is listed from the next change of terms on; 6 bids for it, then has a cluster."""
    floor.define(1_250, premium_percents=(5, 3))
    floor.account(6)
    floor.to("+1 00:00")
    cover = contract.cover_contract(GRADE, instant("+27 00:00")).symbol
    order = floor.buy(6, 1, 37, instrument=cover)
    assert floor.rejected() is None
    floor.certify(6, 10)
    return order


def band_moved(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_063, at="+1 10")
    floor.sell(1, 10, 1_300, at="+1 10")
    floor.to("23:40")
    floor.buy(3, 10, 1_300, at="+1 10")
    floor.to("+1 00:00")
    return order


def expired(floor: Floor) -> int:
    order = floor.buy(2, 1, 1_200)
    floor.to("19:55")
    return order


STORIES: dict[str, Callable[[Floor], int]] = {
    story.__name__: story
    for story in (
        requested, ioc_remainder, fill_or_kill, min_quantity, protection_band, strip_unfilled,
        self_trade, reduce_only, amended, cancel_all_after, disconnected, killed, coverage_lost,
        unfunded, covered, not_eligible, band_moved, expired,
    )
}  # fmt: skip


@pytest.mark.parametrize("reason", list(Close))
def test_every_reason_to_close_an_order_happens(reason: Close) -> None:
    floor = market()
    order = STORIES[reason](floor)
    status = "expired" if reason is Close.EXPIRED else "canceled"
    assert (order, status, reason) in floor.closed()
    assert order not in floor.machine.state.orders


def test_only_an_amendment_or_a_cancel_can_be_refused_because_its_order_is_frozen() -> None:
    floor = Floor("11:00")
    floor.account(1)
    order = floor.buy(1, 5, 1_250, at="+1 10")
    floor.to("11:55")
    assert floor.amend(1, order, lots=4) == Reject.FROZEN
    (refused,) = floor.cancel(1, order)
    assert refused.reason == Reject.FROZEN
    floor.buy(1, 1, 1_250, at="+1 10")
    assert floor.rejected() is None


def test_every_reason_to_refuse_is_a_published_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    for reason in Reject:
        status, meaning = codes.CODES[reason]
        assert status == (429 if reason is Reject.ORDER_TO_TRADE_RATIO else 422)
        assert f"| `{reason}` | {status} | {meaning}" in page


def test_every_reason_to_close_is_in_the_rulebook_in_its_order() -> None:
    page = (ROOT / "docs" / "rulebook.md").read_text()
    table = page.partition("| `reason` | ")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE) == [str(one) for one in Close]
