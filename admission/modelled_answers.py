"""OpenAI's completions as the cluster model answers them: what a request asks for, and its chunks.

There is no tokenizer. A prompt counts one token per four bytes of its text, rounded up, and at
least one; a chat message counts `MESSAGE_TOKENS` more for its template; a list of token ids counts
its length. Output is made of the words of a fixed list, one word a token, so that a text has as
many words as tokens were generated. The text depends on nothing but the length of the prompt.

How long an output would be if nothing cut it off follows from the length of the prompt
(`natural_tokens`); `min_tokens` makes it longer and `max_tokens` cuts it off, and `ignore_eos`
makes it as long as `max_tokens`, as in vLLM. The bodies and the usage follow vLLM, which repeats
the usage in every chunk when `stream_options.continuous_usage_stats` is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
OUTPUT_TOKENS_MAX = 16_384
CHOICES_MAX = 64
TEXT = (
    "the market opens with a book of bids and offers each hour of capacity has one price "
    "lots trade before the gate closes then every position becomes an entitlement tokens flow "
    "through the gateway are counted once and settle against what was promised no more no less"
)
WORDS = tuple(TEXT.split())


class BadRequest(Exception):
    """The body is not one that an OpenAI-compatible server accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the model server has to know of a request."""

    is_chat: bool
    model: str
    prompts: tuple[int, ...]
    """Tokens of each prompt, repeated for every choice."""
    choices: int
    output_tokens_max: int | None
    output_tokens_min: int
    ignores_end: bool
    is_stream: bool
    includes_usage: bool
    repeats_usage: bool
    priority: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once however many choices it has."""
        return sum(self.prompts) // self.choices

    def output_tokens(self, prompt_tokens: int) -> tuple[int, str]:
        """Return how long the output to a prompt is, and why it ends there."""
        limit = self.output_tokens_max or OUTPUT_TOKENS_MAX
        length = max(natural_tokens(prompt_tokens), self.output_tokens_min)
        if self.ignores_end or length >= limit:
            return limit, "length"
        return length, "stop"


def natural_tokens(prompt_tokens: int) -> int:
    """Return how long an answer is that nothing cuts off: 64 to 319 tokens."""
    return 64 + prompt_tokens * 37 % 256


def text_tokens(text: str) -> int:
    """Return how many tokens a text counts."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def read(body: bytes, *, is_chat: bool) -> Asked:
    """Return what a body asks for.

    :raises BadRequest: with a message for the caller.
    """
    fields = fields_of(body)
    prompts = [_chat_tokens(fields)] if is_chat else prompt_tokens(fields.get("prompt"), "prompt")
    choices = integer(fields, "n", 1) or 1
    if not 1 <= choices * len(prompts) <= CHOICES_MAX:
        raise BadRequest("too many choices")
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options is an object")
    limit = integer(fields, "max_completion_tokens", None)
    limit = integer(fields, "max_tokens", None) if limit is None else limit
    if limit is not None and limit < 1:
        raise BadRequest("max_tokens must be at least 1")
    return Asked(
        is_chat=is_chat,
        model=str(fields.get("model") or ""),
        prompts=tuple(tokens for tokens in prompts for _ in range(choices)),
        choices=choices,
        output_tokens_max=limit,
        output_tokens_min=integer(fields, "min_tokens", 0) or 0,
        ignores_end=fields.get("ignore_eos") is True,
        is_stream=fields.get("stream") is True,
        includes_usage=options.get("include_usage") is True,
        repeats_usage=options.get("continuous_usage_stats") is True,
        priority=integer(fields, "priority", 0) or 0,
    )


def fields_of(body: bytes) -> dict[str, Any]:
    """Return the fields of a body.

    :raises BadRequest: when it is not a JSON object.
    """
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(fields, dict):
        raise BadRequest("the body is not an object")
    return fields


def integer(fields: Mapping[str, Any], name: str, default: int | None) -> int | None:
    """Return a whole number that may be missing.

    :raises BadRequest: when it is something else.
    """
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise BadRequest(f"{name} is an integer")
    return value


def _chat_tokens(fields: Mapping[str, Any]) -> int:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages is a list that is not empty")
    tokens = 0
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("a message is an object")
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        text = "".join(each for each in texts if isinstance(each, str))
        tokens += MESSAGE_TOKENS + text_tokens(text)
    return tokens


def prompt_tokens(prompt: object, name: str) -> list[int]:
    """Return how many tokens each of one or more prompts counts.

    :raises BadRequest: when it is neither texts nor token ids.
    """
    if isinstance(prompt, str):
        return [max(1, text_tokens(prompt))]
    if isinstance(prompt, list) and prompt:
        if all(type(each) is int for each in prompt):
            return [len(prompt)]
        if all(isinstance(each, str | list) and each for each in prompt):
            return [len(e) if isinstance(e, list) else max(1, text_tokens(e)) for e in prompt]
    raise BadRequest(f"{name} is a text, a list of token ids, or a list of them")


class Writer:
    """The bytes of one answer, made from as few parts as possible."""

    def __init__(self, asked: Asked, *, request_id: str, created: int, cached: int) -> None:
        self._asked = asked
        self._cached = cached
        kind = "chat.completion" if asked.is_chat else "text_completion"
        self._head = {
            "id": ("chatcmpl-" if asked.is_chat else "cmpl-") + request_id,
            "object": kind,
            "created": created,
            "model": asked.model,
        }
        chunk = {**self._head, "object": "chat.completion.chunk"} if asked.is_chat else self._head
        self._chunk_head = b"data: " + msgspec.json.encode(chunk)[:-1] + b',"choices":['

    def usage(self, completion: int, reasoning: int) -> dict[str, object]:
        """Return the usage so far."""
        return {
            "prompt_tokens": self._asked.prompt_tokens,
            "total_tokens": self._asked.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def opening(self, index: int) -> bytes:
        """Return a chat's first chunk, which has a role and no text."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},' % index
        return self._chunk(delta + b'"logprobs":null,"finish_reason":null}', 0, 0)

    def token(
        self, index: int, word: str, completion: int, reasoning: int, *, is_reasoning: bool
    ) -> bytes:
        """Return the chunk of one token."""
        if not self._asked.is_chat:
            choice = b'{"index":%d,"text":"%s",' % (index, word.encode())
        else:
            field = b"reasoning_content" if is_reasoning else b"content"
            choice = b'{"index":%d,"delta":{"%s":"%s"},' % (index, field, word.encode())
        return self._chunk(choice + b'"logprobs":null,"finish_reason":null}', completion, reasoning)

    def ending(self, index: int, why: str, completion: int, reasoning: int) -> bytes:
        """Return the chunk that ends a choice."""
        body = b'"delta":{}' if self._asked.is_chat else b'"text":""'
        choice = b'{"index":%d,%s,"logprobs":null,"finish_reason":"%s"}' % (
            index,
            body,
            why.encode(),
        )
        return self._chunk(choice, completion, reasoning)

    def closing(self, completion: int, reasoning: int) -> bytes:
        """Return the last usage, if it was asked for, and the end of the stream."""
        if not self._asked.includes_usage:
            return b"data: [DONE]\n\n"
        usage = msgspec.json.encode(self.usage(completion, reasoning))
        return self._chunk_head + b'],"usage":' + usage + b"}\n\ndata: [DONE]\n\n"

    def whole(self, outputs: list[tuple[str, str, str]], completion: int, reasoning: int) -> bytes:
        """Return an answer that is not streamed; outputs are reasoning, text and why it ended."""
        choices = []
        for index, (thought, text, why) in enumerate(outputs):
            choice: dict[str, object] = {"index": index, "logprobs": None, "finish_reason": why}
            if self._asked.is_chat:
                message: dict[str, object] = {"role": "assistant", "content": text.lstrip()}
                if thought:
                    message["reasoning_content"] = thought
                choice["message"] = message
            else:
                choice["text"] = thought + text
            choices.append(choice)
        usage = self.usage(completion, reasoning)
        return msgspec.json.encode({**self._head, "choices": choices, "usage": usage})

    def _chunk(self, choice: bytes, completion: int, reasoning: int) -> bytes:
        if not self._asked.repeats_usage:
            return self._chunk_head + choice + b"]}\n\n"
        usage = msgspec.json.encode(self.usage(completion, reasoning))
        return self._chunk_head + choice + b'],"usage":' + usage + b"}\n\n"


def word(prompt_tokens: int, number: int) -> str:
    """Return the word of a token, with the space before it unless it is the first."""
    text = WORDS[(prompt_tokens + number) % len(WORDS)]
    return text if number == 0 else " " + text
