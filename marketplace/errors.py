"""Every refusal the system anticipates.

A `Refusal` is an answer, not an accident: it says with a stable `code` why a request changed
nothing. Each is declared beside the function that raises it and is turned into its dialect at the
edge: a problem document over REST, OpenAI's error object at the gateway, a message on a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One field of a request, by its path in the body, and what is wrong with it."""

    field: str
    code: str


class Refusal(Exception):
    """Base of every anticipated refusal; subclasses set `code`, `status` and `title`."""

    code = "refused"
    status = 422
    title = "Refused"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        status: int | None = None,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.code = code or self.code
        self.status = status or self.status
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class Malformed(Refusal):
    """The request could not be understood; nothing was journaled."""

    code, status, title = "malformed", 400, "Malformed request"


class Unauthenticated(Refusal):
    """No key or session, or one that is not valid."""

    code, status, title = "unauthenticated", 401, "Authentication required"


class Forbidden(Refusal):
    """The key or member lacks the scope or role."""

    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(Refusal):
    """No such object, or one of another organization: the two look the same."""

    code, status, title = "not_found", 404, "Not found"


class KeyReuse(Refusal):
    """An idempotency key came again with another body."""

    code, status, title = "key_reuse", 409, "Idempotency key was used with another request"


class TooManyRequests(Refusal):
    """A named limit was reached."""

    code, status, title = "rate_limited", 429, "Too many requests"


class Unavailable(Refusal):
    """A part is down; nothing was done and nothing will be done later."""

    code, status, title = "unavailable", 503, "Temporarily unavailable"


class OutcomeUnknown(Refusal):
    """The request was sent on and its outcome could not be learned in time."""

    code, status, title = "outcome_unknown", 504, "Outcome unknown"
