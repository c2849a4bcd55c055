"""Withdrawals that wait for an operator, from the instruction to the ledger."""

from django.db import connection

from marketplace import audit
from settlement import instructions, models, operations, queries
from settlement.ledger import Kind, Phase, cash_account
from tests.market import BUYER, Market

BEFORE = 1_000_000_000


def hold(name: str, amount: int) -> None:
    instruct(name, instructions.HoldWithdrawal(account=BUYER, amount_micros=amount))


def post(name: str, held: str, amount: int) -> None:
    instruct(name, instructions.PostWithdrawal(account=BUYER, hold=held, amount_micros=amount))


def void(name: str, held: str) -> None:
    instruct(name, instructions.VoidWithdrawal(account=BUYER, hold=held))


def instruct(name: str, command: instructions.AnyInstruction) -> None:
    operations.instruct(id=name, command=command)


def ledger() -> tuple[int, int, int]:
    """Return the balance, what is held of it, and the machine's cash."""
    row = models.Account.objects.get(id=cash_account(BUYER, Kind.CASH))
    return row.credits - row.debits, row.held, queries.account(BUYER).cash_micros


def test_a_withdrawal_waits_in_the_ledger_and_ends_there(market: Market) -> None:
    hold("w1", 600)
    market.work()
    assert ledger() == (BEFORE, 600, BEFORE - 600)
    assert models.Hold.objects.get().id == "w1"
    post("w1:paid", "w1", 500)
    market.work()
    assert ledger() == (BEFORE - 500, 0, BEFORE - 500)
    ended = models.HoldResolution.objects.get()
    assert (ended.hold, ended.phase, ended.amount) == ("w1", Phase.POST, 500)
    assert violated() == set()


def test_holds_and_transfers_of_one_batch_are_posted_in_their_order(market: Market) -> None:
    hold("all", BEFORE)
    void("all:back", "all")
    hold("w2", BEFORE)
    post("w2:paid", "w2", BEFORE)
    instruct("more", instructions.Deposit(account=BUYER, amount_micros=5))
    instruct("out", instructions.Withdraw(account=BUYER, amount_micros=5))
    market.work()
    assert ledger() == (0, 0, 0)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT phase, amount FROM settlement_transfer WHERE chain = 'cash'"
            " ORDER BY sequence DESC LIMIT 6"
        )
        rows = cursor.fetchall()[::-1]
    assert rows == [(1, BEFORE), (3, BEFORE), (1, BEFORE), (2, BEFORE), (0, 5), (0, 5)]
    assert violated() == set()


def test_a_hold_is_still_known_after_a_restart(market: Market) -> None:
    hold("w3", 600)
    market.work()
    market.take_over()
    void("w3:back", "w3")
    post("w3:late", "w3", 600)
    market.work()
    assert ledger() == (BEFORE, 0, BEFORE)
    assert queries.instruction("w3:late").reason == "hold_unknown"
    assert violated() == set()


def violated() -> set[str]:
    return {f"{finding}" for finding in audit.run() if finding.violations}
