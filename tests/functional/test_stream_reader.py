"""A reader of the public feed that knows nothing but the interface, on a line that loses frames.

The reader shares no code with the server. Its frames are dropped, repeated and swapped at random;
whatever happens, it notices by `previous_sequence`, asks for what it lacks or begins anew, and ends
with the very book that REST shows.
"""

import random
import time
import zlib
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest
import valkey as valkey_client

from exchange import commands
from marketplace import operations
from tests.market import HOUR, Market, buy, sell
from tests.rest import Api, Party, World
from tests.stream import Caller

QUIET_S = 0.15
ROUNDS_MAX = 400


class LossyLine:
    """What a reader hears of a connection: frames get lost, come twice, or change places."""

    def __init__(self, caller: Caller, chance: random.Random) -> None:
        self.caller = caller
        self.chance = chance
        self.held: list[dict[str, Any]] = []

    def hear(self) -> list[dict[str, Any]]:
        """Wait a moment for frames, and return what comes through."""
        with self.caller.news:
            self.caller.news.wait_for(lambda: self.caller.got, QUIET_S)
            frames, self.caller.got = self.caller.got, []
        heard: list[dict[str, Any]] = []
        for frame in frames:
            luck = self.chance.random()
            if luck < 0.15:
                continue
            if luck < 0.30:
                self.held.append(frame)
                continue
            heard += [frame, frame] if luck < 0.45 else [frame]
            heard += self.held
            self.held = []
        if not frames:
            heard, self.held = heard + self.held, []
        return heard


class Reader:
    """A book that is kept from snapshots, deltas and ranges."""

    def __init__(self, line: LossyLine, symbol: str) -> None:
        self.line = line
        self.symbol = symbol
        self.sequence: int | None = None
        self.bids: dict[str, int] = {}
        self.asks: dict[str, int] = {}
        self.early: dict[int, dict[str, Any]] = {}
        self.gaps = self.ranges = self.snapshots = 0
        self.line.caller.subscribe("book", symbol)

    def pump(self) -> None:
        """Take what comes, and insist where something is still missing."""
        frames = self.line.hear()
        for frame in frames:
            self.take(frame)
        if not frames and (self.sequence is None or self.early):
            self.recover()

    def take(self, frame: dict[str, Any]) -> None:
        if frame.get("status"):
            self.begin_anew()
        elif frame["channel"] != "book":
            return
        elif frame["type"] == "snapshot":
            if self.sequence is None or frame["sequence"] > self.sequence:
                self.bids = dict(frame["data"]["bids"])
                self.asks = dict(frame["data"]["asks"])
                self.sequence = frame["sequence"]
                self.snapshots += 1
                assert frame["data"]["checksum"] == self.checksum()
            self.catch_up()
        elif self.sequence is None or frame["previous_sequence"] > self.sequence:
            is_new = not self.early
            self.early[frame["previous_sequence"]] = frame
            if is_new and self.sequence is not None:
                self.gaps += 1
                self.recover()
        elif frame["sequence"] > self.sequence:
            self.apply(frame)
            self.catch_up()

    def apply(self, frame: dict[str, Any]) -> None:
        assert frame["previous_sequence"] == self.sequence, "a delta goes on where another ended"
        for side, levels in ((self.bids, "bids"), (self.asks, "asks")):
            for price, lots in frame["data"][levels]:
                side[price] = lots
                if not lots:
                    del side[price]
        self.sequence = frame["sequence"]
        assert frame["data"]["checksum"] == self.checksum()

    def catch_up(self) -> None:
        assert self.sequence is not None
        while (frame := self.early.pop(self.sequence, None)) is not None:
            self.apply(frame)
        sequence = self.sequence
        self.early = {at: one for at, one in self.early.items() if one["sequence"] > sequence}

    def recover(self) -> None:
        """Ask for what is missing, or for everything."""
        if self.sequence is None or not self.early or self.line.chance.random() < 0.3:
            self.begin_anew()
            return
        self.ranges += 1
        message = {"op": "range", "instrument": self.symbol, "id": f"r{self.ranges}"}
        self.line.caller.send(message | {"from": self.sequence + 1, "to": min(self.early)})

    def begin_anew(self) -> None:
        self.sequence = None
        for op in ("unsubscribe", "subscribe"):
            self.line.caller.send({"op": op, "channel": "book", "instrument": self.symbol})

    def book(self) -> tuple[list[list[Any]], list[list[Any]]]:
        bids = sorted(self.bids.items(), key=lambda level: Decimal(level[0]), reverse=True)
        asks = sorted(self.asks.items(), key=lambda level: Decimal(level[0]))
        return [list(level) for level in bids], [list(level) for level in asks]

    def checksum(self) -> int:
        bids, asks = self.book()
        top = [f"{price}:{lots}" for price, lots in (*bids[:10], *asks[:10])]
        return zlib.crc32("|".join(top).encode())


class Flow:
    """Orders at random, of a buyer and a seller, and cancels of some of them."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.buyer = world.party("Buyer", cash=10_000_000_000)
        self.seller = world.party("Seller", "PROVIDER", cash=10_000_000_000)
        world.cluster(self.seller, lots=100_000)
        self.open: list[tuple[int, int]] = []
        self.count = 0

    def batch(self) -> None:
        """Let the engine do one batch of one to five commands."""
        wanted: list[commands.Command] = []
        for _ in range(self.chance.randint(1, 5)):
            self.count += 1
            price, lots = self.chance.randint(1_235, 1_265), self.chance.randint(1, 9)
            if self.open and self.chance.random() < 0.35:
                account, order = self.open.pop(self.chance.randrange(len(self.open)))
                wanted.append(commands.CancelOrder(account, order))
            elif self.chance.random() < 0.5:
                wanted.append(buy(self.buyer.id, min(price, 1_252), lots, f"o{self.count}"))
            else:
                wanted.append(sell(self.seller.id, max(price, 1_248), lots, f"o{self.count}"))
        for command, happened in zip(wanted, self.world.market.execute(*wanted), strict=True):
            if isinstance(command, commands.PlaceOrder):
                self.open.append((command.account, happened[0].order))


def restart(world: World, valkey: valkey_client.Valkey) -> None:
    """Replace the engine while everything else goes on."""
    world.market.close()
    world.market = Market(valkey)
    world.market.take_over()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_book_is_whole_after_every_recovery_whatever_the_line_loses(
    world: World, call, anyone: Api, valkey: valkey_client.Valkey, seed: int
) -> None:
    chance = random.Random(seed)
    flow = Flow(world, chance)
    reader = Reader(LossyLine(call(), chance), HOUR)
    compared = batches = 0
    recoveries = -1
    while compared < 12:
        batches += 1
        assert batches < ROUNDS_MAX
        flow.batch()
        if batches % 20 == 0:
            restart(world, valkey)
        reader.pump()
        shown = anyone.get(f"instruments/{HOUR}/book", depth=500).json
        if reader.sequence != shown["sequence"]:
            continue
        assert reader.book() == (shown["bids"], shown["asks"])
        assert reader.checksum() == shown["checksum"]
        if reader.gaps + reader.snapshots > recoveries:
            compared, recoveries = compared + 1, reader.gaps + reader.snapshots
    assert reader.gaps >= 5
    assert reader.ranges >= 3
    assert reader.snapshots >= 2
    world.market.close()


def test_the_deltas_over_rest_make_the_book_that_rest_shows(
    world: World, anyone: Api, valkey: valkey_client.Valkey
) -> None:
    flow = Flow(world, random.Random(3))
    for _ in range(40):
        flow.batch()
    book: dict[str, dict[str, int]] = {"bids": {}, "asks": {}}
    sequence, pages, cursor = 0, 0, None
    while pages == 0 or cursor:
        query = {"from": 1, "limit": 7} | ({"cursor": cursor} if cursor else {})
        page = anyone.get(f"instruments/{HOUR}/deltas", **query).json
        for delta in page["results"]:
            assert delta["previous_sequence"] == sequence
            sequence = delta["sequence"]
            for side in ("bids", "asks"):
                for price, lots in delta["data"][side]:
                    book[side][price] = lots
        pages, cursor = pages + 1, page["next_cursor"]
    shown = anyone.get(f"instruments/{HOUR}/book", depth=500).json
    assert pages > 3
    assert sequence == shown["sequence"]
    for side in ("bids", "asks"):
        assert {price: lots for price, lots in book[side].items() if lots} == dict(shown[side])
    for query, blamed in (
        ({}, "from"),
        ({"from": 0}, "from"),
        ({"from": 3, "to": 2}, "to"),
        ({"from": "x"}, "from"),
    ):
        reply = anyone.get(f"instruments/{HOUR}/deltas", **query)
        assert (reply.status, reply.blamed[0][0]) == (400, blamed), query
    assert anyone.get("instruments/LLAMA70B.H.20201201T14Z/deltas", **{"from": 1}).status == 404


class Listener:
    """One connection of an organization, and everything it was told in private."""

    def __init__(self, call: Any, party: Party, key: str) -> None:
        self.party = party
        self.caller: Caller = call()
        self.caller.send({"op": "auth", "key": key})
        for channel in ("orders", "fills", "account"):
            self.caller.subscribe(channel)
        self.told: list[dict[str, Any]] = []

    def listen(self) -> None:
        with self.caller.news:
            self.told += self.caller.got
            self.caller.got = []


def test_nobody_hears_of_another_however_often_connections_and_keys_change(
    world: World, call, valkey: valkey_client.Valkey
) -> None:
    chance = random.Random(4)
    parties = [world.party("A", cash=1_000_000_000), world.party("B", "PROVIDER", cash=7_000_000)]
    world.cluster(parties[1])
    keys = [operations.create_key(organization_id=one.id, scopes=["read"]) for one in parties]
    listeners: list[Listener] = []
    for number in range(60):
        for which in (0, 1):
            listeners.append(Listener(call, parties[which], keys[which].text))
        world.market.execute(
            sell(parties[1].id, 1_250, 2, f"B{number}"), buy(parties[0].id, 1_250, 1, f"A{number}")
        )
        if number % 3 == 0:
            which = chance.randrange(2)
            old, party = keys[which], parties[which]
            keys[which] = operations.create_key(organization_id=party.id, scopes=["read"])
            operations.revoke_key(organization_id=party.id, key_id=old.row.pk)
        if number % 2 == 0:
            chance.choice(listeners).caller.leave()
        if number == 30:
            restart(world, valkey)
    last = Listener(call, parties[0], keys[0].text)
    listeners.append(last)
    last.caller.ask({"op": "ping"})
    deadline = time.monotonic() + 10
    while not all(one.caller.got or one.caller.closed_with is not None for one in listeners):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    counts: dict[str, int] = defaultdict(int)
    for one in listeners:
        one.listen()
        is_first = one.party is parties[0]
        name, cash = ("A", ("1000.", "999.")) if is_first else ("B", ("7.", "6."))
        chain: dict[str, int] = {}
        for frame in one.told:
            channel = frame.get("channel")
            if channel is None or frame.get("status") or frame["type"] == "subscribed":
                continue
            counts[channel] += 1
            rows = frame["data"] if isinstance(frame["data"], list) else []
            for row in rows:
                assert row["client_order_id"].startswith(name), frame
            if channel == "account":
                assert frame["data"]["cash"].startswith(cash), frame
            if frame["type"] == "update":
                assert frame["previous_sequence"] == chain[channel], frame
            chain[channel] = frame["sequence"]
    assert all(counts[channel] > 50 for channel in ("orders", "fills", "account")), counts
    world.market.close()
