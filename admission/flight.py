"""One request from the decision to run it to its end, whatever the end is.

The order of things is what makes the record true: a request is written before it is dispatched, its
totals while it streams, its end before the caller sees the last chunk. A caller that hangs up stops
the upstream at once, and what was generated until then is counted. An upstream that fails before
its first byte may be replaced by another; after it, the stream ends with an error in OpenAI's form.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from admission import answer, dialect, metering, telemetry, upstream
from admission.answer import Assembly, EventReader, Garbled
from admission.decisions import Decision, Overflow, ServiceClass
from admission.meter import Meter
from admission.pools import Pool
from admission.reserves import Hold
from admission.snapshot import Grade
from marketplace import clock, errors

HANG_UP_WAIT_S = 10.0
"""How long an upstream may take to stop after a hang-up and to say what it generated; the caller
has gone and waits for nothing."""
EMBEDDINGS_BYTES_MAX = 256 * 1_024 * 1_024
"""2,048 vectors of 4,096 numbers, written out, are some 170 MB."""
_encoder = msgspec.json.Encoder()


class Out(Protocol):
    """Where an answer goes: a caller, or a probe's own eyes."""

    is_started: bool

    async def start(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin an answer of status 200."""

    async def write(self, data: bytes) -> None:
        """Pass some of it on; returns when there is room for more."""

    async def end(self, data: bytes) -> None:
        """Pass the last of it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as the gateway took it in; times are market time, `_ns` the monotonic clock."""

    organization: int
    key: str
    grade: Grade
    call: dialect.Call
    service_class: ServiceClass
    overflow: Overflow
    body_digest: str
    prompt_tokens: int
    """Estimated by the organization's bytes per token."""
    output_tokens_max: int
    """Per choice."""
    arrived_at: int
    arrived_ns: int
    is_probe: bool = False
    only_pool: int = 0
    is_retry: bool = False
    """Whether the client has declared it one."""
    nonce: str = ""
    """The caller's own word, which its receipt repeats."""
    decided: list[str] = field(default_factory=list)
    """Ids of the decisions on it so far, which are those of their receipts."""


class Interrupted(errors.Unavailable):
    """The upstream broke off, or usage could not be recorded, in the middle of an answer."""

    code, title = "stream_interrupted", "The answer was interrupted"


class Flight:
    """A request that was admitted and recorded, on its way through one upstream."""

    def __init__(
        self,
        *,
        request_id: str,
        ask: Ask,
        pool: Pool,
        decision: Decision,
        hold: Hold | None,
        writer: metering.Writer,
        client: upstream.Client,
        out: Out,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self._id = request_id
        self._ask = ask
        self._pool = pool
        self._served = decision.class_served
        self._priority = decision.priority
        self._hold = hold
        self._writer = writer
        self._client = client
        self._out = out
        self._headers = headers
        self._tier = dialect.TIER_OF_CLASS[decision.class_served.name]
        self._ended: set[int] = set()
        self._held: list[bytes] = []
        self._reader = EventReader()
        self._assembly = None if ask.call.is_stream else Assembly()
        self._last_chunk: dict[str, Any] | None = None
        self._whole = b""
        """An answer that is not streamed, as it goes to the caller."""
        self._recorded: asyncio.Future[None] | None = None
        self._state = ""
        """How it ended, once it has."""
        self.has_begun = False
        """Whether the upstream has sent anything: from here on nothing is tried elsewhere."""
        self.meter = Meter(
            request_id=request_id,
            bound=dialect.bound(ask.call, ask.output_tokens_max),
            weights=ask.grade.weights,
            prompt_estimate=ask.prompt_tokens,
            arrived_ns=ask.arrived_ns,
            at=pool.now(),
        )

    async def run(self) -> None:
        """Carry the request to its end.

        :raises UpstreamFailed: the upstream failed before its first byte; recorded.
        :raises UpstreamRefused: the upstream refused the request itself.
        :raises Interrupted: it broke off later, and nothing was sent to the caller yet.
        :raises CancelledError: the caller hung up; what was generated is recorded.
        """
        opening = asyncio.ensure_future(self._open())
        opened: upstream.Answer | None = None
        try:
            opened = await asyncio.shield(opening)
            if self._ask.call.path == dialect.EMBEDDINGS:
                await self._take_in(opened)
            else:
                await self._relay(opened)
        except asyncio.CancelledError:
            await self._hang_up(opening)
            raise
        except upstream.UpstreamRefused:
            self._settle("ABORTED", is_used=False)
            raise
        except (upstream.UpstreamFailed, Garbled) as failure:
            await self._fail(failure)
        finally:
            # Whatever happened, what the request held is given back.
            self._settle("FAILED")
            if opened is not None:
                opened.close()
        if self._state == "COMPLETED":
            await self._release()

    async def _open(self) -> upstream.Answer:
        ask, cluster = self._ask, self._pool.cluster
        body = dialect.upstream_body(
            ask.call,
            model=ask.grade.code,
            output_tokens_max=ask.output_tokens_max,
            priority=self._priority,
            request_id=self._id,
            cache_salt=f"organization-{ask.organization}",
            is_extended=cluster.is_modelled,
        )
        kind = upstream.JSON if ask.call.path == dialect.EMBEDDINGS else upstream.EVENT_STREAM
        return await self._client.open(cluster.endpoint, ask.call.path, body, self._id, kind=kind)

    # While it comes

    async def _take_in(self, opened: upstream.Answer) -> None:
        """Take an answer that is not streamed in, whole, and keep it until the end is recorded."""
        body = bytearray()
        async for packet in opened.packets():
            body += packet
            if len(body) > EMBEDDINGS_BYTES_MAX:
                raise Garbled("the answer is too long")
        self.meter.streamed_bytes = len(body)
        found, usage = answer.embeddings(bytes(body), self._ask.call.messages)
        # Until here the caller has seen nothing, and nothing of it was of use: another may try.
        self.has_begun = True
        if usage is not None:
            self.meter.claim(usage)
        if self.meter.piece():
            self._pool.first_token(self._id)
        self._pool.succeeded()
        self._settle("COMPLETED")
        billed = self.meter.usage.prompt
        usage_fields = {"prompt_tokens": billed, "total_tokens": billed}
        self._whole = _encoder.encode(found | {"usage": usage_fields})

    async def _relay(self, opened: upstream.Answer) -> None:
        """Pass the answer on as it comes, up to its last chunks, which wait for the record."""
        packets: AsyncIterator[bytes] = opened.packets()
        async for packet in packets:
            pieces, is_done = self._take(packet)
            at = self._pool.charged(self._id, self.meter.mntu)
            if not self.meter.checkpoint(self._writer, at):
                raise upstream.UpstreamFailed("metering_unavailable")
            if pieces:
                if not self._out.is_started:
                    await self._out.start(self._headers)
                since_ns = clock.monotonic_ns()
                await self._out.write(b"".join(pieces))
                self.meter.blocked(clock.monotonic_ns() - since_ns)
            if is_done:
                break
        else:
            if len(self._ended) < self._ask.call.choices:
                raise upstream.UpstreamFailed("broken_off")
        self._pool.succeeded()
        self._settle("COMPLETED")

    def _take(self, packet: bytes) -> tuple[list[bytes], bool]:
        """Read what a packet brings; return the events to pass on and whether it was the last."""
        self.meter.streamed_bytes += len(packet)
        pieces: list[bytes] = []
        for data in self._reader.feed(packet):
            if data == answer.DONE:
                return pieces, True
            chunk = answer.decode(data)
            self.has_begun = True
            usage = answer.usage_of(chunk)
            if usage is not None:
                self.meter.claim(usage)
            choices = chunk.get("choices")
            if choices and _has_output(choices) and self.meter.piece():
                self._pool.first_token(self._id)
            if self._assembly is not None:
                self._assembly.add(chunk)
            else:
                event = self._event(chunk, choices)
                if event is not None:
                    # Nothing of the end is shown before the end is recorded.
                    (self._held if self._is_ending(choices) else pieces).append(event)
            for choice in choices or ():
                if choice.get("finish_reason"):
                    self._ended.add(choice.get("index", 0))
        return pieces, False

    def _is_ending(self, choices: list[dict[str, Any]] | None) -> bool:
        """Whether the last choice has ended, or ends with these."""
        if self._held or not choices:
            return True
        ends = {each.get("index", 0) for each in choices if each.get("finish_reason")}
        return bool(ends) and len(self._ended | ends) >= self._ask.call.choices

    def _event(self, chunk: dict[str, Any], choices: list[dict[str, Any]] | None) -> bytes | None:
        """Return a chunk as the caller asked for it, or None when it is not for him."""
        call = self._ask.call
        chunk["service_tier"] = self._tier
        if not choices:
            return None
        if call.wants_continuous_usage:
            chunk["usage"] = answer.usage_fields(self.meter.usage)
        elif call.wants_usage:
            chunk["usage"] = None
        else:
            chunk.pop("usage", None)
        self._last_chunk = chunk
        return b"data: %b\n\n" % _encoder.encode(chunk)

    # At the end

    def _settle(self, state: str, *, is_used: bool = True) -> None:
        """Give back what the request held, and write down what it used; only once."""
        if self._state:
            return
        self._state = state
        meter = self.meter
        if is_used:
            meter.estimate()
        mntu = meter.mntu
        if state == "COMPLETED":
            self._pool.finish(self._id, mntu=mntu, output_tokens=meter.usage.output)
        else:
            self._pool.abort(self._id, mntu=mntu)
        if self._hold is not None:
            self._hold.end(mntu)
        row = meter.row(state, self._pool.now())
        self._recorded = self._writer.checkpoint(row)
        if not self._ask.is_probe:
            telemetry.ended(
                row,
                path=self._ask.call.path,
                model=self._ask.grade.code,
                pool=self._pool.cluster.public_id,
                service_class=self._served,
                elapsed_ns=clock.monotonic_ns() - self._ask.arrived_ns,
            )

    async def _release(self) -> None:
        """Wait until the end is durable, and let the caller have it."""
        call = self._ask.call
        assert self._recorded is not None, "an end is written before it is released"
        try:
            async with asyncio.timeout(metering.END_WAIT_S):
                await asyncio.shield(self._recorded)
        except TimeoutError:
            await self._interrupt(metering.MeteringUnavailable(retry_after_s=1))
            return
        if not self._out.is_started:
            await self._out.start(self._headers)
        if self._whole:
            await self._out.end(self._whole)
            return
        if self._assembly is not None:
            body = self._assembly.answer(usage=self.meter.usage, service_tier=self._tier)
            await self._out.end(body)
            return
        if call.wants_usage and self._last_chunk is not None:
            tail = self._last_chunk | {
                "choices": [],
                "usage": answer.usage_fields(self.meter.usage),
            }
            self._held.append(b"data: %b\n\n" % _encoder.encode(tail))
        if self._writer.notary is not None:
            name = self._writer.notary.name(self._id)
            self._held.append(f": receipt {self._id} {name}\n\n".encode())
        await self._out.end(b"".join(self._held) + b"data: [DONE]\n\n")

    async def _fail(self, failure: Exception) -> None:
        """Record an upstream's failure and say it where that is still possible.

        :raises UpstreamFailed: when it came before the first byte.
        :raises Interrupted: when nothing was sent to the caller yet.
        """
        reason = failure.reason if isinstance(failure, upstream.UpstreamFailed) else "garbled"
        if reason != "metering_unavailable":
            self._pool.failed()
        self._settle("FAILED", is_used=self.has_begun)
        if not self.has_begun:
            raise upstream.UpstreamFailed(reason)
        await self._interrupt(Interrupted("The upstream broke off in the middle of its answer."))

    async def _interrupt(self, refusal: errors.Refusal) -> None:
        """End a stream with an error; :raises Refusal: when it has not begun."""
        if not self._out.is_started:
            raise refusal
        await self._out.end(b"data: %b\n\n" % dialect.error_body(refusal))

    async def _hang_up(self, opening: "asyncio.Future[upstream.Answer]") -> None:
        """Stop the upstream, count what it generated until then, and write it down."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        try:
            if not self._state:
                with contextlib.suppress(TimeoutError, upstream.UpstreamFailed, Garbled):
                    async with asyncio.timeout(HANG_UP_WAIT_S):
                        await self._stop(opening)
        except upstream.UpstreamRefused:
            pass
        finally:
            is_used = True
            if not opening.done():
                opening.cancel()
            elif not opening.cancelled():
                is_used = opening.exception() is None
                if is_used:
                    opening.result().close()
            self._settle("ABORTED", is_used=is_used)

    async def _stop(self, opening: "asyncio.Future[upstream.Answer]") -> None:
        """Have the upstream stop, and read what it had generated until then."""
        cluster = self._pool.cluster
        if not cluster.is_modelled:
            opened = await opening
            opened.stop()
        else:
            is_stopped = await self._client.abort(cluster.endpoint, self._id)
            opened = await opening
            if not is_stopped:
                # It had not arrived when it was to be aborted; now it has.
                await self._client.abort(cluster.endpoint, self._id)
        async for packet in opened.packets():
            if self._take(packet)[1]:
                return


def _has_output(choices: list[dict[str, Any]]) -> bool:
    """Whether a chunk carries something that was generated, and not only a role."""
    for choice in choices:
        delta = choice.get("delta")
        if delta is None:
            if choice.get("text"):
                return True
        elif isinstance(delta, dict) and any(
            value for name, value in delta.items() if name != "role"
        ):
            return True
    return False
