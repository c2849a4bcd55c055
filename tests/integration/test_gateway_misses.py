"""What the gateway records of requests that were not served, and what of them is missed demand.

RULEBOOK 6.3, through the real gateway with the official client.
"""

import urllib.request
from collections.abc import Iterator

import msgspec
import openai
import pytest
import valkey as valkey_client

from admission import demand, models, observation, queries
from admission.shortfall import Fate
from marketplace import clock as market_clock
from marketplace import contract, keys
from tests.delivery import Stage, make_cluster, stage
from tests.market import BUYER, CLUSTER, GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "Say what an hour of capacity costs, and why."}]


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def misses() -> list[tuple[int, int, Fate]]:
    """Return (holder, cluster, fate) of what is missed in the running interval."""
    now = market_clock.now_micros()
    hour = contract.hour_start(now)
    interval = demand.Interval(
        grade=GRADE, hour_starts_at=hour, number=(now - hour) // contract.INTERVAL + 1
    )
    return [(miss.holder, miss.cluster, miss.fate) for miss in demand.misses(interval)]


def ask(client: openai.OpenAI, text: str = "Say it.", **more):
    return client.chat.completions.create(
        model=GRADE, messages=[{"role": "user", "content": text}], max_tokens=8, **more
    )


def test_what_is_served_in_time_is_in_profile_and_no_miss(delivery: Stage) -> None:
    ask(delivery.client())
    delivery.ends(1)
    (row,) = delivery.requests()
    assert (row.is_in_profile, row.is_retry, row.retry_after_ms) == (True, False, 0)
    assert misses() == []


def test_retries_that_the_official_client_declares_are_one_missed_request(delivery: Stage) -> None:
    delivery.fault(0.0)
    patient = openai.OpenAI(
        base_url=delivery.url, api_key=delivery.keys["rejecting"], max_retries=1
    )
    with pytest.raises(openai.InternalServerError):
        ask(patient)
    assert sorted(row.is_retry for row in delivery.requests()) == [False, True]
    assert misses() == [(BUYER, CLUSTER, Fate.FAILED)]


def test_the_same_body_within_a_minute_is_one_missed_request_and_later_another(
    delivery: Stage,
) -> None:
    delivery.fault(0.0)
    client = delivery.client("rejecting")
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            ask(client)
    delivery.ends(3)
    assert len(misses()) == 1
    delivery.clock.advance(seconds=61)
    with pytest.raises(openai.InternalServerError):
        ask(client)
    delivery.ends(4)
    assert len(misses()) == 2
    with pytest.raises(openai.InternalServerError):
        ask(client, "Say something else.")
    delivery.ends(5)
    assert len(misses()) == 3


def test_what_comes_past_the_targets_of_its_class_is_late(delivery: Stage) -> None:
    ask(delivery.client())
    (end,) = delivery.ends(1)
    for first_ms, per_token_us, late in (
        (2_000, 100_000, False),
        (2_001, 100_000, True),
        (2_000, 100_001, True),
    ):
        later = models.UsageEvent.objects.order_by("-sequence").first()
        models.UsageEvent.objects.create(
            request_id=end.request_id,
            sequence=later.sequence + 1,
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            output_tokens=end.output_tokens,
            reasoning_tokens=0,
            mntu=end.mntu,
            state="COMPLETED",
            first_token_ms=first_ms,
            per_token_us=per_token_us,
            at=end.at,
            number=later.number + 1,
            xid=later.xid,
        )
        assert misses() == ([(BUYER, CLUSTER, Fate.LATE)] if late else [])


def test_a_caller_that_hangs_up_before_its_target_has_asked_for_nothing(delivery: Stage) -> None:
    stream = ask(delivery.client(), stream=True)
    next(iter(stream))
    stream.close()
    delivery.settled()
    (row,) = delivery.requests()
    assert row.is_in_profile
    assert misses() == []


def test_a_level_that_is_spent_is_no_profile_and_no_miss(delivery: Stage) -> None:
    client = delivery.client("rejecting")
    seen = []
    for number in range(400):
        try:
            client.chat.completions.create(
                model=GRADE,
                messages=[{"role": "user", "content": f"{number} " + "word " * 3_000}],
                max_tokens=8,
            )
        except openai.RateLimitError as refused:
            seen.append(int(refused.response.headers["retry-after"]))
            break
    assert seen, "the level was spent"
    refused = [row for row in delivery.requests() if row.outcome == "SHED"]
    assert [(row.reason, row.is_in_profile) for row in refused] == [("LEVEL_SPENT", False)]
    assert refused[0].retry_after_ms == 1_000 * seen[0]
    assert misses() == []


def test_what_its_cluster_cannot_serve_spills_to_another_and_is_missed_once(
    delivery: Stage,
) -> None:
    other = CLUSTER + 1
    make_cluster(other, lots=100)
    config = dict(queries.modelled_clusters())[str(other)]
    delivery.cluster("PUT", str(other), msgspec.to_builtins(config))
    probe = urllib.request.Request(
        f"http://127.0.0.1:{delivery.port}/probe",
        msgspec.json.encode({"cluster": other}),
        {"authorization": f"Bearer {observation.probe_token()}"},
    )
    with urllib.request.urlopen(probe, timeout=10) as answered:
        assert msgspec.json.decode(answered.read())["passed"]
    delivery.fault(0.0)
    with delivery.market.running():
        ask(delivery.client())
    failed, spilled = sorted(delivery.requests(), key=lambda row: row.cluster)
    assert (failed.cluster, failed.class_served, failed.is_in_profile) == (CLUSTER, "P2", True)
    assert (spilled.cluster, spilled.class_served) == (other, "P3")
    assert misses() == [(BUYER, CLUSTER, Fate.FAILED)]
