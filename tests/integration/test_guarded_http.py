"""The HTTP of our servers, over real sockets: what is malformed, too large or too slow ends."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from config import guarded_http
from config.guarded_http import GuardedHttp

seen: list[str] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    seen.append(scope["path"])
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def serving(limit: int | None = None) -> Iterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http=GuardedHttp, lifespan="off", log_config=None, limit_concurrency=limit
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as number:
        yield number


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def talk(port: int, *parts: bytes) -> bytes:
    """Return all that the server says until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
        said = b""
        with contextlib.suppress(ConnectionResetError):  # it was sending still
            while chunk := connection.recv(65_536):
                said += chunk
        return said


def get(path: str, *headers: bytes, close: bool = True) -> bytes:
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *headers]
    lines += [b"Connection: close"] if close else []
    return b"\r\n".join([*lines, b"", b""])


def padding(count: int, size: int) -> list[bytes]:
    return [b"X-%d: %b" % (number, b"y" * size) for number in range(count)]


def test_an_honest_request_is_answered_on_a_connection_that_serves_the_next(port: int) -> None:
    said = talk(port, get("/one", close=False), get("/two"))
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert seen == ["/one", "/two"]


@pytest.mark.parametrize("headers", [padding(101, 1), padding(1, 33_000), padding(9, 4_000)])
def test_headers_beyond_the_limits_are_refused_before_any_application(
    port: int, headers: list[bytes]
) -> None:
    said = talk(port, get("/large", *headers))
    head, body = said.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert json.loads(body)["code"] == "headers_too_large"
    assert seen == []


def test_a_request_beyond_the_limit_of_connections_is_told_when_to_come_again() -> None:
    with serving(limit=3) as port, contextlib.ExitStack() as others:
        for _ in range(2):
            idle = others.enter_context(socket.create_connection(("127.0.0.1", port)))
            idle.sendall(b"GET /idle HTTP/1.1\r\n")
        head, body = talk(port, get("/one")).split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in head
        assert json.loads(body)["code"] == "too_many_connections"
        assert seen == []


def test_headers_that_never_end_are_cut_off(port: int) -> None:
    began = time.monotonic()
    said = talk(port, b"GET /endless HTTP/1.1\r\nX: ", *[b"y" * 65_536] * 32)
    assert said[:13] in (b"", b"HTTP/1.1 431 ")
    assert time.monotonic() - began < guarded_http.HEADERS_WITHIN_S / 2
    assert seen == []


def test_a_hundred_large_headers_reach_no_application(port: int) -> None:
    said = talk(port, get("/large", *padding(100, 8_192)))
    assert said[:13] in (b"", b"HTTP/1.1 431 ")
    assert seen == []


@pytest.mark.parametrize(
    "request_head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"X: a\r\n b",
        b"X: a\0b",
        b"X: a\nY: b",
    ],
)
def test_an_ambiguous_request_ends_its_connection_and_hides_no_other(
    port: int, request_head: bytes
) -> None:
    hidden = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lines = b"POST /ambiguous HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % request_head
    assert talk(port, lines + hidden).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert "/hidden" not in seen


def test_headers_that_come_too_slowly_are_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "HEADERS_WITHIN_S", 0.2)
    assert talk(port, b"GET /slow HTTP/1.1\r\nHost: ").startswith(b"HTTP/1.1 408 Request Timeout")
    assert talk(port).startswith(b"HTTP/1.1 408 Request Timeout")
    assert seen == []


def test_a_body_that_comes_too_slowly_ends_its_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "BODY_WITHIN_S", 0.2)
    head = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    assert talk(port, head, b"12345") == b""
    assert seen == ["/slow"]
