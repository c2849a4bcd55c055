"""What is asked of margin calls, defaults, the default fund, and what is offered to others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import F, Q, QuerySet, Sum

from settlement import ledger, models

SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCall:
    """A margin call that runs: what it lacks now, and what was done about it."""

    organization: int
    called_at: datetime | None
    due_at: datetime
    lacking_micros: int
    initial_micros: int
    cash_micros: int
    rounds: int
    """Liquidations since it was called."""
    stopped: str
    """Why liquidation waits for the next day's bands; empty while it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A transfer that a draw consists of."""

    sequence: int
    code: str
    amount_micros: int
    other: int
    """The other organization; 0 is the exchange."""
    is_received: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A draw on the waterfall with the transfers it is traced to."""

    row: models.WaterfallDraw
    transfers: Sequence[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserves:
    """What stands behind defaults: the fund, and the exchange's own layer."""

    fund_micros: int
    members: int
    layer_limit_micros: int
    layer_lent_micros: int
    """What the layer has paid and has not got back, receivables included."""
    pending: models.LayerProposal | None


def running_calls() -> list[RunningCall]:
    """Return the calls that run, the one that is enforced first in front."""
    kinds = models.DefaultEvent.Kind
    found = []
    for row in models.MarginAccount.objects.filter(margin_call_due_at__isnull=False).order_by(
        "margin_call_due_at", "organization_id"
    ):
        steps = models.DefaultEvent.objects.filter(organization_id=row.organization_id)
        called = steps.filter(kind=kinds.CALLED).order_by("-id").first()
        since = steps.filter(id__gt=called.pk if called is not None else 0)
        rounds = since.filter(kind__in=[kinds.LIQUIDATED, kinds.STOPPED]).order_by("-id")
        last = rounds.first()
        assert row.margin_call_due_at is not None, "a call that runs is due"
        found.append(
            RunningCall(
                organization=row.organization_id,
                called_at=called.at if called is not None else None,
                due_at=row.margin_call_due_at,
                lacking_micros=max(0, row.initial_margin_micros - row.cash_micros),
                initial_micros=row.initial_margin_micros,
                cash_micros=row.cash_micros,
                rounds=rounds.filter(kind=kinds.LIQUIDATED).count(),
                stopped=last.cause if last is not None and last.kind == kinds.STOPPED else "",
            )
        )
    return found


def steps() -> QuerySet[models.DefaultEvent]:
    """Return what happened to calls and defaults, the latest first."""
    return models.DefaultEvent.objects.exclude(kind=models.DefaultEvent.Kind.LAYER_SET).order_by(
        "-id"
    )


def draws(*, before: int | None = None, limit: int = SHOWN) -> list[Draw]:
    """Return what others bore or advanced, the latest first, each with its transfers."""
    rows = models.WaterfallDraw.objects.order_by("-id")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return [Draw(row=row, transfers=_transfers(row)) for row in rows[:limit]]


def _transfers(row: models.WaterfallDraw) -> list[Step]:
    """Return the transfers of a draw's cause to and from the account's cash, in their order."""
    cash = ledger.cash_account(row.organization_id, ledger.Kind.CASH)
    found = models.Transfer.objects.filter(
        Q(debit_account=cash) | Q(credit_account=cash), cause=row.cause, chain="cash"
    ).order_by("sequence")
    return [
        Step(
            sequence=each.sequence,
            code=ledger.Code(each.code).name.lower(),
            amount_micros=each.amount,
            other=(each.debit_account if each.credit_account == cash else each.credit_account)
            // ledger.KINDS_MAX,
            is_received=each.credit_account == cash,
        )
        for each in found
    ]


def reserves() -> Reserves:
    """Return the fund and the layer as they stand."""
    shares = models.MarginAccount.objects.filter(fund_micros__gt=0)
    limit = (
        models.DefaultEvent.objects.filter(kind=models.DefaultEvent.Kind.LAYER_SET)
        .order_by("-id")
        .first()
    )
    layer = models.Account.objects.filter(
        pk=ledger.cash_account(ledger.EXCHANGE, ledger.Kind.LAYER)
    ).aggregate(lent=Sum(F("debits") - F("credits")))
    return Reserves(
        fund_micros=shares.aggregate(total=Sum("fund_micros"))["total"] or 0,
        members=shares.count(),
        layer_limit_micros=ledger.LAYER_LIMIT_MICROS if limit is None else limit.amount_micros,
        layer_lent_micros=layer["lent"] or 0,
        pending=models.LayerProposal.objects.filter(
            state=models.LayerProposal.State.PENDING
        ).first(),
    )


def offers(*, is_running: bool | None = None) -> QuerySet[models.TransferOffer]:
    """Return what is or was offered, the latest first."""
    rows = models.TransferOffer.objects.order_by("-id")
    return rows if is_running is None else rows.filter(ended_at__isnull=is_running)


def bids(organization_id: int) -> QuerySet[models.TransferBid]:
    """Return an organization's bids, the latest first."""
    rows = models.TransferBid.objects.filter(organization_id=organization_id)
    return rows.select_related("offer").order_by("-id")
