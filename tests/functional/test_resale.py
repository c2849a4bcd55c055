"""Standing resale instructions: from what was used, to orders in the book, to a stop."""

import uuid

import pytest

from admission import models as used_models
from exchange.models import Order
from marketplace import clock as market_clock
from marketplace import contract, models, resale
from settlement import jobs, kinds, slots
from settlement.models import Job
from tests.market import GRADE, HOUR, buy, sell
from tests.rest import Party, World

STARTS_AT = contract.parse_symbol(HOUR).starts_at  # type: ignore[union-attr]
LOT_HOUR = contract.MNTU_PER_LOT_HOUR
FLOOR = {"grade": GRADE, "floor_price": "1.100"}


def test_the_forecast_is_the_mean_of_the_same_hour_rounded_up() -> None:
    day = contract.DAY
    used = {STARTS_AT - 7 * day: 3 * LOT_HOUR, STARTS_AT - day: 11 * LOT_HOUR + 1}
    assert resale.expected_lots(used, STARTS_AT) == 3  # 14 lots and a little, over seven days
    assert resale.expected_lots({STARTS_AT - day: 3 * LOT_HOUR}, STARTS_AT) == 3
    assert resale.expected_lots({STARTS_AT - 2 * day: 3 * LOT_HOUR}, STARTS_AT) == 2


def test_what_was_never_used_has_no_forecast() -> None:
    assert resale.expected_lots({}, STARTS_AT) is None
    assert resale.expected_lots({STARTS_AT - 3_600_000_000: 0}, STARTS_AT) is None


def test_an_hour_not_used_since_the_first_use_is_expected_to_be_idle() -> None:
    used = {STARTS_AT - contract.DAY - contract.HOUR: 9 * LOT_HOUR}
    assert resale.expected_lots(used, STARTS_AT) == 0


def test_surplus_is_offered_at_the_mark_and_at_last_at_the_floor() -> None:
    late, early = contract.HOUR, contract.HOUR + 1
    for mark, floor, left, price in (
        (1_250, 1_100, early, 1_250),
        (1_250, 1_100, late, 1_100),
        (1_250, 1_300, early, 1_300),
        (1_250, 900, late, 1_060),
        (1_250, 1_441, early, None),
    ):
        found = resale.offer_price(mark=mark, floor=floor, band=(1_060, 1_440), left=left)
        assert found == price, (mark, floor, left)


@pytest.fixture
def holder(world: World) -> Party:
    """An organization that is long of 40 lots, and used 15 in the same hour of the day before."""
    party = world.party("Northwind", cash=1_000_000_000)
    seller = world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    world.market.execute(sell(seller.id, 1_250, 40, "s1"))
    world.market.execute(buy(party.id, 1_250, 40, "b1"))
    use(party, STARTS_AT - contract.DAY, 15 * LOT_HOUR)
    return party


def use(party: Party, at: int, mntu: int) -> None:
    """Have an organization use tokens at an instant."""
    moment = market_clock.to_datetime(at)
    request = uuid.UUID(int=at)
    used_models.Request.objects.create(
        id=request, organization_id=party.id, key="k", grade=GRADE, cluster=1,
        class_requested="P2", class_served="P2", outcome="ADMITTED", charge_mntu=mntu,
        body_digest=b"", arrived_at=moment, gateway="g",
    )  # fmt: skip
    used_models.UsageEvent.objects.create(
        request_id=request, sequence=1, prompt_tokens=1, cached_tokens=0, output_tokens=1,
        reasoning_tokens=0, mntu=mntu, state="COMPLETED", at=moment, number=at, xid=1,
    )  # fmt: skip


def look(world: World, at: str, clock) -> None:
    clock.set(at)
    world.market.work()
    with world.running():
        resale.look_at_all(market_clock.now_micros())


def offers(party: Party) -> list[tuple[int, int, str]]:
    return [
        (order.lots - order.filled_lots, order.price_ticks, order.status)
        for order in Order.objects.filter(organization_id=party.id, side=-1).order_by("id")
    ]


def test_surplus_is_offered_once_and_again_when_the_market_has_moved(
    world: World, holder: Party, clock
) -> None:
    made = holder.api.post("resale-instructions", FLOOR, key="r1")
    again = holder.api.post("resale-instructions", FLOOR, key="r1")
    assert (made.status, made.json["state"], made.json["keep_lots"]) == (201, "active", 0)
    assert again.json == made.json
    look(world, "2026-12-01T10:00Z", clock)
    assert offers(holder) == [(25, 1_250, "OPEN")]
    look(world, "2026-12-01T11:00Z", clock)
    assert offers(holder) == [(25, 1_250, "OPEN")]  # it keeps its place
    look(world, "2026-12-01T13:00Z", clock)  # the last hour of trading
    assert offers(holder) == [(25, 1_250, "CANCELED"), (25, 1_100, "OPEN")]
    (shown,) = holder.api.get("resale-instructions").json["results"]
    assert (shown["offered_lots"], shown["floor_price"]) == (25, "1.100")
    assert shown["looked_at"] == "2026-12-01T13:00:00.000000Z"


def test_a_look_that_is_repeated_places_nothing_twice(world: World, holder: Party, clock) -> None:
    holder.api.post("resale-instructions", FLOOR)
    look(world, "2026-12-01T10:00Z", clock)
    rival = world.party("Acme", cash=1_000_000_000)
    world.market.execute(buy(rival.id, 1_250, 10, "r"))
    look(world, "2026-12-01T10:00Z", clock)
    assert offers(holder) == [(15, 1_250, "PARTIALLY_FILLED")]


def test_what_is_kept_is_the_larger_of_forecast_and_reserve(
    world: World, holder: Party, clock
) -> None:
    for more, lots in (
        ({"keep_lots": 10}, 25),
        ({"keep_lots": 30}, 10),
        ({"keep_lots": 10, "forecast": "none"}, 30),
    ):
        assert holder.api.post("resale-instructions", FLOOR | more).status == 201
        look(world, "2026-12-01T10:00Z", clock)
        assert [left for left, _, status in offers(holder) if status == "OPEN"] == [lots], more
    assert models.ResaleInstruction.objects.filter(state="ACTIVE").count() == 1


def test_without_any_use_nothing_is_offered(world: World, holder: Party, clock) -> None:
    novice = world.party("Acme", cash=1_000_000_000)
    world.market.execute(sell(holder.id, 1_250, 20, "s2"), buy(novice.id, 1_250, 20, "b2"))
    novice.api.post("resale-instructions", FLOOR)
    look(world, "2026-12-01T10:00Z", clock)
    assert offers(novice) == []


def test_own_offers_of_the_holder_are_no_surplus(world: World, holder: Party, clock) -> None:
    world.market.execute(sell(holder.id, 1_300, 20, "own"))
    holder.api.post("resale-instructions", FLOOR)
    look(world, "2026-12-01T10:00Z", clock)
    assert offers(holder) == [(20, 1_300, "OPEN"), (5, 1_250, "OPEN")]


def test_a_stopped_instruction_cancels_its_offers_and_no_others(
    world: World, holder: Party, clock
) -> None:
    world.market.execute(sell(holder.id, 1_300, 20, "own"))
    made = holder.api.post("resale-instructions", FLOOR).json
    look(world, "2026-12-01T10:00Z", clock)
    with world.running():
        stopped = holder.api.delete(f"resale-instructions/{made['id']}")
        again = holder.api.delete(f"resale-instructions/{made['id']}")
    assert (stopped.status, stopped.json["state"]) == (200, "stopped")
    assert again.json == stopped.json
    assert offers(holder) == [(20, 1_300, "OPEN"), (5, 1_250, "CANCELED")]
    look(world, "2026-12-01T11:00Z", clock)
    assert len(offers(holder)) == 2


def test_a_floor_that_is_none_is_refused(world: World, holder: Party) -> None:
    for change, status, code in (
        ({"floor_price": "0.000"}, 400, "malformed"),
        ({"floor_price": 1}, 400, "malformed"),
        ({"keep_lots": -1}, 400, "malformed"),
        ({"forecast": "oracle"}, 400, "malformed"),
        ({"grade": "NOPE"}, 404, "not_found"),
    ):
        reply = holder.api.post("resale-instructions", FLOOR | change)
        assert (reply.status, reply.code) == (status, code), change
    assert models.ResaleInstruction.objects.count() == 0


def test_the_hours_job_looks_and_an_outage_is_tried_again(
    world: World, holder: Party, clock
) -> None:
    holder.api.post("resale-instructions", FLOOR)
    clock.set("2026-12-01T10:00Z")
    world.market.work()
    kinds.load()
    at = market_clock.now_micros()
    jobs.enqueue(kind="resell", slot=slots.of_instant(at), due_at=at)
    world.market.client.flushall()  # no engine is to be heard of
    work_on(at)
    job = Job.objects.get(kind="resell")
    assert (job.state, job.attempts, offers(holder)) == ("DUE", 1, [])
    world.market.take_over()
    Job.objects.update(not_before=None)
    with world.running():
        work_on(at)
    job.refresh_from_db()
    assert (job.state, offers(holder)) == ("DONE", [(25, 1_250, "OPEN")])


def work_on(at: int) -> None:
    """Do the jobs of this kind that are due."""
    claims = jobs.claim(kinds.NORMAL, at=at)
    jobs.run([claim for claim in claims if claim.kind == "resell"])
