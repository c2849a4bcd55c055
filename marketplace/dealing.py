"""Orders that come over the WebSocket, and what becomes of them when their connection ends.

The commands go the way of order entry's (`exchange.client`), under the same limits and the same
memory of client order ids; a connection sends them in the order in which it was told, and reads on
while they are carried out. A key that has to sign its requests cannot trade here, because nothing
after the handshake is signed.

A connection may ask that all open orders of its organization are canceled when it ends. The process
does that when it sees the end; for an end of the process itself it keeps a dead-man's switch at the
engine, one for each organization, which fires when it has not been renewed for `SWITCH_TIMEOUT_S`.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from typing import Any, Final

from exchange import client, commands, envelope, events, intake, operations, wire
from marketplace import clock, errors, keys
from marketplace import wire as text

SWITCH_TIMEOUT_S: Final = 10
SWITCH_RENEW_S: Final = 3.0
FAREWELL_TRIES_MAX: Final = 10
FAREWELL_RETRY_S: Final = 1.0
STOP_S: Final = 3.0

log = logging.getLogger(__name__)


class Desk:
    """The way of this process's connections to the engine, and who is to be canceled for."""

    def __init__(self) -> None:
        self._client: client.Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._switch = ""
        self._staying: dict[int, set[object]] = {}
        """By organization the connections that cancel when they end."""
        self._renewing: asyncio.Task[None] | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    async def open(self) -> client.Client:
        """Return the way to the engine on the running loop, opened when first asked for."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._client, self._opening = loop, None, asyncio.Lock()
            self._staying, self._renewing, self._farewells = {}, None, set()
        async with self._opening:
            if self._client is None:
                opened = client.Client()
                await opened.start()
                self._client = opened
                self._switch = f"stream:{secrets.token_hex(8)}"
        return self._client

    async def stop(self) -> None:
        """Cancel for those who have just left, then close the way; another loop's is not ours."""
        if self._loop is not asyncio.get_running_loop():
            return
        if self._farewells:
            await asyncio.wait(tuple(self._farewells), timeout=STOP_S)
        for task in (self._renewing, *self._farewells):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._renewing = None
        self._staying.clear()
        if self._client is not None:
            await self._client.stop()
            self._client = None

    # Cancel on disconnect

    async def stay(self, organization: int, connection: object) -> None:
        """Cancel all open orders of the organization when this connection ends.

        :raises Refusal: when the engine did not take the switch.
        """
        way = await self.open()
        self._staying.setdefault(organization, set()).add(connection)
        try:
            reply = await way.submit(self._renewal(organization))
            taken = [event for event in reply.events if isinstance(event, events.SwitchSet)]
            if not any(event.due_at for event in taken):
                raise operations.refused("unknown_account")
        except errors.Refusal:
            self._forget(organization, connection)
            raise
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def release(self, organization: int, connection: object) -> None:
        """Cancel nothing when this connection ends.

        :raises Refusal: when the engine did not take the switch back.
        """
        way = await self.open()
        if self._forget(organization, connection):
            await way.submit(self._renewal(organization, timeout=0))

    def leave(self, organization: int, connection: object) -> None:
        """Cancel all open orders of an organization: a connection that stayed has ended."""
        is_last = self._forget(organization, connection)
        self._spawn(self._say_farewell(organization, is_last=is_last))

    async def _say_farewell(self, organization: int, *, is_last: bool) -> None:
        """Cancel, until the engine has; where it never does, its switch will."""
        cancel = commands.CancelOrders(account=organization, reason="disconnected")
        for _ in range(FAREWELL_TRIES_MAX):
            try:
                way = await self.open()
                await way.submit(cancel)
                if is_last and organization not in self._staying:
                    await way.submit(self._renewal(organization, timeout=0))
            except errors.Refusal:
                await asyncio.sleep(FAREWELL_RETRY_S)
            else:
                return
        log.error("the orders of %d are left to their switch", organization)

    async def _renew(self) -> None:
        """Renew the switches for as long as there are any."""
        while self._staying:
            await asyncio.sleep(SWITCH_RENEW_S)
            wanted = [self._renewal(organization) for organization in self._staying]
            for outcome in await (await self.open()).submit_many(wanted):
                if isinstance(outcome, errors.Refusal):
                    log.warning("a switch was not renewed: %s", outcome.code)

    def _renewal(
        self, organization: int, *, timeout: int = SWITCH_TIMEOUT_S * clock.SECOND
    ) -> commands.CancelAllAfter:
        return commands.CancelAllAfter(account=organization, timeout=timeout, name=self._switch)

    def _forget(self, organization: int, connection: object) -> bool:
        """Forget a connection; return whether it was the last of its organization."""
        staying = self._staying.get(organization, set())
        staying.discard(connection)
        if staying:
            return False
        return self._staying.pop(organization, None) is not None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


def trader(key: keys.Key | None) -> keys.Key:
    """Return the key when it may trade on a connection.

    :raises Unauthenticated: when there is none.
    :raises Forbidden: when it may not trade, or has to sign what it sends.
    """
    if key is None:
        raise errors.Unauthenticated("orders need auth with a key, or a session")
    key.require("trade")
    if key.public_key is not None:
        raise errors.Forbidden("a key that signs its requests cannot trade over a WebSocket")
    return key


async def place(
    way: client.Client, organization: int, given: intake.OrderIn
) -> tuple[wire.OrderOut, bool]:
    """Enter an order; return it once it is durable, and whether it had come before.

    :raises Refusal: as order entry does.
    """
    reply = await way.submit(intake.place_order(organization, given))
    return operations.order_of(reply), reply.result == envelope.REPLAYED


async def amend(
    way: client.Client, organization: int, order: str, given: intake.AmendIn
) -> wire.OrderOut:
    """Amend an order and return it.

    :raises Refusal: as order entry does.
    """
    number = text.parse_id(order)
    reply = await way.submit(intake.amend_order(organization, number, given))
    return await client.in_thread(
        operations.amended, organization=organization, order=number, reply=reply
    )


async def cancel(way: client.Client, organization: int, order: str) -> wire.OrderOut:
    """Cancel an order and return it.

    :raises Refusal: as order entry does.
    """
    number = text.parse_id(order)
    reply = await way.submit(commands.CancelOrder(account=organization, order=number))
    return await client.in_thread(
        operations.canceled, organization=organization, order=number, reply=reply
    )
