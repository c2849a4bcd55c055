"""Pooled purchase: one order, allotment by largest remainder, one price for all."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import events
from exchange.machine import Machine
from settlement import instructions
from settlement.ledger import EXCHANGE, Code, Kind
from tests import floor
from tests.floor import Floor, instant, symbol

SELLER, OTHER = 50, 51
CASH, CLEARING, FEES = int(Kind.CASH), int(Kind.CLEARING), int(Kind.FEES)


def commit(run: Floor, number: int, account: int, lots: int, price: int, **more) -> str | None:
    return run.instruct(
        instructions.CommitPurchase(
            commitment=number,
            account=account,
            instrument=more.get("instrument", symbol("20")),
            deadline=instant(more.get("deadline", "15:00")),
            lots=lots,
            price_ticks=price,
        )
    )


def market(*asks: tuple[int, int], reference: int = 100) -> Floor:
    """A book with asks of (lots, price) of one seller, at 13:00."""
    run = Floor(reference=reference)
    run.account(SELLER, certified=10_000)
    for lots, price in asks:
        run.sell(SELLER, lots, price)
    return run


def outcomes(run: Floor) -> dict[int, tuple[str, int, int, int, str]]:
    """State, lots, average price, what was evened and reason by commitment, of the last command."""
    return {
        e.commitment: (e.state, e.lots, e.price, e.evened, e.reason)
        for e in run.of(events.CommitmentChanged)
    }


def test_all_pay_the_average_price_and_the_remainder_is_a_fee() -> None:
    run = market((10, 100), (10, 103))
    for account, lots in ((1, 12), (2, 6)):
        run.account(account)
        assert commit(run, account, account, lots, 105) is None
    before = {account: run.view(account).cash for account in (1, 2)}
    run.to("15:00")
    # 10 lots at 100 and 8 at 103: 1,824 ticks for 18 lots, 101 1/3 each, so all pay 102.
    assert outcomes(run) == {
        1: ("FILLED", 12, 102, 60 * (12 * 102 - (10 * 100 + 2 * 103)), ""),
        2: ("FILLED", 6, 102, 60 * (6 * 102 - 6 * 103), ""),
    }
    evened = [move for move in run.moved() if move[3] == Code.PURCHASE]
    assert evened == [
        ((1, CASH), (EXCHANGE, CLEARING), 60 * 18, Code.PURCHASE),
        ((EXCHANGE, CLEARING), (2, CASH), 60 * 6, Code.PURCHASE),
        ((EXCHANGE, CLEARING), (EXCHANGE, FEES), 60 * 12, Code.PURCHASE),
    ]
    fees = {1: -(-60 * 1_206 * 20 // 10_000), 2: -(-60 * 618 * 20 // 10_000)}
    assert run.view(1).cash == before[1] - 60 * 18 - fees[1]
    assert run.view(2).cash == before[2] + 60 * 6 - fees[2]
    assert run.machine.position(1, symbol("20")).net_lots == 12
    assert run.machine.position(2, symbol("20")).net_lots == 6


def test_lots_are_allotted_pro_rata_by_largest_remainder() -> None:
    run = market((10, 100))
    for account, lots in ((1, 7), (2, 7), (3, 3)):
        run.account(account)
        assert commit(run, account, account, lots, 100) is None
    run.to("15:00")
    # 10 of 17: 4 2/17, 4 2/17 and 1 13/17.
    assert {number: found[1] for number, found in outcomes(run).items()} == {1: 4, 2: 4, 3: 2}


def test_the_limit_is_the_one_at_which_most_lots_trade() -> None:
    run = market((10, 100), (30, 104))
    for account, lots, price in ((1, 20, 104), (2, 15, 104), (3, 8, 100)):
        run.account(account)
        assert commit(run, account, account, lots, price) is None
    run.to("15:00")
    # At 104 two members buy 35 lots; at 100 all three would share ten.
    assert outcomes(run) == {
        1: ("FILLED", 20, 103, 60 * (20 * 103 - (10 * 100 + 10 * 104)), ""),
        2: ("FILLED", 15, 103, 60 * (15 * 103 - 15 * 104), ""),
        3: ("UNFILLED", 0, 0, 0, "ioc_remainder"),
    }


def test_where_a_lower_limit_buys_as_much_more_members_share_it() -> None:
    run = market((10, 100))
    for account, lots, price in ((1, 10, 105), (2, 10, 101)):
        run.account(account)
        assert commit(run, account, account, lots, price) is None
    run.to("15:00")
    assert {number: found[:3] for number, found in outcomes(run).items()} == {
        1: ("FILLED", 5, 100),
        2: ("FILLED", 5, 100),
    }


def test_without_offers_nothing_is_bought_and_all_money_is_free_again() -> None:
    run = market((10, 106))
    run.account(1)
    assert commit(run, 1, 1, 10, 105) is None
    reserved = 60 * 105 * 10 + -(-60 * 105 * 10 * 20 // 10_000)
    assert run.view(1).available == floor.RICH - reserved
    run.to("15:00")
    assert outcomes(run) == {1: ("UNFILLED", 0, 0, 0, "ioc_remainder")}
    assert run.view(1).available == floor.RICH


def test_a_commitment_is_taken_back_before_its_deadline_by_its_owner_alone() -> None:
    run = market((10, 100))
    run.account(1)
    run.account(2)
    assert commit(run, 7, 1, 10, 100) is None
    back = instructions.WithdrawCommitment
    assert run.instruct(back(commitment=7, account=2)) == "commitment_ended"
    assert run.instruct(back(commitment=7, account=1)) is None
    assert outcomes(run) == {7: ("WITHDRAWN", 0, 0, 0, "requested")}
    assert run.instruct(back(commitment=7, account=1)) == "commitment_ended"
    assert run.view(1).available == floor.RICH
    run.to("15:00")
    assert not run.of(events.Traded)


def test_a_commitment_that_is_none_is_refused() -> None:
    run = market()
    run.account(1)
    run.account(2, cash=60 * 100 * 10)
    for number, account, lots, price, more, reason in (
        (1, 9, 1, 100, {}, "unknown_account"),
        (1, 1, 1, 100, {"instrument": "LLAMA70B.H.20251205T23"}, "unknown_instrument"),
        (1, 1, 1, 100, {"deadline": "13:00"}, "deadline_passed"),
        (1, 1, 1, 100, {"deadline": "15:01"}, "invalid_terms"),
        (1, 1, 1, 100, {"deadline": "19:55"}, "invalid_terms"),
        (1, 1, 0, 100, {}, "invalid_terms"),
        (1, 1, 1, 0, {}, "invalid_terms"),
        (1, 2, 10, 100, {}, "insufficient_funds"),  # the fee is missing
    ):
        assert commit(run, number, account, lots, price, **more) == reason, reason
    assert commit(run, 1, 1, 1, 100) is None
    assert commit(run, 1, 1, 1, 100) == "invalid_terms"  # a number is used once


def test_a_member_does_not_buy_where_its_own_group_sells() -> None:
    run = market((10, 100))
    run.account(1)
    run.account(2, group=SELLER)
    for account in (1, 2):
        assert commit(run, account, account, 5, 100) is None
    run.to("15:00")
    assert {number: found[::4] for number, found in outcomes(run).items()} == {
        1: ("FILLED", ""),
        2: ("UNFILLED", "self_trade"),
    }


def test_a_book_that_does_not_trade_sells_nothing() -> None:
    run = market((10, 100))
    run.account(1)
    assert commit(run, 1, 1, 5, 100) is None
    run.instruct(instructions.Halt(instrument=symbol("20")))
    run.to("15:00")
    assert outcomes(run) == {1: ("UNFILLED", 0, 0, 0, "not_open")}


def test_whoever_is_stopped_leaves_every_pool_at_once() -> None:
    run = market((10, 100))
    run.account(1)
    assert commit(run, 1, 1, 5, 100) is None
    assert run.instruct(instructions.KillSwitch(account=1, enabled=True)) is None
    assert outcomes(run) == {1: ("WITHDRAWN", 0, 0, 0, "killed")}
    assert run.view(1).available == floor.RICH
    assert commit(run, 2, 1, 5, 100) == "killed"


def test_commitments_leave_before_orders_when_the_money_goes_newest_first() -> None:
    run = market()
    run.account(1, cash=100_000, certified=10)
    for account in (2, 3):
        run.account(account)
    run.sell(1, 10, 100)
    run.buy(2, 10, 100)
    kept = run.buy(1, 1, 95, at="21")
    # A small commitment, and one of almost all that is left.
    assert commit(run, 1, 1, 2, 100, instrument=symbol("21")) is None
    most = run.view(1).available // (60 * 100 + 12)
    assert commit(run, 2, 1, most, 100, instrument=symbol("21")) is None
    run.to("13:45")
    run.sell(SELLER, 10, 105)
    run.buy(3, 10, 105)
    run.to("14:00")  # the short pays 5 ticks for each of ten lots, 3,000 in all
    assert outcomes(run) == {2: ("WITHDRAWN", 0, 0, 0, "unfunded")}
    assert run.machine.order_view(kept) is not None
    assert run.view(1).available > 0


def test_deadlines_and_instruments_make_pools_of_their_own() -> None:
    run = market((10, 100))
    run.account(1)
    assert commit(run, 1, 1, 4, 100) is None
    assert commit(run, 2, 1, 4, 100, deadline="15:05") is None
    run.to("15:00")
    assert list(outcomes(run)) == [1]
    run.to("15:05")
    assert list(outcomes(run)) == [2]
    assert run.machine.position(1, symbol("20")).net_lots == 8


def test_a_restored_machine_buys_the_same() -> None:
    run = market((10, 100), (10, 103))
    for account, lots in ((1, 12), (2, 6)):
        run.account(account)
        commit(run, account, account, lots, 105)
    copy = Machine.restore(run.machine.snapshot())
    copy.check()
    assert copy.digest() == run.machine.digest()
    run.to("15:00")
    again = copy.apply(run.log[-1].command, run.log[-1].sequence, run.at)
    assert again == run.last
    assert copy.digest() == run.machine.digest()


@settings(deadline=None, max_examples=50)
@given(
    asks=st.lists(st.tuples(st.integers(1, 40), st.integers(96, 104)), max_size=8),
    members=st.lists(st.tuples(st.integers(1, 60), st.integers(95, 105)), min_size=1, max_size=6),
)
def test_nobody_pays_more_than_its_limit_and_nothing_is_lost(
    asks: list[tuple[int, int]], members: list[tuple[int, int]]
) -> None:
    run = market(*asks)
    for number, (lots, price) in enumerate(members, 1):
        run.account(number)
        assert commit(run, number, number, lots, price) is None
    run.to("15:00")
    ends = {e.commitment: e for e in run.of(events.CommitmentChanged)}
    assert sorted(ends) == list(range(1, len(members) + 1))
    paid: dict[int, int] = {}
    for trade in run.of(events.Traded):
        paid[trade.taker] = paid.get(trade.taker, 0) + 60 * trade.price * trade.lots
    prices = {end.price for end in ends.values() if end.lots}
    assert len(prices) <= 1
    for number, (lots, price) in enumerate(members, 1):
        end = ends[number]
        assert 0 <= end.lots <= lots
        assert paid.get(number, 0) + end.evened == 60 * end.price * end.lots
        assert end.price <= price
    over = sum(end.evened for end in ends.values())
    assert 0 <= over < 60 * max(1, sum(end.lots for end in ends.values()))
