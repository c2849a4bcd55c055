"""A margin call that is not met: rows, the operators' page and API, bids over REST and the page."""

import re
from dataclasses import dataclass

import pytest
from django.test import Client

from exchange import commands
from marketplace import models
from marketplace.views import shared
from settlement import models as settled
from tests.functional.test_pages import member, text
from tests.market import GRADE
from tests.rest import Party, World

EVENING = f"{GRADE}.H.20261201T20Z"
CALLED, ENFORCED, DUE = "2026-12-01T09:01:01Z", "2026-12-01T10:01:01Z", "2026-12-01T10:56:01Z"


def order(party: Party, side: int, price: int, lots: int, name: str) -> commands.PlaceOrder:
    return commands.PlaceOrder(
        account=party.id, instrument=EVENING, side=side, price=price, lots=lots,
        time_in_force="GTC", client_order_id=name, fingerprint=name.encode().ljust(32, b"."),
    )  # fmt: skip


@dataclass
class Story:
    """A seller that is short of 100 lots and has been called, and who trades against it."""

    world: World
    seller: Party
    maker: Party
    buyer: Party

    def trade(self, price: int, lots: int = 1_000) -> None:
        """Move the market."""
        self.world.market.execute(
            order(self.maker, -1, price, lots, f"ask{price}"),
            order(self.buyer, 1, price, lots, f"bid{price}"),
        )


@pytest.fixture
def story(world: World, clock) -> Story:
    seller = world.party("Cirrus", "PROVIDER", cash=400_000)
    maker = world.party("Stratus", "PROVIDER", cash=1_000_000_000)
    buyer = world.party("Northwind", cash=1_000_000_000)
    world.cluster(seller, lots=100)
    world.cluster(maker, lots=10_000)
    told = Story(world, seller, maker, buyer)
    world.market.execute(order(seller, -1, 1_250, 100, "s1"), order(buyer, 1, 1_250, 100, "b1"))
    clock.set("2026-12-01T09:01Z")
    told.trade(1_300)
    clock.set(CALLED)
    world.market.work()
    return told


@pytest.fixture
def operators(world: World) -> list[Party]:
    return [world.party(name, "OPERATOR") for name in ("Operations", "Oversight")]


def test_a_call_its_offer_and_its_bids_are_seen_by_whom_they_concern(
    story: Story, operators: list[Party], clock
) -> None:
    world, seller, maker = story.world, story.seller, story.maker
    call = seller.api.get("margin").json["margin_call"]
    lacks = settled.MarginAccount.objects.get(organization_id=seller.id)
    amount = lacks.initial_margin_micros - lacks.cash_micros
    assert call == {"amount": f"0.{amount:06d}", "due_at": "2026-12-01T10:01:01.000000Z"}
    shown = operators[0].api.get("operations/defaults").json
    assert [(c["organization_id"], c["rounds"], c["stopped"]) for c in shown["calls"]] == [
        (str(seller.id), 0, None)
    ]
    assert maker.api.get("transfers").json["results"] == []
    clock.set(ENFORCED)
    world.market.work()
    (offer,) = maker.api.get("transfers").json["results"]
    assert (offer["instrument"], offer["quantity"]) == (EVENING, 100)
    assert (offer["due_at"], offer["outcome"]) == ("2026-12-01T10:56:01.000000Z", None)
    assert "organization" not in str(offer)
    path = f"transfers/{offer['id']}/bids"
    wanted = {"quantity": 100, "price": "0.900"}
    with world.running():
        made = maker.api.post(path, wanted, key="b1")
        again = maker.api.post(path, wanted, key="b1")
        own = seller.api.post(path, wanted)
        missing = maker.api.post("transfers/999/bids", wanted)
    assert (made.status, made.json["state"], again.json) == (201, "placed", made.json)
    assert (own.status, own.code) == (422, "own_group")
    assert missing.status == 404
    with world.running():
        back = maker.api.delete(f"transfers/bids/{made.json['id']}")
        assert (back.status, back.json["state"]) == (200, "withdrawn")
        assert maker.api.post(path, wanted).status == 201
    clock.set(DUE)
    world.market.work()
    taken, *_ = maker.api.get("transfers/bids").json["results"]
    mark = settled.Mark.objects.filter(symbol=EVENING).order_by("-id").first().price_ticks
    lots = taken["moved_quantity"]
    assert (taken["state"], taken["mark_price"]) == ("taken", f"{mark / 1000:.3f}")
    paid = 60 * lots * (mark - 900)
    assert taken["received"] == f"-{paid // 10**6}.{paid % 10**6:06d}"
    moved = settled.Transfer.objects.get(code=34)
    assert (moved.amount, moved.cause) == (paid, f"transfer:{offer['id']}")
    held = settled.Position.objects.get(organization_id=seller.id, symbol=EVENING)
    assert held.net_lots == lots - 100
    (ended,) = maker.api.get("transfers").json["results"]
    assert (ended["moved_quantity"], ended["outcome"]) == (lots, "partly")
    with world.running():
        late = maker.api.post(path, wanted)
    assert (late.status, late.code) == (422, "transfer_ended")
    kinds = settled.DefaultEvent.objects.filter(organization_id=seller.id).order_by("id")
    assert [row.kind for row in kinds] == ["CALLED", "LIQUIDATED", "MET"]
    assert operators[0].api.get("operations/defaults").json["calls"] == []


def test_what_others_bore_is_traced_to_its_transfers(
    story: Story, operators: list[Party], clock
) -> None:
    clock.set("2026-12-01T09:32Z")
    story.trade(1_360)
    clock.set("2026-12-01T09:32:01Z")
    story.world.market.work()
    (draw,) = operators[0].api.get("operations/defaults").json["draws"]
    assert draw["organization_id"] == str(story.seller.id)
    steps = [(t["code"], t["received"]) for t in draw["transfers"]]
    assert steps == [("layer_loan", True), ("variation", False)]
    of_cause = settled.Transfer.objects.filter(cause=draw["cause"]).order_by("sequence")
    lent, variation = of_cause.get(code=12), of_cause.filter(code=4)[0]
    row = settled.WaterfallDraw.objects.get()
    assert (row.layer_micros, row.amount_micros) == (lent.amount, variation.amount)
    assert row.own_micros + row.layer_micros == row.amount_micros
    shown = operators[0].api.get("operations/defaults").json
    assert shown["layer"]["lent"] == f"0.{lent.amount:06d}"
    client = operator_page_of(operators[0])
    page = text(client.get("/operations/defaults"))
    for expected in ("Cirrus", draw["cause"], "layer loan", "defaulted", "$100,000.00"):
        assert expected in page


def operator_page_of(party: Party) -> Client:
    """Return a browser in which an operator's member is logged in."""
    user = models.User.objects.create_user(
        f"op{party.id}@example.com", "correct horse battery", created_at="2026-12-01T00:00Z"
    )
    models.Membership.objects.create(
        user=user,
        organization=party.organization,
        role="OWNER",
        created_at="2026-12-01T00:00Z",
    )
    client = Client()
    client.force_login(user)
    return client


def test_two_operators_set_the_layer_and_one_does_not(world: World, operators: list[Party]) -> None:
    first, second = operators
    wanted = {"limit": "50.000000", "reason": "less is at stake"}
    with world.running():
        proposed = first.api.post("operations/layer", wanted, key="-")
        alone = first.api.post("operations/layer", wanted, key="-")
        other = second.api.post("operations/layer", wanted | {"limit": "60"}, key="-")
        applied = first.api.post("operations/layer", wanted | {"limit": "60"}, key="-")
    assert (proposed.status, proposed.json["state"]) == (202, "pending")
    assert (alone.status, alone.code) == (422, "second_operator_required")
    assert (other.status, applied.status) == (202, 200)
    assert world.market.machine.state.layer_max == 60_000_000
    states = settled.LayerProposal.objects.order_by("id").values_list("state", flat=True)
    assert list(states) == ["REPLACED", "CONFIRMED"]
    actions = models.AuditEntry.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["propose_layer", "propose_layer", "confirm_layer"]
    shown = first.api.get("operations/defaults").json["layer"]
    assert shown == {"limit": "60.000000", "lent": "0.000000", "pending_limit": None}


def test_the_layer_is_set_on_the_page_and_refusals_stand_there(
    world: World, operators: list[Party]
) -> None:
    pages = [operator_page_of(party) for party in operators]
    given = {"limit": "70", "reason": "more members"}
    with world.running():
        assert pages[0].post("/operations/layer", given).status_code == 302
        again = pages[0].post("/operations/layer", given)
        assert (again.status_code, "another operator" in text(again).lower()) == (422, True)
        assert pages[1].post("/operations/layer", given | {"limit": "x"}).status_code == 422
        assert "proposed since" in text(pages[1].get("/operations/defaults"))
        assert pages[1].post("/operations/layer", given).status_code == 302
    assert world.market.machine.state.layer_max == 70_000_000
    stranger = member(world)
    assert stranger.get("/operations/defaults").status_code == 403
    assert stranger.post("/operations/layer", given | {"limit": "71"}).status_code == 302
    assert settled.LayerProposal.objects.count() == 1


def test_one_person_of_two_operators_does_not_confirm_what_they_have_proposed(
    world: World, operators: list[Party]
) -> None:
    page = operator_page_of(operators[0])
    user = models.Membership.objects.get(organization_id=operators[0].id).user
    second = models.Membership.objects.create(
        user=user,
        organization=operators[1].organization,
        role="OWNER",
        created_at="2026-12-01T00:00Z",
    )
    given = {"limit": "70", "reason": "more members"}
    with world.running():
        assert page.post("/operations/layer", given).status_code == 302
        session = page.session
        session[shared.ORGANIZATION] = second.organization_id
        session.save()
        assert page.post("/operations/layer", given).status_code == 422
    assert settled.LayerProposal.objects.get().proposed_by == operators[0].id


def test_a_bid_is_made_and_withdrawn_on_the_page(story: Story, clock) -> None:
    client = member(story.world)
    with story.world.running():
        organization = models.Organization.objects.order_by("-pk").first()
    story.world.market.work()
    assert "Nothing is offered now." in text(client.get("/transfers"))
    clock.set(ENFORCED)
    story.world.market.work()
    shown = text(client.get("/transfers"))
    assert EVENING in shown
    key = re.search(r'name="idempotency_key" value="([^"]+)"', shown)[1]
    offer = settled.TransferOffer.objects.get()
    given = {"offer": offer.pk, "lots": "10", "price": "0.900", "idempotency_key": key}
    with story.world.running():
        poor = client.post("/transfers", given)
    assert poor.status_code == 422
    assert "insufficient funds" in text(poor)
    with story.world.running():
        client.post("/portfolio/deposit", {"amount": "100", "idempotency_key": "d1"})
        assert client.post("/transfers", given | {"idempotency_key": "b2"}).status_code == 302
        assert client.post("/transfers", given | {"lots": "x"}).status_code == 422
        bid = settled.TransferBid.objects.get(state="PLACED")
        assert bid.organization_id == organization.pk
        assert client.post("/transfers/withdraw", {"bid": bid.pk}).status_code == 302
    bid.refresh_from_db()
    assert bid.state == "WITHDRAWN"
