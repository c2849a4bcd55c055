"""The frozen vocabulary of what the machine can be asked to do, and its bytes.

Orders and cancels come through the fast door, a stream; everything else is an instruction
(`settlement.instructions`) and reaches the machine wrapped in `Instruct`. A command carries no time
and no sequence: the engine gives it both, and the journal stores them beside it. The wire form is a
MessagePack array led by a tag, so a field may only be added at the end and with a default. None
can be part of a cycle (`gc=False`), which spares the collector most of what a replay makes.
"""

import msgspec

from settlement import instructions


class PlaceOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Enter an order. `side` is 1 to buy, -1 to sell; `price` in ticks.

    `fingerprint` is a digest of the request, to tell a retry from a reused id.
    """

    account: int
    instrument: str
    side: int
    price: int
    lots: int
    time_in_force: str
    client_order_id: str
    fingerprint: bytes


class CancelOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Withdraw a resting order of the account."""

    account: int
    order: int


class CancelOrders(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Withdraw every resting order of the account that matches; empty and zero match all."""

    account: int
    instrument: str = ""
    grade: str = ""
    side: int = 0


class Instruct(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Carry out an instruction; `id` is its row's id, `body` its stored form."""

    id: str
    body: bytes


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Nothing but the passing of time: the calendar is brought up to date."""


class Quarantine(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A command that broke an assertion: journaled, never applied; its instrument halts."""

    command: bytes
    assertion: str
    instrument: str


class Upgrade(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """From here on the state follows another version of the rules."""

    rules: int


Command = PlaceOrder | CancelOrder | CancelOrders | Instruct | Tick | Quarantine | Upgrade


class Sequenced(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A command with its place in the total order: the unit the journal stores and replays."""

    sequence: int
    at: int
    command: Command


def encode(command: Command) -> bytes:
    """Return the wire form of a command."""
    return _encoder.encode(command)


def decode(data: bytes) -> Command:
    """Return the command of a wire form.

    :raises msgspec.ValidationError: when it is not one.
    """
    return _decoder.decode(data)


def encode_batch(batch: list[Sequenced]) -> bytes:
    """Return the journaled form of a batch."""
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> list[Sequenced]:
    """Return the batch of a journaled form."""
    return _batch_decoder.decode(data)


def decode_instruction(command: Instruct) -> instructions.AnyInstruction:
    """Return the instruction that a command carries."""
    return instructions.decode(command.body)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_batch_decoder: msgspec.msgpack.Decoder[list[Sequenced]] = msgspec.msgpack.Decoder(list[Sequenced])
