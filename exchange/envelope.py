"""What travels between the engine and those who send it orders: requests, replies, releases.

A stream entry is one `Request`: all that a process had to send at that moment, so that sixty-four
callers of one web process cost one entry. A `Reply` answers one command with the events that the
command itself caused, after they are durable; whoever asked makes of them what its caller reads.
Replies of a batch to one process travel in one message. A `Release` carries what is public or
private news of a batch, already in its final form, by topic.
"""

import msgspec

from exchange import commands, events

APPLIED = "applied"
REPLAYED = "replayed"
"""The command had come before: these are the events of the first time."""
KEY_REUSE = "key_reuse"
INTERNAL_ERROR = "internal_error"
CLOCK_SKEW = "clock_skew"


FAST = (
    commands.PlaceOrder,
    commands.CancelOrder,
    commands.CancelOrders,
    commands.AmendOrder,
    commands.PlaceStrip,
    commands.CancelAllAfter,
    commands.PreviewOrder,
    commands.Tick,
)


class Request(msgspec.Struct, frozen=True, array_like=True):
    """Commands with their correlation numbers, and the channel their replies go to.

    Only what callers ask for and ticks (`FAST`) come this way; the engine drops anything else.
    """

    reply_to: str
    items: list[tuple[int, commands.Asked]]


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of one command; `at` is its timestamp, or the engine's when it has none."""

    correlation: int
    result: str
    sequence: int
    at: int
    events: list[events.Event]


class Release(msgspec.Struct, frozen=True, array_like=True):
    """News of one batch: (topic, JSON) in order; topics are named by `exchange.feed`.

    `private` is what the news of organizations is made of, for whoever has one that listens.
    """

    sequence: int
    items: list[tuple[str, bytes]]
    private: bytes = b""


def encode_request(request: Request) -> bytes:
    """Return the bytes of a stream entry."""
    return _encoder.encode(request)


def decode_request(data: bytes) -> Request:
    """Return the request of a stream entry.

    :raises msgspec.MsgspecError: when it is not one.
    """
    return _requests.decode(data)


def encode_replies(replies: list[Reply]) -> bytes:
    """Return the message that carries replies to one process."""
    return _encoder.encode(replies)


def decode_replies(data: bytes) -> list[Reply]:
    """Return the replies of a message."""
    return _replies.decode(data)


def encode_release(release: Release) -> bytes:
    """Return the message of a batch's news."""
    return _encoder.encode(release)


def decode_release(data: bytes) -> Release:
    """Return the news of a message."""
    return _releases.decode(data)


def caused_by(
    command: commands.Command, sequence: int, happened: list[events.Event]
) -> list[events.Event]:
    """Return, of what happened while a command was applied, what is the command's own outcome.

    The calendar runs before the command and under the same sequence; its events are left out.
    """
    if isinstance(command, _WITH_IDS):
        for event in happened:
            if (
                isinstance(event, ENTERED)
                and event.request.client_order_id == command.client_order_id
                and event.request.account == command.account
            ):
                return of_order(event.order, sequence, happened)
        return []
    if isinstance(command, commands.CancelOrder):
        return [
            event
            for event in happened
            if isinstance(event, events.OrderClosed | events.CancelRefused)
            and event.order == command.order
            and event.account == command.account
        ]
    if isinstance(command, commands.CancelOrders):
        return [
            event
            for event in happened
            if isinstance(event, events.OrderClosed)
            and event.account == command.account
            and event.reason == command.reason
        ]
    if isinstance(command, commands.AmendOrder):
        return [
            event
            for event in happened
            if isinstance(event, events.OrderAmended | events.AmendRefused)
            and event.order == command.order
            and event.account == command.account
            and event.sequence == sequence
        ]
    if isinstance(command, commands.CancelAllAfter):
        return [
            event
            for event in happened
            if isinstance(event, events.SwitchSet)
            and event.account == command.account
            and event.name == command.name
        ]
    return []


ENTERED = (
    events.OrderPlaced,
    events.OrderRejected,
    events.StripPlaced,
    events.StripRejected,
)
"""How the events of whatever has a client order id begin."""
_OF_ORDER = (*ENTERED, events.OrderClosed, events.OrderAmended, events.OrderTriggered)
_WITH_IDS = (commands.PlaceOrder, commands.PlaceStrip)


def of_order(order: int, sequence: int, happened: list[events.Event]) -> list[events.Event]:
    """Return the events by which one command entered an order: what its first answer was.

    It may have rested and met, as the maker, an order that its own trades triggered.
    """
    found: list[events.Event] = []
    for event in happened:
        if isinstance(event, events.Traded):
            own = order in (event.taker_order, event.maker_order)
        elif isinstance(event, _OF_ORDER):
            own = event.order == order
        else:
            continue
        if own and event.sequence == sequence:
            found.append(event)
    return found


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[list[Reply]] = msgspec.msgpack.Decoder(list[Reply])
_releases: msgspec.msgpack.Decoder[Release] = msgspec.msgpack.Decoder(Release)
