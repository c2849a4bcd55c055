"""The one state machine: a command in, the facts it caused out.

`apply(command, sequence, at)` first performs every calendar entry that is due at or before `at`,
each with its own due instant as its time and in the order `(due_at, kind, id)`, then the command.
It has no clock, no randomness and no I/O: the same commands give the same events and the same
state, to the last byte, on any machine. Outcomes are events, refusals included; an `AssertionError`
means a broken invariant and leaves the state undefined (the engine rebuilds it).

How the engine uses it, for a batch:

    events = machine.apply(command, sequence, at)     # once per command
    touched = machine.drain_touched(facts)            # once per batch: the rows to write

A `PlaceOrder` whose `client_order_id` is that of a live order of the account returns no events:
whether it is a retry or a reused id is the engine's answer (`live_order`), as for ids that are no
longer live. Every `Instruct` ends with `InstructionApplied` or `InstructionRefused`.

The parts: `state` holds it, `orders` and `withdrawals` fill and empty the books, `strips` trade in
many at once, `purchases` for many together, `limits` bound what one group may hold and do,
`switches` withdraw what nobody looks after, `sessions` says what a book takes and when a call
begins, `uncrossing` ends it, `books` announces their changes, `calendar` does what time does,
`delivery` closes the gate and settles intervals, `usage` charges pay-as-you-go, `instructions`
sorts the rest, `checks` states the invariants, `snapshot` turns the state into bytes and back,
`views` shows it, `preview` asks what would be, `news` numbers what is told of it.
"""

import hashlib

from exchange import commands, events
from exchange.machine import (
    calendar,
    checks,
    coverage,
    instructions,
    news,
    orders,
    preview,
    snapshot,
    views,
)
from exchange.machine.entries import Entry
from exchange.machine.state import State
from exchange.machine.views import (
    AccountView,
    AuctionView,
    InstrumentView,
    OrderView,
    PositionView,
    Touched,
)

FORMAT = snapshot.FORMAT
"""Version of the bytes of a snapshot."""
RULES = 1
"""Version of the rules that this code applies."""


class Machine:
    """The state of one clearing group, and the only way to change it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State()
        self.state.rules = RULES

    @property
    def sequence(self) -> int:
        """Number of the last command applied; 0 before the first."""
        return self.state.sequence

    @property
    def at(self) -> int:
        """Instant of the last command applied."""
        return self.state.at

    @property
    def rules(self) -> int:
        """Version of the rules the state follows."""
        return self.state.rules

    def apply(self, command: commands.Command, sequence: int, at: int) -> list[events.Event]:
        """Bring the calendar up to `at`, carry the command out, and return what happened."""
        state = self.state
        assert sequence > state.sequence, "a sequence number is used once"
        assert at >= state.at, "time does not run backwards"
        state.sequence = sequence
        out: list[events.Event] = []
        state.events = out
        kind = type(command)
        aside = last = None
        if state.calendar and state.calendar[0][0] <= at:
            if isinstance(command, commands.Quarantine):
                aside = command.entry
            elif isinstance(command, commands.Tick):
                last = command.last
            calendar.advance(state, at, aside, last)
        if aside is last is None:  # Else time stands at the entry: more may be due since then.
            state.at = at
        if kind is commands.PlaceOrder:
            orders.place(state, command)  # type: ignore[arg-type]
        elif kind is commands.CancelOrder:
            orders.cancel(state, command)  # type: ignore[arg-type]
        else:
            instructions.carry_out(state, command)
        if state.stale or state.repriced:
            coverage.settle(state)
        return out

    def preview(self, command: commands.PlaceOrder) -> events.Previewed:
        """Return what placing an order now would do, and change nothing."""
        return preview.preview(self.state, command)

    def preview_strip(self, command: commands.PlaceStrip) -> events.StripPreviewed:
        """Return what placing a strip now would do, and change nothing."""
        return preview.preview_strip(self.state, command)

    @property
    def performing(self) -> commands.Entry | None:
        """The entry of the calendar that broke an assertion; None when it was not one."""
        return self.state.performing

    def next_entry(self, at: int) -> commands.Entry | None:
        """Return the first entry of the calendar, if it is due by an instant."""
        calendar = self.state.calendar
        return calendar[0] if calendar and calendar[0][0] <= at else None

    def symbol_of(self, entry: commands.Entry) -> str:
        """Return the symbol of the instrument that an entry of the calendar is about, if one."""
        _, kind, number = entry
        if kind not in (Entry.TRADING_ENDS, Entry.UNCROSS, Entry.WATCH_MID):
            return ""
        instrument = self.state.by_id.get(number)
        return instrument.symbol if instrument is not None else ""

    def next_due(self) -> int | None:
        """Return when the calendar next has something to do; None before the first grade."""
        return self.state.calendar[0][0] if self.state.calendar else None

    def snapshot(self) -> bytes:
        """Return the canonical bytes of the whole state: equal states give equal bytes."""
        return snapshot.dump(self.state)

    @classmethod
    def restore(cls, data: bytes) -> "Machine":
        """Return the machine of a snapshot.

        :raises ValueError: when the bytes are of another format.
        """
        machine = cls.__new__(cls)
        machine.state = snapshot.load(data)
        return machine

    def digest(self) -> bytes:
        """Return the SHA-256 of the full state."""
        return hashlib.sha256(self.snapshot()).digest()

    def live_order(self, account: int, client_order_id: str) -> OrderView | None:
        """Return the resting order with this id, if there is one."""
        holder = self.state.accounts.get(account)
        order = holder.orders.get(client_order_id) if holder is not None else None
        return views.of_order(order) if order is not None else None

    def order_view(self, order_id: int) -> OrderView | None:
        """Return a resting order, or one that closed since the last drain."""
        order = self.state.orders.get(order_id) or self.state.touched_orders.get(order_id)
        return views.of_order(order) if order is not None else None

    def account_view(self, account: int) -> AccountView | None:
        """Return the account, or None when it is unknown."""
        holder = self.state.accounts.get(account)
        return views.of_account(self.state, holder) if holder is not None else None

    def position(self, account: int, symbol: str) -> PositionView:
        """Return the position; flat where there never was one."""
        holder = self.state.accounts.get(account)
        position = holder.positions.get(symbol) if holder is not None else None
        if position is None:
            return views.flat_position(account, symbol)
        return views.of_position(position)

    def instrument_view(self, symbol: str) -> InstrumentView | None:
        """Return a listed instrument, or None when it is unknown or settled."""
        instrument = self.state.instruments.get(symbol)
        return views.of_instrument(self.state, instrument) if instrument is not None else None

    def auction_view(self, symbol: str) -> AuctionView | None:
        """Return the call of a listed instrument and its indication; None when it is unknown."""
        instrument = self.state.instruments.get(symbol)
        return views.of_auction(self.state, instrument) if instrument is not None else None

    def symbols(self) -> list[str]:
        """Return the symbols of every instrument in the state, in order of id."""
        return sorted(self.state.instruments, key=lambda s: self.state.instruments[s].id)

    def book_levels(
        self, symbol: str, depth: int
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return (price, lots) of the best bids and of the best asks, best first."""
        instrument = self.state.instruments.get(symbol)
        if instrument is None:
            return [], []
        return instrument.book.bids.depth(depth), instrument.book.asks.depth(depth)

    def best(self, symbol: str) -> tuple[int, int]:
        """Return the best bid and the best ask, 0 where a side is empty."""
        instrument = self.state.instruments.get(symbol)
        return (0, 0) if instrument is None else instrument.book.best()

    def drain_touched(self, facts: events.Facts = events.NOTHING) -> Touched:
        """Number the messages of a batch, return what changed in it, and forget that it did.

        `facts` are the batch's events by type. Batches are part of the history: a replay ends each
        where it ended, so that every topic counts on as it did.
        """
        return views.drain(self.state, facts)

    def forget_touched(self, facts: events.Facts = events.NOTHING) -> None:
        """End a batch of which nothing is written and nothing told, as most of a replay's."""
        news.number(self.state, facts)
        self.state.forget_touched()

    def check(self) -> None:
        """Assert every invariant of the state; slow, for tests and audits."""
        checks.check(self.state)
