"""The ledger's law as it stands in the database."""

from random import Random
from threading import Thread
from types import SimpleNamespace

import pytest
from django.db import Error, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from marketplace import clock as market_clock
from settlement import models, operations, posting
from settlement.ledger import Code, Kind, cash_account

pytestmark = pytest.mark.django_db

AT = 1_780_000_000_000_000


def move(
    debit: tuple[int, int],
    credit: tuple[int, int],
    amount: int,
    code: int = Code.DEPOSIT,
    cause: str = "test",
    **named: object,
) -> SimpleNamespace:
    """Return a cash transfer between two accounts, each (owner, kind)."""
    return SimpleNamespace(
        debit_owner=debit[0],
        debit_kind=debit[1],
        credit_owner=credit[0],
        credit_kind=credit[1],
        amount=amount,
        code=code,
        cause=cause,
        **named,
    )


OUTSIDE = (0, Kind.OUTSIDE)
FEES = (0, Kind.FEES)


def cash(owner: int) -> tuple[int, int]:
    return (owner, Kind.CASH)


def post(*transfers: SimpleNamespace, expected: int | None = None, at: int = AT) -> int:
    """Post a batch to the cash chain at its head."""
    is_plain = not any(hasattr(transfer, "phase") for transfer in transfers)
    with posting.refusals(), transaction.atomic(), connection.cursor() as cursor:
        head = posting.lock_chain(cursor, "cash") if expected is None else expected
        return operations.post_cash(
            cursor, transfers, at=at, expected_sequence=head, is_plain=is_plain
        )


def balance(owner: int, kind: int = Kind.CASH) -> int:
    account = models.Account.objects.filter(id=cash_account(owner, kind)).first()
    return 0 if account is None else account.credits - account.debits


def test_a_batch_moves_money_and_numbers_its_transfers_without_gaps() -> None:
    assert post(move(OUTSIDE, cash(7), 500), move(cash(7), FEES, 20)) == 2
    assert post(move(cash(7), cash(8), 480)) == 3
    assert [balance(7), balance(8), balance(0, Kind.FEES)] == [0, 480, 20]
    assert balance(0, Kind.OUTSIDE) == -500
    assert list(
        models.Transfer.objects.order_by("sequence").values_list("sequence", flat=True)
    ) == [
        1,
        2,
        3,
    ]


def test_an_empty_batch_posts_nothing() -> None:
    assert post() == 0
    assert models.ChainLink.objects.count() == 0


@pytest.mark.parametrize(
    ("transfer", "code"),
    [
        (move(cash(7), cash(8), 501), "insufficient_funds"),
        (move(cash(7), cash(7), 1), "same_account"),
        (move(cash(7), cash(8), 0), "invalid_amount"),
        (move(cash(7), cash(8), -5), "invalid_amount"),
        (move(cash(7), (8, Kind.ENTITLED), 5), "unit_mismatch"),
    ],
)
def test_a_transfer_that_breaks_a_rule_is_refused_by_name_and_changes_nothing(
    transfer: SimpleNamespace, code: str
) -> None:
    post(move(OUTSIDE, cash(7), 500))
    with pytest.raises(posting.PostingRefused) as refused:
        post(move(OUTSIDE, cash(9), 1), transfer)
    assert refused.value.code == code
    assert [balance(7), balance(8), balance(9)] == [500, 0, 0]
    assert models.Transfer.objects.count() == 1
    assert models.ChainHead.objects.get(chain="cash").sequence == 1


def test_a_batch_that_overdraws_only_in_its_middle_is_refused_whole() -> None:
    with pytest.raises(posting.PostingRefused) as refused:
        post(move(cash(7), cash(8), 5), move(OUTSIDE, cash(7), 5))
    assert refused.value.code == "insufficient_funds"
    assert post(move(OUTSIDE, cash(7), 5), move(cash(7), cash(8), 5)) == 2


def test_a_writer_that_was_overtaken_cannot_post() -> None:
    post(move(OUTSIDE, cash(7), 500))
    with pytest.raises(posting.ChainMoved):
        post(move(OUTSIDE, cash(7), 500), expected=0)
    assert balance(7) == 500


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE settlement_transfer SET amount = 1",
        "DELETE FROM settlement_transfer",
        "TRUNCATE settlement_transfer",
        "UPDATE settlement_transfer SET debit_account = credit_account + 1",
        "UPDATE settlement_chainlink SET hash = previous_hash",
        "DELETE FROM settlement_chainlink",
        "UPDATE settlement_account SET credits = credits + 1",
        "DELETE FROM settlement_account",
        "UPDATE settlement_chainhead SET sequence = 0",
        "INSERT INTO settlement_chainlink SELECT chain, sequence + 9, 1, hash, hash, at"
        " FROM settlement_chainlink",
    ],
)
def test_nobody_changes_what_is_posted_not_even_the_owner(statement: str) -> None:
    post(move(OUTSIDE, cash(7), 500))
    with pytest.raises(Error), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert balance(7) == 500


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO settlement_transfer SELECT chain, sequence + 1, debit_account, credit_account,"
        " amount, code, cause, at FROM settlement_transfer",
        "UPDATE settlement_account SET credits = credits + 1",
        "SELECT nextval('settlement_capacity_account')",
        "UPDATE settlement_seal SET hash = ''",
    ],
)
def test_the_applications_role_may_only_read_the_ledger_and_call_its_function(
    statement: str,
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE baseload_app")
    post(move(OUTSIDE, cash(7), 500))
    assert balance(7) == 500
    with (
        pytest.raises(Error, match="permission denied"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)


def test_no_column_of_the_clearing_house_can_hold_what_is_not_an_integer() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name LIKE 'settlement_%'"
            " AND data_type IN ('numeric', 'double precision', 'real')"
        )
        assert cursor.fetchall() == []


def test_ids_beyond_31_bits_are_at_home() -> None:
    owner = 2**40
    post(move(OUTSIDE, cash(owner), 2**50))
    assert balance(owner) == 2**50


def test_posted_at_is_exact_to_the_microsecond() -> None:
    post(move(OUTSIDE, cash(7), 1))
    stored = models.Transfer.objects.get(sequence=1).at
    assert market_clock.to_micros(stored) == AT


def test_random_batches_end_as_a_slow_and_obvious_ledger_says() -> None:
    random = Random(20261201)
    books: dict[tuple[int, int], int] = {}
    accounts = [cash(owner) for owner in range(1, 6)] + [(2, Kind.ESCROW), OUTSIDE, FEES]
    for owner in range(1, 6):
        post(move(OUTSIDE, cash(owner), 100))
        books[cash(owner)] = 100
        books[OUTSIDE] = books.get(OUTSIDE, 0) - 100
    refused = 0
    for _ in range(150):
        batch = [
            move(*random.sample(accounts, 2), random.randint(1, 60))
            for _ in range(random.randint(1, 8))
        ]
        after = dict(books)
        is_sound = True
        for each in batch:
            debit = (each.debit_owner, each.debit_kind)
            credit = (each.credit_owner, each.credit_kind)
            after[debit] = after.get(debit, 0) - each.amount
            after[credit] = after.get(credit, 0) + each.amount
            is_sound = is_sound and (after[debit] >= 0 or debit == OUTSIDE)
        if is_sound:
            post(*batch)
            books = after
        else:
            refused += 1
            with pytest.raises(posting.PostingRefused):
                post(*batch)
    assert 20 < refused < 130
    assert {(row.owner, row.kind): row.credits - row.debits for row in
            models.Account.objects.all()} == books  # fmt: skip
    assert sum(books.values()) == 0


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_stand_in_line_and_leave_no_gap() -> None:
    def write(first: int) -> None:
        try:
            for number in range(20):
                # Opposite orders of the same accounts: locks are taken in one order all the same.
                pair = (cash(1), cash(2)) if first else (cash(2), cash(1))
                post(move(*pair, 1), move(*reversed(pair), 1, cause=str(number)))
        finally:
            connection.close()

    post(move(OUTSIDE, cash(1), 100), move(OUTSIDE, cash(2), 100))
    threads = [Thread(target=write, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [balance(1), balance(2)] == [100, 100]
    sequences = models.Transfer.objects.order_by("sequence").values_list("sequence", flat=True)
    assert list(sequences) == list(range(1, 163))


@pytest.mark.django_db(transaction=True)
def test_of_two_writers_that_believe_to_be_the_one_the_second_is_stopped() -> None:
    outcomes: list[str] = []

    def write() -> None:
        try:
            post(move(OUTSIDE, cash(1), 5), expected=0)
            outcomes.append("posted")
        except posting.ChainMoved:
            outcomes.append("moved")
        finally:
            connection.close()

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["moved", "moved", "moved", "posted"]
    assert balance(1) == 5


@pytest.mark.django_db(transaction=True)
def test_an_account_that_is_posted_to_does_not_block_rows_about_its_owner() -> None:
    """`FOR UPDATE` would (FAULTS C32)."""
    post(move(OUTSIDE, cash(1), 5))
    at = market_clock.to_datetime(AT)

    def insert() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '2s'")
                models.MarginAccount.objects.create(organization_id=1, updated_at=at)
                cursor.execute("SELECT 1 FROM settlement_account WHERE id = 65 FOR KEY SHARE")
        finally:
            connection.close()

    with transaction.atomic(), connection.cursor() as cursor:
        head = posting.lock_chain(cursor, "cash")
        operations.post_cash(cursor, [move(OUTSIDE, cash(1), 5)], at=AT, expected_sequence=head)
        thread = Thread(target=insert)
        thread.start()
        thread.join()
    assert models.MarginAccount.objects.count() == 1


def test_the_applications_role_works_on_every_table_but_the_ledgers() -> None:
    ledger_tables = {
        f"settlement_{name}"
        for name in (
            "account", "transfer", "transferid", "hold", "holdresolution", "chainlink",
            "chainhead",
        )
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent IN"
            " ('settlement_transfer'::regclass, 'settlement_chainlink'::regclass)"
        )
        ledger_tables |= {row[0] for row in cursor.fetchall()}
        cursor.execute(
            """
            SELECT tablename,
                   array(SELECT verb FROM unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE',
                                                       'TRUNCATE', 'TRIGGER']) AS verb
                         WHERE has_table_privilege('baseload_app', 'public.' || tablename, verb))
            FROM pg_tables WHERE schemaname = 'public'
            """
        )
        rights = {table: set(verbs) for table, verbs in cursor.fetchall()}
        cursor.execute(
            "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
            " AND NOT has_sequence_privilege('baseload_app', 'public.' || sequencename, 'USAGE')"
        )
        assert cursor.fetchall() == [("settlement_capacity_account",)]
    assert {table: verbs for table, verbs in rights.items() if verbs == {"SELECT"}}.keys() == (
        ledger_tables
    )
    others = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    for table in rights.keys() - ledger_tables - {"settlement_seal"}:
        assert rights[table] == others, table
    assert rights["settlement_seal"] == {"SELECT", "INSERT"}


def test_the_law_can_be_taken_back_and_given_again() -> None:
    with connection.schema_editor(atomic=False) as editor:
        executor = MigrationExecutor(connection)
        law = executor.loader.get_migration("settlement", "0002_law")
        state = executor.loader.project_state(("settlement", "0002_law"))
        with transaction.atomic():
            for operation in reversed(law.operations):
                operation.database_backwards("settlement", editor, state, state)
            for operation in law.operations:
                operation.database_forwards("settlement", editor, state, state)
    assert post(move(OUTSIDE, cash(7), 500)) == 1
