"""What passes through the engine in a batch: commands, what became of them, and their answers.

A command that comes in (`Incoming`) either was there before and is answered from what happened
then, or gets a place in the journal (`Work`). Whoever sent the same order twice in one batch gets
the outcome of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from exchange import commands, envelope, events

WITH_IDS = (commands.PlaceOrder, commands.PlaceStrip)
"""What has a client order id; one namespace for both."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A command, and who waits for its reply; nobody does where `reply_to` is empty."""

    command: commands.Asked
    reply_to: str = ""
    correlation: int = 0


@dataclass(slots=True)
class Work:
    """A command that gets a place in the journal, and what became of it."""

    incoming: Incoming
    command: commands.Command
    retries: list[Incoming] = field(default_factory=list)
    item: commands.Sequenced | None = None
    happened: list[events.Event] = field(default_factory=list)
    result: str = envelope.APPLIED
    answers: "list[Answer]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that is ready, once the batch is durable."""

    incoming: Incoming
    result: str
    sequence: int = 0
    happened: list[events.Event] = field(default_factory=list)


@dataclass(slots=True)
class Spent:
    """What an engine's time went into since it began, in nanoseconds, and over how much work.

    `recall_ns` looks up ids that came before, `apply_ns` judges and matches, `encode_ns` makes the
    journal's bytes, the rows and the news, `commit_ns` waits for the database, `release_ns` sends
    replies and news.
    """

    commands: int = 0
    batches: int = 0
    decode_ns: int = 0
    recall_ns: int = 0
    apply_ns: int = 0
    encode_ns: int = 0
    commit_ns: int = 0
    release_ns: int = 0


def answers_of(work: Work) -> list[Answer]:
    """Return the answer of a command, and of every retry of it in the same batch."""
    assert work.item is not None, "a stored command has its place"
    command = work.command
    own = (
        envelope.caused_by(command, work.item.sequence, work.happened)
        if work.result == envelope.APPLIED
        else []
    )
    answers = [Answer(work.incoming, work.result, work.item.sequence, own)]
    for retry in work.retries:
        assert isinstance(command, WITH_IDS), "only orders and strips are retried"
        assert isinstance(retry.command, WITH_IDS), "only orders and strips are retried"
        same = retry.command.fingerprint == command.fingerprint
        if work.result != envelope.APPLIED:
            answers.append(Answer(retry, work.result, work.item.sequence))
        elif same:
            answers.append(Answer(retry, envelope.REPLAYED, work.item.sequence, own))
        else:
            answers.append(Answer(retry, envelope.KEY_REUSE))
    return answers


def outcomes(works: Sequence[Work], facts: events.Facts) -> list[tuple[Any, str, str]]:
    """Return what became of the batch's instructions, those set aside among them."""
    found: list[tuple[Any, str, str]] = [
        (event, "APPLIED", "") for event in facts.get(events.InstructionApplied, ())
    ]
    found += [
        (event, "REFUSED", event.reason) for event in facts.get(events.InstructionRefused, ())
    ]
    for work in works:
        command = work.command
        if work.result == envelope.INTERNAL_ERROR and isinstance(command, commands.Instruct):
            assert work.item is not None, "a stored command has its place"
            outcome = events.InstructionRefused(
                command.id, envelope.INTERNAL_ERROR, work.item.sequence, work.item.at
            )
            found.append((outcome, "REFUSED", envelope.INTERNAL_ERROR))
    return found


def ends(facts: events.Facts) -> list[tuple[str, bytes]]:
    """Return which instructions ended in a batch, and how."""
    applied = [(event.id, b"APPLIED") for event in facts.get(events.InstructionApplied, ())]
    return applied + [(event.id, b"REFUSED") for event in facts.get(events.InstructionRefused, ())]
