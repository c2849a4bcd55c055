"""What must be true of the clearing house, found out from the rows alone.

Written apart from everything that writes them: it shares no function with posting, delivery or
margin, computes hashes in Python where the database computed them in SQL, and spells the rules'
numbers out again. A checker that shares code with what it checks finds nothing (PITFALLS).

Every check says how much it looked at and what was wrong. A recent audit looks at what is younger
than an instant, and at totals and heads; it leaves out the checks that match all of one table with
all of another. Checks that need the rows of more than one app are in `marketplace.audit`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection, transaction

from settlement.audit import books, delivery, runs
from settlement.audit.findings import Finding


def run(*, since: datetime | None = None) -> list[Finding]:
    """Carry out the checks of settlement's own rows, all of them or the recent ones."""
    checks = [*books.CHECKS, *delivery.CHECKS]
    if since is None:
        checks += [*books.FULL_CHECKS, *delivery.FULL_CHECKS, *runs.FULL_CHECKS]
    return [check(since) for check in checks]


def sealed(since: datetime) -> list[Finding]:
    """Look whether chains and seals since an instant verify: what settling a day again needs."""
    return [check(since) for check in books.SEALED]


@contextmanager
def one_moment() -> Iterator[None]:
    """Let all checks inside see one moment, while the engine and the meter go on."""
    assert not connection.in_atomic_block, "a moment is a transaction of its own"
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield
