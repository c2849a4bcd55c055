"""What an order would cost, in whole micro-USD, and what the ticket says at first."""

from typing import Any

from django.http import HttpRequest

from marketplace import contract, errors, wire

SELLER_MARGIN_PERCENT = 5
LOTS_SUGGESTED = "10"


def suggested(
    request: HttpRequest, bid: int | None, ask: int | None, reference: int
) -> dict[str, Any]:
    """Return the ticket's first values: the side asked for, at the price that would trade."""
    side = "sell" if request.GET.get("side") == "sell" else "buy"
    price = (bid if side == "sell" else ask) or reference
    return {"side": side, "lots": LOTS_SUGGESTED, "price": wire.price_text(price), "errors": {}}


def preview(ticket: dict[str, Any], *, taker_fee_bp: int) -> dict[str, Any]:
    """Return what an order would cost at most, in micro-USD; None where it cannot be told."""
    is_buy = ticket.get("side") != "sell"
    shown: dict[str, Any] = {
        "notional": None,
        "fee": None,
        "margin": None,
        "ntu": None,
        "margin_label": "Paid up front, with fee" if is_buy else "Margin, 5 %, with fee",
    }
    try:
        price_ticks = wire.parse_price(str(ticket.get("price", "")))
        lots = wire.parse_whole(str(ticket.get("lots", "")), "lots", low=1, high=contract.LOTS_MAX)
    except errors.Refusal:
        return shown
    notional = contract.notional_micros(price_ticks=price_ticks, lots=lots)
    fee = -(-notional * taker_fee_bp // 10_000)
    margin = notional if is_buy else -(-notional * SELLER_MARGIN_PERCENT // 100)
    shown |= {"notional": notional, "fee": fee, "margin": margin + fee}
    shown["ntu"] = lots * contract.NTU_PER_LOT_HOUR
    return shown
