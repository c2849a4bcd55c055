"""Names of the keys and channels in Valkey by which processes find and hear each other.

Valkey holds no truth: every name here stands for a hint or a message that may be lost. The engine's
key and its stream are `settlement.doorbell`'s.
"""

from settlement.doorbell import GROUP

REQUEST_FIELD = b"c"
"""Field of a stream entry that carries commands (`exchange.envelope.Request`)."""


def status_key(group: str = GROUP) -> str:
    """Return the key of the engine's own account of itself, a JSON object that lapses with it."""
    return f"status:{group}"


def recovery_key(group: str = GROUP) -> str:
    """Return the key, with a time to live, of an engine that is taking over: its process id."""
    return f"recovery:{group}"


def epoch_channel(group: str = GROUP) -> str:
    """Return the channel on which a new epoch is announced, in decimal."""
    return f"epoch:{group}"


def feed_channel(group: str = GROUP) -> str:
    """Return the channel of everything that is released after a commit (`exchange.feed`)."""
    return f"feed:{group}"


def instruction_channel(instruction_id: str) -> str:
    """Return the channel on which the outcome of an instruction is announced: its state."""
    return f"instruction:{instruction_id}"
