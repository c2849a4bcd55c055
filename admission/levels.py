"""How much of what was bought may still be used now: levels, and what a request costs them.

A holder of `lots` may have that many kNTU a minute admitted. The level is what it has not used of
the last seconds of that rate: two, and less of those lots that slots go with (RULEBOOK 7.2). It is
refilled by the time that passes and debited by what requests are charged, and it may go into debt
by one request, so that the holder of one lot can send a long prompt. It is kept in *grains* of a
sixtieth mNTU: one lot is a million mNTU a minute, which is exactly one grain a microsecond, so that
a refill is `lots * elapsed` and nothing is ever rounded.

The rate comes as windows, the hours that were bought. Debt is never larger than what the contiguous
hours still owe (RULEBOOK 7.2, 6.1): what nobody will refill is not lent. In a gap between windows
the level is zero.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from admission.scaling import PARTS

GRAINS_PER_MNTU = 60
"""One lot is one grain a microsecond."""
BURST_US = (750_000, 1_000_000, 2_000_000)
"""How much of its rate a flow of P0, P1 or P2 may save up (RULEBOOK 7.2)."""
LOAN_US = 250_000
"""How much of the rate sold of it a class may lend at once (RULEBOOK 7.2)."""
OUTPUT_HISTORY = 100
"""How many of the last outputs the 90th percentile looks at (RULEBOOK 7.3)."""
OUTPUT_TOKENS_PRIOR = 256
"""The estimate for an organization that has not finished a request yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A half-open span in which a holder is entitled to a rate; instants in microseconds."""

    starts_at: int
    ends_at: int
    lots: int


class Level:
    """The level of one flow, in grains; exact at every instant it is asked for.

    `refill` is called before the level is read; an instant before the last one is taken as it.
    """

    __slots__ = ("_carry", "burst_us", "factor", "forgiven", "grains", "refilled_at", "windows")

    def __init__(self, *, windows: Sequence[Window], at: int, burst_us: int = BURST_US[-1]) -> None:
        self.burst_us = burst_us
        self.windows: tuple[Window, ...] = ()
        self.grains = 0
        self.forgiven = 0
        """Grains that were used and could not be debited, because no hour still owed them."""
        self.refilled_at = at
        self.factor = PARTS
        """What of its rate holds, in millionths, while a replica is lost (RULEBOOK 7.8)."""
        self._carry = 0
        self.set_windows(windows, at)

    def set_windows(self, windows: Sequence[Window], at: int) -> None:
        """Replace the hours of the flow from `at` on; what was saved or owed is kept."""
        self.refill(at)
        ordered = tuple(
            sorted((w for w in windows if w.ends_at > at and w.lots > 0), key=lambda w: w.starts_at)
        )
        for earlier, later in pairwise(ordered):
            assert earlier.ends_at <= later.starts_at, "windows of one flow do not overlap"
        self.windows = ordered
        self._settle(at)

    def scale(self, factor: int, at: int) -> None:
        """Have a part of the rate hold from `at` on, in millionths; the burst is scaled with it."""
        self.refill(at)
        self.factor = factor
        self._settle(at)

    def lots(self, at: int) -> int:
        """Return the rate that holds at an instant; zero in a gap."""
        for window in self.windows:
            if window.starts_at <= at < window.ends_at:
                return window.lots
        return 0

    def owed(self, at: int) -> int:
        """Return in grains what the contiguous hours from `at` on will still refill."""
        owed, edge = 0, at
        for window in self.windows:
            if window.ends_at <= at:
                continue
            if window.starts_at > edge:
                break
            owed += window.lots * (window.ends_at - max(at, window.starts_at))
            edge = window.ends_at
        return owed * self.factor // PARTS

    def refill(self, at: int) -> int:
        """Bring the level up to `at` and return it."""
        since = self.refilled_at
        if at <= since:
            return self.grains
        spent = 0
        for window in self.windows:
            if window.starts_at >= at:
                break
            if window.starts_at > since:
                self.grains = min(self.grains, 0)
                since = window.starts_at
            until = min(at, window.ends_at)
            if until > since:
                full = window.lots * self.burst_us * self.factor // PARTS
                parts = window.lots * (until - since) * self.factor + self._carry
                refilled, self._carry = divmod(parts, PARTS)
                self.grains = min(full, self.grains + refilled)
                since = until
            spent += window.ends_at <= at
        if spent:
            self.windows = self.windows[spent:]
        self.refilled_at = at
        self._settle(at)
        return self.grains

    def affords(self, grains: int) -> bool:
        """Whether a request of this charge is in profile: level above zero, its debt still owed."""
        return self.grains > 0 and grains <= self.grains + self.owed(self.refilled_at)

    def debit(self, grains: int) -> int:
        """Take grains and return how many were taken; debt stops at what is still owed."""
        assert grains >= 0, "a debit is not negative"
        taken = min(grains, self.grains + self.owed(self.refilled_at))
        taken = max(taken, 0)
        self.grains -= taken
        self.forgiven += grains - taken
        return taken

    def credit(self, grains: int) -> None:
        """Give back what was charged and not used, up to the burst."""
        assert grains >= 0, "a credit is not negative"
        self.grains += grains
        self._settle(self.refilled_at)

    def ready_at(self, extra_grains: int = 0) -> int | None:
        """Return when the level will be above zero with `extra_grains` more debt, or None: never.

        Windows that follow without a gap refill the same debt; behind a gap the level begins at
        zero and is above it one microsecond later.
        """
        level, at = self.grains - extra_grains, self.refilled_at
        if not self.factor:
            return None
        if level > 0 and self.lots(at):
            return at
        for window in self.windows:
            if window.starts_at > at:
                level, at = max(level, 0), window.starts_at
            needed_us = -((level - 1) * PARTS // (window.lots * self.factor))
            if at + needed_us < window.ends_at:
                return at + max(needed_us, 0)
            level += window.lots * (window.ends_at - at) * self.factor // PARTS
            at = window.ends_at
        return None

    def _settle(self, at: int) -> None:
        """Hold the level between the burst of its rate and the debt that is still owed."""
        self.grains = min(self.grains, self.lots(at) * self.burst_us * self.factor // PARTS)
        floor = -self.owed(at)
        if self.grains < floor:
            self.forgiven += floor - self.grains
            self.grains = floor


class OutputEstimate:
    """What an organization's next output will probably be.

    `max(running mean, p90 of the last 100)`. Reserving the limit instead would leave two thirds of
    the rate idle (RULEBOOK 7.3).
    """

    __slots__ = ("count", "recent", "sorted_recent", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.recent: deque[int] = deque()
        self.sorted_recent: list[int] = []

    def observe(self, output_tokens: int) -> None:
        """Take a finished request into account."""
        self.count += 1
        self.total += output_tokens
        if len(self.recent) == OUTPUT_HISTORY:
            oldest = self.recent.popleft()
            del self.sorted_recent[bisect_left(self.sorted_recent, oldest)]
        self.recent.append(output_tokens)
        insort(self.sorted_recent, output_tokens)

    def tokens(self, output_tokens_max: int) -> int:
        """Return the estimate in tokens, at most the limit; the mean is rounded up."""
        if not self.count:
            return min(OUTPUT_TOKENS_PRIOR, output_tokens_max)
        mean = -(-self.total // self.count)
        rank = -(-9 * len(self.sorted_recent) // 10)
        return min(max(mean, self.sorted_recent[rank - 1]), output_tokens_max)
