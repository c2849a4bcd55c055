"""Orders over the WebSocket: as over REST, and canceled when the connection ends."""

import base64
import hashlib
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import connections

from exchange import models
from exchange import operations as exchange
from marketplace import dealing, http, operations, stream
from tests.market import HOUR
from tests.rest import Party, World

OTHER_HOUR = "LLAMA70B.H.20261201T15Z"


@pytest.fixture
def buyer(world: World) -> Party:
    return world.party("Buyer", cash=1_000_000_000)


@pytest.fixture
def seller(world: World) -> Party:
    made = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(made)
    return made


def order(name: str, **changed: Any) -> dict[str, Any]:
    given = {"instrument": HOUR, "side": "buy", "price": "1.240", "quantity": 5}
    return {"op": "place", "client_order_id": name} | given | changed


def statuses(party: Party) -> dict[str, tuple[str, str]]:
    """What became of the orders of a party, by client order id."""
    rows = models.Order.objects.filter(organization_id=party.id)
    return {row.client_order_id: (row.status, row.reason) for row in rows}


def test_an_order_is_placed_amended_and_canceled(world: World, call, buyer) -> None:
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        placed = caller.ask(order("o1") | {"id": "a"})
        assert (placed["type"], placed["id"]) == ("placed", "a")
        assert placed["data"]["status"] == "open"
        assert placed["data"]["client_order_id"] == "o1"
        number = placed["data"]["id"]
        assert buyer.api.get(f"orders/{number}").json == placed["data"]

        amended = caller.ask({"op": "amend", "id": 2, "order": number, "quantity": 3})
        assert (amended["type"], amended["data"]["quantity"]) == ("amended", 3)
        canceled = caller.ask({"op": "cancel", "id": 3, "order": number})
        assert (canceled["type"], canceled["data"]["status"]) == ("canceled", "canceled")
        assert buyer.api.get(f"orders/{number}").json == canceled["data"]
        again = caller.ask({"op": "cancel", "id": 4, "order": number})
        assert (again["code"], again["status"], again["id"]) == ("order_closed", 422, 4)
        assert caller.ask({"op": "cancel", "order": "999"})["code"] == "unknown_order"


def test_the_id_of_a_message_names_the_order_where_nothing_else_does(
    world: World, call, buyer
) -> None:
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        number = caller.ask(order("o1"))["data"]["id"]
        amended = caller.ask({"op": "amend", "id": number, "quantity": 3})
        assert (amended["id"], amended["data"]["quantity"]) == (number, 3)
        canceled = caller.ask({"op": "cancel", "id": number})
        assert (canceled["id"], canceled["data"]["status"]) == (number, "canceled")


def test_a_client_order_id_stands_for_one_order_at_every_door(world: World, call, buyer) -> None:
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        first = caller.ask(order("o1"))
        again = caller.ask(order("o1"))
        assert again["data"] == first["data"]
        assert ("replayed" in first, again["replayed"]) == (False, True)
        other = caller.ask(order("o1", quantity=6))
        assert (other["status"], other["code"]) == (409, "key_reuse")

        exchange.place(
            organization=buyer.id,
            instrument=HOUR,
            side=1,
            price_ticks=1_230,
            lots=2,
            client_order_id="o2",
        )
        replay = caller.ask(order("o2", price="1.230", quantity=2))
        assert replay["replayed"]
        assert models.Order.objects.count() == 2


def test_what_a_rule_refuses_is_a_problem_with_its_code(world: World, call, buyer) -> None:
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        for message, code, status in (
            (order("a", price="9.000"), "outside_band", 422),
            (order("b", instrument="LLAMA70B.H.20201201T14Z"), "unknown_instrument", 422),
            (order("c", price="1.24"), "malformed", 400),
            (order("d", colour="red"), "malformed", 400),
            ({"op": "place", "instrument": HOUR}, "malformed", 400),
            ({"op": "amend", "order": "1"}, "malformed", 400),
            ({"op": "cancel"}, "malformed", 400),
            ({"op": "cancel", "order": "x"}, "not_found", 404),
        ):
            problem = caller.ask(message)
            assert (problem["code"], problem["status"]) == (code, status), message


def test_only_a_key_that_may_trade_and_need_not_sign_trades(world: World, call, buyer) -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    reader = operations.create_key(organization_id=buyer.id, scopes=["read"])
    signer = operations.create_key(
        organization_id=buyer.id,
        scopes=["read", "trade"],
        public_key=public,
    )
    with world.running():
        nobody = call()
        assert nobody.ask(order("a"))["code"] == "unauthenticated"
        assert nobody.ask({"op": "cancel_on_disconnect", "enabled": True})["status"] == 401

        looker = call()
        looker.auth(reader.text)
        for message in (
            order("b"),
            {"op": "amend", "order": "1", "quantity": 1},
            {"op": "cancel", "order": "1"},
            {"op": "cancel_on_disconnect", "enabled": True},
        ):
            assert looker.ask(message)["code"] == "missing_scope"

        unsigned = call()
        assert unsigned.ask({"op": "auth", "key": signer.text})["code"] == "invalid_signature"

        signed = call(_signed(private))
        signed.auth(signer.text)
        signed.subscribe("orders")
        assert signed.first("orders")["type"] == "snapshot"
        assert signed.ask(order("c"))["code"] == "forbidden"
    assert models.Order.objects.count() == 0


def _signed(private: Ed25519PrivateKey) -> list[tuple[bytes, bytes]]:
    """The headers of a handshake that is signed."""
    stamp = str(int(time.time() * 1000))
    signed = "\n".join([stamp, "GET", "/ws/v1", hashlib.sha256(b"").hexdigest()])
    signature = base64.b64encode(private.sign(signed.encode()))
    return [
        (b"host", b"127.0.0.1:8000"),
        (b"baseload-timestamp", stamp.encode()),
        (b"baseload-signature", signature),
    ]


def test_the_limit_of_writes_is_one_for_both_doors(world: World, call, buyer, monkeypatch) -> None:
    monkeypatch.setattr(http, "WRITES", http.RateLimiter(per_second=1, burst_s=3))
    key = buyer.api.key.split("_")[2]
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        http.WRITES.take(f"key:{key}")
        assert caller.ask(order("a"))["type"] == "placed"
        assert caller.ask(order("b"))["type"] == "placed"
        refused = caller.ask(order("c"))
        assert (refused["code"], refused["status"]) == ("rate_limited", 429)
        with pytest.raises(http.RateLimited):
            http.WRITES.take(f"key:{key}")


def test_reading_goes_on_while_orders_wait(world: World, call, buyer) -> None:
    caller = call()
    caller.auth(buyer.api.key)
    for number in range(5):
        caller.send(order(f"o{number}") | {"id": number})
    # The engine does nothing yet, and the connection answers all the same.
    assert caller.ask({"op": "ping", "id": "p"})["type"] == "pong"
    assert models.Order.objects.count() == 0
    with world.running():
        for number in range(5):
            answer = caller.await_message(lambda one, number=number: one.get("id") == number)
            assert answer["type"] == "placed"
    rows = models.Order.objects.order_by("id").values_list("client_order_id", flat=True)
    assert list(rows) == [f"o{number}" for number in range(5)]


def test_so_many_orders_of_a_connection_may_wait(world: World, call, buyer, monkeypatch) -> None:
    monkeypatch.setattr(stream, "DEALS_AT_ONCE_MAX", 2)
    caller = call()
    caller.auth(buyer.api.key)
    for number in range(3):
        caller.send(order(f"o{number}") | {"id": number})
    refused = caller.problem()
    assert (refused["id"], refused["code"]) == (2, "rate_limited")
    with world.running():
        assert caller.await_message(lambda one: one.get("id") == 1)["type"] == "placed"


def test_a_connection_that_ends_takes_the_open_orders_with_it(
    world: World, call, buyer, seller
) -> None:
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        answer = caller.ask({"op": "cancel_on_disconnect", "enabled": True})
        assert (answer["type"], answer["data"]) == ("cancel_on_disconnect", {"enabled": True})
        caller.ask(order("a"))
        caller.ask(order("b", instrument=OTHER_HOUR))
        exchange.place(
            organization=seller.id,
            instrument=HOUR,
            side=-1,
            price_ticks=1_300,
            lots=1,
            client_order_id="s",
        )
        watcher = call()
        watcher.auth(buyer.api.key)
        watcher.subscribe("orders")
        watcher.first("orders")
        caller.leave()
        gone: set[str] = set()
        while len(gone) < 2:
            for state in watcher.first("orders")["data"]:
                assert (state["status"], state["reason"]) == ("canceled", "disconnected")
                gone.add(state["client_order_id"])
    assert gone == {"a", "b"}
    assert statuses(seller) == {"s": ("OPEN", "")}


def test_what_was_switched_off_again_cancels_nothing(world: World, call, buyer) -> None:
    with world.running():
        caller, other = call(), call()
        for one in (caller, other):
            one.auth(buyer.api.key)
            one.ask({"op": "cancel_on_disconnect", "enabled": True})
        caller.ask(order("a"))
        caller.ask({"op": "cancel_on_disconnect", "enabled": False})
        assert world.market.machine.state.accounts[buyer.id].switches
        other.ask({"op": "cancel_on_disconnect", "enabled": False})
        assert not world.market.machine.state.accounts[buyer.id].switches
        caller.leave()
        other.leave()
        caller.await_close()
        other.await_close()
        assert call().ask({"op": "ping"})["type"] == "pong"
    assert statuses(buyer) == {"a": ("OPEN", "")}


def test_a_process_that_dies_takes_the_open_orders_with_it_too(
    world: World, call, buyer, clock, monkeypatch
) -> None:
    monkeypatch.setattr(dealing, "SWITCH_RENEW_S", 0.05)
    with world.running():
        caller = call()
        caller.auth(buyer.api.key)
        caller.ask({"op": "cancel_on_disconnect", "enabled": True})
        caller.ask(order("a"))
        caller.subscribe("orders")
        caller.first("orders")
        account = world.market.machine.state.accounts[buyer.id]
        (due,) = account.switches.values()
        assert due == clock.at + dealing.SWITCH_TIMEOUT_S * 1_000_000
        clock.advance(seconds=5)
        deadline = time.monotonic() + 10
        later = clock.at + dealing.SWITCH_TIMEOUT_S * 1_000_000
        while account.switches and next(iter(account.switches.values())) < later:
            assert time.monotonic() < deadline, "it is renewed"
            time.sleep(0.01)

        caller.loop.loop.call_soon_threadsafe(stream._desk._renewing.cancel)  # as if killed
        caller.ask({"op": "ping"})
        clock.advance(seconds=dealing.SWITCH_TIMEOUT_S)
        gone = caller.first("orders")["data"][0]
    assert (gone["client_order_id"], gone["reason"]) == ("a", "disconnected")
    connections.close_all()
