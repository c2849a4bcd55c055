"""Standing resale instructions over REST: made, looked at and stopped."""

from typing import Annotated, Literal

import msgspec

from marketplace import contract, idempotency, models, resale, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Replayable, Strict


class ResaleInstructionOut(Answer):
    """An instruction and what it had on offer after its last look at the market."""

    id: str
    grade: str
    floor_price: str
    forecast: str
    keep_lots: int
    state: str
    offered_lots: int
    looked_at: str | None
    created_at: str
    stopped_at: str | None


class ListResaleInstructions(Endpoint):
    """The organization's standing resale instructions, the newest first."""

    scope = "read"
    tag = "capacity"
    Item = ResaleInstructionOut
    Output = Listed[ResaleInstructionOut]

    def handle(self, call: Call) -> Listed[ResaleInstructionOut]:
        """Answer."""
        rows = models.ResaleInstruction.objects.filter(organization_id=call.organization).order_by(
            "-id"
        )
        after = call.page.number()
        if after is not None:
            rows = rows.filter(pk__lt=after)
        return call.page.page(
            rows[: call.page.fetch], instruction_out, position=lambda row: [row.pk]
        )


class InstructResale(Endpoint):
    """Have surplus of a grade sold at or above a floor price, hour by hour, from the next on.

    Of every hour that is held and still trades the larger of `keep_lots` and the forecast is kept:
    the mean of what was metered in the same hour of the last seven days. What is left is offered by
    reduce-only orders, looked at again at each full hour. It takes the place of the grade's last
    instruction. With the forecast `none` only `keep_lots` are kept.
    """

    method = "POST"
    scope = "trade"
    status = 201
    tag = "capacity"
    is_idempotent = True
    codes = ("not_found",)
    Output = ResaleInstructionOut

    class Input(Strict):
        """Which grade, and for how much at least."""

        grade: Annotated[str, msgspec.Meta(min_length=2, max_length=16)]
        floor_price: wire.PriceText
        forecast: Literal["last_week_same_hour", "none"] = "last_week_same_hour"
        keep_lots: Annotated[int, msgspec.Meta(ge=0, le=contract.LOTS_MAX)] = 0

    def handle(self, call: Call, given: Input) -> Replayable:
        """Answer."""
        floor = wire.parse_price(given.floor_price, "floor_price")

        def effect() -> str:
            return str(
                resale.write(
                    organization_id=call.organization,
                    grade=given.grade,
                    floor_price_ticks=floor,
                    forecast=given.forecast.upper(),
                    kept_lots=given.keep_lots,
                ).pk
            )

        def finish(reference: str) -> tuple[int, ResaleInstructionOut]:
            found = resale.instruction_of(
                organization_id=call.organization, instruction_id=int(reference)
            )
            return 201, instruction_out(found)

        return idempotency.once(call, effect=effect, finish=finish)


class StopResale(Endpoint):
    """Stop an instruction: what it offers is canceled."""

    method = "DELETE"
    scope = "trade"
    tag = "capacity"
    codes = ("engine_unavailable",)
    Output = ResaleInstructionOut

    def handle(self, call: Call, instruction_id: str) -> ResaleInstructionOut:
        """Answer."""
        found = resale.instruction_of(
            organization_id=call.organization, instruction_id=wire.parse_id(instruction_id)
        )
        return instruction_out(resale.stop(found))


def instruction_out(row: models.ResaleInstruction) -> ResaleInstructionOut:
    """Return what its owner sees of an instruction."""
    return ResaleInstructionOut(
        id=str(row.pk),
        grade=row.grade_id,
        floor_price=wire.price_text(row.floor_price_ticks),
        forecast=row.forecast.lower(),
        keep_lots=row.kept_lots,
        state=row.state.lower(),
        offered_lots=row.offered_lots,
        looked_at=wire.optional_moment_text(row.looked_at),
        created_at=wire.moment_text(row.created_at),
        stopped_at=wire.optional_moment_text(row.stopped_at),
    )
