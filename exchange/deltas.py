"""What happened to a book, again: the deltas that were published, for whoever missed some.

The engine stores each delta in the transaction of its batch, as the bytes that it publishes after
the commit. A delta stands for the book's changes `(previous_sequence, sequence]`, and a reader who
misses the changes from one sequence to another is given every delta that holds any of them. They
are kept until an instrument has been settled for `KEPT_AFTER_SETTLEMENT`; what is older is told
apart from what never was.
"""

from datetime import datetime, timedelta
from itertools import pairwise

from django.db import connection

from exchange import models
from marketplace import errors
from marketplace.models import Instrument

KEPT_AFTER_SETTLEMENT = timedelta(hours=24)
RANGE_MAX = 500
"""How many changes of a book one range may span."""


class Gone(errors.Refusal):
    """What was asked for is not kept any more."""

    code, status, title = "gone", 410, "Not kept any more"


def since(*, symbol: str, first: int, last: int | None, limit: int) -> list[models.BookDelta]:
    """Return up to `limit` deltas, oldest first, that hold changes from `first` to `last`.

    :raises NotFound: when there is no such instrument.
    :raises Gone: when the first of them are not kept any more.
    """
    now_at = _sequence_of(symbol)
    found = models.BookDelta.objects.filter(symbol=symbol, sequence__gte=first)
    if last is not None:
        found = found.filter(previous_sequence__lt=last)
    rows = list(found.order_by("sequence")[:limit])
    if first <= now_at and (not rows or rows[0].previous_sequence >= first):
        raise Gone("the changes of this book are not kept any more")
    return rows


def between(*, symbol: str, first: int, last: int) -> list[models.BookDelta]:
    """Return all deltas, oldest first, that hold changes from `first` to `last`, none missing.

    :raises NotFound: when there is no such instrument, or its book has not come that far.
    :raises Gone: when they are not kept any more.
    """
    assert 1 <= first <= last < first + RANGE_MAX, "a range has its bounds"
    rows = since(symbol=symbol, first=first, last=last, limit=RANGE_MAX)
    if not rows or rows[-1].sequence < last:
        raise errors.NotFound(f"the book has not come to {last} yet")
    if any(a.sequence != b.previous_sequence for a, b in pairwise(rows)):
        raise Gone("some of these changes are not kept")
    return rows


def purge(now: datetime) -> int:
    """Remove the deltas of instruments that were settled long enough ago; return how many."""
    with connection.cursor() as cursor:
        # The first symbol, then each next one: as many steps as there are books, not deltas.
        cursor.execute(
            """
            WITH RECURSIVE kept (symbol) AS (
                (SELECT symbol FROM exchange_bookdelta ORDER BY symbol LIMIT 1)
                UNION ALL
                SELECT (SELECT symbol FROM exchange_bookdelta
                        WHERE symbol > kept.symbol ORDER BY symbol LIMIT 1)
                FROM kept WHERE kept.symbol IS NOT NULL
            )
            DELETE FROM exchange_bookdelta WHERE symbol IN (
                SELECT symbol FROM kept JOIN marketplace_instrument USING (symbol)
                WHERE settled_at <= %s
            )
            """,
            [now - KEPT_AFTER_SETTLEMENT],
        )
        return int(cursor.rowcount)


def _sequence_of(symbol: str) -> int:
    """Return how far the book of an instrument has come.

    :raises NotFound: when there is no such instrument.
    """
    found = Instrument.objects.filter(symbol=symbol).values_list("book_sequence", flat=True).first()
    if found is None:
        raise errors.NotFound(f"there is no instrument {symbol[:40]}")
    return found
