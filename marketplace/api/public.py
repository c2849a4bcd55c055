"""What belongs to no single app: the time, the grades, and the keys that signatures verify with."""

import base64

from marketplace import clock, models, queries, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed
from settlement import models as settlement_models


class ShowTime(Endpoint):
    """Market time, and how far it is ahead of the system's clock; always zero in production."""

    tag = "market"

    class Output(Answer):
        """The time."""

        now: str
        offset_ms: int

    def handle(self, call: Call) -> Output:
        """Answer."""
        return self.Output(
            now=wire.time_text(clock.now_micros()), offset_ms=clock.offset_micros() // 1_000
        )


class Weights(Answer):
    """What each kind of token counts, in NTU with three decimals."""

    version: int
    input: str
    cached: str
    output: str


class Targets(Answer):
    """Promises of a class in milliseconds (RULEBOOK 7.5)."""

    first_token_ms: int
    per_token_ms: int


class GradeOut(Answer):
    """What is delivered: a model, a region, limits and a frozen weight schedule."""

    code: str
    name: str
    aliases: list[str]
    region: str
    precision: str
    context_tokens_max: int
    output_tokens_max: int
    weights: Weights
    reference_price: str
    list_price: str
    targets: dict[str, Targets]
    maker_fee_bp: int
    taker_fee_bp: int


class ListGrades(Endpoint):
    """The grades that are listed."""

    tag = "market"
    Item = GradeOut
    Output = Listed[GradeOut]

    def handle(self, call: Call) -> Listed[GradeOut]:
        """Answer."""
        rows = queries.grades()
        if call.page.after is not None:
            rows = rows.filter(code__gt=str(call.page.after[0]))
        return call.page.page(rows[: call.page.fetch], _grade_out, position=lambda row: [row.code])


class SigningKey(Answer):
    """An Ed25519 public key of the exchange, in base64, and when it signs."""

    id: str
    algorithm: str
    public_key: str
    purpose: str
    valid_from: str
    valid_until: str | None


class ListSigningKeys(Endpoint):
    """The public keys with which the exchange's signatures are verified; none is taken away."""

    tag = "transparency"
    Item = SigningKey
    Output = Listed[SigningKey]

    def handle(self, call: Call) -> Listed[SigningKey]:
        """Answer."""
        rows = settlement_models.SigningKey.objects.order_by("id")
        if call.page.after is not None:
            rows = rows.filter(id__gt=str(call.page.after[0]))
        return call.page.page(
            rows[: call.page.fetch],
            lambda row: SigningKey(
                id=row.id,
                algorithm="ed25519",
                public_key=base64.b64encode(row.public_key).decode(),
                purpose=row.purpose,
                valid_from=wire.moment_text(row.valid_from),
                valid_until=wire.optional_moment_text(row.valid_until),
            ),
            position=lambda row: [row.id],
        )


def _grade_out(row: models.Grade) -> GradeOut:
    pairs = zip(row.first_token_ms, row.per_token_ms, strict=False)
    return GradeOut(
        code=row.code,
        name=row.name,
        aliases=list(row.aliases),
        region=row.region,
        precision=row.precision,
        context_tokens_max=row.context_tokens_max,
        output_tokens_max=row.output_tokens_max,
        weights=Weights(
            version=row.schedule_version,
            input=wire.ntu_text(1_000),
            cached=wire.ntu_text(row.weight_cached),
            output=wire.ntu_text(row.weight_output),
        ),
        reference_price=wire.price_text(row.reference_price_ticks),
        list_price=row.list_price,
        targets={
            f"p{number}": Targets(first_token_ms=first, per_token_ms=per)
            for number, (first, per) in enumerate(pairs)
        },
        maker_fee_bp=row.maker_fee_bp,
        taker_fee_bp=row.taker_fee_bp,
    )
