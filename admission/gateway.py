"""The gateway: an OpenAI-compatible data plane as a raw ASGI application, in a process of its own.

    POST /v1/chat/completions, /v1/completions, /v1/embeddings    GET /v1/models, /v1/models/{id}
    GET /healthz, /readyz, /metrics               POST /probe (the deployment's own probes)

A request is authenticated from the key snapshot, judged by the scheduler of a cluster, recorded,
streamed and metered; Django and its ORM are not on that path. Beside it one task keeps the
gateway's picture of the market: about once a second, and before the first decision after the
clock was advanced, it renews the lease on the schedulers, reads the snapshot, leaves a heartbeat
for the interval and live numbers in Valkey. A gateway that is not the holder of the lease,
cannot read its keys or cannot record usage serves nothing: it never fails open (RULEBOOK 7.9,
8.1).
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import prometheus_client

from admission import custody, dialect, metering, notary, observation, telemetry, upstream, wishes
from admission.decisions import Overflow, ServiceClass
from admission.desk import Desk
from admission.flight import Ask
from admission.levels import Window
from admission.pools import Pools
from admission.reserves import Reserves
from admission.snapshot import Cluster, Grade, Hours
from marketplace import clock, contract, errors, http, keys

BODY_BYTES_MAX = 8_388_608
POLL_S = 1.0
PROBE_ORGANIZATION = 0
"""Who probes: nobody that can hold an account."""
PROBE_LOTS = 60
"""What probes may use of every cluster; it is sold to nobody."""
PROBE_OUTPUT_TOKENS = 8
PROBE_PROMPTS = (
    "Summarize the minutes of the last meeting in two sentences.",
    "Which of these invoices is overdue, and since when?",
    "Rewrite this paragraph so that a child understands it.",
    "List three risks of the plan below, the gravest first.",
)
REQUESTS_PER_MINUTE = {"P0": 10_000, "P1": 10_000, "P2": 5_000, "P3": 500}
"""Per key and class (RULEBOOK 7.13)."""
REMEMBERED_KEYS_MAX = 100_000
HOLDS_AT_ONCE_MAX = 4
"""Threads that wait for the engine to hold cash; beside them one reads the snapshot."""
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_STORE = (b"cache-control", b"no-store")

REQUESTS = prometheus_client.Counter(
    "baseload_gateway_requests", "Requests answered, by path and status.", ["path", "status"]
)
LATENCY = prometheus_client.Histogram(
    "baseload_gateway_request_seconds",
    "Time from a request's arrival to the end of its answer.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
log = logging.getLogger(__name__)


class NotReady(errors.Unavailable):
    """The gateway is starting, stopping, or lost something it cannot serve without."""

    code, title = "not_ready", "The gateway is not ready"


class MinuteLimits:
    """So many requests a minute of each key in each class; exact within this process."""

    def __init__(self) -> None:
        self._spent: dict[tuple[str, str], tuple[int, int]] = {}

    def take(self, key: str, service_class: str) -> list[tuple[bytes, bytes]]:
        """Count a request and return the headers that say what is left.

        :raises Refused: when the minute's requests are used up.
        """
        limit = REQUESTS_PER_MINUTE[service_class]
        now_ms = clock.monotonic_ns() // 1_000_000
        at_ms, spent = self._spent.get((key, service_class), (now_ms, 0))
        if now_ms - at_ms >= 60_000:
            at_ms, spent = now_ms, 0
        reset_ms = 60_000 - (now_ms - at_ms)
        if spent >= limit:
            raise dialect.Refused(
                f"At most {limit} requests a minute in class {service_class}.",
                code="rate_limit_exceeded",
                status=429,
                retry_after_s=-(-reset_ms // 1_000),
            )
        if len(self._spent) >= REMEMBERED_KEYS_MAX:
            self._spent.clear()
        self._spent[key, service_class] = at_ms, spent + 1
        return [
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", b"%d" % (limit - spent - 1)),
            (b"x-ratelimit-reset-requests", b"%dms" % reset_ms),
        ]


class Caller:
    """Passes an answer on to whoever asked over HTTP."""

    def __init__(
        self, send: http.Send, *, is_stream: bool, headers: list[tuple[bytes, bytes]]
    ) -> None:
        self._send = send
        self._is_stream = is_stream
        self._extra = headers
        self._headers: list[tuple[bytes, bytes]] = []
        self.is_started = False

    async def start(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin the answer; one that is not streamed begins when its length is known."""
        self.is_started = True
        kind = _EVENTS if self._is_stream else _JSON
        self._headers = [kind, _NO_STORE, *headers, *self._extra]
        if self._is_stream:
            await self._start()

    async def _start(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def write(self, data: bytes) -> None:
        """Pass some of a stream on."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """Pass the last of it on."""
        if not self._is_stream:
            self._headers.append((b"content-length", b"%d" % len(data)))
            await self._start()
        await self._send({"type": "http.response.body", "body": data})


class Probing:
    """Takes a probe's answer in and keeps whether there was one."""

    def __init__(self) -> None:
        self.is_started = False
        self.has_output = False

    async def start(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Note that the answer begins."""
        self.is_started = True

    async def write(self, data: bytes) -> None:
        """Note that something came."""
        self.has_output = self.has_output or bool(data)

    async def end(self, data: bytes) -> None:
        """Note whether it ended as an answer ends."""
        self.has_output = data.endswith(b"[DONE]\n\n")


class Gateway:
    """The ASGI application."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()[:24]}-{os.getpid()}"
        self.pools = Pools()
        self.pools.add_synthetic(_probe_windows)
        self.limits = MinuteLimits()
        self.is_leading = False
        self._ring: keys.KeyRing | None = None
        self._desk: Desk | None = None
        self._observer: observation.Observer | None = None
        # Apart, so that an engine that does not answer cannot keep the gateway from looking.
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._hands = ThreadPoolExecutor(HOLDS_AT_ONCE_MAX, thread_name_prefix="hold")
        self._poller: asyncio.Task[None] | None = None
        self._offset = 0
        self._refreshing: asyncio.Future[None] | None = None
        self._probe_token = b""
        self._probes = 0

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4404})

    # Life

    async def _live(self, receive: http.Receive, send: http.Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            try:
                await self.start()
            except (errors.Refusal, OSError, observation.DatabaseError) as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Connect to everything, and begin to keep the picture of the market."""
        from django.conf import settings

        local = ("127.0.0.0/8", "::1/128") if settings.IS_DEMO else ()
        loop = asyncio.get_running_loop()
        key = await loop.run_in_executor(self._eyes, custody.new_key, self.name)
        writer = metering.Writer(
            metering.connection_parameters(), notary.Notary(key, pool_name=self._pool_name)
        )
        client = upstream.Client(settings.UPSTREAM_ALLOW, (*local, *observation.own_hosts()))
        await writer.start()
        await client.start()
        self._ring = await loop.run_in_executor(self._eyes, keys.shared_ring)
        self._observer = observation.Observer(self.name)
        reserves = Reserves(self._hold_cash)
        self._desk = Desk(
            pools=self.pools, reserves=reserves, writer=writer, client=client, gateway=self.name
        )
        self._probe_token = observation.probe_token().encode()
        await self.refresh()
        self._poller = asyncio.create_task(self._poll(), name="gateway poll")

    async def stop(self) -> None:
        """Write what is left, and let the schedulers go."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        self.is_leading = False
        if self._desk is not None:
            await self._desk.reserves.close()
            await self._desk.writer.close()
            await self._desk.client.close()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._eyes, custody.end_gateway, self.name)
        self.pools.close()
        if self._observer is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._eyes, self._observer.close)
        self._eyes.shutdown(wait=False)
        self._hands.shutdown(wait=False)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Bring the picture of the market up to date; those who ask meanwhile wait for the same."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, _: "asyncio.Future[None]") -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        assert self._observer is not None, "the gateway was started"
        loop = asyncio.get_running_loop()
        offset = clock.offset_micros()
        try:
            seen = await loop.run_in_executor(self._eyes, self._observer.look)
        except observation.DatabaseError as error:
            log.warning("the market could not be read: %s", type(error).__name__)
            self.is_leading = False
            return
        self.is_leading = seen.is_leading
        self.pools.take(seen.snapshot)
        self._offset = offset
        await loop.run_in_executor(
            self._eyes, self._observer.publish, observation.live_of(self.pools, self.name)
        )

    def _pool_name(self, cluster: int) -> str:
        """Return what a cluster is known by to everybody."""
        pool = self.pools.pools.get(cluster)
        return "" if pool is None else pool.cluster.public_id

    async def _hold_cash(self, organization: int, grade: str, hour: int, amount: int) -> bool:
        """Ask the machine to hold cash for pay-as-you-go tokens."""
        assert self._observer is not None, "the gateway was started"
        return await asyncio.get_running_loop().run_in_executor(
            self._hands, self._observer.hold_cash, organization, grade, hour, amount
        )

    # Requests

    async def _http(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Answer a request, and count it."""
        path: str = scope["path"]
        status = 200
        began_ns = clock.monotonic_ns()
        decided: list[str] = []
        try:
            match scope["method"], path:
                case "POST", "/v1/chat/completions":
                    await self._complete(scope, receive, send, dialect.CHAT, decided)
                case "POST", "/v1/completions":
                    await self._complete(scope, receive, send, dialect.COMPLETIONS, decided)
                case "POST", "/v1/embeddings":
                    await self._complete(scope, receive, send, dialect.EMBEDDINGS, decided)
                case "GET", "/v1/models":
                    await self._models(scope, send)
                case "GET", _ if path.startswith("/v1/models/"):
                    await self._model(scope, send, path.removeprefix("/v1/models/"))
                case "POST", "/probe":
                    await self._probe(scope, receive, send)
                case "GET", "/healthz":
                    await http.respond(send, 200, [_JSON, _NO_STORE], b'{"healthy":true}')
                case "GET", "/readyz":
                    await self._ready(send)
                case "GET", "/metrics":
                    kind = (b"content-type", prometheus_client.CONTENT_TYPE_LATEST.encode())
                    await http.respond(send, 200, [kind], telemetry.text(self.pools))
                case _:
                    raise dialect.Refused(
                        f"Unknown request URL: {scope['method']} {path[:200]}",
                        code="unknown_url",
                        status=404,
                    )
        except http.Disconnected:
            status = 499
        except errors.Refusal as refusal:
            status = refusal.status
            await _refuse(send, refusal, decided)
        except asyncio.CancelledError:
            status = 499
        finally:
            if path.startswith("/v1/"):
                REQUESTS.labels(_path_label(path), status).inc()
                LATENCY.observe((clock.monotonic_ns() - began_ns) / 1e9)

    async def _complete(
        self,
        scope: http.Scope,
        receive: http.Receive,
        send: http.Send,
        path: str,
        decided: list[str],
    ) -> None:
        """Serve a completion or embeddings, noting in `decided` which decisions have receipts."""
        arrived_ns = clock.monotonic_ns()
        body = await http.read_body(receive, BODY_BYTES_MAX)
        key = await self._authenticate(scope, body)
        desk = await self._serving()
        call = dialect.parse(path, body)
        grade = self.pools.snapshot.grade(call.model)
        if grade is None:
            raise _unknown_model(call.model)
        service_class = wishes.class_of(http.header(scope, b"x-baseload-class"), call, key)
        limits = self.limits.take(key.id, service_class.name)
        substitutes = wishes.substitutes_of(
            http.header(scope, b"x-baseload-substitutes"), grade, self.pools.snapshot
        )
        ask = self._ask(
            organization=key.organization,
            key_id=key.id,
            grade=grade,
            call=call,
            service_class=service_class,
            overflow=wishes.overflow_of(http.header(scope, b"x-baseload-overflow"), key),
            body=body,
            arrived_ns=arrived_ns,
            is_retry=wishes.is_retry(http.header(scope, b"x-stainless-retry-count")),
            nonce=wishes.nonce_of(http.header(scope, b"x-baseload-nonce")),
            decided=decided,
        )
        caller = Caller(send, is_stream=call.is_stream, headers=limits)
        task = asyncio.current_task()
        assert task is not None, "a request is served in a task"
        watch = asyncio.ensure_future(_cancel_on_hang_up(receive, task))
        try:
            await desk.serve_any(ask, substitutes, caller)
        finally:
            watch.cancel()

    def _ask(
        self,
        *,
        organization: int,
        key_id: str,
        grade: Grade,
        call: dialect.Call,
        service_class: ServiceClass,
        overflow: Overflow,
        body: bytes,
        arrived_ns: int,
        only_pool: int = 0,
        is_retry: bool = False,
        nonce: str = "",
        decided: list[str] | None = None,
    ) -> Ask:
        """Return a request as the desk takes it in.

        :raises Refused: when it asks for more than the grade gives.
        """
        assert self._desk is not None, "the gateway was started"
        prompt_tokens, limit = self._desk.tokens(organization, grade, call)
        return Ask(
            organization=organization,
            key=key_id,
            grade=grade,
            call=call,
            service_class=service_class,
            overflow=overflow,
            body_digest=hashlib.blake2b(body, digest_size=16).hexdigest(),
            prompt_tokens=prompt_tokens,
            output_tokens_max=limit,
            arrived_at=clock.now_micros(),
            arrived_ns=arrived_ns,
            is_probe=bool(only_pool),
            only_pool=only_pool,
            is_retry=is_retry,
            nonce=nonce,
            decided=[] if decided is None else decided,
        )

    async def _authenticate(self, scope: http.Scope, body: bytes) -> keys.Key:
        """Return the key of a request that may use the gateway.

        :raises Refusal: when there is none.
        """
        if self._ring is None:
            raise NotReady(retry_after_s=1)
        key = await self._ring.authenticate_async(
            http.header(scope, b"authorization"),
            address=http.peer(scope),
            method=scope["method"],
            target=http.target(scope),
            body=body,
            headers=scope["headers"],
        )
        key.require("gateway")
        return key

    async def _serving(self) -> Desk:
        """Return the desk, with a picture of the market that knows of the clock's last jump.

        :raises NotReady: when the gateway may not serve now.
        """
        if clock.offset_micros() != self._offset:
            await self.refresh()
        if not self.is_leading or self._desk is None:
            raise NotReady(retry_after_s=1)
        if not self._desk.writer.available:
            raise metering.MeteringUnavailable(retry_after_s=1)
        return self._desk

    async def _models(self, scope: http.Scope, send: http.Send) -> None:
        await self._authenticate(scope, b"")
        grades = self.pools.snapshot.grades.values()
        body = {"object": "list", "data": [_model_of(grade) for grade in grades]}
        await http.respond(send, 200, [_JSON, _NO_STORE], msgspec.json.encode(body))

    async def _model(self, scope: http.Scope, send: http.Send, name: str) -> None:
        await self._authenticate(scope, b"")
        grade = self.pools.snapshot.grade(name)
        if grade is None:
            raise _unknown_model(name)
        await http.respond(send, 200, [_JSON, _NO_STORE], msgspec.json.encode(_model_of(grade)))

    async def _ready(self, send: http.Send) -> None:
        checks = {
            "keys": self._ring is not None and self._ring.is_ready(),
            "metering": self._desk is not None and self._desk.writer.available,
            "schedulers": self.is_leading,
        }
        able = all(checks.values())
        body = msgspec.json.encode({"ready": able, **checks})
        await http.respond(send, 200 if able else 503, [_JSON, _NO_STORE], body)

    async def _probe(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Send one synthetic request through a cluster, as traffic goes, and say how it went."""
        token = http.header(scope, b"authorization").encode("latin-1")
        if not hmac.compare_digest(token, b"Bearer " + self._probe_token):
            raise errors.Unauthenticated("the probe's token is wrong")
        fields = http.decode(await http.read_body(receive, 1_024), _probe_decoder)
        desk = await self._serving()
        cluster = fields.get("cluster", 0)
        if cluster not in self.pools.pools:
            await self.refresh()
        pool = self.pools.pools.get(cluster)
        if pool is None:
            raise errors.NotFound("no such cluster")
        self._probes += 1
        prompt = PROBE_PROMPTS[self._probes % len(PROBE_PROMPTS)]
        body = msgspec.json.encode(
            {
                "model": pool.cluster.grade,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": PROBE_OUTPUT_TOKENS,
                "stream": True,
            }
        )
        ask = self._ask(
            organization=PROBE_ORGANIZATION,
            key_id="probe",
            grade=self.pools.snapshot.grades[pool.cluster.grade],
            call=dialect.parse(dialect.CHAT, body),
            service_class=ServiceClass.P2,
            overflow=Overflow.SPILL,
            body=body,
            arrived_ns=clock.monotonic_ns(),
            only_pool=pool.cluster.id,
        )
        out = Probing()
        reason = ""
        try:
            await desk.serve(ask, out)
        except errors.Refusal as refusal:
            reason = refusal.code
        answer = {"passed": out.has_output and not reason, "reason": reason}
        await http.respond(send, 200, [_JSON, _NO_STORE], msgspec.json.encode(answer))


async def _cancel_on_hang_up(receive: http.Receive, task: "asyncio.Task[Any]") -> None:
    """Cancel a request whose caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _refuse(send: http.Send, refusal: errors.Refusal, decided: list[str]) -> None:
    """Answer with a refusal in OpenAI's form, and name the receipt of the last decision."""
    headers = [_JSON, _NO_STORE]
    if decided:
        headers.append((b"x-baseload-receipt", decided[-1].encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after_s = refusal.retry_after_s
    if retry_after_s is None and refusal.status in (429, 503) and refusal.code != _NO_MONEY:
        retry_after_s = 1
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % retry_after_s))
    with contextlib.suppress(OSError):
        await http.respond(send, refusal.status, headers, dialect.error_body(refusal))


def _unknown_model(name: str) -> dialect.Refused:
    shown = name[:80].encode("ascii", "backslashreplace").decode()
    return dialect.Refused(
        f"The model `{shown}` does not exist.", code="model_not_found", status=404, param="model"
    )


def _model_of(grade: Grade) -> dict[str, Any]:
    return {
        "id": grade.code,
        "object": "model",
        "created": grade.created_at // clock.SECOND,
        "owned_by": "baseload",
    }


def _path_label(path: str) -> str:
    """Return a path as a metric's label, of which there are few."""
    for known in ("chat/completions", "completions", "embeddings", "models"):
        if path.startswith(f"/v1/{known}"):
            return known
    return "other"


def _probe_windows(cluster: Cluster) -> dict[int, Hours]:
    """Return the hours of the probes: a few lots of every cluster, at all times."""
    window = Window(starts_at=0, ends_at=100 * 366 * contract.DAY, lots=PROBE_LOTS)
    return {PROBE_ORGANIZATION: {ServiceClass.P2: (window,)}} if cluster.endpoint else {}


_NO_MONEY = "insufficient_quota"
_probe_decoder = msgspec.json.Decoder(dict[str, int])
application = Gateway()
