"""A machine with a hand on its clock: the driver that unit tests of the exchange's core use.

It numbers commands, keeps what was applied and what came of it, and checks every invariant after
each step. Times are given as text on a fixed day, Friday 5 December 2025, or the one after (`+1`).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from exchange import commands, events
from exchange.machine import Machine
from marketplace import contract
from settlement import instructions

GRADE = "LLAMA70B"
DAY = datetime(2025, 12, 5, tzinfo=UTC)
FAR = 4_000_000_000_000_000
RICH = 1_000_000_000_000


def instant(text: str) -> int:
    """Return microseconds of `13:05`, `13:05:30.5` or `+1 09:00` (the next day)."""
    days, _, clock = text.rpartition(" ")
    hours, minutes, *seconds = clock.split(":")
    moment = DAY + timedelta(
        days=int(days or 0), hours=int(hours), minutes=int(minutes), seconds=float((*seconds, 0)[0])
    )
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def strip_of(
    account: int,
    side: int,
    lots: int,
    price: int,
    *,
    start: str = "18",
    hours: int = 3,
    min_share: int = 100,
    grade: str = GRADE,
    alternatives: tuple[str, ...] = (),
    name: str = "",
) -> commands.PlaceStrip:
    """Return the command of a strip of hours from `start`."""
    return commands.PlaceStrip(
        account=account,
        grade=grade,
        side=side,
        from_at=hour(start),
        to_at=hour(start) + hours * contract.HOUR,
        price=price,
        lots=lots,
        min_share=min_share,
        client_order_id=name,
        fingerprint=b"s" * 32,
        alternatives=alternatives,
    )


def hour(text: str) -> int:
    """Return the start of an hour given as `14` or `+1 14`."""
    return instant(f"{text}:00")


def symbol(text: str, grade: str = GRADE) -> str:
    """Return the symbol of an hour given as `14` or `+1 14`."""
    return contract.hour_contract(grade, hour(text)).symbol


class Floor:
    """A machine, its history, and short words for what tests do."""

    def __init__(
        self, at: str = "13:00", *, reference: int = 1250, checked: bool = True, **terms: int
    ) -> None:
        self.machine = Machine()
        self.at = instant(at)
        self.log: list[commands.Sequenced] = []
        self.events: list[events.Event] = []
        self.last: list[events.Event] = []
        self.checked = checked
        self.define(reference, **terms)

    def define(self, reference: int, **terms: int) -> str | None:
        """Define the grade."""
        return self.instruct(
            instructions.DefineGrade(grade=GRADE, reference_price_ticks=reference, **terms)
        )

    def apply(self, command: commands.Command) -> list[events.Event]:
        """Apply a command now; return and remember its events."""
        sequence = self.machine.sequence + 1
        self.log.append(commands.Sequenced(sequence, self.at, command))
        self.last = self.machine.apply(command, sequence, self.at)
        self.events += self.last
        if self.checked:
            self.machine.check()
        return self.last

    def to(self, text: str) -> list[events.Event]:
        """Let time pass to an instant of the day."""
        self.at = instant(text)
        return self.apply(commands.Tick())

    def instruct(self, instruction: instructions.AnyInstruction) -> str | None:
        """Apply an instruction; return the reason it was refused for, or None."""
        name = f"instruction:{len(self.log)}"
        self.apply(commands.Instruct(name, instructions.encode(instruction)))
        ends = [
            event
            for event in self.last
            if isinstance(event, events.InstructionApplied | events.InstructionRefused)
        ]
        assert [end.id for end in ends] == [name]
        return ends[0].reason if isinstance(ends[0], events.InstructionRefused) else None

    def account(self, account: int, *, cash: int = RICH, group: int = 0, certified: int = 0) -> int:
        """Open an account with cash, and with a cluster of the same number if certified."""
        opened = instructions.OpenAccount(account=account, group=group or account)
        assert self.instruct(opened) is None
        if cash:
            assert self.deposit(account, cash) is None
        if certified:
            assert self.certify(account, certified) is None
        return account

    def deposit(self, account: int, amount: int) -> str | None:
        """Deposit cash."""
        return self.instruct(instructions.Deposit(account=account, amount_micros=amount))

    def withdraw(self, account: int, amount: int) -> str | None:
        """Withdraw cash."""
        return self.instruct(instructions.Withdraw(account=account, amount_micros=amount))

    def certify(self, account: int, lots: int, *, cluster: int = 0, until: int = FAR) -> str | None:
        """Certify a cluster, by default the one with the account's number."""
        return self.instruct(
            instructions.Certify(
                cluster=cluster or account,
                account=account,
                grade=GRADE,
                lots=lots,
                valid_until=until,
            )
        )

    def place(
        self,
        account: int,
        side: int,
        lots: int,
        price: int,
        *,
        at: str = "20",
        instrument: str = "",
        time_in_force: str = "GTC",
        name: str = "",
        terms: commands.Terms | None = None,
    ) -> int:
        """Place an order and return its id, accepted or not; 0 when nothing happened."""
        command = commands.PlaceOrder(
            account=account,
            instrument=instrument or symbol(at),
            side=side,
            price=price,
            lots=lots,
            time_in_force=time_in_force,
            client_order_id=name or f"order-{len(self.log)}",
            fingerprint=b"f" * 32,
            terms=terms,
        )
        for event in self.apply(command):
            if isinstance(event, events.OrderPlaced | events.OrderRejected):
                return event.order
        return 0

    def buy(self, account: int, lots: int, price: int, **more: str) -> int:
        """Place a buy."""
        return self.place(account, 1, lots, price, **more)

    def sell(self, account: int, lots: int, price: int, **more: str) -> int:
        """Place a sell."""
        return self.place(account, -1, lots, price, **more)

    def cancel(self, account: int, order: int) -> list[events.Event]:
        """Withdraw an order."""
        return self.apply(commands.CancelOrder(account, order))

    def amend(
        self, account: int, order: int, *, price: int = 0, lots: int = 0, stop_price: int = 0
    ) -> str | None:
        """Amend an order and return the reason it was refused for, or None."""
        self.apply(commands.AmendOrder(account, order, price, lots, stop_price))
        return next((event.reason for event in self.of(events.AmendRefused)), None)

    def preview(
        self,
        account: int,
        side: int,
        lots: int,
        price: int,
        *,
        at: str = "20",
        instrument: str = "",
        time_in_force: str = "GTC",
        terms: commands.Terms | None = None,
    ) -> events.Previewed:
        """Return what an order would do, having made sure that asking changed nothing."""
        before = self.machine.digest()
        found = self.machine.preview(
            commands.PlaceOrder(
                account=account,
                instrument=instrument or symbol(at),
                side=side,
                price=price,
                lots=lots,
                time_in_force=time_in_force,
                client_order_id="",
                fingerprint=b"",
                terms=terms,
            )
        )
        self.machine.check()
        assert self.machine.digest() == before
        return found

    def strip(self, account: int, side: int, lots: int, price: int, **more: Any) -> int:
        """Place a strip of hours and return its id; 0 when nothing happened."""
        more.setdefault("name", f"strip-{len(self.log)}")
        for event in self.apply(strip_of(account, side, lots, price, **more)):
            if isinstance(event, events.StripPlaced | events.StripRejected):
                return event.order
        return 0

    def preview_strip(
        self, account: int, side: int, lots: int, price: int, **more: Any
    ) -> events.StripPreviewed:
        """Return what a strip would do, having made sure that asking changed nothing."""
        before = self.machine.digest()
        found = self.machine.preview_strip(strip_of(account, side, lots, price, **more))
        self.machine.check()
        assert self.machine.digest() == before
        return found

    def switch(self, account: int, timeout: int, name: str = "") -> list[events.Event]:
        """Set a dead-man's switch to fire `timeout` microseconds from now; zero unsets it."""
        return self.apply(commands.CancelAllAfter(account, timeout, name))

    def rejected(self) -> str | None:
        """Return why the last command's order or strip was refused, or None."""
        refused = self.of((events.OrderRejected, events.StripRejected))
        return next((event.reason for event in refused), None)

    def of(self, kind: type | tuple[type, ...]) -> list:
        """Return the last command's events of a kind."""
        return [event for event in self.last if isinstance(event, kind)]

    def moved(self) -> list[tuple[tuple[int, int], tuple[int, int], int, int]]:
        """Return (debit, credit, amount, code) of the last command's transfers."""
        return [
            ((e.debit_owner, e.debit_kind), (e.credit_owner, e.credit_kind), e.amount, e.code)
            for e in self.of(events.Transferred)
        ]

    def closed(self) -> list[tuple[int, str, str]]:
        """Return (order, status, reason) of what the last command closed."""
        return [(e.order, e.status, e.reason) for e in self.of(events.OrderClosed)]

    def view(self, account: int):
        """Return an account's view."""
        return self.machine.account_view(account)

    def settle(
        self,
        starts: str,
        interval: int,
        lines: dict[int, tuple[int, int]] | None = None,
        *,
        suspended: bool = False,
    ) -> str | None:
        """Settle an interval with (available, short) in NTU by allocation, 60 s after its end."""
        due = hour(starts) + interval * contract.INTERVAL + contract.SETTLEMENT_LAG
        self.at = max(self.at, due)
        report = tuple(
            instructions.DeliveryLine(number, available * 1000, short * 1000, available * 1000)
            for number, (available, short) in (lines or {}).items()
        )
        return self.instruct(
            instructions.SettleInterval(
                grade=GRADE,
                hour_starts_at=hour(starts),
                interval=interval,
                lines=report,
                suspended=suspended,
            )
        )
