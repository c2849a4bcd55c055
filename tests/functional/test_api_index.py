"""The index over the API: its values, their versions, their means, and who may correct one."""

import base64
import hashlib
from itertools import pairwise

import pytest
from django.db import connection, transaction
from django.test import Client

from marketplace import clock as market_clock
from marketplace import models, operations
from settlement import index, index_queries
from settlement.models import IndexOverride, IndexValue
from tests.conftest import instant
from tests.market import GRADE, buy, sell
from tests.rest import Api, Party, World

HOUR = "20261201T14Z"
STARTS_AT = instant("2026-12-01T14:00Z")
PATH = f"index/{GRADE}/{HOUR}"
WANTED = {"price": "1.300", "reason": "A quote stood in the wrong hour"}


@pytest.fixture
def first(world: World, clock) -> Party:
    """An operator, after the hours 10 to 14 have closed without a trade, at their mark of 1.250."""
    operator = world.party("Market operations", "OPERATOR")
    clock.set("2026-12-01T13:56Z")
    world.market.work()
    return operator


@pytest.fixture
def second(world: World, first: Party) -> Party:
    return world.party("Settlement desk", "OPERATOR")


def decide(party: Party, **more: object):
    return party.api.post(f"{PATH}/override", WANTED | more, key="-")


def test_a_correction_takes_two_operators(world: World, first: Party, second: Party) -> None:
    with world.running():
        pending = decide(first)
        assert (pending.status, pending.json["state"]) == (202, "pending")
        assert Api().get(PATH).json["price"] == "1.250", "nothing happens yet"
        again = decide(first)
        assert (again.status, again.code) == (422, "second_operator_required")
        applied = decide(second, reason="Agreed")
    assert (applied.status, applied.json["state"]) == (200, "applied")
    assert applied.json["version"] == 2
    assert applied.json["reason"] == WANTED["reason"], "the proposal's, which is published"
    shown = Api().get(PATH).json
    assert (shown["price"], shown["method"], shown["version"]) == ("1.300", "override", 2)
    assert shown["inputs"] == {
        "grade": GRADE,
        "hour_starts_at": STARTS_AT,
        "price": 1_300,
        "reason": WANTED["reason"],
        "replaces": 1_250,
        "version": 2,
    }
    trail = models.AuditEntry.objects.order_by("id").values_list("action", "target", "reason")
    assert list(trail) == [
        ("propose_index", f"index:{GRADE}:{HOUR}", WANTED["reason"]),
        ("confirm_index", f"index:{GRADE}:{HOUR}", "Agreed"),
    ]


def test_the_first_version_stays_as_it_was(world: World, first: Party, second: Party) -> None:
    before = Api().get(PATH).json
    with world.running():
        decide(first)
        decide(second)
    (earlier,) = Api().get(PATH).json["earlier"]
    assert earlier == {name: before[name] for name in earlier}
    assert before["earlier"] == []
    for one in (earlier, Api().get(PATH).json):
        body = base64.b64decode(one["inputs_base64"])
        assert hashlib.sha256(body).hexdigest() == one["digest"]
        price, method = index.recompute(one["method"], body)
        assert (f"{price / 1000:.3f}", method) == (one["price"], one["method"])


def test_two_keys_of_one_operator_are_one_operator(world: World, first: Party) -> None:
    other = operations.create_key(organization_id=first.id, scopes=["operate"])
    assert decide(first).status == 202
    reply = Api(key=other.text).post(f"{PATH}/override", WANTED, key="-")
    assert (reply.status, reply.code) == (422, "second_operator_required")
    assert IndexValue.objects.filter(version__gt=1).count() == 0


def test_another_price_is_another_proposal_and_confirms_nothing(
    world: World, first: Party, second: Party
) -> None:
    assert decide(first).status == 202
    assert decide(second, price="1.310").status == 202
    with world.running():
        assert decide(first).status == 202, "in place of the second's again"
        assert decide(second).status == 200
    states = IndexOverride.objects.order_by("id").values_list("state", flat=True)
    assert list(states) == ["REPLACED", "REPLACED", "CONFIRMED"]
    assert index_queries.index_price(GRADE, STARTS_AT).price_ticks == 1_300


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"price": "0.000"}, 400, "malformed"),
        ({"price": "-1.250"}, 400, "malformed"),
        ({"price": ""}, 400, "malformed"),
        ({"price": None}, 400, "malformed"),
        ({"reason": ""}, 400, "malformed"),
        ({"reason": " "}, 400, "malformed"),
        ({"price": "1.250"}, 422, "index_unchanged"),
        ({"price": "12.500"}, 422, "price_unresolved"),
        ({"price": "0.125"}, 422, "price_unresolved"),
    ],
)
def test_what_cannot_be_a_price_is_refused_before_anybody_confirms_it(
    world: World, first: Party, more: dict, status: int, code: str
) -> None:
    reply = decide(first, **more)
    assert (reply.status, reply.code) == (status, code)
    assert IndexOverride.objects.count() == 0


def test_a_correction_needs_a_price_a_reason_and_a_published_hour(
    world: World, first: Party
) -> None:
    for field in WANTED:
        body = {name: value for name, value in WANTED.items() if name != field}
        reply = first.api.post(f"{PATH}/override", body, key="-")
        assert (reply.status, reply.blamed) == (400, [(field, "missing_field")])
    late = first.api.post(f"index/{GRADE}/20261201T20Z/override", WANTED, key="-")
    assert late.status == 404
    buyer = world.party("Northwind")
    assert (decide(buyer).status, decide(buyer).code) == (403, "missing_scope")


def test_an_index_is_final_from_two_in_the_morning(
    world: World, first: Party, second: Party, clock
) -> None:
    clock.set("2026-12-02T01:59:59Z")
    world.market.work()
    assert decide(first).status == 202
    clock.set("2026-12-02T02:00Z")
    world.market.work()
    reply = decide(second)
    assert (reply.status, reply.code) == (422, "index_final")


def test_the_machine_has_the_last_word_about_the_time(
    world: World, first: Party, second: Party, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's time is past two, the web process's is not."""
    clock.set("2026-12-02T02:00Z")
    world.market.work()
    monkeypatch.setattr(market_clock, "now_micros", lambda: clock.at - 1)
    with world.running():
        assert decide(first).status == 202
        reply = decide(second)
    assert (reply.status, reply.code) == (422, "index_final")
    assert index_queries.index_price(GRADE, STARTS_AT).version == 1


def test_settlement_is_given_the_price_in_force_or_pauses(
    world: World, first: Party, second: Party
) -> None:
    before = index_queries.index_price(GRADE, STARTS_AT)
    assert (before.price_ticks, before.version, before.method) == (1_250, 1, "mark")
    with world.running():
        decide(first)
        decide(second)
    after = index_queries.index_price(GRADE, STARTS_AT)
    assert (after.price_ticks, after.version, after.method) == (1_300, 2, "override")
    with pytest.raises(index_queries.PriceUnresolved, match="20261201T20Z"):
        index_queries.index_price(GRADE, instant("2026-12-01T20:00Z"))


def test_settlement_pauses_on_a_price_ten_times_off_its_mark(world: World, first: Party) -> None:
    """The ladder gives none; were a row altered behind our back, nothing would be paid by it."""
    for price, is_taken in ((12_499, True), (12_500, False), (126, True), (125, False)):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            IndexValue.objects.update(price_ticks=price)
        if is_taken:
            assert index_queries.index_price(GRADE, STARTS_AT).price_ticks == price
        else:
            with pytest.raises(index_queries.PriceUnresolved, match="ten times"):
                index_queries.index_price(GRADE, STARTS_AT)


def test_the_list_shows_what_is_in_force_once_per_hour_with_the_means(
    world: World, first: Party, second: Party
) -> None:
    with world.running():
        decide(first)
        decide(second)
    shown = Api().get(f"index/{GRADE}").json
    assert [(row["hour"], row["price"], row["version"]) for row in shown["results"]] == [
        ("20261201T14Z", "1.300", 2),
        *((f"20261201T{hour}Z", "1.250", 1) for hour in (13, 12, 11, 10)),
    ]
    day, week, month = shown["means"]
    # Four hours at 1.250 and one at 1.300.
    assert day == {
        "period": "day",
        "starts_at": "2026-12-01T00:00:00.000000Z",
        "ends_at": "2026-12-02T00:00:00.000000Z",
        "mean": "1.260",
        "hours": 5,
        "hours_max": 24,
        "is_final": False,
    }
    assert (week["period"], week["starts_at"][:10], week["hours_max"]) == (
        "week",
        "2026-11-30",
        168,
    )
    assert (month["period"], month["ends_at"][:10], month["hours_max"]) == (
        "month",
        "2027-01-01",
        744,
    )
    assert {week["mean"], month["mean"]} == {"1.260"}


def test_the_list_goes_on_over_pages(world: World, first: Party) -> None:
    page = Api().get(f"index/{GRADE}", limit=2).json
    rest = Api().get(f"index/{GRADE}", limit=100, cursor=page["next_cursor"]).json
    assert [row["hour"][9:11] for row in page["results"] + rest["results"]] == [
        "14", "13", "12", "11", "10",
    ]  # fmt: skip


# The forward curve


def test_the_curve_prices_every_hour_ahead_and_every_window_by_its_hours(
    world: World, first: Party
) -> None:
    shown = Api().get(f"curve/{GRADE}").json
    assert (shown["list_price"], shown["index_mean"], shown["index_hours"]) == ("1.250", "1.250", 5)
    products = [point["product"] for point in shown["points"]]
    assert products[:9] == ["hour"] * 9, "the hours 15 to 23 of today"
    starts = [point["starts_at"] for point in shown["points"]]
    assert starts == sorted(starts)
    assert starts[0] == shown["segments"][0]["starts_at"] == "2026-12-01T15:00:00.000000Z"
    edges = [(one["starts_at"], one["ends_at"]) for one in shown["segments"]]
    assert all(a[1] == b[0] for a, b in pairwise(edges)), "no hour is left out"
    assert max(point["ends_at"] for point in shown["points"]) == edges[-1][1]
    for point in shown["points"]:
        assert point["mark"] == point["fair_price"] == "1.250"
        assert (point["change"], point["list_basis"], point["index_basis"]) == ("0.000",) * 3


def test_the_curve_follows_marks_and_shows_how_far_they_are_from_list_and_index(
    world: World, first: Party, second: Party, clock
) -> None:
    with world.running():
        decide(first)
        decide(second)
    seller = world.party("Hall", "PROVIDER", cash=1_000_000_000)
    buyer = world.party("Desk", cash=1_000_000_000)
    world.cluster(seller)
    symbol = "LLAMA70B.H.20261201T16Z"
    world.market.execute(sell(seller.id, 1_240, 10, "s", instrument=symbol))
    world.market.execute(buy(buyer.id, 1_240, 4, "b", instrument=symbol))
    world.market.execute(buy(buyer.id, 1_233, 4, "c", instrument=symbol))
    clock.set("2026-12-01T14:00Z")
    world.market.work()
    shown = Api().get(f"curve/{GRADE}").json
    point = next(one for one in shown["points"] if one["instrument"] == symbol)
    assert point == {
        "instrument": symbol,
        "product": "hour",
        "starts_at": "2026-12-01T16:00:00.000000Z",
        "ends_at": "2026-12-01T17:00:00.000000Z",
        "price": "1.236",
        "source": "mid",
        "mark": "1.240",
        "last": "1.240",
        "best_bid": "1.233",
        "best_ask": "1.240",
        "reference_price": "1.250",
        "change": "-0.010",
        "fair_price": "1.240",
        "list_basis": "-0.010",
        "index_basis": "-0.020",
    }
    segment = next(one for one in shown["segments"] if one["instrument"] == symbol)
    assert (segment["price"], segment["index_basis"]) == ("1.240", "-0.020")


def test_the_pages_show_curve_means_and_every_version(
    world: World, first: Party, second: Party
) -> None:
    with world.running():
        decide(first)
        decide(second)
    page = Client().get(f"/index/{GRADE}/{HOUR}").content.decode()
    assert page.index("In force") < page.index("Version 1, replaced")
    assert "1.300" in page and "1.250" in page and WANTED["reason"] in page
    page = Client().get("/index").content.decode()
    assert "Mean of the month from" in page and "5 of 744 hours" in page
    assert page.count("20261201T14Z</") == 0 and page.count("Inputs of 20261201T14Z") == 1
    page = Client().get(f"/curve/{GRADE}").content.decode()
    assert f"Forward curve of {GRADE}" in page and "LLAMA70B.H.20261201T15Z" in page
    assert "\u22120.010" in page, "what is listed at 1.250 is below the mean of 1.260"
    assert Client().get("/curve/NOPE").status_code == 404
