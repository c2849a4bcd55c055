"""The cluster model over HTTP: bodies and usage as in vLLM, faults, hang-ups, exact counts."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import openai
import uvicorn

from admission import modelled_answers
from admission.live_cluster import ClusterConfig, LiveCluster
from admission.model_server import ModelServer
from admission.replica import Sequence

FAST = {
    "accelerator": "B200",
    "model": "LLAMA8B",
    "precision": "fp8",
    "tensor_parallel": 4,
    "replicas": 2,
    "grade": "LLAMA8B",
}
USAGE = {"include_usage": True, "continuous_usage_stats": True}
Play = Callable[["Caller"], Awaitable[None]]


class Caller:
    """A client of one running server, and the server itself."""

    def __init__(self, url: str, session: aiohttp.ClientSession, server: ModelServer) -> None:
        self.url = url
        self.session = session
        self.server = server

    async def call(self, method: str, path: str, body: object = None, **headers: str):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, self.url + path, json=body, headers=names
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text

    async def stream(self, path: str, body: dict[str, object], **headers: str) -> list[dict]:
        _, text = await self.call("POST", path, {**body, "stream": True}, **headers)
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert events.pop() == "[DONE]"
        return [json.loads(event) for event in events]

    async def generated(self, request: str) -> dict[str, object]:
        _, found = await self.call("GET", f"/clusters/7/debug/generated?request={request}")
        return found[request]


@asynccontextmanager
async def serving(server: ModelServer):
    config = uvicorn.Config(
        server, port=0, log_config=None, access_log=False, lifespan="on", http="httptools"
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0)
    port = running.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        yield Caller(f"http://127.0.0.1:{port}", session, server)
    running.should_exit = True
    await task


def play(scene: Play, server: ModelServer | None = None) -> None:
    """Run a scene against a server that has cluster 7."""

    async def main() -> None:
        async with serving(server or ModelServer()) as caller:
            status, _ = await caller.call("PUT", "/clusters/7", FAST)
            assert status == 200
            await scene(caller)

    asyncio.run(main())


def test_a_stream_has_a_word_a_token_and_the_usage_in_every_chunk() -> None:
    async def scene(caller: Caller) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "12345"}], "max_tokens": 5}
        chunks = await caller.stream(
            "/clusters/7/v1/chat/completions", {**body, "stream_options": USAGE}, x_request_id="a"
        )
        assert [each["usage"]["completion_tokens"] for each in chunks] == [0, 1, 2, 3, 4, 5, 5, 5]
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks[1:-2])
        assert len(text.split()) == 5
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["prompt_tokens"] == modelled_answers.MESSAGE_TOKENS + 2
        assert {each["id"] for each in chunks} == {"chatcmpl-a"}
        assert await caller.generated("a") == {
            "prompt": 6,
            "cached": 0,
            "completion": 5,
            "reasoning": 0,
            "state": "finished",
        }

    play(scene)


def test_usage_comes_only_when_it_is_asked_for() -> None:
    async def scene(caller: Caller) -> None:
        body = {"model": "m", "prompt": "word", "max_tokens": 3}
        chunks = await caller.stream("/clusters/7/v1/completions", body)
        assert all("usage" not in each for each in chunks)
        options = {"stream_options": {"include_usage": True}}
        chunks = await caller.stream("/clusters/7/v1/completions", {**body, **options})
        assert ["usage" in each for each in chunks] == [False] * 4 + [True]

    play(scene)


def test_an_answer_that_is_not_streamed_has_every_choice_and_the_whole_usage() -> None:
    async def scene(caller: Caller) -> None:
        status, body = await caller.call(
            "POST",
            "/clusters/7/v1/completions",
            {"model": "m", "prompt": ["word" * 4, [1, 2, 3]], "n": 2, "max_tokens": 4},
        )
        assert status == 200
        assert [len(each["text"].split()) for each in body["choices"]] == [4, 4, 4, 4]
        assert body["usage"]["prompt_tokens"] == 4 + 3
        assert body["usage"]["completion_tokens"] == 16

    play(scene)


def test_length_follows_the_prompt_the_limit_and_ignore_eos() -> None:
    def length(**fields: object) -> tuple[int, str]:
        body = json.dumps({"prompt": "x" * 400, **fields}).encode()
        asked = modelled_answers.read(body, is_chat=False)
        return asked.output_tokens(asked.prompts[0])

    natural = modelled_answers.natural_tokens(100)
    assert length() == (natural, "stop")
    assert length(max_tokens=4_000) == (natural, "stop")
    assert length(max_tokens=10) == (10, "length")
    assert length(max_tokens=4_000, ignore_eos=True) == (4_000, "length")
    assert length(max_tokens=4_000, min_tokens=1_000) == (1_000, "stop")
    assert length(max_tokens=700, min_tokens=700) == (700, "length")


def test_the_official_client_streams_from_it() -> None:
    async def scene(caller: Caller) -> None:
        client = openai.AsyncOpenAI(base_url=caller.url + "/clusters/7/v1", api_key="none")
        models = await client.models.list()
        assert [each.id for each in models.data] == ["LLAMA8B"]
        stream = await client.chat.completions.create(
            model="LLAMA8B",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [each async for each in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 6
        await client.close()

    play(scene)


def test_a_caller_that_hangs_up_ends_its_generation() -> None:
    async def scene(caller: Caller) -> None:
        live = caller.server.clusters["7"]
        body = {
            "model": "m",
            "prompt": "word",
            "max_tokens": 10_000,
            "ignore_eos": True,
            "stream": True,
            "stream_options": USAGE,
        }
        response = await caller.session.post(
            caller.url + "/clusters/7/v1/completions", json=body, headers={"x-request-id": "a"}
        )
        seen = 0
        while seen < 5:
            line = await response.content.readline()
            if line.startswith(b"data: {"):
                seen = json.loads(line[6:])["usage"]["completion_tokens"]
        assert live.gauges()["requests_running"] == 1
        response.close()
        while live.generated["a"].state == "running":
            await asyncio.sleep(0)
        assert live.gauges()["requests_running"] == 0
        assert live.gauges()["kv_tokens_used"] == 0
        found = await caller.generated("a")
        assert found["state"] == "canceled"
        assert 5 <= found["completion"] < 10_000

    play(scene)


def test_an_aborted_stream_ends_with_exactly_what_was_generated() -> None:
    async def scene(caller: Caller) -> None:
        live = caller.server.clusters["7"]
        body = {"model": "m", "prompt": "word", "max_tokens": 10_000, "ignore_eos": True}
        options = {**body, "stream_options": USAGE}
        streaming = asyncio.create_task(
            caller.stream("/clusters/7/v1/completions", options, x_request_id="a")
        )
        while live.gauges()["generated_tokens_total"] < 3:
            await asyncio.sleep(0)
        status, done = await caller.call(
            "POST", "/clusters/7/abort_requests", {"request_ids": ["a", "unknown"]}
        )
        assert (status, done) == (200, {"aborted": ["a"]})
        chunks = await streaming
        found = await caller.generated("a")
        assert chunks[-1]["usage"]["completion_tokens"] == found["completion"] >= 3
        assert chunks[-2]["choices"][0]["finish_reason"] == "abort"

    play(scene)


def test_a_fault_refuses_exactly_its_share_evenly_spread() -> None:
    live = LiveCluster("7", ClusterConfig(**FAST))
    for share, served in ((0.25, 25), (0.0, 0), (1.0, 100), (0.7, 70)):
        live.set_available(share)
        answers = [not live.refuses() for _ in range(100)]
        assert sum(answers) == served
        for begin in range(0, 100, 20):
            assert abs(sum(answers[begin : begin + 20]) - 20 * share) <= 1

    async def scene(caller: Caller) -> None:
        assert (await caller.call("PUT", "/clusters/7/fault", {"available": 0.5}))[0] == 200
        body = {"model": "m", "prompt": "word", "max_tokens": 1}
        path = "/clusters/7/v1/completions"
        assert [(await caller.call("POST", path, body))[0] for _ in range(4)] == [503, 200] * 2
        for wrong in (2, -1, "1", None, True):
            status, _ = await caller.call("PUT", "/clusters/7/fault", {"available": wrong})
            assert status == 400

    play(scene)


def test_clusters_come_from_the_hook_and_from_puts_and_are_refused_by_name() -> None:
    known = [("1", ClusterConfig(**FAST))]

    async def scene(caller: Caller) -> None:
        assert (await caller.call("GET", "/clusters"))[1] == {"clusters": ["1", "7"]}
        assert (await caller.call("PUT", "/clusters/8", {**FAST, "model": "GPT4O"}))[0] == 422
        assert (await caller.call("PUT", "/clusters/8", {**FAST, "colour": "red"}))[0] == 400
        assert (await caller.call("GET", "/clusters/8"))[0] == 404
        before = caller.server.clusters["7"]
        await caller.call("PUT", "/clusters/7", FAST)
        assert caller.server.clusters["7"] is before, "the same again changes nothing"
        assert (await caller.call("DELETE", "/clusters/7"))[0] == 200
        assert (await caller.call("GET", "/clusters/7"))[0] == 404
        for path in ("/healthz", "/readyz"):
            assert (await caller.call("GET", path))[0] == 200
        _, text = await caller.call("GET", "/metrics")
        assert 'baseload_cluster_kv_tokens{cluster="1"}' in text

    play(scene, ModelServer(load_clusters=lambda: known))


def test_bad_bodies_are_refused_in_openais_form() -> None:
    async def scene(caller: Caller) -> None:
        path = "/clusters/7/v1/completions"
        for body in (
            [],
            {"prompt": ""[:0] or None},
            {"prompt": "a", "max_tokens": 0},
            {"prompt": "a", "max_tokens": True},
            {"prompt": "a", "n": 65},
            {"prompt": "a", "stream_options": 1},
            {"prompt": list(range(10)), "max_tokens": 10_000_000, "ignore_eos": True},
        ):
            status, answer = await caller.call("POST", path, body)
            assert (status, answer["error"]["code"]) == (400, 400), body
        assert caller.server.clusters["7"].gauges()["requests_running"] == 0

    play(scene)


def test_a_request_runs_on_the_replica_it_names_or_on_the_least_loaded() -> None:
    async def scene() -> None:
        live = LiveCluster("7", ClusterConfig(**FAST))
        for name, rank in (("a", 1), ("b", None), ("c", 1), ("d", 9)):
            sequence = Sequence(name, prompt_tokens=10, output_tokens=5)
            live.start(name, [sequence], prompt=10, is_stream=False, replica=rank)
        replicas = [live._workers.index(live._places[name]) for name in "abcd"]
        assert replicas == [1, 0, 1, 0]
        live.close()

    asyncio.run(scene())
