"""One instrument: its row in the markets, and its own page with book, tape, chart and ticket."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from exchange import queries as exchange_queries
from exchange import wire as exchange_wire
from marketplace import clock, contract, errors, forms, models, wire
from marketplace.views import costs, shared
from settlement import index_queries, insurance
from settlement import models as settlement_models
from settlement import queries as settlement_queries

LEVELS_SHOWN = 10
TAPE_SHOWN = 60
CANDLES_SHOWN = 400
ORDERS_SHOWN = 100
WINDOWS_SHOWN = 31
NEIGHBOUR_MAX = timedelta(days=31)
"""No window is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instrument as the pages print it; prices are ticks."""

    symbol: str
    grade: str
    product: str
    service_class: str
    """Of slots; empty for all else."""
    starts_at: datetime
    ends_at: datetime
    trading_ends_at: datetime
    state: str
    bid: int | None
    ask: int | None
    last: int | None
    mark: int | None
    reference: int
    band_low: int
    band_high: int
    volume: int
    open_interest: int
    pay_ticks: int | None = None
    """What shortage cover pays; None of all others."""

    @property
    def hours(self) -> int:
        """How many hours are delivered."""
        return (self.ends_at - self.starts_at) // timedelta(hours=1)

    @property
    def price_unit(self) -> str:
        """What its prices are in."""
        return "USD per slot" if self.service_class else "USD per MNTU"

    @property
    def decimals(self) -> int:
        """Digits of its prices after the point."""
        return contract.decimals_of(self.symbol)

    @property
    def lot_ntu(self) -> int:
        """What one lot delivers over the whole window, in NTU; a slot delivers none."""
        return 0 if self.service_class else contract.NTU_PER_LOT_HOUR * self.hours

    @property
    def is_hour(self) -> bool:
        """Whether it ends in delivery by itself, and not by becoming its parts."""
        return self.product == contract.Product.HOUR

    @property
    def is_option(self) -> bool:
        """Whether its price is a premium, and it insures instead of being delivered."""
        return self.product in contract.OPTIONS

    @property
    def promise(self) -> str:
        """What an option pays, in words; empty for all else."""
        terms = contract.parse_symbol(self.symbol)
        if terms is None or not self.is_option:
            return ""
        if terms.product is contract.Product.COVER:
            return (
                f"pays {wire.price_text(self.pay_ticks or 0)} on what you were owed and did not"
                " get, up to 5,000 NTU a lot in five minutes"
            )
        most = wire.price_text(insurance.PAY_STRIKES_MAX * terms.strike)
        return (
            f"pays what the index of an hour is above {wire.price_text(terms.strike)}, at most "
            f"{most}, on what you use, up to 60,000 NTU a lot"
        )

    @property
    def is_open(self) -> bool:
        """Whether it takes orders, in an auction or in continuous trading."""
        return self.state in (models.Instrument.State.CALL, models.Instrument.State.CONTINUOUS)

    @property
    def is_live(self) -> bool:
        """Whether it may still trade: it is open, halted, or about to be opened."""
        return self.state not in (models.Instrument.State.CLOSED, models.Instrument.State.SETTLED)


def row_of(quoted: exchange_queries.Quoted) -> Row:
    """Return what the pages print of an instrument."""
    instrument = quoted.instrument
    return Row(
        symbol=instrument.symbol,
        grade=instrument.grade_id,
        product=instrument.product,
        service_class=instrument.service_class,
        starts_at=instrument.starts_at,
        ends_at=instrument.ends_at,
        trading_ends_at=instrument.trading_ends_at,
        state=instrument.state,
        bid=quoted.best_bid,
        ask=quoted.best_ask,
        last=instrument.last_price_ticks,
        mark=instrument.mark_price_ticks,
        reference=instrument.reference_price_ticks,
        band_low=instrument.band_low_ticks,
        band_high=instrument.band_high_ticks,
        volume=instrument.volume_lots,
        open_interest=instrument.open_interest_lots,
        pay_ticks=instrument.pay_ticks,
    )


def live_rows() -> list[Row]:
    """Return every instrument that is not closed, by grade and hour."""
    rows = [row_of(one) for one in exchange_queries.instruments(state="live")]
    return sorted(rows, key=lambda row: (row.grade, row.starts_at, row.symbol))


def number(ticks: int | None, decimals: int = contract.PRICE_DECIMALS) -> float | None:
    """Return ticks as a number for drawing; never for reckoning."""
    return None if ticks is None else ticks / 10**decimals


@require_safe
@shared.public_page
def page(request: HttpRequest, symbol: str) -> HttpResponse:
    """One instrument: chart, book, tape, ticket and own orders."""
    return render(request, symbol)


def render(
    request: HttpRequest,
    symbol: str,
    *,
    ticket: dict[str, Any] | None = None,
    said: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render an instrument's page, with a ticket as it was typed if there is one.

    :raises NotFound: when there is no such instrument.
    """
    found = exchange_queries.instrument(symbol=symbol)
    book = exchange_queries.book(symbol=symbol, depth=LEVELS_SHOWN)
    if found is None or book is None:
        raise errors.NotFound(f"there is no instrument {symbol[:40]}")
    row = row_of(found)
    interval = request.GET.get("interval", "15m")
    if interval not in exchange_queries.CANDLE_INTERVALS:
        interval = "15m"
    candles = exchange_queries.candles(symbol=symbol, interval=interval, limit=CANDLES_SHOWN)
    published = (
        index_queries.index_versions(grade=row.grade, hour_starts_at=row.starts_at)
        if row.is_hour
        else []
    )
    index = published[0] if published else None
    grade = found.instrument.grade
    values: dict[str, Any] = {
        "row": row,
        "grade_name": grade.name,
        "previous": _neighbour(row, is_next=False),
        "next": _neighbour(row, is_next=True),
        "longer": _windows(row, is_longer=True),
        "shorter": _windows(row, is_longer=False),
        "interval": interval,
        "intervals": list(exchange_queries.CANDLE_INTERVALS),
        "candles": [_candle(candle, row.decimals) for candle in reversed(candles)],
        "book": book,
        "bids": _levels(book.bids, book),
        "asks": _levels(book.asks, book)[::-1],
        "spread": _spread(row),
        "trades": [
            {
                "at": trade.at,
                "price": trade.price_ticks,
                "lots": trade.lots,
                "side": exchange_wire.side_text(trade.taker_side),
                "is_auction": trade.is_auction,
            }
            for trade in exchange_queries.trades(symbol=symbol, limit=TAPE_SHOWN)
        ],
        "auction": _auction(symbol),
        "index": index and {"price": index.price_ticks, "method": index.method},
        "taker_fee_bp": grade.taker_fee_bp,
        "ticket_id": shared.fresh_id("ticket"),
    }
    member = shared.member_of(request)
    if member is not None:
        typed = ticket or costs.suggested(request, row.bid, row.ask, row.reference, row.decimals)
        values |= _own(member.organization.pk, row, typed, taker_fee_bp=grade.taker_fee_bp)
        values["foreseen"] = said
        values["ticket_id"] = typed.get("client_order_id") or values["ticket_id"]
    return shared.page(request, "marketplace/instrument.html", values, status=status)


def _own(
    organization: int, row: Row, typed: dict[str, Any], *, taker_fee_bp: int
) -> dict[str, Any]:
    """Return what the page shows to a member alone: the ticket, money, position and orders."""
    position = settlement_models.Position.objects.filter(
        organization_id=organization, symbol=row.symbol
    )
    terms = contract.parse_symbol(row.symbol)
    assert terms is not None, "what is listed has a symbol"
    mark = row.mark or row.reference
    rates = costs.rates(terms, mark=mark, now=clock.now_micros())
    return {
        "account": settlement_queries.account(organization),
        "position": position.exclude(net_lots=0).first(),
        "rates": rates._asdict(),
        "margin_labels": costs.labels(rates, mark=mark),
        "orders": own_orders(organization, symbol=row.symbol),
        "ticket": typed,
        "ticket_types": forms.ORDER_TYPES,
        "times_in_force": forms.TIMES_IN_FORCE,
        "preventions": forms.PREVENTIONS,
        "preview": costs.preview(typed, terms, rates, mark=mark, taker_fee_bp=taker_fee_bp),
    }


def _auction(symbol: str) -> dict[str, Any] | None:
    """Return the call that runs, as the page prints it; None outside of one."""
    found = exchange_queries.auction(symbol=symbol)
    if found is None or not found.kind:
        return None
    return {
        "kind": found.kind,
        "frozen_at": wire.time_text(found.frozen_at),
        "ends_at": wire.time_text(found.ends_at),
        "price": found.indicative_price or None,
        "lots": found.indicative_lots,
        "surplus": f"{found.surplus} lots to {exchange_wire.side_text(found.surplus_side)}"
        if found.surplus_side
        else "none",
    }


def own_orders(organization: int, symbol: str = "") -> list[dict[str, Any]]:
    """Return the resting orders of an organization as the pages print them."""
    rows = exchange_queries.orders(
        organization=organization, limit=ORDERS_SHOWN, symbol=symbol, status="live"
    )
    return [
        {
            "id": row.id,
            "symbol": row.symbol,
            "side": exchange_wire.side_text(row.side),
            "type": row.type.lower(),
            "price": row.price_ticks or None,
            "stop_price": row.stop_price_ticks or None,
            "lots": row.lots,
            "filled": row.filled_lots,
            "status": row.status,
            "created_at": row.created_at,
        }
        for row in rows
    ]


def _neighbour(row: Row, *, is_next: bool) -> models.Instrument | None:
    """Return the window of the same product that begins where this one ends, or ends there."""
    found = models.Instrument.objects.filter(
        grade_id=row.grade, product=row.product, service_class=row.service_class
    )
    if is_next:
        return found.filter(starts_at=row.ends_at).first()
    return found.filter(starts_at__gte=row.starts_at - NEIGHBOUR_MAX, ends_at=row.starts_at).first()


def _windows(row: Row, *, is_longer: bool) -> list[models.Instrument]:
    """Return what trades of the grade and has this window in it, or is in it."""
    found = models.Instrument.objects.filter(
        grade_id=row.grade, product__in=contract.ENERGY
    ).exclude(state__in=("CLOSED", "SETTLED"))
    if is_longer:
        found = found.filter(starts_at__lte=row.starts_at, ends_at__gte=row.ends_at)
    else:
        found = found.filter(starts_at__gte=row.starts_at, ends_at__lte=row.ends_at)
    return list(found.exclude(symbol=row.symbol).order_by("starts_at", "id")[:WINDOWS_SHOWN])


def _candle(candle: exchange_queries.Candle, decimals: int) -> dict[str, Any]:
    return {
        "time": int(candle.starts_at.timestamp()),
        "open": number(candle.open, decimals),
        "high": number(candle.high, decimals),
        "low": number(candle.low, decimals),
        "close": number(candle.close, decimals),
        "volume": candle.lots,
    }


def _levels(levels: list[tuple[str, int]], book: exchange_wire.Book) -> list[dict[str, int]]:
    largest = max((lots for _, lots in (*book.bids, *book.asks)), default=1)
    decimals = contract.decimals_of(book.instrument)
    return [
        {
            "price": wire.parse_price(price, decimals=decimals),
            "lots": lots,
            "share": 100 * lots // largest,
        }
        for price, lots in levels
    ]


def _spread(row: Row) -> str:
    if row.bid is None and row.ask is None:
        return "The book is empty"
    if row.bid is None or row.ask is None:
        return "One side only"
    gap = row.ask - row.bid
    if gap <= 0:
        return f"Crossed by {wire.price_text(-gap, row.decimals)} until the auction"
    return f"Spread {wire.price_text(gap, row.decimals)}, {200 * gap / (row.ask + row.bid):.1f} %"
