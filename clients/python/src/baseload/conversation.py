"""What is done about a call: attempt, judge the answer, wait, ask again, give up.

This is the logic without the waiting. `converse` is a generator: it yields an `Attempt` and is sent
a `Reply` or a `Failure`, or yields a `Pause`; the two clients carry both out, one blocking, one
awaiting. So there is one place in which the rules of repetition stand:

- A request that changes nothing, one that says the same however often it is said, and one that
  carries an id the exchange remembers, are repeated after any failure.
- Any other is repeated only when it certainly was not carried out: it never left, or the exchange
  said so (429, and 503 with a problem document).
- Once some attempt may have been carried out, only an answer of the exchange to that very request
  tells what became of it. A later "unavailable" says nothing about the earlier attempt, so giving
  up then is `OutcomeUnknown`, never the refusal that happened to come last.
"""

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from baseload import errors
from baseload.calls import Call, Outcome, Repeat

T = TypeVar("T")

DEFINITE_STATUSES: Final = frozenset({400, 404, 409, 413, 422})
"""Refusals of the request itself: its outcome, also when an earlier attempt was lost."""
BUSY_STATUSES: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient a client is."""

    attempts_max: int = 8
    attempt_timeout_s: float = 10.0
    """How long to wait for any one answer."""
    patience_s: float = 45.0
    """No attempt begins later than this after the first."""
    backoff_s_min: float = 0.1
    backoff_s_max: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Send this once, and report."""

    call: Call[Any]
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No answer. `was_sent` is False only when the request certainly did not arrive."""

    error: errors.TransportError
    was_sent: bool


Step = Attempt | Pause
Heard = Reply | Failure | None
Conversation = Generator[Step, Heard, T]


def converse(call: Call[T], policy: Policy, now: Callable[[], float]) -> Conversation[T]:
    """Carry a call through; `now` reads a monotonic clock in seconds.

    :raises BaseloadError: what came of it, when it is no result.
    """
    outcome = yield from _attempts(call, policy, now)
    if call.settle is None:
        return outcome.get()
    settling = call.settle(outcome)
    try:
        nested = next(settling)
        while True:
            try:
                found = yield from converse(nested, policy, now)
            except errors.BaseloadError as error:
                _give_up(call, error, is_open=True)
            nested = settling.send(found)
    except StopIteration as end:
        result: T = end.value
        return result


def _attempts(call: Call[T], policy: Policy, now: Callable[[], float]) -> Conversation[Outcome[T]]:
    """Attempt a call until its outcome is known.

    :raises TransportError: nobody answered, and nothing was changed.
    :raises OutcomeUnknown: nobody could say what became of it.
    """
    deadline = now() + policy.patience_s
    is_open = False
    backoff_s = policy.backoff_s_min
    for number in range(1, policy.attempts_max + 1):
        timeout_s = call.timeout_s or policy.attempt_timeout_s
        heard = yield Attempt(call=call, timeout_s=timeout_s)
        assert heard is not None, "an attempt is answered"
        judged = _judge(call, heard)
        if judged.value is not None:
            return Outcome(value=judged.value, is_repeat=is_open)
        error = judged.error
        assert error is not None, "there is a value or an error"
        if isinstance(error, errors.ApiError) and error.status in DEFINITE_STATUSES:
            return Outcome(error=error, is_repeat=is_open)
        is_open = is_open or judged.may_have_happened
        pause_s = max(judged.retry_after_s, backoff_s * random.uniform(0.5, 1.0))
        is_last = number == policy.attempts_max or now() + pause_s > deadline
        if not judged.is_worth_repeating or is_last or (is_open and call.repeat is Repeat.ONCE):
            _give_up(call, error, is_open=is_open)
        yield Pause(seconds=pause_s)
        backoff_s = min(2 * backoff_s, policy.backoff_s_max)
    raise AssertionError("the last attempt returns or raises")


def _give_up(call: Call[Any], error: errors.BaseloadError, *, is_open: bool) -> NoReturn:
    """Raise what a call came to without an outcome.

    :raises BaseloadError: always.
    """
    if is_open and call.repeat is not Repeat.READ:
        again = f"; ask again with the id {call.id}" if call.id else ""
        raise errors.OutcomeUnknown(
            f"{call.method} {call.path}: nobody knows what became of it{again} ({error})",
            id=call.id,
        ) from error
    raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What one answer means."""

    value: Any = None
    error: errors.BaseloadError | None = None
    may_have_happened: bool = False
    is_worth_repeating: bool = False
    retry_after_s: float = 0.0


def _judge(call: Call[Any], heard: Reply | Failure) -> _Judged:
    """Return what one answer means for its call."""
    if isinstance(heard, Failure):
        return _Judged(error=heard.error, may_have_happened=heard.was_sent, is_worth_repeating=True)
    if 200 <= heard.status < 300:
        try:
            return _Judged(value=msgspec.json.decode(heard.body, type=call.result))
        except msgspec.MsgspecError as error:
            # It was carried out; to repeat it would get the same answer.
            unreadable = errors.UnreadableAnswer(f"{call.method} {call.path}: {error}")
            return _Judged(error=unreadable, may_have_happened=True)
    problem = _problem(heard)
    retry_after_s = _retry_after_s(heard.headers)
    if problem is None:
        return _Judged(
            error=errors.UnreadableAnswer(
                f"{call.method} {call.path}: status {heard.status} without a problem document"
            ),
            may_have_happened=heard.status >= 500,
            is_worth_repeating=heard.status >= 500,
            retry_after_s=retry_after_s,
        )
    is_busy = problem.status in BUSY_STATUSES
    return _Judged(
        error=errors.api_error(problem, retry_after_s=retry_after_s or None),
        may_have_happened=problem.status >= 500 and not is_busy,
        is_worth_repeating=is_busy or problem.status >= 500,
        retry_after_s=retry_after_s,
    )


def _problem(reply: Reply) -> errors.Problem | None:
    """Return the problem document of an answer, or None when it has none."""
    try:
        problem = msgspec.json.decode(reply.body, type=errors.Problem)
    except msgspec.MsgspecError:
        return None
    return problem if problem.status == reply.status else None


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how long the exchange asks to wait; 0 when it does not say."""
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
