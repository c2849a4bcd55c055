"""The gateway with the official client, between a real cluster model and real servers."""

import asyncio
import json
import os
import random
import urllib.error
import urllib.request
from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client
from prometheus_client.parser import text_string_to_metric_families

from admission import models
from marketplace import keys
from marketplace import models as catalog
from tests.delivery import Stage, fetch, stage
from tests.market import BUYER, CLUSTER, GRADE, OTHER, Market

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


@pytest.fixture
def wide(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    """The same with 900 lots, which reach for some thirty requests at once."""
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch, lots=900) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def test_an_entitled_stream_is_metered_exactly(delivery: Stage) -> None:
    stream = delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=100, stream=True
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    (end,) = delivery.ends(1)
    made = delivery.generated()[str(end.request_id)]
    assert (end.state, end.prompt_tokens, end.output_tokens) == (
        "COMPLETED",
        made["prompt"],
        made["completion"],
    )
    assert len(text.split()) == end.output_tokens
    assert end.mntu == end.prompt_tokens * 1_000 + end.output_tokens * 4_000
    assert not end.is_bounded
    assert not end.is_estimated
    assert all(chunk.usage is None for chunk in chunks)
    (row,) = delivery.requests()
    assert (row.organization_id, row.cluster, row.class_requested, row.class_served) == (
        BUYER,
        CLUSTER,
        "P2",
        "P2",
    )
    assert (row.outcome, row.reason) == ("ADMITTED", "TIMED")


def test_an_answer_that_is_not_streamed_has_the_same_text_and_usage(delivery: Stage) -> None:
    raw = delivery.client().chat.completions.with_raw_response.create(
        model=GRADE, messages=HELLO, max_tokens=40
    )
    answer = raw.parse()

    (end,) = delivery.ends(1)
    assert answer.object == "chat.completion"
    assert len(answer.choices[0].message.content.split()) == 40 == end.output_tokens
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        end.prompt_tokens,
        40,
    )
    assert answer.service_tier == "default"
    headers = raw.headers
    assert headers["x-baseload-class-requested"] == headers["x-baseload-class-served"] == "P2"
    assert headers["x-baseload-queue-ms"] == "0"
    assert headers["x-ratelimit-limit-tokens"] == "40000"
    assert headers["x-ratelimit-limit-requests"] == "5000"
    assert 0 < int(headers["x-baseload-entitlement-remaining-ntu"]) <= 40 * 60_000
    assert headers["x-baseload-pool"]


def test_completions_and_several_choices_are_put_together(delivery: Stage) -> None:
    answer = delivery.client().completions.create(model=GRADE, prompt="Once", max_tokens=5, n=2)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [len(choice.text.split()) for choice in answer.choices] == [5, 5]
    assert answer.usage.completion_tokens == 10
    (end,) = delivery.ends(1)
    assert end.output_tokens == 10


def test_usage_is_shown_in_a_stream_to_whoever_asks(delivery: Stage) -> None:
    stream = delivery.client().chat.completions.create(
        model=GRADE,
        messages=HELLO,
        max_tokens=10,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 10


def test_a_caller_that_hangs_up_is_metered_for_what_was_generated(delivery: Stage) -> None:
    client = delivery.client()
    for count in (1, 7, 30):
        stream = client.chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=1_000, stream=True
        )
        for _ in range(count):
            next(stream)
        stream.close()
    ends = delivery.ends(3)
    made = delivery.generated()
    for end in ends:
        assert end.state == "ABORTED"
        assert made[str(end.request_id)]["state"] == "canceled"
        assert end.output_tokens == made[str(end.request_id)]["completion"] < 1_000
        assert end.prompt_tokens == made[str(end.request_id)]["prompt"]
        assert not end.is_estimated


def test_random_hang_ups_forty_at_once_are_metered_to_the_token(wide: Stage) -> None:
    """`BASELOAD_DEEP` has a thousand callers hang up (FAULTS I97)."""
    delivery = wide
    chance = random.Random(7)
    callers = 1_000 if os.environ.get("BASELOAD_DEEP") else 40
    at_once = asyncio.Semaphore(40)

    async def in_turn(client: openai.AsyncOpenAI, number: int, takes: int) -> None:
        async with at_once:
            await one(client, number % 40, takes)

    async def one(client: openai.AsyncOpenAI, number: int, takes: int) -> None:
        asked = client.chat.completions.create(
            model=GRADE,
            messages=[{"role": "user", "content": f"{number} " * (number + 1)}],
            max_tokens=chance.randrange(1, 300),
            stream=True,
        )
        try:
            async with asyncio.timeout(takes / 1_000):
                async for _ in await asked:
                    pass
        except TimeoutError:
            pass

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(
            base_url=delivery.url, api_key=delivery.keys["queueing"], max_retries=0
        ) as client:
            await asyncio.gather(
                *(in_turn(client, number, chance.randrange(5, 900)) for number in range(callers))
            )

    asyncio.run(all_of_them())
    ends = {str(end.request_id): end for end in delivery.settled()}
    made = delivery.generated()
    assert len(made) > 10
    assert set(made) <= set(ends)
    for request_id, end in ends.items():
        generated = made[request_id]["completion"] if request_id in made else 0
        assert end.output_tokens == generated, (end.state, made.get(request_id))


def test_a_cluster_that_refuses_is_a_503_and_a_recorded_failure(delivery: Stage) -> None:
    delivery.fault(0.0)
    with pytest.raises(openai.InternalServerError) as refused:
        delivery.client().chat.completions.create(model=GRADE, messages=HELLO, max_tokens=10)
    assert refused.value.status_code == 503
    assert refused.value.body["code"] == "no_capacity"
    assert refused.value.response.headers["retry-after"] == "1"
    (end,) = delivery.ends(1)
    assert (end.state, end.mntu) == ("FAILED", 0)
    (row,) = delivery.requests()
    assert row.charge_mntu > 0

    delivery.fault(1.0)
    answer = delivery.client().chat.completions.create(model=GRADE, messages=HELLO, max_tokens=10)
    assert answer.usage.completion_tokens == 10


def test_wrong_keys_scopes_and_models_are_refused_in_openai_form(delivery: Stage) -> None:
    wrong = openai.OpenAI(base_url=delivery.url, api_key="bl_demo_none_none", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as unknown_key:
        wrong.chat.completions.create(model=GRADE, messages=HELLO)
    assert unknown_key.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as no_scope:
        delivery.client("reader").chat.completions.create(model=GRADE, messages=HELLO)
    assert no_scope.value.code == "missing_scope"
    with pytest.raises(openai.NotFoundError) as no_model:
        delivery.client().chat.completions.create(model="gpt-none", messages=HELLO)
    assert no_model.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        delivery.client().chat.completions.create(model=GRADE, messages=HELLO, max_tokens=5_000)
    assert too_long.value.param == "max_tokens"
    assert delivery.requests() == []


def test_models_lists_the_grades(delivery: Stage) -> None:
    assert [model.id for model in delivery.client().models.list()] == [GRADE]
    assert delivery.client().models.retrieve(GRADE).owned_by == "baseload"


def test_a_level_that_is_spent_is_rejected_spilled_or_waited_for(delivery: Stage) -> None:
    # Two seconds of forty lots are 1,333 NTU: one request of a few hundred tokens spends them.
    delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=400, extra_body={"ignore_eos": True}
    )
    with pytest.raises(openai.RateLimitError) as rejected:
        delivery.client("rejecting").chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=10
        )
    assert rejected.value.code == "rate_limit_exceeded"
    assert int(rejected.value.response.headers["retry-after"]) >= 1
    with delivery.market.running():
        spilled = delivery.client().chat.completions.with_raw_response.create(
            model=GRADE, messages=HELLO, max_tokens=10
        )
    assert spilled.headers["x-baseload-class-served"] == "P3"
    assert spilled.parse().service_tier == "flex"
    assert sorted((row.outcome, row.class_served) for row in delivery.requests()) == [
        ("ADMITTED", "P2"),
        ("ADMITTED", "P3"),
        ("SHED", ""),
    ]


def test_pay_as_you_go_runs_on_cash_that_is_held_and_not_without(delivery: Stage) -> None:
    with delivery.market.running():
        answer = delivery.client("other").chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=10, extra_headers={"x-baseload-class": "P3"}
        )
        assert answer.usage.completion_tokens == 10
        (row,) = delivery.requests()
        assert (row.organization_id, row.class_served) == (OTHER, "P3")
        from settlement import instructions, operations
        from settlement import models as clearing
        from settlement import queries as settlement_queries

        held = clearing.Instruction.objects.get(id__startswith="reserve:")
        assert held.state == "APPLIED"
        left = clearing.MarginAccount.objects.get(organization_id=OTHER).withdrawable_micros
        operations.instruct(
            id="empty", command=instructions.Withdraw(account=OTHER, amount_micros=left)
        )
        assert settlement_queries.wait_for_instruction("empty", 5).state == "APPLIED"
        with pytest.raises(openai.RateLimitError) as poor:
            delivery.client("other").chat.completions.create(
                model=GRADE,
                messages=[{"role": "user", "content": "word " * 60_000}],
                extra_headers={"x-baseload-class": "P3"},
                n=8,
            )
    assert poor.value.code == "insufficient_quota"
    assert sorted(row.outcome for row in delivery.requests()) == ["ADMITTED", "REFUSED"]


def test_a_probe_passes_while_the_cluster_serves_and_is_nobodys_usage(delivery: Stage) -> None:
    from admission import operations

    assert operations.probe_clusters(n=4) == {str(CLUSTER): [4, 4]}
    delivery.fault(0.5)
    assert operations.probe_clusters(n=10) == {str(CLUSTER): [5, 10]}
    assert delivery.requests() == []
    assert models.Request.objects.filter(is_probe=True).count() == 14


def test_metrics_tell_each_pool_and_how_long_answers_took(delivery: Stage) -> None:
    def read() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{delivery.port}/metrics") as answer:
            found = text_string_to_metric_families(answer.read().decode())
            return {
                f"{sample.name} {' '.join(sorted(sample.labels.values()))}": sample.value
                for family in found
                for sample in family.samples
                if "le" not in sample.labels
            }

    pool = str(catalog.Cluster.objects.get(pk=CLUSTER).public_id)
    before = read()
    delivery.client().chat.completions.create(model=GRADE, messages=HELLO, max_tokens=40)
    (end,) = delivery.ends(1)
    after = read()
    grown = {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if name.startswith(("gen_ai", "baseload_pool_requests")) and value != before.get(name)
    }
    of = " ".join(sorted(("P2", "baseload", GRADE, "chat", pool)))
    inputs = " ".join(sorted(("P2", "baseload", GRADE, "chat", "input", pool)))
    outputs = " ".join(sorted(("P2", "baseload", GRADE, "chat", "output", pool)))
    admitted = " ".join(sorted(("P2", "admitted", pool)))
    assert grown["gen_ai_server_time_to_first_token_seconds_count " + of] == 1
    assert grown["gen_ai_server_time_per_output_token_seconds_count " + of] == 1
    assert grown[f"gen_ai_server_request_duration_seconds_count  {of}"] == 1
    assert grown["gen_ai_client_token_usage_sum " + inputs] == end.prompt_tokens
    assert grown["gen_ai_client_token_usage_sum " + outputs] == 40
    assert grown["baseload_pool_requests_total " + admitted] == 1
    queued = " ".join(sorted(("P2", "queued", pool)))
    assert "baseload_pool_requests_total " + queued not in grown, "nobody was before it"
    assert after[f"baseload_pool_reachable {pool}"] == 1
    assert after["baseload_pool_queue_length " + " ".join(sorted(("P2", pool)))] == 0


def test_health_readiness_and_metrics_answer(delivery: Stage) -> None:
    root = f"http://127.0.0.1:{delivery.port}"
    assert fetch(f"{root}/healthz") == {"healthy": True}
    assert fetch(f"{root}/readyz") == {
        "ready": True,
        "keys": True,
        "metering": True,
        "schedulers": True,
    }
    with urllib.request.urlopen(f"{root}/metrics") as metrics:
        assert b"baseload_gateway_requests" in metrics.read()
    with pytest.raises(urllib.error.HTTPError) as unknown:
        fetch(f"{root}/v1/unknown")
    assert json.loads(unknown.value.read())["error"]["code"] == "unknown_url"
