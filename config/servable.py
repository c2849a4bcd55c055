"""What every one of our servers has: several ASGI applications under one lifespan, and its health.

`Lifespans` starts the parts in order and stops them in the opposite order. `/healthz` says that the
process answers, `/readyz` that it can do its work, and `/metrics` what it has counted.
"""

import asyncio
import gc
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any

import msgspec
import prometheus_client
import valkey.asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from prometheus_client import Counter, Histogram

from marketplace import clock, errors, http
from settlement import doorbell

Message = MutableMapping[str, Any]
Application = Callable[[http.Scope, http.Receive, http.Send], Awaitable[None]]

READY_TIMEOUT_S = 2
PART_STARTS_IN_S = 60
COLLECTED_EVERY = 50_000
"""New objects between two collections; little that a request makes is part of a cycle."""

REQUESTS = Counter(
    "baseload_http_requests", "Requests answered, by part and class of status.", ["part", "status"]
)
SECONDS = Histogram(
    "baseload_http_request_seconds",
    "Time from a request to the end of its answer, by part.",
    ["part"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


class _Part:
    """One application whose lifespan runs in a task of its own."""

    def __init__(self, application: Application, scope: http.Scope) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(application, scope))

    async def _run(self, application: Application, scope: http.Scope) -> None:
        try:
            await application(scope, self._inbox.get, self._outbox.put)
        finally:
            await self._outbox.put({"type": "ended"})

    async def say(self, what: str) -> str:
        """Tell the part to start up or shut down; return why it failed, or nothing."""
        if self._task.done() and what == "shutdown":
            return ""
        await self._inbox.put({"type": f"lifespan.{what}"})
        answer = await self._outbox.get()
        if answer["type"] == "ended":
            error = self._task.exception() if self._task.done() else None
            return f"{type(error).__name__}: {error}" if error else "it has no lifespan"
        return str(answer.get("message", "")) if answer["type"].endswith("failed") else ""


async def lifespan(
    parts: Sequence[Application], scope: http.Scope, receive: http.Receive, send: http.Send
) -> None:
    """Start the parts in order, and stop them in the opposite order when the server stops."""
    started: list[_Part] = []
    while (await receive())["type"] == "lifespan.startup":
        for application in parts:
            part = _Part(application, {"type": "lifespan", "asgi": scope["asgi"], "state": {}})
            async with asyncio.timeout(PART_STARTS_IN_S):
                failure = await part.say("startup")
            if failure:
                await _shutdown(started)
                await send({"type": "lifespan.startup.failed", "message": failure})
                return
            started.append(part)
        _settle()
        await send({"type": "lifespan.startup.complete"})
    await _shutdown(started)
    await send({"type": "lifespan.shutdown.complete"})


def _settle() -> None:
    """Take what was loaded out of the garbage collector's sight: it stays as long as the process.

    Looked through again and again it took a third of a busy process, a tenth of a second at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_EVERY)


async def _shutdown(started: Sequence[_Part]) -> None:
    """Stop the parts, the last one first."""
    for part in reversed(started):
        await part.say("shutdown")


async def guarded(
    name: str,
    application: Application,
    scope: http.Scope,
    receive: http.Receive,
    send: http.Send,
) -> None:
    """Answer a request through `application`, its body within the limit, and count it."""
    began = clock.monotonic_ns()
    status = 0
    body_bytes = 0

    async def limited() -> Message:
        nonlocal body_bytes
        message = await receive()
        body_bytes += len(message.get("body", b""))
        if body_bytes > http.BODY_BYTES_MAX:
            raise http.TooLarge
        return message

    async def counted(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await application(scope, limited, counted)
    except http.TooLarge as refusal:
        if not status:
            await refuse(counted, refusal)
    finally:
        requests, seconds = _counted(name, (status or 500) // 100)
        requests.inc()
        seconds.observe((clock.monotonic_ns() - began) / 1e9)


@cache
def _counted(name: str, status_class: int) -> tuple[Counter, Histogram]:
    """Return where the answers of a part with this class of status are counted."""
    return REQUESTS.labels(name, f"{status_class}xx"), SECONDS.labels(name)


async def refuse(send: http.Send, refusal: errors.Refusal) -> None:
    """Answer with the problem document of a refusal."""
    await http.respond(send, *http.problem(refusal, uuid.uuid4().hex))


async def answer(send: http.Send, status: int, body: object) -> None:
    """Answer with a small JSON document that nobody may keep."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await http.respond(send, status, headers, msgspec.json.encode(body))


async def metrics(send: http.Send, more: bytes = b"") -> None:
    """Answer with everything this process has counted, and with what it was given."""
    headers = [(b"content-type", prometheus_client.CONTENT_TYPE_LATEST.encode())]
    await http.respond(send, 200, headers, prometheus_client.generate_latest() + more)


async def ready(send: http.Send) -> None:
    """Answer whether the database and Valkey do; the engine is told, but pages live without."""
    checks = await _checks()
    able = checks["database"] and checks["valkey"]
    await answer(send, 200 if able else 503, {"ready": able, **checks})


async def _checks() -> Mapping[str, bool]:
    """Return what of the deployment answers within the limit."""
    queue, engine = await _valkey_answers()
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            database = await sync_to_async(_database_answers, thread_sensitive=False)()
    except TimeoutError:
        database = False
    return {"database": database, "valkey": queue, "engine": engine}


async def _valkey_answers() -> tuple[bool, bool]:
    """Return whether Valkey answers, and whether it knows of a live engine."""
    client = valkey.asyncio.Valkey.from_url(
        settings.VALKEY_URL,
        socket_timeout=READY_TIMEOUT_S,
        socket_connect_timeout=READY_TIMEOUT_S,
    )
    try:
        return True, await client.get(doorbell.engine_key()) is not None
    except (valkey.ValkeyError, OSError):
        return False, False
    finally:
        await client.aclose()


def _database_answers() -> bool:
    """Return whether a query is answered."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    finally:
        connection.close()
    return True
