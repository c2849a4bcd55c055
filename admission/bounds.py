"""What an upstream's word is worth: usage as a claim that is held to what can be true.

The provider is paid by what its own server says it generated, so each claim is bounded by what the
gateway knows itself (RULEBOOK 7.11): a prompt has no more tokens than bytes, plus what the chat
template adds; cached tokens are part of the prompt and reasoning tokens of the output; an output is
no longer than its limit, nor than the bytes that were streamed; and running totals never fall. What
is beyond is billed at the bound and marked.
"""

from dataclasses import dataclass

from marketplace.contract import Usage

TEMPLATE_TOKENS = 64
"""What a chat template may add to a prompt as a whole."""
TEMPLATE_TOKENS_PER_MESSAGE = 16
TOKENS_PER_IMAGE = 2_048
"""The most one image may count; the table by size comes with the grades that read images."""

NOTHING = Usage(prompt=0, cached=0, output=0, reasoning=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most tokens a request can honestly cost."""

    prompt_tokens_max: int
    output_tokens_max: int
    """Over all choices together."""


def bound_of(
    *, prompt_bytes: int, messages: int, images: int, output_tokens_max: int, choices: int
) -> Bound:
    """Return the bound of a request from what it sends and may receive."""
    template = TEMPLATE_TOKENS + messages * TEMPLATE_TOKENS_PER_MESSAGE
    return Bound(
        prompt_tokens_max=prompt_bytes + template + images * TOKENS_PER_IMAGE,
        output_tokens_max=output_tokens_max * choices,
    )


def hold(claim: Usage, *, before: Usage, bound: Bound, streamed_bytes: int) -> tuple[Usage, bool]:
    """Return a claim held to what can be true, and whether it had to be."""
    prompt = _between(before.prompt, claim.prompt, bound.prompt_tokens_max)
    cached = _between(before.cached, claim.cached, prompt)
    output_max = min(bound.output_tokens_max, streamed_bytes)
    output = _between(before.output, claim.output, output_max)
    reasoning = _between(before.reasoning, claim.reasoning, output)
    held = Usage(prompt=prompt, cached=cached, output=output, reasoning=reasoning)
    return held, held != claim


def _between(low: int, value: int, high: int) -> int:
    """Return the value within its bounds; what was said before is not unsaid."""
    return max(low, min(value, high))
