"""OpenAI's dialect: what a request asks for, what goes upstream, and how a refusal is said.

The gateway reads of a body only what it has to know and passes everything else on untouched. It
owns some fields (RULEBOOK 7.10): `priority`, `cache_salt`, `request_id` and `stream_options` are
overwritten, `service_tier` is mapped to a class, `kv_transfer_params` is refused. What multiplies
the cost (`n`, lists of prompts) is counted and capped, what cannot be counted is refused, and the
grade's output limit is written in where the caller gave none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from admission import bounds, upstream
from marketplace import errors

CHOICES_MAX = 8
"""Choices times prompts of one request."""
MESSAGES_MAX = 4_096
MODEL_LENGTH_MAX = 120
TIERS = {"auto": "", "default": "", "priority": "P1", "flex": "P3"}
"""The class that a `service_tier` asks for; empty is the key's own."""
TIER_OF_CLASS = {"P0": "priority", "P1": "priority", "P2": "default", "P3": "flex"}
INPUTS_MAX = 2_048
"""Texts of one request for embeddings."""
CHAT, COMPLETIONS, EMBEDDINGS = "chat/completions", "completions", "embeddings"
_LIMITS = {
    CHAT: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    EMBEDDINGS: (),
}
_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "requests"}
_decoder = msgspec.json.Decoder(dict[str, Any])


class Refused(errors.Refusal):
    """A refusal in OpenAI's terms: its `type`, and the parameter that is to blame."""

    code, status, title = "invalid_request", 400, "Invalid request"

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int = 400,
        param: str | None = None,
        kind: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, code=code, status=status, retry_after_s=retry_after_s)
        self.param = param
        self.kind = kind


def error_body(refusal: errors.Refusal) -> bytes:
    """Return OpenAI's error object of any refusal."""
    kind = getattr(refusal, "kind", "") or _TYPES.get(
        refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    code = "invalid_api_key" if refusal.status == 401 else refusal.code
    error = {
        "message": refusal.detail,
        "type": kind,
        "param": getattr(refusal, "param", None),
        "code": code,
    }
    return msgspec.json.encode({"error": error})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a request asks for, as far as the gateway has to know."""

    path: str
    """`chat/completions`, `completions` or `embeddings`."""
    body: dict[str, Any]
    model: str
    is_stream: bool
    wants_usage: bool
    wants_continuous_usage: bool
    choices: int
    """Choices times prompts: how many outputs are generated."""
    output_tokens_max: int | None
    """Per output, as asked; None when the caller set no limit, 0 where nothing is generated."""
    tier_class: str
    prompt_bytes: int
    messages: int
    images: int


def parse(path: str, body: bytes) -> Call:
    """Return what a body asks for.

    :raises Refused: naming the parameter that is to blame.
    """
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise Refused("The body is not a JSON object.", code="invalid_json") from None
    model = fields.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_LENGTH_MAX:
        raise Refused("You must provide a model.", code="missing_required_parameter", param="model")
    is_stream = _boolean(fields, "stream")
    if is_stream and path == EMBEDDINGS:
        raise _invalid("stream", "false: embeddings are not streamed")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options", "an object")
    if options and not is_stream:
        raise _invalid("stream_options", "sent only with stream set to true")
    _refuse_uncountable(fields)
    messages, images = 0, 0
    if path == CHAT:
        messages, images = _messages(fields)
        prompts = 1
        said: Any = [fields["messages"], fields.get("tools"), fields.get("response_format")]
    elif path == EMBEDDINGS:
        prompts = 1
        messages = _prompts(fields, "input", most=INPUTS_MAX)
        said = fields["input"]
    else:
        prompts = _prompts(fields, "prompt", most=CHOICES_MAX)
        said = fields["prompt"]
    choices = _integer(fields, "n", low=1, high=CHOICES_MAX, default=1) * prompts
    if choices > CHOICES_MAX:
        raise _invalid("n", f"at most {CHOICES_MAX} choices over all prompts")
    return Call(
        path=path,
        body=fields,
        model=model,
        is_stream=is_stream,
        wants_usage=bool(options and options.get("include_usage")),
        wants_continuous_usage=bool(options and options.get("continuous_usage_stats")),
        choices=choices,
        output_tokens_max=_output_limit(path, fields),
        tier_class=_tier(fields),
        prompt_bytes=len(msgspec.json.encode(said)),
        messages=messages,
        images=images,
    )


def upstream_body(
    call: Call,
    *,
    model: str,
    output_tokens_max: int,
    priority: int,
    request_id: str,
    cache_salt: str,
    is_extended: bool,
) -> bytes:
    """Return the body that goes upstream: a completion is streamed, with usage in every chunk.

    `is_extended` says that the upstream knows the fields OpenAI does not have.
    """
    body = dict(call.body)
    for owned in ("service_tier", "priority", "cache_salt", "request_id"):
        body.pop(owned, None)
    body["model"] = model
    if call.path != EMBEDDINGS:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        # Every name of the limit says the same: whichever the upstream heeds is what is billed.
        limits = [name for name in _LIMITS[call.path] if body.get(name) is not None]
        for name in _LIMITS[CHAT]:
            body.pop(name, None)
        body |= dict.fromkeys(limits or ["max_tokens"], output_tokens_max)
    if is_extended:
        body |= {"priority": priority, "request_id": request_id, "cache_salt": cache_salt}
    return msgspec.json.encode(body)


def bound(call: Call, output_tokens_max: int) -> bounds.Bound:
    """Return the most a request can honestly cost."""
    return bounds.bound_of(
        prompt_bytes=call.prompt_bytes,
        messages=call.messages,
        images=call.images,
        output_tokens_max=output_tokens_max,
        choices=call.choices,
    )


def _refuse_uncountable(fields: Mapping[str, Any]) -> None:
    """Refuse what would cost more than can be counted, or is not a caller's to set."""
    for name in ("prompt_logprobs", "echo", "kv_transfer_params", "use_beam_search"):
        if fields.get(name):
            raise Refused(f"{name} is not supported.", code="unsupported_parameter", param=name)
    best_of = fields.get("best_of")
    if best_of is not None and best_of not in (1, fields.get("n", 1)):
        raise Refused("best_of is not supported.", code="unsupported_parameter", param="best_of")


def _messages(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many messages and images a chat has."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(
            "messages is a non-empty list.", code="missing_required_parameter", param="messages"
        )
    if len(messages) > MESSAGES_MAX:
        raise _invalid("messages", f"at most {MESSAGES_MAX} messages")
    images = 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _invalid("messages", "a list of objects with a role")
        content = message.get("content")
        if isinstance(content, list):
            images += sum(_is_image(part) for part in content)
    return len(messages), images


def _is_image(part: object) -> bool:
    """Whether a part of a message is an image; what it names must be inline or on the public web.

    The cluster fetches it, from inside its provider's network.
    """
    if not isinstance(part, dict):
        raise _invalid("messages", "parts that are objects")
    for name, named in part.items():
        if not name.endswith("_url"):
            continue
        url = named.get("url") if isinstance(named, dict) else named
        if not isinstance(url, str) or not (
            url.startswith("data:") or upstream.is_on_public_web(url)
        ):
            raise _invalid("messages", "images as data: URLs or https: URLs of the public web")
    return "image_url" in part


def _prompts(fields: Mapping[str, Any], name: str, *, most: int) -> int:
    """Return how many prompts a request has; each is a text or a list of token ids."""
    prompt = fields.get(name)
    if isinstance(prompt, str):
        return 1
    if isinstance(prompt, list) and prompt:
        if all(type(token) is int for token in prompt):
            return 1
        if len(prompt) <= most and all(
            isinstance(each, str)
            or (isinstance(each, list) and each and all(type(token) is int for token in each))
            for each in prompt
        ):
            return len(prompt)
    raise _invalid(name, f"a text, token ids, or at most {most} of them")


def _output_limit(path: str, fields: Mapping[str, Any]) -> int | None:
    """Return the caller's limit of tokens per output."""
    if path == EMBEDDINGS:
        return 0
    limits = [
        _integer(fields, name, low=1, high=1 << 31, default=0)
        for name in _LIMITS[path]
        if fields.get(name) is not None
    ]
    _integer(fields, "min_tokens", low=0, high=min(limits, default=1 << 31), default=0)
    return min(limits, default=None)


def _tier(fields: Mapping[str, Any]) -> str:
    tier = fields.get("service_tier")
    if tier is None:
        return ""
    if not isinstance(tier, str) or tier not in TIERS:
        raise _invalid("service_tier", "one of auto, default, flex and priority")
    return TIERS[tier]


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _invalid(name, "true or false")
    return value


def _integer(fields: Mapping[str, Any], name: str, *, low: int, high: int, default: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise _invalid(name, f"a whole number from {low} to {high}")
    return value


def _invalid(param: str, expected: str) -> Refused:
    return Refused(
        f"Invalid value for {param}: expected {expected}.", code="invalid_value", param=param
    )
