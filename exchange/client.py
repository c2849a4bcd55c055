"""How a process sends commands to the engine and learns what became of them.

A command goes into the stream of the present epoch by one script, which adds it only while that
epoch's engine shows life and its backlog is within `COMMAND_BACKLOG_MAX`: an order that cannot be
served now is refused now (503) and is not placed later. What a process has to send at one moment
goes in one entry, and the replies of a batch come back in one message. While an entry is not
answered the engine is busy with it, so what arrives meanwhile gathers here, where it costs nothing,
and goes as the next: a batch of thirty orders costs little more than one of three. Of many callers
half are with the engine in one entry while the other half are answered and ask again.

A reply can be lost: the engine was killed between its commit and its reply, or Valkey was. After
`REPLY_TIMEOUT_S`, or at once when a new epoch is announced, the sender reads the epoch and then
looks the command up in the database: found, that is the outcome; absent and the epoch moved, it
never happened and never will, because no epoch reads an older one's stream; absent and the epoch
did not move, nobody knows yet (`outcome_unknown`), and the caller asks again with the same id.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import valkey
import valkey.asyncio
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from exchange import commands, envelope, outstanding, queries
from marketplace import clock, errors
from settlement import channels, doorbell

logger = logging.getLogger(__name__)

REPLY_TIMEOUT_S = 5.0
COMMAND_BACKLOG_MAX = 1_000
"""Stream entries that may wait for the engine; an entry holds what one process sent at once."""
ENTRY_COMMANDS_MAX = 500
ENTRY_WHOLE_MAX = 8
"""So few callers are never parted: a batch has a price of its own."""
ENTRY_WAIT_S = 0.02
"""How long an entry waits at most until the one before it is answered."""
CONNECT_TIMEOUT_S = 1.0
SUBSCRIBE_TIMEOUT_S = 2.0
"""How long nothing is sent because its reply could not be heard yet."""
LISTEN_RETRY_S = 0.2
SEND_ATTEMPTS_MAX = 3
LOOKUPS_AT_ONCE_MAX = 4

T = TypeVar("T")

_SEND = """
local epoch = redis.call('GET', KEYS[1])
if not epoch then return {'down', ''} end
if epoch ~= ARGV[1] then return {'moved', epoch} end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return {'full', ''} end
local entry = redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[3], ARGV[4])
if not entry then return {'down', ''} end
return {'sent', entry}
"""


class EngineDown(errors.Unavailable):
    """No engine serves the clearing group; the command was not placed and will not be."""

    code = "engine_unavailable"


class Backlogged(errors.Unavailable):
    """Too many commands wait; this one was not placed and will not be."""

    code = "engine_overloaded"


class NeverPlaced(errors.Unavailable):
    """The engine was replaced before it took the command, which will not be placed."""

    code = "never_placed"


class ClockSkew(errors.Unavailable):
    """The engine's clock and the database's are apart: nothing is taken until they agree."""

    code = "clock_skew"


class InternalError(errors.Refusal):
    """The command broke an invariant and was set aside; it changed nothing."""

    code, status, title = "internal_error", 500, "Internal error"


Outcome = outstanding.Outcome


class Client:
    """Sends the commands of one asyncio process."""

    def __init__(
        self,
        *,
        url: str = "",
        group: str = doorbell.GROUP,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> None:
        self.group = group
        self.reply_timeout_s = reply_timeout_s
        self._url = url or settings.VALKEY_URL
        self._reply_to = f"replies:{secrets.token_hex(8)}"
        self._epoch = ""
        self._correlation = 0
        self._outstanding: dict[int, outstanding.Sent] = {}
        self._unsent: list[range] = []
        """What each caller waits to have sent."""
        self._callers_last = 0
        """Of how many callers the last entry was."""
        self._before: outstanding.Entry | None = None
        self._last: outstanding.Entry | None = None
        """The entry that was sent last, and the one before it."""
        self._held: outstanding.Entry | None = None
        """The one whose answer the next entry is held for."""
        self._sender: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pool: Any = None
        self._is_heard = asyncio.Event()
        """Set while replies are listened to: a command whose reply is missed costs its timeout."""

    async def start(self) -> None:
        """Connect and listen for replies; call it in the loop that will send."""
        self._pool = valkey.asyncio.ConnectionPool.from_url(
            self._url, socket_connect_timeout=CONNECT_TIMEOUT_S
        )
        self._listener = asyncio.create_task(self._listen())
        with contextlib.suppress(EngineDown):
            await self._await_hearing()

    async def stop(self) -> None:
        """Stop listening and disconnect; outstanding commands get no reply any more."""
        for task in (self._listener, self._sender):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._pool is not None:
            await self._pool.disconnect()
        self._listener = self._sender = self._pool = None

    async def submit(self, command: commands.Asked) -> envelope.Reply:
        """Send a command and return its reply once it is durable.

        :raises EngineDown: when there is no engine; nothing was placed.
        :raises Backlogged: when too many wait; nothing was placed.
        :raises NeverPlaced: when the engine was replaced before it took the command.
        :raises KeyReuse: when the id stands for another order.
        :raises OutcomeUnknown: when the outcome could not be learned.
        """
        (outcome,) = await self.submit_many((command,))
        if isinstance(outcome, errors.Refusal):
            raise outcome
        return outcome

    async def submit_many(self, wanted: Sequence[commands.Asked]) -> list[Outcome]:
        """Send commands together and return the outcome of each: a reply, or its refusal."""
        if not wanted:
            return []
        loop = asyncio.get_running_loop()
        group = outstanding.Group(loop.create_future(), len(wanted))
        first = self._correlation + 1
        self._correlation += len(wanted)
        numbers = range(first, first + len(wanted))
        sent = [outstanding.Sent(command, group) for command in wanted]
        self._outstanding.update(zip(numbers, sent, strict=True))
        self._unsent.append(numbers)
        if self._held is not None and self._may_go_before():
            self._held.end()
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        timer = loop.call_later(self.reply_timeout_s, group.end)
        try:
            await group.future
        finally:
            timer.cancel()
            for number in numbers:
                self._outstanding.pop(number, None)
        if any(waiting.outcome is None for waiting in sent):
            await asyncio.gather(*map(self._look_up, sent))
        return [_accepted(waiting.outcome) for waiting in sent]

    async def _look_up(self, waiting: outstanding.Sent) -> None:
        """Learn from the database what nobody answered."""
        if waiting.outcome is None:
            try:
                waiting.outcome = await in_thread(
                    resolve, waiting.command, waiting.epoch, self.group
                )
            except errors.Refusal as refusal:
                waiting.outcome = refusal

    async def _send(self) -> None:
        """Send what waits, entry by entry, until nothing does."""
        while self._unsent:
            await self._await_last()
            batch = [
                (each, self._outstanding[each])
                for each in self._taken()
                if each in self._outstanding
            ]
            if not batch:
                continue
            try:
                await self._send_entry(batch)
            except errors.Refusal as refusal:
                self._last = None
                for _, waiting in batch:
                    waiting.finish(refusal)

    def _taken(self) -> list[int]:
        """Take off what waits what the next entry holds: of many callers, half of those there are.

        Were it all of them, the engine would have nothing to do while they are answered and ask
        again, and this process nothing while the engine works. What a caller sends stays together.
        """
        callers = max(ENTRY_WHOLE_MAX, (len(self._unsent) + self._callers_last + 1) // 2)
        taken: list[int] = []
        count = 0
        for numbers in self._unsent[:callers]:
            if taken and len(taken) + len(numbers) > ENTRY_COMMANDS_MAX:
                break
            taken += numbers
            count += 1
        del self._unsent[:count]
        self._callers_last = count
        return taken

    async def _await_last(self) -> None:
        """Wait until the last entry is answered, or for `ENTRY_WAIT_S`.

        One that is as large goes before, and is there when the engine has done with the last.
        """
        last = self._last
        if last is None or not last.left or self._may_go_before():
            return
        loop = asyncio.get_running_loop()
        last.future = loop.create_future()
        timer = loop.call_later(ENTRY_WAIT_S, last.end)
        self._held = last
        try:
            await last.future
        finally:
            self._held = None
            timer.cancel()

    def _may_go_before(self) -> bool:
        """Whether the next entry may go before the last is answered, which then alone is not.

        It has to be as large, and not small: of as many callers.
        """
        is_alone = self._before is None or not self._before.left
        return is_alone and len(self._unsent) >= max(ENTRY_WHOLE_MAX, self._callers_last)

    async def _send_entry(self, batch: list[tuple[int, outstanding.Sent]]) -> None:
        """Add one entry to the present epoch's stream.

        :raises Unavailable: when it was not added.
        """
        assert self._pool is not None, "the client was started"
        await self._await_hearing()
        items = [(correlation, waiting.command) for correlation, waiting in batch]
        self._before, self._last = self._last, outstanding.Entry(len(batch))
        for _, waiting in batch:
            waiting.entry = self._last
        data = envelope.encode_request(envelope.Request(self._reply_to, items))
        for _ in range(SEND_ATTEMPTS_MAX):
            for _, waiting in batch:
                waiting.epoch = self._epoch
            try:
                line = await self._pool.get_connection("EVAL")
            except (valkey.ValkeyError, OSError) as error:
                raise EngineDown("the way to the engine is closed") from error
            try:
                await line.send_command(*_send_arguments(self.group, self._epoch, data))
                answer, detail = await line.read_response()
            except (valkey.ValkeyError, OSError):
                # Sent or not: nobody knows. The commands wait for a reply, then are looked up.
                await line.disconnect()
                logger.warning("the way to the engine broke while sending")
                return
            finally:
                await self._pool.release(line)
            if answer == b"sent":
                return
            if answer != b"moved":
                raise refused_by(answer)
            self._epoch = detail.decode()
        raise EngineDown("epochs change too quickly")

    async def _await_hearing(self) -> None:
        """Wait until replies are listened to.

        :raises EngineDown: when that takes too long.
        """
        if not self._is_heard.is_set():
            try:
                await asyncio.wait_for(self._is_heard.wait(), SUBSCRIBE_TIMEOUT_S)
            except TimeoutError:
                raise EngineDown(
                    "the way back from the engine is closed", retry_after_s=1
                ) from None

    async def _listen(self) -> None:
        """Hand replies to those who wait, for as long as the client lives."""
        client = valkey.asyncio.Valkey.from_url(
            self._url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=None,  # where nobody trades there is nothing to hear
        )
        epochs = channels.epoch_channel(self.group).encode()
        while True:
            try:
                async with client.pubsub() as pubsub:
                    await pubsub.subscribe(self._reply_to, epochs)
                    async for message in pubsub.listen():
                        if message["type"] != "message":
                            self._is_heard.set()
                        elif message["channel"] == epochs:
                            self._move(message["data"].decode())
                        else:
                            self._take(message["data"])
            except (valkey.ValkeyError, OSError) as error:
                self._is_heard.clear()
                logger.warning("replies are not heard, listening anew: %s", error)
                await asyncio.sleep(LISTEN_RETRY_S)

    def _take(self, data: bytes) -> None:
        """Hand out the replies of one message."""
        found = [
            (waiting, reply)
            for reply in envelope.decode_replies(data)
            if (waiting := self._outstanding.get(reply.correlation)) is not None
        ]
        # The next entry goes out before the answers of this one are written. What is written leaves
        # at the end of a turn of the loop, so the answers are given in the turn after it.
        for waiting, _ in found:
            if waiting.entry is not None:
                waiting.entry.answer()
        asyncio.get_running_loop().call_soon(_finish, found)

    def _move(self, epoch: str) -> None:
        """Let commands of older epochs be looked up at once: nobody will reply to them."""
        if int(epoch) > int(self._epoch or 0):
            self._epoch = epoch
        for waiting in self._outstanding.values():
            if waiting.epoch and int(waiting.epoch) < int(epoch):
                if waiting.entry is not None:
                    waiting.entry.end()
                waiting.finish(None)


def _finish(found: Iterable[tuple[outstanding.Sent, envelope.Reply]]) -> None:
    """Give everybody who waits the reply that came."""
    for waiting, reply in found:
        waiting.finish(reply)


class SyncClient:
    """Sends commands from code that is not asyncio: pages, tasks, the market-maker. One thread."""

    def __init__(
        self,
        *,
        url: str = "",
        group: str = doorbell.GROUP,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> None:
        self.group = group
        self.reply_timeout_s = reply_timeout_s
        self._reply_to = f"replies:{secrets.token_hex(8)}"
        self._epoch = ""
        self._correlation = 0
        self._client: Any = valkey.Valkey.from_url(
            url or settings.VALKEY_URL, socket_connect_timeout=CONNECT_TIMEOUT_S
        )
        self._pubsub: Any = None

    def close(self) -> None:
        """Disconnect."""
        if self._pubsub is not None:
            self._pubsub.close()
        self._client.close()

    def submit_many(self, wanted: Sequence[commands.Asked]) -> list[Outcome]:
        """Send commands in one entry and return the outcome of each: a reply, or its refusal."""
        outcomes: list[Outcome] = []
        for start in range(0, len(wanted), ENTRY_COMMANDS_MAX):
            outcomes += self._submit(wanted[start : start + ENTRY_COMMANDS_MAX])
        return outcomes

    def _submit(self, wanted: Sequence[commands.Asked]) -> list[Outcome]:
        try:
            self._subscribe()
        except (valkey.ValkeyError, OSError):
            self._pubsub = None
            return [EngineDown("the way to the engine is closed") for _ in wanted]
        first = self._correlation + 1
        self._correlation += len(wanted)
        replies: dict[int, envelope.Reply] = {}
        try:
            self._send(envelope.Request(self._reply_to, list(enumerate(wanted, first))))
            self._wait(replies, range(first, first + len(wanted)))
        except errors.Refusal as refusal:
            return [refusal for _ in wanted]
        except (valkey.ValkeyError, OSError):
            self._pubsub = None
        outcomes: list[Outcome] = []
        for correlation, command in enumerate(wanted, first):
            try:
                reply = replies.get(correlation) or resolve(command, self._epoch, self.group)
                outcomes.append(accepted(reply))
            except errors.Refusal as refusal:
                outcomes.append(refusal)
        return outcomes

    def _subscribe(self) -> None:
        """Listen for replies before anything is sent, and forget what is of another time.

        :raises ValkeyError: when that cannot be had in time.
        """
        if self._pubsub is None:
            self._pubsub = self._client.pubsub()
            self._pubsub.subscribe(self._reply_to, channels.epoch_channel(self.group))
            for _ in range(2):
                if self._pubsub.get_message(timeout=SUBSCRIBE_TIMEOUT_S) is None:
                    raise valkey.TimeoutError("replies cannot be heard yet")
        while self._pubsub.get_message(timeout=0.0) is not None:
            pass

    def _send(self, request: envelope.Request) -> None:
        """:raises Unavailable: when the entry was not added."""
        data = envelope.encode_request(request)
        for _ in range(SEND_ATTEMPTS_MAX):
            answer, detail = self._client.execute_command(
                *_send_arguments(self.group, self._epoch, data)
            )
            if answer == b"sent":
                return
            if answer != b"moved":
                raise refused_by(answer)
            self._epoch = detail.decode()
        raise EngineDown("epochs change too quickly")

    def _wait(self, replies: dict[int, envelope.Reply], wanted: range) -> None:
        """Gather replies until all are here, the time is up or the epoch is over."""
        deadline_ns = clock.monotonic_ns() + int(self.reply_timeout_s * 1e9)
        while any(each not in replies for each in wanted):
            left_s = (deadline_ns - clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                return
            message = self._pubsub.get_message(timeout=left_s)
            if message is None or message["type"] != "message":
                continue
            if message["channel"] == self._reply_to.encode():
                for reply in envelope.decode_replies(message["data"]):
                    replies[reply.correlation] = reply
            elif int(message["data"]) > int(self._epoch):
                return


async def in_thread(read: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Return what a query returns, without holding up the loop, and hand its connection back.

    It is asked for after a command was sent on: without the database its outcome is not known here.

    :raises OutcomeUnknown: when the database does not answer.
    """

    def run() -> T:
        try:
            return read(*arguments, **named)
        except (OperationalError, InterfaceError) as error:
            raise errors.OutcomeUnknown(
                "the database does not answer; ask again with the same id", retry_after_s=1
            ) from error
        finally:
            connection.close()

    return await asyncio.get_running_loop().run_in_executor(_threads, run)


def refused_by(answer: bytes) -> errors.Refusal:
    """Return the refusal that the sending script's answer stands for."""
    if answer == b"full":
        return Backlogged("too many commands wait for the engine", retry_after_s=1)
    return EngineDown("the engine does not run; nothing was placed", retry_after_s=1)


def accepted(reply: envelope.Reply) -> envelope.Reply:
    """Return a reply that is an outcome, applied or replayed.

    :raises Refusal: what any other reply stands for.
    """
    if reply.result == envelope.KEY_REUSE:
        raise errors.KeyReuse("client_order_id was used with another order")
    if reply.result == envelope.CLOCK_SKEW:
        raise ClockSkew()
    if reply.result == envelope.INTERNAL_ERROR:
        raise InternalError()
    return reply


def _accepted(outcome: Outcome | None) -> Outcome:
    """Return an outcome, with the refusal that its reply may stand for."""
    assert outcome is not None, "who had no answer was looked up"
    if isinstance(outcome, errors.Refusal):
        return outcome
    try:
        return accepted(outcome)
    except errors.Refusal as refusal:
        return refusal


def resolve(command: commands.Asked, epoch: str, group: str) -> envelope.Reply:
    """Return the outcome of a command that was sent in an epoch and never answered.

    :raises EngineDown: when it was only a question.
    :raises NeverPlaced: when it did not happen and never will.
    :raises OutcomeUnknown: when that is not known yet.
    """
    if isinstance(command, commands.PreviewOrder):
        raise EngineDown("the engine did not answer", retry_after_s=1)
    # The epoch first: what is absent after it moved stays absent.
    has_moved = queries.epoch(group) != int(epoch or 0)
    reply = queries.outcome(command, group)
    if reply is not None:
        return reply
    if has_moved and isinstance(command, _FOUND_WHERE_APPLIED):
        raise NeverPlaced("the engine was replaced before it took the command")
    raise errors.OutcomeUnknown("ask again with the same id", retry_after_s=1)


_FOUND_WHERE_APPLIED = (
    commands.PlaceOrder,
    commands.PlaceStrip,
    commands.AmendOrder,
    commands.CancelOrder,
    commands.CancelAllAfter,
)
_threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE_MAX, thread_name_prefix="lookup")


def _send_arguments(group: str, epoch: str, data: bytes) -> tuple[Any, ...]:
    """Return the words of the sending script's call."""
    stream = doorbell.stream_key(int(epoch or 0), group)
    return (
        "EVAL",
        _SEND,
        2,
        doorbell.engine_key(group),
        stream,
        epoch,
        COMMAND_BACKLOG_MAX,
        channels.REQUEST_FIELD,
        data,
    )
