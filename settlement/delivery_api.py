"""Deliveries over REST: what they paid, whose figures differ, and disputes about them; slots too.

A delivery is an allocation in its hour: lots of a holder that one of the seller's clusters served.
Both parties see the same of it. Its `id` is the first part of the ids of its settlements.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from django.db.models import Q

from marketplace import clock, contract, errors, idempotency, text, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict
from settlement import deliveries, disputes, models


class DeliveryOut(Answer):
    """A delivery; `role` is the caller's.

    `gateway_ntu` is what it is settled by, `seller_ntu` and `holder_ntu` what the parties say, and
    `is_different` whether the day's run found that they do not agree. What later runs added is
    signed: above zero it went to the holder. Others' standing offers have delivered `covered_ntu`
    of it in the seller's stead, and were paid `covered` for it from the same escrow.
    """

    id: str
    grade: str
    hour: str
    role: str
    lots: int
    price: str
    state: str
    intervals_settled: int
    available_ntu: str
    short_ntu: str
    covered_ntu: str
    gateway_ntu: str
    seller_ntu: str | None
    holder_ntu: str | None
    is_different: bool
    released: str
    covered: str
    refunded: str
    compensated: str
    corrected_delivery: str
    corrected_damages: str
    figures_until: str
    disputed_until: str


class ListDeliveries(Endpoint):
    """Deliveries that the organization is a party to, the latest hour first."""

    scope = "read"
    tag = "delivery"
    Item = DeliveryOut
    Output = Listed[DeliveryOut]

    def handle(self, call: Call) -> Listed[DeliveryOut]:
        """Answer."""
        after = call.page.after
        rows = deliveries.deliveries(
            call.organization,
            before=None if after is None else (clock.to_datetime(int(after[0])), int(after[1])),
            limit=call.page.fetch,
        )
        return call.page.page(
            rows,
            lambda row: delivery_out(row, call.organization),
            position=lambda row: [clock.to_micros(row.starts_at), row.id],
        )


class CorrectionOut(Answer):
    """What a later run added, signed as above; `due` is what was due of damages, paid or not."""

    run: str
    delivery: str
    damages: str
    due: str
    at: str


class ShowDelivery(Endpoint):
    """One delivery, with what each later run added to it."""

    scope = "read"
    tag = "delivery"

    class Output(DeliveryOut):
        """With its corrections, the earliest first."""

        corrections: list[CorrectionOut]

    def handle(self, call: Call, delivery_id: str) -> Output:
        """Answer."""
        row = _delivery(call.organization, delivery_id)
        return self.Output(
            **msgspec.structs.asdict(delivery_out(row, call.organization)),
            corrections=[
                CorrectionOut(
                    run=one.run,
                    delivery=wire.micros_text(one.delivery_micros),
                    damages=wire.micros_text(one.damages_micros),
                    due=wire.micros_text(one.due_micros),
                    at=wire.moment_text(one.at),
                )
                for one in deliveries.corrections(row.id)
            ],
        )


class ReportFigure(Endpoint):
    """Say how much a delivery was, by the caller's own count.

    It is settled at the gateway's count whatever the parties say. Figures that are more than 1 %
    and 100 NTU apart from it are shown to both parties and to the exchange when the day is settled.
    The latest figure of a party stands; figures are taken until 02:00 on the day after.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "delivery"
    codes = ("figures_closed",)

    class Input(Strict):
        """Tokens of the whole hour."""

        delivered_ntu: wire.NtuText

    class Output(Answer):
        """The figure that stands."""

        delivery: str
        role: str
        delivered_ntu: str
        reported_at: str

    def handle(self, call: Call, given: Input, delivery_id: str) -> Output:
        """Answer."""
        mntu = wire.parse_ntu(given.delivered_ntu, "delivered_ntu")
        if mntu > disputes.FIGURE_MNTU_MAX:
            raise wire.invalid("delivered_ntu", "out_of_range", "no hour delivers as much")
        row = disputes.report_figure(
            organization_id=call.organization,
            allocation_id=wire.parse_id(delivery_id),
            mntu=mntu,
            at=clock.now_micros(),
        )
        return self.Output(
            delivery=str(row.allocation_id),
            role=row.party.lower(),
            delivered_ntu=wire.ntu_text(row.mntu),
            reported_at=wire.moment_text(row.at),
        )


class DisputeOut(Answer):
    """An objection to intervals of a delivery.

    `state` is `open`, `proposed` (one operator has decided, another has to agree), `upheld` (the
    next run computes by the corrected figures), `settled` (it has), `rejected`, `withdrawn` or
    `lapsed` (nobody decided before the last run).
    """

    id: str
    delivery: str
    grade: str
    hour: str
    intervals: list[int]
    role: str
    is_own: bool
    reason: str
    state: str
    available_ntu: str | None
    short_ntu: str | None
    decision: str
    run: str | None
    opened_at: str
    proposed_at: str | None
    decided_at: str | None
    settled_at: str | None


class ListDisputes(Endpoint):
    """Disputes about the organization's deliveries, of either party, the newest first."""

    scope = "read"
    tag = "delivery"
    Item = DisputeOut
    Output = Listed[DisputeOut]

    def handle(self, call: Call) -> Listed[DisputeOut]:
        """Answer."""
        rows = deliveries.disputes(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            list(rows[: call.page.fetch]),
            lambda row: dispute_out(row, call.organization),
            position=lambda row: [row.pk],
        )


class OpenDispute(Endpoint):
    """Object to how intervals of a delivery were settled, until 02:00 on D+12.

    Without `intervals` all twelve are disputed. Either party may; an operator decides.
    """

    method = "POST"
    scope = "transfer"
    status = 201
    tag = "delivery"
    is_idempotent = True
    codes = ("not_found", "dispute_too_late", "interval_not_settled", "already_disputed")
    Output = DisputeOut

    class Input(Strict):
        """Which intervals of which delivery, and what was wrong."""

        delivery: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
        reason: Annotated[
            str, msgspec.Meta(min_length=5, max_length=disputes.REASON_CHARACTERS_MAX)
        ]
        intervals: (
            Annotated[
                list[Annotated[int, msgspec.Meta(ge=1, le=contract.INTERVALS_PER_HOUR)]],
                msgspec.Meta(min_length=1, max_length=contract.INTERVALS_PER_HOUR),
            ]
            | None
        ) = None

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        reason = text.parse_name(given.reason, "reason", length_max=disputes.REASON_CHARACTERS_MAX)
        wanted: Sequence[int] = given.intervals or range(1, contract.INTERVALS_PER_HOUR + 1)

        def effect() -> str:
            dispute = disputes.open_dispute(
                organization_id=call.organization,
                allocation_id=wire.parse_id(given.delivery),
                intervals=wanted,
                reason=reason,
                at=clock.now_micros(),
            )
            return str(dispute.pk)

        def finish(reference: str) -> tuple[int, DisputeOut]:
            return 201, dispute_out(_dispute(call.organization, reference), call.organization)

        return idempotency.once(call, effect=effect, finish=finish)


class ShowDispute(Endpoint):
    """One dispute."""

    scope = "read"
    tag = "delivery"
    Output = DisputeOut

    def handle(self, call: Call, dispute_id: str) -> DisputeOut:
        """Answer."""
        return dispute_out(_dispute(call.organization, dispute_id), call.organization)


class WithdrawDispute(Endpoint):
    """Take an objection of the caller's own back."""

    method = "DELETE"
    scope = "transfer"
    tag = "delivery"
    codes = ("dispute_closed",)
    Output = DisputeOut

    def handle(self, call: Call, dispute_id: str) -> DisputeOut:
        """Answer."""
        row = disputes.withdraw_dispute(
            organization_id=call.organization,
            dispute_id=wire.parse_id(dispute_id),
            at=clock.now_micros(),
        )
        return dispute_out(row, call.organization)


class ListSlotSettlements(Endpoint):
    """What became of the organization's priority slots at gate closure, the latest hour first.

    Sold slots are a `quantity` below zero. `backed` of them went with a lot (of a seller: were
    delivered), `failed` were not delivered; the rest only orders its holder's pay-as-you-go
    requests. `amount` was paid for what was delivered, `damages` of `damages_due` for what was not;
    all three are above zero where the organization received them.
    """

    scope = "read"
    tag = "delivery"

    class Item(Answer):
        """The slots of a class in an hour."""

        id: str
        grade: str
        hour: str
        service_class: str
        quantity: int
        backed: int
        failed: int
        price: str
        amount: str
        damages: str
        damages_due: str
        settled_at: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        rows = deliveries.slots(call.organization)
        if call.page.after is not None:
            at, number = (int(part) for part in call.page.after)
            hour = clock.to_datetime(at)
            rows = rows.filter(Q(starts_at__lt=hour) | Q(starts_at=hour, pk__lt=number))

        def show(row: models.SlotSettlement) -> ListSlotSettlements.Item:
            return self.Item(
                id=str(row.pk),
                grade=row.grade,
                hour=wire.hour_text(clock.to_micros(row.starts_at)),
                service_class=row.service_class,
                quantity=row.lots,
                backed=row.backed_lots,
                failed=row.failed_lots,
                price=wire.price_text(row.price_ticks, contract.SLOT_PRICE_DECIMALS),
                amount=wire.micros_text(row.amount_micros),
                damages=wire.micros_text(row.damages_micros),
                damages_due=wire.micros_text(row.damages_due_micros),
                settled_at=wire.moment_text(row.at),
            )

        return call.page.page(
            list(rows[: call.page.fetch]),
            show,
            position=lambda row: [clock.to_micros(row.starts_at), row.pk],
        )


class ListInsuranceCorrections(Endpoint):
    """What later runs added to what insured hours had paid, the latest first.

    `amount` is above zero where it went to the organization.
    """

    scope = "read"
    tag = "account"

    class Item(Answer):
        """What one run added to an hour of an instrument."""

        id: str
        run: str
        instrument: str
        hour: str
        amount: str
        at: str

    Output = Listed[Item]

    def handle(self, call: Call) -> Listed[Item]:
        """Answer."""
        rows = deliveries.insurance_corrections(call.organization)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)

        def show(row: models.InsuranceCorrection) -> ListInsuranceCorrections.Item:
            return self.Item(
                id=str(row.pk),
                run=row.run,
                instrument=row.symbol,
                hour=wire.hour_text(clock.to_micros(row.hour_starts_at)),
                amount=wire.micros_text(row.amount_micros),
                at=wire.moment_text(row.at),
            )

        return call.page.page(list(rows[: call.page.fetch]), show, position=lambda row: [row.pk])


def delivery_out(row: deliveries.Delivery, organization_id: int) -> DeliveryOut:
    """Return what a party sees of a delivery."""
    return DeliveryOut(
        id=str(row.id),
        grade=row.grade,
        hour=wire.hour_text(clock.to_micros(row.starts_at)),
        role="holder" if row.holder == organization_id else "seller",
        lots=row.lots,
        price=wire.price_text(row.price_ticks),
        state=row.state,
        intervals_settled=row.intervals,
        available_ntu=wire.ntu_text(row.available_mntu),
        short_ntu=wire.ntu_text(row.short_mntu),
        covered_ntu=wire.ntu_text(row.covered_mntu),
        gateway_ntu=wire.ntu_text(row.gateway_mntu),
        seller_ntu=None if row.seller_mntu is None else wire.ntu_text(row.seller_mntu),
        holder_ntu=None if row.holder_mntu is None else wire.ntu_text(row.holder_mntu),
        is_different=row.is_different,
        released=wire.micros_text(row.released_micros),
        covered=wire.micros_text(row.covered_micros),
        refunded=wire.micros_text(row.refunded_micros),
        compensated=wire.micros_text(row.compensated_micros),
        corrected_delivery=wire.micros_text(row.corrected_delivery_micros),
        corrected_damages=wire.micros_text(row.corrected_damages_micros),
        figures_until=wire.time_text(disputes.figures_until(row.starts_at)),
        disputed_until=wire.time_text(disputes.disputed_until(row.starts_at)),
    )


def dispute_out(row: models.Dispute, organization_id: int) -> DisputeOut:
    """Return what a party, or an operator, sees of a dispute."""
    allocation = row.allocation
    by_holder = row.opened_by == allocation.holder
    return DisputeOut(
        id=str(row.pk),
        delivery=str(allocation.pk),
        grade=allocation.grade,
        hour=wire.hour_text(clock.to_micros(allocation.starts_at)),
        intervals=list(row.intervals),
        role="holder" if by_holder else "seller",
        is_own=row.opened_by == organization_id,
        reason=row.reason,
        state=row.state.lower(),
        available_ntu=None if row.available_mntu is None else wire.ntu_text(row.available_mntu),
        short_ntu=None if row.short_mntu is None else wire.ntu_text(row.short_mntu),
        decision=row.decision,
        run=row.run_id,
        opened_at=wire.moment_text(row.opened_at),
        proposed_at=wire.optional_moment_text(row.proposed_at),
        decided_at=wire.optional_moment_text(row.decided_at),
        settled_at=wire.optional_moment_text(row.settled_at),
    )


def _delivery(organization_id: int, delivery_id: str) -> deliveries.Delivery:
    """:raises NotFound: when the organization is no party to one."""
    found = deliveries.deliveries(organization_id, number=wire.parse_id(delivery_id), limit=1)
    if not found:
        raise errors.NotFound()
    return found[0]


def _dispute(organization_id: int, dispute_id: str) -> models.Dispute:
    """:raises NotFound: when it is about no delivery of the organization's."""
    row = deliveries.disputes(organization_id).filter(pk=wire.parse_id(dispute_id)).first()
    if row is None:
        raise errors.NotFound()
    return row
