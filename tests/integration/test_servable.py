"""The dispatcher's own rules, with small applications behind it."""

import asyncio
import json
from typing import Any

import pytest

from config import servable
from marketplace import http


def scope(**changed: Any) -> dict[str, Any]:
    return {
        "type": "http", "method": "POST", "path": "/x", "headers": [], "asgi": {"version": "3.0"},
    } | changed  # fmt: skip


def serve(application: servable.Application, request: dict[str, Any], *body: bytes) -> list[Any]:
    """Return what an application behind the guard sends for a request in parts."""
    parts = [
        {"type": "http.request", "body": part, "more_body": number < len(body)}
        for number, part in enumerate(body, 1)
    ] or [{"type": "http.request", "body": b""}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(servable.guarded("test", application, request, receive, send))
    return sent


async def echo_length(scope: Any, receive: Any, send: Any) -> None:
    length = 0
    while True:
        message = await receive()
        length += len(message["body"])
        if not message.get("more_body"):
            break
    await http.respond(send, 200, [], str(length).encode())


def code(sent: list[Any]) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["code"]


def test_a_request_within_the_limits_reaches_its_application() -> None:
    sent = serve(echo_length, scope(), b"ab", b"c")
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"3")


def test_a_body_in_parts_is_cut_off_at_the_limit() -> None:
    half = b"x" * (http.BODY_BYTES_MAX // 2)
    assert serve(echo_length, scope(), half, half)[0]["status"] == 200
    assert code(serve(echo_length, scope(), half, half, b"x")) == (413, "too_large")


class Part:
    """An application that writes down what its lifespan was told."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails = name, log, fails

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        while True:
            what = (await receive())["type"].removeprefix("lifespan.")
            self.log.append(f"{self.name} {what}")
            if self.fails:
                await send({"type": f"lifespan.{what}.failed", "message": "no database"})
                return
            await send({"type": f"lifespan.{what}.complete"})
            if what == "shutdown":
                return


def live(*parts: servable.Application) -> list[Any]:
    """Return what the lifespan of several parts says over a start and a stop."""
    inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return inbox.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(servable.lifespan(parts, scope(type="lifespan"), receive, send))
    return sent


def test_parts_start_in_order_and_stop_in_the_opposite_order() -> None:
    log: list[str] = []
    sent = live(Part("entry", log), Part("stream", log))
    assert [one["type"] for one in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert log == ["entry startup", "stream startup", "stream shutdown", "entry shutdown"]


def test_a_part_that_cannot_start_stops_those_before_it() -> None:
    log: list[str] = []
    sent = live(Part("entry", log), Part("stream", log, fails=True))
    assert sent == [{"type": "lifespan.startup.failed", "message": "no database"}]
    assert log == ["entry startup", "stream startup", "entry shutdown"]


def test_a_part_that_dies_at_its_start_says_why() -> None:
    async def dies(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no Valkey")

    sent = live(dies)
    assert sent == [{"type": "lifespan.startup.failed", "message": "RuntimeError: no Valkey"}]


@pytest.mark.django_db
def test_readiness_tells_what_answers(valkey: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(servable.ready(send))
    assert json.loads(sent[1]["body"]) == {
        "ready": True,
        "database": True,
        "valkey": True,
        "engine": False,
    }
