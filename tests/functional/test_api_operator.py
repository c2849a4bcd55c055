"""What operators decide, and what only a demo offers."""

import pytest

from exchange import operations as exchange
from marketplace import clock as market_clock
from marketplace import demonstration, models, wire
from settlement.models import ClockJump
from tests.market import GRADE, HOUR, buy
from tests.rest import Api, Party, World


@pytest.fixture
def operator(world: World) -> Party:
    return world.party("Market operations", "OPERATOR")


def test_an_instrument_is_halted_and_resumed_with_a_trail(world: World, operator: Party) -> None:
    with world.running():
        halted = operator.api.post(f"instruments/{HOUR}/halt", {"reason": "news"}, key="-")
        assert (halted.status, halted.json) == (200, {"instrument": HOUR, "state": "halted"})
        assert Api().get(f"instruments/{HOUR}").json["state"] == "halted"
        resumed = operator.api.post(f"instruments/{HOUR}/resume", key="-")
    assert resumed.json == {"instrument": HOUR, "state": "call"}
    assert Api().get(f"instruments/{HOUR}/auction").json["kind"] == "reopening"
    entries = list(models.AuditEntry.objects.order_by("id").values_list("action", "reason"))
    assert entries == [("halt", "news"), ("resume", "")]


def test_a_grade_is_halted_whole(world: World, operator: Party) -> None:
    with world.running():
        assert operator.api.post(f"grades/{GRADE}/halt", key="-").json["halted"] is True
        assert Api().get(f"instruments/{HOUR}").json["state"] == "halted"
        assert operator.api.post(f"grades/{GRADE}/resume", key="-").status == 200
    assert Api().get(f"instruments/{HOUR}").json["state"] == "call"
    assert operator.api.post("grades/NOPE/halt", key="-").status == 404


def test_everything_is_halted_and_resumed_at_once(world: World, operator: Party) -> None:
    with world.running():
        halted = operator.api.post("market/halt", {"reason": "power"}, key="-")
        assert (halted.status, halted.json) == (200, {"halted": True})
        states = {row["state"] for row in Api().get("instruments").json["results"]}
        assert states == {"halted"}
        assert operator.api.post("market/resume", key="-").json == {"halted": False}
    states = {row["state"] for row in Api().get("instruments").json["results"]}
    assert states == {"call"}
    (first, _) = models.AuditEntry.objects.order_by("id")
    assert (first.action, first.target, first.reason) == ("halt", "market", "power")


def test_the_kill_switch_cancels_and_refuses_until_it_is_lifted(
    world: World, operator: Party
) -> None:
    buyer = world.party("Northwind", cash=1_000_000_000)
    world.market.execute(buy(buyer.id, 1_200, 5, "b1"))
    with world.running():
        reply = operator.api.post(f"organizations/{buyer.id}/kill", {"reason": "runaway"}, key="-")
    assert (reply.status, reply.json) == (200, {"id": str(buyer.id), "killed": True})
    (order,) = buyer.api.get("orders").json["results"]
    assert (order["status"], order["reason"]) == ("canceled", "killed")
    with world.running():
        lifted = operator.api.post(f"organizations/{buyer.id}/kill", {"enabled": False}, key="-")
    assert lifted.json["killed"] is False
    assert operator.api.post("organizations/999999/kill", key="-").status == 404


def test_operators_routes_need_the_scope(world: World) -> None:
    buyer = world.party("Northwind")
    for path in (
        f"instruments/{HOUR}/halt",
        f"grades/{GRADE}/halt",
        "market/halt",
        "organizations/1/kill",
    ):
        reply = buyer.api.post(path, key="-")
        assert (reply.status, reply.code) == (403, "missing_scope"), path
    assert models.AuditEntry.objects.count() == 0


def test_a_demo_makes_organizations_with_keys(world: World, anyone: Api) -> None:
    with world.running():
        reply = anyone.post("demo/organizations", {"name": "Fabrikam", "role": "buyer"}, key="-")
        twin = anyone.post("demo/organizations", {"name": "FABRlKAM", "role": "buyer"}, key="-")
    assert reply.status == 201
    assert (reply.json["name"], reply.json["role"]) == ("Fabrikam", "buyer")
    assert Api(key=reply.json["key"]).get("account").json["cash"] == "0.000000"
    assert (twin.status, twin.code) == (422, "name_taken")
    wrong = anyone.post("demo/organizations", {"name": "x", "role": "admin"}, key="-")
    assert (wrong.status, wrong.blamed) == (400, [("role", "invalid_value")])


def test_elsewhere_a_demos_paths_do_not_exist(world: World, anyone: Api, settings) -> None:
    settings.IS_DEMO = False
    reply = anyone.post("demo/organizations", {"name": "Fabrikam", "role": "buyer"}, key="-")
    assert (reply.status, reply.code) == (404, "not_found")


def test_the_clock_moves_forward_and_everything_due_happens(
    world: World, operator: Party, monkeypatch: pytest.MonkeyPatch, clock
) -> None:
    monkeypatch.setattr(market_clock, "advance_to", clock.set)
    with world.running():
        reply = operator.api.post("demo/clock", {"advance_to": "2026-12-01T13:56:00Z"}, key="-")
        assert (reply.status, reply.json["now"]) == (200, "2026-12-01T13:56:00.000000Z")
        assert Api().get(f"instruments/{HOUR}").json["state"] == "settled"
        index = Api().get(f"index/{GRADE}/20261201T14Z").json
        again = operator.api.post("demo/clock", {"advance_to": "2026-12-01T13:56:00Z"}, key="-")
        back = operator.api.post("demo/clock", {"advance_to": "2026-12-01T13:55:59Z"}, key="-")
    assert (index["hour"], index["price"]) == ("20261201T14Z", "1.250")
    assert again.status == 200
    assert (back.status, back.code) == (422, "clock_moves_forward")
    (jump,) = ClockJump.objects.all()
    assert market_clock.to_micros(jump.to_at) == clock.at


def test_who_moves_the_clock_to_the_same_instant_meanwhile_waits_with_the_first(
    world: World, operator: Party, monkeypatch: pytest.MonkeyPatch, clock
) -> None:
    there = clock.at + 60 * market_clock.SECOND

    def probe(*, n: int) -> dict[str, list[int]]:
        """Move the clock while the caller probes, as another caller would."""
        ClockJump.objects.create(
            from_at=market_clock.to_datetime(clock.at), to_at=market_clock.to_datetime(there)
        )
        clock.set(there)
        return {}

    monkeypatch.setattr(demonstration.admission_operations, "probe_clusters", probe)
    with world.running():
        reply = operator.api.post("demo/clock", {"advance_to": wire.time_text(there)}, key="-")

    assert reply.status == 200
    assert ClockJump.objects.count() == 1


def test_only_operators_move_the_clock(world: World) -> None:
    buyer = world.party("Northwind")
    reply = buyer.api.post("demo/clock", {"advance_to": "2026-12-01T13:56:00Z"}, key="-")
    assert (reply.status, reply.code) == (403, "missing_scope")


def test_a_fault_is_for_the_clusters_owner_and_for_operators(world: World, operator: Party) -> None:
    owner, other = world.party("Cirrus", "PROVIDER"), world.party("Nimbus", "PROVIDER")
    cluster = world.cluster(owner, lots=0)
    for who, status in ((other, 404), (owner, 503), (operator, 503)):
        reply = who.api.post("demo/faults", {"cluster": str(cluster.pk), "available": 0.5}, key="-")
        assert reply.status == status  # 503: no model server runs here
    for share in (1.5, -0.1, "0.5", True):
        body = {"cluster": str(cluster.pk), "available": share}
        reply = owner.api.post("demo/faults", body, key="-")
        assert (reply.status, reply.blamed[0][0]) == (400, "available")


def test_a_book_that_gathers_orders_has_no_middle_on_the_curve(
    world: World, operator: Party
) -> None:
    buyer = world.party("Buyer", cash=1_000_000_000)
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)

    def point() -> tuple[str, str]:
        points = operator.api.get(f"curve/{GRADE}").json["points"]
        return next((p["price"], p["source"]) for p in points if p["instrument"] == HOUR)

    with world.running():
        for party, side, price in ((buyer, 1, 1_240), (seller, -1, 1_246)):
            exchange.place(
                organization=party.id,
                instrument=HOUR,
                side=side,
                price_ticks=price,
                lots=5,
                client_order_id="one",
            )
        assert point() == ("1.243", "mid")
        operator.api.post(f"instruments/{HOUR}/halt", {"reason": "news"}, key="-")
        assert point() == ("1.250", "mark")
        operator.api.post(f"instruments/{HOUR}/resume", {"reason": "done"}, key="-")
        exchange.place(
            organization=buyer.id,
            instrument=HOUR,
            side=1,
            price_ticks=1_300,
            lots=5,
            client_order_id="two",
        )
        assert point() == ("1.250", "mark"), "crossed, and nobody is bound yet"
