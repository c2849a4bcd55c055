"""What was sent to the engine and is not answered yet, and who waits for it.

Whoever sends several commands goes on when all are answered; whoever sends entries wants to know
when all of one are.
"""

import asyncio
from dataclasses import dataclass

from exchange import commands, envelope
from marketplace import errors

Outcome = envelope.Reply | errors.Refusal


@dataclass(slots=True)
class Group:
    """Commands of one caller, who goes on when all are answered or the time is up."""

    future: "asyncio.Future[None]"
    left: int

    def end(self) -> None:
        """Let the caller go on."""
        if not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True)
class Entry:
    """The commands that were sent last, and what waits until all of them are answered."""

    left: int
    future: "asyncio.Future[None] | None" = None

    def answer(self) -> None:
        """Note that one of its commands was answered."""
        self.left -= 1
        if not self.left:
            self.end()

    def end(self) -> None:
        """Let the next entry go."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True)
class Sent:
    """A command that was sent; without an outcome in the end, it is looked up."""

    command: commands.Asked
    group: Group
    entry: Entry | None = None
    epoch: str = ""
    outcome: "Outcome | None" = None
    is_done: bool = False

    def finish(self, outcome: "Outcome | None") -> None:
        """Note what became of it: a reply, a refusal, or nothing that anybody will tell."""
        if not self.is_done:
            self.is_done = True
            self.outcome = outcome
            self.group.left -= 1
            if not self.group.left:
                self.group.end()
