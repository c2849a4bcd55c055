"""How one description of the API serves callers that wait and callers that await.

A `Call` is everything about a request but the sending. A method of `baseload.api.Api` only
describes one; the decorator `endpoint` makes it a descriptor which, on a `Client`, sends the call
and returns the result, and on an `AsyncClient` returns an awaitable of it. `listing` does the same
for lists, which are read page by page while they are iterated over. The type checker sees both
forms with the parameters of the one description.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from baseload import errors, models

P = ParamSpec("P")
T = TypeVar("T")


class Repeat(Enum):
    """What happens when a request arrives more than once."""

    READ = "changes nothing"
    SAME = "says the same however often it is said: cancels, amendments, switches"
    KEYED = "carries an id by which the exchange knows it again"
    ONCE = "has no such id: it is not sent again once it may have arrived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """What an answer said: a value or a problem."""

    value: T | None = None
    error: errors.ApiError | None = None
    is_repeat: bool = False
    """Whether an earlier attempt of the same request may have been carried out."""

    def get(self) -> T:
        """Return the value.

        :raises ApiError: when there was a problem instead.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None, "an answer has a value or a problem"
        return self.value


Settling = Generator["Call[Any]", Any, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A request to the API, before it is sent."""

    method: str
    path: str
    """Below `/api/v1/`."""
    result: Any
    """The type that a body of success is decoded as."""
    repeat: Repeat
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    id: str = ""
    """The client order id or idempotency key, made once and kept over every attempt."""
    is_idempotency_header: bool = False
    timeout_s: float | None = None
    """For calls that take longer than the client's own limit."""
    settle: Callable[[Outcome[T]], Settling[T]] | None = None
    """Finds out, by further calls, what a repeated request came to."""


class SyncCaller:
    """Sends calls and waits for them."""

    def perform(self, call: Call[T]) -> T:
        """Send a call and return what it came to."""
        raise NotImplementedError


class AsyncCaller:
    """Sends calls on an event loop."""

    async def perform(self, call: Call[T]) -> T:
        """Send a call and return what it came to."""
        raise NotImplementedError


class Endpoint(Generic[P, T]):
    """A call that both kinds of client can make."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    def describe(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Return the call without sending it."""
        return self._describe(None, *args, **kwargs)

    @overload
    def __get__(self, caller: None, owner: type) -> "Endpoint[P, T]": ...
    @overload
    def __get__(self, caller: SyncCaller, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, caller: AsyncCaller, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, caller: SyncCaller | AsyncCaller | None, owner: type) -> Any:
        if caller is None:
            return self

        @functools.wraps(self._describe)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return caller.perform(self._describe(caller, *args, **kwargs))

        return call


endpoint = Endpoint


class Pages(Generic[T]):
    """A list on the exchange, read as it is iterated over."""

    def __init__(self, caller: SyncCaller, call: Call[models.Page[T]]) -> None:
        self._caller = caller
        self._call = call

    def pages(self) -> Iterator[models.Page[T]]:
        """Yield page after page."""
        call: Call[models.Page[T]] | None = self._call
        while call is not None:
            page = self._caller.perform(call)
            yield page
            call = _next(self._call, page)

    def first_page(self) -> models.Page[T]:
        """Return the first page alone."""
        return self._caller.perform(self._call)

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.results


class AsyncPages(Generic[T]):
    """A list on the exchange, read as it is iterated over with `async for`."""

    def __init__(self, caller: AsyncCaller, call: Call[models.Page[T]]) -> None:
        self._caller = caller
        self._call = call

    async def pages(self) -> AsyncIterator[models.Page[T]]:
        """Yield page after page."""
        call: Call[models.Page[T]] | None = self._call
        while call is not None:
            page = await self._caller.perform(call)
            yield page
            call = _next(self._call, page)

    async def first_page(self) -> models.Page[T]:
        """Return the first page alone."""
        return await self._caller.perform(self._call)

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for one in page.results:
                yield one


def _next(call: Call[models.Page[T]], page: models.Page[T]) -> Call[models.Page[T]] | None:
    """Return the call for the page behind one, or None at the end."""
    if page.next_cursor is None:
        return None
    return replace(call, query=(*call.query, ("cursor", page.next_cursor)))


class Listing(Generic[P, T]):
    """A list that both kinds of client can read."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[models.Page[T]]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, caller: None, owner: type) -> "Listing[P, T]": ...
    @overload
    def __get__(self, caller: SyncCaller, owner: type) -> Callable[P, Pages[T]]: ...
    @overload
    def __get__(self, caller: AsyncCaller, owner: type) -> Callable[P, AsyncPages[T]]: ...
    def __get__(self, caller: SyncCaller | AsyncCaller | None, owner: type) -> Any:
        if caller is None:
            return self

        @functools.wraps(self._describe)
        def read(*args: P.args, **kwargs: P.kwargs) -> Any:
            call = self._describe(caller, *args, **kwargs)
            if isinstance(caller, SyncCaller):
                return Pages(caller, call)
            return AsyncPages(caller, call)

        return read


listing = Listing
