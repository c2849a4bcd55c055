"""Two and a half days of a small market on the real machine, with everything that may go wrong.

It is the market of `benchmarks.market`, with a quarter of its organizations and a made-up price
that falls by a third overnight: months cascade, hours are delivered, clusters fail, margin is
called. The machine checks every invariant after every five-minute interval.
"""

import pytest

from benchmarks import market, market_cheats, market_data, market_traders
from benchmarks.market_world import GRADE, World
from marketplace.contract import DAY, HOUR
from settlement import instructions
from settlement.ledger import Code

DAYS = 2.5
FALL = ((0, 1_000.0), (DAY + 6 * HOUR, 650.0))


def played(
    *,
    changes=FALL,
    cheating: tuple[str, ...] = (),
    twins: tuple[str, ...] = (),
    check_every: int = 72,
) -> World:
    """Play a market in which every cluster is down for an hour of the second day."""
    world = World(market_data.made_up(changes=changes), start=market.START, seed=5)
    world.instruct(
        instructions.DefineGrade(
            grade=GRADE, reference_price_ticks=1_000, premium_percents=market.PREMIUM_PERCENTS
        )
    )
    market_traders.usual(world, scale=4)
    for name in (*cheating, *twins):
        market_cheats.join(world, name, cheats=name in cheating)
    for place, cluster in enumerate(sorted(world.clusters)):
        down_at = world.start + DAY + (14 + 2 * place) * HOUR
        world.outages[cluster] = [(down_at, down_at + HOUR, 0.0)]
    world.run(DAYS, check_every=check_every)
    return world


@pytest.fixture(scope="module")
def world() -> World:
    return played(check_every=1)


def test_a_market_goes_through_days_of_everything_and_every_invariant_holds(world):
    counts = world.counts
    assert len(world.traders) == 13
    assert world.checked == DAYS * 288
    assert counts["cascades"] >= 3, "two days, and the week or the month"
    assert counts["hours delivered"] > 24
    assert counts["trades"] > 300
    assert counts["mntu short"] > 0, "somebody missed something"
    assert 0 < counts["compensation paid"] <= counts["compensation due"]
    assert counts["refunded"] > 0
    state = world.machine.state
    owed = sum(account.debt for account in state.accounts.values())
    assert sum(map(world.wealth, state.accounts)) + owed + sum(state.exchange.values()) == 0


def test_what_a_buyer_paid_is_what_its_trades_said_whatever_the_index_was(world):
    buyer = next(t for t in world.traders.values() if getattr(t, "horizon", None) == "DAY")
    delivered = {hour: line for (number, hour), line in world.entry.items() if number == buyer.id}
    assert delivered
    # Variation and escrow add up to the price of each trade, to the micro-dollar; of what is still
    # open, variation so far is what its cost has become over what it was traded for.
    paid = sum(world.ledger[buyer.id, code] for code in (Code.VARIATION, Code.ESCROW))
    bought = sum(60 * cost for _, cost in delivered.values())
    still_open = sum(
        position.instrument.unit * (position.cost - world.basis[symbol][buyer.id][1])
        for symbol, position in world.machine.state.accounts[buyer.id].positions.items()
        if position.net
    )
    assert paid == still_open - bought


def test_the_same_market_ends_in_the_same_state(world):
    assert played().machine.digest() == world.machine.digest()


def test_a_cheat_changes_what_happens_and_gains_nothing_by_washing():
    cheating, honest = played(cheating=("wash",)), played(twins=("wash",))
    washers = [number for number in honest.traders if number >= market_cheats.FIRST["wash"]]
    assert cheating.counts["trades"] > honest.counts["trades"]
    gain = sum(cheating.wealth(number) - honest.wealth(number) for number in washers)
    assert gain < 0
