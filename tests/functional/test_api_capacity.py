"""Selling capacity over REST: from a cluster's registration to the order that offers its lots."""

import pytest

from admission.models import Certification, CoverOffer
from exchange.models import Order
from marketplace import models
from tests.market import GRADE, HOUR, buy
from tests.rest import Party, World

HALL = {"name": "Hall one", "grade": GRADE, "accelerator": "H100", "replicas": 4}


@pytest.fixture
def provider(world: World) -> Party:
    models.Grade.objects.update(model_shape="LLAMA70B", precision="fp8")
    return world.party("Cirrus", "PROVIDER", cash=1_000_000_000)


def test_a_modelled_cluster_is_registered_once(provider: Party) -> None:
    first = provider.api.post("clusters", HALL | {"tensor_parallel": 4}, key="c1")
    again = provider.api.post("clusters", HALL | {"tensor_parallel": 4}, key="c1")
    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    cluster = first.json
    assert (cluster["state"], cluster["certified_lots"]) == ("registered", 0)
    assert cluster["is_modelled"] is True
    assert cluster["endpoint"].endswith(f"/clusters/{cluster['id']}/v1")
    assert provider.api.get(f"clusters/{cluster['id']}").json == cluster
    assert provider.api.get("clusters").json == {"results": [cluster], "next_cursor": None}


def test_a_cluster_that_cannot_be_is_refused(provider: Party) -> None:
    for change, status, code in (
        ({"accelerator": "ABACUS"}, 422, "unknown_accelerator"),
        ({"grade": "NOPE"}, 422, "unknown_grade"),
        ({"replicas": 0}, 400, "malformed"),
        ({"replicas": "4"}, 400, "malformed"),
        ({"replicas": 10**30}, 400, "malformed"),
        ({"certified_lots": 5}, 400, "malformed"),
        ({"state": "CERTIFIED"}, 400, "malformed"),
        ({"name": "=cmd()"}, 400, "malformed"),
        ({"name": "ha\u202ell"}, 400, "malformed"),
        ({"endpoint": "http://169.254.169.254/v1"}, 422, "endpoint_not_allowed"),
        ({"endpoint": "file:///etc/passwd"}, 422, "endpoint_not_allowed"),
    ):
        reply = provider.api.post("clusters", HALL | {"tensor_parallel": 4} | change)
        assert (reply.status, reply.code) == (status, code), change
    assert models.Cluster.objects.count() == 0


def test_only_providers_register_clusters(world: World) -> None:
    reply = world.party("Northwind").api.post("clusters", HALL)
    assert (reply.status, reply.code) == (403, "not_a_provider")


def test_a_certification_is_begun_once_and_watched(world: World, provider: Party) -> None:
    cluster = world.cluster(provider, lots=0)
    first = provider.api.post(f"clusters/{cluster.pk}/certify", key="a")
    assert (first.status, first.json["state"], first.json["progress"]) == (202, "pending", 0)
    again = provider.api.post(f"clusters/{cluster.pk}/certify", key="a")
    assert (again.status, again.json) == (202, first.json)
    other = provider.api.post(f"clusters/{cluster.pk}/certify", key="b")
    assert (other.status, other.code) == (409, "certification_running")
    Certification.objects.update(state="CERTIFIED", progress=100, lots=90, report={"mix": "one"})
    path = f"clusters/{cluster.pk}/certifications/{first.json['id']}"
    shown = provider.api.get(path).json
    assert (shown["state"], shown["progress"], shown["lots"]) == ("certified", 100, 90)
    assert shown["report"] == {"mix": "one"}


def test_a_listing_places_the_order_that_offers_its_lots(world: World, provider: Party) -> None:
    cluster = world.cluster(provider)
    offer = {"cluster": str(cluster.pk), "instrument": HOUR, "price": "1.250", "quantity": 100}
    with world.running():
        first = provider.api.post("listings", offer, key="l1")
        again = provider.api.post("listings", offer, key="l1")
    assert (first.status, first.json["state"]) == (201, "open")
    assert again.json == first.json
    order = Order.objects.get()
    assert (order.lots, order.price_ticks, order.side) == (100, 1_250, -1)
    assert first.json["order_id"] == str(order.pk)

    buyer = world.party("Northwind", cash=1_000_000_000)
    world.market.execute(buy(buyer.id, 1_250, 40, "b1"))
    (listing,) = provider.api.get("listings").json["results"]
    assert (listing["filled_quantity"], listing["state"]) == (40, "open")

    with world.running():
        withdrawn = provider.api.delete(f"listings/{listing['id']}")
    assert (withdrawn.status, withdrawn.json["state"]) == (200, "withdrawn")
    order.refresh_from_db()
    assert (order.status, order.filled_lots) == ("CANCELED", 40)
    with world.running():
        assert provider.api.delete(f"listings/{listing['id']}").json == withdrawn.json


def test_a_listing_that_cannot_be_is_refused(world: World, provider: Party) -> None:
    cluster = world.cluster(provider)
    offer = {"cluster": str(cluster.pk), "instrument": HOUR, "price": "1.250", "quantity": 100}
    with world.running():
        for change, status, code in (
            ({"price": "1.25"}, 400, "malformed"),
            ({"price": "-0.000"}, 400, "malformed"),
            ({"quantity": 0}, 400, "malformed"),
            ({"quantity": True}, 400, "malformed"),
            ({"instrument": "LLAMA70B.H.20261201T99Z"}, 404, "not_found"),
            ({"cluster": "999999"}, 404, "not_found"),
            ({"cluster": "{1}"}, 404, "not_found"),
            ({"price": "9.000"}, 422, "outside_band"),
            ({"quantity": 1_001}, 422, "insufficient_coverage"),
        ):
            reply = provider.api.post("listings", offer | change)
            assert (reply.status, reply.code) == (status, code), change
    assert not Order.objects.filter(status="OPEN").exists()
    assert not models.Listing.objects.filter(state="OPEN").exists()


def test_a_cluster_that_is_not_certified_lists_nothing(world: World, provider: Party) -> None:
    cluster = world.cluster(provider, lots=0)
    offer = {"cluster": str(cluster.pk), "instrument": HOUR, "price": "1.250", "quantity": 100}
    reply = provider.api.post("listings", offer)
    assert (reply.status, reply.code) == (422, "cluster_not_certified")


def test_without_an_engine_a_listing_is_not_placed_later(world: World, provider: Party) -> None:
    cluster = world.cluster(provider)
    world.market.client.flushall()
    offer = {"cluster": str(cluster.pk), "instrument": HOUR, "price": "1.250", "quantity": 100}
    reply = provider.api.post("listings", offer, key="down")
    assert (reply.status, reply.code) == (503, "engine_unavailable")
    (listing,) = provider.api.get("listings").json["results"]
    assert (listing["state"], listing["order_id"]) == ("pending", None)
    assert provider.api.delete(f"listings/{listing['id']}").json["state"] == "withdrawn"
    again = provider.api.post("listings", offer, key="down")
    assert (again.status, again.json["state"]) == (201, "withdrawn")
    assert Order.objects.count() == 0


def test_cover_is_offered_once_listed_and_withdrawn(world: World, provider: Party) -> None:
    cluster = world.cluster(provider)
    path = f"clusters/{cluster.pk}/cover"
    first = provider.api.post(path, {"price": "1.500", "quantity": 10}, key="k1")
    again = provider.api.post(path, {"price": "1.500", "quantity": 10}, key="k1")
    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    assert (first.json["price"], first.json["quantity"]) == ("1.500", 10)
    assert provider.api.get(path).json["results"] == [first.json]
    withdrawn = provider.api.delete(f"{path}/{first.json['id']}").json
    assert withdrawn["withdrawn_at"] is not None
    assert provider.api.delete(f"{path}/{first.json['id']}").json == withdrawn
    assert provider.api.get(path).json["results"] == []


def test_cover_that_cannot_be_is_refused_and_changes_nothing(world: World, provider: Party) -> None:
    cluster = world.cluster(provider)
    empty = world.cluster(provider, lots=0)
    models.Cluster.objects.filter(pk=empty.pk).update(state="REGISTERED")
    reference = models.Grade.objects.get(code=GRADE).reference_price_ticks
    wanted = {"price": "1.500", "quantity": 10}
    for number, change, status, code in (
        (cluster.pk, {"price": f"{(5 * reference + 1) / 1000:.3f}"}, 422, "cover_price_too_high"),
        (cluster.pk, {"price": "0.000"}, 400, "malformed"),
        (cluster.pk, {"price": 1.5}, 400, "malformed"),
        (cluster.pk, {"quantity": cluster.certified_lots + 1}, 422, "over_certified"),
        (cluster.pk, {"quantity": 0}, 400, "malformed"),
        (cluster.pk, {"quantity": True}, 400, "malformed"),
        (cluster.pk, {"seller": 7}, 400, "malformed"),
        (empty.pk, {}, 422, "cluster_not_certified"),
        (cluster.pk + 10**6, {}, 404, "not_found"),
    ):
        reply = provider.api.post(f"clusters/{number}/cover", wanted | change)
        assert (reply.status, reply.code) == (status, code), change
    stranger = world.party("Nimbus", "PROVIDER")
    assert stranger.api.post(f"clusters/{cluster.pk}/cover", wanted).status == 404
    assert stranger.api.get(f"clusters/{cluster.pk}/cover").status == 404
    assert CoverOffer.objects.count() == 0
