"""Those who cheat in the simulated market, and their honest twins.

Each is one or two accounts that do the same business in both forms; with `cheats` they do one thing
more. What it gains is what all of its accounts have at the end of a run over what they have at the
end of the same run without it. A group that is *hidden* is two groups to the exchange.

* `wash`: pays as it goes for many lots, and passes lots to and fro with a partner between the best
  bid and the best ask, near the bid, to bring the index down that it pays by.
* `switch_off`, `switch_off_hidden`: a seller switches its cluster off in hours in which its
  affiliate is what it mostly serves; the affiliate holds shortage cover and asks for twice as much.
* `invented`: a hedger that uses half of its lots asks for five times as much while a cluster that
  it is served by is down; `invented_always` does so at all times, for what is paid is paid.
* `corner`: buys what there is of one hour of the next day up to its limit, and offers it dear.
"""

import math
from typing import Any

from benchmarks.market_traders import Covered, Hedger, Organization, Provider
from benchmarks.market_world import GRADE, USD, World
from marketplace.contract import DAY, HOUR, Product

NAMES = ("wash", "switch_off", "switch_off_hidden", "invented", "invented_always", "corner")
FIRST = {name: 900 + 10 * place for place, name in enumerate(NAMES)}
CORNERED = 18
"""The hour of the day that is cornered."""
WASH_LOTS = 30


class Washer(Hedger):
    """Holds a few lots of each hour, pays as it goes for many more, and may wash."""

    role = "cheat"

    def __init__(self, number: int, *, cheats: bool, partner: int, **more: Any) -> None:
        super().__init__(number, horizon=Product.HOUR, **more)
        self.cheats = cheats
        self.partner = partner
        self.turn = -1

    def act(self, world: World) -> None:
        """Buy once an hour; pass lots to the partner every ten minutes, and back."""
        if world.at % HOUR // (HOUR // 12) == self.id % 12:
            for hour in world.books(Product.HOUR):
                held = world.exposure(self.id, hour.contract)
                if held < WASH_LOTS:
                    world.cancel(self.id, hour.symbol)
                    limit = self.opinion(world, hour.contract) * 1.05
                    world.order(self.id, hour.symbol, 1, limit, WASH_LOTS - held)
        turn = world.at // (HOUR // 6)
        if not self.cheats or turn % 2 != self.id % 2 or world.at % (HOUR // 6) > HOUR // 12:
            return
        for hour in world.books(Product.HOUR)[:6]:
            bid, ask = world.machine.best(hour.symbol)
            lots = min(WASH_LOTS, world.exposure(self.id, hour.contract))
            if hour.is_open and bid and ask - bid >= 2 and lots:
                world.cancel(self.id, hour.symbol)
                world.cancel(self.partner, hour.symbol)
                world.order(self.partner, hour.symbol, 1, bid + 1, lots)
                world.order(self.id, hour.symbol, -1, bid + 1, lots, now=True)


class Switcher(Provider):
    """A small provider that may switch off while it mostly serves its affiliate."""

    role = "provider"

    def __init__(self, number: int, *, cheats: bool, affiliate: int, **more: Any) -> None:
        super().__init__(number, **more)
        self.cheats = cheats
        self.affiliate = affiliate
        self.turn = -1

    def act(self, world: World) -> None:
        """Switch off for five minutes at a time where that hurts itself least."""
        if world.at % HOUR // (HOUR // 12) == self.id % 12:
            super().act(world)
        hour = world.machine.state.hours.get((GRADE, world.at - world.at % HOUR))
        if not self.cheats or hour is None:
            return
        own = [a for a in hour.allocations.values() if a.cluster == self.cluster]
        theirs = sum(a.lots for a in own if a.holder == self.affiliate)
        if theirs and 2 * theirs >= sum(a.lots for a in own):
            world.switched[self.cluster] = world.at + HOUR // 12
            world.demand_factor[self.affiliate] = 2.0
        else:
            world.demand_factor[self.affiliate] = 1.0


class Inventor(Hedger):
    """Uses half of what it buys, and may ask for more when it is not served, or always."""

    role = "cheat"

    def __init__(self, number: int, *, cheats: bool, always: bool, **more: Any) -> None:
        super().__init__(number, horizon=Product.HOUR, **more)
        self.cheats = cheats
        self.always = always
        self.turn = -1

    def act(self, world: World) -> None:
        """Buy twice what is needed once an hour; look for outages in each interval."""
        if world.at % HOUR // (HOUR // 12) == self.id % 12:
            super().act(world)
        if not self.cheats:
            return
        hour = world.machine.state.hours.get((GRADE, world.at - world.at % HOUR))
        own = hour.allocations.values() if hour is not None else ()
        is_down = any(
            a.cluster and a.holder == self.id and world.served(a.cluster, world.at) < 1 for a in own
        )
        world.demand_factor[self.id] = 5.0 if is_down or self.always else 1.0

    def buy(self, world: World, book: Any) -> None:
        """Bid for twice what is needed."""
        terms = book.contract
        need = 2 * math.ceil(world.need(self, terms.starts_at, terms.ends_at))
        held = world.exposure(self.id, terms)
        if need > held:
            world.cancel(self.id, book.symbol)
            world.order(self.id, book.symbol, 1, self.opinion(world, terms) * 1.1, need - held)


class Cornerer(Organization):
    """May buy one hour of every day up to its limit, and offer it at the band's top."""

    role = "cheat"

    def __init__(self, number: int, *, cheats: bool, **more: Any) -> None:
        super().__init__(number, **more)
        self.cheats = cheats

    def act(self, world: World) -> None:
        """Take everything until the morning of the day; sell what there is afterwards."""
        if not self.cheats:
            return
        for book in world.books(Product.HOUR):
            terms = book.contract
            if terms.starts_at % DAY // HOUR != CORNERED:
                continue
            held = world.net(self.id, book.symbol)
            world.cancel(self.id, book.symbol)
            if terms.starts_at - world.at > 12 * HOUR:
                most = sum(c.lots for c in world.machine.state.clusters.values()) // 4
                world.order(self.id, book.symbol, 1, book.band_high, most - held)
            elif terms.starts_at - world.at > 2 * HOUR:
                world.order(self.id, book.symbol, -1, book.band_high, held)
            else:
                world.order(self.id, book.symbol, -1, self.opinion(world, terms), held)


def join(world: World, name: str, *, cheats: bool) -> list[int]:
    """Let one who cheats, or its honest twin, join; return its accounts."""
    first = FIRST[name]
    cash = 20_000 * USD
    traders: list[Organization]
    if name == "wash":
        one = Washer(first, cheats=cheats, partner=first + 1, cash=cash, lots=80, client=3)
        two = Washer(first + 1, cheats=cheats, partner=first, cash=cash, lots=30, client=5)
        traders = [one, two]
    elif name.startswith("switch_off"):
        group = first if name == "switch_off" else 0
        seller = Switcher(
            first, cheats=cheats, affiliate=first + 1, cluster=first, certified=60, cash=cash
        )
        buyer: Organization = Covered(
            first + 1, horizon=Product.HOUR, cash=cash, lots=40, client=7, group=group
        )
        buyer.role = "cheat"
        # The affiliate joins first: cover may be held only while the group has no cluster.
        traders = [buyer, seller]
    elif name.startswith("invented"):
        always = name.endswith("always")
        traders = [Inventor(first, cheats=cheats, always=always, cash=cash, lots=25, client=9)]
    else:
        traders = [Cornerer(first, cheats=cheats, cash=cash)]
    for trader in traders:
        world.join(trader)
        if isinstance(trader, Provider):
            world.certify(trader.cluster, trader.id, trader.certified)
    return [trader.id for trader in traders]
