"""Reading orders of every kind over REST, and what auctions and their trades look like."""

import msgspec

from exchange import commands, models, operations
from marketplace import audit
from marketplace import clock as market_clock
from marketplace.models import Grade
from settlement import instructions
from tests.market import HOUR, buy, sell
from tests.rest import Api, World

TOMORROW = "LLAMA70B.H.20261202T14Z"


def stop(account: int, name: str, *, stop_price: int) -> commands.PlaceOrder:
    return operations.place_command(
        organization=account,
        instrument=HOUR,
        side=1,
        price_ticks=0,
        lots=5,
        client_order_id=name,
        terms=commands.Terms(type=commands.STOP, stop_price=stop_price),
    )


def strip(account: int, name: str) -> commands.PlaceStrip:
    """Hours 14 and 15 of the day."""
    from_at = 1_796_133_600_000_000
    return commands.PlaceStrip(
        account, "LLAMA70B", 1, from_at, from_at + 7_200_000_000, 1_300, 3, 100, name, b"f" * 32
    )


def test_orders_are_listed_by_what_they_wait_for(world: World) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    resting, waiting = buy(buyer.id, 1_200, 4, "b1"), stop(buyer.id, "t1", stop_price=1_300)
    gone = buy(buyer.id, 1_200, 4, "i1", time_in_force="IOC")
    world.market.execute(resting, waiting, gone)

    def names(**query: str) -> list[str]:
        found = buyer.api.get("orders", **query).json["results"]
        return [one["client_order_id"] for one in found]

    assert names() == ["i1", "t1", "b1"]
    assert names(status="live") == ["t1", "b1"]
    assert names(status="open") == ["b1"]
    assert names(status="untriggered", instrument=HOUR) == ["t1"]
    assert names(status="untriggered", instrument=TOMORROW) == []
    assert names(status="canceled") == ["i1"]
    assert names(client_order_id="t1") == ["t1"]
    (one,) = buyer.api.get("orders", client_order_id="t1").json["results"]
    assert (one["type"], one["price"], one["stop_price"]) == ("stop", None, "1.300")


def test_a_strip_is_read_as_an_order_with_fills_in_its_hours(world: World) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    later = "LLAMA70B.H.20261201T15Z"
    world.market.execute(
        sell(seller.id, 1_250, 3, "s14"),
        sell(seller.id, 1_260, 3, "s15", instrument=later),
        strip(buyer.id, "r1"),
    )
    (order,) = buyer.api.get("orders").json["results"]
    assert (order["type"], order["instrument"]) == ("strip", "LLAMA70B.R.20261201T14Z+2")
    assert (order["status"], order["filled_quantity"]) == ("filled", 3)
    assert (order["average_price"], order["price"]) == ("1.255000", "1.300")
    assert [fill["instrument"] for fill in order["fills"]] == [HOUR, later]
    assert (order["from"], order["to"]) == (
        "2026-12-01T14:00:00.000000Z",
        "2026-12-01T16:00:00.000000Z",
    )
    assert (order["grade"], order["min_share"], order["alternatives"]) == ("LLAMA70B", 100, [])
    assert buyer.api.get(f"orders/{order['id']}").json == order
    fills = buyer.api.get("fills").json["results"]
    assert [(fill["order_id"], fill["instrument"]) for fill in fills] == [
        (order["id"], later),
        (order["id"], HOUR),
    ]
    assert [fill["instrument"] for fill in buyer.api.get("fills", instrument=HOUR).json["results"]]
    positions = {row["instrument"]: row for row in buyer.api.get("positions").json["results"]}
    assert set(positions) == {HOUR, later}


def test_a_strip_that_traded_another_grade_still_says_what_was_asked_for(world: World) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    Grade.objects.create(
        code="GPT4O",
        name="GPT-4o",
        region="us",
        precision="fp8",
        model_shape="llama-70b",
        context_tokens_max=131_072,
        output_tokens_max=8_192,
        reference_price_ticks=1_250,
        created_at=market_clock.now(),
    )
    world.market.instruct(
        "other", instructions.DefineGrade(grade="GPT4O", reference_price_ticks=1_250)
    )
    later = "LLAMA70B.H.20261201T15Z"
    wanted = msgspec.structs.replace(
        strip(buyer.id, "r1"), grade="GPT4O", alternatives=("LLAMA70B",), min_share=50
    )
    world.market.execute(
        sell(seller.id, 1_250, 3, "s14"),
        sell(seller.id, 1_260, 3, "s15", instrument=later),
        wanted,
        buy(buyer.id, 1_200, 1, "plain"),
    )
    plain, order = buyer.api.get("orders").json["results"]
    assert (order["instrument"], order["grade"]) == ("LLAMA70B.R.20261201T14Z+2", "GPT4O")
    assert (order["min_share"], order["alternatives"]) == (50, ["LLAMA70B"])
    assert {"grade", "from", "to", "min_share", "alternatives"} & set(plain) == set()


def test_an_auction_is_shown_while_it_runs_and_its_price_afterwards(world: World, clock) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    path = f"instruments/{TOMORROW}/auction"
    assert Api().get(path).status == 404
    clock.set("2026-12-01T10:00Z")
    world.market.execute(
        buy(buyer.id, 1_300, 8, "b", instrument=TOMORROW),
        sell(seller.id, 1_250, 5, "s", instrument=TOMORROW),
    )
    running = Api().get(path)
    assert (running.status, running.json) == (
        200,
        {
            "instrument": TOMORROW,
            "kind": "opening",
            "state": "call",
            "ends_at": "2026-12-01T12:00:00.000000Z",
            "frozen_at": "2026-12-01T11:55:00.000000Z",
            "indicative_price": "1.250",
            "indicative_quantity": 5,
            "surplus": 3,
            "surplus_side": "buy",
            "last_auction": None,
        },
    )
    clock.set("2026-12-01T12:00Z")
    world.market.execute(commands.Tick())
    ended = Api().get(path).json
    assert (ended["kind"], ended["state"], ended["ends_at"]) == (None, "continuous", None)
    assert (ended["indicative_price"], ended["indicative_quantity"]) == (None, 0)
    assert ended["last_auction"] == {
        "price": "1.250",
        "quantity": 5,
        "at": "2026-12-01T12:00:00.000000Z",
    }
    (line,) = Api().get(f"instruments/{TOMORROW}/trades").json["results"]
    assert (line["is_auction"], line["price"], line["quantity"]) == (True, "1.250", 5)
    for party in (buyer, seller):
        (fill,) = party.api.get("fills").json["results"]
        assert (fill["liquidity"], fill["fee"]) == ("auction", "0.000075")
    assert Api().get("instruments/NONE/auction").status == 404


def test_the_audit_adds_up_every_kind_of_order(world: World, clock) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    iceberg = operations.place_command(
        organization=seller.id,
        instrument=HOUR,
        side=-1,
        price_ticks=1_250,
        lots=20,
        client_order_id="s14",
        terms=commands.Terms(display_lots=4),
    )
    later = "LLAMA70B.H.20261201T15Z"
    world.market.execute(
        iceberg,
        sell(seller.id, 1_260, 3, "s15", instrument=later),
        strip(buyer.id, "r1"),
        stop(buyer.id, "t1", stop_price=1_250),
        buy(buyer.id, 1_250, 7, "b1"),
    )
    ((_, placed),) = models.Order.objects.filter(client_order_id="s14").values_list(
        "hidden_lots", "id"
    )
    world.market.execute(commands.AmendOrder(seller.id, placed, lots=16))
    row = models.Order.objects.get(id=placed)
    assert (row.lots, row.filled_lots, row.status) == (16, 15, "PARTIALLY_FILLED")
    assert [str(finding) for finding in audit.run() if finding.violations] == []
