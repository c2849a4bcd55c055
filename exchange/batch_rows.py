"""All that follows from a batch, as rows: in which order they are sent, and what writes which.

The ledger comes first, because it costs the database the most: it works on that while the views of
what a batch touched, and the rows of them, are still being made. Nothing here waits.
"""

from collections.abc import Sequence

from exchange import default_rows, events, passing, rows, store
from exchange.machine import views
from marketplace import projection as catalog
from marketplace import rowset
from settlement import cover_projection, posting, projection


def post(
    writer: rowset.Writer,
    happened: list[events.Event],
    facts: events.Facts,
    *,
    at: int,
    expected_sequence: int,
) -> int:
    """Send a batch's transfers to the ledger; return the cash chain's new sequence."""
    transfers: Sequence[posting.CashTransfer] = facts.get(events.Transferred, ())
    has_holds = events.Held in facts
    if has_holds:  # in the order they happened: one may free what the next one takes
        transfers = [each for each in happened if isinstance(each, events.CASH)]
    return posting.post_cash(
        writer, transfers, at=at, expected_sequence=expected_sequence, is_plain=not has_holds
    )


def write(
    writer: rowset.Writer,
    works: Sequence[passing.Work],
    happened: list[events.Event],
    facts: events.Facts,
    touched: views.Touched,
    batch: store.Batch,
) -> None:
    """Write every other table that follows from a batch."""
    rows.write_orders(writer, touched.orders, facts, happened)
    rows.write_trades(writer, facts.get(events.Traded, ()))
    rows.write_auctions(writer, facts.get(events.CallOpened, ()), facts.get(events.Uncrossed, ()))
    projection.write_accounts(writer, touched.accounts, sequence=batch.sequence, at=batch.at)
    projection.write_positions(writer, touched.positions, at=batch.at)
    catalog.write_instruments(
        writer,
        touched.instruments,
        listed_at={event.symbol: event.at for event in facts.get(events.InstrumentListed, ())},
        at=batch.at,
    )
    catalog.write_commitments(writer, facts.get(events.CommitmentChanged, ()))
    catalog.write_certifications(writer, facts.get(events.CertificationChanged, ()))
    projection.write_marks(writer, facts.get(events.Marked, ()))
    projection.write_index_values(writer, facts.get(events.IndexPublished, ()))
    gate = (events.ObligationIncurred, events.EntitlementGranted, events.Allocated)
    projection.write_delivery(writer, *(facts.get(each, ()) for each in gate))
    projection.write_slots(writer, facts.get(events.SlotsSettled, ()))
    projection.write_intervals(writer, facts.get(events.IntervalSettled, ()))
    cover_projection.write(writer, facts.get(events.CoverSettled, ()))
    projection.write_insurance(writer, *(facts.get(kind, ()) for kind in events.INSURANCE))
    projection.write_corrections(writer, facts.get(events.DeliveryCorrected, ()))
    projection.write_packages(writer, *(facts.get(each, ()) for each in events.PACKAGES))
    default_rows.write(writer, happened, facts)
    projection.write_outcomes(writer, passing.outcomes(works, facts))
