"""Two days of trading and delivery, as commands with past timestamps through the real machine.

The market advances in steps of half an hour. In each, the calendar runs, the market-maker renews
the books that are due, traders act on their views, and the intervals that have ended are settled.
Each step is one batch of the engine, so the seeded journal is like any other: it can be replayed
and audited. `COMMANDS_MAX` bounds the whole.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from exchange import commands
from exchange.engine import Engine
from exchange.machine import limits
from exchange.machine.views import InstrumentView
from marketplace import clock, contract, traders

COMMANDS_MAX = 50_000
STEP = contract.HOUR // 2
REQUOTE_EVERY = 6 * contract.HOUR
"""How often a quiet book's quotes are renewed; the last two hours before gate closure, always."""
LATE = 2 * contract.HOUR
LAST_CALL = contract.HOUR
"""How long before gate closure everybody with a need takes care of it."""
DEALS_PER_TRADER = 7
"""Books a trader looks at in a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """An organization that trades in the history."""

    account: int
    trader: traders.Trader


@dataclass(slots=True, kw_only=True)
class History:
    """The past of one demo; `run` makes it. `certified` holds lots by (account, grade)."""

    engine: Engine
    reference_ticks: dict[str, int]
    participants: Sequence[Participant]
    certified: dict[tuple[int, str], int]
    maker: int
    deals_from: int
    """Traders deal in hours that start from here on; what nobody holds needs no delivery."""
    deliver: Callable[[int, int], None]
    """Serves and reports what was bought of the time between two instants."""
    progress: Callable[[int], None] = lambda percent: None
    issued: int = 0
    _quoted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Per book when the maker last quoted it and how much had traded by then."""

    def run(self, *, starts_at: int, ends_at: int) -> None:
        """Trade and deliver from `starts_at` to `ends_at`, which the clock is frozen at in turn."""
        at = starts_at
        while at < ends_at:
            following = min(at - at % STEP + STEP, ends_at)
            clock.freeze(following)
            self._issue([commands.Tick()])
            self.deliver(at, following)
            self.carry_out()
            self._trade(following)
            self.progress((following - starts_at) * 100 // (ends_at - starts_at))
            at = following

    def carry_out(self) -> None:
        """Run the instructions that wait, as one batch."""
        waiting = self.engine.take_instructions()
        if waiting:
            self._count(len(waiting))
            self.engine.run_batch(waiting)

    def _trade(self, at: int) -> None:
        """Let the maker renew its books, then let every trader look at a few."""
        books = list(self._open_books())
        quotes: list[commands.Command] = []
        for book in books:
            quotes.extend(self._requote(book, at))
        if quotes:
            self._issue(quotes)
        wanted = [
            book
            for book in books
            if book.starts_at >= self.deals_from and _terms(book).product is contract.Product.HOUR
        ]
        for one in self.participants:
            deals = [
                order
                for book in _some(wanted, one.trader, at)
                if (order := self._deal(one.account, one.trader, book, at)) is not None
            ]
            if deals:
                self._issue(deals)

    def _open_books(self) -> Iterator[InstrumentView]:
        machine = self.engine.machine
        for symbol in machine.symbols():
            view = machine.instrument_view(symbol)
            if view is not None and self._takes_quotes(view):
                yield view

    def _takes_quotes(self, book: InstrumentView) -> bool:
        """Whether orders can come and go: in continuous trading, or in a call before its freeze.

        Slots are left to the market that follows.
        """
        if not _terms(book).is_energy:
            return False
        if book.state == contract.InstrumentState.CONTINUOUS:
            return True
        machine = self.engine.machine
        call = machine.auction_view(book.symbol)
        return call is not None and bool(call.kind) and machine.at < call.frozen_at

    def _requote(self, book: InstrumentView, at: int) -> list[commands.Command]:
        quoted_at, volume = self._quoted.get(book.symbol, (-REQUOTE_EVERY, -1))
        is_late = book.trading_ends_at - at <= LATE
        is_due = at - quoted_at >= REQUOTE_EVERY or book.volume != volume
        if not (is_due or is_late):
            return []
        self._quoted[book.symbol] = (at, book.volume)
        machine = self.engine.machine
        net = machine.position(self.maker, book.symbol).net_lots
        wanted = traders.ladder(
            terms=traders.MakerTerms(),
            fair=self._fair(book, at),
            band=(book.band_low, book.band_high),
            net_lots=net,
            sellable_lots=self._offered(book, self.certified.get((self.maker, book.grade), 0), at)
            + net,
            buyable_lots=self._offered(book, self._long_max(book), at) - net,
        )
        renewed: list[commands.Command] = [
            commands.CancelOrders(account=self.maker, instrument=book.symbol)
        ]
        for number, quote in enumerate(wanted):
            renewed.append(self._order(self.maker, book.symbol, quote, at, f"{number}"))
        return renewed

    def _deal(
        self, account: int, trader: traders.Trader, book: InstrumentView, at: int
    ) -> commands.PlaceOrder | None:
        bid, ask = self.engine.machine.best(book.symbol)
        position = self.engine.machine.position(account, book.symbol)
        net = position.net_lots
        quote = traders.decide(
            trader=trader,
            symbol=book.symbol,
            fair=self._fair(book, at),
            best=(bid or None, ask or None),
            net_lots=net,
            sellable_lots=self.certified.get((account, book.grade), 0) + min(0, net),
            buyable_lots=self._long_max(book) - net - position.resting_buy_lots,
            band=(book.band_low, book.band_high),
            at=at,
        )
        if quote is None:
            return None
        return self._order(account, book.symbol, quote, at, "deal")

    def _order(
        self,
        account: int,
        symbol: str,
        quote: traders.Quote,
        at: int,
        suffix: str,
    ) -> commands.PlaceOrder:
        client_order_id = f"seed-{symbol}-{at}-{suffix}"
        return commands.PlaceOrder(
            account=account,
            instrument=symbol,
            side=int(quote.side),
            price=quote.price_ticks,
            lots=quote.lots,
            time_in_force="GTC",
            client_order_id=client_order_id,
            fingerprint=hashlib.sha256(client_order_id.encode()).digest(),
        )

    def _long_max(self, book: InstrumentView) -> int:
        """Return how many lots one participant may be long in an hour."""
        supply = sum(lots for (_, grade), lots in self.certified.items() if grade == book.grade)
        return limits.lots_max(supply)

    def _fair(self, book: InstrumentView, at: int) -> int:
        return traders.fair_ticks(
            terms=_terms(book), reference_ticks=self.reference_ticks[book.grade], at=at
        )

    def _offered(self, book: InstrumentView, lots: int, at: int) -> int:
        return traders.offered_lots(_terms(book), lots, at)

    def _issue(self, batch: Sequence[commands.Command]) -> None:
        self._count(len(batch))
        self.engine.execute(batch)

    def _count(self, number: int) -> None:
        self.issued += number
        assert self.issued <= COMMANDS_MAX, "the seed stays within its bound"


def _terms(book: InstrumentView) -> contract.Contract:
    terms = contract.parse_symbol(book.symbol)
    assert terms is not None, "a listed symbol is a contract"
    return terms


def _some(
    books: Sequence[InstrumentView], trader: traders.Trader, at: int
) -> Iterator[InstrumentView]:
    """Return the books a trader looks at in a step: near ones more often than far ones.

    Whoever needs lots also looks at every book that is about to close.
    """
    if not books:
        return
    near = sorted(books, key=lambda book: (book.starts_at, book.id))
    if trader.needs_lots:
        yield from (book for book in near if book.trading_ends_at - at <= LAST_CALL)
    for number in range(DEALS_PER_TRADER):
        draw = traders.noise("look", trader.name, at, number)
        reach = len(near) if draw % 3 else max(1, len(near) // 4)
        yield near[draw // 3 % reach]
