"""What an order would cost, in whole micro-USD, and what the ticket says at first."""

from typing import Any

from django.http import HttpRequest

from marketplace import contract, errors, wire
from marketplace.contract import Contract, Product
from settlement import insurance, margin
from settlement.margin import Rates, Resting

LOTS_SUGGESTED = "10"


def suggested(
    request: HttpRequest, bid: int | None, ask: int | None, reference: int, decimals: int
) -> dict[str, Any]:
    """Return the ticket's first values: the side asked for, at the price that would trade."""
    side = "sell" if request.GET.get("side") == "sell" else "buy"
    price = (bid if side == "sell" else ask) or reference
    text = wire.price_text(price, decimals)
    return {"side": side, "lots": LOTS_SUGGESTED, "price": text, "errors": {}}


def rates(terms: Contract, *, mark: int, now: int) -> Rates:
    """Return what lots of an instrument ask for at its mark now."""
    if terms.product is Product.SLOT:
        return margin.slot_rates(mark=mark)
    if terms.product in contract.OPTIONS:
        # What cover pays is told by asking the engine: it is fixed at listing, and in no symbol.
        aside = insurance.collateral(terms, pay_ticks=0, hours=terms.hours)
        return margin.collateral_rates(unit=terms.tick_micros, collateral=aside)
    return margin.energy_rates(
        starts_at=terms.starts_at,
        ends_at=terms.ends_at,
        prepaid_until=contract.hour_start(now) + margin.PREPAID_WINDOW,
        mark=mark,
    )


def labels(of: Rates, *, mark: int) -> dict[str, str]:
    """Return what the money behind an order of each side is called."""
    if of.unit and of.short_mark == of.short_cap:
        return {"buy": "Premium, with fee", "sell": "Set aside until it is paid, with fee"}
    whole = of.unit * mark
    long = _percent(of.long_mark, whole)
    return {
        "buy": f"Margin, {long} %, with fee" if of.long_mark else "Paid up front, with fee",
        "sell": f"Margin, {_percent(of.short_mark, whole)} % if covered, with fee",
    }


def _percent(part: int, whole: int) -> str:
    tenths = 1_000 * part // whole if whole else 0
    return f"{tenths // 10}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}"


def preview(
    ticket: dict[str, Any], terms: Contract, of: Rates, *, mark: int, taker_fee_bp: int
) -> dict[str, Any]:
    """Return what an order would cost at most, in micro-USD; None where it cannot be told.

    The margin is that of the order alone, with nothing held and the lots sold covered.
    """
    side = "sell" if ticket.get("side") == "sell" else "buy"
    shown: dict[str, Any] = {
        "notional": None,
        "fee": None,
        "margin": None,
        "ntu": None,
        "strike": terms.strike,
        "worst": None,
        "margin_label": labels(of, mark=mark)[side],
    }
    try:
        price_ticks = wire.parse_price(str(ticket.get("price", "")), decimals=terms.price_decimals)
        lots = wire.parse_whole(str(ticket.get("lots", "")), "lots", low=1, high=contract.LOTS_MAX)
    except errors.Refusal:
        return shown
    notional = terms.tick_micros * price_ticks * lots
    fee = -(-notional * taker_fee_bp // 10_000)
    sign = 1 if side == "buy" else -1
    long, short = margin.order_excess(of, side=sign, price=price_ticks, lots=lots)
    resting = Resting(
        buy_lots=lots if sign > 0 else 0,
        sell_lots=lots if sign < 0 else 0,
        long_excess=long,
        short_excess=short,
    )
    needed = margin.requirement(of, 0, 0, resting)
    shown |= {"notional": notional, "fee": fee, "margin": needed + fee}
    if terms.product is Product.COVER and sign < 0:
        shown["margin"] = None
    if terms.strike and sign > 0:
        worst = insurance.worst_case(
            terms, value_ticks=price_ticks * lots, lots=lots, fee_micros=fee
        )
        shown["worst"] = worst.total_micros
    is_slot = terms.product is Product.SLOT
    shown["ntu"] = 0 if is_slot else lots * contract.NTU_PER_LOT_HOUR * terms.hours
    return shown
