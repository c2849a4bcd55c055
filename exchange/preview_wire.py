"""What an order or strip would do, as callers see it: fills, margin, impact, a cap's worst case."""

from collections.abc import Sequence

import msgspec

from exchange import events, wire
from marketplace import contract
from marketplace import wire as texts
from settlement import insurance


class PreviewFill(msgspec.Struct, kw_only=True):
    """What an order would trade at one price."""

    price: str
    quantity: int


class Impact(msgspec.Struct, kw_only=True):
    """Best price of the other side before and after, null where it is empty; what it moves by."""

    best_before: str | None
    best_after: str | None
    price_move: str | None


class WorstCase(msgspec.Struct, kw_only=True):
    """What the tokens that a price cap insures cost its holder at most, bought at the index.

    `price` is for a million of them, premium and strike; `total` for all, with the fee. Where the
    index is above `holds_to_index`, all that it is above comes on top.
    """

    price: str
    insured_ntu: str
    total: str
    holds_to_index: str


class PreviewOut(msgspec.Struct, kw_only=True):
    """What an order would do now; `margin` is what would be reserved more for it."""

    reason: str | None
    status: wire.Status
    filled_quantity: int
    average_price: str | None
    fills: list[PreviewFill]
    fee: str
    margin: str
    available_after: str
    impact: Impact
    worst_case: WorstCase | None = None
    """Of a purchase of a price cap, if it traded as far as it can."""


class StripHourOut(msgspec.Struct, kw_only=True):
    """What a strip would trade in one of its hours, and what that moves there."""

    instrument: str
    average_price: str | None
    fills: list[PreviewFill]
    impact: Impact


class StripPreviewOut(msgspec.Struct, kw_only=True):
    """What a strip would do now: `grade` is the one that it would trade, `null` where none.

    `filled_quantity` are lots in each hour; fee, margin and price are of all hours together.
    """

    reason: str | None
    status: wire.Status
    grade: str | None
    filled_quantity: int
    average_price: str | None
    hours: list[StripHourOut]
    fee: str
    margin: str
    available_after: str


def _worst_case(symbol: str, capped: tuple[int, int, int]) -> WorstCase | None:
    """Return what a cap leaves its holder to pay at most; None for what is no purchase of one."""
    lots, value, fee = capped
    terms = contract.parse_symbol(symbol)
    if not lots or terms is None:
        return None
    found = insurance.worst_case(terms, value_ticks=value, lots=lots, fee_micros=fee)
    return WorstCase(
        price=texts.price_text(found.per_million),
        insured_ntu=texts.ntu_text(found.insured_mntu),
        total=texts.micros_text(found.total_micros),
        holds_to_index=texts.price_text(found.holds_to),
    )


def preview_out(symbol: str, happened: Sequence[events.Event]) -> PreviewOut:
    """Return what an order would do, from the engine's answer."""
    (found,) = happened
    assert isinstance(found, events.Previewed), "a question has one answer"
    decimals = contract.decimals_of(symbol)
    return PreviewOut(
        reason=found.reason or None,
        status=found.status,
        filled_quantity=found.lots,
        average_price=texts.average_price_text(
            sum(price * lots for price, lots in found.fills), found.lots, decimals
        ),
        fills=[
            PreviewFill(price=texts.price_text(price, decimals), quantity=lots)
            for price, lots in found.fills
        ],
        fee=texts.micros_text(found.fee),
        margin=texts.micros_text(found.margin),
        available_after=texts.micros_text(found.available_after),
        impact=_impact(found.best_before, found.best_after, decimals),
        worst_case=_worst_case(symbol, found.capped),
    )


def strip_preview_out(happened: Sequence[events.Event]) -> StripPreviewOut:
    """Return what a strip would do, from the engine's answer."""
    (found,) = happened
    assert isinstance(found, events.StripPreviewed), "a question has one answer"
    ticks = sum(price * lots for hour in found.hours for price, lots in hour.fills)
    return StripPreviewOut(
        reason=found.reason or None,
        status=found.status,
        grade=found.grade if found.hours else None,
        filled_quantity=found.lots,
        average_price=texts.average_price_text(ticks, found.lots * len(found.hours)),
        hours=[
            StripHourOut(
                instrument=hour.instrument,
                average_price=texts.average_price_text(
                    sum(price * lots for price, lots in hour.fills), found.lots
                ),
                fills=[
                    PreviewFill(price=texts.price_text(price), quantity=lots)
                    for price, lots in hour.fills
                ],
                impact=_impact(hour.best_before, hour.best_after, contract.PRICE_DECIMALS),
            )
            for hour in found.hours
        ],
        fee=texts.micros_text(found.fee),
        margin=texts.micros_text(found.margin),
        available_after=texts.micros_text(found.available_after),
    )


def _impact(best_before: int, best_after: int, decimals: int) -> Impact:
    """Return what a trade moves, of two best prices that are 0 where there is none."""
    before, after = best_before or None, best_after or None
    move = None if before is None or after is None else texts.price_text(after - before, decimals)
    return Impact(
        best_before=texts.optional_price_text(before, decimals),
        best_after=texts.optional_price_text(after, decimals),
        price_move=move,
    )
