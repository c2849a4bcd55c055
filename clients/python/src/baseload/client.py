"""`Client` and `AsyncClient`: the API over HTTP, blocking or on an event loop.

Both carry out what `baseload.conversation` decides and have the methods that `baseload.api`
describes. A client keeps its connections; close it, or use it in a `with`. `Client` may be shared
between threads, `AsyncClient` between the tasks of one loop.
"""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import httpx2

from baseload import errors
from baseload.api import Api
from baseload.calls import AsyncCaller, Call, SyncCaller
from baseload.conversation import Attempt, Failure, Heard, Pause, Policy, Reply, converse
from baseload.signing import Signer

T = TypeVar("T")

API_PATH = "/api/v1/"
USER_AGENT = "baseload-python/0.1"
CONNECTIONS_MAX = 100
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class _Requests:
    """Makes requests of calls, and of what came of them what a conversation understands."""

    def __init__(self, url: str, key: str, signer: Signer | None) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.signer = signer

    def request(self, attempt: Attempt) -> httpx2.Request:
        """Return the request of one attempt; every attempt is signed anew."""
        call = attempt.call
        query = urlencode(call.query, quote_via=quote)
        url = f"{self.url}{API_PATH}{call.path}" + (f"?{query}" if query else "")
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.is_idempotency_header:
            headers["Idempotency-Key"] = call.id
        timeout = httpx2.Timeout(attempt.timeout_s).as_dict()
        request = httpx2.Request(
            call.method, url, headers=headers, content=call.body, extensions={"timeout": timeout}
        )
        if self.signer is not None:
            target = request.url.raw_path.decode("ascii")
            request.headers.update(self.signer.headers(call.method, target, call.body or b""))
        return request

    def failure(self, error: httpx2.RequestError) -> Failure:
        """Return what an exception of the transport means."""
        kind = errors.TimedOut if isinstance(error, httpx2.TimeoutException) else None
        said = str(error) or type(error).__name__
        return Failure(
            error=(kind or errors.TransportError)(f"{self.url}: {said}"),
            was_sent=not isinstance(error, _NEVER_SENT),
        )

    def too_late(self, attempt: Attempt) -> Failure:
        """Return what it means that the whole answer was not there in time."""
        late = errors.TimedOut(f"{self.url}: no answer in {attempt.timeout_s:g} s")
        return Failure(error=late, was_sent=True)


def _reply(response: httpx2.Response, body: bytes) -> Reply:
    return Reply(status=response.status_code, headers=response.headers, body=body)


class Client(Api, SyncCaller):
    """The exchange, for programs that wait.

    `url` is the exchange's origin; `key` is needed for all but the market's own data; `signer`
    where the key is bound to a public key.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        signer: Signer | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.requests = _Requests(url, key, signer)
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX)
        self._http = httpx2.Client(limits=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def perform(self, call: Call[T]) -> T:
        """Send a call and return what it came to.

        :raises BaseloadError: when it is no result.
        """
        steps = converse(call, self.policy, time.monotonic)
        heard: Heard = None
        try:
            while True:
                match steps.send(heard):
                    case Pause(seconds=seconds):
                        time.sleep(seconds)
                        heard = None
                    case Attempt() as attempt:
                        heard = self._attempt(attempt)
        except StopIteration as end:
            result: T = end.value
            return result

    def _attempt(self, attempt: Attempt) -> Heard:
        """Send once; an answer that comes in drops has no more time than another."""
        deadline = time.monotonic() + attempt.timeout_s
        parts = []
        try:
            response = self._http.send(self.requests.request(attempt), stream=True)
            with contextlib.closing(response):
                for part in response.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > deadline:
                        return self.requests.too_late(attempt)
                return _reply(response, b"".join(parts))
        except httpx2.RequestError as error:
            return self.requests.failure(error)


class AsyncClient(Api, AsyncCaller):
    """The exchange, for programs on an event loop; as `Client`, but awaited."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        signer: Signer | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.requests = _Requests(url, key, signer)
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX)
        self._http = httpx2.AsyncClient(limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def perform(self, call: Call[T]) -> T:
        """Send a call and return what it came to.

        :raises BaseloadError: when it is no result.
        """
        steps = converse(call, self.policy, time.monotonic)
        heard: Heard = None
        try:
            while True:
                match steps.send(heard):
                    case Pause(seconds=seconds):
                        await asyncio.sleep(seconds)
                        heard = None
                    case Attempt() as attempt:
                        heard = await self._attempt(attempt)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _attempt(self, attempt: Attempt) -> Heard:
        try:
            async with asyncio.timeout(attempt.timeout_s):
                response = await self._http.send(self.requests.request(attempt))
                return _reply(response, response.content)
        except TimeoutError:
            return self.requests.too_late(attempt)
        except httpx2.RequestError as error:
            return self.requests.failure(error)
