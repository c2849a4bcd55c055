"""A slow and obvious clearing house, to compare the machine's positions and variation against.

It is written from the rulebook (3.4, 4.1, 4.2) and shares nothing with the code it checks but the
vocabulary of events: it is told the trades and the prices that the machine has marked books at, and
keeps, for every account and instrument, lots and what they stand at. Whenever a book is settled,
each position is due the way from there to the price; a month that ends becomes its days.
"""

from collections import defaultdict

from exchange import default_events, events
from marketplace import contract
from marketplace.contract import DAY, HOUR, Contract, Product

VARIATION = 4


class SlowClearing:
    """Positions by symbol and account, and what each account has been due for marks."""

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        """When trading of what is listed ends, by symbol."""
        self.lots: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self.stands: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        """Ticks that an account's lots were settled to, or have been traded at since."""
        self.due: dict[int, int] = defaultdict(int)
        """Micro-USD that marks should have paid each account."""
        self.paid: dict[int, int] = defaultdict(int)
        """What they have."""
        self.delivered: dict[tuple[str, int], int] = {}
        """Net lots by symbol and account at the gate of an hour."""
        self.marked_until = 0
        self.offers: dict[int, tuple[str, int]] = {}
        """Symbol and seller of shorts that are or were offered, by number."""

    def take(self, happened: list[events.Event], at: int) -> None:
        """Follow what a command did; `at` is its instant."""
        moments = [getattr(event, "at", 0) for event in happened]
        for event, moment in zip(happened, moments, strict=True):
            if isinstance(event, events.Marked | events.Traded | default_events.TransferBidChanged):
                self._mark_full_hours(moment - isinstance(event, events.Marked))
            self._take(event)
        self._mark_full_hours(at)

    def _take(self, event: events.Event) -> None:
        match event:
            case events.InstrumentListed():
                terms = contract.parse_symbol(event.symbol)
                assert terms is not None, "a symbol of the contract"
                self.ends[event.symbol] = terms.trading_ends_at
                self.marks[event.symbol] = event.reference_price
            case events.Marked():
                self.marks[event.instrument] = event.price
                is_end = event.at == self.ends.get(event.instrument)
                if is_end or event.at % HOUR:
                    self._settle(event.instrument)
            case events.Traded():
                signed = event.taker_side * event.lots
                for account, lots in ((event.taker, signed), (event.maker, -signed)):
                    self.lots[event.instrument][account] += lots
                    self.stands[event.instrument][account] += lots * event.price
            case default_events.TransferAnnounced():
                self.offers[event.transfer] = event.instrument, event.account
            case default_events.TransferBidChanged(state="TAKEN"):
                symbol, seller = self.offers[event.transfer]
                assert event.mark == self.marks[symbol], "lots move at the mark"
                for account, lots in ((seller, event.moved), (event.account, -event.moved)):
                    self.lots[symbol][account] += lots
                    self.stands[symbol][account] += lots * event.mark
            case events.Cascaded():
                self._cascade(event.instrument, event.price)
            case events.GateClosed():
                for account, lots in self.lots.pop(event.instrument, {}).items():
                    self.delivered[event.instrument, account] = lots
                self.stands.pop(event.instrument, None)
                self.ends.pop(event.instrument, None)
            case events.Transferred(code=code) if code == VARIATION:
                if event.credit_owner:
                    self.paid[event.credit_owner] += event.amount
                else:
                    self.paid[event.debit_owner] -= event.amount

    def _mark_full_hours(self, until: int) -> None:
        """Settle everything that still trades at every full hour up to an instant."""
        if not self.marked_until:
            self.marked_until = contract.hour_start(until)
        while self.marked_until + HOUR <= until:
            self.marked_until += HOUR
            for symbol in list(self.ends):
                if self.ends[symbol] > self.marked_until:
                    self._settle(symbol)

    def _settle(self, symbol: str) -> None:
        """Pay everyone the way to the mark."""
        terms = contract.parse_symbol(symbol)
        assert terms is not None, "a symbol of the contract"
        for account, lots in self.lots[symbol].items():
            ticks = lots * self.marks[symbol] - self.stands[symbol][account]
            self.due[account] += 60 * terms.hours * ticks
            self.stands[symbol][account] += ticks

    def _cascade(self, symbol: str, price: int) -> None:
        """Hand every position on to each part of its window."""
        assert price == self.marks[symbol], "it was marked for the last time"
        terms = contract.parse_symbol(symbol)
        assert terms is not None, "a symbol of the contract"
        for part in _parts(terms):
            for account, lots in self.lots[symbol].items():
                self.lots[part.symbol][account] += lots
                self.stands[part.symbol][account] += lots * price
        del self.ends[symbol]
        self.lots.pop(symbol, None)
        self.stands.pop(symbol, None)


def _parts(terms: Contract) -> list[Contract]:
    if terms.product is Product.DAY:
        starts = range(terms.starts_at, terms.ends_at, HOUR)
        return [contract.hour_contract(terms.grade, at) for at in starts]
    starts = range(terms.starts_at, terms.ends_at, DAY)
    return [contract.day_contract(terms.grade, at) for at in starts]
