"""An upstream's stream of chunks, read for its usage, passed on, or put together as one answer.

Upstreams are always asked to stream, with running usage in every chunk, because that is what can be
metered exactly when somebody hangs up. A caller who asked for a stream gets each chunk without what
was asked for on the gateway's behalf; one who did not gets the chunks put together: text is joined,
lists of log probabilities are chained, pieces of tool calls are joined by their index, and of
everything else the last value counts.
"""

from typing import Any

import msgspec

from marketplace.contract import Usage

DONE = b"[DONE]"
_decoder = msgspec.json.Decoder(dict[str, Any])
_JOINED = frozenset({"content", "reasoning", "reasoning_content", "refusal", "text", "arguments"})


class Garbled(Exception):
    """The upstream sent something that is not a chunk."""


class EventReader:
    """Cuts a stream of server-sent events into the data of each, whatever the packets are."""

    __slots__ = ("_rest",)

    LINE_BYTES_MAX = 8_388_608

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are complete now.

        :raises Garbled: when a line grows beyond every bound.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self.LINE_BYTES_MAX:
            raise Garbled("an event without an end")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def decode(data: bytes) -> dict[str, Any]:
    """Return a chunk.

    :raises Garbled: when it, its choices, their deltas or their tool calls are not what they
        should be; what is passed on untouched is not looked at.
    """
    try:
        chunk = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(str(error)) from None
    choices = chunk.get("choices")
    if choices is not None:
        if not isinstance(choices, list):
            raise Garbled("choices is not a list")
        for choice in choices:
            if not isinstance(choice, dict) or type(choice.get("index", 0)) is not int:
                raise Garbled("a choice is not an object with an index")
            _check_delta(choice.get("delta"))
    if chunk.get("error") is not None:
        raise Garbled("the upstream failed in the middle of its answer")
    return chunk


def _check_delta(delta: object) -> None:
    """Look at what pieces are put together by; :raises Garbled: where that cannot be done."""
    if delta is None:
        return
    if not isinstance(delta, dict):
        raise Garbled("a delta is not an object")
    calls = delta.get("tool_calls")
    if calls is not None and not (
        isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    ):
        raise Garbled("tool calls are not a list of objects")


def usage_of(chunk: dict[str, Any]) -> Usage | None:
    """Return the running totals in a chunk, or None when it has none.

    :raises Garbled: when a count is not a whole number, or negative.
    """
    usage = chunk.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict):
        raise Garbled("usage is not an object")
    prompt_details = usage.get("prompt_tokens_details") or {}
    output_details = usage.get("completion_tokens_details") or {}
    if not isinstance(prompt_details, dict) or not isinstance(output_details, dict):
        raise Garbled("the details of usage are not objects")
    counts = (
        usage.get("prompt_tokens", 0),
        prompt_details.get("cached_tokens") or 0,
        usage.get("completion_tokens") or 0,
        output_details.get("reasoning_tokens") or 0,
    )
    if not all(type(count) is int and 0 <= count < 1 << 40 for count in counts):
        raise Garbled("usage has counts that are not whole numbers")
    return Usage(prompt=counts[0], cached=counts[1], output=counts[2], reasoning=counts[3])


def embeddings(body: bytes, count: int) -> tuple[dict[str, Any], Usage | None]:
    """Return an answer that is vectors, one for each input, and the usage it claims.

    :raises Garbled: when it is something else.
    """
    found = decode(body)
    data = found.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise Garbled("there is not one embedding for each input")
    if not all(isinstance(one, dict) and one.get("embedding") for one in data):
        raise Garbled("an embedding is missing")
    return found, usage_of(found)


def is_finishing(chunk: dict[str, Any]) -> bool:
    """Whether some choice ends in this chunk."""
    return any(choice.get("finish_reason") for choice in chunk.get("choices") or ())


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return the `usage` object of an answer, with what was billed."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class Assembly:
    """Puts the chunks of one answer together."""

    __slots__ = ("_choices", "_fields")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take a chunk in."""
        for name, value in chunk.items():
            if name == "choices":
                for choice in value or ():
                    index = choice.get("index", 0)
                    _merge(self._choices.setdefault(index, {}), choice)
            elif value is not None:
                self._fields[name] = value

    def answer(self, *, usage: Usage, service_tier: str) -> bytes:
        """Return the whole answer as JSON."""
        choices = []
        for index in sorted(self._choices):
            choice = self._choices[index]
            choice.setdefault("finish_reason", None)
            if "delta" in choice:
                delta = choice.pop("delta") or {}
                message = {"role": "assistant", "content": None} | delta
                if message.get("tool_calls"):
                    message["tool_calls"] = [
                        {name: value for name, value in call.items() if name != "index"}
                        for call in message["tool_calls"]
                    ]
                choice["message"] = message
            choices.append(choice)
        body = self._fields | {
            "choices": choices,
            "usage": usage_fields(usage),
            "service_tier": service_tier,
        }
        if body.get("object") == "chat.completion.chunk":
            body["object"] = "chat.completion"
        return msgspec.json.encode(body)


def _merge(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Merge a piece of a choice into what is there."""
    for name, value in piece.items():
        if value is None:
            into.setdefault(name, None)
            continue
        present = into.get(name)
        if name == "tool_calls" and isinstance(value, list):
            if present is None:
                present = into[name] = []
            _merge_by_index(present, value)
        elif isinstance(present, str) and isinstance(value, str) and name in _JOINED:
            into[name] = present + value
        elif isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        elif isinstance(present, list) and isinstance(value, list):
            present.extend(value)
        elif isinstance(value, dict):
            into[name] = dict(value)
        elif isinstance(value, list):
            into[name] = list(value)
        else:
            into[name] = value


def _merge_by_index(into: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    """Merge pieces of tool calls, each into the call of its index."""
    for piece in pieces:
        index = piece.get("index", len(into))
        for call in into:
            if call.get("index") == index:
                _merge(call, piece)
                break
        else:
            call = {}
            _merge(call, piece)
            call.setdefault("index", index)
            into.append(call)
