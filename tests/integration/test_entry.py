"""Order entry over its ASGI interface, with a real engine behind the stream."""

import asyncio
import json

import pytest
import valkey as valkey_client

from exchange import models
from exchange.entry import Entry
from marketplace import http
from settlement import channels, doorbell
from tests.door import LIMIT, call, place, talk
from tests.market import HOUR, Market

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_order_is_answered_as_a_whole_after_it_is_durable(market: Market, key) -> None:
    with market.running():
        status, headers, order = talk(place(key.buyer))
    assert status == 201
    assert headers["request-id"].startswith("req_")
    assert headers["ratelimit-limit"] == "500"
    row = models.Order.objects.get(client_order_id="c1")
    assert order == {
        "id": str(row.id),
        "instrument": HOUR,
        "side": "buy",
        "type": "limit",
        "price": "1.250",
        "stop_price": None,
        "quantity": 5,
        "display_quantity": None,
        "min_quantity": None,
        "time_in_force": "gtc",
        "expires_at": None,
        "post_only": False,
        "reduce_only": False,
        "self_trade_prevention": "cancel_newest",
        "client_order_id": "c1",
        "status": "open",
        "filled_quantity": 0,
        "remaining_quantity": 5,
        "average_price": None,
        "fee": "0.000000",
        "sequence": row.sequence,
        "reason": None,
        "created_at": "2026-12-01T09:00:00.000000Z",
        "updated_at": "2026-12-01T09:00:00.000000Z",
        "fills": [],
    }


def test_a_fill_is_in_the_answer_and_a_retry_is_answered_as_the_first(market: Market, key) -> None:
    async def conversation(app: Entry):
        sold = await call(
            app, "POST", "/api/v1/orders", key.seller, {**LIMIT, "side": "sell", "quantity": 9}
        )
        bought = await call(app, "POST", "/api/v1/orders", key.buyer, LIMIT)
        again = await call(
            app, "POST", "/api/v1/orders", key.seller, {**LIMIT, "side": "sell", "quantity": 9}
        )
        other = await call(app, "POST", "/api/v1/orders", key.buyer, {**LIMIT, "quantity": 6})
        return sold, bought, again, other

    with market.running():
        sold, bought, again, other = talk(conversation)
    status, _, order = bought
    assert (status, order["status"], order["filled_quantity"]) == (201, "filled", 5)
    assert (order["average_price"], order["fee"]) == ("1.250000", "0.000750")
    (fill,) = order["fills"]
    assert (fill["liquidity"], fill["price"], fill["quantity"]) == ("taker", "1.250", 5)
    # The seller's order was filled since, yet its retry is answered as the first request was.
    assert again[0] == 201
    assert again[1]["idempotency-replayed"] == "true"
    assert again[2] == sold[2]
    assert (other[0], other[2]["code"]) == (409, "key_reuse")


def test_a_rule_refuses_with_its_reason_and_remembers_it(market: Market, key) -> None:
    with market.running():
        first = talk(place(key.buyer, price="9.000"))
        again = talk(place(key.buyer, price="9.000"))
        unknown = talk(place(key.buyer, instrument="NONE.H.20261201T14Z", client_order_id="c2"))
    assert (first[0], first[2]["code"]) == (422, "outside_band")
    assert "idempotency-replayed" not in first[1]
    assert (again[0], again[2]["code"]) == (422, "outside_band")
    assert again[1]["idempotency-replayed"] == "true"
    assert (unknown[0], unknown[2]["code"]) == (422, "unknown_instrument")


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"price": "1.25"}, 400, "malformed", "price"),
        ({"price": 1.25}, 400, "malformed", "price"),
        ({"price": "-0.001"}, 400, "malformed", "price"),
        ({"price": "0.000"}, 400, "malformed", "price"),
        ({"price": None}, 400, "malformed", "price"),
        ({"quantity": True}, 400, "malformed", "quantity"),
        ({"quantity": "5"}, 400, "malformed", "quantity"),
        ({"quantity": 0}, 400, "malformed", "quantity"),
        ({"quantity": -5}, 400, "malformed", "quantity"),
        ({"quantity": 10**30}, 400, "malformed", "quantity"),
        ({"side": "BUY"}, 400, "malformed", "side"),
        ({"client_order_id": ""}, 400, "malformed", "client_order_id"),
        ({"client_order_id": "x" * 256}, 400, "malformed", "client_order_id"),
        ({"client_order_id": "a\x00"}, 400, "malformed", "client_order_id"),
        ({"client_order_id": "é"}, 400, "malformed", "client_order_id"),
        ({"instrument": "llama"}, 400, "malformed", "instrument"),
        ({"is_admin": True}, 400, "malformed", "is_admin"),
        ({"type": "market"}, 400, "malformed", "price"),
        ({"type": "stop_limit"}, 400, "malformed", "stop_price"),
        ({"time_in_force": "gtd"}, 400, "malformed", "expires_at"),
        ({"display_quantity": 5}, 400, "malformed", "display_quantity"),
        ({"post_only": "yes"}, 400, "malformed", "post_only"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name_and_never_journaled(
    market: Market, key, change, status, code, field
) -> None:
    before = market.engine.head.sequence
    with market.running():
        found, _, problem = talk(place(key.buyer, **change))
    assert (found, problem["code"], problem["errors"][0]["field"]) == (status, code, field)
    assert market.engine.head.sequence == before
    assert not models.Order.objects.exists()


def test_equal_keys_wrong_keys_and_missing_scopes_are_refused(market: Market, key) -> None:
    async def conversation(app: Entry):
        doubled = json.dumps(LIMIT)[:-1].encode() + b', "quantity": 1000}'
        return (
            await call(app, "POST", "/api/v1/orders", key.buyer, doubled),
            await call(app, "POST", "/api/v1/orders", key.buyer + "x", LIMIT),
            await call(app, "POST", "/api/v1/orders", key.reader, LIMIT),
            await call(app, "PUT", "/api/v1/orders/1", key.buyer, LIMIT),
            await call(app, "POST", "/api/v1/orders", key.buyer, LIMIT, query="x=1"),
        )

    with market.running():
        answers = talk(conversation)
    assert [(status, body["code"]) for status, _, body in answers] == [
        (400, "malformed"),
        (401, "invalid_key"),
        (403, "missing_scope"),
        (405, "method_not_allowed"),
        (400, "malformed"),
    ]


def test_a_cancel_answers_with_the_order_and_only_its_owner_may(market: Market, key) -> None:
    async def conversation(app: Entry):
        _, _, order = await call(app, "POST", "/api/v1/orders", key.buyer, LIMIT)
        path = f"/api/v1/orders/{order['id']}"
        foreign = await call(app, "DELETE", path, key.seller)
        canceled = await call(app, "DELETE", path, key.buyer)
        again = await call(app, "DELETE", path, key.buyer)
        absent = await call(app, "DELETE", "/api/v1/orders/999999", key.buyer)
        nonsense = await call(app, "DELETE", "/api/v1/orders/abc", key.buyer)
        return foreign, canceled, again, absent, nonsense

    with market.running():
        foreign, canceled, again, absent, nonsense = talk(conversation)
    assert (canceled[0], canceled[2]["status"]) == (200, "canceled")
    assert canceled[2]["reason"] == "requested"
    assert (again[0], again[2]["code"]) == (422, "order_closed")
    assert {each[0] for each in (foreign, absent, nonsense)} == {404}


def test_another_method_is_refused_with_those_that_exist(market: Market, key) -> None:
    wrong = [
        ("PATCH", "/api/v1/orders", "DELETE, GET, POST"),
        ("PATCH", "/api/v1/orders/batch", "POST"),
        ("PATCH", "/api/v1/orders/test", "POST"),
        ("DELETE", "/api/v1/orders/cancel-all-after", "POST"),
        ("PATCH", "/api/v1/strips", "POST"),
        ("DELETE", "/api/v1/strips/test", "POST"),
        ("POST", "/api/v1/orders/1", "DELETE, GET, PATCH"),
    ]

    async def conversation(app: Entry):
        return [await call(app, method, path, key.buyer) for method, path, _ in wrong]

    answers = talk(conversation)

    for (method, path, allowed), (status, headers, problem) in zip(wrong, answers, strict=True):
        assert (status, problem["code"]) == (405, "method_not_allowed"), (method, path)
        assert headers["allow"] == allowed, (method, path)


def test_a_mass_cancel_takes_what_matches(market: Market, key) -> None:
    async def conversation(app: Entry):
        for price, name in (("1.200", "a"), ("1.210", "b"), ("1.220", "c")):
            await call(
                app,
                "POST",
                "/api/v1/orders",
                key.buyer,
                {**LIMIT, "price": price, "client_order_id": name},
            )
        none = await call(app, "DELETE", "/api/v1/orders", key.buyer, query="side=sell")
        wrong = [
            await call(app, "DELETE", "/api/v1/orders", key.buyer, query=query)
            for query in ("sides=buy", "instrument=", "grade=", "grade=&side=buy", "side=")
        ]
        every = await call(app, "DELETE", "/api/v1/orders", key.buyer, query="grade=LLAMA70B")
        return none, wrong, every

    with market.running():
        none, wrong, every = talk(conversation)
    assert (none[0], none[2]) == (200, {"results": []})
    fields = ["sides", "instrument", "grade", "grade", "side"]
    assert [answer[2]["errors"][0]["field"] for answer in wrong] == fields
    assert {answer[0] for answer in wrong} == {400}
    assert [order["client_order_id"] for order in every[2]["results"]] == ["a", "b", "c"]
    assert {order["status"] for order in every[2]["results"]} == {"canceled"}


def test_a_batch_answers_each_operation_in_order(market: Market, key) -> None:
    async def conversation(app: Entry):
        operations = [
            {"op": "place", **LIMIT, "client_order_id": "x1"},
            {"op": "place", **LIMIT, "client_order_id": "x2", "price": "1"},
            {"op": "place", **LIMIT, "client_order_id": "x1"},
            {"op": "place", **LIMIT, "client_order_id": "x3", "price": "9.000"},
            {"op": "cancel", "id": "12345"},
        ]
        return await call(
            app, "POST", "/api/v1/orders/batch", key.buyer, {"operations": operations}
        )

    with market.running():
        status, headers, body = talk(conversation)
    assert status == 200
    first, malformed, retry, rejected, unknown = body["results"]
    assert (first["status"], retry) == ("open", first)
    assert [each["code"] for each in (malformed, rejected, unknown)] == [
        "malformed",
        "outside_band",
        "unknown_order",
    ]
    assert headers["ratelimit-remaining"] == "495"


def test_the_limit_of_a_key_is_exact(market: Market, key, monkeypatch) -> None:
    monkeypatch.setattr(http, "WRITES", http.RateLimiter(per_second=2, burst_s=1))

    async def conversation(app: Entry):
        return [
            await call(app, "DELETE", "/api/v1/orders", key.buyer, query="side=sell")
            for _ in range(3)
        ]

    with market.running():
        answers = talk(conversation)
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert answers[2][2]["code"] == "rate_limited"
    assert answers[2][1]["retry-after"] == "1"


def test_a_key_that_stuffs_waits_for_its_refusals_and_others_do_not(
    market: Market, key, monkeypatch
) -> None:
    """FAULTS H82: 429 for that key only, refused before its body is read as an order."""
    monkeypatch.setattr(http, "WRITES", http.RateLimiter(per_second=1, burst_s=2))
    held: list[float] = []

    async def hold(refusal: http.RateLimited) -> None:
        held.append(refusal.hold_s)

    monkeypatch.setattr(http, "hold", hold)
    stuffed = http.REFUSALS_FREE + 5

    async def conversation(app: Entry):
        await call(app, "POST", "/api/v1/orders", key.buyer, LIMIT)
        await call(app, "POST", "/api/v1/orders", key.buyer, {**LIMIT, "client_order_id": "c2"})
        answers = [
            await call(app, "POST", "/api/v1/orders", key.buyer, b"no JSON") for _ in range(stuffed)
        ]
        other = await call(
            app, "POST", "/api/v1/orders", key.seller, {**LIMIT, "side": "sell", "price": "1.260"}
        )
        return answers, other

    with market.running():
        answers, other = talk(conversation)
    assert {(status, problem["code"]) for status, _, problem in answers} == {(429, "rate_limited")}
    assert held == [0.0] * http.REFUSALS_FREE + [http.HOLD_S] * 5
    assert other[0] == 201


def test_without_an_engine_the_answer_is_503_at_once_and_nothing_is_placed_later(
    market: Market, key, valkey: valkey_client.Valkey
) -> None:
    market.loop.close()
    status, headers, problem = talk(place(key.buyer))
    assert (status, problem["code"]) == (503, "engine_unavailable")
    assert headers["retry-after"] == "1"
    market.loop._take_over()
    market.work()
    assert not models.Order.objects.exists()


def test_no_reply_and_no_new_epoch_is_an_unknown_outcome(market: Market, key) -> None:
    # The engine shows life and reads nothing: the order lies in the stream.
    market.loop._beat()
    status, _, problem = talk(place(key.buyer), reply_timeout_s=0.05)
    assert (status, problem["code"]) == (504, "outcome_unknown")
    with market.running():
        status, _, order = talk(place(key.buyer))
    assert (status, order["status"]) == (201, "open")
    assert models.Order.objects.count() == 1


def has_request(client: valkey_client.Valkey) -> bool:
    """Whether an order lies in the first epoch's stream."""
    entries = client.xrange(doorbell.stream_key(1))
    return any(channels.REQUEST_FIELD in fields for _, fields in entries)


def test_an_order_that_an_older_epoch_never_took_is_never_placed(market: Market, key) -> None:
    async def conversation(app: Entry):
        asked = asyncio.create_task(call(app, "POST", "/api/v1/orders", key.buyer, LIMIT))
        while not await asyncio.to_thread(has_request, market.client):
            await asyncio.sleep(0.001)
        await asyncio.to_thread(market.loop._take_over)
        return await asked

    market.loop._beat()
    status, _, problem = talk(conversation)
    assert (status, problem["code"]) == (503, "never_placed")
    market.work()
    assert not models.Order.objects.exists()


def test_a_lost_reply_is_looked_up(market: Market, key, monkeypatch) -> None:
    monkeypatch.setattr(market.engine, "_publish", lambda *_: None)
    with market.running():
        status, _, order = talk(place(key.buyer), reply_timeout_s=0.5)
    assert (status, order["client_order_id"], order["status"]) == (201, "c1", "open")


def test_a_full_backlog_is_refused(market: Market, key, monkeypatch) -> None:
    from exchange import client

    monkeypatch.setattr(client, "COMMAND_BACKLOG_MAX", 1)
    market.client.xadd(doorbell.stream_key(1), {"d": "1"})
    market.loop._beat()
    status, headers, problem = talk(place(key.buyer))
    assert (status, problem["code"]) == (503, "engine_overloaded")
    assert headers["retry-after"] == "1"
