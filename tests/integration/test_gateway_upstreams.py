"""Upstreams that lie, break off, fall silent or say nothing of what they used."""

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client

from admission import upstream
from marketplace import keys
from tests.delivery import Stage, stage
from tests.market import GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "hello there"}]


def chunk(text: str | None = None, *, usage: tuple[int, int] | None = None, end: str = "") -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": end or None}
    body: dict = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Upstream:
    """Answers every completion with the script it was last given: packets, or `WAIT`."""

    WAIT = b"wait"

    def __init__(self) -> None:
        self.script: list[bytes] = []
        self.status = 200
        self.kind = b"text/event-stream"
        self.ends_early = False
        self.bodies: list[dict] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(json.loads(body))
        headers = [(b"content-type", self.kind)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for packet in self.script:
            if packet == self.WAIT:
                await asyncio.wait_for(receive(), 20)
                return
            await send({"type": "http.response.body", "body": packet, "more_body": True})
        if self.ends_early:
            # A reader that learns of the end before it read what came loses that.
            await asyncio.sleep(0.2)
            raise RuntimeError("the upstream dies")
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def script() -> Upstream:
    return Upstream()


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch, script: Upstream
) -> Iterator[Stage]:
    monkeypatch.setattr(upstream, "GAP_TIMEOUT_S", 0.5)
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch, upstream=script) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def ask(delivery: Stage, **more):
    return delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=10, **more
    )


def refused(delivery: Stage) -> tuple[int, str]:
    with pytest.raises(openai.APIStatusError) as refusal:
        ask(delivery)
    return refusal.value.status_code, refusal.value.body["code"]


def test_what_goes_upstream_is_the_gateways_own_and_the_rest_untouched(
    delivery: Stage, script: Upstream
) -> None:
    script.script = [chunk("a", usage=(3, 1)), chunk(end="stop", usage=(3, 1)), DONE]
    ask(delivery, extra_body={"priority": -5, "unheard_of": {"x": [1]}}, seed=7)
    (sent,) = script.bodies
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (sent["unheard_of"], sent["seed"], sent["max_tokens"]) == ({"x": [1]}, 7, 10)
    assert "priority" not in sent


def test_a_claim_beyond_the_limit_is_billed_at_the_limit_and_marked(
    delivery: Stage, script: Upstream
) -> None:
    script.script = [chunk("a", usage=(10**9, 1)), chunk(end="stop", usage=(10**9, 10**9)), DONE]
    answer = ask(delivery)
    (end,) = delivery.ends(1)
    assert (end.output_tokens, end.is_bounded) == (10, True)
    assert end.prompt_tokens < 300
    assert answer.usage.completion_tokens == 10


def test_an_upstream_without_usage_is_estimated_and_marked(
    delivery: Stage, script: Upstream
) -> None:
    script.script = [chunk("a"), chunk("b"), chunk("c"), chunk(end="stop"), DONE]
    ask(delivery)
    (end,) = delivery.ends(1)
    assert (end.state, end.output_tokens, end.is_estimated) == ("COMPLETED", 3, True)
    assert end.prompt_tokens > 0


@pytest.mark.parametrize("status", [500, 429, 401, 404])
def test_an_upstream_that_fails_is_a_503_and_costs_nothing(
    delivery: Stage, script: Upstream, status: int
) -> None:
    script.status = status
    assert refused(delivery) == (503, "no_capacity")
    (end,) = delivery.ends(1)
    assert (end.state, end.mntu, end.is_estimated) == ("FAILED", 0, False)


def test_an_upstreams_refusal_of_the_request_is_passed_on(
    delivery: Stage, script: Upstream
) -> None:
    script.status = 400
    script.script = [b'{"error":{"message":"seed is too odd"}}']
    with pytest.raises(openai.BadRequestError, match="seed is too odd"):
        ask(delivery)
    (end,) = delivery.ends(1)
    assert (end.state, end.mntu) == ("ABORTED", 0)


def test_garbage_is_a_failure_before_the_first_byte_and_an_error_event_after_it(
    delivery: Stage, script: Upstream
) -> None:
    script.script = [b"data: oops\n\n"]
    assert refused(delivery) == (503, "no_capacity")
    script.kind = b"text/html"
    assert refused(delivery) == (503, "no_capacity")
    script.kind = b"text/event-stream"
    script.script = [chunk("a", usage=(3, 1)), b"data: oops\n\n"]
    with pytest.raises(openai.APIError, match="broke off"):
        list(ask(delivery, stream=True))
    ends = delivery.ends(3)
    assert [(end.state, end.output_tokens) for end in ends] == [
        ("FAILED", 0),
        ("FAILED", 0),
        ("FAILED", 1),
    ]


@pytest.mark.parametrize("dies", [True, False])
def test_a_stream_that_breaks_off_is_metered_to_where_it_came(
    delivery: Stage, script: Upstream, dies: bool
) -> None:
    script.script = [chunk("a", usage=(3, 1)), chunk("b", usage=(3, 2))]
    script.ends_early = dies
    assert refused(delivery) == (503, "stream_interrupted")
    (end,) = delivery.ends(1)
    assert (end.state, end.prompt_tokens, end.output_tokens) == ("FAILED", 3, 2)


def test_an_upstream_that_falls_silent_is_given_up(delivery: Stage, script: Upstream) -> None:
    script.script = [chunk("a", usage=(3, 1)), Upstream.WAIT]
    with pytest.raises(openai.APIError, match="broke off"):
        list(ask(delivery, stream=True))
    (end,) = delivery.ends(1)
    assert (end.state, end.output_tokens) == ("FAILED", 1)


def test_a_hang_up_stops_a_live_upstream_and_counts_what_it_had_sent(
    delivery: Stage, script: Upstream
) -> None:
    script.script = [chunk("a", usage=(3, 1)), chunk("b", usage=(3, 2)), Upstream.WAIT]
    stream = ask(delivery, stream=True)
    next(stream)
    stream.close()
    (end,) = delivery.ends(1)
    assert (end.state, end.prompt_tokens, end.output_tokens) == ("ABORTED", 3, 2)


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://api.example.com/v1", True),
        ("https://8.8.8.8/v1/", True),
        ("http://api.example.com/v1", False),
        ("https://127.0.0.1/v1", False),
        ("https://10.0.0.7/v1", False),
        ("https://169.254.169.254/latest", False),
        ("https://[::1]/v1", False),
        ("https://[::ffff:10.0.0.1]/v1", False),
        ("https://localhost/v1", False),
        ("https://db.internal/v1", False),
        ("https://user:pw@api.example.com/v1", False),
        ("https://api.example.com/v1?x=1", False),
        ("ftp://api.example.com/v1", False),
        ("http://listed/v1", True),
        ("http://10.1.2.3:8000/v1", True),
        ("nonsense", False),
    ],
)
def test_only_public_or_listed_endpoints_may_be_called(url: str, is_allowed: bool) -> None:
    allow = upstream.allowed(["listed", "10.1.0.0/16"])
    if is_allowed:
        assert upstream.check_endpoint(url, allow) == url.rstrip("/")
    else:
        with pytest.raises(upstream.EndpointRefused):
            upstream.check_endpoint(url, allow)
