"""What caps and cover paid, over REST."""

from datetime import datetime

from settlement import models
from tests.rest import World

CAP, COVER = "LLAMA70B.M.F27.C1250", "LLAMA70B.M.F27.S"


def test_payments_are_listed_latest_first_to_those_they_are_of(world: World) -> None:
    holder, other = world.party("Northwind"), world.party("Acme")
    paid_at = datetime.fromisoformat("2027-01-01T16:01:00+00:00")
    for hour, symbol, interval, lots, mntu, price, amount in (
        (14, CAP, 0, 2, 90_000_000, 200, 18_000),
        (15, COVER, 2, -3, 0, 1_250, -2_500),
        (15, COVER, 7, -3, 0, 1_250, -500),
    ):
        models.InsurancePayment.objects.create(
            organization_id=holder.id,
            symbol=symbol,
            hour_starts_at=paid_at.replace(hour=hour, minute=0),
            interval=interval,
            lots=lots,
            mntu=mntu,
            price_ticks=price,
            amount_micros=amount,
            at=paid_at,
        )
    listed = holder.api.get("insurance").json
    assert [(row["interval"], row["amount"]) for row in listed["results"]] == [
        (7, "-0.000500"),
        (2, "-0.002500"),
        (None, "0.018000"),
    ]
    assert listed["results"][2] == {
        "id": listed["results"][2]["id"],
        "instrument": CAP,
        "hour": "20270101T14Z",
        "interval": None,
        "quantity": 2,
        "insured_ntu": "90000.000",
        "price": "0.200",
        "amount": "0.018000",
        "paid_at": "2027-01-01T16:01:00.000000Z",
    }
    first = holder.api.get("insurance", limit=2).json
    rest = holder.api.get("insurance", limit=2, cursor=first["next_cursor"]).json
    assert [*first["results"], *rest["results"]] == listed["results"]
    assert rest["next_cursor"] is None
    assert other.api.get("insurance").json["results"] == []


def test_what_runs_added_is_listed_to_those_it_is_of(world: World) -> None:
    holder, other = world.party("Northwind"), world.party("Acme")
    at = datetime.fromisoformat("2027-01-02T02:00:03+00:00")
    for run, amount in (("final", 6_000), ("revision", -250)):
        models.InsuranceCorrection.objects.create(
            organization_id=holder.id,
            run=f"LLAMA70B/20270101/{run}",
            symbol=CAP,
            hour_starts_at=at.replace(day=1, hour=14, minute=0, second=0),
            amount_micros=amount,
            at=at,
        )
    listed = holder.api.get("insurance/corrections").json["results"]
    assert [(row["run"], row["amount"]) for row in listed] == [
        ("LLAMA70B/20270101/revision", "-0.000250"),
        ("LLAMA70B/20270101/final", "0.006000"),
    ]
    assert listed[0]["instrument"] == CAP
    assert listed[0]["hour"] == "20270101T14Z"
    assert other.api.get("insurance/corrections").json["results"] == []


def test_what_became_of_slots_is_listed_to_those_who_had_them(world: World) -> None:
    holder, other = world.party("Northwind"), world.party("Acme")
    at = datetime.fromisoformat("2027-01-01T13:55:00+00:00")
    for hour, lots in ((14, 22), (15, -30)):
        models.SlotSettlement.objects.create(
            organization_id=holder.id,
            grade="LLAMA70B",
            starts_at=at.replace(hour=hour, minute=0),
            service_class="P0",
            lots=lots,
            failed_lots=6,
            backed_lots=2,
            price_ticks=50,
            amount_micros=-80_000,
            damages_micros=7_500,
            damages_due_micros=7_500,
            at=at,
        )
    listed = holder.api.get("settlements/slots").json
    assert [row["quantity"] for row in listed["results"]] == [-30, 22]
    assert listed["results"][1] == {
        "id": listed["results"][1]["id"],
        "grade": "LLAMA70B",
        "hour": "20270101T14Z",
        "service_class": "P0",
        "quantity": 22,
        "backed": 2,
        "failed": 6,
        "price": "0.0050",
        "amount": "-0.080000",
        "damages": "0.007500",
        "damages_due": "0.007500",
        "settled_at": "2027-01-01T13:55:00.000000Z",
    }
    first = holder.api.get("settlements/slots", limit=1).json
    rest = holder.api.get("settlements/slots", limit=1, cursor=first["next_cursor"]).json
    assert [*first["results"], *rest["results"]] == listed["results"]
    assert other.api.get("settlements/slots").json["results"] == []
