"""The only code that talks to a cluster.

One pooled client, made for streaming: the answer is read as it arrives and no faster than the
caller takes it, because nothing is read ahead of what was passed on. Every wait has a name. When
a caller hangs up, the sending half of the connection is closed: the server sees that nobody
listens and stops generating, and what it had already sent is still read, so that it is counted.

An endpoint a provider names must be allowed: https to a public address, or a host or network
that the deployment lists in `UPSTREAM_ALLOW`. Names are resolved and judged again at every
connection, so that an address cannot be swapped after it was registered.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from marketplace import errors

CONNECT_TIMEOUT_S = 2.0
HEADERS_TIMEOUT_S = 30.0
"""How long an upstream may take to answer at all."""
GAP_TIMEOUT_S = 30.0
"""How long it may stay silent in the middle of a stream."""
ANSWER_TIMEOUT_S = 900.0
"""How long one answer may take in all."""
ABORT_TIMEOUT_S = 0.5
CONNECTIONS_MAX = 2_048
READ_BUFFER_BYTES = 65_536
ERROR_BYTES_MAX = 65_536
EVENT_STREAM, JSON = "text/event-stream", "application/json"
"""Content types of answers."""
MESSAGE_LENGTH_MAX = 500


class EndpointRefused(errors.Refusal):
    """The address of an upstream is not one this deployment may call."""

    code, title = "endpoint_not_allowed", "The endpoint is not allowed"


class UpstreamFailed(Exception):
    """The upstream did not do its part: no answer, a wrong one, or one that broke off.

    `reason` is a short stable word for records and metrics.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UpstreamRefused(Exception):
    """The upstream refused the request itself (4xx): the caller's to mend, nobody's failure."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which addresses may be called."""

    hosts: frozenset[str]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    def host(self, name: str) -> bool:
        """Whether a host is listed by name."""
        return name.lower() in self.hosts

    def address(self, text: str) -> bool:
        """Whether an address is public, or in a listed network."""
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address.version == each.version and address in each for each in self.networks):
            return True
        return address.is_global and not address.is_multicast


def allowed(entries: Iterable[str]) -> Allowed:
    """Return what a list of hosts, addresses and networks allows."""
    hosts, networks = set(), []
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:
            hosts.add(entry.strip().lower())
    return Allowed(frozenset(hosts), tuple(networks))


def check_endpoint(url: str, allow: Allowed) -> str:
    """Return an endpoint in its stored form, without a slash at the end.

    :raises EndpointRefused: when it is not a URL that may be called.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise EndpointRefused("the endpoint is not a URL") from None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise EndpointRefused("the endpoint is an http:// or https:// URL without credentials")
    if parts.query or parts.fragment or port == 0:
        raise EndpointRefused("the endpoint is a base URL, up to and with /v1")
    is_listed = allow.host(host)
    try:
        is_listed = is_listed or any(
            ipaddress.ip_address(host) in network
            for network in allow.networks
            if network.version == ipaddress.ip_address(host).version
        )
        is_public = allow.address(host)
    except ValueError:
        is_public = _is_public_name(host)
    if not is_listed and not (is_public and parts.scheme == "https"):
        raise EndpointRefused("the endpoint is https to a public address, or a listed one")
    return url.rstrip("/")


def is_on_public_web(url: str) -> bool:
    """Whether a URL is https to a name or an address of the public internet, as far as it shows."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != "https" or parts.username or parts.password:
        return False
    try:
        return Allowed(frozenset(), ()).address(host)
    except ValueError:
        return _is_public_name(host)


def _is_public_name(host: str) -> bool:
    """Whether a host that is no address looks like a name of the public internet."""
    last = host.rpartition(".")[2]
    is_local = host.endswith((".local", ".internal", ".localhost"))
    return "." in host and not is_local and not last.startswith(tuple("0123456789"))


class _Resolver(AbstractResolver):
    """Resolves names, and drops the addresses that may not be called."""

    def __init__(self, allow: Allowed) -> None:
        self._inner = ThreadedResolver()
        self._allow = allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._allow.host(host):
            return found
        kept = [each for each in found if self._allow.address(each["host"])]
        if not kept:
            raise OSError(f"{host} has no address that may be called")
        return kept

    async def close(self) -> None:
        await self._inner.close()


class Answer:
    """One upstream's answer while it streams."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def packets(self) -> AsyncIterator[bytes]:
        """Yield what arrives, as it arrives.

        :raises UpstreamFailed: when it breaks off or stays silent.
        """
        content = self._response.content
        try:
            while data := await content.readany():
                yield data
        except TimeoutError:
            raise UpstreamFailed("silent") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamFailed("broken_off") from None

    def stop(self) -> None:
        """Tell the upstream that nobody listens; what it had already sent can still be read."""
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        if transport is not None and transport.can_write_eof():
            transport.write_eof()

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, and up when it was not."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Client:
    """The pooled client of one process."""

    def __init__(self, allow: Sequence[str], local: Sequence[str] = ()) -> None:
        """Take the deployment's allowances; `local` are its own servers, always allowed."""
        self.allow = allowed([*allow, *local])
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool; needs the running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX, resolver=_Resolver(self.allow), ttl_dns_cache=30
            ),
            timeout=aiohttp.ClientTimeout(
                total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=GAP_TIMEOUT_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def open(
        self, endpoint: str, path: str, body: bytes, request_id: str, *, kind: str = EVENT_STREAM
    ) -> Answer:
        """Send a request and return its answer, of this content type, once the headers are there.

        :raises UpstreamRefused: when the upstream refused the request itself.
        :raises UpstreamFailed: when it could not be reached, or failed.
        """
        assert self._session is not None, "the client was started"
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        try:
            async with asyncio.timeout(HEADERS_TIMEOUT_S):
                response = await self._session.post(
                    f"{endpoint}/{path}", data=body, headers=headers, allow_redirects=False
                )
        except TimeoutError:
            raise UpstreamFailed("no_answer") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise UpstreamFailed("unreachable") from None
        if response.status == 200:
            if response.content_type != kind:
                response.close()
                raise UpstreamFailed("not_a_stream" if kind == EVENT_STREAM else "not_json")
            return Answer(response)
        try:
            error = await response.content.read(ERROR_BYTES_MAX)
        except (TimeoutError, aiohttp.ClientError, OSError):
            error = b""
        response.close()
        if response.status in (400, 413, 422):
            raise UpstreamRefused(response.status, error)
        raise UpstreamFailed(f"status_{response.status}")

    async def abort(self, endpoint: str, request_id: str) -> bool:
        """Ask a modelled cluster to end a request where it is; return whether it ran there.

        :raises UpstreamFailed: when it did not answer.
        """
        assert self._session is not None, "the client was started"
        url = f"{endpoint.removesuffix('/v1')}/abort_requests"
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                async with self._session.post(url, json={"request_ids": [request_id]}) as response:
                    answer = await response.json()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            raise UpstreamFailed("unreachable") from None
        return isinstance(answer, dict) and request_id in answer.get("aborted", ())


def message_of(body: bytes) -> str:
    """Return the message of an error body, as OpenAI-compatible servers have it; empty if none."""
    try:
        error = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if isinstance(error, dict):
        inner = error.get("error", error)
        message = inner.get("message") if isinstance(inner, dict) else None
        if isinstance(message, str):
            return message[:MESSAGE_LENGTH_MAX]
    return ""
