"""Orders and books as callers see them."""

import zlib
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pytest

from exchange import commands, events, preview_wire, wire

AT = 1_780_000_000_000_000
HOUR = "LLAMA70B.H.20261205T14Z"
SLOT = "LLAMA70B.P0.20261205T14Z"
HOURS = 3_600_000_000
HOUR_AT = 1_796_479_200_000_000


def placed(**changes: object) -> events.OrderPlaced:
    fields = {
        "account": 3,
        "instrument": HOUR,
        "side": 1,
        "price": 1_260,
        "lots": 10,
        "time_in_force": "GTC",
        "client_order_id": "c1",
        "fingerprint": b"",
    }
    request = commands.PlaceOrder(**{**fields, **changes})
    return events.OrderPlaced(order=7, request=request, sequence=9, at=AT)


def traded(trade: int, price: int, lots: int, fee: int) -> events.Traded:
    return events.Traded(trade, HOUR, price, lots, 5, 7, 4, 3, 1, 1, fee, 9, AT)


def test_an_order_that_traded_at_two_prices_shows_their_average_to_six_decimals() -> None:
    order = wire.order_out([placed(), traded(1, 1_250, 1, 150), traded(2, 1_251, 2, 301)])
    assert (order.status, order.filled_quantity, order.remaining_quantity) == (
        "partially_filled",
        3,
        7,
    )
    assert (order.average_price, order.fee) == ("1.250667", "0.000451")
    assert [fill.id for fill in order.fills] == ["1", "2"]


def test_filled_and_remaining_add_up_also_when_the_rest_was_canceled() -> None:
    order = wire.order_out(
        [
            placed(time_in_force="IOC"),
            traded(1, 1_250, 4, 600),
            events.OrderClosed(7, 3, "canceled", "ioc_remainder", 9, AT),
        ]
    )
    assert (order.status, order.reason) == ("canceled", "ioc_remainder")
    assert (order.filled_quantity, order.remaining_quantity) == (4, 6)


def test_the_checksum_is_of_the_top_ten_levels_bids_first() -> None:
    bids = [(1_250 - number, 10 + number) for number in range(12)]
    asks = [(1_251, 5)]
    text = "|".join(f"1.{250 - number}:{10 + number}" for number in range(10)) + "|1.251:5"
    assert wire.checksum(bids, asks) == zlib.crc32(text.encode())
    assert wire.checksum([], []) == 0
    book = wire.book_out(HOUR, 3, bids, asks, depth=1)
    assert (book.bids, book.checksum) == ([("1.250", 10)], wire.checksum(bids, asks))


def test_an_order_met_as_maker_by_what_it_triggered_shows_both_of_its_sides() -> None:
    met = events.Traded(2, HOUR, 1_260, 3, 7, 8, 3, 4, -1, 38, 76, 9, AT)
    order = wire.order_out([placed(), traded(1, 1_250, 2, 300), met])
    assert (order.status, order.filled_quantity) == ("partially_filled", 5)
    assert [(fill.liquidity, fill.fee) for fill in order.fills] == [
        ("taker", "0.000300"),
        ("maker", "0.000038"),
    ]
    assert order.fee == "0.000338"


def test_an_order_that_lost_lots_to_its_own_group_shows_the_lots_it_has() -> None:
    lowered = events.OrderAmended(7, 3, 1_260, 6, 6, 0, 9, AT)
    order = wire.order_out([placed(), lowered])
    assert (order.quantity, order.remaining_quantity, order.status) == (6, 6, "open")


@pytest.mark.parametrize(
    ("kind", "more", "status", "price", "stop_price"),
    [
        ("STOP", [], "untriggered", None, "1.300"),
        ("STOP_LIMIT", [], "untriggered", "1.260", "1.300"),
        ("STOP", [events.OrderTriggered(7, 3, 9, AT)], "open", None, "1.300"),
        (
            "MARKET",
            [events.OrderClosed(7, 3, "canceled", "protection_band", 9, AT)],
            "canceled",
            None,
            None,
        ),
    ],
)
def test_an_order_shows_the_prices_of_its_type(kind, more, status, price, stop_price) -> None:
    terms = commands.Terms(type=kind, stop_price=1_300 if "STOP" in kind else 0)
    order = wire.order_out([placed(terms=terms), *more])
    assert (order.type, order.status) == (kind.lower(), status)
    assert (order.price, order.stop_price) == (price, stop_price)


STRIP = commands.PlaceStrip(3, "GPT4O", 1, HOUR_AT, HOUR_AT + 2 * HOURS, 1_300, 10, 50, "s", b"")


def test_a_strip_counts_lots_in_each_hour_and_its_average_over_all() -> None:
    hours = [f"SONNET.H.20261205T{hour}Z" for hour in (14, 15)]
    trades = [
        events.Traded(number, hour, price, 6, 5, 7, 4, 3, 1, 1, fee, 9, AT)
        for number, hour, price, fee in ((1, hours[0], 1_250, 900), (2, hours[1], 1_300, 936))
    ]
    first = events.StripPlaced(7, STRIP, "SONNET", 6, 9, AT)
    closed = events.OrderClosed(7, 3, "canceled", "strip_unfilled", 9, AT)
    strip = wire.order_out([first, *trades, closed])
    assert (strip.type, strip.instrument) == ("strip", "SONNET.R.20261205T14Z+2")
    assert (strip.quantity, strip.filled_quantity, strip.remaining_quantity) == (10, 6, 4)
    assert (strip.average_price, strip.fee) == ("1.275000", "0.001836")
    assert [fill.instrument for fill in strip.fills] == hours
    assert (strip.status, strip.reason, strip.time_in_force) == (
        "canceled",
        "strip_unfilled",
        "ioc",
    )
    shown = msgspec.json.decode(msgspec.json.encode(strip))
    assert (shown["grade"], shown["from"], shown["to"], shown["min_share"]) == (
        "GPT4O",
        "2026-12-05T14:00:00.000000Z",
        "2026-12-05T16:00:00.000000Z",
        50,
    )


def test_fills_of_an_order_have_exactly_the_documented_fields() -> None:
    order = wire.order_out([placed(), traded(1, 1_250, 1, 150)])
    (fill,) = msgspec.json.decode(msgspec.json.encode(order))["fills"]
    assert set(fill) == {"id", "price", "quantity", "liquidity", "fee", "at"}


def test_a_fill_of_an_auction_says_so_on_both_sides() -> None:
    trade = SimpleNamespace(
        id=1,
        symbol=HOUR,
        price_ticks=1_250,
        lots=4,
        maker_order=5,
        taker_order=7,
        taker_side=-1,
        maker_fee_micros=60,
        taker_fee_micros=61,
        is_auction=True,
        at=datetime(2026, 12, 4, 12, tzinfo=UTC),
    )
    sides = [wire.fill_row(trade, order=order, client_order_id="c") for order in (5, 7)]
    assert [(fill.liquidity, fill.side, fill.fee) for fill in sides] == [
        ("auction", "buy", "0.000060"),
        ("auction", "sell", "0.000061"),
    ]
    assert wire.trade_row(trade).is_auction


def test_a_preview_says_what_the_order_would_move() -> None:
    found = events.Previewed(
        "", "filled", 3, ((1_250, 1), (1_251, 2)), 451, 225_120, -7, 1_250, 1_252
    )
    shown = preview_wire.preview_out(HOUR, [found])
    assert (shown.reason, shown.status, shown.filled_quantity) == (None, "filled", 3)
    assert (shown.average_price, shown.available_after) == ("1.250667", "-0.000007")
    assert shown.impact == preview_wire.Impact(
        best_before="1.250", best_after="1.252", price_move="0.002"
    )
    emptied = preview_wire.preview_out(HOUR, [msgspec.structs.replace(found, best_after=0)])
    assert (emptied.impact.best_after, emptied.impact.price_move) == (None, None)
    of_slots = preview_wire.preview_out(SLOT, [found])
    assert (of_slots.average_price, of_slots.impact.price_move) == ("0.125067", "0.0002")


def test_prices_of_slots_have_four_decimals_in_a_book_and_its_checksum() -> None:
    bids, asks = [(50, 10)], [(52, 3)]
    book = wire.book_out(SLOT, 1, bids, asks, depth=5)
    assert (book.bids, book.asks) == ([("0.0050", 10)], [("0.0052", 3)])
    assert book.checksum == zlib.crc32(b"0.0050:10|0.0052:3")
