"""What every answer is made of."""

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A value that the exchange sent."""


class Page(Model, Generic[T], frozen=True, kw_only=True):
    """Part of a list; `next_cursor` asks for what comes behind it."""

    results: tuple[T, ...]
    next_cursor: str | None = None
