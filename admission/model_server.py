"""The cluster model as an OpenAI-compatible server: several clusters in one process, by path.

    /clusters/{id}/v1/chat/completions, /completions, /models    the endpoint of one cluster
    PUT|POST|GET|DELETE /clusters/{id}                             what it is made of
    PUT /clusters/{id}/fault {"available": 0.0-1.0}                serve only a share of requests
    POST /clusters/{id}/abort_requests {"request_ids": [...]}      end streams where they are
    GET /clusters/{id}/debug/generated[?request=]                  what each request generated
    /healthz /readyz /metrics

Tokens come at the modelled speed and a caller that hangs up is noticed: generation stops there. A
request is known by its `X-Request-Id`; `X-Data-Parallel-Rank` names a replica, as in vLLM, and the
body's `priority` orders the line, lower first. Clusters are kept in memory. They come from whoever
puts them, and from `load_clusters`, which is called at the start and, at most once a second, when a
cluster is asked for that is not known.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from admission import cluster as cluster_model
from admission import modelled_answers, modelled_embeddings
from admission.live_cluster import ClusterConfig, Job, LiveCluster
from admission.replica import Sequence
from marketplace import clock

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
LoadClusters = Callable[[], Iterable[tuple[str, ClusterConfig]]]

BODY_BYTES_MAX = 16 << 20
RELOAD_S_MIN = 1.0
RETRY_AFTER_S = 1
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]


def no_clusters() -> Iterable[tuple[str, ClusterConfig]]:
    """Return no cluster: the default of `load_clusters`."""
    return ()


class ModelServer:
    """The ASGI application; `load_clusters` may be set until it starts."""

    def __init__(self, load_clusters: LoadClusters = no_clusters) -> None:
        self.load_clusters = load_clusters
        self.clusters: dict[str, LiveCluster] = {}
        self._loaded_at = -RELOAD_S_MIN
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert scope["type"] == "http", "nothing but HTTP is served here"
        path = unquote(scope["path"])
        method = scope["method"]
        match path.strip("/").split("/"):
            case ["healthz" | "readyz"]:
                await _answer(send, 200, {"status": "ok"})
            case ["metrics"]:
                await _respond(send, 200, self._metrics(), [(b"content-type", b"text/plain")])
            case ["clusters"] if method == "GET":
                await _answer(send, 200, {"clusters": sorted(self.clusters)})
            case ["clusters", cluster_id]:
                await self._configure(cluster_id, method, receive, send)
            case ["clusters", cluster_id, *rest]:
                await self._reach(cluster_id, rest, scope, receive, send)
            case ["v1", *_] as rest if self.clusters:
                await self._reach(next(iter(self.clusters)), rest, scope, receive, send)
            case _:
                await _error(send, 404, "Not Found")

    def put(self, cluster_id: str, config: ClusterConfig) -> str | None:
        """Install a cluster and return None, or why it cannot be; the same again changes nothing.

        A cluster that is replaced ends its open streams where they are.
        """
        problem = cluster_model.problem(config.cluster())
        if problem is not None:
            return problem
        if not 0 <= config.cached_percent <= 100 or not 0 <= config.reasoning_percent <= 100:
            return "percent_out_of_range"
        if not 0.0 <= config.available <= 1.0:
            return "available_out_of_range"
        known = self.clusters.get(cluster_id)
        if known is not None and known.config == config:
            return None
        if known is not None:
            known.close()
        self.clusters[cluster_id] = LiveCluster(cluster_id, config)
        return None

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._load()
                await send({"type": "lifespan.startup.complete"})
            else:
                for each in self.clusters.values():
                    each.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _load(self) -> None:
        """Install what `load_clusters` knows; it may block, so it runs beside the loop."""
        self._loaded_at = asyncio.get_running_loop().time()
        for cluster_id, config in await asyncio.to_thread(lambda: list(self.load_clusters())):
            if cluster_id not in self.clusters:
                self.put(cluster_id, config)

    async def _find(self, cluster_id: str) -> LiveCluster | None:
        if cluster_id not in self.clusters:
            if asyncio.get_running_loop().time() - self._loaded_at < RELOAD_S_MIN:
                return None
            await self._load()
        return self.clusters.get(cluster_id)

    async def _configure(self, cluster_id: str, method: str, receive: Receive, send: Send) -> None:
        """Install, show or remove a cluster."""
        if method in ("PUT", "POST"):
            try:
                config = msgspec.json.decode(await _body(receive), type=ClusterConfig)
            except (msgspec.DecodeError, ValueError) as error:
                await _error(send, 400, str(error))
                return
            problem = self.put(cluster_id, config)
            if problem is not None:
                await _error(send, 422, problem)
                return
        live = await self._find(cluster_id)
        if live is None:
            await _error(send, 404, "unknown cluster")
            return
        if method == "DELETE":
            del self.clusters[cluster_id]
            live.close()
        body = {
            "id": cluster_id,
            "config": live.config,
            "kv_tokens": live.cluster.kv_tokens,
            "gauges": live.gauges(),
        }
        await _answer(send, 200, body)

    async def _reach(
        self, cluster_id: str, rest: list[str], scope: Message, receive: Receive, send: Send
    ) -> None:
        """Serve what one cluster offers."""
        live = await self._find(cluster_id)
        if live is None:
            await _error(send, 404, "unknown cluster")
            return
        match [scope["method"], *rest]:
            case ["POST", "v1", "chat", "completions"]:
                await self._complete(live, scope, receive, send, is_chat=True)
            case ["POST", "v1", "completions"]:
                await self._complete(live, scope, receive, send, is_chat=False)
            case ["POST", "v1", "embeddings"]:
                await self._embed(live, scope, receive, send)
            case ["GET", "v1", "models"]:
                model = {
                    "id": live.config.grade or live.config.model,
                    "object": "model",
                    "created": 0,
                    "owned_by": "baseload",
                    "max_model_len": live.cluster.kv_tokens,
                }
                await _answer(send, 200, {"object": "list", "data": [model]})
            case ["PUT" | "POST", "fault"]:
                await _set_fault(live, receive, send)
            case ["POST", "abort_requests"]:
                ids = _decode(await _body(receive)).get("request_ids")
                done = [each for each in ids if live.abort(each)] if isinstance(ids, list) else []
                await _answer(send, 200, {"aborted": done})
            case ["GET", "debug", "generated"]:
                wanted = parse_qs(scope["query_string"].decode()).get("request")
                known = live.generated
                shown = known if wanted is None else {w: known[w] for w in wanted if w in known}
                await _answer(send, 200, shown)
            case _:
                await _error(send, 404, "Not Found")

    async def _complete(
        self, live: LiveCluster, scope: Message, receive: Receive, send: Send, *, is_chat: bool
    ) -> None:
        """Answer one completion, streamed or not."""
        if live.refuses() or live.is_full:
            await _refuse(send)
            return
        try:
            asked = modelled_answers.read(await _body(receive), is_chat=is_chat)
        except (modelled_answers.BadRequest, ValueError) as error:
            await _error(send, 400, str(error))
            return
        if live.is_closed:
            await _refuse(send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1") or f"{next(self._numbers)}"
        if request_id in live.generated and live.generated[request_id].state == "running":
            await _error(send, 400, "the request id is in use")
            return
        completion = _Completion(live, asked, request_id)
        if not completion.fits:
            await _error(send, 400, "the prompt and its output do not fit the context")
            return
        rank = headers.get(b"x-data-parallel-rank", b"").decode("latin-1")
        await completion.run(receive, send, replica=int(rank) if rank.isdecimal() else None)

    async def _embed(self, live: LiveCluster, scope: Message, receive: Receive, send: Send) -> None:
        """Answer with the vectors of some texts, once all of them are read."""
        if live.refuses() or live.is_full or live.is_closed:
            await _refuse(send)
            return
        try:
            asked = modelled_embeddings.read(await _body(receive))
        except (modelled_answers.BadRequest, ValueError) as error:
            await _error(send, 400, str(error))
            return
        if not all(live.fits(tokens + 1) for tokens in asked.prompts):
            await _error(send, 400, "an input does not fit the context")
            return
        named = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = named or f"{next(self._numbers)}"
        sequences = [
            Sequence(
                f"{request_id}/{index}", prompt_tokens=tokens, output_tokens=1,
                priority=asked.priority,
            )
            for index, tokens in enumerate(asked.prompts)
        ]  # fmt: skip
        job = live.start(request_id, sequences, prompt=sum(asked.prompts), is_stream=False)
        hung_up = asyncio.ensure_future(_hang_up(receive, job))
        try:
            while job.pending and not job.canceled and not hung_up.done():
                await job.wait()
        finally:
            hung_up.cancel()
            live.end(request_id, job, completion=0, reasoning=0)
        if job.pending:
            await _refuse(send)
        else:
            await _respond(send, 200, modelled_embeddings.whole(asked), _JSON)

    def _metrics(self) -> bytes:
        """Return every gauge of every cluster in Prometheus' text form."""
        lines: list[str] = []
        shown = {each.id: each.gauges() for each in self.clusters.values()}
        names = list(next(iter(shown.values()), {}))
        for name in names:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.append(f"# TYPE baseload_cluster_{name} {kind}")
            for cluster_id, gauges in shown.items():
                label = cluster_id.replace("\\", "").replace('"', "").replace("\n", "")
                lines.append(f'baseload_cluster_{name}{{cluster="{label}"}} {gauges[name]}')
        return ("\n".join(lines) + "\n").encode()


class _Completion:
    """One request while it runs: its sequences, what was told of them, and its end."""

    def __init__(self, live: LiveCluster, asked: modelled_answers.Asked, request_id: str) -> None:
        self.live = live
        self.asked = asked
        self.request_id = request_id
        self.endings: list[str] = []
        self.sequences: list[Sequence] = []
        for index, prompt in enumerate(asked.prompts):
            length, why = asked.output_tokens(prompt)
            self.endings.append(why)
            sequence = Sequence(
                f"{request_id}/{index}",
                prompt_tokens=prompt,
                output_tokens=length,
                cached_tokens=prompt * live.config.cached_percent // 100,
                priority=asked.priority,
            )
            self.sequences.append(sequence)
        self.thoughts = [
            sequence.output_tokens * live.config.reasoning_percent // 100
            for sequence in self.sequences
        ]
        self.told = [0] * len(self.sequences)
        self.completion = 0
        self.reasoning = 0
        self.writer = modelled_answers.Writer(
            asked,
            request_id=request_id,
            created=clock.now_micros() // clock.SECOND,
            cached=sum(each.cached_tokens for each in self.sequences[:: asked.choices]),
        )

    @property
    def fits(self) -> bool:
        """Whether every sequence fits into a replica to its end."""
        return all(
            self.live.fits(each.prompt_tokens + each.output_tokens) for each in self.sequences
        )

    async def run(self, receive: Receive, send: Send, *, replica: int | None) -> None:
        """Generate until the end, or until nobody listens."""
        job = self.live.start(
            self.request_id,
            self.sequences,
            prompt=self.asked.prompt_tokens,
            is_stream=self.asked.is_stream,
            replica=replica,
        )
        hung_up = asyncio.ensure_future(_hang_up(receive, job))
        try:
            if self.asked.is_stream:
                await self._stream(send, job, hung_up)
            else:
                await self._gather(send, job, hung_up)
        finally:
            hung_up.cancel()
            self.live.end(
                self.request_id, job, completion=self.completion, reasoning=self.reasoning
            )

    async def _stream(self, send: Send, job: Job, hung_up: asyncio.Future[None]) -> None:
        """Send every token when it is there; what queued up goes as one packet."""
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        is_over = False
        while not is_over and not hung_up.done():
            packet = self._news()
            is_over = job.canceled or not job.pending
            if packet:
                await send({"type": "http.response.body", "body": packet, "more_body": True})
            elif not is_over:
                await job.wait()
        if hung_up.done():
            return
        last = b""
        if job.canceled and job.pending:
            for index in range(len(self.sequences)):
                last += self.writer.ending(index, "abort", self.completion, self.reasoning)
        last += self.writer.closing(self.completion, self.reasoning)
        await send({"type": "http.response.body", "body": last})

    async def _gather(self, send: Send, job: Job, hung_up: asyncio.Future[None]) -> None:
        """Send the whole answer at its end."""
        while job.pending and not job.canceled and not hung_up.done():
            await job.wait()
        self._news()
        if hung_up.done():
            return
        if job.canceled and job.pending:
            await _refuse(send)
            return
        outputs = []
        for sequence, told, thought, why in zip(
            self.sequences, self.told, self.thoughts, self.endings, strict=True
        ):
            words = [modelled_answers.word(sequence.prompt_tokens, n) for n in range(told)]
            outputs.append(("".join(words[:thought]), "".join(words[thought:]), why))
        body = self.writer.whole(outputs, self.completion, self.reasoning)
        await _respond(send, 200, body, _JSON)

    def _news(self) -> bytes:
        """Return the chunks of what was generated since the last call, and count it."""
        parts: list[bytes] = []
        is_stream = self.asked.is_stream
        for index, sequence in enumerate(self.sequences):
            made = self.live.counted(sequence)
            told = self.told[index]
            if made == told:
                continue
            if told == 0 and self.asked.is_chat and is_stream:
                parts.append(self.writer.opening(index))
            for number in range(told, made):
                is_reasoning = number < self.thoughts[index]
                self.completion += 1
                self.reasoning += is_reasoning
                if is_stream:
                    parts.append(
                        self.writer.token(
                            index,
                            modelled_answers.word(sequence.prompt_tokens, number),
                            self.completion,
                            self.reasoning,
                            is_reasoning=is_reasoning,
                        )
                    )
            self.told[index] = made
            if made == sequence.output_tokens and is_stream:
                parts.append(
                    self.writer.ending(index, self.endings[index], self.completion, self.reasoning)
                )
        return b"".join(parts)


async def _hang_up(receive: Receive, job: Job) -> None:
    """Wait until the caller is gone, and wake whoever writes to it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    asyncio.get_running_loop().call_soon(job.wake)


async def _set_fault(live: LiveCluster, receive: Receive, send: Send) -> None:
    share = _decode(await _body(receive)).get("available")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        await _error(send, 400, "available is a number from 0 to 1")
        return
    live.set_available(float(share))
    await _answer(send, 200, {"available": share})


def _decode(body: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


async def _body(receive: Receive) -> bytes:
    """Return the whole body.

    :raises ValueError: when it is too long, or the caller left before its end.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ValueError("the body was not sent to its end")
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise ValueError("the body is too long")
        if not message.get("more_body"):
            return body


async def _refuse(send: Send) -> None:
    """Answer that there is no capacity now."""
    headers = [*_JSON, (b"retry-after", b"%d" % RETRY_AFTER_S)]
    error = {"message": "the cluster has no capacity", "type": "ServiceUnavailable", "code": 503}
    await _respond(send, 503, msgspec.json.encode({"error": error}), headers)


async def _error(send: Send, status: int, message: str) -> None:
    """Answer with an error in the form in which vLLM does."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    await _answer(send, status, {"error": error})


async def _answer(send: Send, status: int, body: object) -> None:
    await _respond(send, status, msgspec.json.encode(body), _JSON)


async def _respond(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


application = ModelServer()
