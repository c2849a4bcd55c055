"""The rows of cover that was settled, written by the engine in its batch's transaction."""

from collections.abc import Sequence
from typing import Any

from marketplace import rowset

_COVERS = rowset.Table(
    "settlement_coversettlement",
    {
        "allocation_id": "bigint",
        "interval": "smallint",
        "offer": "bigint",
        "cluster": "bigint",
        "seller": "bigint",
        "price_ticks": "bigint",
        "mntu": "bigint",
        "released_micros": "bigint",
        "excess_micros": "bigint",
        "excess_due_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["allocation_id", "interval", "offer"],
)


def write(writer: rowset.Writer, settled: Sequence[Any]) -> None:
    """Store what cover was paid (`exchange.events.CoverSettled`)."""
    _COVERS.insert(
        writer,
        [
            (
                event.allocation,
                event.interval,
                event.offer,
                event.cluster,
                event.seller,
                event.price,
                event.mntu,
                event.released,
                event.excess,
                event.excess_due,
                event.at,
            )
            for event in settled
        ],
    )
