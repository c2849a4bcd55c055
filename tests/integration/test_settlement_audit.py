"""The audit finds a sound clearing house sound, and every single corruption of it."""

import json
from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connection

from marketplace import audit as whole_audit
from marketplace import clock as market_clock
from marketplace import contract
from settlement import audit, instructions, models, operations, posting, seals
from settlement.ledger import Code, Kind, Phase

pytestmark = pytest.mark.django_db

GRADE = "LLAMA70B"
COVER = f"{GRADE}.M.Z26.S"
HOLDER, SELLER = 7, 8
LOTS, PRICE = 40, 1250
PER_INTERVAL = 5 * PRICE * LOTS


def post(*moves: tuple[tuple[int, int], tuple[int, int], int, int, str]) -> None:
    with connection.cursor() as cursor:
        head = posting.lock_chain(cursor, "cash")
        transfers = [
            SimpleNamespace(
                debit_owner=debit[0], debit_kind=debit[1], credit_owner=credit[0],
                credit_kind=credit[1], amount=amount, code=code, cause=cause,
            )
            for debit, credit, amount, code, cause in moves
        ]  # fmt: skip
        operations.post_cash(cursor, transfers, at=AT, expected_sequence=head)


def post_named(debit: tuple[int, int], credit: tuple[int, int], amount: int, **named) -> None:
    with connection.cursor() as cursor:
        head = posting.lock_chain(cursor, "cash")
        transfer = SimpleNamespace(
            debit_owner=debit[0], debit_kind=debit[1], credit_owner=credit[0],
            credit_kind=credit[1], amount=amount, code=Code.WITHDRAWAL, cause="w", **named,
        )  # fmt: skip
        operations.post_cash(cursor, [transfer], at=AT, expected_sequence=head, is_plain=False)


AT = market_clock.to_micros(market_clock.to_datetime(1_796_115_600_000_000))
HOUR = contract.hour_start(AT)
OUTSIDE, FEES = (0, Kind.OUTSIDE), (0, Kind.FEES)
HOLDER_CASH, HOLDER_ESCROW = (HOLDER, Kind.CASH), (HOLDER, Kind.ESCROW)
SELLER_CASH = (SELLER, Kind.CASH)


@pytest.fixture
def sound(clock) -> None:
    """One hour: a deposit, an escrow, one good and one bad interval, tokens used, heads sealed."""
    clock.set(AT)
    at = market_clock.to_datetime(AT)
    starts_at = market_clock.to_datetime(HOUR)
    escrow = 60 * PRICE * LOTS
    for organization, amount in ((HOLDER, 10 * escrow), (SELLER, escrow)):
        operations.instruct(
            id=f"deposit:{organization}:1",
            command=instructions.Deposit(account=organization, amount_micros=amount),
        )
        post(
            (OUTSIDE, (organization, Kind.CASH), amount, Code.DEPOSIT, f"deposit:{organization}:1")
        )
    models.Instruction.objects.update(state="APPLIED", sequence=1, applied_at=at)
    post((HOLDER_CASH, HOLDER_ESCROW, escrow, Code.ESCROW, "entitlement:1"))
    models.Entitlement.objects.create(
        id=1, organization_id=HOLDER, grade=GRADE, starts_at=starts_at, lots=LOTS,
        price_ticks=PRICE, escrow_micros=escrow,
    )  # fmt: skip
    models.Obligation.objects.create(
        id=2, organization_id=SELLER, grade=GRADE, starts_at=starts_at, lots=LOTS, failed_lots=0,
        price_ticks=PRICE,
    )  # fmt: skip
    models.Allocation.objects.create(
        id=3, entitlement_id=1, obligation_id=2, holder=HOLDER, seller=SELLER, cluster=5,
        grade=GRADE, starts_at=starts_at, lots=LOTS, price_ticks=PRICE,
    )  # fmt: skip
    settle(1, released=PER_INTERVAL, refunded=0, compensated=0)
    settle(2, released=0, refunded=PER_INTERVAL, compensated=700)
    for organization, lots in ((HOLDER, 3), (SELLER, -3)):
        models.Position.objects.create(
            organization_id=organization, symbol="LLAMA70B.H.20261202T10Z", net_lots=lots,
            cost_ticks=lots * PRICE, updated_at=at,
        )  # fmt: skip
    models.MarginAccount.objects.create(
        organization_id=HOLDER,
        cash_micros=9 * escrow + PER_INTERVAL + 700 + 60 - 40 - 300 + 99 + 5,
        escrow_micros=escrow - 2 * PER_INTERVAL, updated_at=at,
    )  # fmt: skip
    for phase, name, hold in ((Phase.HOLD, "a", ""), (Phase.HOLD, "b", ""), (Phase.VOID, "", "b")):
        post_named(HOLDER_CASH, OUTSIDE, 300, phase=phase, id=name, hold=hold)
    used = operations.Consumption(
        holder=HOLDER, seller=SELLER, grade=GRADE, hour_starts_at=HOUR, mntu=5_000, cause="r"
    )
    operations.consume(usages=[used], at=AT)
    correct(delivery=60, damages=-40)
    insure(amount=5)
    resell(amount=100, fee=1)
    models.SlotSettlement.objects.create(
        organization_id=HOLDER, grade=GRADE, starts_at=starts_at, service_class="P1", lots=1,
        failed_lots=0, backed_lots=1, price_ticks=1, amount_micros=0, damages_micros=0,
        damages_due_micros=0, at=at,
    )  # fmt: skip
    seals.seal(AT)


def correct(*, delivery: int, damages: int) -> None:
    """A run of the day found that the holder is owed more of its price, and less as damages."""
    at = market_clock.to_datetime(AT)
    run = models.SettlementRun.objects.create(
        id="run", grade=GRADE, delivery_date=at.date(), kind="FINAL", inputs_digest=b"",
        result_digest=b"", posted_digest=b"", allocations=1, at=at,
    )  # fmt: skip
    models.SettlementRunLine.objects.create(
        run=run, allocation_id=3, price_ticks=PRICE, refunded_micros=delivery, due_micros=0,
        posted_refunded_micros=0, posted_due_micros=-damages, posted_paid_micros=-damages,
        delivery_micros=delivery, damages_micros=damages,
    )  # fmt: skip
    cause = "correction:3:run"
    post(
        (SELLER_CASH, HOLDER_CASH, delivery, Code.DELIVERY_CORRECTION, cause),
        (HOLDER_CASH, SELLER_CASH, -damages, Code.DAMAGES_CORRECTION, cause),
    )
    models.DeliveryCorrection.objects.create(
        run="run", allocation_id=3, delivery_micros=delivery, damages_micros=damages,
        due_micros=damages, at=at,
    )  # fmt: skip


def insure(*, amount: int) -> None:
    """The same run found that the seller, who wrote cover, owes the holder more for the hour."""
    starts_at = market_clock.to_datetime(HOUR)
    for organization, owed in ((HOLDER, amount), (SELLER, -amount)):
        row = {"symbol": COVER, "hour_starts_at": starts_at, "organization_id": organization}
        models.InsuranceRunLine.objects.create(
            run_id="run", owed_micros=owed, posted_micros=0, **row
        )
        models.InsuranceCorrection.objects.create(
            run="run", amount_micros=owed, at=market_clock.to_datetime(AT), **row
        )
    cause = f"insurance:{COVER}:{HOUR}:"
    post((SELLER_CASH, HOLDER_CASH, amount, Code.INSURANCE_CORRECTION, cause))


def resell(*, amount: int, fee: int) -> None:
    """The holder sold what was left of a package on; nothing of it is to be delivered any more."""
    at = market_clock.to_datetime(AT)
    models.Package.objects.create(
        id=2, instruction="resell", listing=1, parent=1, seller=SELLER, holder=SELLER, grade=GRADE,
        starts_at=at, ends_at=at, schedule=[], price_ticks=1, list_price_ticks=1, escrow_micros=0,
        margin_micros=0, bought_at=at, updated_at=at,
    )  # fmt: skip
    models.PackageResale.objects.create(
        package=2, parent=1, holder=HOLDER, buyer=SELLER, starts_at=at, ends_at=at, lot_hours=1,
        price_ticks=1, amount_micros=amount, fee_micros=fee, at=at,
    )  # fmt: skip
    post(
        (SELLER_CASH, HOLDER_CASH, amount, Code.PACKAGE_RESALE, "resell"),
        (HOLDER_CASH, FEES, fee, Code.PACKAGE_FEE, "resell"),
    )


def settle(interval: int, *, released: int, refunded: int, compensated: int) -> None:
    cause = f"interval:3:{interval}"
    moves = (
        (HOLDER_ESCROW, SELLER_CASH, released, Code.RELEASE, cause),
        (HOLDER_ESCROW, HOLDER_CASH, refunded, Code.REFUND, cause),
        (SELLER_CASH, HOLDER_CASH, compensated, Code.COMPENSATION, cause),
    )
    post(*(move for move in moves if move[2]))
    models.IntervalSettlement.objects.create(
        allocation_id=3, interval=interval,
        available_mntu=LOTS * contract.MNTU_PER_LOT_INTERVAL if released else 0, short_mntu=0,
        delivered_mntu=0, released_micros=released, refunded_micros=refunded,
        compensated_micros=compensated, compensation_due_micros=compensated,
        at=market_clock.to_datetime(AT),
    )  # fmt: skip


def violated() -> set[str]:
    return {finding.name for finding in audit.run() if finding.violations}


def test_a_sound_house_has_no_violation_and_every_check_saw_something(sound) -> None:
    findings = audit.run()
    assert [str(finding) for finding in findings if finding.violations] == []
    assert {finding.name for finding in findings if not finding.checked} == {
        "clearing nets to zero"
    }


TRANSFER = "UPDATE settlement_transfer SET"
CORRUPTIONS = {
    "settled slots have exactly their transfers": (
        "UPDATE settlement_slotsettlement SET amount_micros = 5"
    ),
    "accounts are what they say": "UPDATE settlement_account SET owner = 9 WHERE id = 449",
    "no account is overdrawn": (
        "ALTER TABLE settlement_account DROP CONSTRAINT account_is_not_overdrawn;"
        "UPDATE settlement_account SET debits = credits + 1 WHERE id = 449"
    ),
    "cash and capacity are conserved": (
        "UPDATE settlement_account SET credits = credits + 1 WHERE id = 11 OR id = 449"
    ),
    "balances are the sums of transfers": (
        "UPDATE settlement_account SET credits = credits + 5, debits = debits + 5 WHERE id = 449"
    ),
    "what is held is the sum of open holds": (
        "UPDATE settlement_account SET held = held - 1 WHERE id = 449"
    ),
    "holds and their ends are their transfers": (
        "UPDATE settlement_holdresolution SET hold = 'a' WHERE hold = 'b'"
    ),
    "accounts were never overdrawn on the way": (
        f"{TRANSFER} sequence = 99 - sequence WHERE chain = 'cash' AND sequence IN (1, 98)"
    ),
    "partitions are made ahead": (
        "ALTER TABLE settlement_transfer DETACH PARTITION settlement_transfer_202612"
    ),
    "transfers keep their form": (
        f"{TRANSFER} credit_account = (SELECT id FROM settlement_account WHERE kind = 51)"
        " WHERE code = 1"
    ),
    "the ledger's hash chains verify": f"{TRANSFER} cause = 'deposit:9:1' WHERE code = 1",
    "seals verify": "UPDATE settlement_seal SET signature = decode(repeat('00', 64), 'hex')",
    "clearing nets to zero": (
        "INSERT INTO settlement_account VALUES (12, 0, 12, 'USD', 0, 5, 0, true, 1, NULL, now())"
    ),
    "positions sum to zero": "UPDATE settlement_position SET net_lots = 4 WHERE net_lots = 3",
    "the machine's money is the ledger's": "UPDATE settlement_marginaccount SET cash_micros = 1",
    "deposits and withdrawals have exactly their transfers": (
        "UPDATE settlement_instruction SET id = 'deposit:7:2' WHERE id = 'deposit:7:1'"
    ),
    "entitlements equal obligations equal allocations": (
        "UPDATE settlement_obligation SET lots = lots + 1"
    ),
    "entitlements have exactly their escrow": f"{TRANSFER} cause = 'entitlement:2' WHERE code = 5",
    "escrow equals undelivered paid value": (
        "DELETE FROM settlement_intervalsettlement WHERE interval = 1"
    ),
    "settled intervals pay out their escrow": (
        "UPDATE settlement_intervalsettlement SET refunded_micros = refunded_micros + 1"
    ),
    "settled intervals have exactly their transfers": (
        f"{TRANSFER} code = 7 WHERE code = 8"
    ),
    "resales of packages moved their cash": (
        "UPDATE settlement_packageresale SET fee_micros = fee_micros + 1"
    ),
    "corrections have exactly their transfers": f"{TRANSFER} amount = 41 WHERE code = 31",
    "corrections are what runs asked for": (
        "UPDATE settlement_settlementrunline SET delivery_micros = 61, refunded_micros = 61"
    ),
    "corrections of insurance are what runs asked for": (
        "UPDATE settlement_insurancerunline SET owed_micros = 6 WHERE owed_micros = 5"
    ),
    "corrections of insurance have their transfers": f"{TRANSFER} amount = 6 WHERE code = 32",
    "granted capacity is left, used or expired": (
        "UPDATE settlement_entitlement SET delivered_mntu = delivered_mntu + 1"
    ),
}  # fmt: skip


def corrupt(statements: str) -> None:
    """Change rows as nobody can but the owner of the server, past the triggers."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        for statement in statements.split(";"):
            cursor.execute(statement)
            assert cursor.rowcount != 0, "the corruption corrupts something"
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize("check", CORRUPTIONS)
def test_each_corruption_is_seen_by_the_check_that_is_for_it(sound, check: str) -> None:
    corrupt(CORRUPTIONS[check])
    assert check in violated()


def test_every_check_has_its_corruption(sound) -> None:
    assert {finding.name for finding in audit.run()} == set(CORRUPTIONS)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM settlement_transfer WHERE code = 8",
        "DELETE FROM settlement_chainlink WHERE sequence = 2",
        "UPDATE settlement_transfer SET amount = amount + 1 WHERE code = 2 OR code = 50",
        "UPDATE settlement_transfer SET at = at + interval '1 microsecond' WHERE code = 1",
        "UPDATE settlement_chainhead SET sequence = sequence - 1 WHERE chain = 'capacity'",
        "UPDATE settlement_account SET owner = 9 WHERE kind = 51",
        "INSERT INTO settlement_transfer SELECT chain, sequence + 99, debit_account,"
        " credit_account, amount, code, cause, at, phase FROM settlement_transfer WHERE code = 1",
    ],
)
def test_any_change_of_history_breaks_a_chain(sound, statement: str) -> None:
    corrupt(statement)
    assert "the ledger's hash chains verify" in violated()


def test_a_balanced_posting_that_is_lost_is_missed_all_the_same(sound) -> None:
    """Conservation alone does not see it (PITFALLS)."""
    corrupt(
        "DELETE FROM settlement_transfer WHERE code = 6;"
        f"UPDATE settlement_account SET debits = debits - {PER_INTERVAL} WHERE id = 450;"
        f"UPDATE settlement_account SET credits = credits - {PER_INTERVAL} WHERE id = 513"
    )
    assert {
        "settled intervals have exactly their transfers",
        "escrow equals undelivered paid value",
    } <= violated()
    assert "cash and capacity are conserved" not in violated()


def test_a_seal_shows_that_a_chain_was_rewritten_whole(sound) -> None:
    corrupt("UPDATE settlement_chainlink SET hash = decode(repeat('11', 32), 'hex')")
    assert "seals verify" in violated()


def test_a_recent_audit_sees_recent_corruption(sound) -> None:
    since = market_clock.to_datetime(AT - market_clock.HOUR)
    assert not [finding for finding in audit.run(since=since) if finding.violations]
    corrupt(CORRUPTIONS["the ledger's hash chains verify"])
    assert [finding.name for finding in audit.run(since=since) if finding.violations]


@pytest.mark.django_db(transaction=True)
def test_the_command_prints_a_table_and_fails_on_a_violation() -> None:
    out = StringIO()
    call_command("audit_ledger", stdout=out)
    names = [finding.name for finding in whole_audit.run()]
    assert len(names) == len(set(names)) == 36
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == names
    assert lines[-1] == "all 36 invariants hold"
    at = market_clock.to_datetime(AT)
    models.Position.objects.create(
        organization_id=1, symbol="X", net_lots=1, cost_ticks=1, updated_at=at
    )
    out = StringIO()
    with pytest.raises(SystemExit) as stopped:
        call_command("audit_ledger", "--json", stdout=out)
    assert stopped.value.code == 1
    report = json.loads(out.getvalue())
    assert report["ok"] is False
    wrong = [check["name"] for check in report["checks"] if check["violations"]]
    assert "positions sum to zero" in wrong


def test_an_entitlement_may_have_lots_of_packages_at_other_prices(sound) -> None:
    corrupt(f"UPDATE settlement_allocation SET price_ticks = {PRICE + 1}")
    named = "entitlements equal obligations equal allocations"
    assert named in violated(), "not in the market"
    corrupt("UPDATE settlement_allocation SET package = 1")
    assert named in violated(), "its escrow is that of another price"
    corrupt(f"UPDATE settlement_entitlement SET escrow_micros = {60 * (PRICE + 1) * LOTS}")
    assert named not in violated()
