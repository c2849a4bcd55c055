"""Auctions, candles and ranges on the stream, held against what REST says at the same moment."""

from typing import Any

from exchange import commands
from marketplace import candles
from tests.market import GRADE, HOUR, buy, sell
from tests.rest import Api, World

TOMORROW = f"{GRADE}.H.20261202T14Z"


def traders(world: World) -> tuple[int, int]:
    buyer = world.party("Buyer", cash=1_000_000_000)
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    return buyer.id, seller.id


def test_an_auction_is_followed_from_its_call_to_its_price(
    world: World, call, anyone: Api, clock
) -> None:
    buyer, seller = traders(world)
    clock.set("2026-12-01T10:00Z")
    world.market.work()
    caller = call()
    caller.subscribe("auction", TOMORROW)
    snapshot = caller.first("auction")
    assert (snapshot["type"], snapshot["instrument"]) == ("snapshot", TOMORROW)
    assert snapshot["data"] == anyone.get(f"instruments/{TOMORROW}/auction").json
    assert snapshot["data"]["kind"] == "opening"
    assert snapshot["data"]["frozen_at"] == "2026-12-01T11:55:00.000000Z"
    sequence = snapshot["sequence"]

    def follow() -> dict[str, Any]:
        nonlocal sequence
        message = caller.first("auction")
        assert message["type"] == "update"
        assert (message["previous_sequence"], message["sequence"]) == (sequence, sequence + 1)
        assert message["data"] == anyone.get(f"instruments/{TOMORROW}/auction").json
        sequence = message["sequence"]
        return message["data"]

    world.market.execute(buy(buyer, 1_260, 8, "b", instrument=TOMORROW))
    lonely = follow()
    assert (lonely["indicative_price"], lonely["indicative_quantity"]) == (None, 0)
    world.market.execute(sell(seller, 1_240, 5, "s", instrument=TOMORROW))
    crossed = follow()
    assert (crossed["indicative_quantity"], crossed["surplus"], crossed["surplus_side"]) == (
        5,
        3,
        "buy",
    )
    world.market.execute(buy(buyer, 1_240, 1, "other", instrument=f"{GRADE}.H.20261202T15Z"))
    clock.set("2026-12-01T12:00Z")
    world.market.work()
    over = follow()
    assert (over["kind"], over["state"]) == (None, "continuous")
    assert over["last_auction"]["quantity"] == 5
    assert over["last_auction"]["price"] == crossed["indicative_price"]


def test_candles_run_with_the_tape_and_are_those_of_rest(
    world: World, call, anyone: Api, clock
) -> None:
    buyer, seller = traders(world)
    world.market.execute(sell(seller, 1_250, 5, "s0"), buy(buyer, 1_250, 2, "b0"))
    caller, late = call(), call()
    sequences = {}
    for interval in ("1m", "15m"):
        caller.subscribe("candles", HOUR, interval=interval)
        snapshot = caller.first("candles")
        assert snapshot["type"] == "snapshot"
        assert [one["interval"] for one in snapshot["data"]] == [interval]
        sequences[interval] = snapshot["sequence"]

    def compare(reader: Any, intervals: tuple[str, ...]) -> None:
        for _ in intervals:
            message = reader.first("candles")
            interval = message["data"][0]["interval"]
            assert message["previous_sequence"] == sequences[interval]
            sequences[interval] = message["sequence"]
            found = anyone.get(f"instruments/{HOUR}/candles", interval=interval).json["results"]
            expected = found[: len(message["data"])][::-1]
            assert message["data"] == [{"interval": interval} | one for one in expected]

    world.market.execute(buy(buyer, 1_250, 1, "b1"))
    compare(caller, ("1m", "15m"))
    clock.advance(seconds=70)
    world.market.execute(
        sell(seller, 1_248, 1, "s2"),
        buy(buyer, 1_250, 4, "b2"),
        sell(seller, 1_255, 2, "s3"),
        buy(buyer, 1_255, 2, "b3"),
    )
    compare(caller, ("1m", "15m"))
    late.subscribe("candles", HOUR)
    begun = late.first("candles")
    assert [one["close"] for one in begun["data"]] == ["1.250", "1.255"]
    assert begun["sequence"] == sequences["1m"]
    clock.advance(seconds=1)
    world.market.execute(sell(seller, 1_251, 1, "s4"), buy(buyer, 1_251, 1, "b4"))
    compare(caller, ("1m", "15m"))
    sequences["1m"] = begun["sequence"]
    compare(late, ("1m",))


def test_an_interval_is_one_of_five_and_of_candles_only(world: World, call) -> None:
    caller = call()
    for message in (
        {"op": "subscribe", "channel": "candles", "instrument": HOUR, "interval": "2m"},
        {"op": "subscribe", "channel": "trades", "instrument": HOUR, "interval": "1m"},
    ):
        problem = caller.ask(message)
        assert (problem["code"], problem["errors"][0]["field"]) == ("malformed", "interval")
    assert set(candles.INTERVALS) == {"1m", "5m", "15m", "1h", "1d"}


def test_a_range_is_the_deltas_as_they_were_with_the_id_of_the_request(world: World, call) -> None:
    buyer, _ = traders(world)
    caller, asker = call(), call()
    caller.subscribe("book", HOUR)
    caller.first("book")
    for number in range(4):
        world.market.execute(
            buy(buyer, 1_240 - number, 1, f"a{number}"), buy(buyer, 1_239 - number, 1, f"b{number}")
        )
    told = [caller.first("book") for _ in range(4)]
    assert [(one["previous_sequence"], one["sequence"]) for one in told] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
    ]
    asker.send({"op": "range", "instrument": HOUR, "from": 3, "to": 7, "id": "mine"})
    again = [asker.first("book") for _ in range(3)]
    assert again == [one | {"id": "mine"} for one in told[1:]]
    asker.send({"op": "range", "instrument": HOUR, "from": 8, "to": 8})
    assert asker.first("book") == told[3]


def test_a_range_that_cannot_be_given_is_a_problem(world: World, call) -> None:
    buyer, _ = traders(world)
    world.market.execute(buy(buyer, 1_240, 1, "a"))
    caller = call()
    for symbol, first, last, code in (
        (HOUR, 0, 1, "malformed"),
        (HOUR, 2, 1, "malformed"),
        (HOUR, 1, 501, "malformed"),
        (HOUR, "1", 2, "malformed"),
        (HOUR, 1, 2, "not_found"),
        ("NOTHING", 1, 1, "not_found"),
    ):
        problem = caller.ask({"op": "range", "instrument": symbol, "from": first, "to": last})
        assert problem["code"] == code, (symbol, first, last)
    assert caller.ask({"op": "range", "instrument": HOUR, "from": 1})["code"] == "malformed"
    assert caller.ask({"op": "range", "instrument": HOUR, "from": 1, "to": 1})["type"] == "delta"


def test_a_strip_is_told_to_its_owner_with_its_fills(world: World, call, anyone: Api) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    caller = call()
    caller.auth(buyer.api.key)
    for channel in ("orders", "fills", "account"):
        caller.subscribe(channel)
        caller.first(channel)
    from_at = 1_796_133_600_000_000
    world.market.execute(
        sell(seller.id, 1_250, 3, "s1"),
        sell(seller.id, 1_260, 3, "s2", instrument=f"{GRADE}.H.20261201T15Z"),
        commands.PlaceStrip(
            buyer.id, GRADE, 1, from_at, from_at + 7_200_000_000, 1_300, 3, 100, "t", b"f" * 32
        ),
    )
    told = caller.first("orders")["data"]
    assert [(one["type"], one["status"], one["client_order_id"]) for one in told] == [
        ("strip", "filled", "t")
    ]
    fills = caller.first("fills")["data"]
    shown = buyer.api.get("fills").json["results"]
    assert fills == shown[::-1]
    assert [one["client_order_id"] for one in fills] == ["t", "t"]
    assert caller.first("account")["previous_sequence"] is not None
