"""The demo's market-maker at work: every open book two-sided, in batches, and quiet when nothing
moves. It quotes in calls too, until they are frozen.

It looks at the market once a second with one small query, and renews quotes only where there is a
reason: a book that has opened or whose band has moved, its own fills, or a step of the reference
(`traders.fair_ticks` holds still for a quarter of an hour). What it wants and what rests are
compared (`traders.requote`), so an order that is still right keeps its place. It is an
organization like any other: it owns clusters, sells no more than they are certified for, buys no
more than one group may hold, and its orders go through the same stream as everybody's. Shortage
cover it can only write, for who has clusters may not hold it; another organization bids for that.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import DatabaseError, connection

from exchange import commands, events
from exchange import models as exchange_models
from exchange import operations as exchange_operations
from exchange.machine import limits
from marketplace import clock, contract, errors, models, traders
from settlement import delivery
from settlement import models as settlement_models

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
COMMANDS_PER_BATCH_MAX = 200
RESTING_MAX = 20_000
UNCOVERED_LEAD = contract.DAY + contract.HOUR
"""What starts later than this it also offers beyond its certificates, which it expects to renew;
nearer than that nobody may be uncovered."""
OPTIONS_MAX = 10
"""How many lots of an option it writes, or is held for it, at most."""
SLOTS_HELD_MAX = 50
"""How many slots of a class it buys in an hour, before what it sells."""
_CALL = models.Instrument.State.CALL


@dataclass(frozen=True, slots=True)
class Book:
    """What decides the quotes of one book besides the market's time."""

    symbol: str
    terms: contract.Contract
    band: tuple[int, int]
    volume_lots: int
    last: int
    reference: int
    mark: int


Wanted = dict[tuple[str, int], list[traders.Quote]]
"""Quotes by book and by the organization that gives them."""


class Certified(NamedTuple):
    """Lots of a cluster, and until when they are certified."""

    grade: str
    organization: int
    lots: int
    timed_lots: int
    """How many of them may be slots."""
    until: int


def _limited_until(terms: contract.Contract) -> int:
    """Return until when supply counts for what may be bought: for longer windows, of the month.

    All tenors count together in a month's limit, which is that of its last hour.
    """
    if terms.product is contract.Product.HOUR:
        return terms.ends_at
    return contract.add_months(terms.ends_at - contract.HOUR, 1)


@dataclass(slots=True, kw_only=True)
class Maker:
    """Quotes for one organization; `terms` are the same for all grades."""

    organization: int
    bidder: int = 0
    """Who bids for shortage cover; 0: nobody."""
    terms: traders.MakerTerms = field(default_factory=traders.MakerTerms)
    stopped: threading.Event = field(default_factory=threading.Event)
    _seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """Per book what its quotes were last made from."""
    _refused: set[str] = field(default_factory=set)
    """Books of which the last look's orders were refused."""
    _number: int = 0
    _waits_for: str = ""

    def run(self) -> None:
        """Quote until stopped; an engine that is away is waited for."""
        while not self.stopped.wait(LOOK_EVERY_S):
            try:
                self.look()
            except errors.Refusal as refusal:
                self._wait(refusal.detail)
            except DatabaseError as error:
                self._wait(type(error).__name__)
                connection.close()
            else:
                self._waits_for = ""
            finally:
                connection.close_if_unusable_or_obsolete()

    def _wait(self, reason: str) -> None:
        """Note why no quote can be made now, once for each reason; then begin anew."""
        if reason != self._waits_for:
            logger.warning("quotes wait: %s", reason)
        self._waits_for = reason
        self._seen.clear()

    def look(self) -> int:
        """Renew the quotes that have a reason to change; return how many commands that took."""
        books = self._open_books()
        net_lots = self._net_lots()
        at = clock.now_micros()
        reference_ticks = dict(models.Grade.objects.values_list("code", "reference_price_ticks"))
        wanted: Wanted = {}
        reasons: dict[str, tuple[object, ...]] = {}
        certified = self._certified()
        for book in books:
            if not book.terms.is_energy:
                reason, quotes = (
                    self._slots(book, certified, net_lots)
                    if book.terms.service_class
                    else self._options(book, net_lots)
                )
                reasons[book.symbol] = reason
                if self._seen.get(book.symbol) != reason:
                    wanted |= quotes
                continue
            fair = traders.fair_ticks(
                terms=book.terms, reference_ticks=reference_ticks[book.terms.grade], at=at
            )
            net = net_lots.get((book.symbol, self.organization), 0)
            grade = book.terms.grade
            holding = [c for c in certified if c.grade == grade and c.until >= book.terms.ends_at]
            own = sum(c.lots for c in holding if c.organization == self.organization)
            if book.terms.starts_at - at > UNCOVERED_LEAD:
                own = max(own, limits.LOTS_FREE)
            sellable = traders.offered_lots(book.terms, own, at) + net
            until = _limited_until(book.terms)
            most = limits.lots_max(
                sum(c.lots for c in certified if c.grade == grade and c.until >= until)
            )
            buyable = traders.offered_lots(book.terms, most, at) - net
            reasons[book.symbol] = (fair, net, sellable, buyable, book.band, book.volume_lots)
            if self._seen.get(book.symbol) != reasons[book.symbol]:
                wanted[book.symbol, self.organization] = traders.ladder(
                    terms=self.terms,
                    fair=fair,
                    band=book.band,
                    net_lots=net,
                    sellable_lots=sellable,
                    buyable_lots=buyable,
                    last=book.last,
                )
        refused: set[str] = set()
        sent = self._renew(wanted, refused) if wanted else 0
        # Quotes elsewhere, which left a moment later, may have been in the way: asked again once.
        again = refused - self._refused
        self._seen = {symbol: each for symbol, each in reasons.items() if symbol not in again}
        self._refused = self._refused - {symbol for symbol, _ in wanted} | refused
        return sent

    def _slots(
        self, book: Book, certified: Sequence[Certified], net_lots: dict[tuple[str, int], int]
    ) -> tuple[tuple[object, ...], Wanted]:
        """Return why the quotes of a book of slots would change, and what they are.

        It offers half of what it may sell of both classes, so that one leaves room for the other.
        """
        terms = book.terms
        net = net_lots.get((book.symbol, self.organization), 0)
        most = sum(
            min(c.lots * delivery.P0_PERCENT_MAX // 100, c.timed_lots // 2)
            for c in certified
            if c.organization == self.organization
            and c.grade == terms.grade
            and c.until >= terms.ends_at
        )
        # The middle is where the book began, not where the last trade was.
        quotes = traders.ladder(
            terms=traders.SLOT_TERMS,
            fair=book.reference,
            band=book.band,
            net_lots=net,
            sellable_lots=most + net,
            buyable_lots=SLOTS_HELD_MAX - net,
        )
        reason = net, most, book.reference, book.band, book.volume_lots
        return reason, {(book.symbol, self.organization): quotes}

    def _options(
        self, book: Book, net_lots: dict[tuple[str, int], int]
    ) -> tuple[tuple[object, ...], Wanted]:
        """Return why the quotes of a book of options would change, and what they are.

        The middle is the mark, which follows the month while nobody trades.
        """
        is_cover = book.terms.product is contract.Product.COVER
        buyer = self.bidder if is_cover else self.organization
        net = net_lots.get((book.symbol, self.organization), 0)
        held = net_lots.get((book.symbol, buyer), 0)
        low, high = book.band
        quotes = traders.ladder(
            terms=traders.OPTION_TERMS,
            fair=max(low + 1, min(book.mark or book.reference, high - 1)),
            band=book.band,
            net_lots=0,
            sellable_lots=OPTIONS_MAX + net,
            buyable_lots=OPTIONS_MAX - held if buyer else 0,
        )
        wanted: Wanted = {(book.symbol, self.organization): []}
        for quote in quotes:
            account = buyer if quote.side is contract.Side.BUY else self.organization
            wanted.setdefault((book.symbol, account), []).append(quote)
        return (net, held, book.mark, book.band, book.volume_lots), wanted

    def _renew(self, wanted: Wanted, refused: set[str]) -> int:
        """Send what turns the resting orders of these books into the wanted ones.

        Note the books of which something was refused.
        """
        resting = self._resting({symbol for symbol, _ in wanted})
        batch: list[commands.Command] = []
        sent = 0
        for (symbol, account), quotes in wanted.items():
            change = traders.requote(resting=resting.get((symbol, account), []), wanted=quotes)
            batch += [
                commands.CancelOrder(account=account, order=order) for order in change.cancels
            ]
            batch += [self._order(symbol, account, quote) for quote in change.orders]
            if len(batch) >= COMMANDS_PER_BATCH_MAX:
                sent += self._submit(batch, refused)
                batch = []
        return sent + self._submit(batch, refused)

    def _submit(self, batch: Sequence[commands.Command], refused: set[str]) -> int:
        """:raises Refusal: when the engine is away or did not answer."""
        if not batch:
            return 0
        reasons: Counter[str] = Counter()
        for outcome in exchange_operations.submit(batch):
            if isinstance(outcome, errors.Refusal):
                raise outcome
            for event in outcome.events:
                if isinstance(event, events.OrderRejected):
                    reasons[event.reason] += 1
                    refused.add(event.request.instrument)
        if reasons:
            logger.warning("quotes refused: %s", dict(reasons))
        return len(batch)

    def _order(self, symbol: str, account: int, quote: traders.Quote) -> commands.PlaceOrder:
        self._number += 1
        return exchange_operations.place_command(
            organization=account,
            instrument=symbol,
            side=int(quote.side),
            price_ticks=quote.price_ticks,
            lots=quote.lots,
            client_order_id=f"maker-{clock.system_micros()}-{self._number}",
        )

    # What it knows

    def _open_books(self) -> list[Book]:
        rows = models.Instrument.objects.filter(
            state__in=[_CALL, models.Instrument.State.CONTINUOUS]
        ).order_by("starts_at", "id")
        in_call = [row.symbol for row in rows if row.state == _CALL]
        frozen = self._frozen(in_call) if in_call else frozenset()
        return [
            Book(
                row.symbol,
                terms,
                (row.band_low_ticks, row.band_high_ticks),
                row.volume_lots,
                row.last_price_ticks or 0,
                row.reference_price_ticks,
                row.mark_price_ticks or 0,
            )
            for row in rows
            if row.symbol not in frozen and (terms := contract.parse_symbol(row.symbol)) is not None
        ]

    def _frozen(self, in_call: Sequence[str]) -> frozenset[str]:
        """Return the books in which nothing can be canceled: they are quoted anew after it."""
        return frozenset(
            exchange_models.Auction.objects.filter(
                symbol__in=in_call, frozen_at__lte=clock.now()
            ).values_list("symbol", flat=True)
        )

    def _net_lots(self) -> dict[tuple[str, int], int]:
        rows = settlement_models.Position.objects.filter(
            organization_id__in=[self.organization, self.bidder]
        )
        return {
            (symbol, account): lots
            for symbol, account, lots in rows.values_list("symbol", "organization_id", "net_lots")
        }

    def _certified(self) -> list[Certified]:
        rows = models.Cluster.objects.filter(
            state=models.Cluster.State.CERTIFIED, certified_until__isnull=False
        ).values_list(
            "grade_id", "organization_id", "certified_lots", "replicas", "certified_until"
        )
        return [
            Certified(
                grade,
                organization,
                lots,
                delivery.timed_lots(lots, replicas),
                clock.to_micros(until),
            )
            for grade, organization, lots, replicas, until in rows
            if until is not None
        ]

    def _resting(self, symbols: Iterable[str]) -> dict[tuple[str, int], list[traders.Resting]]:
        found: dict[tuple[str, int], list[traders.Resting]] = {}
        rows = exchange_models.Order.objects.filter(
            organization_id__in=[self.organization, self.bidder],
            symbol__in=list(symbols),
            status__in=["OPEN", "PARTIALLY_FILLED"],
        ).order_by("id")[:RESTING_MAX]
        for row in rows:
            found.setdefault((row.symbol, row.organization_id), []).append(
                traders.Resting(
                    order=row.id,
                    side=contract.Side(row.side),
                    price_ticks=row.price_ticks or 0,  # a maker's orders all have a limit
                    lots=row.lots - row.filled_lots,
                )
            )
        return found
