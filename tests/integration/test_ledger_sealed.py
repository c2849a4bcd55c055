"""What the seal job does with a ledger that was written to behind its back (FAULTS L128)."""

from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

from marketplace import clock as market_clock
from marketplace import contract
from settlement import jobs, kinds, models, operations, runs, tasks
from tests.integration.test_ledger import OUTSIDE, cash, move

pytestmark = pytest.mark.django_db(transaction=True)

GRADE = "LLAMA70B"


def post(at: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        operations.post_cash(
            cursor,
            [move(OUTSIDE, cash(7), 500)],
            at=at,
            expected_sequence=tasks.posting.lock_chain(cursor, "cash"),
        )


def flip_one_byte() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE settlement_transfer SET cause = 'tesu' WHERE sequence = 1")
        assert cursor.rowcount == 1


def seal(at: int) -> None:
    """Do the seal job that is due at an instant."""
    kinds.load()
    jobs.enqueue(kind="seal", slot=str(at), due_at=at)
    jobs.run([claim for claim in jobs.claim(kinds.NORMAL, at=at) if claim.kind == "seal"])


def test_what_verifies_is_signed_and_what_was_changed_is_not(clock) -> None:
    post(clock.at)
    seal(clock.at)
    assert models.Seal.objects.count() == 1
    clock.advance(seconds=300)
    post(clock.at)
    flip_one_byte()
    seal(clock.at)
    assert models.Seal.objects.count() == 1
    parked = models.Job.objects.get(kind="seal", state="PARKED")
    assert "the ledger's hash chains verify: VIOLATION (1 of 2" in parked.error


def test_a_day_with_a_changed_posting_is_not_settled(clock) -> None:
    post(clock.at)
    seal(clock.at)
    day = contract.day_start(clock.at)
    slot = f"{GRADE}/{market_clock.to_datetime(day):%Y%m%d}/{runs.FINAL}"
    flip_one_byte()
    with pytest.raises(runs.LedgerBroken):
        runs.settle(slot=slot, at=clock.at)
    assert models.SettlementRun.objects.count() == 0


def test_after_a_downtime_everything_since_the_last_seal_is_verified(clock) -> None:
    post(clock.at)
    clock.advance(seconds=7 * 3600)
    post(clock.at)
    flip_one_byte()
    seal(clock.at)
    assert models.Seal.objects.count() == 0
    assert models.Job.objects.get(kind="seal").state == "PARKED"


def test_partitions_are_made_a_year_ahead_by_a_job() -> None:
    at = market_clock.to_micros(datetime(2041, 1, 15, tzinfo=UTC))  # where no other test has been
    tasks.make_partitions("", at)
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('settlement_transfer_204202') IS NOT NULL")
        assert cursor.fetchone() == (True,)
        cursor.execute("SELECT to_regclass('settlement_transfer_204203') IS NOT NULL")
        assert cursor.fetchone() == (False,)
