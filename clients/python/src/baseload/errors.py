"""What can go wrong, as exceptions.

`ApiError` is an answer of the exchange: a problem document with a stable `code`. Statuses have
classes, and codes that a program decides by have classes below them; a code that is not known here
is raised as its status's class. `TransportError` says that there was no answer to a request that
changes nothing. `OutcomeUnknown` is the one to be afraid of: a request that may have changed
something was sent, and nobody could say what became of it. It carries the id to ask again with.
"""

from typing import Any, ClassVar

import msgspec


class BaseloadError(Exception):
    """Anything that this package raises."""


class TransportError(BaseloadError):
    """There was no answer."""


class TimedOut(TransportError):
    """There was no answer in time."""


class UnreadableAnswer(BaseloadError):
    """What answered does not speak as the exchange does."""


class OutcomeUnknown(BaseloadError):
    """A request was sent and its outcome could not be learned.

    Repeat the call with `id` (`client_order_id` or `idempotency_key`), which cannot do it twice.
    `id` is empty for the few calls that take none.
    """

    def __init__(self, detail: str, *, id: str = "") -> None:  # noqa: A002 the API's own word
        super().__init__(detail)
        self.id = id


class StreamClosed(BaseloadError):
    """The stream was closed for good; `code` is the WebSocket's."""

    def __init__(self, detail: str, *, code: int | None = None) -> None:
        super().__init__(detail)
        self.code = code


class Blame(msgspec.Struct, frozen=True):
    """A field of the request, and what is wrong with it."""

    field: str
    code: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457)."""

    status: int
    code: str
    title: str = ""
    detail: str = ""
    type: str = ""
    errors: tuple[Blame, ...] = ()
    request_id: str = ""


class ApiError(BaseloadError):
    """The exchange answered with a problem."""

    code_of_class: ClassVar[str] = ""
    status_of_class: ClassVar[int] = 0

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = problem.code
        self.status = problem.status
        self.detail = problem.detail
        self.fields = problem.errors
        self.request_id = problem.request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """Return the code, what it means and which fields are to blame."""
        said = self.detail or self.problem.title
        blamed = ", ".join(f"{one.field or 'body'}: {one.code}" for one in self.fields)
        return f"{self.code}: {said}" + (f" ({blamed})" if blamed else "")

    def __init_subclass__(cls, *, code: str = "", status: int = 0, **more: Any) -> None:
        """Let a class stand for a code, or for every other code of a status."""
        super().__init_subclass__(**more)
        cls.code_of_class = code
        if status:
            cls.status_of_class = status
        if code:
            _BY_CODE[code] = cls
        elif status:
            _BY_STATUS[status] = cls


_BY_CODE: dict[str, type[ApiError]] = {}
_BY_STATUS: dict[int, type[ApiError]] = {}


def api_error(problem: Problem, *, retry_after_s: float | None = None) -> ApiError:
    """Return the exception of a problem, in the class of its code, else of its status."""
    fallback = ServerError if problem.status >= 500 else ApiError
    found = _BY_CODE.get(problem.code) or _BY_STATUS.get(problem.status, fallback)
    return found(problem, retry_after_s=retry_after_s)


def all_codes() -> dict[str, tuple[int, type[ApiError]]]:
    """Return every code that has a class, with its status."""
    return {code: (kind.status_of_class, kind) for code, kind in _BY_CODE.items()}


class Malformed(ApiError, status=400):
    """The request could not be understood; `fields` names what is to blame."""


class Unauthenticated(ApiError, status=401):
    """No key was sent, or one that is wrong."""


class InvalidKey(Unauthenticated, code="invalid_key"):
    """The key is unknown, revoked or wrong."""


class InvalidSignature(Unauthenticated, code="invalid_signature"):
    """The key asks for a signature that is missing or wrong."""


class TimestampOutsideWindow(Unauthenticated, code="timestamp_outside_window"):
    """The caller's clock is more than 5 s from the exchange's."""


class Replayed(Unauthenticated, code="replayed"):
    """A signed request was sent twice."""


class Forbidden(ApiError, status=403):
    """The key may not do this."""


class MissingScope(Forbidden, code="missing_scope"):
    """The key lacks the scope that `detail` names."""


class AddressNotAllowed(Forbidden, code="address_not_allowed"):
    """The key is bound to other addresses."""


class NotFound(ApiError, status=404):
    """No such path or object, or one of another organization."""


class UnknownOrder(NotFound, code="unknown_order"):
    """The organization has no such order."""


class Conflict(ApiError, status=409):
    """The request does not go together with an earlier one."""


class KeyReuse(Conflict, code="key_reuse"):
    """The client order id or idempotency key was used with other terms."""


class Gone(ApiError, status=410):
    """It was there once, and is not kept any more."""


class Refused(ApiError, status=422):
    """A rule of the market said no; nothing changed."""


class Killed(Refused, code="killed"):
    """An operator has stopped the organization."""


class UnknownInstrument(Refused, code="unknown_instrument"):
    """No such instrument is listed."""


class NotOpen(Refused, code="not_open"):
    """Trading of the instrument has not begun."""


class Halted(Refused, code="halted"):
    """Trading is halted; orders may still be canceled."""


class Closed(Refused, code="closed"):
    """Trading of the instrument has ended."""


class NotInCall(Refused, code="not_in_call"):
    """An auction takes limit orders that can rest, and nothing else."""


class Frozen(Refused, code="frozen"):
    """The auction is in its last minutes."""


class OutsideBand(Refused, code="outside_band"):
    """The price is outside the band of the day."""


class OpenOrderLimit(Refused, code="open_order_limit"):
    """The organization has as many open orders as it may have."""


class ReduceOnly(Refused, code="reduce_only"):
    """The order could do more than reduce the position."""


class PositionLimit(Refused, code="position_limit"):
    """The group would hold more of the hour than one may."""


class InsufficientFunds(Refused, code="insufficient_funds"):
    """There is not enough available money."""


class InsufficientCoverage(Refused, code="insufficient_coverage"):
    """More would be sold than is certified for the hour."""


class PostOnlyWouldTrade(Refused, code="post_only_would_trade"):
    """A post-only order would have traded at once."""


class Volatility(Refused, code="volatility"):
    """The order would trade too far from the last price, close to the end."""


class OrderClosed(Refused, code="order_closed"):
    """The order has left the book already."""


class TooManyRequests(ApiError, status=429):
    """A limit is used up; `retry_after_s` says for how long."""


class RateLimited(TooManyRequests, code="rate_limited"):
    """The key used up its requests of the moment."""


class OrderToTradeRatio(TooManyRequests, code="order_to_trade_ratio"):
    """Too many orders for the trades that they made, until the next full hour."""


class ServerError(ApiError, status=500):
    """A defect of the exchange; `request_id` finds it in its logs."""


class Unavailable(ApiError, status=503):
    """A part of the exchange is away; nothing was done and nothing will be."""


class EngineUnavailable(Unavailable, code="engine_unavailable"):
    """The engine is down; the order was not placed and will not be."""
