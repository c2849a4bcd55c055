"""What the descriptions of calls are made of: paths, parameters, and what a repeat would do."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from baseload import terms
from baseload.calls import Call, Outcome, Repeat, Settling


def part(text: str) -> str:
    """Return a part of a path.

    :raises ValueError: when it is none.
    """
    if not text or not all(one.isalnum() or one in "._-+" for one in text) or not text.isascii():
        raise ValueError(f"{text[:80]!r} is no symbol, grade or id")
    return text.replace("+", "%2B")


def parameters(given: Mapping[str, str | int | datetime | None]) -> tuple[tuple[str, str], ...]:
    """Return parameters as text, those without a value left out."""
    return tuple(
        (name, terms.instant(value) if isinstance(value, datetime) else str(value))
        for name, value in given.items()
        if value not in (None, "")
    )


def get(path: str, result: Any, **query: str | int | datetime | None) -> Call[Any]:
    """Return a call that changes nothing."""
    return Call(method="GET", path=path, result=result, repeat=Repeat.READ, query=parameters(query))


def keyed(path: str, body: dict[str, Any], result: Any, key: str) -> Call[Any]:
    """Return a call that the exchange knows again by the `client_order_id` in its body."""
    return Call(
        method="POST",
        path=path,
        result=result,
        repeat=Repeat.KEYED,
        body=msgspec.json.encode(body),
        id=key,
    )


def once(path: str, body: dict[str, Any] | None, result: Any, key: str) -> Call[Any]:
    """Return a call that the exchange knows again by its `Idempotency-Key`."""
    return Call(
        method="POST",
        path=path,
        result=result,
        repeat=Repeat.KEYED,
        body=None if body is None else msgspec.json.encode(body),
        id=key or terms.new_id(),
        is_idempotency_header=True,
    )


def same(
    method: str,
    path: str,
    result: Any,
    body: dict[str, Any] | None = None,
    *,
    timeout_s: float | None = None,
    settle: Callable[[Outcome[Any]], Settling[Any]] | None = None,
) -> Call[Any]:
    """Return a call that says the same however often it is said."""
    return Call(
        method=method,
        path=path,
        result=result,
        repeat=Repeat.SAME,
        body=None if body is None else msgspec.json.encode(body),
        timeout_s=timeout_s,
        settle=settle,
    )


def single(path: str, result: Any, body: dict[str, Any]) -> Call[Any]:
    """Return a call that is not sent again once it may have arrived."""
    return Call(
        method="POST",
        path=path,
        result=result,
        repeat=Repeat.ONCE,
        body=msgspec.json.encode(body),
    )
