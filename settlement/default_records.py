"""Rows about margin that lacks: what happened, who bore it, and what was offered to others.

Facts are written by the engine, once. An offer changes when it ends, a bid by its states. Part of
`settlement.models`, which has them all.
"""

from django.db import models
from django.db.models import F, Q


class DefaultEvent(models.Model):
    """A step of a margin call or a default, or a limit set for the exchange's layer."""

    class Kind(models.TextChoices):
        CALLED = "CALLED"
        MET = "MET"
        LIQUIDATED = "LIQUIDATED"
        STOPPED = "STOPPED"
        DEFAULTED = "DEFAULTED"
        HAIRCUT = "HAIRCUT"
        LAYER_SET = "LAYER_SET"

    organization_id = models.BigIntegerField(default=0)
    """0: the exchange."""
    kind = models.CharField(max_length=10, choices=Kind)
    amount_micros = models.BigIntegerField(default=0)
    """What lacked, was not paid to others, was not received, or is the limit."""
    cause = models.CharField(max_length=80, blank=True)
    """That of the transfers, or why a liquidation stopped."""
    next_at = models.DateTimeField(null=True)
    """When a call is enforced, or a liquidation goes on."""
    at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["organization_id", "at"], name="default_event_by_organization"),
            models.Index(fields=["kind", "at"], name="default_event_by_kind"),
        ]


class WaterfallDraw(models.Model):
    """What an account owed and had not got, and who bore how much of it.

    Its transfers have the same cause: to the account's cash, and from it to clearing.
    """

    organization_id = models.BigIntegerField()
    amount_micros = models.BigIntegerField()
    own_micros = models.BigIntegerField()
    receivables_micros = models.BigIntegerField()
    share_micros = models.BigIntegerField()
    layer_micros = models.BigIntegerField()
    others_micros = models.BigIntegerField()
    unpaid_micros = models.BigIntegerField()
    cause = models.CharField(max_length=80)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    amount_micros=F("own_micros")
                    + F("receivables_micros")
                    + F("share_micros")
                    + F("layer_micros")
                    + F("others_micros")
                    + F("unpaid_micros")
                ),
                name="waterfall_draw_adds_up",
            ),
        ]
        indexes = [models.Index(fields=["at"], name="waterfall_draw_by_time")]


class TransferOffer(models.Model):
    """Lots that an organization is short of, offered with the capacity behind them."""

    id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    lots = models.BigIntegerField()
    price_max_ticks = models.BigIntegerField()
    announced_at = models.DateTimeField()
    due_at = models.DateTimeField()
    moved_lots = models.BigIntegerField(default=0)
    outcome = models.CharField(max_length=12, blank=True)
    """Empty while it runs."""
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["due_at"], name="transfer_offer_open", condition=Q(ended_at__isnull=True)
            ),
        ]


class TransferBid(models.Model):
    """At which price an organization would be short of lots that are offered."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        PLACED = "PLACED"
        WITHDRAWN = "WITHDRAWN"
        LOST = "LOST"
        TAKEN = "TAKEN"
        REFUSED = "REFUSED"

    id = models.BigAutoField(primary_key=True)
    organization_id = models.BigIntegerField()
    offer = models.ForeignKey(TransferOffer, models.PROTECT)
    lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State)
    reason = models.CharField(max_length=40, blank=True)
    moved_lots = models.BigIntegerField(default=0)
    mark_ticks = models.BigIntegerField(null=True)
    """At which the lots moved."""
    received_micros = models.BigIntegerField(default=0)
    """From there to its price; below zero it was paid."""
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["organization_id", "id"], name="transfer_bid_by_organization"),
        ]

    @property
    def instruction(self) -> str:
        """Id of the instruction that places it."""
        return f"transfer-bid:{self.pk}"


class LayerProposal(models.Model):
    """A limit of the exchange's layer that an operator proposes and another confirms."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        CONFIRMED = "CONFIRMED"
        REPLACED = "REPLACED"

    limit_micros = models.BigIntegerField()
    reason = models.CharField(max_length=500)
    state = models.CharField(max_length=9, choices=State)
    proposed_by = models.BigIntegerField()
    """The operator's organization."""
    proposed_at = models.DateTimeField()
    confirmed_by = models.BigIntegerField(null=True)
    confirmed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="PENDING"), name="layer_proposal_is_single"
            ),
            models.CheckConstraint(
                condition=~Q(confirmed_by=F("proposed_by")) | Q(confirmed_by__isnull=True),
                name="layer_has_two_operators",
            ),
        ]
