"""Withdrawals that wait: held, then paid out or given back, once."""

import pytest

from exchange import events
from exchange.machine import Machine
from settlement import instructions
from settlement.ledger import Kind, Phase
from tests.floor import GRADE, Floor, hour

AMOUNT = 1_000_000


@pytest.fixture
def floor() -> Floor:
    floor = Floor()
    floor.instruct(instructions.OpenAccount(account=1, group=1))
    floor.instruct(instructions.OpenAccount(account=2, group=2))
    floor.instruct(instructions.Deposit(account=1, amount_micros=AMOUNT))
    return floor


def hold(floor: Floor, amount: int, account: int = 1) -> str:
    """Hold a withdrawal; return its id."""
    refused = floor.instruct(instructions.HoldWithdrawal(account=account, amount_micros=amount))
    assert refused is None, refused
    return floor.of(events.Held)[-1].id


def post(floor: Floor, name: str, amount: int, account: int = 1) -> str | None:
    return floor.instruct(
        instructions.PostWithdrawal(account=account, hold=name, amount_micros=amount)
    )


def void(floor: Floor, name: str, account: int = 1) -> str | None:
    return floor.instruct(instructions.VoidWithdrawal(account=account, hold=name))


def money(floor: Floor) -> tuple[int, int, int]:
    """Return an account's cash, what is held of it, and what went out of the exchange."""
    account = floor.machine.state.accounts[1]
    return account.cash, account.held, floor.machine.state.exchange[Kind.OUTSIDE] + AMOUNT


def test_what_is_held_is_neither_the_accounts_nor_gone(floor: Floor) -> None:
    name = hold(floor, 700_000)
    assert money(floor) == (300_000, 700_000, 0)
    view = floor.machine.account_view(1)
    assert view is not None
    assert (view.cash, view.available, view.withdrawable) == (300_000, 300_000, 300_000)
    refused = instructions.HoldWithdrawal(account=1, amount_micros=300_001)
    assert floor.instruct(refused) == "insufficient_funds"
    assert post(floor, name, 700_000) is None
    assert money(floor) == (300_000, 0, 700_000)


def test_a_part_is_paid_out_and_the_rest_is_free_again(floor: Floor) -> None:
    name = hold(floor, 700_000)
    assert post(floor, name, 1) is None
    assert money(floor) == (999_999, 0, 1)
    held = [each for each in floor.events if isinstance(each, events.Held)]
    assert [(e.phase, e.amount, e.id, e.hold) for e in held] == [
        (Phase.HOLD, 700_000, name, ""),
        (Phase.POST, 1, "", name),
    ]


def test_what_is_given_back_is_the_accounts_again(floor: Floor) -> None:
    name = hold(floor, AMOUNT)
    assert void(floor, name) is None
    assert money(floor) == (AMOUNT, 0, 0)
    assert floor.of(events.Held)[-1].amount == AMOUNT


def test_a_hold_ends_once_and_only_for_its_own_account(floor: Floor) -> None:
    name, other = hold(floor, 400_000), hold(floor, 500_000)
    assert post(floor, name, 400_000, account=2) == "hold_unknown"
    assert void(floor, name, account=2) == "hold_unknown"
    assert post(floor, name, 400_001) == "exceeds_hold"
    assert post(floor, name, 0) == "invalid_amount"
    assert post(floor, "nobody", 1) == "hold_unknown"
    assert money(floor) == (100_000, 900_000, 0)
    assert post(floor, name, 400_000) is None
    for again in (post(floor, name, 1), void(floor, name)):
        assert again == "hold_unknown"
    assert void(floor, other) is None
    assert post(floor, other, 1) == "hold_unknown"
    assert money(floor) == (600_000, 0, 400_000)


def test_a_snapshot_remembers_what_waits(floor: Floor) -> None:
    name = hold(floor, 700_000)
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.snapshot() == floor.machine.snapshot()
    floor.machine = restored
    assert post(floor, name, 700_000) is None
    assert money(floor) == (300_000, 0, 700_000)


def test_what_is_free_again_repays_what_was_lent_meanwhile() -> None:
    """Two withdrawals wait for all there is; 550,000 used since then were lent."""
    floor = Floor("18:00")
    floor.account(1, cash=AMOUNT)
    floor.account(2)
    first, second = hold(floor, 700_000), hold(floor, 300_000)
    assert floor.instruct(
        instructions.ChargeUsage(
            account=1, seller=2, grade=GRADE, hour_starts_at=hour("18"), interval=1,
            mntu=400_000_000, release=True,
        )
    ) is None  # fmt: skip
    assert floor.view(1).debt == 550_000
    assert post(floor, first, 400_000) is None
    assert (floor.view(1).cash, floor.view(1).debt) == (0, 250_000)
    assert void(floor, second) is None
    assert (floor.view(1).cash, floor.view(1).debt) == (50_000, 0)
