"""The web process's application on a free port of this process, with an engine behind it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
import valkey as valkey_client

from config import asgi
from marketplace import http, keys, models
from marketplace.views import people
from settlement import instructions
from settlement import models as settlement_models
from settlement import queries as settlement_queries
from tests.market import GRADE, Market, define_grade
from tests.rest import World

START_SECONDS_MAX = 20


@dataclass
class Served:
    """A market with pages, REST and the WebSocket at `origin`."""

    world: World
    origin: str


@contextmanager
def serving(valkey: valkey_client.Valkey) -> Iterator[Served]:
    """Serve a market of one grade, in which nobody has an account yet."""
    for limiter in (http.READS, http.WRITES, people.ATTEMPTS):
        limiter._full_at.clear()
    market = Market(valkey)
    market.take_over()
    define_grade()
    models.Grade.objects.update(is_listed=True)
    market.instruct("grade", instructions.DefineGrade(grade=GRADE, reference_price_ticks=1_250))
    keys.shared_ring()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(asgi.application, port=port, log_level="warning", ws="websockets")
    )

    async def serve() -> None:
        await server.serve()
        await asyncio.get_running_loop().shutdown_default_executor()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    with market.running():
        market.work = applied  # the engine works by itself; what is written is waited for
        thread.start()
        until = time.monotonic() + START_SECONDS_MAX
        while not server.started:
            assert time.monotonic() < until, "the server starts"
            thread.join(0.05)
        try:
            yield Served(world=World(market=market), origin=f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(START_SECONDS_MAX)
    market.close()


def applied() -> None:
    """Return when the running engine has taken every instruction."""
    instruction = settlement_models.Instruction
    pending = instruction.objects.filter(state=instruction.State.PENDING)
    for waiting in list(pending.values_list("id", flat=True)):
        settlement_queries.wait_for_instruction(waiting, timeout_s=START_SECONDS_MAX)
