"""The pages of cover, as a browser without scripts uses them."""

import re

from django.test import Client

from admission.models import CoverOffer
from marketplace import models
from tests.functional.test_pages import member, text
from tests.rest import Party, World


def owned(world: World, client: Client) -> models.Cluster:
    """Give the provider that is logged in a certified cluster."""
    organization = models.Organization.objects.get(name="Acme")
    cluster = world.cluster(world.party("Nimbus", "PROVIDER"))
    models.Cluster.objects.filter(pk=cluster.pk).update(organization=organization)
    return cluster


def offer(client: Client, own: models.Cluster, **change: str):
    page = text(client.get("/sell/cover"))
    values = {
        "cluster": str(own.public_id),
        "price": "1.5",
        "lots": "10",
        "idempotency_key": re.search(r'name="idempotency_key" value="([^"]+)"', page)[1],
    }
    return client.post("/sell/cover", values | change)


def test_cover_is_offered_once_shown_and_withdrawn(world: World) -> None:
    client = member(world, role="PROVIDER")
    cluster = owned(world, client)
    pool = f"/transparency/{cluster.public_id}"
    assert "No standing offer." in text(client.get("/sell/cover"))
    assert "Standing cover" not in text(client.get(pool))
    assert offer(client, cluster, idempotency_key="c1").status_code == 302
    assert offer(client, cluster, idempotency_key="c1").status_code == 302
    row = CoverOffer.objects.get()
    assert (row.cluster, row.price_ticks, row.lots) == (cluster.pk, 1_500, 10)
    assert "covers up to 10 lots at 1.500." in text(client.get("/sell/cover"))
    assert "Standing cover" in text(Client().get(pool))
    given = {"cluster": str(cluster.public_id), "offer": str(row.pk)}
    said = client.post("/sell/cover/withdraw", given, follow=True)
    assert "at 1.500 is withdrawn." in text(said)
    row.refresh_from_db()
    assert row.withdrawn_at is not None
    assert "Standing cover" not in text(Client().get(pool))


def test_cover_that_cannot_be_offered_is_said_on_the_page(world: World) -> None:
    client = member(world, role="PROVIDER")
    cluster = owned(world, client)
    for change, status, words in (
        ({"lots": str(cluster.certified_lots + 1)}, 422, "lots"),
        ({"lots": "0"}, 422, "lots"),
        ({"price": "99"}, 422, "times the grade"),
        ({"price": "free"}, 422, "price"),
    ):
        reply = offer(client, cluster, **change)
        assert reply.status_code == status, change
        assert "errorlist" in text(reply), change
        assert words in text(reply).lower(), change
    assert CoverOffer.objects.count() == 0


def test_nobody_offers_or_withdraws_for_anothers_cluster(world: World) -> None:
    client = member(world, role="PROVIDER")
    own = owned(world, client)
    other: Party = world.party("Cirrus", "PROVIDER")
    theirs = world.cluster(other)
    made = other.api.post(f"clusters/{theirs.pk}/cover", {"price": "1.500", "quantity": 10})
    assert made.status == 201
    assert offer(client, own, cluster=str(theirs.public_id)).status_code == 404
    for cluster in (own, theirs):
        given = {"cluster": str(cluster.public_id), "offer": made.json["id"]}
        assert client.post("/sell/cover/withdraw", given).status_code == 404
    assert CoverOffer.objects.get().withdrawn_at is None
