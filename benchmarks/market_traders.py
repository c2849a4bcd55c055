"""Who trades in the simulated market: makers, providers, hedgers by horizon, speculators, writers.

Each acts once an hour, in its own five minutes, and sees what everybody sees: books, marks, and an
opinion of what tokens are worth that is its own by a few percent. Providers sell a share of what
they are certified for ahead and the rest day by day; makers quote around their opinion and sell
only what they hold; hedgers buy what they expect to use, as far ahead as their kind does; who does
not hedge pays as it goes; speculators follow the trend on margin, long or short; writers sell
insurance. The numbers are choices, named here, and the report says so.
"""

import math
from typing import Any

from benchmarks.market_world import USD, World
from marketplace.contract import DAY, HOUR, Product

MAKER_SPREAD = 0.02
MAKER_LOTS = 20
MAKER_LONG_MAX = 80
OPINION = 0.02
PROVIDER_AHEAD = 0.45
"""Share of its lots that a provider sells as months and weeks."""
PROVIDER_SPARE = 0.06
HEDGE_LIMIT = 1.10
"""A hedger pays at most this over its opinion."""
HEDGE_COVER = 1.15
"""Hedged lots over what is needed on average."""
LEVERAGE = 0.7
"""Share of its free cash that a speculator puts into margin."""


class Organization:
    """What all traders share: an account, a client's shape, and an opinion."""

    role = "organization"

    def __init__(
        self, number: int, *, cash: int, lots: int = 0, client: int = 0, group: int = 0
    ) -> None:
        self.id = number
        self.group = group or number
        self.cash = cash
        self.lots = lots
        self.client = client
        self.turn = number % 12

    def act(self, world: World) -> None:
        """Do what there is to do in this hour."""

    def opinion(self, world: World, terms: Any) -> float:
        """Return what a contract is worth to this one now, in ticks."""
        return world.fair(terms) * (1 + world.rng[self.id].gauss(0, OPINION))


class Maker(Organization):
    """Quotes both sides of near books around its opinion; sells only what it holds."""

    role = "maker"

    def act(self, world: World) -> None:
        """Quote anew, every third hour."""
        if world.at // HOUR % 3 != self.id % 3:
            return
        world.cancel(self.id)
        hours = world.books(Product.HOUR)
        ahead = world.books(Product.DAY)[:4] + world.books(Product.WEEK)[:2]
        ahead += world.books(Product.MONTH)[:2]
        for book in hours + ahead:
            worth = self.opinion(world, book.contract)
            held = world.exposure(self.id, book.contract)
            lean = held / MAKER_LONG_MAX * MAKER_SPREAD
            lots = max(2, MAKER_LOTS // 4) if book.contract.hours > 24 else MAKER_LOTS
            room = min(lots, MAKER_LONG_MAX - held)
            world.order(self.id, book.symbol, 1, worth * (1 - MAKER_SPREAD - lean), room)
            world.order(
                self.id, book.symbol, -1, worth * (1 + MAKER_SPREAD - lean), min(lots, held)
            )


class Provider(Organization):
    """Owns a cluster; sells part of it ahead, and the rest for the day after."""

    role = "provider"

    def __init__(self, number: int, *, cluster: int, certified: int, cash: int) -> None:
        super().__init__(number, cash=cash)
        self.cluster = cluster
        self.certified = certified

    def act(self, world: World) -> None:
        """Offer what is still free of each window."""
        if world.at // HOUR % 4 != self.id % 4:
            return
        self.keep_safe(world)
        world.cancel(self.id)
        ahead = int(self.certified * PROVIDER_AHEAD)
        longer = world.books(Product.MONTH)[:2] + world.books(Product.WEEK)[:2]
        for book in longer:
            left = ahead + world.exposure(self.id, book.contract)
            # Half of what is sold ahead is kept for weeks.
            part = left // 2 if book.contract.product is Product.MONTH else left
            self.offer(world, book, part // 2, 1.015)
        for book in world.books(Product.DAY)[:3]:
            left = int(self.certified * 0.75) + world.exposure(self.id, book.contract)
            self.offer(world, book, left // 2, 1.01)
        for book in world.books(Product.HOUR):
            full = int(self.certified * (1 - PROVIDER_SPARE))
            left = full + world.exposure(self.id, book.contract)
            self.offer(world, book, left // 2, 0.99)
            self.offer(world, book, left - left // 2, 1.04)

    def offer(self, world: World, book: Any, lots: int, over: float) -> None:
        """Offer lots at a markup over its opinion."""
        world.order(self.id, book.symbol, -1, self.opinion(world, book.contract) * over, lots)

    def keep_safe(self, world: World) -> None:
        """Nothing; a kind of provider may switch off here."""


class Hedger(Organization):
    """Buys what it expects to use: by months, weeks, days or hours."""

    role = "hedger"

    def __init__(self, number: int, *, horizon: Product, **more: Any) -> None:
        super().__init__(number, **more)
        self.horizon = horizon

    def act(self, world: World) -> None:
        """Buy what is missing in the books of its horizon, and in shorter ones what that left."""
        if self.horizon is Product.MONTH:
            month = next(iter(world.books(Product.MONTH)), None)
            if month is not None and month.contract.trading_ends_at - world.at < 3 * DAY:
                self.buy(world, month)
        elif self.horizon is Product.WEEK:
            week = next(iter(world.books(Product.WEEK)), None)
            if week is not None and week.contract.trading_ends_at - world.at < 2 * DAY:
                self.buy(world, week)
        elif self.horizon is Product.DAY:
            for day in world.books(Product.DAY)[:2]:
                self.buy(world, day)
        if self.horizon is Product.HOUR or world.at // HOUR % 6 == self.id % 6:
            for hour in world.books(Product.HOUR):
                if self.horizon is Product.HOUR or hour.contract.starts_at - world.at < 12 * HOUR:
                    self.buy(world, hour)

    def buy(self, world: World, book: Any) -> None:
        """Bid for what is missing in a window."""
        terms = book.contract
        need = math.ceil(world.need(self, terms.starts_at, terms.ends_at) * HEDGE_COVER)
        held = world.exposure(self.id, terms)
        if need <= held:
            return
        world.cancel(self.id, book.symbol)
        limit = self.opinion(world, terms) * HEDGE_LIMIT
        world.order(self.id, book.symbol, 1, limit, need - held)


class Payer(Organization):
    """Does not hedge: pays the index and a tenth for what it uses."""

    role = "payer"


class Insured(Payer):
    """Pays as it goes, and holds a price cap for what it uses."""

    role = "insured"

    def act(self, world: World) -> None:
        """Buy the cap nearest to the money while the month has not begun."""
        wanted = math.ceil(self.lots * HEDGE_COVER)
        for book in world.books(Product.CAP)[:1]:
            held = world.net(self.id, book.symbol)
            if held < wanted:
                world.cancel(self.id, book.symbol)
                world.order(self.id, book.symbol, 1, book.band_high, wanted - held)


class Covered(Hedger):
    """Hedges by months, and holds shortage cover beside it."""

    role = "covered"

    def act(self, world: World) -> None:
        """Buy lots as other hedgers do, and cover for them."""
        super().act(world)
        wanted = math.ceil(self.lots * HEDGE_COVER)
        for book in world.books(Product.COVER)[:1]:
            held = world.net(self.id, book.symbol)
            if held < wanted:
                world.cancel(self.id, book.symbol)
                world.order(self.id, book.symbol, 1, book.band_high, wanted - held)


class Writer(Organization):
    """Sells caps and cover, with all that they could pay set aside."""

    role = "writer"

    def act(self, world: World) -> None:
        """Offer lots of the front month's options at their marks."""
        if world.at // HOUR % 3:
            return
        world.cancel(self.id)
        front = world.books(Product.CAP)[:3] + world.books(Product.COVER)[:1]
        for book in front:
            short = -world.net(self.id, book.symbol)
            world.order(self.id, book.symbol, -1, book.mark * 1.02, min(20, 60 - short))


class Speculator(Organization):
    """Follows the trend of a day on margin; `side` is 1 for those who only buy, -1 to sell."""

    role = "speculator"

    def __init__(self, number: int, *, cash: int, side: int, stubborn: bool = False) -> None:
        super().__init__(number, cash=cash)
        self.side = side
        self.stubborn = stubborn
        """Whether it never takes a loss by itself, and leaves that to the clearing house."""

    def act(self, world: World) -> None:
        """Open in the direction of the trend, close when it turns or when delivery comes near."""
        if world.at // HOUR % 6 != self.id % 6:
            return
        world.cancel(self.id)
        now, before = world.data.level(world.since), world.data.level(world.since - DAY)
        trend = now / before - 1
        books = world.books(Product.DAY)[1:5] + world.books(Product.WEEK)[1:2]
        books += world.books(Product.MONTH)[:1] if self.side > 0 else []
        for book in world.books(Product.HOUR) + world.books(Product.DAY)[:2]:
            self.close(world, book)
        for book in books:
            net = world.net(self.id, book.symbol)
            worth = self.opinion(world, book.contract)
            if net and trend * self.side < -0.01 and not self.stubborn:
                world.order(
                    self.id, book.symbol, -self.side, worth * (1 - 0.05 * self.side), abs(net)
                )
            elif trend * self.side > 0.01 or (self.stubborn and not net):
                percent = 10 if self.side > 0 else 20
                each = max(1, book.contract.tick_micros * book.mark * percent // 100)
                lots = int(world.free(self.id) * LEVERAGE / len(books) / each)
                most = 40 if self.side > 0 else 25
                lots = min(lots, most - abs(net))
                world.order(self.id, book.symbol, self.side, worth * (1 + 0.04 * self.side), lots)

    def close(self, world: World, book: Any) -> None:
        """Give up what would be delivered."""
        net = world.net(self.id, book.symbol)
        if not net or (self.stubborn and net < 0):
            return
        edge = book.band_low if net > 0 else book.band_high
        world.order(self.id, book.symbol, -1 if net > 0 else 1, edge, abs(net), now=True)


def usual(world: World, *, scale: int = 1) -> None:
    """Let 56 organizations join, or with a `scale` above 1 so many times fewer of each kind."""
    number = 100
    plan: list[Organization] = []

    def several(count: int) -> range:
        nonlocal number
        first = number + 1
        number += max(1, count // scale)
        return range(first, number + 1)

    for each in several(6):
        plan.append(Maker(each, cash=20_000 * USD))
    for place, each in enumerate(several(8)):
        certified = (120, 160, 200, 240)[place % 4] * (1 if scale == 1 else 2)
        plan.append(
            Provider(each, cluster=each, certified=certified, cash=(3_000, 12_000)[place % 2] * USD)
        )
    client = 0
    for horizon, count in (
        (Product.MONTH, 7),
        (Product.WEEK, 5),
        (Product.DAY, 5),
        (Product.HOUR, 5),
    ):
        for each in several(count):
            client += 1
            lots = 12 + 7 * (each % 4)
            plan.append(Hedger(each, horizon=horizon, cash=10_000 * USD, lots=lots, client=client))
    for each in several(5):
        client += 1
        plan.append(Payer(each, cash=10_000 * USD, lots=8 + each % 3 * 6, client=client))
    for each in several(3):
        client += 1
        plan.append(Insured(each, cash=10_000 * USD, lots=10, client=client))
    for each in several(2):
        client += 1
        plan.append(Covered(each, horizon=Product.MONTH, cash=10_000 * USD, lots=15, client=client))
    for each in several(2):
        plan.append(Writer(each, cash=600_000 * USD))
    for place, each in enumerate(several(8)):
        side = 1 if place % 8 < 5 else -1
        plan.append(
            Speculator(each, cash=(150, 400)[place % 2] * USD, side=side, stubborn=place % 4 == 1)
        )
    for trader in plan:
        world.join(trader)
        if isinstance(trader, Provider):
            world.certify(trader.cluster, trader.id, trader.certified)


def plan_outages(world: World, *, days: int, each: float = 1.5) -> None:
    """Plan outages of every cluster: so many a month, of half an hour to six hours."""
    for cluster, owner in sorted(world.clusters.items()):
        rng = world.rng[owner]
        found = []
        for _ in range(max(1, round(each * days / 30))):
            begins = world.start + int(rng.uniform(2.5, max(3, days)) * DAY)
            length = int(rng.choice((0.5, 0.5, 1, 2, 6)) * HOUR)
            found.append((begins, begins + length, rng.choice((0.0, 0.0, 0.3, 0.6))))
        world.outages[cluster] = sorted(found)
