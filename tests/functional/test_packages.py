"""Packages over REST: offered, quoted, bought into escrow, and sold on in slices."""

from datetime import UTC, datetime

import pytest
from django.db import transaction

from marketplace import audit, models, packages
from marketplace import clock as clock_of_market
from marketplace.seeding import packages as seeding
from settlement import audit as settlement_audit
from settlement import models as settled
from tests.market import GRADE
from tests.rest import Party, World

CASH = 10_000_000_000
OFFER = {
    "grade": GRADE,
    "from_date": "2026-12-03",
    "to_date": "2026-12-24",
    "lots": [10],
    "list_price": "1.250",
    "discounts": [{"days": 7, "percent": 5}],
    "quantity": 4,
}
WEEK = {"from_date": "2026-12-03", "to_date": "2026-12-10", "quantity": 2}
SLICE = {
    "starts_at": "2026-12-05T08:00:00Z",
    "ends_at": "2026-12-05T18:00:00Z",
    "lots": [5],
    "price": "1.300",
}


@pytest.fixture
def provider(world: World) -> Party:
    found = world.party("Cirrus", "PROVIDER", cash=CASH)
    world.cluster(found, lots=100)
    return found


@pytest.fixture
def buyer(world: World) -> Party:
    return world.party("Northwind", cash=CASH)


def offer(provider: Party, key: str = "o1", **change):
    return provider.api.post("packages", OFFER | change, key=key)


def bought(world: World, provider: Party, buyer: Party, key: str = "b1", **change):
    listing = models.PackageListing.objects.order_by("id").first()
    listing_id = listing.pk if listing else offer(provider).json["id"]
    with world.running():
        return buyer.api.post(f"packages/{listing_id}/buy", WEEK | change, key=key)


def resell(holder: Party, package_id: str, key: str = "s1", **change):
    return holder.api.post(f"packages/bought/{package_id}/resell", SLICE | change, key=key)


def take(world: World, party: Party, slice_id: str, key: str = "t1"):
    with world.running():
        return party.api.post(f"packages/slices/{slice_id}/buy", key=key)


def sound() -> bool:
    with settlement_audit.one_moment():
        return [str(finding) for finding in audit.run() if finding.violations] == []


def test_a_package_is_bought_once_and_paid_into_escrow(
    world: World, provider: Party, buyer: Party
) -> None:
    made = offer(provider)
    assert (made.status, made.json["state"], made.json["available"]) == (201, "open", 4)
    assert offer(provider).json == made.json
    reply = bought(world, provider, buyer)
    again = bought(world, provider, buyer)
    assert reply.status == 201, reply.json
    assert (again.json, again.headers["Idempotency-Replayed"]) == (reply.json, "true")
    assert reply.json == {
        "id": reply.json["id"],
        "package": made.json["id"],
        "parent": None,
        "provider": str(provider.id),
        "provider_name": "Cirrus",
        "holder": str(buyer.id),
        "holder_name": "Northwind",
        "grade": GRADE,
        "starts_at": "2026-12-03T00:00:00.000000Z",
        "ends_at": "2026-12-10T00:00:00.000000Z",
        "price": "1.187",
        "list_price": "1.250",
        "remaining": [
            {
                "starts_at": "2026-12-03T00:00:00.000000Z",
                "ends_at": "2026-12-10T00:00:00.000000Z",
                "lots": [20],
                "p1_lots": [],
            }
        ],
        "remaining_lot_hours": 20 * 24 * 7,
        "remaining_value": "239.299200",
        "bought_at": reply.json["bought_at"],
    }
    account = buyer.api.get("account").json
    assert (account["escrow"], account["available"]) == ("239.299200", "9760.700800")
    # The seller keeps 5 % of it reserved.
    assert provider.api.get("account").json["available"] == "9988.035040"
    assert buyer.api.get("packages/bought").json["results"] == [reply.json]
    assert provider.api.get("packages/sold").json["results"] == [reply.json]
    assert provider.api.get("packages/bought").json["results"] == []
    (left,) = provider.api.get("packages").json["results"]
    assert left["available"] == 2
    assert models.PackagePurchase.objects.get().state == "BOUGHT"
    assert sound()


def test_a_quote_says_what_a_term_costs_and_what_the_same_costs_otherwise(
    world: World, provider: Party, buyer: Party
) -> None:
    listing_id = offer(provider).json["id"]
    quote = buyer.api.post(f"packages/{listing_id}/quote", WEEK)
    assert quote.status == 200
    assert quote.json == {
        "from_date": "2026-12-03",
        "to_date": "2026-12-10",
        "days": 7,
        "quantity": 2,
        "available": 4,
        "lot_hours": 3_360,
        "list_price": "1.250",
        "discount_percent": 5,
        "price": "1.187",
        "total": "239.299200",
        "list_total": "252.000000",
        "curve_price": "1.250",
        "curve_total": "252.000000",
        "saved_against_list": "12.700800",
        "saved_against_curve": "12.700800",
        "is_suspended": False,
    }
    day = buyer.api.post(f"packages/{listing_id}/quote", WEEK | {"to_date": "2026-12-04"})
    assert (day.json["discount_percent"], day.json["price"]) == (0, "1.250")
    for change, status, code in (
        ({"to_date": "2026-12-25"}, 422, "invalid_package"),
        ({"to_date": "2026-12-03"}, 422, "invalid_package"),
        ({"quantity": 5}, 422, "invalid_package"),
        ({"quantity": 0}, 400, "malformed"),
        ({"from_date": "2026-02-30"}, 400, "malformed"),
        ({"from_date": "3 Dec"}, 400, "malformed"),
    ):
        reply = buyer.api.post(f"packages/{listing_id}/quote", WEEK | change)
        assert (reply.status, reply.code) == (status, code), change
    assert models.PackagePurchase.objects.count() == 0


def test_units_are_sold_day_by_day_and_no_more_than_offered(
    world: World, provider: Party, buyer: Party
) -> None:
    assert bought(world, provider, buyer, quantity=3).status == 201
    second = bought(world, provider, buyer, "b2", quantity=2)
    assert (second.status, second.code) == (422, "units_unavailable")
    assert bought(world, provider, buyer, "b3", quantity=1).status == 201
    # The week after has them all.
    later = {"from_date": "2026-12-10", "to_date": "2026-12-17", "quantity": 4}
    assert bought(world, provider, buyer, "b4", **later).status == 201
    assert buyer.api.get("packages").json["results"][0]["available"] == 0
    again = bought(world, provider, buyer, "b2", quantity=2)
    assert (again.code, again.headers["Idempotency-Replayed"]) == ("units_unavailable", "true")
    assert sound()


def test_what_the_machine_refuses_gives_its_units_back(
    world: World, provider: Party, buyer: Party
) -> None:
    poor = world.party("Threadbare", cash=1_000_000)
    refused = bought(world, provider, poor, quantity=4)
    assert (refused.status, refused.code) == (422, "insufficient_funds")
    own = bought(world, provider, provider, "b2")
    assert (own.status, own.code) == (422, "own_group")
    assert set(models.PackagePurchase.objects.values_list("state", "reason")) == {
        ("REFUSED", "insufficient_funds"),
        ("REFUSED", "own_group"),
    }
    assert buyer.api.get("packages").json["results"][0]["available"] == 4
    assert settled.Package.objects.count() == 0


def test_a_listing_is_suspended_while_the_curve_is_more_than_ten_percent_above_it(
    world: World, provider: Party, buyer: Party
) -> None:
    cheap = offer(provider, list_price="1.136").json
    dear = offer(provider, "o2", list_price="1.137").json
    assert (cheap["state"], cheap["reason"]) == ("suspended", "curve_above_list_price")
    assert (dear["state"], dear["reason"]) == ("open", None)
    quote = buyer.api.post(f"packages/{cheap['id']}/quote", WEEK)
    assert quote.json["is_suspended"] is True
    refused = bought(world, provider, buyer)
    assert (refused.status, refused.code) == (422, "listing_suspended")
    with world.running():
        taken = buyer.api.post(f"packages/{dear['id']}/buy", WEEK, key="b2")
    assert taken.status == 201


def test_what_does_not_fit_is_not_listed(world: World, provider: Party, buyer: Party) -> None:
    for number, (change, status, code) in enumerate(
        (
            ({"lots": []}, 400, "malformed"),
            ({"lots": [-1]}, 400, "malformed"),
            ({"list_price": "1.25"}, 400, "malformed"),
            ({"to_date": "2026-13-01"}, 400, "malformed"),
            ({"lots": [1, 2]}, 422, "invalid_package"),
            ({"p1_lots": [11]}, 422, "invalid_package"),
            ({"to_date": "2026-12-03"}, 422, "invalid_package"),
            ({"discounts": [{"days": 7, "percent": 5}] * 2}, 422, "invalid_package"),
            ({"grade": "NOSUCH"}, 422, "unknown_grade"),
            ({"quantity": 11}, 422, "insufficient_coverage"),
            ({"from_date": "2027-11-20", "to_date": "2027-12-20"}, 422, "cluster_not_certified"),
        )
    ):
        reply = offer(provider, f"w{number}", **change)
        assert (reply.status, reply.code) == (status, code), change
    reply = buyer.api.post("packages", OFFER, key="mine")
    assert (reply.status, reply.code) == (403, "not_a_provider")
    assert models.PackageListing.objects.count() == 0


def test_a_withdrawn_package_sells_nothing_more_and_delivers_what_was_bought(
    world: World, provider: Party, buyer: Party
) -> None:
    assert bought(world, provider, buyer).status == 201
    listing_id = models.PackageListing.objects.get().pk
    assert buyer.api.delete(f"packages/{listing_id}").status == 404
    gone = provider.api.delete(f"packages/{listing_id}")
    assert (gone.status, gone.json["state"], gone.json["reason"]) == (200, "withdrawn", "requested")
    assert provider.api.delete(f"packages/{listing_id}").json == gone.json
    late = bought(world, provider, buyer, "b2")
    assert (late.status, late.code) == (422, "package_withdrawn")
    assert buyer.api.get("packages").json["results"] == []
    (listed,) = buyer.api.get("packages", provider=provider.id).json["results"]
    assert listed["state"] == "withdrawn"
    assert len(buyer.api.get("packages/bought").json["results"]) == 1


def test_a_term_is_bought_until_half_past_eleven_of_the_day_before(
    world: World, provider: Party, buyer: Party, clock
) -> None:
    offer(provider)
    clock.set("2026-12-02T11:30Z")
    world.market.work()
    late = bought(world, provider, buyer)
    assert (late.status, late.code) == (422, "deadline_passed")
    assert bought(world, provider, buyer, "b2", from_date="2026-12-04").status == 201


def test_a_slice_is_sold_on_and_both_have_what_they_should(
    world: World, provider: Party, buyer: Party
) -> None:
    package = bought(world, provider, buyer).json
    made = resell(buyer, package["id"])
    assert made.status == 201
    assert (made.json["lot_hours"], made.json["total"]) == (50, "3.900000")
    assert (made.json["fee"], made.json["state"]) == ("0.019500", "offered")
    assert resell(buyer, package["id"]).json == made.json
    other = world.party("Acme", cash=CASH)
    assert other.api.get("packages/slices").json["results"] == [made.json]
    assert buyer.api.get("packages/slices").json["results"] == []
    reply = take(world, other, made.json["id"])
    assert reply.status == 201, reply.json
    assert (reply.json["parent"], reply.json["holder_name"]) == (package["id"], "Acme")
    assert (reply.json["price"], reply.json["remaining_lot_hours"]) == ("1.187", 50)
    # Escrow of 50 lot-hours at 1.187 went with them; 3.90 and the fee of 0.5 % were paid.
    account = other.api.get("account").json
    assert (account["escrow"], account["cash"]) == ("3.561000", "9996.100000")
    mine = buyer.api.get("account").json
    assert mine["escrow"] == "235.738200"
    assert mine["cash"] == "9764.581300"
    left = buyer.api.get(f"packages/bought/{package['id']}").json
    assert left["remaining_lot_hours"] == 3_360 - 50
    assert [(one["lots"], one["starts_at"][5:13]) for one in left["remaining"]] == [
        ([20], "12-03T00"), ([15], "12-05T08"), ([20], "12-05T18"),
    ]  # fmt: skip
    (own,) = buyer.api.get("packages/slices/own").json["results"]
    assert own["state"] == "sold"
    late = take(world, other, made.json["id"], "t2")
    assert (late.status, late.code) == (422, "slice_gone")
    assert sound()


def test_a_slice_for_one_organization_is_seen_and_bought_by_no_other(
    world: World, provider: Party, buyer: Party
) -> None:
    package = bought(world, provider, buyer).json
    friend, stranger = (world.party(name, cash=CASH) for name in ("Acme", "Nimbus"))
    made = resell(buyer, package["id"], buyer=str(friend.id)).json
    assert stranger.api.get("packages/slices").json["results"] == []
    refused = take(world, stranger, made["id"])
    assert (refused.status, refused.code) == (404, "not_found")
    assert take(world, friend, made["id"]).status == 201


def test_a_slice_is_never_more_than_is_left(world: World, provider: Party, buyer: Party) -> None:
    package = bought(world, provider, buyer).json
    for number, (change, status, code) in enumerate(
        (
            ({"lots": [21]}, 422, "exceeds_package"),
            ({"ends_at": "2026-12-10T01:00:00Z"}, 422, "exceeds_package"),
            ({"p1_lots": [1]}, 422, "exceeds_package"),
            ({"starts_at": "2026-12-05T08:30:00Z"}, 422, "invalid_package"),
            ({"lots": [1, 2, 3]}, 422, "invalid_package"),
            ({"starts_at": "2026-12-01T08:00:00Z"}, 422, "deadline_passed"),
            ({"buyer": "999999"}, 404, "not_found"),
            ({"price": "0.000"}, 400, "malformed"),
        )
    ):
        reply = resell(buyer, package["id"], f"s{number}", **change)
        assert (reply.status, reply.code) == (status, code), change
    assert models.PackageSlice.objects.count() == 0


def test_two_slices_of_the_same_lots_are_sold_once(
    world: World, provider: Party, buyer: Party
) -> None:
    package = bought(world, provider, buyer).json
    first = resell(buyer, package["id"], "s1", lots=[15]).json
    second = resell(buyer, package["id"], "s2", lots=[15]).json
    other = world.party("Acme", cash=CASH)
    assert take(world, other, first["id"]).status == 201
    refused = take(world, other, second["id"], "t2")
    assert (refused.status, refused.code) == (422, "exceeds_package")
    row = models.PackageSlice.objects.get(pk=second["id"])
    assert (row.state, row.reason) == ("WITHDRAWN", "exceeds_package")
    assert sound()


def test_a_slice_that_its_buyer_cannot_pay_for_stays_on_offer(
    world: World, provider: Party, buyer: Party
) -> None:
    package = bought(world, provider, buyer).json
    made = resell(buyer, package["id"]).json
    poor, other = world.party("Threadbare", cash=1), world.party("Acme", cash=CASH)
    refused = take(world, poor, made["id"])
    assert (refused.status, refused.code) == (422, "insufficient_funds")
    assert models.PackageSlice.objects.get().state == "OFFERED"
    assert take(world, other, made["id"], "t2").status == 201
    # The same key is refused for ever, though the slice is gone by now.
    assert take(world, poor, made["id"]).code == "insufficient_funds"


def test_a_slice_is_taken_back_until_it_is_sold(
    world: World, provider: Party, buyer: Party
) -> None:
    package = bought(world, provider, buyer).json
    made = resell(buyer, package["id"]).json
    gone = buyer.api.delete(f"packages/slices/own/{made['id']}")
    assert (gone.status, gone.json["state"]) == (200, "withdrawn")
    assert buyer.api.delete(f"packages/slices/own/{made['id']}").json == gone.json
    other = world.party("Acme", cash=CASH)
    assert take(world, other, made["id"]).code == "slice_gone"
    sold = resell(buyer, package["id"], "s2").json
    assert take(world, other, sold["id"], "t2").status == 201
    late = buyer.api.delete(f"packages/slices/own/{sold['id']}")
    assert (late.status, late.code) == (422, "slice_gone")


def test_a_purchase_whose_buyer_did_not_wait_is_known_to_the_next(
    world: World, provider: Party, buyer: Party
) -> None:
    listing_id = int(offer(provider).json["id"])
    starts_at = int(datetime(2026, 12, 3, tzinfo=UTC).timestamp()) * 1_000_000
    poor = world.party("Threadbare", cash=1)
    with transaction.atomic():
        packages.buy(
            organization_id=poor.id,
            listing_id=listing_id,
            starts_at=starts_at,
            ends_at=starts_at + 7 * 86_400_000_000,
            units=4,
            now=starts_at - 2 * 86_400_000_000,
        )
    world.market.work()
    assert models.PackagePurchase.objects.get().state == "PENDING"
    assert bought(world, provider, buyer, quantity=4).status == 201
    assert sorted(models.PackagePurchase.objects.values_list("state", flat=True)) == [
        "BOUGHT", "REFUSED",
    ]  # fmt: skip


def test_the_demos_providers_offer_a_part_of_what_they_are_certified_for(
    world: World, provider: Party, buyer: Party
) -> None:
    seeded = {(provider.id, GRADE): 100, (buyer.id, GRADE): 4}
    assert seeding.offer(seeded, now=clock_of_market.now_micros()) == 1
    (shown,) = buyer.api.get("packages").json["results"]
    assert (shown["state"], shown["from_date"], shown["to_date"]) == (
        "open", "2026-12-02", "2026-12-23",
    )  # fmt: skip
    assert (shown["lots"], shown["quantity"], shown["list_price"]) == ([2], 5, "1.275")
    assert bought(world, provider, buyer, quantity=5).status == 201
