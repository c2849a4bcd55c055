"""What the machine says of instruments and clusters, as rows of the catalog.

The engine calls this inside the transaction of its batch; nobody else writes these columns.
"""

from collections.abc import Sequence
from typing import Any

from marketplace import contract, rowset

_INSTRUMENTS = rowset.Table(
    "marketplace_instrument",
    {
        "id": "bigint",
        "symbol": "text",
        "grade_id": "text",
        "product": "text",
        "service_class": "text",
        "strike_ticks": "bigint",
        "pay_ticks": "bigint",
        "starts_at": rowset.INSTANT,
        "ends_at": rowset.INSTANT,
        "trading_ends_at": rowset.INSTANT,
        "state": "text",
        "reference_price_ticks": "bigint",
        "band_low_ticks": "bigint",
        "band_high_ticks": "bigint",
        "last_price_ticks": "bigint",
        "mark_price_ticks": "bigint",
        "volume_lots": "bigint",
        "open_interest_lots": "bigint",
        "book_sequence": "bigint",
        "trades_sequence": "bigint",
        "ticker_sequence": "bigint",
        "auction_sequence": "bigint",
        "settled_at": rowset.INSTANT,
        "listed_at": rowset.INSTANT,
    },
    key=["id"],
)

_CHANGES = rowset.Table(
    "marketplace_instrument",
    {
        "id": "bigint",
        "state": "text",
        "reference_price_ticks": "bigint",
        "band_low_ticks": "bigint",
        "band_high_ticks": "bigint",
        "last_price_ticks": "bigint",
        "mark_price_ticks": "bigint",
        "volume_lots": "bigint",
        "open_interest_lots": "bigint",
        "book_sequence": "bigint",
        "trades_sequence": "bigint",
        "ticker_sequence": "bigint",
        "auction_sequence": "bigint",
        "settled_at": rowset.INSTANT,
    },
    key=["id"],
)

_COMMITMENTS = rowset.Table(
    "marketplace_purchasecommitment",
    {
        "id": "bigint",
        "state": "text",
        "filled_lots": "bigint",
        "average_price_ticks": "bigint",
        "evened_micros": "bigint",
        "order": "bigint",
        "reason": "text",
        "ended_at": rowset.INSTANT,
    },
    key=["id"],
)

_CERTIFY = b"""
    UPDATE marketplace_cluster AS c
    SET certified_lots = v.lots, certified_until = v.until,
        state = CASE WHEN c.state IN ('REGISTERED', 'CERTIFIED')
                     THEN CASE WHEN v.lots > 0 THEN 'CERTIFIED' ELSE 'REGISTERED' END
                     ELSE c.state END
    FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[]) AS v(id, lots, until)
    WHERE c.id = v.id
"""


def write_instruments(
    writer: rowset.Writer,
    instruments: Sequence[Any],
    *,
    listed_at: dict[str, int],
    at: int,
) -> None:
    """Store instruments as they stand (`exchange.machine.views.InstrumentView`).

    `listed_at` has the instants of those that are new.
    """
    new, known = [], []
    for view in instruments:
        changing = (
            view.state,
            view.reference_price,
            view.band_low,
            view.band_high,
            view.last or None,
            view.mark or None,
            view.volume,
            view.open_interest,
            view.book_sequence,
            view.trades_sequence,
            view.ticker_sequence,
            view.auction_sequence,
            at if view.state == contract.InstrumentState.SETTLED else None,
        )
        # What the symbol says and the instant of listing are written once.
        if view.symbol in listed_at:
            fixed = _fixed(view)
            new.append((view.id, *fixed, *changing, listed_at[view.symbol]))
        else:
            known.append((view.id, *changing))
    _INSTRUMENTS.insert(writer, new)
    _CHANGES.update(writer, known)


def _fixed(view: Any) -> tuple[Any, ...]:
    """Return what the symbol of an instrument says, and what it pays if it is shortage cover."""
    terms = contract.parse_symbol(view.symbol)
    assert terms is not None, "the machine lists only symbols of the contract"
    return (
        view.symbol,
        terms.grade,
        terms.product.value,
        terms.service_class,
        terms.strike or None,
        view.pay_price or None,
        terms.starts_at,
        terms.ends_at,
        terms.trading_ends_at,
    )


def write_certifications(writer: rowset.Writer, changes: Sequence[Any]) -> None:
    """Store what clusters may sell; of several changes to one cluster the last counts."""
    last = {change.cluster: change for change in changes}
    if last:
        writer.execute(
            _CERTIFY,
            [
                rowset.array_text("bigint", list(last)),
                rowset.array_text("bigint", [change.lots for change in last.values()]),
                rowset.array_text(rowset.INSTANT, [change.valid_until for change in last.values()]),
            ],
        )


def write_commitments(writer: rowset.Writer, changes: Sequence[Any]) -> None:
    """Store what became of commitments to pooled purchases; the last change of each counts."""
    last = {change.commitment: change for change in changes}
    _COMMITMENTS.update(
        writer,
        [
            (
                change.commitment,
                change.state,
                change.lots,
                change.price or None,
                change.evened,
                change.order or None,
                change.reason,
                None if change.state == "COMMITTED" else change.at,
            )
            for change in last.values()
        ],
    )
