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
