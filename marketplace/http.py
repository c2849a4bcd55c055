"""The strict rules of every door: JSON, text, problem documents, paging and limits.

Order entry, the WebSocket, the gateway and Django all come through here, so that a body refused at
one door is refused at all of them, in the same words. The module knows nothing of Django: two of
its users are raw ASGI applications on the hot path.

JSON is decoded into a msgspec type, which refuses unknown fields, wrong types, `NaN` and numbers
that do not fit. What msgspec would let pass is refused before it is asked: equal keys in one
object, deep nesting, and bytes that are not UTF-8. A refusal names the field where one is to blame.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from marketplace import clock, errors

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BODY_BYTES_MAX = 1_048_576
NESTING_MAX = 32
SYNTAX_HINT_BYTES_MAX = 2_048
IDEMPOTENCY_KEY_LENGTH_MAX = 255
REQUEST_ID_LENGTH_MAX = 64
LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
CURSOR_LENGTH_MAX = 512

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

# Run only over valid JSON, where every string ends: no body makes it start over.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(?:\s*+:)?', re.DOTALL)
_KEY = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+:', re.DOTALL)
_KEY_END = re.compile(rb'"\s*+:')
_BYTE = re.compile(r"\(byte (\d+)\)")
_PATH = re.compile(r" - at `(?:key in )?\$?\.?([^`]*)`\Z")
_NAMED = re.compile(r"(unknown|missing required) field `([^`]*)`")
_PRINTABLE = re.compile(r"[\x20-\x7e]+\Z")


# Strict JSON


def decode(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Return the value of a body, decoded strictly.

    :raises Malformed: naming the field where one is to blame.
    """
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(f"a body has at most {BODY_BYTES_MAX} bytes")
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except UnicodeDecodeError:
        raise malformed("", "invalid_utf8", "the body is not UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _syntax(body, str(error)) from None
    _refuse_equal_keys(body)
    if b"\\u0000" in body:
        _refuse_nul(_any.decode(body), "")
    return value


def convert(value: object, kind: type[T]) -> T:
    """Return a value that is already decoded, such as query parameters, as a `kind`.

    :raises Malformed: naming the field.
    """
    _refuse_nul(value, "")
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def encode(value: object) -> bytes:
    """Return the JSON of an answer."""
    return _encoder.encode(value)


def malformed(field: str, code: str, detail: str) -> errors.Malformed:
    """Return the refusal of a request, blaming `field` unless that is empty."""
    blamed = [errors.FieldError(field=field, code=code)] if field else []
    return errors.Malformed(detail, errors=blamed)


class TooLarge(errors.Malformed):
    """The body, a header or a text is longer than its limit."""

    code, status, title = "too_large", 413, "Request too large"


class UnsupportedMediaType(errors.Malformed):
    """The body is not JSON."""

    code, status, title = "unsupported_media_type", 415, "The body must be application/json"


class MethodNotAllowed(errors.Malformed):
    """The path exists, for other methods."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


def _refuse_equal_keys(body: bytes) -> None:
    """Look for two equal keys in one object, and for deep nesting, in a body that is valid JSON.

    A key is a string before a colon, so one pass of a regular expression counts the keys that were
    sent; what the decoder kept of them is fewer when two were equal. In a flat object without
    escapes, which is what an order is, there are no more keys than quotes before a colon.

    :raises Malformed: naming the key.
    """
    value = _any.decode(body)
    is_flat = body.count(b"{") + body.count(b"[") <= 1 and b"\\" not in body
    if is_flat and isinstance(value, dict) and len(value) == len(_KEY_END.findall(body)):
        return
    keys = [found for found in _STRING.findall(body) if found.endswith(b":")]
    if _count_keys(value, 1) == len(keys):
        return
    json.loads(body, object_pairs_hook=_refuse_equal_pair)


def _count_keys(value: object, depth: int) -> int:
    """Return how many keys the objects of a decoded value have in all."""
    if depth > NESTING_MAX:
        raise _too_deep()
    if isinstance(value, dict):
        below = sum(_count_keys(each, depth + 1) for each in value.values())
        return len(value) + below
    if isinstance(value, list):
        return sum(_count_keys(each, depth + 1) for each in value)
    return 0


def _refuse_equal_pair(pairs: list[tuple[str, object]]) -> None:
    """:raises Malformed: naming the key that one object has twice."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise malformed(
                _shown(key) or '""', "duplicate_key", "a key appears twice in one object"
            )
        seen.add(key)


def _refuse_nul(value: object, field: str) -> None:
    """Look for a text with the character NUL, which no row of the database can hold.

    :raises Malformed: naming the field.
    """
    if isinstance(value, str) and "\0" in value:
        raise malformed(_shown(field), "invalid_text", "a text may not have the character NUL")
    if isinstance(value, dict):
        for key, each in value.items():
            _refuse_nul(key, field)
            _refuse_nul(each, f"{field}.{key}".strip("."))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            _refuse_nul(each, f"{field}[{i}]")


def _too_deep() -> errors.Malformed:
    return errors.Malformed(f"the body is nested deeper than {NESTING_MAX} levels")


def _invalid(message: str) -> errors.Malformed:
    """Translate msgspec's message: `Expected `int`, got `str` - at `$.quantity``."""
    path = _PATH.search(message)
    field = path[1] if path else ""
    text = message[: path.start()] if path else message
    named = _NAMED.search(text)
    if named is not None:
        field = f"{field}.{named[2]}".strip(".")
        code = "unknown_field" if named[1] == "unknown" else "missing_field"
        return malformed(_shown(field), code, f"{code.replace('_', ' ')}: {_shown(field)}")
    if "of length" in text:
        code = "invalid_length"
    elif "out of range" in text or " >= " in text or " <= " in text:
        code = "out_of_range"
    elif "Invalid enum value" in text or "matching regex" in text:
        code = "invalid_value"
    else:
        code = "wrong_type"
    return malformed(_shown(field), code, _shown(text))


def _syntax(body: bytes, message: str) -> errors.Malformed:
    """Name the last key before the byte at which the JSON breaks, when the body is short."""
    at = _BYTE.search(message)
    end = int(at[1]) + 1 if at else len(body)
    keys = _KEY.findall(body[:end]) if end <= SYNTAX_HINT_BYTES_MAX else []
    field = keys[-1].decode("utf-8", "replace") if keys else ""
    return malformed(_shown(field), "invalid_json", "the body is not valid JSON")


def _shown(text: str) -> str:
    """Return a caller's own text fit to be shown back: short, and plain ASCII."""
    return text[:80].encode("ascii", "backslashreplace").decode()


_encoder = msgspec.json.Encoder()
_any = msgspec.json.Decoder()


# Problem documents


class Problem(msgspec.Struct, kw_only=True, frozen=True):
    """What a refusal looks like outside (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]]
    request_id: str


def problem_of(refusal: errors.Refusal, request_id: str) -> Problem:
    """Return the document of a refusal."""
    return Problem(
        type=f"urn:baseload:problem:{refusal.code}",
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        code=refusal.code,
        errors=[{"field": error.field, "code": error.code} for error in refusal.errors],
        request_id=request_id,
    )


def problem(refusal: errors.Refusal, request_id: str) -> tuple[int, Headers, bytes]:
    """Return the status, headers and body of a refusal."""
    headers: Headers = [(b"content-type", PROBLEM_JSON.encode()), *NO_STORE]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after_s = refusal.retry_after_s
    if retry_after_s is None and refusal.status in (429, 503):
        retry_after_s = 1
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    return refusal.status, headers, encode(problem_of(refusal, request_id))


NO_STORE: Headers = [(b"cache-control", b"no-store")]


# Requests and answers of raw ASGI applications


def header(scope: Scope, name: bytes) -> str:
    """Return the one value of a header, or an empty text.

    :raises Malformed: when it was sent twice, or is not Latin-1 text.
    """
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise malformed(name.decode(), "duplicate_header", "a header appears twice")
    return values[0].decode("latin-1") if values else ""


def target(scope: Scope) -> str:
    """Return the path with its query exactly as it was sent: what a signature covers."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path: str = raw.split(b"?", 1)[0].decode("latin-1")
    query: str = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def peer(scope: Scope) -> str:
    """Return the address of the peer itself; forwarding headers are never believed."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def read_body(receive: Receive, limit: int = BODY_BYTES_MAX) -> bytes:
    """Return the whole body of a request.

    :raises TooLarge: when it exceeds `limit` bytes.
    :raises Disconnected: when the caller hung up first.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected("the caller hung up")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge(f"a body has at most {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


class Disconnected(errors.Refusal):
    """The caller hung up before its request was complete; there is nobody to answer."""

    code, status, title = "disconnected", 400, "The caller hung up"


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a complete answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


def require_json(content_type: str) -> None:
    """:raises UnsupportedMediaType: when a body is not declared as JSON in UTF-8."""
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != JSON:
        raise UnsupportedMediaType()
    charset = parameters.replace(" ", "").lower()
    if charset not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise UnsupportedMediaType()


def parse_idempotency_key(value: str, field: str = "Idempotency-Key") -> str:
    """Return an idempotency key or client order id: 1 to 255 printable ASCII characters.

    :raises Malformed: when it is missing or has another form.
    """
    if not value:
        raise malformed(field, "missing", f"{field} is required")
    if len(value) > IDEMPOTENCY_KEY_LENGTH_MAX or _PRINTABLE.match(value) is None:
        raise malformed(
            field,
            "invalid_value",
            f"{field} has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable ASCII characters",
        )
    return value


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Return the digest that tells a retry from a reused key; its parts are length-prefixed."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


# Lists


def parse_limit(text: str | None) -> int:
    """Return how many rows a page has.

    :raises Malformed: when it is not a whole number from 1 to `LIMIT_MAX`.
    """
    if text is None:
        return LIMIT_DEFAULT
    if len(text) <= 4 and text.isascii() and text.isdigit() and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise malformed("limit", "out_of_range", f"limit is a whole number from 1 to {LIMIT_MAX}")


class Cursors:
    """Signs and reads the places where a list goes on.

    A cursor holds the sort key of the last row shown and is bound to its list: the route, the
    organization and the filters. One that was made up, or taken from another list, is malformed.
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"cursor:" + secret.encode()).digest()

    def encode(self, listing: str, position: Sequence[int | str]) -> str:
        """Return the cursor behind the row at `position` of `listing`."""
        body = _encoder.encode(list(position))
        return base64.urlsafe_b64encode(self._mac(listing, body) + body).rstrip(b"=").decode()

    def decode(self, listing: str, text: str) -> list[int | str]:
        """Return the position of a cursor of `listing`.

        :raises Malformed: when this list never gave it out.
        """
        try:
            if len(text) > CURSOR_LENGTH_MAX:
                raise ValueError
            data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        mac, body = data[:16], data[16:]
        # Compared before anything is parsed, so that only our own bytes are ever decoded.
        if not body or not hmac.compare_digest(mac, self._mac(listing, body)):
            raise malformed("cursor", "invalid_cursor", "this list never gave out that cursor")
        return msgspec.json.decode(body, type=list[int | str])

    def _mac(self, listing: str, body: bytes) -> bytes:
        name = listing.encode()
        return hmac.digest(self._key, len(name).to_bytes(4, "big") + name + body, "sha256")[:16]


def page(
    rows: Sequence[T],
    limit: int,
    *,
    position: Callable[[T], Sequence[int | str]],
    cursors: Cursors,
    listing: str,
) -> tuple[Sequence[T], str | None]:
    """Return at most `limit` of up to `limit + 1` rows, and the cursor behind them or None."""
    if len(rows) <= limit:
        return rows, None
    shown = rows[:limit]
    return shown, cursors.encode(listing, position(shown[-1]))


# Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of a limit after a request."""

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> Headers:
        """Return the `RateLimit-*` headers."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset_s),
        ]


REFUSALS_FREE = 100
"""So many refusals of a key are answered at once; more show that nobody reads them."""
REFUSALS_PER_S = 10
"""How fast a key may be refused for ever without being held."""
HOLD_S = 1.0
"""How long the answer to each further one is held, and with it the connection."""


class RateLimited(errors.TooManyRequests):
    """A key used up its requests; carries the allowance for the headers.

    `hold_s` is how long a door that can wait for nothing at no cost keeps the answer back.
    """

    def __init__(self, allowance: Allowance, retry_after_s: int, hold_s: float = 0.0) -> None:
        super().__init__(
            f"at most {allowance.limit} requests at once for this key", retry_after_s=retry_after_s
        )
        self.allowance = allowance
        self.hold_s = hold_s


async def hold(refusal: RateLimited) -> None:
    """Keep an answer back while its caller is stuffing.

    A caller that sends on through refusals costs what it takes to read its requests and answer
    them, at the expense of everybody else. One that waits for its answer sends nothing meanwhile;
    to close its connection instead would cost us the next one's handshake.
    """
    if refusal.hold_s:
        await asyncio.sleep(refusal.hold_s)


class RateLimiter:
    """A token bucket per key: `per_second` refilled, `burst_s` seconds of it at once.

    Exact within a process: of N requests at one instant the first `limit` pass. A bucket is one
    integer, the instant at which it will be full again, so an idle key costs nothing to keep and
    the least recently used of too many may be forgotten only when it is full. Refusals are counted
    in a bucket of their own, which says who is to be held.
    """

    KEYS_MAX = 100_000

    def __init__(self, *, per_second: int, burst_s: int = 5) -> None:
        self.limit = per_second * burst_s
        self._interval_ns = 1_000_000_000 // per_second
        self._window_ns = self._interval_ns * self.limit
        self._full_at: OrderedDict[str, int] = OrderedDict()
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, *, count: int = 1, now_ns: int | None = None) -> Allowance:
        """Take `count` requests of `key`.

        :raises RateLimited: when fewer are left; none is taken then.
        """
        now_ns = clock.monotonic_ns() if now_ns is None else now_ns
        with self._lock:
            began_ns = max(self._full_at.get(key, 0), now_ns)
            full_at = began_ns + count * self._interval_ns
            missing_ns = full_at - now_ns - self._window_ns
            if missing_ns > 0:
                retry_after_s = -(-missing_ns // 1_000_000_000)
                hold_s = HOLD_S if self._is_stuffing(key, now_ns) else 0.0
                raise RateLimited(self._allowance(began_ns - now_ns), retry_after_s, hold_s)
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
            if len(self._full_at) > self.KEYS_MAX:
                self._forget(now_ns)
        return self._allowance(full_at - now_ns)

    def _is_stuffing(self, key: str, now_ns: int) -> bool:
        """Count a refusal; return whether the key has had more than are free."""
        each_ns = 1_000_000_000 // REFUSALS_PER_S
        full_at = max(self._refused.get(key, 0), now_ns) + each_ns
        if full_at - now_ns > REFUSALS_FREE * each_ns:
            return True
        self._refused[key] = full_at
        self._refused.move_to_end(key)
        if len(self._refused) > self.KEYS_MAX:
            self._refused.popitem(last=False)
        return False

    def _allowance(self, spent_ns: int) -> Allowance:
        spent = -(-spent_ns // self._interval_ns)
        return Allowance(
            limit=self.limit,
            remaining=self.limit - spent,
            reset_s=-(-spent_ns // 1_000_000_000),
        )

    def _forget(self, now_ns: int) -> None:
        """Drop the keys, longest unused first, whose buckets are full anyway."""
        while self._full_at:
            key, full_at = next(iter(self._full_at.items()))
            if full_at > now_ns and len(self._full_at) <= 2 * self.KEYS_MAX:
                return
            del self._full_at[key]


WRITES = RateLimiter(per_second=100)
READS = RateLimiter(per_second=50)
"""The limits of every door of one process: order entry and Django count together."""


def merge_headers(first: Mapping[str, str], headers: Headers) -> dict[str, str]:
    """Return ASGI headers as text, beside others; for answers made by Django."""
    return {**first, **{name.decode(): value.decode() for name, value in headers}}
