"""What a REST endpoint is: one class per operation, and the DRF view that carries several of them.

An endpoint names its `Input`, `Query` and `Output` as msgspec structs, says which scope a key needs
and does one domain call in `handle`. The router binds the endpoints of one path together into a DRF
view (`resource`); that view authenticates, counts the request against its key's limit, decodes the
body strictly and turns every refusal into a problem document. The OpenAPI document is built from
the same attributes, so it cannot say anything else than what is enforced.

A path that does not exist, an object that does not exist and an object of another organization are
the same 404, to the byte but for the request's id.
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.request import RawPostDataException
from rest_framework.exceptions import APIException
from rest_framework.exceptions import MethodNotAllowed as DrfMethodNotAllowed
from rest_framework.request import Request
from rest_framework.views import APIView

from marketplace import errors, http, keys

T = TypeVar("T")
Row = TypeVar("Row")
Method = Literal["GET", "POST", "PATCH", "DELETE"]

log = logging.getLogger(__name__)

_CURSORS = http.Cursors(settings.SECRET_KEY)
_SNAKE = re.compile(r"(?<!^)(?=[A-Z])")


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of every `Input` and `Query`: a field that is not known is refused by name."""


class Answer(msgspec.Struct, kw_only=True):
    """Base of every `Output`."""


class Listed(Answer, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    results: Sequence[T]
    next_cursor: str | None


class Empty(Strict):
    """No fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Which page of a list was asked for: up to `limit` rows behind the row at `after`."""

    limit: int
    after: list[int | str] | None
    listing: str

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than are shown tells whether the list goes on."""
        return self.limit + 1

    def number(self) -> int | None:
        """Return the position of a list that is sorted by one number."""
        return None if self.after is None else int(self.after[0])

    def page(
        self,
        rows: Iterable[Row],
        show: Callable[[Row], T],
        *,
        position: Callable[[Row], Sequence[int | str]],
    ) -> "Listed[T]":
        """Return the page of `rows`, each shown, with the cursor behind it."""
        shown, cursor = http.page(
            list(rows), self.limit, position=position, cursors=_CURSORS, listing=self.listing
        )
        return Listed(results=[show(row) for row in shown], next_cursor=cursor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an endpoint, with everything checked that can be checked before the rules."""

    request: Request
    key: keys.Key | None
    query: Any
    fingerprint: bytes
    """What tells a retry from a reused idempotency key: the operation and what was asked of it."""
    paging: Paging | None
    idempotency_key: str
    request_id: str
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the endpoint adds to its answer."""

    @property
    def organization(self) -> int:
        """Whose request this is."""
        assert self.key is not None, "an endpoint with a scope has a key"
        return self.key.organization

    @property
    def page(self) -> Paging:
        """The page of a list that was asked for."""
        assert self.paging is not None, "only lists are paged"
        return self.paging


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An answer that is no JSON: something to keep under a name."""

    content_type: str
    name: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayable:
    """An answer that is kept for its idempotency key, and whether it was the kept one."""

    status: int
    body: bytes
    is_replay: bool


class Endpoint:
    """One operation of the API. Subclasses are named by what they do."""

    method: ClassVar[Method] = "GET"
    scope: ClassVar[str | None] = None
    """The scope that a key needs; None for the public."""
    status: ClassVar[int] = 200
    pending_status: ClassVar[int | None] = None
    """Of the same answer while somebody else has to confirm it."""
    Input: ClassVar[Any] = None
    Query: ClassVar[Any] = Empty
    Output: ClassVar[Any] = None
    Item: ClassVar[Any] = None
    """For lists: what one row looks like; the output is a page of it."""
    is_idempotent: ClassVar[bool] = False
    """Whether an `Idempotency-Key` is required."""
    has_client_id: ClassVar[bool] = False
    """Whether the body has a `client_order_id`, by which a retry is known."""
    is_documented_only: ClassVar[bool] = False
    """Whether a small ASGI application beside Django answers it."""
    codes: ClassVar[Sequence[str]] = ()
    """Codes of refusals beyond those that every endpoint has."""
    tag: ClassVar[str] = ""

    def handle(self, call: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Answer a call: `handle(call, [input,] **path)`."""
        raise NotImplementedError

    @classmethod
    def operation_id(cls) -> str:
        """Return the operation's name in the OpenAPI document."""
        return _SNAKE.sub("_", cls.__name__).lower()


class Resource(APIView):
    """The DRF view of one path."""

    endpoints: ClassVar[dict[str, type[Endpoint]]] = {}
    request_id: str = ""
    allowance: http.Allowance | None = None

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Give the request its id."""
        self.request_id = "req_" + secrets.token_hex(12)
        super().setup(request, *args, **kwargs)

    def check_permissions(self, request: Request) -> None:
        """Refuse a caller without the scope, and one without a key where one is needed."""
        endpoint = self.endpoints.get(str(request.method).replace("HEAD", "GET"))
        if endpoint is None or endpoint.scope is None:
            return
        key = key_of(request)
        if key is None:
            raise errors.Unauthenticated("send Authorization: Bearer KEY")
        key.require(endpoint.scope)

    def check_throttles(self, request: Request) -> None:
        """Count the request against its key, or its address where there is none."""
        key = key_of(request)
        who = f"key:{key.id}" if key is not None else f"address:{peer(request)}"
        limiter = http.READS if request.method in ("GET", "HEAD") else http.WRITES
        self.allowance = limiter.take(who)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, count, check the scope: in this order, so that refusals count too."""
        self.format_kwarg = None
        self.determine_version(request)
        self.perform_authentication(request)
        self.check_throttles(request)
        self.check_permissions(request)

    def answer(self, request: Request, **path: str) -> HttpResponse:
        """Decode what was sent, let the endpoint answer, encode what it said."""
        endpoint_class = self.endpoints[str(request.method).replace("HEAD", "GET")]
        if any("\0" in value for value in path.values()):
            raise errors.NotFound()  # no row holds it, and the database would not look for it
        query, paging = _query(request, endpoint_class)
        body = raw_body(request)
        arguments: list[Any] = []
        if endpoint_class.Input is not None:
            if body:
                http.require_json(request.META.get("CONTENT_TYPE", ""))
            decoder = _decoder(endpoint_class.Input)
            arguments.append(http.decode(body or b"{}", decoder))
        elif body.strip() not in (b"", b"{}"):
            raise http.malformed("", "unexpected_body", "this operation takes no body")
        call = Call(
            request=request,
            key=key_of(request),
            query=query,
            fingerprint=http.fingerprint(str(request.method), request.path, http.encode(arguments)),
            paging=paging,
            idempotency_key=(
                http.parse_idempotency_key(request.META.get("HTTP_IDEMPOTENCY_KEY", ""))
                if endpoint_class.is_idempotent
                else ""
            ),
            request_id=self.request_id,
        )
        said = endpoint_class().handle(call, *arguments, **path)
        if isinstance(said, Replayable):
            kind = http.JSON if said.status < 400 else http.PROBLEM_JSON
            response = HttpResponse(said.body, status=said.status, content_type=kind)
            if said.is_replay:
                response["Idempotency-Replayed"] = "true"
        elif isinstance(said, File):
            response = HttpResponse(said.body, content_type=said.content_type)
            response["Content-Disposition"] = f'attachment; filename="{said.name}"'
        else:
            response = HttpResponse(
                http.encode(said), status=endpoint_class.status, content_type=http.JSON
            )
        for name, value in call.headers.items():
            response[name] = value
        return response

    def handle_exception(self, exc: Exception) -> HttpResponse:  # type: ignore[override]
        """Turn whatever was raised into a problem document."""
        refusal = refusal_of(exc)
        if isinstance(exc, OperationalError | InterfaceError):
            log.warning("the database refused a request: %s", type(exc).__name__)
        elif refusal.status >= 500 and not isinstance(exc, errors.Refusal):
            log.error("a request broke", exc_info=exc)
        if isinstance(exc, http.RateLimited):
            self.allowance = exc.allowance
        response = problem_response(refusal, self.request_id)
        if refusal.status == 405:
            response["Allow"] = ", ".join(sorted(self.endpoints))
        return response

    def finalize_response(  # type: ignore[override]
        self, request: Request, response: HttpResponse, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Add the headers that every answer has."""
        response["Request-Id"] = self.request_id
        response["Cache-Control"] = "no-store"
        if self.allowance is not None:
            for name, value in http.merge_headers({}, self.allowance.headers()).items():
                response[_title(name)] = value
        return response


def resource(*endpoints: type[Endpoint]) -> Callable[..., HttpResponse]:
    """Return the view that carries these endpoints of one path."""
    by_method = {endpoint.method: endpoint for endpoint in endpoints}
    assert len(by_method) == len(endpoints), "a path has one operation per method"
    methods = {
        method.lower(): Resource.answer
        for method, endpoint in by_method.items()
        if not endpoint.is_documented_only
    }
    name = "".join(endpoint.__name__ for endpoint in endpoints)
    view = type(name, (Resource,), {"endpoints": by_method, **methods})
    return view.as_view()  # type: ignore[attr-defined,no-any-return]


class Nowhere(Resource):
    """Every path below `/api/v1/` that is no resource."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse before anything is looked at."""
        raise errors.NotFound()


def refusal_of(error: Exception) -> errors.Refusal:
    """Return the refusal by which an exception is answered."""
    match error:
        case errors.Refusal():
            return error
        case DrfMethodNotAllowed():
            return http.MethodNotAllowed()
        case RequestDataTooBig():
            return http.TooLarge(f"a body has at most {http.BODY_BYTES_MAX} bytes")
        case RawPostDataException():
            return errors.Malformed("the body could not be read")
        case OperationalError() | InterfaceError():
            return errors.Unavailable("the database cannot be reached", retry_after_s=1)
        case APIException():
            return errors.Malformed(status=error.status_code)
        case _:
            return InternalError()


class InternalError(errors.Refusal):
    """A defect on our side; nothing of it is shown."""

    code, status, title = "internal_error", 500, "Internal error"


def problem_response(refusal: errors.Refusal, request_id: str) -> HttpResponse:
    """Return Django's form of a problem document."""
    status, headers, body = http.problem(refusal, request_id)
    response = HttpResponse(body, status=status)
    for name, value in http.merge_headers({}, headers).items():
        response[_title(name)] = value
    return response


def raw_body(request: Request) -> bytes:
    """Return the body as it was sent.

    :raises TooLarge: when it is longer than `http.BODY_BYTES_MAX`.
    """
    body: bytes = request._request.body
    return body


def key_of(request: Request) -> keys.Key | None:
    """Return who is calling, as the authentication classes found it."""
    key: Any = request.auth
    assert key is None or isinstance(key, keys.Key), "keys are all that we authenticate by"
    return key


def peer(request: Request) -> str:
    """Return the address of the peer itself; forwarding headers are never believed."""
    return str(request.META.get("REMOTE_ADDR", ""))


def _query(request: Request, endpoint: type[Endpoint]) -> tuple[Any, Paging | None]:
    """Return the query of a request and, for a list, which page it asks for."""
    given: dict[str, str] = {}
    for name, values in request._request.GET.lists():
        if len(values) > 1:
            raise http.malformed(name, "duplicate_key", "a parameter appears twice")
        given[name] = str(values[0])
    paging = None
    if endpoint.Item is not None:
        limit, cursor = given.pop("limit", None), given.pop("cursor", None)
        key = key_of(request)
        owner = 0 if key is None else key.organization
        filters = "&".join(f"{name}={given[name]}" for name in sorted(given))
        listing = f"{request.path}?{filters}#{owner}"
        paging = Paging(
            limit=http.parse_limit(limit),
            after=None if cursor is None else _CURSORS.decode(listing, cursor),
            listing=listing,
        )
    return http.convert(given, endpoint.Query), paging


def _decoder(kind: type[T]) -> "msgspec.json.Decoder[T]":
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


_decoders: dict[Any, "msgspec.json.Decoder[Any]"] = {}


def _title(name: str) -> str:
    """Return a header's name as it is usually written."""
    return name.title().replace("Ratelimit", "RateLimit").replace("Www-", "WWW-")
