"""OpenAI's embeddings as the cluster model answers them.

A text becomes a unit vector that depends on nothing but the text: the same everywhere, and of no
meaning. What takes time is reading it, as with the prompt of a completion, and it counts as many
tokens as one. A vector is a list of numbers, or the base64 of little-endian 32-bit floats, which is
what OpenAI's own client asks for.
"""

import base64
import math
import struct
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from admission import modelled_answers
from admission.modelled_answers import BadRequest

DIMENSIONS = 256
DIMENSIONS_MAX = 4_096
INPUTS_MAX = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the model server has to know of a request."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    prompts: tuple[int, ...]
    """Tokens of each input."""
    dimensions: int
    is_base64: bool
    priority: int


def read(body: bytes) -> Asked:
    """Return what a body asks for.

    :raises BadRequest: with a message for the caller.
    """
    fields = modelled_answers.fields_of(body)
    wanted = fields.get("input")
    prompts = modelled_answers.prompt_tokens(wanted, "input")
    if len(prompts) > INPUTS_MAX:
        raise BadRequest(f"at most {INPUTS_MAX} inputs")
    dimensions = modelled_answers.integer(fields, "dimensions", DIMENSIONS) or 0
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        raise BadRequest(f"dimensions is from 1 to {DIMENSIONS_MAX}")
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format is float or base64")
    is_one = isinstance(wanted, str) or (isinstance(wanted, list) and type(wanted[0]) is int)
    inputs = [wanted] if is_one else wanted
    assert isinstance(inputs, list), "what is not one is a list"
    return Asked(
        model=str(fields.get("model") or ""),
        inputs=tuple(each if isinstance(each, str) else tuple(each) for each in inputs),
        prompts=tuple(prompts),
        dimensions=dimensions,
        is_base64=encoding == "base64",
        priority=modelled_answers.integer(fields, "priority", 0) or 0,
    )


def vector(text: str | tuple[int, ...], dimensions: int) -> list[float]:
    """Return the unit vector of a text or of token ids."""
    seed = blake2b(text.encode() if isinstance(text, str) else repr(text).encode()).digest()
    raw = b"".join(
        blake2b(seed, salt=block.to_bytes(16, "little")).digest()
        for block in range(-(-dimensions // 32))
    )
    numbers = [each / 32_768 for each in struct.unpack(f"<{dimensions}h", raw[: 2 * dimensions])]
    length = math.sqrt(sum(each * each for each in numbers)) or 1.0
    return [each / length for each in numbers]


def whole(asked: Asked) -> bytes:
    """Return the answer's bytes."""
    data: list[dict[str, object]] = []
    for index, text in enumerate(asked.inputs):
        found = vector(text, asked.dimensions)
        shown: object = found
        if asked.is_base64:
            shown = base64.b64encode(struct.pack(f"<{len(found)}f", *found)).decode()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(asked.prompts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode(
        {"object": "list", "data": data, "model": asked.model, "usage": usage}
    )
