"""Embeddings through the gateway with the official client: charged as prompts, held to them."""

import json
import math
from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client

from admission import models
from marketplace import keys
from tests.delivery import Stage, stage
from tests.market import GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

TEXTS = ["An hour of capacity.", "A lot is a thousand tokens a minute, for an hour."]


@pytest.fixture
def staged(valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch):
    market = Market(valkey)
    market.take_over()

    def made(**more: object):
        return stage(market, clock, monkeypatch, **more)

    try:
        yield made
    finally:
        market.close()
        keys.close_shared_ring()


@pytest.fixture
def delivery(staged) -> Iterator[Stage]:
    with staged() as made:
        yield made


def test_vectors_come_back_in_order_and_prompts_are_what_is_charged(delivery: Stage) -> None:
    raw = delivery.client().embeddings.with_raw_response.create(
        model=GRADE, input=TEXTS, dimensions=64
    )
    answer = raw.parse()
    assert [one.index for one in answer.data] == [0, 1]
    for one in answer.data:
        assert len(one.embedding) == 64
        assert math.isclose(sum(each * each for each in one.embedding), 1, rel_tol=1e-4)
    tokens = sum(-(-len(text) // 4) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert raw.headers["x-baseload-class-served"] == "P2"
    (end,) = delivery.ends(1)
    assert (end.state, end.prompt_tokens, end.output_tokens) == ("COMPLETED", tokens, 0)
    assert end.mntu == tokens * 1_000
    assert not (end.is_bounded or end.is_estimated)


def test_the_same_text_has_the_same_vector_in_either_encoding(delivery: Stage) -> None:
    client = delivery.client()
    plain = client.embeddings.create(model=GRADE, input=TEXTS[0], encoding_format="float")
    packed = client.embeddings.create(model=GRADE, input=[TEXTS[0]], encoding_format="base64")
    by_default = client.embeddings.create(model=GRADE, input=[TEXTS[1], TEXTS[0]])
    assert isinstance(packed.data[0].embedding, str)
    assert by_default.data[1].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert by_default.data[0].embedding != by_default.data[1].embedding


def test_what_an_output_is_expected_to_be_does_not_change_by_embeddings(delivery: Stage) -> None:
    delivery.client().embeddings.create(model=GRADE, input=[1, 2, 3])
    delivery.ends(1)
    delivery.client().chat.completions.create(
        model=GRADE, messages=[{"role": "user", "content": "Hello"}], max_tokens=300
    )
    charged = models.Request.objects.order_by("arrived_at").last().charge_mntu
    assert charged > 256 * 4_000, "an organization that has not finished a completion yet"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, None),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [1.5]}, "input"),
        ({}, "input"),
        ({"input": "x", "stream": True}, "stream"),
        ({"input": ["x"] * 2_049}, "input"),
        ({"input": "x", "dimensions": 0}, None),
        ({"input": "x", "encoding_format": "hex"}, None),
    ],
)
def test_what_is_wrong_with_a_request_is_said(delivery: Stage, body, param) -> None:
    if body == {"input": ""}:
        assert delivery.client().post(
            "/embeddings", body=body | {"model": GRADE}, cast_to=object
        ), "an empty text counts one token"
        return
    with pytest.raises(openai.BadRequestError) as refused:
        delivery.client().post("/embeddings", body=body | {"model": GRADE}, cast_to=object)
    assert refused.value.param == param


def upstream_of(status: int, kind: str, body: object):
    """An upstream that answers everything so."""

    async def application(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": data})

    return application


ONE = {"object": "embedding", "index": 0, "embedding": [0.5]}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", {"data": [ONE, ONE], "usage": {"prompt_tokens": 3}}),
        ("application/json", {"data": [{}], "usage": {"prompt_tokens": 3}}),
        ("application/json", b"[1"),
        ("text/event-stream", b"data: {}\n\n"),
        ("application/json", {"error": {"message": "no"}}),
        ("application/json", {"data": [ONE], "usage": {"prompt_tokens": -3}}),
    ],
)
def test_an_upstream_that_answers_something_else_has_failed(staged, kind, body) -> None:
    with staged(upstream=upstream_of(200, kind, body)) as delivery:
        with pytest.raises(openai.APIStatusError) as refused:
            delivery.client("rejecting").embeddings.create(model=GRADE, input="x")
        assert refused.value.status_code == 503
        assert [(event.state, event.mntu) for event in delivery.ends(1)] == [("FAILED", 0)]


def test_a_claim_beyond_the_bytes_that_were_sent_is_billed_at_the_bound(staged) -> None:
    body = {"object": "list", "data": [ONE], "usage": {"prompt_tokens": 100_000}}
    with staged(upstream=upstream_of(200, "application/json", body)) as delivery:
        answer = delivery.client().embeddings.create(
            model=GRADE, input="x", encoding_format="float"
        )
        (end,) = delivery.ends(1)
        assert end.is_bounded
        assert answer.usage.prompt_tokens == end.prompt_tokens == len('"x"') + 64 + 16
