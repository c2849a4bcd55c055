"""The worked example of `docs/worked-example.md`: a month of a hundred lots, played by the machine.

    python -m tests.worked_example        writes the document's tables anew

A *chapter* is a stretch of the play with a name; its table lists every transfer of the stretch.
Transfers that are alike in everything but their instant are one row that says how many they are. In
the document a table stands under a comment with its chapter's name, and everything else is prose.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from exchange import commands, events
from marketplace import contract
from settlement import instructions
from settlement.ledger import Code, Kind
from tests.floor import GRADE, Floor, instant

DOCUMENT = Path(__file__).parent.parent / "docs" / "worked-example.md"
SELLER, BUYER = 1, 2
NAMES = {SELLER: "seller", BUYER: "buyer"}
LOTS, CASH = 100, 10_000_000_000
MONTH = f"{GRADE}.M.F26"
STARTS, ENDS = instant("27 00:00"), instant("58 00:00")
HOURS = (ENDS - STARTS) // contract.HOUR
INTERVALS = HOURS * contract.INTERVALS_PER_HOUR
FULL = LOTS * contract.MNTU_PER_LOT_INTERVAL
BAD_HOUR, BAD_INTERVAL = instant("41 14:00"), 3
Key = tuple[str, str, str, int]


class Play:
    """A seller, a buyer, and the machine between them from 27 December to 1 February."""

    def __init__(self) -> None:
        self.floor = Floor("22 13:00", checked=False)
        self.chapters: dict[str, Counter[Key]] = {}
        self._read = 0
        self._settled: set[tuple[int, int]] = set()

    def chapter(self, name: str) -> None:
        """End a chapter: all that was transferred since the last is its table."""
        self.floor.machine.check()
        table: Counter[Key] = Counter()
        for event in self.floor.events[self._read :]:
            if isinstance(event, events.Transferred):
                debit = account(event.debit_owner, event.debit_kind)
                credit = account(event.credit_owner, event.credit_kind)
                table[Code(event.code).name.lower(), debit, credit, event.amount] += 1
        self._read = len(self.floor.events)
        self.chapters[name] = table

    def to(self, at: int) -> None:
        """Let the clock go on to an instant."""
        self.floor.at = max(at, self.floor.at)
        self.floor.apply(commands.Tick())

    def trade(self) -> None:
        """Sell the month: 99 lots at 1.250, and a last one at 1.300, which moves its mark."""
        floor = self.floor
        for account_id in (SELLER, BUYER):
            floor.account(account_id, cash=CASH)
        assert floor.certify(SELLER, LOTS) is None
        self.chapter("deposits")
        floor.to("23 13:00")
        for lots, price in ((LOTS - 1, 1_250), (1, 1_300)):
            floor.sell(SELLER, lots, price, instrument=MONTH)
            floor.buy(BUYER, lots, price, instrument=MONTH)
            assert floor.rejected() is None
        self.chapter("trade")

    def cascade(self) -> None:
        """Mark the month until it becomes its days, and the first of them its hours."""
        self.to(instant("25 11:00"))
        self.chapter("marks")
        self.to(instant("25 12:00"))
        assert self.lots(MONTH) == (0, 0)
        assert [self.lots(day) for day in days()] == [(-LOTS, LOTS)] * 31
        self.to(instant("26 12:00"))
        assert [self.lots(hour) for hour in hours(0)] == [(-LOTS, LOTS)] * 24
        self.chapter("cascade")

    def deliver(self, until: int, *, available: int, missed: int) -> None:
        """Deliver and settle every interval that ends until then, each 60 s after its end."""
        floor = self.floor
        while floor.at < until + contract.SETTLEMENT_LAG:
            self._settle_due(available, missed)
            step = floor.at + contract.INTERVAL - floor.at % contract.INTERVAL
            floor.at = min(step, until) + contract.SETTLEMENT_LAG
            floor.apply(commands.Tick())
        self._settle_due(available, missed)

    def _settle_due(self, available: int, missed: int) -> None:
        """Settle what is over and is not settled yet, at most two hours at a time."""
        state = self.floor.machine.state
        for grade, starts_at in sorted(state.hours):
            for number in range(1, contract.INTERVALS_PER_HOUR + 1):
                over_at = starts_at + number * contract.INTERVAL + contract.SETTLEMENT_LAG
                if (starts_at, number) in self._settled or over_at > self.floor.at:
                    continue
                self._settled.add((starts_at, number))
                is_bad = available and (starts_at, number) == (BAD_HOUR, BAD_INTERVAL)
                lines = tuple(
                    instructions.DeliveryLine(
                        each.id,
                        FULL // 2 if is_bad else available,
                        FULL // 5 if is_bad else missed,
                        FULL * 4 // 5 if is_bad else available,
                    )
                    for each in state.hours[grade, starts_at].allocations.values()
                )
                order = instructions.SettleInterval(
                    grade=grade, hour_starts_at=starts_at, interval=number, lines=lines
                )
                assert self.floor.instruct(order) is None

    def lots(self, symbol: str) -> tuple[int, int]:
        """Return the seller's and the buyer's lots of an instrument."""
        machine = self.floor.machine
        return machine.position(SELLER, symbol).net_lots, machine.position(BUYER, symbol).net_lots


def days() -> list[str]:
    """Return the days of the month."""
    return [contract.day_contract(GRADE, at).symbol for at in range(STARTS, ENDS, contract.DAY)]


def hours(day: int) -> list[str]:
    """Return the hours of a day of the month, the first being 0."""
    first = STARTS + day * contract.DAY
    return [
        contract.hour_contract(GRADE, at).symbol
        for at in range(first, first + contract.DAY, contract.HOUR)
    ]


def account(owner: int, kind: int) -> str:
    """Return an account as the document calls it."""
    name = Kind(kind).name.lower()
    return f"{NAMES[owner]}: {name}" if owner else f"exchange: {name}"


def delivered() -> Play:
    """Play a month that is delivered, but for one interval."""
    play = Play()
    play.trade()
    play.cascade()
    play.deliver(BAD_HOUR, available=FULL, missed=0)
    play.chapter("before the bad hour")
    play.deliver(BAD_HOUR + contract.HOUR, available=FULL, missed=0)
    play.chapter("the bad hour")
    play.deliver(ENDS, available=FULL, missed=0)
    play.chapter("after the bad hour")
    play.to(ENDS + 31 * contract.DAY)
    play.chapter("the month after")
    return play


def dead() -> Play:
    """Play the same month with a cluster that never answers."""
    play = Play()
    play.trade()
    play.cascade()
    play.chapters.clear()
    play.deliver(STARTS + contract.HOUR, available=0, missed=FULL)
    play.chapter("the first hour of a dead cluster")
    assert play.floor.certify(SELLER, 0) is None  # It is down (RULEBOOK 6.7).
    play.deliver(ENDS, available=0, missed=FULL)
    play.chapter("the rest of its month")
    play.to(ENDS + 31 * contract.DAY)
    play.chapter("the month after a dead cluster")
    return play


def tables(good: Play, bad: Play) -> dict[str, str]:
    """Return the table of every chapter, and of how everybody stands at the end."""
    found: dict[str, str] = {}
    for name, play in (("delivered", good), ("dead", bad)):
        found |= {chapter: _table(rows) for chapter, rows in play.chapters.items()}
        found[f"balances, {name}"] = _balances(play)
    return found


def _table(rows: Counter[Key]) -> str:
    """Return a chapter's transfers as a table."""
    if not rows:
        return "| nothing is transferred |\n|---|"
    lines = [
        "| times | each, USD | from | to | code | in all, USD |",
        "|---:|---:|---|---|---|---:|",
    ]
    for (code, debit, credit, amount), times in rows.items():
        each, total = usd(amount), usd(amount * times)
        lines.append(f"| {times:,} | {each} | {debit} | {credit} | `{code}` | {total} |")
    return "\n".join(lines)


def _balances(play: Play) -> str:
    """Return what every account holds at the end: the sum of its transfers, and the machine's."""
    sums: Counter[str] = Counter()
    for event in play.floor.events:
        if isinstance(event, events.Transferred):
            sums[account(event.debit_owner, event.debit_kind)] -= event.amount
            sums[account(event.credit_owner, event.credit_kind)] += event.amount
    for owner in NAMES:
        view = play.floor.machine.account_view(owner)
        assert view is not None, "it has an account"
        assert view.cash == sums[account(owner, Kind.CASH)], "cash is the sum of its transfers"
        assert view.escrow == sums[account(owner, Kind.ESCROW)], "and escrow"
    lines = ["| account | USD |", "|---|---:|"]
    lines += [f"| {name} | {usd(amount)} |" for name, amount in sorted(sums.items())]
    return "\n".join(lines)


def usd(micros: int) -> str:
    """Return micro-USD to the last of them."""
    whole, part = divmod(abs(micros), 1_000_000)
    return f"{'-' if micros < 0 else ''}{whole:,}.{part:06}"


def written(text: str) -> Iterator[tuple[str, str]]:
    """Yield the tables of a document by chapter."""
    for found in re.finditer(r"<!-- table: (.*?) -->\n\n((?:\|.*\n)*)", text):
        yield found[1], found[2].rstrip("\n")


def rewrite(text: str, fresh: dict[str, str]) -> str:
    """Return a document with its tables as they should be."""
    return re.sub(
        r"(<!-- table: (.*?) -->\n\n)((?:\|.*\n)*)",
        lambda found: f"{found[1]}{fresh[found[2]]}\n",
        text,
    )


if __name__ == "__main__":
    DOCUMENT.write_text(rewrite(DOCUMENT.read_text(), tables(delivered(), dead())))
