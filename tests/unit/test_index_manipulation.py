"""How far the index can be moved, by how many, and what that costs: searched, not argued.

The numbers stand in docs/rulebook.md 5.1; who changes the rule changes them there too. A
`break_even` is in lots whose payoff follows the index. Positions have none: what is delivered costs
what it was traded at, whatever the index (the last test). Price caps and pay-as-you-go have.
"""

import functools

import pytest

from exchange import events
from settlement import index
from settlement.index import Inputs, Method
from tests import manipulation
from tests.floor import Floor, hour
from tests.manipulation import BAND, FAIR, attacks, compute, honest

THIN, NORMAL, BUSY = honest(10, 5, 10), honest(40, 10, 10), honest(40, 50, 20)
BACKGROUNDS = {"50 lots": THIN, "400 lots": NORMAL, "2,000 lots": BUSY}
SHARES = (2, 5, 10, 25, 50, 100, 200, 400)
"""Sizes of a unit, in percent of the honest volume."""


def volume(trades) -> int:
    return sum(lots for lots, *_ in trades)


@functools.cache
def search(name: str, groups: int, units_max: int) -> list[manipulation.Outcome]:
    """Every attack on one of the backgrounds, searched once for all that is asked of it."""
    background = BACKGROUNDS[name]
    of = volume(background)
    sizes = sorted({max(1, of * share // 100) for share in SHARES})
    return list(
        attacks(background, groups=groups, units_max=units_max, sizes=sizes, price=FAIR + BAND)
    )


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize(("groups", "units_max"), [(1, 8), (2, 8), (3, 5), (4, 4)])
def test_no_attack_weighs_more_than_its_share_of_the_volume(
    name: str, groups: int, units_max: int
) -> None:
    """However it is split: the weights only ever take from those who have much of the volume."""
    background = BACKGROUNDS[name]
    of = volume(background)
    found = search(name, groups, units_max)
    assert len(found) > 50
    for one in found:
        assert one.shift <= -(-BAND * one.lots // (of + one.lots)), one


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_two_groups_among_themselves_have_at_most_three_fifths_of_the_weight(name: str) -> None:
    """At four times the honest volume; with more the tape is void, and the next rung is taken."""
    background = BACKGROUNDS[name]
    of = volume(background)
    moved = {}
    for percent in range(25, 1_001, 25):
        lots = of * percent // 100
        trades = [*background, *((lots // 4, FAIR + BAND, 1, 2) for _ in range(4))]
        moved[percent] = compute(trades)[0] - FAIR
    assert max(moved.values()) == moved[400] == BAND * 6 // 10
    assert all(moved[percent] == 0 for percent in moved if percent > 400)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_one_group_alone_pays_more_than_the_honest_volume_could_earn_it(name: str) -> None:
    background = BACKGROUNDS[name]
    found = search(name, 1, 8)
    assert max(one.shift for one in found) <= BAND * 6 // 10
    assert min(one.break_even for one in found) > volume(background)


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize(("groups", "units_max"), [(2, 8), (3, 5), (4, 4)])
def test_groups_that_work_together_pay_fees_alone(name: str, groups: int, units_max: int) -> None:
    """The weakness of the rule: 22 basis points of their own lots, 1.7 % of the volume to earn.

    They end without a position, and no weight tells two groups of one interest from two of two.
    """
    background = BACKGROUNDS[name]
    found = search(name, groups, units_max)
    cheapest = min(one.break_even for one in found if one.shift)
    fees = (manipulation.MAKER_BP + manipulation.TAKER_BP) * (FAIR + BAND) / 10_000
    assert cheapest >= 0.97 * volume(background) * fees / BAND, "but for rounding to the tick"
    assert cheapest <= 1.1 * volume(background) * fees / BAND


def test_lots_passed_to_and_fro_at_once_are_at_most_a_fifth_of_the_volume() -> None:
    """What goes round within five minutes counts up to that, and not at all beyond."""
    of = volume(NORMAL)
    moved = {}
    for lots in range(10, 4 * of, 10):
        line = [(n * manipulation.APART, *trade) for n, trade in enumerate(NORMAL)]
        line += [(line[-1][0], lots // 2, FAIR + BAND, *pair) for pair in ((1, 2), (2, 1))]
        tape = index.number_groups(line)
        value, method = index.compute(
            Inputs(grade="LLAMA70B", hour_starts_at=0, trades=tape, mark=FAIR)
        )
        assert method is Method.TRADES
        moved[lots] = value - FAIR
    assert max(moved.values()) == moved[of // 4] == BAND // 5
    assert all(moved[lots] == 0 for lots in moved if lots > of // 4)


def test_without_honest_trades_three_groups_make_no_index_and_four_do() -> None:
    """Four groups that own each other's interest need nobody: 50 lots, and their fees."""
    for groups in (1, 2, 3):
        for one in attacks([], groups=groups, units_max=8, sizes=[10, 50], price=FAIR + BAND):
            assert one.shift == 0 or one.taken, "only with lots that others sell to them too dear"
    four = attacks([], groups=4, units_max=6, sizes=[10], price=FAIR + BAND)
    cheapest = min((one for one in four if one.shift), key=lambda one: one.cost)
    assert (cheapest.shift, cheapest.lots, cheapest.cost) == (BAND, 50, 7_590)


def test_obligations_are_what_a_made_up_tape_has_to_be_measured_by() -> None:
    """5 % of them at least: where a thousand lots are owed the four trade fifty with each other."""
    alone = [(10, FAIR + BAND, *pair) for pair in ((1, 2), (3, 4), (1, 2), (3, 4), (1, 2))]
    assert compute(alone, obligations=1_000) == (FAIR + BAND, Method.TRADES)
    assert compute(alone, obligations=1_001) == (FAIR, Method.MARK)


def test_a_market_of_one_maker_has_no_index_by_trades_and_of_two_equal_ones_it_has() -> None:
    """One that is in every trade leaves 30 % of the weight, two that share them leave 60 %."""
    one = [(50, FAIR, 1, 10 + n) for n in range(20)]
    assert compute(one, mark=FAIR - 1) == (FAIR - 1, Method.MARK)
    two = [(50, FAIR, 1 + n % 2, 10 + n) for n in range(20)]
    assert compute(two, mark=FAIR - 1) == (FAIR, Method.TRADES)
    # Shares of a and 1 - a: a x min(1, 0.3 / a) + the other's likewise.
    uneven = [(50, FAIR, 1 if n < 16 else 2, 10 + n) for n in range(20)]
    assert compute(uneven, mark=FAIR - 1) == (FAIR, Method.TRADES)
    uneven = [(50, FAIR, 1 if n < 17 else 2, 10 + n) for n in range(20)]
    assert compute(uneven, mark=FAIR - 1) == (FAIR - 1, Method.MARK)


def test_beside_one_maker_those_who_trade_with_each_other_have_more_than_their_share() -> None:
    """Their volume makes the tape valid and the maker's part of it small: 63 % with half of it."""
    maker = [(50, FAIR, 1, 10 + n) for n in range(20)]
    wash = [(100, FAIR + BAND, *pair) for pair in ((2, 3), (4, 5)) for _ in range(5)]
    value, method = compute([*maker, *wash])
    assert method is Method.TRADES
    # 1,000 lots at 0.6 of their weight beside 1,000 in full.
    assert value == FAIR + index.half_up(BAND * 1_000, 1_600)


@pytest.mark.parametrize("price", [1_150, 1_350])
def test_what_is_delivered_costs_what_it_was_traded_at_whatever_the_index(price: int) -> None:
    """Who buys at 1,250 pays 1,250 in all: variation and escrow move against each other."""
    floor = Floor("18:00")
    floor.account(1, certified=1_000)
    buyer = floor.account(2, cash=10**9)
    floor.sell(1, 20, 1_250)
    floor.buy(buyer, 20, 1_250)
    fees = 10**9 - floor.machine.state.accounts[buyer].cash
    for number in range(5):
        floor.account(11 + number, certified=1_000)
        floor.account(21 + number)
    for at, lots in (((1_250 + price) // 2, 1), (price, 20)):
        for number in range(5):
            floor.sell(11 + number, lots, at)
            floor.buy(21 + number, lots, at)
    floor.to("19:55")
    (gate,) = [e for e in floor.of(events.GateClosed) if e.hour_starts_at == hour("20")]
    account = floor.machine.state.accounts[buyer]
    assert abs(gate.price - price) < 20, "the index is where the others have put it"
    assert 10**9 - account.cash == 20 * 60 * 1_250 + fees
    assert account.escrow == 20 * 60 * gate.price
