"""What must be true of the clearing house, found out from the rows alone.

Written apart from everything that writes them: it shares no function with posting, delivery or
margin, computes hashes in Python where the database computed them in SQL, and spells the rules'
numbers out again. A checker that shares code with what it checks finds nothing (PITFALLS).

Every check says how much it looked at and what was wrong. With `since`, checks that would read all
history look only at what is younger; totals and heads are always checked. Checks that need the rows
of more than one app are in `marketplace.audit`.
"""

from datetime import datetime

from settlement.audit import books, delivery
from settlement.audit.findings import Finding


def run(*, since: datetime | None = None) -> list[Finding]:
    """Carry out every check of settlement's own rows."""
    return [check(since) for check in (*books.CHECKS, *delivery.CHECKS)]
