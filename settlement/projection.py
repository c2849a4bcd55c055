"""What the machine says of money, positions and delivery, as settlement's rows.

The engine calls this inside the transaction of its batch; nobody else writes these tables. Rows
that may change are replaced whole by what the machine shows of them after the batch, facts are
inserted once. Amounts are micro-USD, prices ticks, tokens mNTU.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from marketplace import clock, rowset

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
        "orders_sequence": "bigint",
        "fills_sequence": "bigint",
        "account_sequence": "bigint",
        "sequence": "bigint",
        "updated_at": "timestamptz",
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
        "updated_at": "timestamptz",
    },
    key=["organization_id", "symbol"],
)
_MARKS = rowset.Table(
    "settlement_mark",
    {"symbol": "text", "price_ticks": "bigint", "method": "text", "at": "timestamptz"},
    key=["symbol"],
)
_INDEX_VALUES = rowset.Table(
    "settlement_indexvalue",
    {
        "grade": "text",
        "hour_starts_at": "timestamptz",
        "price_ticks": "bigint",
        "method": "text",
        "inputs": "bytea",
        "digest": "bytea",
        "at": "timestamptz",
        "sequence": "bigint",
    },
    key=["grade", "hour_starts_at"],
)
_OBLIGATIONS = rowset.Table(
    "settlement_obligation",
    {
        "id": "bigint",
        "organization_id": "bigint",
        "grade": "text",
        "starts_at": "timestamptz",
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
        "starts_at": "timestamptz",
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
        "starts_at": "timestamptz",
        "lots": "bigint",
        "price_ticks": "bigint",
    },
    key=["id"],
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
        "at": "timestamptz",
    },
    key=["allocation_id", "interval"],
)


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


def write_outcomes(cursor: psycopg.Cursor[Any], outcomes: Sequence[tuple[Any, str, str]]) -> None:
    """Mark instructions with (event, state, reason), all of which must be pending.

    :raises OutcomeLost: when one is not.
    """
    if not outcomes:
        return
    cursor.execute(
        """
        UPDATE settlement_instruction AS i
        SET state = v.state, reason = v.reason, sequence = v.sequence, applied_at = v.at
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[])
            AS v(id, state, reason, sequence, at)
        WHERE i.id = v.id AND i.state = 'PENDING'
        """,
        [
            [outcome.id for outcome, _, _ in outcomes],
            [state for _, state, _ in outcomes],
            [reason for _, _, reason in outcomes],
            [outcome.sequence for outcome, _, _ in outcomes],
            [clock.to_datetime(outcome.at) for outcome, _, _ in outcomes],
        ],
    )
    if cursor.rowcount != len(outcomes):
        raise OutcomeLost(f"{len(outcomes) - cursor.rowcount} instructions were not pending")


def write_accounts(
    cursor: psycopg.Cursor[Any], accounts: Sequence[Any], *, sequence: int, at: int
) -> None:
    """Replace what is known of accounts (`exchange.machine.views.AccountView`)."""
    moment = clock.to_datetime(at)
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
            view.orders_sequence,
            view.fills_sequence,
            view.account_sequence,
            sequence,
            moment,
        )
        for view in accounts
    ]
    _MARGIN_ACCOUNTS.upsert(cursor, rows)


def write_positions(cursor: psycopg.Cursor[Any], positions: Sequence[Any], *, at: int) -> None:
    """Replace positions (`PositionView`); one that is flat again stays, with zero lots."""
    moment = clock.to_datetime(at)
    _POSITIONS.upsert(
        cursor,
        [(view.account, view.symbol, view.net_lots, view.cost_ticks, moment) for view in positions],
    )


def write_marks(cursor: psycopg.Cursor[Any], marks: Sequence[Any]) -> None:
    """Store marks (`exchange.events.Marked`)."""
    _MARKS.insert(
        cursor,
        [(mark.instrument, mark.price, mark.method, clock.to_datetime(mark.at)) for mark in marks],
    )


def write_index_values(cursor: psycopg.Cursor[Any], values: Sequence[Any]) -> None:
    """Store published values of the index (`exchange.events.IndexPublished`)."""
    _INDEX_VALUES.insert(
        cursor,
        [
            (
                value.grade,
                clock.to_datetime(value.hour_starts_at),
                value.price,
                value.method,
                value.inputs,
                value.digest,
                clock.to_datetime(value.at),
                value.sequence,
            )
            for value in values
        ],
    )


def write_delivery(
    cursor: psycopg.Cursor[Any],
    *,
    obligations: Sequence[Any],
    entitlements: Sequence[Any],
    allocations: Sequence[Any],
) -> None:
    """Store what a gate closure made of positions (the events of `exchange.events`)."""
    _OBLIGATIONS.insert(
        cursor,
        [
            (
                event.obligation,
                event.account,
                event.grade,
                clock.to_datetime(event.hour_starts_at),
                event.lots,
                event.failed_lots,
                event.price,
            )
            for event in obligations
        ],
    )
    _ENTITLEMENTS.insert(
        cursor,
        [
            (
                event.entitlement,
                event.account,
                event.grade,
                clock.to_datetime(event.hour_starts_at),
                event.lots,
                event.price,
                event.escrow,
                0,
            )
            for event in entitlements
        ],
    )
    _ALLOCATIONS.insert(
        cursor,
        [
            (
                event.allocation,
                event.entitlement,
                event.obligation,
                event.holder,
                event.seller,
                event.cluster,
                event.grade,
                clock.to_datetime(event.hour_starts_at),
                event.lots,
                event.price,
            )
            for event in allocations
        ],
    )


def write_intervals(cursor: psycopg.Cursor[Any], settled: Sequence[Any]) -> None:
    """Store settled intervals (`exchange.events.IntervalSettled`)."""
    _INTERVALS.insert(
        cursor,
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
                clock.to_datetime(event.at),
            )
            for event in settled
        ],
    )
