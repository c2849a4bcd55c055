"""The pages of resale instructions and pools, as a browser without scripts uses them."""

import re

from django.test import Client

from marketplace import models
from tests.functional.test_pages import member, text
from tests.market import GRADE, HOUR
from tests.rest import World

DEADLINE = "2026-12-01T13:00"


def key_of(response) -> str:
    """Return the idempotency key of the page's own form."""
    return re.search(r'name="idempotency_key" value="([^"]+)"', text(response))[1]


def resale(client: Client, **change: str):
    values = {
        "grade": GRADE,
        "floor_price": "1.1",
        "forecast": "LAST_WEEK_SAME_HOUR",
        "keep": "",
        "idempotency_key": key_of(client.get("/resale")),
    }
    return client.post("/resale", values | change)


def commitment(world: World, client: Client, **change: str):
    values = {
        "instrument": HOUR,
        "deadline": DEADLINE,
        "lots": "4",
        "price": "1.3",
        "idempotency_key": key_of(client.get("/purchases")),
    }
    with world.running():
        return client.post("/purchases", values | change)


def test_an_instruction_is_given_once_replaced_and_stopped(world: World) -> None:
    client = member(world)
    assert "paid for and lost" in text(client.get("/resale"))
    assert resale(client, idempotency_key="r1").status_code == 302
    assert resale(client, idempotency_key="r1").status_code == 302
    assert resale(client, floor_price="1.200", keep="5").status_code == 302
    first, second = models.ResaleInstruction.objects.order_by("id")
    assert (first.state, second.state) == ("STOPPED", "ACTIVE")
    assert (second.floor_price_ticks, second.kept_lots) == (1_200, 5)
    assert "1.200" in text(client.get("/resale"))
    with world.running():
        stopped = client.post("/resale/stop", {"instruction": second.pk}, follow=True)
    assert "Nothing of LLAMA70B is sold by itself any more." in text(stopped)
    second.refresh_from_db()
    assert second.state == "STOPPED"


def test_a_floor_that_is_none_is_shown_beside_its_field(world: World) -> None:
    client = member(world)
    for floor in ("", "0", "cheap", "-1"):
        response = resale(client, floor_price=floor)
        assert response.status_code == 422, floor
        assert "errorlist" in text(response), floor
    assert models.ResaleInstruction.objects.count() == 0


def test_anothers_instruction_is_not_stopped(world: World) -> None:
    resale(member(world))
    row = models.ResaleInstruction.objects.get()
    stranger = member(world, "Nimbus")
    assert stranger.post("/resale/stop", {"instruction": row.pk}).status_code == 404
    row.refresh_from_db()
    assert row.state == "ACTIVE"


def test_a_pool_is_opened_joined_and_left(world: World) -> None:
    client = member(world, cash=1_000_000_000)
    other = member(world, "Nimbus", cash=1_000_000_000)
    assert "Your commitment opens one." in text(client.get("/purchases"))
    assert commitment(world, client).status_code == 302
    page = text(other.get("/purchases"))
    link = f"/purchases?instrument={HOUR}&amp;deadline={DEADLINE}"
    assert link in page
    joined = text(other.get(link.replace("&amp;", "&")))
    assert f'<option value="{HOUR}" selected>' in joined
    assert f'value="{DEADLINE}"' in joined
    assert commitment(world, other, price="1.25").status_code == 302
    row = models.PurchaseCommitment.objects.order_by("id").last()
    assert other.get("/purchases").status_code == 200
    assert client.post("/purchases/leave", {"commitment": row.pk}).status_code == 404
    with world.running():
        left = other.post("/purchases/leave", {"commitment": row.pk}, follow=True)
    assert f"The commitment to {HOUR} is withdrawn." in text(left)
    row.refresh_from_db()
    assert row.state == "WITHDRAWN"


def test_a_commitment_that_is_refused_keeps_what_was_typed(world: World) -> None:
    client = member(world, cash=1_000)
    refused = commitment(world, client)
    assert refused.status_code == 422
    assert "insufficient funds" in text(refused)
    assert 'value="1.3"' in text(refused)
    typed = commitment(world, client, lots="none")
    assert typed.status_code == 422
    assert "errorlist" in text(typed)


def test_a_link_that_names_nonsense_opens_an_empty_form(world: World) -> None:
    client = member(world)
    for query in ("deadline=2026-99-99T99:99", "deadline=soon", "instrument=%00&deadline="):
        assert 'value="2026-12-01T09:30"' in text(client.get(f"/purchases?{query}")), query
