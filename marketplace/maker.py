"""The demo's market-maker at work: every open book two-sided, in batches, and quiet when nothing
moves. It quotes in calls too, until they are frozen.

It looks at the market once a second with one small query, and renews quotes only where there is a
reason: a book that has opened or whose band has moved, its own fills, or a step of the reference
(`traders.fair_ticks` holds still for a quarter of an hour). What it wants and what rests are
compared (`traders.requote`), so an order that is still right keeps its place. It is an
organization like any other: it owns clusters, sells no more than they are certified for, buys no
more than one group may hold, and its orders go through the same stream as everybody's.
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
UNCOVERED_LEAD = 7 * contract.DAY
"""What starts later than this it also offers beyond its certificates, which it expects to renew."""
SLOTS_HELD_MAX = 50
"""How many slots of a class it buys in an hour, before what it sells."""
_QUOTED = contract.ENERGY | {contract.Product.SLOT}
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
    terms: traders.MakerTerms = field(default_factory=traders.MakerTerms)
    stopped: threading.Event = field(default_factory=threading.Event)
    _seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """Per book what its quotes were last made from."""
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
        wanted: dict[str, list[traders.Quote]] = {}
        reasons: dict[str, tuple[object, ...]] = {}
        certified = self._certified()
        for book in books:
            if book.terms.service_class:
                reason, quotes = self._slots(book, certified, net_lots)
                reasons[book.symbol] = reason
                if self._seen.get(book.symbol) != reason:
                    wanted[book.symbol] = quotes
                continue
            fair = traders.fair_ticks(
                terms=book.terms, reference_ticks=reference_ticks[book.terms.grade], at=at
            )
            net = net_lots.get(book.symbol, 0)
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
                wanted[book.symbol] = traders.ladder(
                    terms=self.terms,
                    fair=fair,
                    band=book.band,
                    net_lots=net,
                    sellable_lots=sellable,
                    buyable_lots=buyable,
                    last=book.last,
                )
        sent = self._renew(wanted) if wanted else 0
        self._seen = reasons
        return sent

    def _slots(
        self, book: Book, certified: Sequence[Certified], net_lots: dict[str, int]
    ) -> tuple[tuple[object, ...], list[traders.Quote]]:
        """Return why the quotes of a book of slots would change, and what they are.

        It offers half of what it may sell of both classes, so that one leaves room for the other.
        """
        terms = book.terms
        net = net_lots.get(book.symbol, 0)
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
        return (net, most, book.reference, book.band, book.volume_lots), quotes

    def _renew(self, wanted: dict[str, list[traders.Quote]]) -> int:
        """Send what turns the resting orders of these books into the wanted ones."""
        resting = self._resting(wanted)
        batch: list[commands.Command] = []
        sent = 0
        for symbol, quotes in wanted.items():
            change = traders.requote(resting=resting.get(symbol, []), wanted=quotes)
            batch += [
                commands.CancelOrder(account=self.organization, order=order)
                for order in change.cancels
            ]
            batch += [self._order(symbol, quote) for quote in change.orders]
            if len(batch) >= COMMANDS_PER_BATCH_MAX:
                sent += self._submit(batch)
                batch = []
        return sent + self._submit(batch)

    def _submit(self, batch: Sequence[commands.Command]) -> int:
        """:raises Refusal: when the engine is away or did not answer."""
        if not batch:
            return 0
        reasons: Counter[str] = Counter()
        for outcome in exchange_operations.submit(batch):
            if isinstance(outcome, errors.Refusal):
                raise outcome
            reasons.update(
                event.reason for event in outcome.events if isinstance(event, events.OrderRejected)
            )
        if reasons:
            logger.warning("quotes refused: %s", dict(reasons))
        return len(batch)

    def _order(self, symbol: str, quote: traders.Quote) -> commands.PlaceOrder:
        self._number += 1
        return exchange_operations.place_command(
            organization=self.organization,
            instrument=symbol,
            side=int(quote.side),
            price_ticks=quote.price_ticks,
            lots=quote.lots,
            client_order_id=f"maker-{clock.system_micros()}-{self._number}",
        )

    # What it knows

    def _open_books(self) -> list[Book]:
        rows = models.Instrument.objects.filter(
            state__in=[_CALL, models.Instrument.State.CONTINUOUS], product__in=_QUOTED
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

    def _net_lots(self) -> dict[str, int]:
        return dict(
            settlement_models.Position.objects.filter(
                organization_id=self.organization
            ).values_list("symbol", "net_lots")
        )

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

    def _resting(self, symbols: Iterable[str]) -> dict[str, list[traders.Resting]]:
        found: dict[str, list[traders.Resting]] = {}
        rows = exchange_models.Order.objects.filter(
            organization_id=self.organization,
            symbol__in=list(symbols),
            status__in=["OPEN", "PARTIALLY_FILLED"],
        ).order_by("id")[:RESTING_MAX]
        for row in rows:
            found.setdefault(row.symbol, []).append(
                traders.Resting(
                    order=row.id,
                    side=contract.Side(row.side),
                    price_ticks=row.price_ticks or 0,  # a maker's orders all have a limit
                    lots=row.lots - row.filled_lots,
                )
            )
        return found
