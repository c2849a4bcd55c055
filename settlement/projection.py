"""What the machine says of money, positions and delivery, as settlement's rows.

The engine calls this inside the transaction of its batch; nobody else writes these tables. Rows
that may change are replaced whole by what the machine shows of them after the batch, facts are
inserted once. Amounts are micro-USD, prices ticks, tokens mNTU.
"""

import json
from collections.abc import Sequence
from typing import Any

import psycopg

from marketplace import contract, rowset

PENDING_INSTRUCTIONS_MAX = 1_000
"""How many instructions one batch takes."""

_MARGIN_ACCOUNTS = rowset.Table(
    "settlement_marginaccount",
    {
        "organization_id": "bigint",
        "cash_micros": "bigint",
        "available_micros": "bigint",
        "order_margin_micros": "bigint",
        "initial_margin_micros": "bigint",
        "maintenance_margin_micros": "bigint",
        "withdrawable_micros": "bigint",
        "escrow_micros": "bigint",
        "debt_micros": "bigint",
        "fund_micros": "bigint",
        "locked_micros": "bigint",
        "margin_call_due_at": rowset.INSTANT,
        "uncovered": "jsonb",
        "orders_sequence": "bigint",
        "fills_sequence": "bigint",
        "account_sequence": "bigint",
        "sequence": "bigint",
        "updated_at": rowset.INSTANT,
    },
    key=["organization_id"],
)
_POSITIONS = rowset.Table(
    "settlement_position",
    {
        "organization_id": "bigint",
        "symbol": "text",
        "net_lots": "bigint",
        "cost_ticks": "bigint",
        "received_ticks": "bigint",
        "initial_margin_micros": "bigint",
        "updated_at": rowset.INSTANT,
    },
    key=["organization_id", "symbol"],
)
_MARKS = rowset.Table(
    "settlement_mark",
    {"symbol": "text", "price_ticks": "bigint", "method": "text", "at": rowset.INSTANT},
    key=["symbol"],
)
_INDEX_VALUES = rowset.Table(
    "settlement_indexvalue",
    {
        "grade": "text",
        "hour_starts_at": rowset.INSTANT,
        "price_ticks": "bigint",
        "method": "text",
        "inputs": "bytea",
        "digest": "bytea",
        "at": rowset.INSTANT,
        "sequence": "bigint",
        "version": "bigint",
    },
    key=["grade", "hour_starts_at", "version"],
)
_OBLIGATIONS = rowset.Table(
    "settlement_obligation",
    {
        "id": "bigint",
        "organization_id": "bigint",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "lots": "bigint",
        "failed_lots": "bigint",
        "price_ticks": "bigint",
    },
    key=["id"],
)
_ENTITLEMENTS = rowset.Table(
    "settlement_entitlement",
    {
        "id": "bigint",
        "organization_id": "bigint",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "lots": "bigint",
        "price_ticks": "bigint",
        "escrow_micros": "bigint",
        "delivered_mntu": "bigint",
    },
    key=["id"],
)
_ALLOCATIONS = rowset.Table(
    "settlement_allocation",
    {
        "id": "bigint",
        "entitlement_id": "bigint",
        "obligation_id": "bigint",
        "holder": "bigint",
        "seller": "bigint",
        "cluster": "bigint",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "lots": "bigint",
        "price_ticks": "bigint",
        "p0_lots": "bigint",
        "p1_lots": "bigint",
        "package": "bigint",
    },
    key=["id"],
)
_SLOTS = rowset.Table(
    "settlement_slotsettlement",
    {
        "organization_id": "bigint",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "service_class": "text",
        "lots": "bigint",
        "failed_lots": "bigint",
        "backed_lots": "bigint",
        "price_ticks": "bigint",
        "amount_micros": "bigint",
        "damages_micros": "bigint",
        "damages_due_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["organization_id", "starts_at", "grade", "service_class"],
)
_INSURANCE = rowset.Table(
    "settlement_insurancepayment",
    {
        "organization_id": "bigint",
        "symbol": "text",
        "hour_starts_at": rowset.INSTANT,
        "interval": "smallint",
        "lots": "bigint",
        "mntu": "bigint",
        "price_ticks": "bigint",
        "amount_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["organization_id", "hour_starts_at", "interval", "symbol"],
)
_PACKAGES = rowset.Table(
    "settlement_package",
    {
        "id": "bigint",
        "instruction": "text",
        "listing": "bigint",
        "parent": "bigint",
        "seller": "bigint",
        "holder": "bigint",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "ends_at": rowset.INSTANT,
        "schedule": "jsonb",
        "price_ticks": "bigint",
        "list_price_ticks": "bigint",
        "escrow_micros": "bigint",
        "margin_micros": "bigint",
        "bought_at": rowset.INSTANT,
        "updated_at": rowset.INSTANT,
    },
    key=["id"],
)
_RESALES = rowset.Table(
    "settlement_packageresale",
    {
        "package": "bigint",
        "parent": "bigint",
        "holder": "bigint",
        "buyer": "bigint",
        "starts_at": rowset.INSTANT,
        "ends_at": rowset.INSTANT,
        "lot_hours": "bigint",
        "price_ticks": "bigint",
        "amount_micros": "bigint",
        "fee_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["package"],
)
_INTERVALS = rowset.Table(
    "settlement_intervalsettlement",
    {
        "allocation_id": "bigint",
        "interval": "smallint",
        "available_mntu": "bigint",
        "short_mntu": "bigint",
        "delivered_mntu": "bigint",
        "released_micros": "bigint",
        "refunded_micros": "bigint",
        "compensated_micros": "bigint",
        "compensation_due_micros": "bigint",
        "next_mark_ticks": "bigint",
        "at": rowset.INSTANT,
    },
    key=["allocation_id", "interval"],
)
_INSURED = rowset.Table(
    "settlement_insuranceposition",
    {
        "organization_id": "bigint",
        "symbol": "text",
        "grade": "text",
        "starts_at": rowset.INSTANT,
        "lots": "bigint",
        "pay_ticks": "bigint",
    },
    key=["grade", "starts_at", "symbol", "organization_id"],
)
_INSURANCE_CORRECTIONS = rowset.Table(
    "settlement_insurancecorrection",
    {
        "run": "text",
        "symbol": "text",
        "hour_starts_at": rowset.INSTANT,
        "organization_id": "bigint",
        "amount_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["organization_id", "hour_starts_at", "symbol", "run"],
)
_CORRECTIONS = rowset.Table(
    "settlement_deliverycorrection",
    {
        "run": "text",
        "allocation_id": "bigint",
        "delivery_micros": "bigint",
        "damages_micros": "bigint",
        "due_micros": "bigint",
        "at": rowset.INSTANT,
    },
    key=["run", "allocation_id"],
)

_OUTCOMES = b"""
    UPDATE settlement_instruction AS i
    SET state = v.state, reason = v.reason, sequence = v.sequence, applied_at = v.at
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[])
        AS v(id, state, reason, sequence, at)
    WHERE i.id = v.id AND i.state = 'PENDING'
"""


class OutcomeLost(Exception):
    """An instruction was applied whose row is not pending: another engine has applied it."""


def pending_instructions(cursor: psycopg.Cursor[Any]) -> list[tuple[str, bytes]]:
    """Return (id, body) of what waits for the machine, in order of arrival."""
    cursor.execute(
        "SELECT id, body FROM settlement_instruction WHERE state = 'PENDING'"
        " ORDER BY number LIMIT %s",
        [PENDING_INSTRUCTIONS_MAX],
    )
    return [(row[0], bytes(row[1])) for row in cursor.fetchall()]


def write_outcomes(writer: rowset.Writer, outcomes: Sequence[tuple[Any, str, str]]) -> None:
    """Mark instructions with (event, state, reason); all of them must be pending.

    :raises OutcomeLost: in the transaction's end, when one is not.
    """
    if not outcomes:
        return

    writer.execute(
        _OUTCOMES,
        [
            rowset.array_text("text", [event.id for event, _, _ in outcomes]),
            rowset.array_text("text", [state for _, state, _ in outcomes]),
            rowset.array_text("text", [reason for _, _, reason in outcomes]),
            rowset.array_text("bigint", [event.sequence for event, _, _ in outcomes]),
            rowset.array_text(rowset.INSTANT, [event.at for event, _, _ in outcomes]),
        ],
        rows=len(outcomes),
        otherwise=OutcomeLost("an instruction was not pending"),
    )


def write_accounts(
    writer: rowset.Writer, accounts: Sequence[Any], *, sequence: int, at: int
) -> None:
    """Replace what is known of accounts (`exchange.machine.views.AccountView`)."""
    rows = [
        (
            view.account,
            view.cash,
            view.available,
            view.order_margin,
            view.initial_margin,
            view.maintenance_margin,
            view.withdrawable,
            view.escrow,
            view.debt,
            view.fund,
            view.locked,
            view.margin_call_due or None,
            _uncovered(view),
            view.orders_sequence,
            view.fills_sequence,
            view.account_sequence,
            sequence,
            at,
        )
        for view in accounts
    ]
    _MARGIN_ACCOUNTS.upsert(writer, rows)


def write_positions(writer: rowset.Writer, positions: Sequence[Any], *, at: int) -> None:
    """Replace positions (`PositionView`); one that is flat again stays, with zero lots."""
    _POSITIONS.upsert(
        writer,
        [
            (
                view.account,
                view.symbol,
                view.net_lots,
                view.cost_ticks,
                view.received_ticks,
                view.initial_margin,
                at,
            )
            for view in positions
        ],
    )


def _uncovered(view: Any) -> str:
    """Return the lines of what nothing covers, each with the names of its numbers."""
    return json.dumps([line._asdict() for line in view.uncovered]) if view.uncovered else "[]"


def write_marks(writer: rowset.Writer, marks: Sequence[Any]) -> None:
    """Store marks (`exchange.events.Marked`)."""
    _MARKS.insert(
        writer,
        [(mark.instrument, mark.price, mark.method, mark.at) for mark in marks],
    )


def write_index_values(writer: rowset.Writer, values: Sequence[Any]) -> None:
    """Store published values of the index (`exchange.events.IndexPublished`)."""
    _INDEX_VALUES.insert(
        writer,
        [
            (
                value.grade,
                value.hour_starts_at,
                value.price,
                value.method,
                value.inputs,
                value.digest,
                value.at,
                value.sequence,
                value.version,
            )
            for value in values
        ],
    )


def write_delivery(
    writer: rowset.Writer,
    obligations: Sequence[Any],
    entitlements: Sequence[Any],
    allocations: Sequence[Any],
) -> None:
    """Store what a gate closure made of positions (the events of `exchange.events`)."""
    _OBLIGATIONS.insert(
        writer,
        [
            (
                event.obligation,
                event.account,
                event.grade,
                event.hour_starts_at,
                event.lots,
                event.failed_lots,
                event.price,
            )
            for event in obligations
        ],
    )
    _ENTITLEMENTS.insert(
        writer,
        [
            (
                event.entitlement,
                event.account,
                event.grade,
                event.hour_starts_at,
                event.lots,
                event.price,
                event.escrow,
                0,
            )
            for event in entitlements
        ],
    )
    _ALLOCATIONS.insert(
        writer,
        [
            (
                event.allocation,
                event.entitlement,
                event.obligation,
                event.holder,
                event.seller,
                event.cluster,
                event.grade,
                event.hour_starts_at,
                event.lots,
                event.price,
                event.p0_lots,
                event.p1_lots,
                event.package,
            )
            for event in allocations
        ],
    )


def write_slots(writer: rowset.Writer, slots: Sequence[Any]) -> None:
    """Store what a gate closure made of slots (`exchange.events.SlotsSettled`)."""
    _SLOTS.insert(
        writer,
        [
            (
                event.account,
                event.grade,
                event.hour_starts_at,
                event.service_class,
                event.lots,
                event.failed,
                event.backed,
                event.price,
                event.amount,
                event.damages,
                event.damages_due,
                event.at,
            )
            for event in slots
        ],
    )


def write_intervals(writer: rowset.Writer, settled: Sequence[Any]) -> None:
    """Store settled intervals (`exchange.events.IntervalSettled`)."""
    _INTERVALS.insert(
        writer,
        [
            (
                event.allocation,
                event.interval,
                event.available_mntu,
                event.short_mntu,
                event.delivered_mntu,
                event.released,
                event.refunded,
                event.compensated,
                event.compensation_due,
                event.next_mark,
                event.at,
            )
            for event in settled
        ],
    )


def write_insurance(
    writer: rowset.Writer, paid: Sequence[Any], held: Sequence[Any], corrected: Sequence[Any]
) -> None:
    """Store what options paid, who held them when trading ended, and what later runs added.

    That is `InsurancePaid`, `OptionHeld` and `InsuranceCorrected` of `exchange.events`.
    """
    _INSURANCE.insert(
        writer,
        [
            (
                event.account,
                event.instrument,
                event.hour_starts_at,
                event.interval,
                event.lots,
                event.mntu,
                event.price,
                event.amount,
                event.at,
            )
            for event in paid
        ],
    )
    terms = [contract.parse_symbol(event.instrument) for event in held]
    _INSURED.insert(
        writer,
        [
            (e.account, e.instrument, of.grade, of.starts_at, e.lots, e.pay_ticks)
            for e, of in zip(held, terms, strict=True)
            if of is not None
        ],
    )
    _INSURANCE_CORRECTIONS.insert(
        writer,
        [(e.run, e.instrument, e.hour_starts_at, e.account, e.amount, e.at) for e in corrected],
    )


def write_corrections(writer: rowset.Writer, corrected: Sequence[Any]) -> None:
    """Store what later runs added (`exchange.events.DeliveryCorrected`)."""
    _CORRECTIONS.insert(
        writer,
        [
            (
                event.run,
                event.allocation,
                event.delivery,
                event.damages,
                event.due,
                event.at,
            )
            for event in corrected
        ],
    )


def write_packages(writer: rowset.Writer, changed: Sequence[Any], resold: Sequence[Any]) -> None:
    """Replace packages by what they last were, and store resales (`exchange.package_events`)."""
    latest = {event.package: event for event in changed}
    _PACKAGES.upsert(
        writer,
        [
            (
                event.package,
                event.cause,
                event.listing,
                event.parent,
                event.seller,
                event.holder,
                event.grade,
                event.starts_at,
                event.ends_at,
                json.dumps(event.schedule),
                event.price,
                event.list_price,
                event.escrow,
                event.margin,
                event.bought_at,
                event.at,
            )
            for event in latest.values()
        ],
    )
    _RESALES.insert(
        writer,
        [
            (
                event.package,
                event.parent,
                event.holder,
                event.buyer,
                event.starts_at,
                event.ends_at,
                event.lot_hours,
                event.price,
                event.amount,
                event.fee,
                event.at,
            )
            for event in resold
        ],
    )
