"""What operators decide: halts and resumes, and the kill switch of an organization.

Each decision is journaled and stands in the audit trail with its reason.
"""

from typing import Annotated

import msgspec

from exchange import queries as exchange_queries
from marketplace import errors, operations, queries, wire
from marketplace.endpoint import Answer, Call, Endpoint, Strict

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


def actor(call: Call) -> str:
    """Return who is named in the audit trail."""
    assert call.key is not None, "operators' endpoints have a scope"
    return f"key:{call.key.id} organization:{call.key.organization}"
