"""Rows of what happens when margin lacks, made of the events of a batch."""

from collections.abc import Sequence
from typing import Any

from exchange import default_events, events
from marketplace import rowset
from settlement import default_projection

_KINDS: dict[type[Any], str] = {
    default_events.MarginCalled: "CALLED",
    default_events.MarginCallMet: "MET",
    default_events.LiquidationStarted: "LIQUIDATED",
    default_events.LiquidationStopped: "STOPPED",
    default_events.Defaulted: "DEFAULTED",
    default_events.HaircutTaken: "HAIRCUT",
    default_events.LayerSet: "LAYER_SET",
}


def write(writer: rowset.Writer, happened: Sequence[events.Event], facts: events.Facts) -> None:
    """Write the rows of a batch; `facts` are its events by type."""
    if not _KINDS.keys().isdisjoint(facts):
        steps = [event for event in happened if type(event) in _KINDS]
        default_projection.write_steps(writer, [_step(event) for event in steps])
    default_projection.write_draws(writer, facts.get(default_events.Drawn, ()))
    default_projection.write_offers(
        writer,
        facts.get(default_events.TransferAnnounced, ()),
        facts.get(default_events.TransferEnded, ()),
        facts.get(default_events.TransferBidChanged, ()),
    )


def _step(event: Any) -> rowset.Row:
    kind = _KINDS[type(event)]
    match event:
        case default_events.LayerSet():
            return 0, kind, event.limit, "", None, event.at
        case default_events.MarginCallMet():
            return event.account, kind, 0, "", None, event.at
        case default_events.MarginCalled():
            return event.account, kind, event.amount, "", event.due_at, event.at
        case default_events.LiquidationStarted():
            return event.account, kind, event.amount, "", None, event.at
        case default_events.LiquidationStopped():
            return event.account, kind, event.amount, event.reason, event.next_at, event.at
    return event.account, kind, event.amount, event.cause, None, event.at
