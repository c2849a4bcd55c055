"""Bodies that cannot be understood, at every door of order entry: named, and never journaled."""

import json
import time

import pytest

from exchange import models
from exchange.entry import Entry
from settlement import instructions
from tests.door import LIMIT, call, place, talk
from tests.market import BUYER, Market

pytestmark = pytest.mark.django_db(transaction=True)

STRIP = {
    "grade": "LLAMA70B",
    "side": "buy",
    "from": "2026-12-01T14:00:00Z",
    "to": "2026-12-01T16:00:00Z",
    "price": "1.255",
    "quantity": 5,
    "client_order_id": "s1",
}
DOORS = [
    ("POST", "/api/v1/orders", LIMIT, "quantity"),
    ("POST", "/api/v1/orders/test", LIMIT, "quantity"),
    ("POST", "/api/v1/orders/batch", {"operations": [{"op": "place", **LIMIT}]}, "operations"),
    ("POST", "/api/v1/orders/cancel-all-after", {"timeout_ms": 5_000}, "timeout_ms"),
    ("POST", "/api/v1/strips", STRIP, "quantity"),
    ("POST", "/api/v1/strips/test", STRIP, "quantity"),
    ("PATCH", "/api/v1/orders/1", {"quantity": 3}, "quantity"),
]


@pytest.mark.parametrize(("method", "path", "valid", "field"), DOORS)
def test_what_is_no_valid_body_is_refused_at_every_door(
    market: Market, key, method, path, valid, field
) -> None:
    text = json.dumps(valid)
    long = json.dumps({**valid, field: 0}).replace(f'"{field}": 0', f'"{field}": {"9" * 5_000}')
    bodies = [
        (text[:-1] + f', "{field}": 1}}', field),
        (text[:-1] + ', "is_admin": true}', "is_admin"),
        (json.dumps({**valid, field: {}}), field),
        (json.dumps({**valid, field: True}), field),
        (json.dumps({**valid, field: None}), field),
        (long, field),
        (text[:-1], None),
        ("[]", None),
        ("null", None),
        ("", None),
        ("[" * 100_000 + "]" * 100_000, None),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, None),
        (text.replace("{", '{"\ud800": 1, ', 1), None),
    ]

    async def conversation(app: Entry):
        answers = []
        for body, _ in bodies:
            started = time.monotonic()
            data = body.encode("utf-8", "surrogatepass")
            answers.append(await call(app, method, path, key.buyer, data))
            assert time.monotonic() - started < 1
        answers.append(await call(app, method, path, key.buyer, valid, query="limit=1"))
        return answers

    before = market.engine.head.sequence
    with market.running():
        answers = talk(conversation)
    for (body, blamed), (status, _, problem) in zip([*bodies, ("", None)], answers, strict=True):
        if method == "PATCH" and body == json.dumps({field: None}):
            continue
        assert (status, problem["code"]) == (400, "malformed"), body[:80]
        if blamed is not None and "null" not in body:
            assert problem["errors"][0]["field"] == blamed, body[:80]
    assert market.engine.head.sequence == before
    assert not models.Order.objects.exists()


@pytest.mark.parametrize(("method", "path", "valid", "_"), DOORS)
def test_another_kind_of_body_is_refused_at_every_door(
    market: Market, key, method, path, valid, _
) -> None:
    async def conversation(app: Entry):
        return await call(
            app, method, path, key.buyer, valid, content_type="application/x-www-form-urlencoded"
        )

    with market.running():
        status, _, problem = talk(conversation)
    assert (status, problem["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("method", "path", "valid", "_"), DOORS)
def test_every_door_needs_the_scope_to_trade(market: Market, key, method, path, valid, _) -> None:
    async def conversation(app: Entry):
        return (
            await call(app, method, path, key.reader, valid),
            await call(app, method, path, "bl_demo_x_y", valid),
        )

    with market.running():
        reader, nobody = talk(conversation)
    assert (reader[0], reader[2]["code"]) == (403, "missing_scope")
    assert (nobody[0], nobody[2]["code"]) == (401, "invalid_key")


@pytest.mark.parametrize("name", [None, "", "x" * 256, "é", "a\u0000", "a\n", 5])
@pytest.mark.parametrize("path", ["/api/v1/orders", "/api/v1/strips"])
def test_what_enters_needs_a_name_of_its_own(market: Market, key, path, name) -> None:
    valid = LIMIT if path.endswith("orders") else STRIP
    body = {**valid, "client_order_id": name}
    if name is None:
        del body["client_order_id"]

    async def conversation(app: Entry):
        return await call(app, "POST", path, key.buyer, body)

    with market.running():
        status, _, problem = talk(conversation)
    assert (status, problem["errors"][0]["field"]) == (400, "client_order_id")


def test_a_refusal_for_want_of_money_stays_when_the_money_has_come(market: Market, key) -> None:
    dear = {"quantity": 90_000, "price": "1.430"}
    with market.running():
        first = talk(place(key.buyer, **dear))
    market.instruct("more", instructions.Deposit(account=BUYER, amount_micros=10**12))
    with market.running():
        again = talk(place(key.buyer, **dear))
        other = talk(place(key.buyer, **{**dear, "quantity": 100, "client_order_id": "c2"}))
    assert (first[0], first[2]["code"]) == (422, again[2]["code"])
    assert again[1]["idempotency-replayed"] == "true"
    assert other[0] == 201
