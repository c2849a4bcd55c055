"""A table of what happens in a book, as text.

    place  NAME  buy|sell  LOTS [@ PRICE]  [OPTION ...]   an order, of an account of its own
    amend  NAME  [LOTS]  [@ PRICE]  [stop PRICE]          its account changes it; LOTS in all
    cancel NAME                                           its account withdraws it
    at     HH:MM                                          time passes

    fill    TAKER MAKER  LOTS @ PRICE                     the next trade, exactly
    closed  NAME  REASON                                  the next order that left unfilled
    reject  NAME  REASON                                  the order just placed was refused
    refused NAME  REASON                                  the amendment or cancel was refused
    amended NAME  LOTS [@ PRICE] [stop PRICE]             an order has these terms from here on
    trigger NAME                                          the market reached an order's stop price
    book    buy|sell  [LOTS @ PRICE, ...]                 that whole side, best first
    left    NAME LOTS                                     what of it is not filled, shown or not

Options: `ioc`, `fok`, `day`, `gtd HH:MM`; `market`, `stop PRICE` (a limit order too where it has a
price); `min LOTS`, `show LOTS`, `post`, `reduce`; `stp newest|oldest|both|decrement`; `group G` of
the account, or `of NAME`: placed by the account of that order.

The reference price is 100 and trading goes on until 19:55. Every fill, close and so on of a command
has to be written down before the next command; what is left at the end is an error too.
"""

from typing import Any

from exchange import commands, events
from tests import floor

_FLAGS = {"ioc": "IOC", "fok": "FOK", "day": "DAY"}
_PREVENTIONS = {
    "newest": commands.CANCEL_NEWEST,
    "oldest": commands.CANCEL_OLDEST,
    "both": commands.CANCEL_BOTH,
    "decrement": commands.DECREMENT,
}


class _Options:
    """What stands behind an order's side and lots."""

    def __init__(self, words: list[str]) -> None:
        self.price = 0
        self.group = 0
        self.owner = ""
        self.time_in_force = "GTC"
        self.is_market = False
        self.terms: dict[str, Any] = {}
        rest = iter(words)
        for word in rest:
            self._read(word, rest)

    def _read(self, word: str, rest: Any) -> None:
        match word:
            case "@":
                self.price = int(next(rest))
            case "ioc" | "fok" | "day":
                self.time_in_force = _FLAGS[word]
            case "gtd":
                self.time_in_force = "GTD"
                self.terms["expires_at"] = floor.instant(next(rest))
            case "market":
                self.is_market = True
            case "stop":
                self.terms["stop_price"] = int(next(rest))
            case "min":
                self.terms["min_lots"] = int(next(rest))
            case "show":
                self.terms["display_lots"] = int(next(rest))
            case "post":
                self.terms["post_only"] = True
            case "reduce":
                self.terms["reduce_only"] = True
            case "stp":
                self.terms["prevention"] = _PREVENTIONS[next(rest)]
            case "group":
                self.group = int(next(rest)) + 1000
            case "of":
                self.owner = next(rest)
            case _:
                raise AssertionError(f"unknown option: {word}")

    def order_terms(self) -> commands.Terms | None:
        """Return the terms, None for the plain limit order."""
        kind = commands.LIMIT
        if self.is_market:
            kind = commands.MARKET
        elif "stop_price" in self.terms:
            kind = commands.STOP_LIMIT if self.price else commands.STOP
        terms = commands.Terms(type=kind, **self.terms)
        if terms == commands.PLAIN and self.time_in_force in ("GTC", "IOC"):
            return None
        return terms


class _Play:
    """The state of one table."""

    def __init__(self) -> None:
        self.floor = floor.Floor(reference=100)
        self.orders: dict[str, tuple[int, int]] = {}
        """(account, order) by name"""
        self.names: dict[int, str] = {}
        self.pending: list[str] = []

    def place(self, words: list[str]) -> None:
        name, side, lots, *rest = words
        options = _Options(rest)
        if options.owner:
            account = self.orders[options.owner][0]
        else:
            account = len(self.orders) + 1
            self.floor.account(account, group=options.group or account, certified=100_000)
        order = self.floor.place(
            account,
            1 if side == "buy" else -1,
            int(lots),
            options.price,
            time_in_force=options.time_in_force,
            terms=options.order_terms(),
            name=name,
        )
        self.orders[name] = account, order
        self.names[order] = name
        self._note()

    def amend(self, words: list[str]) -> None:
        name, *rest = words
        lots = int(rest.pop(0)) if rest and rest[0].isdigit() else 0
        options = _Options(rest)
        account, order = self.orders[name]
        stop_price = options.terms.get("stop_price", 0)
        self.floor.amend(account, order, price=options.price, lots=lots, stop_price=stop_price)
        self._note()

    def _note(self) -> None:
        for event in self.floor.last:
            text = self._text(event)
            if text:
                self.pending.append(text)

    def _text(self, event: events.Event) -> str:
        names = self.names
        match event:
            case events.Traded():
                taker, maker = names[event.taker_order], names[event.maker_order]
                return f"fill {taker} {maker} {event.lots} @ {event.price}"
            case events.OrderClosed() if event.reason:
                return f"closed {names[event.order]} {event.reason}"
            case events.OrderRejected():
                return f"reject {names[event.order]} {event.reason}"
            case events.AmendRefused() | events.CancelRefused():
                return f"refused {names[event.order]} {event.reason}"
            case events.OrderAmended():
                price = f" @ {event.price}" if event.price else ""
                stop = f" stop {event.stop_price}" if event.stop_price else ""
                return f"amended {names[event.order]} {event.lots}{price}{stop}"
            case events.OrderTriggered():
                return f"trigger {names[event.order]}"
        return ""

    def book(self, side: str, expected: str) -> None:
        levels = self.floor.machine.book_levels(floor.symbol("20"), 1000)
        shown = levels[0] if side == "buy" else levels[1]
        text = ", ".join(f"{lots} @ {price}" for price, lots in shown)
        assert text == expected, f"the book's {side} side is {text!r}"

    def left(self, name: str, lots: str) -> None:
        view = self.floor.machine.order_view(self.orders[name][1])
        assert view is not None, f"{name} is gone"
        assert view.remaining == int(lots), f"{view.remaining} are left of {name}"

    def line(self, text: str) -> None:
        verb, *words = text.split()
        if verb in ("fill", "closed", "reject", "refused", "amended", "trigger"):
            assert self.pending, f"nothing more happened, but expected: {text}"
            assert " ".join([verb, *words]) == self.pending.pop(0)
            return
        assert not self.pending, f"not written down before {text!r}: {self.pending}"
        match verb:
            case "place":
                self.place(words)
            case "amend":
                self.amend(words)
            case "cancel":
                account, order = self.orders[words[0]]
                self.floor.apply(commands.CancelOrder(account, order))
                self._note()
            case "book":
                self.book(words[0], " ".join(words[1:]))
            case "left":
                self.left(*words)
            case "at":
                self.floor.to(words[0])
                self._note()
            case _:
                raise AssertionError(f"unknown line: {text}")


def play(table: str) -> floor.Floor:
    """Run a table and return the floor it leaves."""
    run = _Play()
    for line in table.splitlines():
        text = line.partition("#")[0].strip()
        if text:
            run.line(text)
    assert not run.pending, f"not written down: {run.pending}"
    return run.floor
