"""Defaults as operators see them, and the limit of the exchange's own layer."""

from typing import Annotated

import msgspec

from marketplace import http, layer, text, wire
from marketplace.api import operator
from marketplace.api.takeovers import OfferOut, offer_out
from marketplace.endpoint import Answer, Call, Endpoint, Replayable, Strict
from settlement import default_queries, models


class CallState(Answer):
    """A margin call that runs: what it lacks now, and how often positions were reduced."""

    organization_id: str
    called_at: str | None
    due_at: str
    lacking: str
    initial_margin: str
    cash: str
    rounds: int
    stopped: str | None


class StepState(Answer):
    """Something that happened to a call or default."""

    organization_id: str
    kind: str
    amount: str
    cause: str
    next_at: str | None
    at: str


class TransferState(Answer):
    """A transfer of the ledger that a draw consists of; organization 0 is the exchange."""

    sequence: int
    code: str
    amount: str
    organization_id: str
    received: bool


class DrawState(Answer):
    """What an organization owed to clearing and had not got, and who bore it, in this order.

    `transfers` are those of its cause; the amounts add up to `amount`.
    """

    organization_id: str
    amount: str
    own_cash: str
    receivables: str
    own_share: str
    layer: str
    other_shares: str
    unpaid: str
    cause: str
    at: str
    transfers: list[TransferState]


class LayerState(Answer):
    """The exchange's layer: its limit, what it has lent, and a limit that waits to be confirmed."""

    limit: str
    lent: str
    pending_limit: str | None


class ShowDefaults(Endpoint):
    """Margin calls, offers, defaults and how far down the waterfall they went; fund and layer."""

    scope = "operate"
    tag = "operator"

    class Output(Answer):
        """The latest 100 of each."""

        calls: list[CallState]
        offers: list[OfferOut]
        draws: list[DrawState]
        steps: list[StepState]
        fund: str
        fund_members: int
        layer: LayerState

    def handle(self, call: Call) -> Output:
        """Answer."""
        reserves = default_queries.reserves()
        pending = reserves.pending
        return self.Output(
            calls=[_call(row) for row in default_queries.running_calls()],
            offers=[offer_out(row) for row in default_queries.offers()[: default_queries.SHOWN]],
            draws=[_draw(one) for one in default_queries.draws()],
            steps=[_step(row) for row in default_queries.steps()[: default_queries.SHOWN]],
            fund=wire.micros_text(reserves.fund_micros),
            fund_members=reserves.members,
            layer=LayerState(
                limit=wire.micros_text(reserves.layer_limit_micros),
                lent=wire.micros_text(reserves.layer_lent_micros),
                pending_limit=None if pending is None else wire.micros_text(pending.limit_micros),
            ),
        )


def _call(row: default_queries.RunningCall) -> CallState:
    return CallState(
        organization_id=str(row.organization),
        called_at=wire.optional_moment_text(row.called_at),
        due_at=wire.moment_text(row.due_at),
        lacking=wire.micros_text(row.lacking_micros),
        initial_margin=wire.micros_text(row.initial_micros),
        cash=wire.micros_text(row.cash_micros),
        rounds=row.rounds,
        stopped=row.stopped or None,
    )


def _step(row: models.DefaultEvent) -> StepState:
    return StepState(
        organization_id=str(row.organization_id),
        kind=row.kind.lower(),
        amount=wire.micros_text(row.amount_micros),
        cause=row.cause,
        next_at=wire.optional_moment_text(row.next_at),
        at=wire.moment_text(row.at),
    )


def _draw(one: default_queries.Draw) -> DrawState:
    row = one.row
    return DrawState(
        organization_id=str(row.organization_id),
        amount=wire.micros_text(row.amount_micros),
        own_cash=wire.micros_text(row.own_micros),
        receivables=wire.micros_text(row.receivables_micros),
        own_share=wire.micros_text(row.share_micros),
        layer=wire.micros_text(row.layer_micros),
        other_shares=wire.micros_text(row.others_micros),
        unpaid=wire.micros_text(row.unpaid_micros),
        cause=row.cause,
        at=wire.moment_text(row.at),
        transfers=[
            TransferState(
                sequence=step.sequence,
                code=step.code,
                amount=wire.micros_text(step.amount_micros),
                organization_id=str(step.other),
                received=step.is_received,
            )
            for step in one.transfers
        ],
    )


class SetLayer(Endpoint):
    """Set what the exchange's layer bears at most: one operator proposes, another confirms.

    The first call is answered with 202 and `pending`; the second with the same limit, by another
    operator's organization, with 200 and `applied`. Another limit is another proposal, in place of
    the first.
    """

    method = "POST"
    scope = "operate"
    pending_status = 202
    tag = "operator"
    codes = ("invalid_amount", "second_operator_required")

    class Input(Strict):
        """The limit, and why."""

        limit: wire.MoneyText
        reason: Annotated[str, msgspec.Meta(min_length=5, max_length=operator.REASON_LENGTH_MAX)]

    class Output(Answer):
        """The proposal, or what it has become."""

        limit: str
        reason: str
        state: Annotated[str, wire.one_of("pending", "applied")]
        proposed_at: str
        confirmed_at: str | None

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        decided = layer.set_layer(
            limit_micros=wire.parse_money(given.limit, "limit"),
            reason=text.parse_name(given.reason, "reason", length_max=operator.REASON_LENGTH_MAX),
            organization_id=call.organization,
            actor=operator.actor(call),
        )
        row = decided.row
        said = self.Output(
            limit=wire.micros_text(row.limit_micros),
            reason=row.reason,
            state="applied" if decided.is_applied else "pending",
            proposed_at=wire.moment_text(row.proposed_at),
            confirmed_at=wire.optional_moment_text(row.confirmed_at),
        )
        status = 200 if decided.is_applied else 202
        return Replayable(status=status, body=http.encode(said), is_replay=False)
