"""Cash held for pay-as-you-go requests: a request runs only on money that is already set aside.

P3 is paid by the token, so before a request is admitted the most it can cost is taken from a
hold of its organization for the grade and hour. The hold lives in the machine, where cash is; it
is made in chunks by an Instruction, topped up in the background when half a chunk is left, so
that a request waits for the engine only when the hold is empty. Where a whole chunk is refused,
exactly what is missing is asked for. When the engine is away nothing more is held and nothing
more is admitted.

What a gateway that was killed had held and not used is not known to the next one, which begins
at zero; the last charge of the hour gives it back (RULEBOOK 6.10).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from admission import dialect
from marketplace import contract, errors

CHUNK_MICROS = 200_000
"""How much is held at a time."""
HOURS_KEPT = 2
_MNTU_PER_MILLION = 1_000_000_000

log = logging.getLogger(__name__)

Ask = Callable[[int, str, int, int], Awaitable[bool]]
"""Holds an amount for (organization, grade, hour); returns whether the machine agreed.

:raises Unavailable: when it cannot be learned in time.
"""


class InsufficientQuota(dialect.Refused):
    """The organization has not the cash that the request may cost."""

    def __init__(self) -> None:
        super().__init__(
            "Your balance does not cover this request at pay-as-you-go prices.",
            code="insufficient_quota",
            status=429,
            kind="insufficient_quota",
        )


def price_micros(*, usage_price_ticks: int, mntu: int) -> int:
    """Return what tokens cost at a price in ticks, rounded up in the seller's favor."""
    return -(-usage_price_ticks * contract.TICK_MICROS_PER_MILLION * mntu // _MNTU_PER_MILLION)


class Reserve:
    """What is held for one organization, grade and hour, and how much of it is spoken for."""

    __slots__ = ("held_micros", "lock", "running_micros", "topping_up", "used_micros")

    def __init__(self) -> None:
        self.held_micros = 0
        self.used_micros = 0
        self.running_micros = 0
        self.lock = asyncio.Lock()
        self.topping_up: asyncio.Task[None] | None = None

    @property
    def free_micros(self) -> int:
        """What no request has used or may still use."""
        return self.held_micros - self.used_micros - self.running_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The most one running request may cost."""

    reserve: Reserve
    amount_micros: int
    usage_price_ticks: int

    def end(self, mntu: int) -> None:
        """Note what the request used in the end; the rest is free again."""
        used = price_micros(usage_price_ticks=self.usage_price_ticks, mntu=mntu)
        self.reserve.running_micros -= self.amount_micros
        self.reserve.used_micros += used


class Reserves:
    """The holds of every organization that pays as it goes."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._reserves: dict[tuple[int, str, int], Reserve] = {}

    async def hold(
        self,
        *,
        organization: int,
        grade: str,
        hour_starts_at: int,
        usage_price_ticks: int,
        mntu_max: int,
    ) -> Hold:
        """Set aside the most a request may cost.

        :raises InsufficientQuota: when the machine refuses to hold it.
        :raises Unavailable: when the machine does not answer.
        """
        key = organization, grade, hour_starts_at
        reserve = self._reserves.get(key)
        if reserve is None:
            self._forget(hour_starts_at)
            reserve = self._reserves[key] = Reserve()
        need = price_micros(usage_price_ticks=usage_price_ticks, mntu=mntu_max)
        if reserve.free_micros < need:
            async with reserve.lock:
                await self._reach(key, reserve, need)
        reserve.running_micros += need
        if reserve.free_micros < CHUNK_MICROS // 2 and reserve.topping_up is None:
            reserve.topping_up = asyncio.create_task(self._top_up(key, reserve))
        return Hold(reserve=reserve, amount_micros=need, usage_price_ticks=usage_price_ticks)

    async def _reach(self, key: tuple[int, str, int], reserve: Reserve, need: int) -> None:
        """Hold until `need` is free: a chunk, or else exactly what is missing."""
        while (missing := need - reserve.free_micros) > 0:
            amount = max(missing, CHUNK_MICROS)
            if not await self._ask(*key, amount):
                if amount == missing or not await self._ask(*key, missing):
                    raise InsufficientQuota
                amount = missing
            reserve.held_micros += amount

    async def _top_up(self, key: tuple[int, str, int], reserve: Reserve) -> None:
        """Hold one more chunk ahead of need; when that is refused, requests ask for themselves."""
        try:
            async with reserve.lock:
                if reserve.free_micros < CHUNK_MICROS // 2 and await self._ask(*key, CHUNK_MICROS):
                    reserve.held_micros += CHUNK_MICROS
        except errors.Refusal as refusal:
            log.warning("a hold could not be topped up: %s", refusal.code)
        finally:
            reserve.topping_up = None

    def _forget(self, hour_starts_at: int) -> None:
        """Drop the hours that are over."""
        oldest = hour_starts_at - HOURS_KEPT * contract.HOUR
        for key in [key for key in self._reserves if key[2] < oldest]:
            del self._reserves[key]

    async def close(self) -> None:
        """Wait for the top-ups under way."""
        tasks = [each.topping_up for each in self._reserves.values() if each.topping_up]
        await asyncio.gather(*tasks, return_exceptions=True)
