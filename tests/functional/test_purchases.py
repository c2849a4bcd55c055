"""Pooled purchases over REST: commitments, their pool, and what the deadline makes of them."""

import pytest

from marketplace import audit, models
from settlement import audit as settlement_audit
from settlement.models import Position, Transfer
from tests.market import HOUR, sell
from tests.rest import Party, World

DEADLINE = "2026-12-01T13:00:00Z"
WANTED = {"instrument": HOUR, "deadline": DEADLINE, "quantity": 12, "price": "1.300"}
ENDED = "2026-12-01T13:00:00.000000Z"


@pytest.fixture
def buyers(world: World) -> list[Party]:
    """Two buyers, and asks of ten lots at 1.250 and ten at 1.253."""
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    for price in (1_250, 1_253):
        world.market.execute(sell(seller.id, price, 10, f"s{price}"))
    return [world.party(name, cash=1_000_000_000) for name in ("Northwind", "Acme")]


def commit(world: World, party: Party, key: str = "p1", **change):
    with world.running():
        return party.api.post("pools/purchase", WANTED | change, key=key)


def test_a_pool_buys_at_its_deadline_at_one_price(world: World, buyers: list[Party], clock) -> None:
    first, second = buyers
    made = commit(world, first)
    again = commit(world, first)
    assert (made.status, made.json["state"]) == (201, "committed")
    assert again.json == made.json
    assert commit(world, second, quantity=6).status == 201
    pools = second.api.get("pools/purchase/open").json["results"]
    assert pools == [{"instrument": HOUR, "deadline": ENDED, "members": 2, "quantity": 18}]
    free = first.api.get("account").json
    assert free["available"] == "999.062128"  # 12 lots at 1.300, and the fee
    clock.set("2026-12-01T13:00Z")
    world.market.work()
    (shown,) = first.api.get("pools/purchase").json["results"]
    # 10 lots at 1.250 and 8 at 1.253 are 1.251 1/3 on average: all pay 1.252.
    assert shown == made.json | {
        "state": "filled",
        "filled_quantity": 12,
        "average_price": "1.252",
        "evened": "0.001080",
        "order_id": shown["order_id"],
        "ended_at": ENDED,
    }
    (order,) = first.api.get("orders").json["results"]
    assert (order["id"], order["status"]) == (shown["order_id"], "filled")
    (other,) = second.api.get("pools/purchase").json["results"]
    assert (other["average_price"], other["evened"]) == ("1.252", "-0.000360")
    held = {row.organization_id: row.net_lots for row in Position.objects.filter(symbol=HOUR)}
    assert (held[first.id], held[second.id]) == (12, 6)
    evened = Transfer.objects.filter(code=25).order_by("sequence", "id")
    assert sorted(row.amount for row in evened) == [360, 720, 1_080]
    assert first.api.get("pools/purchase/open").json["results"] == []
    with settlement_audit.one_moment():
        assert [str(finding) for finding in audit.run() if finding.violations] == []


def test_a_commitment_is_taken_back_until_its_deadline(
    world: World, buyers: list[Party], clock
) -> None:
    first, _ = buyers
    made = commit(world, first).json
    with world.running():
        taken = first.api.delete(f"pools/purchase/{made['id']}")
        again = first.api.delete(f"pools/purchase/{made['id']}")
    assert (taken.status, taken.json["state"], taken.json["reason"]) == (
        200, "withdrawn", "requested",
    )  # fmt: skip
    assert again.json == taken.json
    assert first.api.get("account").json["available"] == "1000.000000"
    made = commit(world, first, "p2").json
    clock.set("2026-12-01T13:00Z")
    world.market.work()
    with world.running():
        late = first.api.delete(f"pools/purchase/{made['id']}")
    assert (late.status, late.code) == (422, "commitment_ended")


def test_a_commitment_that_cannot_be_is_refused_for_ever(world: World, buyers: list[Party]) -> None:
    first, _ = buyers
    for number, (change, status, code) in enumerate(
        (
            ({"price": "1.3"}, 400, "malformed"),
            ({"quantity": 0}, 400, "malformed"),
            ({"deadline": "soon"}, 400, "malformed"),
            ({"instrument": "LLAMA70B.H.20251201T14Z"}, 404, "not_found"),
            ({"deadline": "2026-12-01T13:01:00Z"}, 422, "invalid_terms"),
            ({"deadline": "2026-12-01T09:00:00Z"}, 422, "deadline_passed"),
            ({"quantity": 90_000}, 422, "insufficient_funds"),
        )
    ):
        reply = commit(world, first, f"r{number}", **change)
        assert (reply.status, reply.code) == (status, code), change
    again = commit(world, first, "r6", quantity=90_000)
    assert (again.code, again.headers["Idempotency-Replayed"]) == ("insufficient_funds", "true")
    states = models.PurchaseCommitment.objects.values_list("state", flat=True)
    assert set(states) == {"REFUSED"}
    assert first.api.get("account").json["available"] == "1000.000000"
