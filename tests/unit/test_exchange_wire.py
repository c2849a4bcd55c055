"""Orders and books as callers see them."""

import zlib

import pytest

from exchange import commands, events, wire
from marketplace import errors

AT = 1_780_000_000_000_000
HOUR = "LLAMA70B.H.20261205T14Z"


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


def test_a_retry_may_spell_out_defaults_and_keeps_its_fingerprint() -> None:
    short = wire.OrderIn(
        instrument=HOUR, side="buy", quantity=5, price="1.250", client_order_id="a"
    )
    long = wire.OrderIn(
        instrument=HOUR,
        side="buy",
        quantity=5,
        price="1.250",
        client_order_id="a",
        type="limit",
        time_in_force="gtc",
        post_only=False,
    )
    assert wire.place_order(1, short) == wire.place_order(1, long)
    other = wire.OrderIn(
        instrument=HOUR, side="buy", quantity=5, price="1.251", client_order_id="a"
    )
    assert wire.place_order(1, other).fingerprint != wire.place_order(1, short).fingerprint


def test_a_market_order_is_unsupported_and_not_malformed() -> None:
    given = wire.OrderIn(
        instrument=HOUR, side="buy", quantity=5, client_order_id="a", type="market"
    )
    with pytest.raises(wire.UnsupportedOrder) as caught:
        wire.place_order(1, given)
    assert [error.field for error in caught.value.errors] == ["type"]
    limit = wire.OrderIn(instrument=HOUR, side="buy", quantity=5, client_order_id="a")
    with pytest.raises(errors.Malformed):
        wire.place_order(1, limit)
