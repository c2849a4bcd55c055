"""Holds, ids, reversals, closed accounts and partitions, as the database keeps them."""

from types import SimpleNamespace

import pytest
from django.db import Error, connection, transaction

from marketplace import clock as market_clock
from settlement import audit, models, posting
from settlement import cash as cash_queries
from settlement.ledger import Code, Kind, Phase, cash_account
from tests.integration.test_ledger import AT, FEES, OUTSIDE, balance, cash, move, post

pytestmark = pytest.mark.django_db

LATER = AT + market_clock.HOUR
ACCOUNT = cash_account(7, Kind.CASH)


def hold(name: str, amount: int, *, until: int = 0) -> SimpleNamespace:
    return named(amount, phase=Phase.HOLD, id=name, expires_at=until)


def end(phase: Phase, name: str, amount: int) -> SimpleNamespace:
    return named(amount, phase=phase, hold=name)


def named(amount: int, **terms: object) -> SimpleNamespace:
    return move(cash(7), FEES, amount, Code.TRADING_FEE, **({"phase": Phase.AT_ONCE} | terms))


def held() -> int:
    """What is held on the account, which is the sum of its open holds, and is audited."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    assert violated() == []
    return models.Account.objects.get(id=ACCOUNT).held


def violated() -> list[str]:
    """Return what the audit finds wrong of the books, whose deposits nobody asked for here."""
    wrong = [finding.name for finding in audit.run() if finding.violations]
    return [name for name in wrong if "deposits" not in name]


def refused(*transfers: SimpleNamespace, at: int = AT) -> str:
    """Return why a batch is refused, having changed nothing."""
    before = list(models.Account.objects.order_by("id").values()), models.Transfer.objects.count()
    with pytest.raises(posting.PostingRefused) as caught:
        post(*transfers, at=at)
    after = list(models.Account.objects.order_by("id").values()), models.Transfer.objects.count()
    assert before == after
    return caught.value.code


@pytest.fixture
def funded() -> None:
    post(move(OUTSIDE, cash(7), 500))


def test_a_hold_reserves_and_moves_nothing_until_it_is_posted(funded) -> None:
    post(hold("a", 300))
    assert (balance(7), held(), balance(0, Kind.FEES)) == (500, 300, 0)
    assert refused(move(cash(7), cash(8), 201)) == "insufficient_funds"
    post(move(cash(7), cash(8), 200))
    post(end(Phase.POST, "a", 100))
    assert (balance(7), held(), balance(0, Kind.FEES)) == (200, 0, 100)
    post(move(cash(7), cash(8), 200))
    assert balance(7) == 0


def test_a_hold_that_is_voided_or_expires_gives_everything_back(funded) -> None:
    post(hold("a", 300), hold("b", 200, until=LATER))
    assert refused(hold("c", 1)) == "insufficient_funds"
    post(end(Phase.VOID, "a", 300))
    assert held() == 200
    post(end(Phase.EXPIRE, "b", 200), at=LATER)
    assert (balance(7), held()) == (500, 0)


ENDED = {"posted": Phase.POST, "voided": Phase.VOID, "expired": Phase.EXPIRE}


@pytest.mark.parametrize("first", ENDED)
@pytest.mark.parametrize("second", ENDED)
def test_a_hold_ends_once(funded, first: str, second: str) -> None:
    until = LATER if first == "expired" else 0
    post(hold("a", 300, until=until))
    post(end(ENDED[first], "a", 300), at=LATER)
    assert refused(end(ENDED[second], "a", 300), at=LATER + 1) == f"hold_{first}"
    assert held() == 0


@pytest.mark.parametrize(
    ("ending", "at", "code"),
    [
        (end(Phase.POST, "a", 301), AT, "exceeds_hold"),
        (end(Phase.VOID, "a", 299), AT, "exceeds_hold"),
        (end(Phase.POST, "b", 300), AT, "hold_unknown"),
        (end(Phase.POST, "a", 300), LATER, "hold_expired"),
        (end(Phase.VOID, "a", 300), LATER, "hold_expired"),
        (end(Phase.EXPIRE, "a", 300), LATER - 1, "hold_not_expired"),
        (move(cash(7), cash(8), 300, phase=Phase.POST, hold="a"), AT, "hold_unknown"),
    ],
)
def test_an_end_that_is_not_the_holds_is_refused_by_name(
    funded, ending: SimpleNamespace, at: int, code: str
) -> None:
    post(hold("a", 300, until=LATER))
    assert refused(ending, at=at) == code
    assert held() == 300


def test_a_batch_may_place_a_hold_and_end_it_in_that_order_only(funded) -> None:
    assert refused(end(Phase.POST, "a", 300), hold("a", 300)) == "hold_unknown"
    assert refused(
        hold("a", 300), end(Phase.POST, "a", 1), end(Phase.VOID, "a", 300)
    ) == "hold_posted"  # fmt: skip
    assert refused(hold("a", 300), move(cash(7), cash(8), 201)) == "insufficient_funds"
    post(hold("a", 500), end(Phase.POST, "a", 100), move(cash(7), cash(8), 400))
    assert (balance(7), held()) == (0, 0)


def test_a_batch_with_ids_is_posted_once_however_often_it_comes(funded) -> None:
    batch = hold("a", 300), named(50, id="fee"), move(cash(7), cash(8), 10)
    assert answer(batch, expected=1) == 4
    assert answer(batch, expected=1) == answer(batch, expected=4) == 4
    assert models.Transfer.objects.count() == 4
    assert (balance(7), held()) == (440, 300)
    post(end(Phase.POST, "a", 300))
    assert answer(batch, expected=5) == 4, "the first answer, whatever came after"
    assert (balance(7), held()) == (140, 0)


@pytest.mark.parametrize(
    "batch",
    [
        [hold("a", 301), named(50, id="fee")],
        [hold("a", 300, until=LATER), named(50, id="fee")],
        [hold("a", 300)],
        [named(50, id="fee"), hold("a", 300)],
        [hold("a", 300), named(50, id="fee"), named(1)],
        [hold("a", 300), named(50, id="other")],
        [hold("z", 1), hold("z", 1)],
    ],
)
def test_an_id_with_other_content_is_refused(funded, batch: list[SimpleNamespace]) -> None:
    post(hold("a", 300), named(50, id="fee"))
    assert refused(*batch) == "transfer_differs"


def test_a_batch_is_reversed_once_and_exactly(funded) -> None:
    last = post(move(cash(7), cash(8), 100), move(cash(8), FEES, 30))
    assert reverse(last) == last + 2
    assert [balance(7), balance(8), balance(0, Kind.FEES)] == [500, 0, 0]
    for again in (last, last - 1, 99):
        with pytest.raises(posting.PostingRefused) as caught:
            reverse(again)
        assert caught.value.code == ("already_reversed" if again == last else "batch_unknown")
    assert models.Transfer.objects.filter(code=Code.REVERSAL).count() == 2
    assert [balance(7), balance(8), balance(0, Kind.FEES)] == [500, 0, 0]


def test_a_reversal_never_overdraws(funded) -> None:
    last = post(move(cash(7), cash(8), 100))
    post(move(cash(8), FEES, 1))
    with pytest.raises(posting.PostingRefused) as caught:
        reverse(last)
    assert caught.value.code == "insufficient_funds"
    post(move(FEES, cash(8), 1))
    reverse(last)
    assert balance(7) == 500


def test_only_an_empty_account_is_closed_and_then_nothing_is_posted_to_it(funded) -> None:
    assert closing() == "account_not_empty"
    post(hold("a", 500))
    assert closing() == "account_not_empty"
    post(end(Phase.POST, "a", 500))
    assert closing() == ""
    assert closing() == "account_closed"
    assert refused(move(OUTSIDE, cash(7), 1)) == "account_closed"
    assert refused(move(OUTSIDE, cash(7), 1), move(cash(7), FEES, 1)) == "account_closed"
    assert closing(cash_account(99, Kind.CASH)) == "account_unknown"
    assert violated() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE settlement_account SET held = 5 WHERE id = 449",
        "INSERT INTO settlement_hold VALUES ('cash', 9, 'z', 449, 11, 5, NULL)",
        "INSERT INTO settlement_holdresolution VALUES ('cash', 9, 'a', 3, 0)",
    ],
)
def test_not_even_the_ledgers_own_door_lets_holds_and_what_is_held_differ(
    funded, statement: str
) -> None:
    post(hold("a", 300))
    with (
        pytest.raises(Error, match="does not hold the sum of its holds"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SET LOCAL baseload.ledger = 'open'")
        cursor.execute(statement)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.parametrize("table", ["transferid", "hold", "holdresolution"])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM {}", "UPDATE {} SET sequence = 1", "TRUNCATE {}"]
)
def test_holds_and_ids_are_never_changed(funded, table: str, statement: str) -> None:
    post(hold("a", 300), end(Phase.VOID, "a", 300))
    with (
        pytest.raises(Error, match="never changed or removed"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(statement.format(f"settlement_{table}"))


def test_a_statement_of_an_account_is_continuous_and_ends_with_its_balance(funded) -> None:
    for number in range(6):
        post(hold(f"h{number}", 20), move(cash(7), cash(8), 3))
        post(end(Phase.POST if number % 2 else Phase.VOID, f"h{number}", 20))
    entries = cash_queries.ledger_entries(7, limit=100)[::-1]
    assert [entry.amount_micros for entry in entries] == [
        500,
        -3,
        -3,
        -20,
        -3,
        -3,
        -20,
        -3,
        -3,
        -20,
    ]
    before = 0
    for entry in entries:
        assert entry.balance_micros == before + entry.amount_micros
        before = entry.balance_micros
    assert before == balance(7) == 422
    assert cash_queries.balance_at(7, sequence=entries[3].sequence) == 474


def test_fields_that_run_together_make_different_hashes() -> None:
    """Nothing is joined by a separator (FAULTS P148)."""
    batches = [
        [move(OUTSIDE, cash(7), 500, cause=first), move(OUTSIDE, cash(7), 500, cause=second)]
        for first, second in (("a|b", "c"), ("a", "b|c"), ("ab", "c"), ("a", "bc"))
    ]
    batches += [
        [move(OUTSIDE, cash(7), 500, phase=Phase.AT_ONCE, cause=cause, id=name)]
        for cause, name in (("ab", "c"), ("a", "bc"), ("abc", ""))
    ]
    hashes = set()
    for batch in batches:
        with transaction.atomic():
            post(*batch)
            hashes.add(bytes(models.ChainHead.objects.get(chain="cash").hash))
            assert violated() == []
            transaction.set_rollback(True)
    assert len(hashes) == len(batches)


# Partitions


def test_a_month_without_a_partition_is_posted_to_all_the_same() -> None:
    far = market_clock.to_micros(market_clock.to_datetime(AT).replace(year=2041))
    assert partitions("settlement_transfer_2041%") == []
    post(move(OUTSIDE, cash(7), 500), at=far)
    assert partitions("settlement_transfer_2041%") == [
        "settlement_transfer_204105",
        "settlement_transfer_204106",
        "settlement_transfer_204107",
    ]
    assert partitions("settlement_chainlink_2041%")[0] == "settlement_chainlink_204105"
    assert violated() == []


def test_a_month_begins_and_ends_at_midnight_utc() -> None:
    first = market_clock.to_micros(market_clock.to_datetime(AT).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0))  # fmt: skip
    post(move(OUTSIDE, cash(7), 1), at=first - 1)
    post(move(OUTSIDE, cash(7), 1), at=first)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM settlement_transfer ORDER BY sequence")
        assert [row[0] for row in cursor.fetchall()] == [
            "settlement_transfer_202604",
            "settlement_transfer_202605",
        ]


def test_partitions_are_made_ahead_once() -> None:
    with connection.cursor() as cursor:
        at = market_clock.to_micros(market_clock.to_datetime(AT).replace(year=2042))
        assert posting.make_partitions(cursor, at=at, months=3) == 8
        assert posting.make_partitions(cursor, at=at, months=3) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET amount = 1",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "INSERT INTO {} SELECT * FROM settlement_transfer",
    ],
)
def test_the_law_holds_for_whoever_names_a_partition_too(statement: str) -> None:
    post(move(OUTSIDE, cash(7), 500))
    with pytest.raises(Error), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format("settlement_transfer_202605"))
    with (
        pytest.raises(Error, match="permission denied"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SET LOCAL ROLE baseload_app")
        cursor.execute(statement.format("settlement_transfer_202605"))


def partitions(pattern: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE %s ORDER BY 1", [pattern]
        )
        return [row[0] for row in cursor.fetchall()]


def reverse(sequence: int) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        return posting.reverse(cursor, chain="cash", sequence=sequence, cause="wrong", at=AT)


def closing(account: int = ACCOUNT) -> str:
    """Close an account; return why that is refused, if it is."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            posting.close(cursor, chain="cash", account=account)
    except posting.PostingRefused as refusal:
        return refusal.code
    return ""


def answer(batch: tuple[SimpleNamespace, ...], *, expected: int) -> int:
    """Post a batch where its writer believes the chain to be; return what the database answers."""
    with posting.refusals(), transaction.atomic(), connection.cursor() as cursor:
        posting.post_cash(cursor, batch, at=AT, expected_sequence=expected, is_plain=False)
        return cursor.fetchone()[0]
