"""The running totals of one request: what was claimed, what is believed, what has been written.

Totals only grow. A claim is held to its bound before it counts (`admission.bounds`). When no claim
came at all, the end is estimated: the prompt by its bytes, the output by the chunks that carried
some, and marked so (RULEBOOK 7.11, 7.12).
"""

import asyncio

from admission import bounds, metering
from admission.bounds import Bound
from marketplace import clock
from marketplace.contract import Usage, WeightSchedule

TAIL_US_MAX = 3 * clock.SECOND
"""How long a stream goes on after a checkpoint that is not durable yet."""


class Meter:
    """Counts one request from its dispatch to its end."""

    __slots__ = (
        "_arrived_ns",
        "_blocked_ns",
        "_bound",
        "_checkpoint_at",
        "_checkpoint_output",
        "_first_ns",
        "_last_ns",
        "_pending",
        "_pending_at",
        "_prompt_estimate",
        "_request_id",
        "_sequence",
        "_stalled_ns",
        "_weights",
        "has_claim",
        "is_bounded",
        "is_estimated",
        "pieces",
        "streamed_bytes",
        "usage",
    )

    def __init__(
        self,
        *,
        request_id: str,
        bound: Bound,
        weights: WeightSchedule,
        prompt_estimate: int,
        arrived_ns: int,
        at: int,
    ) -> None:
        self._request_id = request_id
        self._bound = bound
        self._weights = weights
        self._prompt_estimate = prompt_estimate
        self._arrived_ns = arrived_ns
        self._first_ns: int | None = None
        self._last_ns = arrived_ns
        self._stalled_ns = 0
        self._blocked_ns = 0
        """What the caller has let us wait between two chunks: all of it, and since the last."""
        self._sequence = 0
        self._checkpoint_at = at
        self._checkpoint_output = 0
        self._pending: asyncio.Future[None] | None = None
        self._pending_at = at
        self.usage = bounds.NOTHING
        self.has_claim = False
        self.is_bounded = False
        self.is_estimated = False
        self.streamed_bytes = 0
        self.pieces = 0
        """Chunks that carried output."""

    @property
    def mntu(self) -> int:
        """Weighted tokens so far."""
        return self._weights.mntu(self.usage)

    def claim(self, usage: Usage) -> None:
        """Take in what the upstream says it has used so far."""
        self.has_claim = True
        held, was_bounded = bounds.hold(
            usage, before=self.usage, bound=self._bound, streamed_bytes=self.streamed_bytes
        )
        self.usage = held
        self.is_bounded = self.is_bounded or was_bounded

    def piece(self) -> bool:
        """Note a chunk that carried output; return whether it was the first."""
        self._last_ns = clock.monotonic_ns()
        self.pieces += 1
        is_first = self._first_ns is None
        if is_first:
            self._first_ns = self._last_ns
        else:
            self._stalled_ns += self._blocked_ns
        self._blocked_ns = 0
        return is_first

    def blocked(self, ns: int) -> None:
        """Note that the caller did not take a piece for so long: no fault of the upstream's."""
        self._blocked_ns += ns

    def estimate(self) -> None:
        """Fill in what no claim said, when the request ends without one."""
        if self.has_claim:
            return
        self.is_estimated = True
        self.usage = Usage(
            prompt=min(self._prompt_estimate, self._bound.prompt_tokens_max),
            cached=0,
            output=min(self.pieces, self._bound.output_tokens_max),
        )

    def checkpoint(self, writer: metering.Writer, at: int) -> bool:
        """Write the totals when it is time; return whether the stream may go on."""
        is_due = (
            self.usage.output - self._checkpoint_output >= metering.CHECKPOINT_TOKENS
            or at - self._checkpoint_at >= metering.CHECKPOINT_US
        )
        if self._pending is not None and self._pending.done():
            self._pending = None
        if is_due and self.has_claim and self._pending is None:
            self._pending = writer.checkpoint(self.row("OPEN", at))
            self._pending_at = at
            self._checkpoint_at = at
            self._checkpoint_output = self.usage.output
        return self._pending is None or at - self._pending_at <= TAIL_US_MAX

    def row(self, state: str, at: int) -> metering.UsageRow:
        """Return the next row of the request's totals."""
        self._sequence += 1
        usage = self.usage
        first_ms = per_token_us = None
        if self._first_ns is not None:
            first_ms = (self._first_ns - self._arrived_ns) // 1_000_000
            if usage.output > 1:
                streaming_ns = max(0, self._last_ns - self._first_ns - self._stalled_ns)
                per_token_us = streaming_ns // 1_000 // (usage.output - 1)
        return metering.UsageRow(
            request_id=self._request_id,
            sequence=self._sequence,
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            output_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            mntu=self.mntu,
            state=state,
            is_estimated=self.is_estimated,
            is_bounded=self.is_bounded,
            first_token_ms=first_ms,
            per_token_us=per_token_us,
            at=at,
        )
