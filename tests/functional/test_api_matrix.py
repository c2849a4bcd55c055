"""Every route against every kind of caller: nobody reaches what is another organization's."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from admission.models import Certification, CoverOffer, Receipt
from marketplace import clock as market_clock
from marketplace import models, openapi, operations
from marketplace.endpoint import Endpoint
from settlement import models as settled
from tests.market import GRADE, HOUR, buy, sell
from tests.rest import Api, Party, World

PUBLIC = {
    "symbol": HOUR,
    "grade": GRADE,
    "hour": "20261201T14Z",
    "month": "2026-12",
    "pool_id": "none",
    "transfer_id": "1",
    "offer_id": "1",
    "offered_slice_id": "1",
}
OWNED = {
    "order_id", "key_id", "cluster_id", "certification_id", "listing_id", "delivery_id",
    "dispute_id", "instruction_id", "commitment_id", "bid_id", "bought_id", "slice_id",
    "receipt_id", "cover_offer_id",
}  # fmt: skip
OPERATORS = {"organization_id", "decided_id"}
_PARAMETER = re.compile(r"{(\w+)}")


def routes(*, served: bool = True) -> list[tuple[str, type[Endpoint]]]:
    """Every operation with its path below `/api/v1/`; those that Django itself serves."""
    return [
        (path.removeprefix("/api/v1/"), endpoint)
        for path, endpoint in openapi.operations()
        if not (served and endpoint.is_documented_only)
    ]


def valid_body(endpoint: type[Endpoint], owner: dict[str, str]) -> dict[str, Any]:
    """A body that would be taken from the owner of the objects."""
    bodies: dict[str, dict[str, Any]] = {
        "RequestDeposit": {"amount": "1"},
        "RequestWithdrawal": {"amount": "1"},
        "CreateApiKey": {"scopes": ["read"]},
        "RegisterCluster": {"name": "Hall", "grade": GRADE, "accelerator": "H100"},
        "ListCapacity": {
            "cluster": owner["cluster_id"],
            "instrument": HOUR,
            "price": "1.250",
            "quantity": 1,
        },
        "CommitPurchase": {
            "instrument": HOUR,
            "deadline": "2026-12-01T13:00:00Z",
            "quantity": 1,
            "price": "1.250",
        },
        "OfferPackage": {
            "grade": GRADE,
            "from_date": "2026-12-03",
            "to_date": "2026-12-10",
            "lots": [1],
            "list_price": "1.250",
        },
        "QuotePackage": {"from_date": "2026-12-03", "to_date": "2026-12-10"},
        "BuyPackage": {"from_date": "2026-12-03", "to_date": "2026-12-10"},
        "ResellPackage": {
            "starts_at": "2026-12-05T00:00:00Z",
            "ends_at": "2026-12-06T00:00:00Z",
            "lots": [1],
            "price": "1.300",
        },
        "InstructResale": {"grade": GRADE, "floor_price": "1.100"},
        "ReportFigure": {"delivered_ntu": "1"},
        "OpenDispute": {"delivery": owner["delivery_id"], "reason": "Not what was served"},
        "DecideDispute": {"uphold": False, "reason": "As metered"},
        "CreateDemoOrganization": {"name": "Fabrikam", "role": "buyer"},
        "AdvanceClock": {"advance_to": "2026-12-01T10:00:00Z"},
        "SetFault": {"cluster": owner["cluster_id"], "available": 1.0},
        "BidForOffer": {"quantity": 1, "price": "1.250"},
        "OfferCover": {"price": "1.250", "quantity": 1},
        "SetLayer": {"limit": "1", "reason": "less is at stake"},
        "OverrideIndex": {"price": "1.300", "reason": "a stray quote"},
    }
    return bodies.get(endpoint.__name__, {})


@pytest.fixture
def owner(world: World) -> Party:
    return world.party("Cirrus", "PROVIDER", cash=1_000_000_000)


@pytest.fixture
def stranger(world: World) -> Party:
    return world.party("Nimbus", "PROVIDER", cash=1_000_000_000)


@pytest.fixture
def objects(world: World, owner: Party) -> dict[str, str]:
    """One object of the owner's for every kind that a path can name."""
    cluster = world.cluster(owner)
    ((placed, *_),) = world.market.execute(sell(owner.id, 1_250, 10, "s1"))
    listing = models.Listing.objects.create(
        organization=owner.organization,
        cluster=cluster,
        symbol=HOUR,
        price_ticks=1_250,
        lots=10,
        order=placed.order,
        state="OPEN",
        created_at=market_clock.now(),
    )
    certification = Certification.objects.create(
        cluster=cluster.pk, state="RUNNING", created_at=market_clock.now()
    )
    key = models.ApiKey.objects.get(organization=owner.organization)
    instruction = models.ResaleInstruction.objects.create(
        organization=owner.organization,
        grade_id=GRADE,
        floor_price_ticks=1_100,
        forecast="NONE",
        state="ACTIVE",
        created_at=market_clock.now(),
    )
    commitment = models.PurchaseCommitment.objects.create(
        organization=owner.organization,
        symbol=HOUR,
        deadline=market_clock.now(),
        lots=1,
        price_ticks=1_250,
        state="UNFILLED",
        created_at=market_clock.now(),
    )
    dispute = _disputed_delivery(owner)
    bid = _bid(owner)
    return {
        "delivery_id": str(dispute.allocation_id),
        "dispute_id": str(dispute.pk),
        "order_id": str(placed.order),
        "key_id": key.pk,
        "cluster_id": str(cluster.pk),
        "certification_id": str(certification.pk),
        "listing_id": str(listing.pk),
        "instruction_id": str(instruction.pk),
        "commitment_id": str(commitment.pk),
        "bid_id": str(bid.pk),
        "bought_id": str(_package(owner).pk),
        "slice_id": str(_slice(owner).pk),
        "receipt_id": str(_receipt(owner).pk),
        "cover_offer_id": str(
            CoverOffer.objects.create(
                cluster=cluster.pk, price_ticks=1_250, lots=1, created_at=market_clock.now()
            ).pk
        ),
    }


def _receipt(owner: Party) -> Receipt:
    """A receipt of a request that the owner made and no cluster served."""
    return Receipt.objects.create(
        id=uuid.UUID(int=9_001), hash=bytes(32), issuer="none", organization_id=owner.id,
        grade=GRADE, cluster=0, class_requested="P1", sequence=1,
        interval_starts_at=market_clock.now(), public="{}", private="{}", salt=bytes(32),
        signature=bytes(64),
    )  # fmt: skip


def _package(owner: Party) -> settled.Package:
    """A package that the owner bought of nobody."""
    now = market_clock.now()
    ends_at = now + timedelta(days=30)
    return settled.Package.objects.create(
        id=9_004, instruction="none", listing=1, seller=9_999, holder=owner.id, grade=GRADE,
        starts_at=now, ends_at=ends_at, price_ticks=1_200, list_price_ticks=1_250,
        schedule=[[market_clock.to_micros(now), market_clock.to_micros(ends_at), [5], []]],
        escrow_micros=0, margin_micros=0, bought_at=now, updated_at=now,
    )  # fmt: skip


def _slice(owner: Party) -> models.PackageSlice:
    """A slice that the owner once offered."""
    now = market_clock.now()
    return models.PackageSlice.objects.create(
        organization=owner.organization, package=9_004, grade_id=GRADE, starts_at=now,
        ends_at=now + timedelta(hours=1), lots=[1], price_ticks=1_250, fee_bp=50,
        state="WITHDRAWN", created_at=now,
    )  # fmt: skip


def _disputed_delivery(owner: Party) -> settled.Dispute:
    """A delivery that the owner bought of nobody, and its objection to it."""
    now = market_clock.now()
    hour = {"grade": GRADE, "starts_at": now, "lots": 1, "price_ticks": 1_250}
    entitlement = settled.Entitlement.objects.create(
        id=9_001, organization_id=9_998, escrow_micros=0, **hour
    )
    obligation = settled.Obligation.objects.create(
        id=9_002, organization_id=9_999, failed_lots=0, **hour
    )
    allocation = settled.Allocation.objects.create(
        id=9_003, entitlement=entitlement, obligation=obligation, holder=owner.id, seller=9_999,
        cluster=1, **hour,
    )  # fmt: skip
    return settled.Dispute.objects.create(
        allocation=allocation, intervals=[1], opened_by=owner.id, reason="Slow", state="OPEN",
        opened_at=now,
    )  # fmt: skip


def _bid(owner: Party) -> settled.TransferBid:
    """A bid of the owner's for what somebody else is short of."""
    now = market_clock.now()
    offer = settled.TransferOffer.objects.create(
        id=9_004, organization_id=9_999, symbol=HOUR, lots=1, price_max_ticks=1_250,
        announced_at=now, due_at=now, outcome="no_bids", ended_at=now,
    )  # fmt: skip
    return settled.TransferBid.objects.create(
        organization_id=owner.id, offer=offer, lots=1, price_ticks=1_000, state="LOST",
        created_at=now, ended_at=now,
    )  # fmt: skip


def test_every_parameter_of_every_path_is_of_a_known_kind() -> None:
    known = OWNED | OPERATORS | set(PUBLIC)
    for path, _ in routes(served=False):
        assert set(_PARAMETER.findall(path)) <= known, path


def test_what_is_anothers_looks_like_what_does_not_exist(
    world: World, owner: Party, stranger: Party, objects: dict[str, str]
) -> None:
    tried = 0
    for path, endpoint in routes():
        if not OWNED & set(_PARAMETER.findall(path)):
            continue
        body = valid_body(endpoint, objects) if endpoint.Input else None
        foreign = stranger.api.send(
            endpoint.method,
            _PARAMETER.sub(lambda found: objects[found[1]], path),
            body=body,
            headers={"Idempotency-Key": f"f-{path}"},
        )
        unknown = stranger.api.send(
            endpoint.method,
            _PARAMETER.sub("999999999", path),
            body=body,
            headers={"Idempotency-Key": f"u-{path}"},
        )
        assert foreign.status == unknown.status == 404, path
        foreign.json.pop("request_id")
        unknown.json.pop("request_id")
        assert foreign.json == unknown.json, path
        tried += 1
    assert tried == 20
    # Nothing of it had an effect.
    assert models.Listing.objects.get().state == "OPEN"
    assert models.ApiKey.objects.get(pk=objects["key_id"]).revoked_at is None
    assert Certification.objects.count() == 1


def test_a_body_cannot_name_what_is_anothers(
    world: World, stranger: Party, objects: dict[str, str]
) -> None:
    offer = {
        "cluster": objects["cluster_id"],
        "instrument": HOUR,
        "price": "1.250",
        "quantity": 1,
    }
    assert stranger.api.post("listings", offer).status == 404
    fault = {"cluster": objects["cluster_id"], "available": 0.0}
    assert stranger.api.post("demo/faults", fault, key="-").status == 404


def test_no_list_shows_what_is_anothers(
    world: World, owner: Party, stranger: Party, objects: dict[str, str]
) -> None:
    world.market.execute(buy(owner.id, 1_200, 1, "mine"))
    for path, endpoint in routes():
        if endpoint.scope in (None, "operate") or endpoint.Item is None:
            continue
        if _PARAMETER.search(path):
            continue  # a list of something that is another's is not found at all
        rows = stranger.api.get(path).json["results"]
        if path == "api-keys":
            assert [row["id"] for row in rows] != [objects["key_id"]]
            assert len(rows) == 1
        elif path in ("ledger", "statements", "statements/months"):
            assert len(rows) == 1  # its own deposit, or month
        else:
            assert rows == [], path


def test_a_cursor_of_another_organization_is_refused(
    world: World, owner: Party, stranger: Party
) -> None:
    for number in range(3):
        world.market.execute(buy(owner.id, 1_200, 1, f"b{number}"))
    cursor = owner.api.get("orders", limit=1).json["next_cursor"]
    assert owner.api.get("orders", limit=1, cursor=cursor).status == 200
    assert stranger.api.get("orders", limit=1, cursor=cursor).status == 400


def test_every_route_that_needs_a_scope_is_refused_without_it(
    world: World, owner: Party, objects: dict[str, str]
) -> None:
    scopes = ["read", "trade", "transfer", "gateway"]
    keyed = {
        scope: Api(
            key=operations.create_key(
                organization_id=owner.id, scopes=[other for other in scopes if other != scope]
            ).text
        )
        for scope in scopes
    } | {"operate": owner.api}
    for path, endpoint in routes():
        if endpoint.scope is None:
            continue
        reply = keyed[endpoint.scope].send(
            endpoint.method, _PARAMETER.sub(lambda found: objects.get(found[1], "1"), path)
        )
        assert (reply.status, reply.code) == (403, "missing_scope"), path


def test_no_body_sets_what_is_not_the_callers_to_set(
    world: World, owner: Party, objects: dict[str, str]
) -> None:
    operator = world.party("Market operations", "OPERATOR")
    smuggled = (
        "org_id", "organization", "status", "filled_qty", "fee_rate", "is_staff",
        "verified_capacity", "certified_lots", "settlement_price", "balance", "id", "is_killed",
    )  # fmt: skip
    tried = 0
    for path, endpoint in routes():
        if endpoint.Input is None:
            continue
        who = operator if endpoint.scope == "operate" else owner
        known = set(endpoint.Input.__struct_encode_fields__)
        for name in smuggled:
            if name in known:
                continue
            reply = who.api.send(
                endpoint.method,
                _PARAMETER.sub(lambda found: {**objects, **PUBLIC}.get(found[1], "1"), path),
                body=valid_body(endpoint, objects) | {name: 1},
                headers={"Idempotency-Key": f"{path}-{name}"},
            )
            assert (reply.status, reply.blamed) == (400, [(name, "unknown_field")]), path
            tried += 1
    assert tried > 100
    assert models.IdempotencyRecord.objects.count() == 0
    assert models.AuditEntry.objects.count() == 0


# Sessions of the exchange's own pages


@pytest.fixture
def member(world: World) -> models.User:
    user = operations.sign_up(
        email="ada@example.com",
        password="a long enough phrase",
        organization_name="Lovelace",
        role="BUYER",
    )
    world.market.work()
    return user


def test_a_session_reads_as_its_organization(member: models.User) -> None:
    client = Client()
    client.force_login(member)
    assert client.get("/api/v1/account").status_code == 200
    assert client.get("/api/v1/orders").json() == {"results": [], "next_cursor": None}


def test_a_session_writes_only_with_its_csrf_token(world: World, member: models.User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(member)
    sent = {"data": {"amount": "10"}, "content_type": "application/json"}
    headers = {"Idempotency-Key": "s1"}
    refused = client.post("/api/v1/deposits", **sent, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf")
    foreign = client.post(
        "/api/v1/deposits",
        **sent,
        headers=headers | {"Origin": "https://evil.example", "X-CSRFToken": "x" * 64},
    )
    assert (foreign.status_code, foreign.json()["code"]) == (403, "csrf")
    client.get("/portfolio")
    token = client.cookies["csrftoken"].value
    with world.running():
        taken = client.post("/api/v1/deposits", **sent, headers=headers | {"X-CSRFToken": token})
    assert taken.status_code == 201


def test_a_viewer_reads_and_writes_nothing(world: World, member: models.User) -> None:
    models.Membership.objects.update(role="VIEWER")
    client = Client()
    client.force_login(member)
    assert client.get("/api/v1/account").status_code == 200
    reply = client.post(
        "/api/v1/deposits",
        data={"amount": "10"},
        content_type="application/json",
        headers={"Idempotency-Key": "v"},
    )
    assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope")


def test_a_session_never_operates(world: World, member: models.User) -> None:
    models.User.objects.update(is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(member)
    reply = client.post(f"/api/v1/instruments/{HOUR}/halt", content_type="application/json")
    assert (reply.status_code, reply.json()["code"]) == (403, "missing_scope")


# Nothing of a key or of our insides is ever shown


def test_a_defect_shows_nothing_of_itself(
    world: World, owner: Party, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def broken(_: int) -> None:
        raise RuntimeError(f"SELECT secret FROM vault -- {owner.api.key}")

    monkeypatch.setattr("settlement.queries.account", broken)
    reply = owner.api.get("account")
    assert (reply.status, reply.code) == (500, "internal_error")
    shown = str(reply.json)
    assert "SELECT" not in shown and "Traceback" not in shown and "/" not in reply.json["detail"]


def test_a_key_appears_in_no_log_and_in_no_answer(
    world: World, owner: Party, objects: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import logging

    from config import logs

    secret = owner.api.key.rsplit("_", 1)[1]
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.Formatter())
    logging.getLogger().addHandler(handler)
    try:
        monkeypatch.setattr("settlement.queries.account", lambda _: 1 / 0)
        answers = [owner.api.get("account"), owner.api.get(f"nowhere/{owner.api.key}")]
        answers += [owner.api.get("api-keys"), owner.api.get("orders", cursor=owner.api.key)]
        logging.getLogger("test").error("called with %s", owner.api.key)
    finally:
        logging.getLogger().removeHandler(handler)
    assert secret not in written.getvalue()
    assert written.getvalue() != ""
    for answer in answers:
        assert secret not in str(answer.json)
        assert secret not in str(answer.headers)
