"""The pages of packages, as a browser without scripts uses them."""

import re

from django.test import Client

from marketplace import models
from settlement import models as settled
from tests.functional.test_pages import member, text
from tests.market import GRADE
from tests.rest import Party, World

OFFER = {
    "grade": GRADE,
    "from_date": "2026-12-03",
    "last_date": "2026-12-23",
    "lots": "10",
    "p1_lots": "",
    "list_price": "1.25",
    "discounts": "7: 5, 14 = 10%",
    "units": "4",
    "idempotency_key": "page-1",
}
TERM = {"from_date": "2026-12-03", "last_date": "2026-12-09", "units": "2"}


def provider(world: World) -> Client:
    client = member(world, "Cirrus", "PROVIDER", cash=10_000_000_000)
    organization = models.Organization.objects.get(name="Cirrus")
    world.cluster(Party(organization=organization, api=None), lots=100)
    return client


def buyer(world: World, name: str = "Northwind") -> Client:
    return member(world, name, cash=10_000_000_000)


def listed(client: Client) -> int:
    assert client.post("/sell/packages", OFFER).status_code == 302
    return models.PackageListing.objects.get().pk


def buy(world: World, client: Client, listing_id: int, **change: str):
    with world.running():
        return client.post(
            f"/packages/{listing_id}/buy", TERM | {"idempotency_key": "page-2"} | change
        )


def resell(client: Client, package_id: int, **change: str):
    values = {
        "starts_at": "2026-12-05T08:00",
        "ends_at": "2026-12-05T18:00",
        "lots": "5",
        "p1_lots": "",
        "price": "1.3",
        "buyer": "",
        "idempotency_key": "page-3",
    }
    return client.post(f"/portfolio/packages/{package_id}", values | change)


def test_a_provider_lists_a_package_once_and_withdraws_it(world: World) -> None:
    client = provider(world)
    assert "No package listed yet." in text(client.get("/sell/packages"))
    assert client.post("/sell/packages", OFFER).status_code == 302
    assert client.post("/sell/packages", OFFER).status_code == 302
    row = models.PackageListing.objects.get()
    assert (row.lots, row.discounts, row.units) == ([10], [[7, 5], [14, 10]], 4)
    page = text(client.get("/sell/packages"))
    assert "10 in every hour" in page
    assert "4 of 4" in page
    stranger = member(world, "Nimbus", "PROVIDER")
    assert stranger.post("/sell/packages/withdraw", {"row": row.pk}).status_code == 404
    gone = client.post("/sell/packages/withdraw", {"row": row.pk}, follow=True)
    assert f"Package {row.pk} is withdrawn." in text(gone)
    assert "Nothing more of it is sold." in text(Client().get(f"/packages/{row.pk}"))


def test_what_cannot_be_listed_is_said_beside_what_was_typed(world: World) -> None:
    client = provider(world)
    for number, (change, said) in enumerate(
        (
            ({"lots": "ten"}, "Lots are whole numbers."),
            ({"lots": "1 2 3"}, "24 or 168"),
            ({"p1_lots": "11"}, "as many lots as P1 lots"),
            ({"discounts": "a week: 5"}, "days and percent"),
            ({"discounts": "7: 5, 14: 4"}, "longer terms have larger discounts"),
            ({"last_date": "2026-12-02"}, "1 to 365 days"),
            ({"last_date": "0001-01-01"}, "too far away"),
            ({"units": "11"}, "100 lots are certified"),
            ({"list_price": "cheap"}, "A price is"),
        )
    ):
        refused = client.post("/sell/packages", OFFER | change | {"idempotency_key": f"k{number}"})
        assert refused.status_code == 422, change
        assert said.lower() in text(refused).lower(), change
        assert 'name="discounts"' in text(refused)
    assert models.PackageListing.objects.count() == 0
    assert "Only providers list packages" in text(buyer(world).get("/sell/packages"))


def test_a_schedule_by_hours_is_shown_as_a_table(world: World) -> None:
    client = provider(world)
    office = "0 " * 8 + "10 " * 10 + "0 " * 6
    listing = OFFER | {"lots": office, "p1_lots": office.replace("10", "3")}
    assert client.post("/sell/packages", listing).status_code == 302
    row = models.PackageListing.objects.get()
    assert (sum(row.lots), sum(row.p1_lots)) == (100, 30)
    page = text(Client().get(f"/packages/{row.pk}"))
    assert "0 to 10 by hour of day" in page
    assert page.count("Every day") == 2


def test_a_term_is_chosen_quoted_confirmed_and_held(world: World) -> None:
    listing_id = listed(provider(world))
    client = buyer(world)
    assert "No package yet." in text(client.get("/portfolio/packages"))
    assert f"/packages/{listing_id}" in text(client.get("/packages"))
    assert "Choose a term to see what it costs" in text(client.get(f"/packages/{listing_id}"))
    stranger = text(Client().get(f"/packages/{listing_id}", TERM))
    assert "Log in</a> to buy it." in stranger
    page = text(client.get(f"/packages/{listing_id}", TERM))
    assert "Buy for $239.2992" in page
    assert "5 % off 1.250" in page
    assert "$12.7008" in page
    key = re.search(r'name="idempotency_key" value="([^"]+)"', page)[1]
    assert buy(world, client, listing_id, idempotency_key=key).status_code == 302
    assert buy(world, client, listing_id, idempotency_key=key).status_code == 302
    package = settled.Package.objects.get()
    held = text(client.get("/portfolio/packages"))
    assert "20 in every hour" in held
    assert "239.2992" in held
    assert f'href="/portfolio/packages/{package.pk}"' in held
    assert "2 of 4" in text(client.get("/packages"))


def test_a_term_that_is_not_offered_says_why(world: World) -> None:
    listing_id = listed(provider(world))
    client = buyer(world)
    for change, said in (
        ({"last_date": "2027-01-05"}, "outside what is offered"),
        ({"last_date": "2026-12-01"}, "The last day is before the first."),
        ({"units": "none"}, "whole number"),
        ({"units": "5"}, "4 units are offered"),
        ({"from_date": "soon"}, "Enter a valid date."),
    ):
        page = client.get(f"/packages/{listing_id}", TERM | change)
        assert page.status_code == 422, change
        assert said in text(page), change
        assert buy(world, client, listing_id, **change).status_code == 422
    assert client.get("/packages/99").status_code == 404
    assert client.get(f"/packages/{10**30}").status_code == 404
    assert settled.Package.objects.count() == 0


def test_a_purchase_that_is_refused_says_why_and_keeps_the_term(world: World) -> None:
    listing_id = listed(provider(world))
    poor = member(world, "Threadbare", cash=1_000)
    refused = buy(world, poor, listing_id)
    assert refused.status_code == 422
    assert "insufficient funds" in text(refused)
    assert 'value="2026-12-09"' in text(refused)


def test_a_slice_is_offered_bought_and_taken_back(world: World) -> None:
    listing_id = listed(provider(world))
    client, other = buyer(world), buyer(world, "Acme")
    assert buy(world, client, listing_id).status_code == 302
    package = settled.Package.objects.get()
    page = text(client.get(f"/portfolio/packages/{package.pk}"))
    assert "50 basis points" in page
    assert other.get(f"/portfolio/packages/{package.pk}").status_code == 404
    assert resell(other, package.pk).status_code == 404
    assert resell(client, package.pk, lots="21").status_code == 422
    unknown = resell(client, package.pk, buyer="Nobody at all", idempotency_key="u")
    assert "there is no organization nobody at all" in text(unknown).lower()
    assert resell(client, package.pk, idempotency_key="s1").status_code == 302
    assert resell(client, package.pk, idempotency_key="s1").status_code == 302
    first = models.PackageSlice.objects.get()
    shown = text(other.get("/packages"))
    assert "Buy for $3.90" in shown
    assert "Buy for $3.90" not in text(client.get("/packages"))
    key = re.search(r'name="idempotency_key" value="([^"]+)"', shown)[1]
    with world.running():
        bought = other.post(
            "/packages/slices/buy", {"row": first.pk, "idempotency_key": key}, follow=True
        )
        late = other.post("/packages/slices/buy", {"row": first.pk, "idempotency_key": "late"})
    assert "Bought the slice" in text(bought)
    assert late.status_code == 422
    assert "sold or withdrawn" in text(late)
    child = settled.Package.objects.get(parent=package.pk)
    assert other.get(f"/portfolio/packages/{child.pk}").status_code == 200
    named = resell(client, package.pk, buyer="acme", price="1.4", idempotency_key="s2")
    assert named.status_code == 302
    second = models.PackageSlice.objects.order_by("id").last()
    assert "for you alone" in text(other.get("/packages"))
    assert other.post("/portfolio/packages/take-back", {"row": second.pk}).status_code == 404
    gone = client.post("/portfolio/packages/take-back", {"row": second.pk}, follow=True)
    assert "The slice is withdrawn." in text(gone)
    assert "Nobody sells a slice on now." in text(other.get("/packages"))


def test_a_viewer_looks_and_changes_nothing(world: World) -> None:
    listing_id = listed(provider(world))
    client = buyer(world)
    models.Membership.objects.filter(organization__name="Northwind").update(role="VIEWER")
    assert "Buy for $" in text(client.get(f"/packages/{listing_id}", TERM))
    refused = buy(world, client, listing_id)
    assert refused.status_code == 302
    assert "viewer" in text(client.get("/portfolio")).lower()
    assert settled.Package.objects.count() == 0
