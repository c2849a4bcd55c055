"""A table of what happens in a book, as text.

    place  NAME  buy|sell  LOTS @ PRICE  [ioc]  [group G]   an order, of an account of its own
    fill   TAKER MAKER  LOTS @ PRICE                        the next trade, exactly
    closed NAME  REASON                                     the next order that left unfilled
    reject NAME  REASON                                     the order just placed was refused
    cancel NAME                                             its account withdraws it
    book   buy|sell  [LOTS @ PRICE, ...]                    that whole side, best first
    at     HH:MM                                            time passes

The reference price is 100 and trading goes on until 19:55. Every fill and every close of a command
has to be written down before the next command; what is left at the end is an error too.
"""

from exchange import commands, events
from tests import floor


class _Play:
    """The state of one table."""

    def __init__(self) -> None:
        self.floor = floor.Floor(reference=100)
        self.orders: dict[str, tuple[int, int]] = {}
        """(account, order) by name"""
        self.names: dict[int, str] = {}
        self.pending: list[str] = []

    def place(self, words: list[str]) -> None:
        name, side, lots, _, price, *options = words
        account = len(self.orders) + 1
        group = int(options[options.index("group") + 1]) + 1000 if "group" in options else account
        self.floor.account(account, group=group, certified=100_000)
        order = self.floor.place(
            account,
            1 if side == "buy" else -1,
            int(lots),
            int(price),
            time_in_force="IOC" if "ioc" in options else "GTC",
            name=name,
        )
        self.orders[name] = account, order
        self.names[order] = name
        self._note()

    def _note(self) -> None:
        for event in self.floor.last:
            match event:
                case events.Traded():
                    taker, maker = self.names[event.taker_order], self.names[event.maker_order]
                    self.pending.append(f"fill {taker} {maker} {event.lots} @ {event.price}")
                case events.OrderClosed() if event.reason:
                    self.pending.append(f"closed {self.names[event.order]} {event.reason}")
                case events.OrderRejected():
                    self.pending.append(f"reject {self.names[event.order]} {event.reason}")

    def book(self, side: str, expected: str) -> None:
        levels = self.floor.machine.book_levels(floor.symbol("20"), 1000)
        shown = levels[0] if side == "buy" else levels[1]
        text = ", ".join(f"{lots} @ {price}" for price, lots in shown)
        assert text == expected, f"the book's {side} side is {text!r}"

    def line(self, text: str) -> None:
        verb, *words = text.split()
        if verb in ("fill", "closed", "reject"):
            assert self.pending, f"nothing more happened, but expected: {text}"
            assert " ".join([verb, *words]) == self.pending.pop(0)
            return
        assert not self.pending, f"not written down before {text!r}: {self.pending}"
        match verb:
            case "place":
                self.place(words)
            case "cancel":
                account, order = self.orders[words[0]]
                self.floor.apply(commands.CancelOrder(account, order))
                self._note()
            case "book":
                self.book(words[0], " ".join(words[1:]))
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
