"""Disputes as operators see and decide them."""

from typing import Annotated

import msgspec

from marketplace import errors, http, rulings, text, wire
from marketplace.api.operator import actor
from marketplace.endpoint import Call, Endpoint, Listed, Replayable, Strict
from settlement import deliveries, delivery_api, disputes


class ListOpenDisputes(Endpoint):
    """Disputes of everybody that wait for a decision, the oldest first."""

    scope = "operate"
    tag = "operator"
    Item = delivery_api.DisputeOut
    Output = Listed[delivery_api.DisputeOut]

    def handle(self, call: Call) -> Listed[delivery_api.DisputeOut]:
        """Answer."""
        rows = deliveries.disputes().filter(state__in=["OPEN", "PROPOSED"]).order_by("id")
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__gt=after)
        return call.page.page(
            list(rows[: call.page.fetch]),
            lambda row: delivery_api.dispute_out(row, call.organization),
            position=lambda row: [row.pk],
        )


class DecideDispute(Endpoint):
    """Uphold or reject a dispute.

    Upheld, each of its intervals had `available_ntu` available and `short_ntu` missed, and the
    next run over the day posts the difference. Where that moves more than 100 USD the first
    decision is answered with 202 and `proposed`, and an operator of another organization has to
    name the same figures.
    """

    method = "POST"
    scope = "operate"
    pending_status = 202
    tag = "operator"
    codes = ("dispute_closed", "own_dispute", "second_operator_required")
    Output = delivery_api.DisputeOut

    class Input(Strict):
        """The decision; the figures belong to one that upholds."""

        uphold: bool
        reason: Annotated[
            str, msgspec.Meta(min_length=5, max_length=disputes.REASON_CHARACTERS_MAX)
        ]
        available_ntu: Annotated[str, msgspec.Meta(max_length=20)] | None = None
        short_ntu: Annotated[str, msgspec.Meta(max_length=20)] | None = None

    def handle(self, call: Call, given: Input, decided_id: str) -> Replayable:
        """Answer."""
        reason = text.parse_name(given.reason, "reason", length_max=disputes.REASON_CHARACTERS_MAX)
        number = wire.parse_id(decided_id)
        figures = {"available_ntu": given.available_ntu, "short_ntu": given.short_ntu}
        _require_fitting(figures, uphold=given.uphold)
        if given.uphold:
            row = rulings.uphold(
                dispute_id=number,
                organization_id=call.organization,
                available_mntu=wire.parse_ntu(given.available_ntu or "", "available_ntu"),
                short_mntu=wire.parse_ntu(given.short_ntu or "", "short_ntu"),
                actor=actor(call),
                reason=reason,
            )
        else:
            row = rulings.reject(
                dispute_id=number,
                organization_id=call.organization,
                actor=actor(call),
                reason=reason,
            )
        said = delivery_api.dispute_out(row, call.organization)
        status = 202 if said.state == "proposed" else 200
        return Replayable(status=status, body=http.encode(said), is_replay=False)


def _require_fitting(figures: dict[str, str | None], *, uphold: bool) -> None:
    """:raises FiguresDoNotFit: when figures are missing, or do not belong to the decision."""
    if any((figure is not None) is not uphold for figure in figures.values()):
        raise FiguresDoNotFit(
            "a decision that upholds names what was available and what was missed; no other does"
        )


class FiguresDoNotFit(errors.Refusal):
    """Figures and decision contradict each other."""

    code, status, title = "figures_do_not_fit", 422, "Figures do not fit the decision"
