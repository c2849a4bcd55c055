"""What the machine says of margin calls, defaults and offers, as rows.

The engine calls this inside the transaction of its batch; nobody else writes these tables but the
bids, which whoever bids begins.
"""

from collections.abc import Sequence
from typing import Any

from marketplace import rowset

_STEPS = rowset.Table(
    "settlement_defaultevent",
    {
        "organization_id": "bigint",
        "kind": "text",
        "amount_micros": "bigint",
        "cause": "text",
        "next_at": rowset.INSTANT,
        "at": rowset.INSTANT,
    },
    key=["organization_id"],
)
_DRAWS = rowset.Table(
    "settlement_waterfalldraw",
    {
        "organization_id": "bigint",
        "amount_micros": "bigint",
        "own_micros": "bigint",
        "receivables_micros": "bigint",
        "share_micros": "bigint",
        "layer_micros": "bigint",
        "others_micros": "bigint",
        "unpaid_micros": "bigint",
        "cause": "text",
        "at": rowset.INSTANT,
    },
    key=["organization_id"],
)
_OFFERS = rowset.Table(
    "settlement_transferoffer",
    {
        "id": "bigint",
        "organization_id": "bigint",
        "symbol": "text",
        "lots": "bigint",
        "price_max_ticks": "bigint",
        "announced_at": rowset.INSTANT,
        "due_at": rowset.INSTANT,
        "moved_lots": "bigint",
        "outcome": "text",
    },
    key=["id"],
)
_ENDS = rowset.Table(
    "settlement_transferoffer",
    {"id": "bigint", "moved_lots": "bigint", "outcome": "text", "ended_at": rowset.INSTANT},
    key=["id"],
)
_BIDS = rowset.Table(
    "settlement_transferbid",
    {
        "id": "bigint",
        "state": "text",
        "reason": "text",
        "moved_lots": "bigint",
        "mark_ticks": "bigint",
        "received_micros": "bigint",
        "ended_at": rowset.INSTANT,
    },
    key=["id"],
)


def write_steps(writer: rowset.Writer, rows: Sequence[rowset.Row]) -> None:
    """Store (organization, kind, amount, cause, next at, at) of steps, in their order."""
    _STEPS.insert(writer, rows)


def write_draws(writer: rowset.Writer, draws: Sequence[Any]) -> None:
    """Store who bore what (`exchange.default_events.Drawn`)."""
    _DRAWS.insert(
        writer,
        [
            (
                each.account,
                each.amount,
                each.own,
                each.receivables,
                each.share,
                each.layer,
                each.others,
                each.unpaid,
                each.cause,
                each.at,
            )
            for each in draws
        ],
    )


def write_offers(
    writer: rowset.Writer, announced: Sequence[Any], ended: Sequence[Any], bids: Sequence[Any]
) -> None:
    """Store what was offered, what became of it, and of bids; a bid's last change counts."""
    _OFFERS.insert(
        writer,
        [
            (
                each.transfer,
                each.account,
                each.instrument,
                each.lots,
                each.price_max,
                each.at,
                each.due_at,
                0,
                "",
            )
            for each in announced
        ],
    )
    _ENDS.update(writer, [(each.transfer, each.moved, each.outcome, each.at) for each in ended])
    last = {each.bid: each for each in bids}
    _BIDS.update(
        writer,
        [
            (
                each.bid,
                each.state,
                each.reason,
                each.moved,
                each.mark or None,
                each.received,
                None if each.state == "PLACED" else each.at,
            )
            for each in last.values()
        ],
    )
