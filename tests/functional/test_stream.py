"""The WebSocket as its callers see it, against a running engine."""

import zlib
from typing import Any

import pytest
from django.test import Client

from exchange import operations as exchange
from marketplace import hub, operations, stream
from tests.market import GRADE, HOUR
from tests.rest import Party, World

OWN = [(b"host", b"127.0.0.1:8000"), (b"origin", b"http://127.0.0.1:8000")]


def place(party: Party, side: int, price: int, lots: int, name: str, tif: str = "GTC") -> Any:
    return exchange.place(
        organization=party.id,
        instrument=HOUR,
        side=side,
        price_ticks=price,
        lots=lots,
        client_order_id=name,
        time_in_force=tif,
    )


def checksum(bids: dict[str, int], asks: dict[str, int]) -> int:
    top = sorted(bids.items(), key=lambda level: -float(level[0]))[:10]
    top += sorted(asks.items(), key=lambda level: float(level[0]))[:10]
    return zlib.crc32("|".join(f"{price}:{lots}" for price, lots in top).encode())


def test_a_book_begins_with_a_snapshot_and_follows_without_a_gap(world: World, call) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    with world.running():
        place(buyer, 1, 1_240, 5, "o0")
        caller = call()
        caller.subscribe("book", HOUR)
        snapshot = caller.first("book")
        bids = dict(map(tuple, snapshot["data"]["bids"]))
        asks = dict(map(tuple, snapshot["data"]["asks"]))
        assert snapshot["type"] == "snapshot"
        assert (bids, asks) == ({"1.240": 5}, {})
        sequence = snapshot["sequence"]
        for number in range(12):
            place(buyer, 1, 1_241 + number, 2 + number, f"o{number + 1}")
        while len(bids) < 13:
            delta = caller.first("book")
            assert delta["previous_sequence"] == sequence
            sequence = delta["sequence"]
            for price, lots in delta["data"]["bids"]:
                bids[price] = lots
            assert delta["data"]["checksum"] == checksum(bids, asks)


def test_trades_and_tickers_reach_everybody_and_fills_their_owner(world: World, call) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    with world.running():
        anyone, owner = call(), call()
        anyone.subscribe("trades", HOUR)
        anyone.subscribe("ticker")
        owner.send({"op": "auth", "key": buyer.api.key, "id": 1})
        assert owner.await_message(lambda one: one["type"] == "authenticated")["id"] == 1
        for channel in ("fills", "account", "orders", "entitlements"):
            owner.subscribe(channel)
            assert owner.first(channel)["type"] == "snapshot"
        assert anyone.first("trades")["data"] == []
        place(seller, -1, 1_250, 10, "s1")
        place(buyer, 1, 1_250, 4, "b1")

        trade = anyone.first("trades")["data"][0]
        fill = owner.first("fills")["data"][0]
        assert (trade["price"], trade["quantity"], trade["side"]) == ("1.250", 4, "buy")
        assert (fill["price"], fill["quantity"], fill["liquidity"]) == ("1.250", 4, "taker")
        account = owner.await_message(lambda one: one["channel"] == "account")
        assert account["data"]["cash"] == "999.999400"
        with anyone.news:
            assert not any(one["channel"] in ("fills", "account") for one in anyone.got)


def test_a_ticker_of_everything_begins_with_every_open_instrument(world: World, call) -> None:
    with world.running():
        caller = call()
        caller.subscribe("ticker")
        ticker = caller.await_message(lambda one: one.get("instrument") == HOUR)
        assert ticker["data"]["state"] == "continuous"
        assert ticker["data"]["reference_price"] == "1.250"


def test_private_channels_need_a_key(world: World, call) -> None:
    caller = call()
    caller.send({"op": "subscribe", "channel": "orders", "id": "a"})
    problem = caller.problem()
    assert (problem["status"], problem["code"], problem["id"]) == (401, "unauthenticated", "a")
    caller.send({"op": "auth", "key": "bl_demo_nobody_nothing", "id": "b"})
    assert caller.problem()["code"] == "invalid_key"


def test_a_session_counts_only_from_a_page_of_ours(world: World, call) -> None:
    operations.sign_up(
        email="a@example.com", password="correct horse", organization_name="A", role="BUYER"
    )
    browser = Client()
    browser.login(username="a@example.com", password="correct horse")
    cookie = (b"cookie", f"sessionid={browser.cookies['sessionid'].value}".encode())
    for headers, is_member in (
        ([*OWN, cookie], True),
        ([OWN[0], (b"origin", b"https://evil.example"), cookie], False),
        ([OWN[0], (b"origin", b"http://127.0.0.1:9999"), cookie], False),
        ([(b"host", b"evil.example"), (b"origin", b"http://evil.example"), cookie], False),
        ([OWN[0], cookie], False),
    ):
        caller = call(headers)
        caller.send({"op": "subscribe", "channel": "account", "id": "a"})
        if is_member:
            assert caller.first("account")["type"] == "snapshot"
        else:
            assert caller.problem()["status"] == 401, headers


def test_what_makes_no_sense_is_a_problem_and_the_connection_goes_on(world: World, call) -> None:
    caller = call()
    for message, code in (
        ("{", "malformed"),
        ('{"op": "ping", "op": "ping"}', "malformed"),
        ({"op": "ping", "extra": 1}, "malformed"),
        ({"op": "dance"}, "unsupported_operation"),
        ({"op": ["place"]}, "unsupported_operation"),
        ({"op": {"place": 1}}, "unsupported_operation"),
        ([], "unsupported_operation"),
        ({"op": "ping", "id": {"a": 1}}, "malformed"),
        ({"op": "ping", "id": True}, "malformed"),
        ({"op": "subscribe", "channel": "gossip"}, "unknown_channel"),
        ({"op": "subscribe", "channel": "book"}, "malformed"),
        ({"op": "subscribe", "channel": "book", "instrument": "NOTHING"}, "not_found"),
        ({"op": "subscribe", "channel": "index", "instrument": "NOTHING"}, "not_found"),
        ({"op": "auth"}, "malformed"),
    ):
        caller.send(message)
        assert caller.problem()["code"] == code, message
    caller.send({"op": "ping", "id": 7})
    assert caller.await_message(lambda one: one["type"] == "pong")["id"] == 7


def test_who_subscribes_twice_is_answered_twice_and_told_everything_once(
    world: World, call
) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    with world.running():
        caller = call()
        for number, kinds in ((1, ["snapshot", "subscribed"]), (2, ["subscribed"])):
            caller.send({"op": "subscribe", "channel": "book", "instrument": HOUR, "id": number})
            assert [caller.first("book")["type"] for _ in kinds] == kinds
        place(buyer, 1, 1_240, 5, "o0")
        assert caller.first("book")["data"]["bids"] == [["1.240", 5]]
        place(buyer, 1, 1_241, 5, "o1")
        assert caller.first("book")["data"]["bids"] == [["1.241", 5]]


def test_after_unsubscribing_nothing_more_is_said(world: World, call) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    with world.running():
        caller = call()
        caller.subscribe("book", HOUR)
        caller.first("book")
        caller.send({"op": "unsubscribe", "channel": "book", "instrument": HOUR, "id": 1})
        caller.await_message(lambda one: one["type"] == "unsubscribed")
        caller.subscribe("trades", HOUR)
        caller.first("trades")
        place(buyer, 1, 1_240, 5, "o0")
        caller.subscribe("index", GRADE)
        caller.send({"op": "ping"})
        caller.await_message(lambda one: one["type"] == "pong")
        with caller.news:
            assert not [one for one in caller.got if one["channel"] == "book"]


def test_a_reader_that_falls_behind_is_closed_with_4008(
    world: World, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "OUTBOX_MESSAGES_MAX", 5)
    caller = call()
    caller.send({"op": "ping"})
    caller.await_message(lambda one: one["type"] == "pong")
    caller.pause()
    for _ in range(8):
        caller.send({"op": "ping"})

    assert caller.await_close() == 4008


def test_a_caller_that_asks_too_often_or_too_much_is_closed(world: World, call) -> None:
    loud = call()
    for _ in range(stream.REQUESTS_PER_S * 6):
        loud.send({"op": "ping"})
    assert loud.await_close() == stream.CLOSE_RATE

    long = call()
    long.send({"op": "ping", "id": "x" * stream.MESSAGE_BYTES_MAX})
    assert long.await_close() == stream.CLOSE_TOO_BIG


def test_a_connection_has_so_many_subscriptions(
    world: World, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SUBSCRIPTIONS_MAX", 2)
    caller = call()
    for channel in ("trades", "book", "ticker"):
        caller.send({"op": "subscribe", "channel": channel, "instrument": HOUR, "id": channel})
    problem = caller.problem()
    assert (problem["code"], problem["id"]) == ("too_many_subscriptions", "ticker")


def test_a_revoked_key_ends_the_connection(
    world: World, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RECHECK_S", 0.05)
    party = world.party("Acme")
    made = operations.create_key(organization_id=party.id, scopes=["read"])
    caller = call()
    caller.send({"op": "auth", "key": made.text})
    caller.await_message(lambda one: one["type"] == "authenticated")
    operations.revoke_key(organization_id=party.id, key_id=made.row.pk)

    assert caller.await_close() == stream.CLOSE_ENDED


def test_a_revoked_key_is_told_nothing_more(world: World, call) -> None:
    party = world.party("Acme")
    made = operations.create_key(organization_id=party.id, scopes=["read"])
    caller = call()
    caller.send({"op": "auth", "key": made.text})
    caller.await_message(lambda one: one["type"] == "authenticated")
    operations.revoke_key(organization_id=party.id, key_id=made.row.pk)
    caller.send({"op": "subscribe", "channel": "orders"})

    assert caller.await_close() == stream.CLOSE_ENDED
    assert not [one for one in caller.got if one.get("channel") == "orders"]


def test_a_delta_that_does_not_follow_brings_a_new_snapshot(world: World, call, loop) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    with world.running():
        caller = call()
        caller.subscribe("book", HOUR)
        caller.first("book")
        for subscription in stream._hub._all():
            subscription.sequences[f"book:{HOUR}"] -= 1  # as if one message had been lost
        place(buyer, 1, 1_240, 5, "o0")

        again = caller.first("book")
        assert again["type"] == "snapshot"
        assert again["data"]["bids"] == [["1.240", 5]]
        assert isinstance(stream._hub, hub.Hub)
