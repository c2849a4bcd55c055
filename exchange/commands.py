"""The frozen vocabulary of what the machine can be asked to do, and its bytes.

Orders and cancels come through the fast door, a stream; everything else is an instruction
(`settlement.instructions`) and reaches the machine wrapped in `Instruct`. A command carries no time
and no sequence: the engine gives it both, and the journal stores them beside it. The wire form is a
MessagePack array led by a tag, so a field may only be added at the end and with a default. None
can be part of a cycle (`gc=False`), which spares the collector most of what a replay makes.
"""

import msgspec

from settlement import instructions

LIMIT, MARKET, STOP, STOP_LIMIT = "LIMIT", "MARKET", "STOP", "STOP_LIMIT"
TYPES = frozenset({LIMIT, MARKET, STOP, STOP_LIMIT})
GTC, IOC, FOK, GTD, DAY = "GTC", "IOC", "FOK", "GTD", "DAY"
TIMES_IN_FORCE = frozenset({GTC, IOC, FOK, GTD, DAY})
CANCEL_NEWEST, CANCEL_OLDEST = "CANCEL_NEWEST", "CANCEL_OLDEST"
CANCEL_BOTH, DECREMENT = "CANCEL_BOTH", "DECREMENT"
PREVENTIONS = frozenset({CANCEL_NEWEST, CANCEL_OLDEST, CANCEL_BOTH, DECREMENT})
"""What happens where an order would meet one of its own group."""


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What makes an order more than a plain limit order.

    `display_lots` is the part of an iceberg that is on show, `min_lots` what has to trade at once
    if anything is to; zero stands for none, in `stop_price` and `expires_at` too.
    """

    type: str = LIMIT
    stop_price: int = 0
    display_lots: int = 0
    min_lots: int = 0
    expires_at: int = 0
    post_only: bool = False
    reduce_only: bool = False
    prevention: str = CANCEL_NEWEST


PLAIN = Terms()


class PlaceOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Enter an order. `side` is 1 to buy, -1 to sell; `price` in ticks, 0 without a limit.

    `fingerprint` is a digest of the request, to tell a retry from a reused id. `terms` is None for
    the plain limit order, good till canceled or immediate or cancel, that most orders are.
    """

    account: int
    instrument: str
    side: int
    price: int
    lots: int
    time_in_force: str
    client_order_id: str
    fingerprint: bytes
    terms: Terms | None = None


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
    reason: str = "requested"


class Instruct(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Carry out an instruction; `id` is its row's id, `body` its stored form."""

    id: str
    body: bytes


Entry = tuple[int, int, int]
"""An entry of the calendar: when it is due, its kind and its id."""


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Nothing but the passing of time: the calendar is brought up to date.

    With `last` only as far as this entry, which is performed; the rest is left to what comes next.
    """

    last: Entry | None = None


class Quarantine(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A command that broke an assertion: journaled, never applied; its instrument halts.

    With `entry` it was no command that broke but this entry of the calendar, which is dropped.
    """

    command: bytes
    assertion: str
    instrument: str
    entry: Entry | None = None


class Upgrade(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """From here on the state follows another version of the rules."""

    rules: int


class AmendOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Change a live order of the account to these terms; zero keeps what it has.

    `lots` is the whole quantity, with what has been filled already. `nonce` tells one amendment
    from an equal one, so that the journal can say what became of it.
    """

    account: int
    order: int
    price: int = 0
    lots: int = 0
    stop_price: int = 0
    nonce: bytes = b""
    decimals: int = 0
    """Those that its prices were written with; 0: they are ticks of whatever order it is."""


class PlaceStrip(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Trade the same lots in every hour of `[from_at, to_at)` at once, or nothing.

    `price` limits the average over all lots and hours; at least `min_share` percent of `lots` must
    trade. `alternatives` are grades to try, in order, when `grade` cannot: one of them at most.
    """

    account: int
    grade: str
    side: int
    from_at: int
    to_at: int
    price: int
    lots: int
    min_share: int
    client_order_id: str
    fingerprint: bytes
    alternatives: tuple[str, ...] = ()


class CancelAllAfter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Set a dead-man's switch: `timeout` microseconds from now all orders leave; zero unsets it.

    An account may have several by name; its own has none. `nonce` is as an amendment's.
    """

    account: int
    timeout: int
    name: str = ""
    nonce: bytes = b""


class PreviewOrder(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Ask what an order or a strip would do now. A question: it has no place in the journal."""

    order: PlaceOrder | PlaceStrip


Command = (
    PlaceOrder
    | CancelOrder
    | CancelOrders
    | Instruct
    | Tick
    | Quarantine
    | Upgrade
    | AmendOrder
    | PlaceStrip
    | CancelAllAfter
)

Asked = Command | PreviewOrder
"""What the engine answers: commands, and the question that is none."""


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
