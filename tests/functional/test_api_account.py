"""Money and keys over REST: what is answered, what is refused, and that it happens once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from marketplace import errors, keys, models
from settlement import models as settlement_models
from tests.market import HOUR, buy, sell
from tests.rest import Api, Party, World


@pytest.fixture
def buyer(world: World) -> Party:
    return world.party("Northwind")


def test_a_demos_deposit_is_posted_at_once(world: World, buyer: Party) -> None:
    with world.running():
        reply = buyer.api.post("deposits", {"amount": "250.5"}, key="d1")
    assert reply.status == 201
    assert reply.json == {
        "id": reply.json["id"],
        "amount": "250.500000",
        "state": "posted",
        "created_at": "2026-12-01T09:00:00.000000Z",
    }
    account = buyer.api.get("account").json
    assert (account["cash"], account["available"]) == ("250.500000", "250.500000")
    assert (account["escrow"], account["order_margin"]) == ("0.000000", "0.000000")
    (entry,) = buyer.api.get("ledger").json["results"]
    assert (entry["code"], entry["amount"], entry["balance"]) == (
        "deposit",
        "250.500000",
        "250.500000",
    )


def test_the_same_key_is_answered_as_the_first_time(world: World, buyer: Party) -> None:
    with world.running():
        first = buyer.api.post("deposits", {"amount": "10"}, key="once")
        second = buyer.api.post("deposits", {"amount": "10"}, key="once")
    assert (first.status, second.status) == (201, 201)
    assert second.json == first.json
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_the_same_key_with_another_body_is_refused(world: World, buyer: Party) -> None:
    with world.running():
        buyer.api.post("deposits", {"amount": "10"}, key="once")
        other = buyer.api.post("deposits", {"amount": "11"}, key="once")
        elsewhere = buyer.api.post("withdrawals", {"amount": "10"}, key="once")
    assert (other.status, other.code) == (409, "key_reuse")
    assert (elsewhere.status, elsewhere.code) == (409, "key_reuse")
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_a_key_is_an_organizations_own(world: World, buyer: Party) -> None:
    other = world.party("Contoso")
    with world.running():
        assert buyer.api.post("deposits", {"amount": "10"}, key="same").status == 201
        reply = other.api.post("deposits", {"amount": "20"}, key="same")
    assert (reply.status, "Idempotency-Replayed" in reply.headers) == (201, False)
    assert other.api.get("account").json["cash"] == "20.000000"


def test_an_idempotency_key_is_required_and_has_a_form(buyer: Party) -> None:
    for key in (None, "", "x" * 256, "ключ", "a\x7fb", "a\tb"):
        headers = {} if key is None else {"Idempotency-Key": key}
        reply = buyer.api.send("POST", "deposits", body={"amount": "10"}, headers=headers)
        assert reply.status == 400, key
        assert reply.blamed[0][0] == "Idempotency-Key"
    assert settlement_models.Instruction.objects.filter(id__startswith="deposit:").count() == 0


def test_one_key_sent_at_once_by_many_deposits_once(world: World, buyer: Party) -> None:
    barrier = threading.Barrier(8)

    def send(_: int) -> tuple[int, str]:
        barrier.wait()
        try:
            reply = buyer.api.post("deposits", {"amount": "10"}, key="race")
            return reply.status, reply.json["id"]
        finally:
            connection.close()

    with world.running(), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 201
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_a_refused_withdrawal_stays_refused_under_its_key(world: World, buyer: Party) -> None:
    with world.running():
        first = buyer.api.post("withdrawals", {"amount": "5"}, key="w1")
        assert (first.status, first.code) == (422, "insufficient_funds")
        assert buyer.api.post("deposits", {"amount": "10"}).status == 201
        again = buyer.api.post("withdrawals", {"amount": "5"}, key="w1")
        assert (again.status, again.json) == (422, first.json)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert buyer.api.get("account").json["cash"] == "10.000000"
        fresh = buyer.api.post("withdrawals", {"amount": "5"}, key="w2")
    assert (fresh.status, fresh.json["state"]) == (201, "posted")
    assert buyer.api.get("account").json["cash"] == "5.000000"


def test_of_many_withdrawals_of_everything_one_succeeds(world: World, buyer: Party) -> None:
    def withdraw(number: int) -> int:
        try:
            return buyer.api.post("withdrawals", {"amount": "10"}, key=f"all-{number}").status
        finally:
            connection.close()

    with world.running():
        buyer.api.post("deposits", {"amount": "10"})
        with ThreadPoolExecutor(32) as pool:
            statuses = sorted(pool.map(withdraw, range(32)))
    assert statuses == [201] + [422] * 31
    assert buyer.api.get("account").json["cash"] == "0.000000"


def test_of_a_burst_of_withdrawals_as_many_succeed_as_the_balance_has_room_for(
    world: World, buyer: Party
) -> None:
    def withdraw(number: int) -> tuple[int, str]:
        try:
            reply = buyer.api.post("withdrawals", {"amount": "3"}, key=f"burst-{number}")
            return reply.status, "" if reply.status == 201 else reply.code
        finally:
            connection.close()

    with world.running():
        buyer.api.post("deposits", {"amount": "10"})
        with ThreadPoolExecutor(16) as pool:
            answers = sorted(pool.map(withdraw, range(16)))
    assert [status for status, _ in answers] == [201] * 3 + [422] * 13
    assert {code for status, code in answers if status == 422} == {"insufficient_funds"}
    assert buyer.api.get("account").json["cash"] == "1.000000"


def test_a_key_is_remembered_after_eight_days(world: World, buyer: Party, clock) -> None:
    with world.running():
        first = buyer.api.post("deposits", {"amount": "10"}, key="old")
        clock.set("2026-12-09T09:00Z")
        again = buyer.api.post("deposits", {"amount": "10"}, key="old")
        other = buyer.api.post("deposits", {"amount": "11"}, key="old")
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status, other.code) == (409, "key_reuse")
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_an_answer_that_was_lost_is_formed_again_from_what_was_done(
    world: World, buyer: Party
) -> None:
    with world.running():
        first = buyer.api.post("deposits", {"amount": "10"}, key="lost")
    # As after a crash between the effect's commit and the answer's.
    models.IdempotencyRecord.objects.update(status=None, body=None)
    again = buyer.api.post("deposits", {"amount": "10"}, key="lost")
    assert (again.status, again.json) == (201, first.json)
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_a_deposit_without_an_engine_is_kept_and_posted_later(
    world: World, buyer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.operations.INSTRUCTION_TIMEOUT_S", 0.05)
    reply = buyer.api.post("deposits", {"amount": "10"}, key="early")
    assert (reply.status, reply.code) == (504, "outcome_unknown")
    world.market.work()
    again = buyer.api.post("deposits", {"amount": "10"}, key="early")
    assert (again.status, again.json["state"]) == (201, "posted")
    assert buyer.api.get("account").json["cash"] == "10.000000"


def test_in_production_a_deposit_waits_for_an_operator(
    world: World, buyer: Party, settings
) -> None:
    from marketplace import operations

    settings.IS_DEMO = False
    reply = buyer.api.post("deposits", {"amount": "10"}, key="p1")
    assert (reply.status, reply.json["state"]) == (202, "pending")
    assert buyer.api.get("account").json["cash"] == "0.000000"
    with world.running():
        operations.confirm_deposit(
            deposit_id=int(reply.json["id"]), actor="ada@baseload.example", reason="wire 17"
        )
    assert buyer.api.get("account").json["cash"] == "10.000000"
    (entry,) = models.AuditEntry.objects.all()
    assert (entry.action, entry.reason) == ("confirm_deposit", "wire 17")


def test_in_production_a_withdrawal_is_held_until_an_operator_decides(
    world: World, buyer: Party, settings
) -> None:
    from marketplace import operations

    with world.running():
        buyer.api.post("deposits", {"amount": "10"})
        settings.IS_DEMO = False
        paid = buyer.api.post("withdrawals", {"amount": "4"}, key="w1")
        kept = buyer.api.post("withdrawals", {"amount": "5"}, key="w2")
        assert (paid.status, paid.json["state"]) == (kept.status, kept.json["state"])
        assert (kept.status, kept.json["state"]) == (202, "held")
        assert buyer.api.post("withdrawals", {"amount": "1.000001"}).code == "insufficient_funds"
        assert buyer.api.get("account").json["withdrawable"] == "1.000000"
        for reply, is_paid in ((paid, True), (kept, False)):
            operations.decide_withdrawal(
                withdrawal_id=int(reply.json["id"]), is_paid=is_paid, actor="ada", reason="wire 18"
            )
        for is_paid in (True, False):
            with pytest.raises(errors.Refusal) as again:
                operations.decide_withdrawal(
                    withdrawal_id=int(kept.json["id"]), is_paid=is_paid, actor="ada", reason="no"
                )
            assert again.value.code == "hold_unknown"
    assert buyer.api.get("account").json["cash"] == "6.000000"
    assert list(models.Withdrawal.objects.order_by("id").values_list("state", flat=True)) == [
        "POSTED",
        "VOIDED",
        "REFUSED",
    ]
    actions = models.AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions)[:2] == ["pay_withdrawal", "void_withdrawal"]
    lines = [line["amount"] for line in buyer.api.get("ledger").json["results"]]
    assert lines == ["-4.000000", "10.000000"]


def test_an_amount_has_one_spelling(buyer: Party) -> None:
    wrong = "0 0.0000001 -1 +1 1e3 .5 5. 1_000 １２ NaN 01 1.0.0".split()
    for amount in (*wrong, "", " 5", "5\n"):
        reply = buyer.api.post("deposits", {"amount": amount})
        assert (reply.status, reply.blamed) == (400, [("amount", "invalid_amount")]), amount


BODIES = [
    (b'{"amount":"10","amount":"1000"}', [("amount", "duplicate_key")]),
    (b'{"amount":"10","\\u0061mount":"1000"}', [("amount", "duplicate_key")]),
    (b'{"amount":10}', [("amount", "wrong_type")]),
    (b'{"amount":1.0000000000000000000001}', [("amount", "wrong_type")]),
    (b'{"amount":true}', [("amount", "wrong_type")]),
    (b'{"amount":NaN}', [("amount", "invalid_json")]),
    (b'{"amount":Infinity}', [("amount", "invalid_json")]),
    (b'{"amount":null}', [("amount", "wrong_type")]),
    (b'{"amount":' + b"9" * 5000 + b"}", None),
    (b"{}", [("amount", "missing_field")]),
    (b"", [("amount", "missing_field")]),
    (b"[]", []),
    (b'{"amount":"10","org_id":1}', [("org_id", "unknown_field")]),
    (b'{"amount":"10","balance":"1"}', [("balance", "unknown_field")]),
    (b'{"amount":"\xff"}', []),
    (b'{"amount":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    (b"[" * 100_000, None),
]


def test_a_body_is_refused_by_name(buyer: Party) -> None:
    for body, blamed in BODIES:
        reply = buyer.api.send("POST", "deposits", body=body, headers={"Idempotency-Key": "k"})
        assert (reply.status, reply.code) == (400, "malformed"), body[:40]
        if blamed is not None:
            assert reply.blamed == blamed
    assert models.IdempotencyRecord.objects.count() == 0


def test_a_body_that_is_not_json_is_refused(buyer: Party) -> None:
    for kind in ("text/plain", "multipart/form-data", "", "application/xml"):
        reply = buyer.api.send(
            "POST",
            "deposits",
            body={"amount": "10"},
            headers={"Idempotency-Key": "k"},
            content_type=kind,
        )
        assert (reply.status, reply.code) == (415, "unsupported_media_type"), kind


def test_a_body_beyond_the_limit_is_refused(buyer: Party) -> None:
    body = b'{"amount":"' + b"1" * 1_100_000 + b'"}'
    reply = buyer.api.send("POST", "deposits", body=body, headers={"Idempotency-Key": "k"})
    assert (reply.status, reply.code) == (413, "too_large")


# Positions, fills, orders


def test_a_trade_shows_as_orders_fills_and_positions_of_both(world: World) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    world.market.execute(sell(seller.id, 1_250, 100, "s1"))
    world.market.execute(buy(buyer.id, 1_260, 40, "b1"))

    (order,) = buyer.api.get("orders").json["results"]
    assert buyer.api.get(f"orders/{order['id']}").json == order
    assert (order["status"], order["average_price"]) == ("filled", "1.250000")
    assert (order["filled_quantity"], order["remaining_quantity"]) == (40, 0)
    (fill,) = buyer.api.get("fills").json["results"]
    assert (fill["price"], fill["quantity"], fill["liquidity"]) == ("1.250", 40, "taker")
    (position,) = buyer.api.get("positions").json["results"]
    assert (position["instrument"], position["quantity"]) == (HOUR, 40)
    assert (position["average_price"], position["cost"]) == ("1.250000", "3.000000")
    (short,) = seller.api.get("positions").json["results"]
    assert (short["quantity"], short["average_price"], short["cost"]) == (
        -40,
        "1.250000",
        "-3.000000",
    )
    (resting,) = seller.api.get("orders", status="live").json["results"]
    assert (resting["status"], resting["remaining_quantity"]) == ("partially_filled", 60)
    assert seller.api.get("orders", status="filled").json["results"] == []
    (statement,) = buyer.api.get("statements").json["results"]
    assert (statement["since"], statement["until"]) == (
        "2026-12-01T00:00:00.000000Z",
        "2026-12-02T00:00:00.000000Z",
    )
    cash = statement["accounts"][0]
    assert (cash["account"], cash["opening"]) == ("cash", "0.000000")
    assert cash["closing"] == buyer.api.get("account").json["cash"]
    codes = {(group["instrument"], group["code"]): group["total"] for group in cash["groups"]}
    assert codes == {
        (None, "deposit"): "1000.000000",
        (HOUR, "trading_fee"): "-0.006000",
    }
    margin = buyer.api.get("margin").json
    assert margin["initial_margin"] == margin["positions"][0]["initial_margin"] == "3.000000"
    assert margin["positions"][0] == {
        "instrument": HOUR,
        "quantity": 40,
        "hours": 1,
        "prepaid_hours": 1,
        "tick_value": "0.000060",
        "cost": "3.000000",
        "variation": "0.000000",
        "unpaid": "3.000000",
        "mark_price": "1.250",
        "initial_margin": "3.000000",
    }
    assert (position["product"], position["gain"], position["variation"]) == (
        "hour",
        "0.000000",
        "0.000000",
    )
    book = Api().get(f"instruments/{HOUR}/book").json
    assert (book["bids"], book["asks"]) == ([], [["1.250", 60]])
    (trade,) = Api().get(f"instruments/{HOUR}/trades").json["results"]
    assert (trade["price"], trade["quantity"], trade["side"]) == ("1.250", 40, "buy")
    (candle,) = Api().get(f"instruments/{HOUR}/candles", interval="5m").json["results"]
    assert (candle["open"], candle["volume"], candle["trades"]) == ("1.250", 40, 1)


# Keys


def test_a_key_is_shown_once_and_stored_as_a_digest(world: World, buyer: Party) -> None:
    reply = buyer.api.post("api-keys", {"scopes": ["read"], "name": "reader"}, key="-")
    assert reply.status == 201
    text = reply.json["key"]
    assert text.startswith("bl_demo_" + reply.json["id"] + "_")
    secret = text.rsplit("_", 1)[1]
    with connection.cursor() as cursor:
        cursor.execute("SELECT k::text FROM marketplace_apikey k")
        assert not any(secret in row[0] for row in cursor.fetchall())
    listed = buyer.api.get("api-keys").json["results"]
    assert [row["name"] for row in listed] == ["reader", ""]
    assert "key" not in listed[0]
    assert Api(key=text).get("account").status == 200
    refused = Api(key=text).post("deposits", {"amount": "1"})
    assert (refused.status, refused.code) == (403, "missing_scope")


def test_a_key_gives_no_scope_that_it_lacks(world: World, buyer: Party) -> None:
    reply = buyer.api.post("api-keys", {"scopes": ["read", "operate"]}, key="-")
    assert (reply.status, reply.code) == (403, "missing_scope")


def test_a_revoked_key_is_refused_from_the_answer_on(buyer: Party) -> None:
    made = buyer.api.post("api-keys", {"scopes": ["read"]}, key="-").json
    caller = Api(key=made["key"])
    assert caller.get("account").status == 200
    assert buyer.api.delete(f"api-keys/{made['id']}").status == 200
    reply = caller.get("account")
    assert (reply.status, reply.code) == (401, "invalid_key")
    assert buyer.api.delete(f"api-keys/{made['id']}").status == 404


def test_a_key_of_another_organization_cannot_be_revoked(world: World, buyer: Party) -> None:
    other = world.party("Contoso")
    (row,) = other.api.get("api-keys").json["results"]
    assert buyer.api.delete(f"api-keys/{row['id']}").status == 404
    assert other.api.get("account").status == 200


def test_a_wrong_key_is_one_refusal(world: World) -> None:
    for key in (
        "",
        "bl_demo_",
        "bl_live_0123456789abcdef_" + "0" * 48,
        "bl_demo_0123456789abcdef_" + "0" * 48,
        "x" * 10_000,
        "bl_demo_\u00e9_x",
    ):
        reply = Api(headers={"Authorization": f"Bearer {key}"}).get("account")
        assert (reply.status, reply.code) == (
            401,
            "unauthenticated" if key == "" else "invalid_key",
        )
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert not key or key not in str(reply.json)


def test_no_key_is_refused_where_one_is_needed(anyone: Api) -> None:
    reply = anyone.get("account")
    assert (reply.status, reply.code) == (401, "unauthenticated")


def test_a_key_with_an_address_is_refused_elsewhere(world: World, buyer: Party) -> None:
    made = buyer.api.post("api-keys", {"scopes": ["read"], "addresses": ["10.0.0.0/8"]}, key="-")
    caller = Api(key=made.json["key"], headers={"X-Forwarded-For": "10.0.0.1"})
    reply = caller.get("account")
    assert (reply.status, reply.code) == (403, "address_not_allowed")
    bad = buyer.api.post("api-keys", {"scopes": ["read"], "addresses": ["10.0.0"]}, key="-")
    assert (bad.status, bad.blamed) == (400, [("addresses", "invalid_value")])


def test_keys_that_cannot_be_read_are_refused_with_503(
    world: World, buyer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = keys.shared_ring()
    monkeypatch.setattr(ring, "_snapshot", keys._Snapshot(keys={}, version=0, valid_until_ns=0))
    monkeypatch.setattr(ring, "refresh", lambda: None)
    reply = buyer.api.get("account")
    assert (reply.status, reply.code) == (503, "keys_unavailable")
    assert int(reply.headers["Retry-After"]) >= 1
