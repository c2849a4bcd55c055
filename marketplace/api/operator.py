"""What operators decide: halts and resumes, and the kill switch of an organization.

Each decision is journaled and stands in the audit trail with its reason.
"""

from typing import Annotated

import msgspec

from exchange import queries as exchange_queries
from marketplace import corrections, errors, http, operations, queries, text, wire
from marketplace.endpoint import Answer, Call, Endpoint, Replayable, Strict

REASON_LENGTH_MAX = 200
"""Of a reason that is published."""
Reason = Annotated[str, msgspec.Meta(max_length=500)]


class Decision(Strict):
    """Why."""

    reason: Reason = ""


class InstrumentState(Answer):
    """Where the instrument is now."""

    instrument: str
    state: str


class GradeState(Answer):
    """Whether trading of the grade was stopped."""

    grade: str
    halted: bool


class MarketState(Answer):
    """Whether trading of everything was stopped."""

    halted: bool


class _OnInstrument(Endpoint):
    """Stops or resumes an instrument."""

    method = "POST"
    scope = "operate"
    tag = "operator"
    Input = Decision
    Output = InstrumentState
    halted = True

    def handle(self, call: Call, given: Decision, symbol: str) -> InstrumentState:
        """Answer."""
        if exchange_queries.instrument(symbol=symbol) is None:
            raise errors.NotFound()
        operations.set_halt(
            halted=self.halted,
            instrument=symbol,
            actor=actor(call),
            reason=given.reason,
            request_id=call.request_id,
        )
        found = exchange_queries.instrument(symbol=symbol)
        assert found is not None, "instruments do not go away"
        return InstrumentState(instrument=symbol, state=found.instrument.state.lower())


class HaltInstrument(_OnInstrument):
    """Stop trading of an instrument; orders may still be canceled."""


class ResumeInstrument(_OnInstrument):
    """Let an instrument trade again, after a re-opening auction of five minutes."""

    halted = False


class _OnGrade(Endpoint):
    """Stops or resumes a grade."""

    method = "POST"
    scope = "operate"
    tag = "operator"
    Input = Decision
    Output = GradeState
    halted = True

    def handle(self, call: Call, given: Decision, grade: str) -> GradeState:
        """Answer."""
        queries.grade(grade)
        operations.set_halt(
            halted=self.halted,
            grade=grade,
            actor=actor(call),
            reason=given.reason,
            request_id=call.request_id,
        )
        return GradeState(grade=grade, halted=self.halted)


class HaltGrade(_OnGrade):
    """Stop trading of every instrument of a grade."""


class ResumeGrade(_OnGrade):
    """Let the instruments of a grade trade again, after re-opening auctions."""

    halted = False


class _OnMarket(Endpoint):
    """Stops or resumes everything."""

    method = "POST"
    scope = "operate"
    tag = "operator"
    Input = Decision
    Output = MarketState
    halted = True

    def handle(self, call: Call, given: Decision) -> MarketState:
        """Answer."""
        operations.set_halt(
            halted=self.halted,
            actor=actor(call),
            reason=given.reason,
            request_id=call.request_id,
        )
        return MarketState(halted=self.halted)


class HaltMarket(_OnMarket):
    """Stop trading of everything; orders may still be canceled."""


class ResumeMarket(_OnMarket):
    """Let all trade again that no halt of its own or its grade stops, after re-opening auctions."""

    halted = False


class KillOrganization(Endpoint):
    """Cancel all orders of an organization and refuse new ones; `enabled: false` lifts that."""

    method = "POST"
    scope = "operate"
    tag = "operator"

    class Input(Strict):
        """On or off, and why."""

        enabled: bool = True
        reason: Reason = ""

    class Output(Answer):
        """Whether the organization may trade."""

        id: str
        killed: bool

    def handle(self, call: Call, given: Input, organization_id: str) -> Output:
        """Answer."""
        operations.set_killed(
            organization_id=wire.parse_id(organization_id),
            enabled=given.enabled,
            actor=actor(call),
            reason=given.reason,
            request_id=call.request_id,
        )
        return self.Output(id=organization_id, killed=given.enabled)


class OverrideIndex(Endpoint):
    """Correct the index of an hour: one operator proposes, one of another organization confirms.

    The first call is answered with 202 and `pending`; the second with the same price, by another
    operator's organization, with 200 and `applied`. Another price is another proposal, in place of
    the first. Possible until 02:00 on the day after; the difference to what was settled is settled
    by the day's final run.
    """

    method = "POST"
    scope = "operate"
    pending_status = 202
    tag = "operator"
    codes = (
        "index_final",
        "index_changed",
        "index_unchanged",
        "second_operator_required",
        "price_unresolved",
    )

    class Input(Strict):
        """The price, and why."""

        price: wire.PriceText
        reason: Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=REASON_LENGTH_MAX,
                pattern=r"^[A-Za-z0-9(][ -~]*[!-~]$",
                description="Why, in printable ASCII, for all to read.",
            ),
        ]

    class Output(Answer):
        """The correction; `version` is the one that it is or would be."""

        grade: str
        hour: str
        version: int
        price: str
        reason: str
        state: Annotated[str, wire.one_of("pending", "applied")]
        proposed_at: str
        confirmed_at: str | None

    def handle(self, call: Call, given: Input, grade: str, hour: str) -> Replayable:
        """Answer."""
        queries.grade(grade)
        starts_at = wire.parse_hour(hour, "hour")
        decided = corrections.override_index(
            grade=grade,
            hour_starts_at=starts_at,
            price_ticks=wire.parse_price(given.price),
            reason=text.parse_name(given.reason, "reason", length_max=REASON_LENGTH_MAX),
            organization_id=call.organization,
            actor=actor(call),
        )
        row = decided.row
        said = self.Output(
            grade=grade,
            hour=wire.hour_text(starts_at),
            version=row.version,
            price=wire.price_text(row.price_ticks),
            reason=row.reason,
            state="applied" if decided.is_applied else "pending",
            proposed_at=wire.moment_text(row.proposed_at),
            confirmed_at=wire.optional_moment_text(row.confirmed_at),
        )
        status = 200 if decided.is_applied else 202
        return Replayable(status=status, body=http.encode(said), is_replay=False)


def actor(call: Call) -> str:
    """Return who is named in the audit trail."""
    assert call.key is not None, "operators' endpoints have a scope"
    return f"key:{call.key.id} organization:{call.key.organization}"
