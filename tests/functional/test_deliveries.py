"""Deliveries, disputes and monthly statements through the API and the pages, as both parties."""

from dataclasses import dataclass

import pytest
from django.test import Client

from marketplace import clock as market_clock
from marketplace import contract, models, operations
from settlement import disputes, index
from settlement import models as settled
from tests.market import GRADE
from tests.rest import Party, World

PASSWORD = "correct horse battery"
LOTS, PRICE = 4, 1_250
WHOLE = LOTS * contract.MNTU_PER_LOT_INTERVAL
PER_INTERVAL = 5 * PRICE * LOTS
BAD = 3


@dataclass
class Parties:
    """Who took part in the delivery with the id 7, and a browser of the holder's."""

    holder: Party
    seller: Party
    first: Party
    second: Party
    browser: Client


@pytest.fixture
def parties(world: World, clock) -> Parties:
    """An hour that is settled, all of it delivered but for one interval."""
    user = operations.sign_up(
        email="h@example.com", password=PASSWORD, organization_name="Holder", role="BUYER"
    )
    browser = Client()
    browser.force_login(user)
    organization = user.memberships.get().organization
    made = operations.create_key(organization_id=organization.pk, scopes=[*operations.ALL_SCOPES])
    world.market.work()
    from tests.rest import Api

    holder = Party(organization=organization, api=Api(key=made.text))
    seller = world.party("Seller", "PROVIDER")
    starts_at = market_clock.to_datetime(clock.at - 2 * contract.HOUR)
    hour = {"grade": GRADE, "starts_at": starts_at, "lots": LOTS, "price_ticks": PRICE}
    entitlement = settled.Entitlement.objects.create(
        id=5, organization_id=holder.id, escrow_micros=0, **hour
    )
    obligation = settled.Obligation.objects.create(
        id=6, organization_id=seller.id, failed_lots=0, **hour
    )
    allocation = settled.Allocation.objects.create(
        id=7, entitlement=entitlement, obligation=obligation, holder=holder.id, seller=seller.id,
        cluster=1, **hour,
    )  # fmt: skip
    inputs = index.encode(
        index.Inputs(grade=GRADE, hour_starts_at=market_clock.to_micros(starts_at), mark=PRICE)
    )
    settled.IndexValue.objects.create(
        grade=GRADE, hour_starts_at=starts_at, price_ticks=PRICE, method="mark", inputs=inputs,
        digest=index.digest(inputs), at=starts_at,
    )  # fmt: skip
    for interval in range(1, 13):
        available = 0 if interval == BAD else WHOLE
        seen = {
            "allocation": allocation, "interval": interval, "available_mntu": available,
            "short_mntu": 0, "delivered_mntu": available, "at": market_clock.now(),
        }  # fmt: skip
        settled.DeliveryReport.objects.create(
            owed_mntu=WHOLE, probes=10, probes_passed=10 if available else 0, **seen
        )
        settled.IntervalSettlement.objects.create(
            released_micros=PER_INTERVAL if available else 0,
            refunded_micros=0 if available else PER_INTERVAL, compensated_micros=0,
            compensation_due_micros=0, **seen,
        )  # fmt: skip
    return Parties(
        holder=holder,
        seller=seller,
        first=world.party("Operations", "OPERATOR"),
        second=world.party("Supervision", "OPERATOR"),
        browser=browser,
    )


def open_one(party: Party, **terms) -> dict:
    reply = party.api.post(
        "disputes", {"delivery": "7", "reason": "We served all of it", "intervals": [BAD]} | terms
    )
    assert reply.status == 201, reply.json
    return reply.json


def test_both_parties_see_the_same_delivery_with_three_figures(parties: Parties) -> None:
    for party, figure in ((parties.seller, "2200.000"), (parties.holder, "1")):
        reply = party.api.post("deliveries/7/figures", {"delivered_ntu": figure}, key="-")
        assert (reply.status, reply.json["delivery"]) == (201, "7")
    seen = [
        party.api.get("deliveries").json["results"][0] for party in (parties.holder, parties.seller)
    ]
    assert [one.pop("role") for one in seen] == ["holder", "seller"]
    assert seen[0] == seen[1]
    assert (seen[0]["seller_ntu"], seen[0]["holder_ntu"]) == ("2200.000", "1.000")
    assert seen[0]["gateway_ntu"] == f"{11 * WHOLE // 1000}.000"
    assert (seen[0]["state"], seen[0]["refunded"]) == ("provisional", "0.025000")
    assert seen[0]["disputed_until"] == "2026-12-13T02:00:00.000000Z"
    whole = parties.holder.api.get("deliveries/7").json
    assert whole["corrections"] == []


@pytest.mark.parametrize("figure", ["-1", "1.5", "1e3", "", "9" * 20, "NaN"])
def test_a_figure_is_a_count_of_tokens(parties: Parties, figure: str) -> None:
    reply = parties.seller.api.post("deliveries/7/figures", {"delivered_ntu": figure}, key="-")
    assert reply.status == 400
    assert not settled.DeliveryFigure.objects.exists()


def test_a_dispute_is_opened_once_seen_by_both_and_decided_by_an_operator(
    parties: Parties,
) -> None:
    body = {"delivery": "7", "reason": "We served all of it", "intervals": [BAD]}
    first = parties.seller.api.post("disputes", body, key="one")
    again = parties.seller.api.post("disputes", body, key="one")
    assert (first.status, again.json) == (201, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (first.json["state"], first.json["role"], first.json["is_own"]) == (
        "open",
        "seller",
        True,
    )
    (seen,) = parties.holder.api.get("disputes").json["results"]
    assert seen == first.json | {"is_own": False}
    (waiting,) = parties.first.api.get("disputes/open").json["results"]
    assert waiting["id"] == seen["id"]
    decision = {
        "uphold": True, "reason": "The probes were wrong", "short_ntu": "0",
        "available_ntu": str(WHOLE // 1000),
    }  # fmt: skip
    decided = parties.first.api.post(f"disputes/{seen['id']}/decide", decision, key="-")
    assert (decided.status, decided.json["state"]) == (200, "upheld")
    assert parties.holder.api.get(f"disputes/{seen['id']}").json["decision"] == decision["reason"]
    assert settled.DeliveryRevision.objects.get().available_mntu == WHOLE


def test_what_moves_much_waits_for_an_operator_of_another_organization(
    parties: Parties, monkeypatch
) -> None:
    monkeypatch.setattr(disputes, "DECIDED_ALONE_MICROS_MAX", PER_INTERVAL - 1)
    path = f"disputes/{open_one(parties.seller)['id']}/decide"
    decision = {
        "uphold": True, "reason": "The probes were wrong", "short_ntu": "0",
        "available_ntu": str(WHOLE // 1000),
    }  # fmt: skip
    first = parties.first.api.post(path, decision, key="-")
    assert (first.status, first.json["state"]) == (202, "proposed")
    assert parties.first.api.post(path, decision, key="-").code == "second_operator_required"
    second = parties.second.api.post(path, decision, key="-")
    assert (second.status, second.json["state"]) == (200, "upheld")
    assert models.AuditEntry.objects.count() == 2


def test_a_late_dispute_is_refused_and_so_is_half_a_decision(parties: Parties, clock) -> None:
    dispute = open_one(parties.holder)
    path = f"disputes/{dispute['id']}/decide"
    half = parties.first.api.post(path, {"uphold": True, "reason": "Because"}, key="-")
    assert (half.status, half.code) == (422, "figures_do_not_fit")
    more = {"uphold": False, "reason": "Because", "short_ntu": "1"}
    assert parties.first.api.post(path, more, key="-").code == "figures_do_not_fit"
    clock.set("2026-12-13T02:00Z")
    body = {"delivery": "7", "reason": "Too late", "intervals": [1]}
    assert parties.seller.api.post("disputes", body).code == "dispute_too_late"


def test_a_dispute_is_opened_and_withdrawn_on_the_page(parties: Parties) -> None:
    page = parties.browser.get("/deliveries").content.decode()
    assert "No disputes." in page
    given = {
        "delivery": "7", "interval": str(BAD), "reason": "Nothing came through",
        "idempotency_key": "page-1",
    }  # fmt: skip
    for _ in range(2):
        shown = parties.browser.post("/deliveries/dispute", given, follow=True).content.decode()
    assert "Nothing came through" in shown
    (dispute,) = settled.Dispute.objects.all()
    assert (dispute.intervals, dispute.opened_by) == ([BAD], parties.holder.id)
    parties.browser.post("/deliveries/withdraw", {"dispute": str(dispute.pk)})
    dispute.refresh_from_db()
    assert dispute.state == "WITHDRAWN"
    bad = parties.browser.post("/deliveries/dispute", given | {"reason": "=1+1"})
    assert bad.status_code == 422


def test_a_month_is_a_page_a_csv_and_a_pdf(parties: Parties, world: World) -> None:
    api = parties.holder.api
    (month,) = api.get("statements/months").json["results"]
    assert (month["month"], month["is_closed"]) == ("2026-12", False)
    shown = api.get("statements/2026-12").json
    assert (shown["time_zone"], shown["accounts"][0]["closing"]) == ("UTC", "0.000000")
    for wrong in ("2026-13", "2026-1", "2027-01", "2026-11", "x"):
        assert api.get(f"statements/{wrong}").status == 404, wrong
    sent = {"Authorization": f"Bearer {api.key}"}
    files = {
        form: Client().get(f"/api/v1/statements/2026-12?format={form}", headers=sent)
        for form in ("csv", "pdf")
    }
    assert files["csv"]["Content-Type"] == "text/csv; charset=utf-8"
    assert files["pdf"]["Content-Type"] == "application/pdf"
    assert files["pdf"].content.startswith(b"%PDF-")
    for form, answer in files.items():
        name = f"baseload-{parties.holder.id}-2026-12.{form}"
        assert answer["Content-Disposition"] == f'attachment; filename="{name}"'
        page = parties.browser.get(f"/portfolio/months.{form}?month=2026-12")
        assert page["Content-Type"] == answer["Content-Type"]
        assert page["Cache-Control"] == "no-store"
    page = parties.browser.get("/portfolio/months").content.decode()
    assert "Statement for 2026-12" in page
    assert "No trade in this month." in page
