"""Names of the keys, streams and channels in Valkey by which processes find and wake each other.

Valkey holds no truth: every name here stands for a hint, a queue of the present epoch, or a message
that may be lost. The key `engine:{group}` holds the name of the command stream that the engine of a
clearing group reads now, and lapses when the engine stops: a reader that finds no key knows that the
group is down, a writer that finds another stream knows that the epoch moved.
"""

from typing import Any

GROUP = "main"
"""The clearing group of everything, until there are several."""

DOORBELL_FIELD = "d"
"""Field of a stream entry that carries no command: instructions are waiting."""
REQUEST_FIELD = "c"
"""Field of a stream entry that carries commands (`exchange.envelope.Request`)."""


def engine_key(group: str = GROUP) -> str:
    """Return the key whose value is the stream that the group's engine reads now."""
    return f"engine:{group}"


def stream(group: str, epoch: int) -> str:
    """Return the command stream of an epoch; no older one is ever read again."""
    return f"orders:{group}:{epoch}"


def status_key(group: str = GROUP) -> str:
    """Return the key of the engine's own account of itself, a JSON object that lapses with it."""
    return f"status:{group}"


def epoch_channel(group: str = GROUP) -> str:
    """Return the channel on which a new epoch is announced, with its stream's name."""
    return f"epoch:{group}"


def feed_channel(group: str = GROUP) -> str:
    """Return the channel of everything that is released after a commit (`exchange.feed`)."""
    return f"feed:{group}"


def instruction_channel(instruction_id: str) -> str:
    """Return the channel on which the outcome of an instruction is announced."""
    return f"instruction:{instruction_id}"


def ring(client: Any, group: str = GROUP) -> bool:
    """Wake the engine: instructions are waiting. Return whether there was one to wake.

    Called after commit. The engine looks for instructions four times a second anyway, so a ring
    that is lost costs a quarter of a second.
    """
    name = client.get(engine_key(group))
    if name is None:
        return False
    return client.xadd(name, {DOORBELL_FIELD: b"1"}, nomkstream=True) is not None
