"""Every kind of order at the door: its fields in the answer, in the row and in what is read."""

import asyncio
import json

import pytest

from exchange import models, queries
from exchange.entry import Entry
from exchange.machine import limits
from marketplace import http
from tests.door import LIMIT, call, place, talk
from tests.market import BUYER, HOUR, SELLER, Market, sell

pytestmark = pytest.mark.django_db(transaction=True)

ORDERS = "/api/v1/orders"
NEXT = "LLAMA70B.H.20261201T15Z"
MARKET = {"instrument": HOUR, "side": "buy", "type": "market", "quantity": 5}
STRIP = {
    "grade": "LLAMA70B",
    "side": "buy",
    "from": "2026-12-01T14:00:00Z",
    "to": "2026-12-01T16:00:00Z",
    "price": "1.255",
    "quantity": 5,
    "client_order_id": "s1",
}


def order(name: str, **fields) -> dict:
    return {**LIMIT, "client_order_id": name, **fields}


def say(key: str, *requests: tuple):
    """Send requests one after the other; return (status, headers, body) of each."""

    async def conversation(app: Entry):
        return [await call(app, method, path, key, *more) for method, path, *more in requests]

    return talk(conversation)


def test_what_was_asked_for_is_answered_stored_and_shown_alike(market: Market, key) -> None:
    wanted = {
        "iceberg": order("iceberg", quantity=10, display_quantity=4),
        "minimum": order("minimum", price="1.200", min_quantity=2, time_in_force="gtc"),
        "gtd": order("gtd", time_in_force="gtd", expires_at="2026-12-01T12:00:00.5Z"),
        "day": order("day", time_in_force="day", self_trade_prevention="cancel_both"),
        "post": order("post", post_only=True),
        "fok": order("fok", time_in_force="fok"),
        "stop": order("stop", type="stop", price=None, stop_price="1.300"),
        "stop_limit": order("stop_limit", type="stop_limit", price="1.310", stop_price="1.300"),
        "market": {**MARKET, "client_order_id": "market"},
    }
    with market.running():
        answers = say(key.buyer, *(("POST", ORDERS, body) for body in wanted.values()))
    shown = {}
    for (name, asked), (status, _, answer) in zip(wanted.items(), answers, strict=True):
        assert status == 201, (name, answer)
        read = queries.order(organization=BUYER, order_id=int(answer["id"]))
        shown[name] = answer
        assert answer == json.loads(http.encode(read)), name
        for field, value in asked.items():
            if field not in ("expires_at", "time_in_force"):
                assert answer[field] == value, (name, field)
    assert shown["gtd"]["expires_at"] == "2026-12-01T12:00:00.500000Z"
    assert (shown["market"]["price"], shown["market"]["time_in_force"]) == (None, "ioc")
    assert {name: (one["status"], one["reason"]) for name, one in shown.items()} == {
        "iceberg": ("open", None),
        "minimum": ("canceled", "min_quantity"),
        "gtd": ("open", None),
        "day": ("open", None),
        "post": ("open", None),
        "fok": ("canceled", "fill_or_kill"),
        "stop": ("untriggered", None),
        "stop_limit": ("untriggered", None),
        "market": ("canceled", "protection_band"),
    }


def test_the_book_shows_of_an_iceberg_its_tip_alone(market: Market, key) -> None:
    with market.running():
        say(key.buyer, ("POST", ORDERS, order("i", quantity=10, display_quantity=4)))
        talk(place(key.seller, side="sell", quantity=5))
    book = queries.book(symbol=HOUR)
    # The tip of 4 was filled, the next shown, and 1 of it filled too.
    assert book is not None
    assert book.bids == [("1.250", 3)]
    ((bids, _),) = [market.machine.book_levels(HOUR, 10)]
    assert bids == [(1_250, 3)]
    row = models.Order.objects.get(client_order_id="i")
    assert (row.filled_lots, row.hidden_lots) == (5, 2)


def test_an_order_that_would_rest_beside_its_own_group_loses_what_it_would_trade(
    market: Market, key
) -> None:
    with market.running():
        first, second = say(
            key.seller,
            ("POST", ORDERS, order("a", side="sell", quantity=9)),
            (
                "POST",
                ORDERS,
                order("b", quantity=4, side="buy", self_trade_prevention="decrement"),
            ),
        )
    assert (second[0], second[2]["status"], second[2]["reason"]) == (201, "canceled", "self_trade")
    survivor = models.Order.objects.get(id=first[2]["id"])
    assert (survivor.lots, survivor.filled_lots, survivor.status) == (5, 0, "OPEN")


# Amendments


def test_an_amendment_changes_the_row_and_is_answered_with_the_order(market: Market, key) -> None:
    with market.running():
        ((_, _, placed),) = say(key.buyer, ("POST", ORDERS, order("a", quantity=9)))
        path = f"{ORDERS}/{placed['id']}"
        smaller, dearer, same = say(
            key.buyer,
            ("PATCH", path, {"quantity": 6}),
            ("PATCH", path, {"price": "1.260", "quantity": 7}),
            ("PATCH", path, {"price": "1.260"}),
        )
    assert [(each[0], each[2]["quantity"], each[2]["price"]) for each in (smaller, dearer)] == [
        (200, 6, "1.250"),
        (200, 7, "1.260"),
    ]
    assert same[2] == dearer[2]
    row = models.Order.objects.get(id=placed["id"])
    assert (row.price_ticks, row.lots, row.status) == (1_260, 7, "OPEN")
    assert queries.book(symbol=HOUR).bids == [("1.260", 7)]


def test_an_amended_price_that_crosses_trades_and_never_more_than_the_new_total(
    market: Market, key
) -> None:
    market.execute(sell(SELLER, 1_255, 20, "s"))
    with market.running():
        ((_, _, placed),) = say(key.buyer, ("POST", ORDERS, order("a", quantity=9)))
        path = f"{ORDERS}/{placed['id']}"
        crossed, below = say(
            key.buyer,
            ("PATCH", path, {"price": "1.255", "quantity": 4}),
            ("PATCH", path, {"quantity": 3}),
        )
    assert crossed[2]["status"] == "filled"
    assert (crossed[2]["filled_quantity"], crossed[2]["quantity"]) == (4, 4)
    assert [fill["liquidity"] for fill in crossed[2]["fills"]] == ["taker"]
    assert (below[0], below[2]["code"]) == (422, "order_closed")


def test_a_total_that_is_filled_already_ends_the_order(market: Market, key) -> None:
    with market.running():
        ((_, _, placed),) = say(key.buyer, ("POST", ORDERS, order("a", quantity=9)))
        talk(place(key.seller, side="sell", quantity=4))
        ((status, _, ended),) = say(
            key.buyer, ("PATCH", f"{ORDERS}/{placed['id']}", {"quantity": 3})
        )
    assert (status, ended["status"], ended["reason"]) == (200, "canceled", "amended")
    assert ended["filled_quantity"] == 4


def test_a_stop_price_is_amended_and_another_kind_has_none(market: Market, key) -> None:
    with market.running():
        stop, plain = say(
            key.buyer,
            ("POST", ORDERS, order("a", type="stop", price=None, stop_price="1.300")),
            ("POST", ORDERS, order("b")),
        )
        moved, wrong = say(
            key.buyer,
            ("PATCH", f"{ORDERS}/{stop[2]['id']}", {"stop_price": "1.310"}),
            ("PATCH", f"{ORDERS}/{plain[2]['id']}", {"stop_price": "1.310"}),
        )
    assert (moved[0], moved[2]["stop_price"], moved[2]["status"]) == (200, "1.310", "untriggered")
    assert models.Order.objects.get(id=stop[2]["id"]).stop_price_ticks == 1_310
    assert (wrong[0], wrong[2]["code"]) == (422, "invalid_order")


def test_an_amendment_that_a_rule_refuses_changes_nothing(market: Market, key) -> None:
    with market.running():
        ((_, _, placed),) = say(key.buyer, ("POST", ORDERS, order("a")))
        path = f"{ORDERS}/{placed['id']}"
        outside, absent, empty, unknown = say(
            key.buyer,
            ("PATCH", path, {"price": "9.000"}),
            ("PATCH", f"{ORDERS}/999999", {"quantity": 1}),
            ("PATCH", path, {}),
            ("PATCH", path, {"display_quantity": 1}),
        )
        ((foreign, _, _),) = say(key.seller, ("PATCH", path, {"quantity": 1}))
    assert (outside[0], outside[2]["code"]) == (422, "outside_band")
    assert (absent[0], absent[2]["code"]) == (404, "unknown_order")
    assert foreign == 404
    assert (empty[0], empty[2]["code"]) == (400, "malformed")
    assert unknown[2]["errors"] == [{"field": "display_quantity", "code": "unknown_field"}]
    row = models.Order.objects.get()
    assert (row.price_ticks, row.lots, row.sequence) == (1_250, 5, row.placed_sequence)


def test_a_batch_amends_in_order(market: Market, key) -> None:
    with market.running():
        ((_, _, placed),) = say(key.buyer, ("POST", ORDERS, order("a", quantity=9)))
        operations = [
            {"op": "amend", "id": placed["id"], "quantity": 8},
            {"op": "amend", "id": placed["id"], "price": "9.000"},
            {"op": "amend", "id": placed["id"]},
            {"op": "amend", "id": "12345", "quantity": 8},
            {"op": "cancel", "id": placed["id"]},
            {"op": "amend", "id": placed["id"], "quantity": 7},
        ]
        ((status, _, body),) = say(
            key.buyer, ("POST", ORDERS + "/batch", {"operations": operations})
        )
    assert status == 200
    amended, outside, empty, unknown, canceled, late = body["results"]
    assert (amended["quantity"], canceled["status"]) == (8, "canceled")
    assert [each["code"] for each in (outside, empty, unknown, late)] == [
        "outside_band",
        "malformed",
        "unknown_order",
        "order_closed",
    ]


@pytest.fixture
def deaf(market: Market, monkeypatch) -> Market:
    """An engine whose replies are lost."""
    publish = market.engine._publish
    monkeypatch.setattr(market.engine, "_publish", lambda *_: publish([]))
    return market


def test_a_lost_reply_to_an_amendment_is_found_in_the_journal(deaf: Market, key) -> None:
    with deaf.running():
        _, _, order_ = talk(place(key.buyer, quantity=9), reply_timeout_s=0.5)
        path = f"{ORDERS}/{order_['id']}"

        async def conversation(app: Entry):
            return [
                await call(app, "PATCH", path, key.buyer, body)
                for body in ({"quantity": 6}, {"price": "9.000"}, {"quantity": 6})
            ]

        amended, refused, again = talk(conversation, reply_timeout_s=0.5)
    assert (amended[0], amended[2]["quantity"]) == (200, 6)
    assert (refused[0], refused[2]["code"]) == (422, "outside_band")
    assert again[2] == amended[2]


def test_an_amendment_nobody_took_is_an_unknown_outcome_and_then_never_placed(
    market: Market, key
) -> None:
    with market.running():
        _, _, order_ = talk(place(key.buyer, quantity=9))
    path = f"{ORDERS}/{order_['id']}"

    async def conversation(app: Entry):
        return await call(app, "PATCH", path, key.buyer, {"quantity": 6})

    market.loop._beat()
    status, _, problem = talk(conversation, reply_timeout_s=0.05)
    assert (status, problem["code"]) == (504, "outcome_unknown")
    market.loop._take_over()
    market.work()
    row = models.Order.objects.get()
    assert (row.lots, row.sequence) == (9, row.placed_sequence)


# Questions and switches


def test_a_preview_says_what_would_happen_and_journals_nothing(market: Market, key) -> None:
    market.execute(sell(SELLER, 1_250, 3, "s1"), sell(SELLER, 1_252, 9, "s2"))
    before = market.engine.head.sequence
    asked = {**MARKET, "quantity": 4}
    with market.running():
        market_, refused, malformed = say(
            key.buyer,
            ("POST", ORDERS + "/test", asked),
            ("POST", ORDERS + "/test", {**LIMIT, "price": "9.000"}),
            ("POST", ORDERS + "/test", {**LIMIT, "quantity": 0}),
        )
    status, _, found = market_
    assert status == 200
    assert (found["status"], found["reason"], found["filled_quantity"]) == ("filled", None, 4)
    assert found["fills"] == [
        {"price": "1.250", "quantity": 3},
        {"price": "1.252", "quantity": 1},
    ]
    assert (found["average_price"], found["fee"]) == ("1.250500", "0.000601")
    assert found["impact"] == {
        "best_before": "1.250",
        "best_after": "1.252",
        "price_move": "0.002",
    }
    assert (refused[0], refused[2]["reason"], refused[2]["status"]) == (
        200,
        "outside_band",
        "rejected",
    )
    assert (malformed[0], malformed[2]["errors"][0]["field"]) == (400, "quantity")
    assert market.engine.head.sequence == before
    assert models.Order.objects.count() == 2
    # What it said comes true.
    with market.running():
        ((_, _, bought),) = say(key.buyer, ("POST", ORDERS, {**asked, "client_order_id": "b"}))
    assert (bought["average_price"], bought["fee"]) == (found["average_price"], found["fee"])


def test_orders_leave_when_nobody_says_otherwise_in_time(market: Market, key, clock) -> None:
    path = ORDERS + "/cancel-all-after"
    with market.running():
        set_, unset, short, _ = say(
            key.buyer,
            ("POST", path, {"timeout_ms": 5_000}),
            ("POST", path, {"timeout_ms": 0}),
            ("POST", path, {"timeout_ms": 999}),
            ("POST", ORDERS, order("a")),
        )
        assert set_[2] == {"timeout_ms": 5_000, "cancel_at": "2026-12-01T09:00:05.000000Z"}
        assert unset[2] == {"timeout_ms": 0, "cancel_at": None}
        assert (short[0], short[2]["errors"][0]["field"]) == (400, "timeout_ms")
        say(key.buyer, ("POST", path, {"timeout_ms": 5_000}))
        clock.advance(seconds=4)
        say(key.buyer, ("POST", path, {"timeout_ms": 5_000}))
        clock.advance(seconds=4)
        say(key.buyer, ("DELETE", f"{ORDERS}/999"))
        assert models.Order.objects.get().status == "OPEN"
        clock.advance(seconds=1)
        ((status, _, problem),) = say(key.buyer, ("DELETE", f"{ORDERS}/1"))
    row = models.Order.objects.get()
    assert (row.status, row.reason) == ("CANCELED", "cancel_all_after")
    assert (status, problem["code"]) == (422, "order_closed")


def test_a_lost_reply_to_a_switch_is_found_in_the_journal(deaf: Market, key) -> None:
    async def conversation(app: Entry):
        return await call(
            app, "POST", ORDERS + "/cancel-all-after", key.buyer, {"timeout_ms": 60_000}
        )

    with deaf.running():
        status, _, body = talk(conversation, reply_timeout_s=0.5)
    assert (status, body["cancel_at"]) == (200, "2026-12-01T09:01:00.000000Z")


# Strips


def two_hours(market: Market) -> None:
    """Sells in two hours, so that the average over both is 1.255 for up to 6 lots."""
    market.execute(
        sell(SELLER, 1_250, 6, "h14"),
        sell(SELLER, 1_260, 6, "h15", instrument=NEXT),
    )


def test_a_strip_trades_every_hour_and_a_retry_is_answered_alike(market: Market, key) -> None:
    two_hours(market)
    with market.running():
        first, again, reused, as_order = say(
            key.buyer,
            ("POST", "/api/v1/strips", STRIP),
            ("POST", "/api/v1/strips", {**STRIP, "min_share": 100}),
            ("POST", "/api/v1/strips", {**STRIP, "quantity": 4}),
            ("POST", ORDERS, order("s1")),
        )
    status, _, strip = first
    assert status == 201
    assert (strip["type"], strip["status"]) == ("strip", "filled")
    assert strip["instrument"] == "LLAMA70B.R.20261201T14Z+2"
    assert (strip["quantity"], strip["filled_quantity"]) == (5, 5)
    assert (strip["average_price"], strip["price"]) == ("1.255000", "1.255")
    assert [(fill["instrument"], fill["quantity"]) for fill in strip["fills"]] == [
        (HOUR, 5),
        (NEXT, 5),
    ]
    # 20 bp of 5 x 60 x (1250 + 1260) micro-USD, rounded up once.
    assert strip["fee"] == "0.001506"
    assert (again[0], again[1]["idempotency-replayed"], again[2]) == (201, "true", strip)
    assert (reused[0], reused[2]["code"]) == (409, "key_reuse")
    assert (as_order[0], as_order[2]["code"]) == (409, "key_reuse")
    row = models.Order.objects.get(client_order_id="s1")
    assert (row.type, row.price_ticks, row.filled_lots) == ("STRIP", 1_255, 5)
    read = json.loads(http.encode(queries.order(organization=BUYER, order_id=row.id)))
    assert read == strip
    own = queries.fills(organization=BUYER, limit=10)
    assert {(fill.order_id, fill.client_order_id) for fill in own} == {(str(row.id), "s1")}
    assert [fill.instrument for fill in own] == [NEXT, HOUR]


def test_a_strip_that_cannot_be_had_is_over_and_one_that_may_not_is_refused(
    market: Market, key
) -> None:
    two_hours(market)
    with market.running():
        dear, share, unknown, malformed = say(
            key.buyer,
            ("POST", "/api/v1/strips", {**STRIP, "price": "1.254"}),
            (
                "POST",
                "/api/v1/strips",
                {**STRIP, "quantity": 10, "min_share": 60, "client_order_id": "s2"},
            ),
            ("POST", "/api/v1/strips", {**STRIP, "grade": "NONE", "client_order_id": "s3"}),
            ("POST", "/api/v1/strips", {**STRIP, "to": "2026-12-01T14:00:00Z"}),
        )
    assert (dear[0], dear[2]["status"], dear[2]["reason"]) == (201, "canceled", "strip_unfilled")
    assert (share[2]["status"], share[2]["filled_quantity"]) == ("canceled", 6)
    assert (unknown[0], unknown[2]["code"]) == (422, "unknown_instrument")
    assert (malformed[0], malformed[2]["errors"][0]["field"]) == (400, "to")
    statuses = dict(models.Order.objects.filter(type="STRIP").values_list("symbol", "status"))
    assert statuses["NONE.R.20261201T14Z+2"] == "REJECTED"


def test_a_lost_reply_to_a_strip_is_looked_up(deaf: Market, key) -> None:
    two_hours(deaf)

    async def conversation(app: Entry):
        return await call(app, "POST", "/api/v1/strips", key.buyer, STRIP)

    with deaf.running():
        status, _, strip = talk(conversation, reply_timeout_s=0.5)
    assert (status, strip["status"], strip["filled_quantity"]) == (201, "filled", 5)


# Calls


TOMORROW = "LLAMA70B.H.20261202T14Z"


def test_a_call_gathers_orders_freezes_them_and_trades_at_one_price(
    market: Market, key, clock
) -> None:
    with market.running():
        clock.set("2026-12-01T10:30Z")
        both = order("b", instrument=TOMORROW, price="1.260", quantity=8)
        bought, ioc, stop = say(
            key.buyer,
            ("POST", ORDERS, both),
            ("POST", ORDERS, {**both, "client_order_id": "i", "time_in_force": "ioc"}),
            (
                "POST",
                ORDERS,
                {**both, "client_order_id": "t", "type": "stop_limit", "stop_price": "1.300"},
            ),
        )
        assert {(each[0], each[2]["code"]) for each in (ioc, stop)} == {(422, "not_in_call")}
        assert (bought[0], bought[2]["status"]) == (201, "open")
        say(
            key.seller,
            ("POST", ORDERS, order("s", side="sell", instrument=TOMORROW, quantity=5)),
        )
        found = queries.auction(symbol=TOMORROW)
        assert found == market.machine.auction_view(TOMORROW)
        assert (found.kind, found.indicative_price, found.indicative_lots) == ("OPENING", 1_250, 5)
        assert (found.surplus, found.surplus_side) == (3, 1)
        path = f"{ORDERS}/{bought[2]['id']}"
        clock.set("2026-12-01T11:56Z")
        cancel, worse, better, mass = say(
            key.buyer,
            ("DELETE", path),
            ("PATCH", path, {"quantity": 7}),
            ("PATCH", path, {"quantity": 9}),
            ("DELETE", ORDERS),
        )
        assert [(each[0], each[2]["code"]) for each in (cancel, worse)] == [(422, "frozen")] * 2
        assert cancel[2]["detail"] == "the cancel was refused: frozen"
        assert worse[2]["detail"] == "the amendment was refused: frozen"
        assert (better[0], better[2]["quantity"], mass[2]) == (200, 9, {"results": []})
        clock.set("2026-12-01T12:00Z")
        say(key.buyer, ("DELETE", f"{ORDERS}/999"))
    shown = queries.order(organization=BUYER, order_id=int(bought[2]["id"]))
    assert shown is not None
    assert (shown.status, shown.filled_quantity) == ("partially_filled", 5)
    (fill,) = shown.fills
    assert (fill.liquidity, fill.price, fill.fee) == ("auction", "1.250", "0.000075")
    (line,) = queries.trades(symbol=TOMORROW, limit=5)
    assert line.is_auction
    after = queries.auction(symbol=TOMORROW)
    assert after == market.machine.auction_view(TOMORROW)
    assert (after.kind, after.last_price, after.last_lots) == ("", 1_250, 5)


# Limits and repeats


def test_too_many_orders_for_their_trades_come_again_with_the_next_hour(
    market: Market, key, clock, monkeypatch
) -> None:
    monkeypatch.setattr(limits, "ENTERED_FREE", 1)
    clock.set("2026-12-01T09:59:58.5Z")
    with market.running():
        first, *_, third = say(
            key.buyer, *(("POST", ORDERS, order(name)) for name in ("a", "b", "c"))
        )
    assert (first[0], third[0], third[2]["code"]) == (201, 429, "order_to_trade_ratio")
    assert third[1]["retry-after"] == "2"
    assert models.Order.objects.get(client_order_id="c").status == "REJECTED"


def test_a_retry_after_eight_days_is_answered_as_the_first_was(market: Market, key, clock) -> None:
    body = order("old", type="stop", price=None, stop_price="1.300")
    with market.running():
        ((status, _, first),) = say(key.buyer, ("POST", ORDERS, body))
        clock.set("2026-12-09T09:00Z")
        again, reused = say(
            key.buyer, ("POST", ORDERS, body), ("POST", ORDERS, {**body, "stop_price": "1.301"})
        )
    assert status == 201
    assert (again[0], again[1]["idempotency-replayed"], again[2]) == (201, "true", first)
    assert (reused[0], reused[2]["code"]) == (409, "key_reuse")
    market.work()  # the answers came from its row, maybe before the engine saw the eight days
    row = models.Order.objects.get()
    assert row.status == "EXPIRED"


def test_a_caller_who_hung_up_gets_the_first_answer_when_it_comes_again(
    market: Market, key
) -> None:
    body = json.dumps(order("gone")).encode()

    async def hang_up(app: Entry):
        scope = {
            "type": "http",
            "method": "POST",
            "path": ORDERS,
            "raw_path": ORDERS.encode(),
            "query_string": b"",
            "headers": [
                (b"authorization", f"Bearer {key.buyer}".encode()),
                (b"content-type", b"application/json"),
            ],
            "client": ("127.0.0.1", 1),
        }

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_):
            raise OSError("the caller is gone")

        asked = asyncio.create_task(app(scope, receive, send))
        with pytest.raises(OSError, match="gone"):
            await asked
        return await call(app, "POST", ORDERS, key.buyer, order("gone"))

    with market.running():
        status, headers, answer = talk(hang_up)
    assert (status, headers["idempotency-replayed"], answer["status"]) == (201, "true", "open")
    assert models.Order.objects.count() == 1


def test_a_preview_without_an_answer_may_be_asked_again(deaf: Market, key) -> None:
    async def conversation(app: Entry):
        return await call(app, "POST", ORDERS + "/test", key.buyer, LIMIT)

    with deaf.running():
        status, headers, problem = talk(conversation, reply_timeout_s=0.2)
    assert (status, problem["code"], headers["retry-after"]) == (503, "engine_unavailable", "1")
