"""Rows about what was settled: slots, days, what runs added to them, and what people say of it.

All of them are facts. What slots paid, a run, its lines, a correction, a figure, a difference and a
revision are written once and never changed; a dispute changes by its states alone, each with its
instant. Part of `settlement.models`, which has them all.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q


class DeliveryDay(models.Model):
    """A day of a grade that somebody was entitled in: what runs are planned for."""

    grade = models.CharField(max_length=16)
    delivery_date = models.DateField()
    planned_runs = models.SmallIntegerField(default=0)
    """How many of its two runs have their job."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["grade", "delivery_date"], name="delivery_day_is_single"
            ),
        ]
        indexes = [
            models.Index(
                fields=["delivery_date"],
                name="delivery_day_open",
                condition=Q(planned_runs__lt=2),
            ),
        ]


class DeliveryCover(models.Model):
    """What admission saw a standing offer deliver of an allocation in an interval."""

    allocation = models.ForeignKey("Allocation", models.PROTECT)
    interval = models.SmallIntegerField()
    offer = models.BigIntegerField()
    cluster = models.BigIntegerField()
    seller = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    mntu = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["allocation", "interval", "offer"], name="delivery_cover_is_single"
            ),
            models.CheckConstraint(
                condition=Q(mntu__gt=0, price_ticks__gt=0), name="delivery_cover_is_of_something"
            ),
        ]


class CoverSettlement(models.Model):
    """What a standing offer was paid for that; written by the engine, micro-USD."""

    allocation = models.ForeignKey("Allocation", models.PROTECT)
    interval = models.SmallIntegerField()
    offer = models.BigIntegerField()
    cluster = models.BigIntegerField()
    seller = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    mntu = models.BigIntegerField()
    released_micros = models.BigIntegerField()
    """From the holder's escrow, at most the delivery price."""
    excess_micros = models.BigIntegerField()
    """From the seller that failed, of `excess_due_micros`."""
    excess_due_micros = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["allocation", "interval", "offer"], name="cover_is_settled_once"
            ),
        ]


class SettlementRun(models.Model):
    """One settlement of a whole day of a grade, by everything known at its time."""

    id = models.CharField(max_length=40, primary_key=True)
    """`LLAMA70B/20261205/final`: a run has its name from what it is about."""
    grade = models.CharField(max_length=16)
    delivery_date = models.DateField()
    kind = models.CharField(max_length=8)
    """`FINAL` at 02:00 on D+1, `REVISION` at 02:00 on D+14."""
    previous = models.ForeignKey("self", models.PROTECT, null=True)
    inputs_digest = models.BinaryField(max_length=32)
    result_digest = models.BinaryField(max_length=32)
    posted_digest = models.BinaryField(max_length=32)
    """Of what all before it had posted; equal to the result's where nothing was to be added."""
    allocations = models.IntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["grade", "delivery_date", "kind"], name="settlement_run_is_single"
            ),
        ]


class SettlementRunLine(models.Model):
    """What a run found of an allocation that others had posted differently; micro-USD."""

    run = models.ForeignKey(SettlementRun, models.PROTECT, related_name="lines")
    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    price_ticks = models.BigIntegerField()
    """The index in force, by which it was computed."""
    refunded_micros = models.BigIntegerField()
    due_micros = models.BigIntegerField()
    posted_refunded_micros = models.BigIntegerField()
    posted_due_micros = models.BigIntegerField()
    posted_paid_micros = models.BigIntegerField()
    delivery_micros = models.BigIntegerField()
    """Asked of the machine: more to the holder for what was not available, below zero less."""
    damages_micros = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "allocation"], name="settlement_run_line_is_single"
            ),
        ]
        indexes = [models.Index(fields=["allocation"], name="run_line_by_allocation")]


class DeliveryCorrection(models.Model):
    """What a run's difference moved; written by the engine. Signed micro-USD to the holder."""

    run = models.CharField(max_length=40)
    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    delivery_micros = models.BigIntegerField()
    damages_micros = models.BigIntegerField()
    """Paid, of what is due."""
    due_micros = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "allocation"], name="delivery_correction_is_single"
            ),
        ]
        indexes = [models.Index(fields=["allocation"], name="correction_by_allocation")]


class DeliveryRevision(models.Model):
    """What an interval of an allocation was, as it is known better now; the latest is in force."""

    class Source(models.TextChoices):
        REVIEW = "REVIEW"
        """The gateways' rows, looked at again when the day was over."""
        DISPUTE = "DISPUTE"

    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    interval = models.SmallIntegerField()
    source = models.CharField(max_length=8, choices=Source)
    dispute = models.ForeignKey("settlement.Dispute", models.PROTECT, null=True)
    available_mntu = models.BigIntegerField()
    short_mntu = models.BigIntegerField()
    delivered_mntu = models.BigIntegerField()
    is_suspended = models.BooleanField(default=False)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    interval__gte=1,
                    interval__lte=12,
                    available_mntu__gte=0,
                    short_mntu__gte=0,
                    delivered_mntu__gte=0,
                ),
                name="revision_is_of_an_interval",
            ),
            models.UniqueConstraint(
                fields=["dispute", "allocation", "interval"], name="revision_decides_once"
            ),
        ]
        indexes = [models.Index(fields=["allocation", "interval", "id"], name="revision_latest")]


class DeliveryFigure(models.Model):
    """What a party says an allocation delivered in its hour; the party's latest stands."""

    class Party(models.TextChoices):
        SELLER = "SELLER"
        HOLDER = "HOLDER"

    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    party = models.CharField(max_length=6, choices=Party)
    mntu = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(mntu__gte=0), name="figure_is_a_count"),
        ]
        indexes = [models.Index(fields=["allocation", "party", "id"], name="figure_latest")]


class DeliveryDifference(models.Model):
    """Figures of an allocation that do not agree; it was settled at the gateway's."""

    run = models.ForeignKey(SettlementRun, models.PROTECT)
    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    gateway_mntu = models.BigIntegerField()
    seller_mntu = models.BigIntegerField(null=True)
    holder_mntu = models.BigIntegerField(null=True)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "allocation"], name="difference_is_single"),
        ]
        indexes = [models.Index(fields=["allocation"], name="difference_by_allocation")]


class Dispute(models.Model):
    """A party's objection to what intervals of an allocation were settled by."""

    class State(models.TextChoices):
        OPEN = "OPEN"
        PROPOSED = "PROPOSED"
        """One operator has decided; it moves so much that it needs another's word."""
        UPHELD = "UPHELD"
        """Decided for; the next run computes by the corrected figures."""
        REJECTED = "REJECTED"
        WITHDRAWN = "WITHDRAWN"
        LAPSED = "LAPSED"
        """Nobody decided before the last run."""
        SETTLED = "SETTLED"
        """Upheld, and a run has computed by it."""

    allocation = models.ForeignKey("settlement.Allocation", models.PROTECT)
    intervals = ArrayField(models.SmallIntegerField())
    opened_by = models.BigIntegerField()
    """The organization, holder or seller."""
    reason = models.CharField(max_length=1_000)
    state = models.CharField(max_length=9, choices=State)
    available_mntu = models.BigIntegerField(null=True)
    """Of each interval, as it was decided."""
    short_mntu = models.BigIntegerField(null=True)
    moves_micros = models.BigIntegerField(null=True)
    """What the decision moves between the parties, as it was estimated when it was made."""
    decision = models.CharField(max_length=1_000, blank=True)
    proposed_by = models.BigIntegerField(null=True)
    """The first operator's organization."""
    decided_by = models.BigIntegerField(null=True)
    run = models.ForeignKey(SettlementRun, models.PROTECT, null=True)
    opened_at = models.DateTimeField()
    proposed_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    """When it was upheld, rejected or withdrawn, or lapsed."""
    settled_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~Q(decided_by=F("proposed_by")) | Q(proposed_by__isnull=True),
                name="dispute_has_two_operators",
            ),
        ]
        indexes = [
            models.Index(fields=["allocation"], name="dispute_by_allocation"),
            models.Index(
                fields=["id"], name="dispute_open", condition=Q(state__in=["OPEN", "PROPOSED"])
            ),
        ]


class MonthlyStatement(models.Model):
    """An organization's statement of a month that is over, as it was made; never made again."""

    organization_id = models.BigIntegerField()
    month_date = models.DateField()
    """Its first day."""
    body = models.BinaryField()
    """Canonical JSON; the page, the CSV and the PDF are made from it."""
    digest = models.BinaryField(max_length=32)
    opening_micros = models.BigIntegerField()
    closing_micros = models.BigIntegerField()
    """Of all cash accounts together."""
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "month_date"], name="monthly_statement_is_single"
            ),
        ]


class SlotSettlement(models.Model):
    """What became of an organization's slots of a class in an hour; written by the engine.

    Sold ones are negative lots. What is neither failed nor backed by a lot only orders its holder's
    pay-as-you-go requests.
    """

    organization_id = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    service_class = models.CharField(max_length=2)
    lots = models.BigIntegerField()
    failed_lots = models.BigIntegerField()
    backed_lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    amount_micros = models.BigIntegerField()
    """What was paid for those that were delivered: below zero by their holder."""
    damages_micros = models.BigIntegerField()
    damages_due_micros = models.BigIntegerField()
    """Of failed ones; below zero from their seller."""
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "starts_at", "grade", "service_class"],
                name="slot_settlement_is_single",
            ),
        ]
        indexes = [models.Index(fields=["starts_at", "grade"], name="slot_settlement_by_hour")]


class InsurancePayment(models.Model):
    """What a price cap or shortage cover paid an organization; written by the engine.

    A writer's lots and amount are below zero. `interval` is 0 for the hour of a cap.
    """

    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    hour_starts_at = models.DateTimeField()
    interval = models.SmallIntegerField()
    lots = models.BigIntegerField()
    mntu = models.BigIntegerField()
    """Tokens that a holder was paid for; 0 of a writer."""
    price_ticks = models.BigIntegerField()
    """What was paid for a million of them."""
    amount_micros = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "hour_starts_at", "interval", "symbol"],
                name="insurance_payment_is_single",
            ),
        ]


class InsurancePosition(models.Model):
    """Who held, or had written (below zero), an option when its trading ended; by the engine."""

    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    """Of its month."""
    lots = models.BigIntegerField()
    pay_ticks = models.BigIntegerField()
    """What cover pays; 0 of a cap."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["grade", "starts_at", "symbol", "organization_id"],
                name="insurance_position_is_single",
            ),
        ]


class InsuredUsage(models.Model):
    """What a holder of caps used of a grade in an hour; the latest is in force."""

    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    organization_id = models.BigIntegerField()
    mntu = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(mntu__gte=0), name="insured_usage_is_a_count"),
        ]
        indexes = [
            models.Index(
                fields=["grade", "starts_at", "organization_id", "id"], name="insured_usage_latest"
            )
        ]


class InsuranceRunLine(models.Model):
    """What a run found of an hour of an option that was paid differently; micro-USD."""

    run = models.ForeignKey(SettlementRun, models.PROTECT, related_name="insurance_lines")
    symbol = models.CharField(max_length=40)
    hour_starts_at = models.DateTimeField()
    organization_id = models.BigIntegerField()
    owed_micros = models.BigIntegerField()
    posted_micros = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "hour_starts_at", "symbol", "organization_id"],
                name="insurance_run_line_is_single",
            ),
        ]


class InsuranceCorrection(models.Model):
    """What a run's difference moved, signed to the organization; written by the engine."""

    run = models.CharField(max_length=40)
    symbol = models.CharField(max_length=40)
    hour_starts_at = models.DateTimeField()
    organization_id = models.BigIntegerField()
    amount_micros = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "hour_starts_at", "symbol", "run"],
                name="insurance_correction_is_single",
            ),
        ]


class Package(models.Model):
    """Hourly lots that an organization has bought directly from another; written by the engine."""

    id = models.BigIntegerField(primary_key=True)
    instruction = models.CharField(max_length=320)
    """That made it: a purchase, or the resale of a slice."""
    listing = models.BigIntegerField()
    parent = models.BigIntegerField(default=0)
    """The package that it was cut out of; 0: none."""
    seller = models.BigIntegerField()
    """Who delivers it."""
    holder = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    schedule = models.JSONField()
    """[starts at, ends at, lots, P1 lots] of each stretch, in microseconds and patterns of lots."""
    price_ticks = models.BigIntegerField()
    """What its seller is paid for delivery."""
    list_price_ticks = models.BigIntegerField()
    escrow_micros = models.BigIntegerField()
    margin_micros = models.BigIntegerField()
    """Both as of the last change: delivery takes from them hour by hour."""
    bought_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["holder", "id"], name="package_by_holder"),
            models.Index(fields=["seller", "id"], name="package_by_seller"),
            models.Index(fields=["instruction"], name="package_by_instruction"),
        ]


class PackageResale(models.Model):
    """A slice of a package that was sold on; written by the engine."""

    package = models.BigIntegerField(primary_key=True)
    """What the slice became."""
    parent = models.BigIntegerField()
    holder = models.BigIntegerField()
    """Who sold it."""
    buyer = models.BigIntegerField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    lot_hours = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    amount_micros = models.BigIntegerField()
    fee_micros = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["parent"], name="package_resale_by_parent")]
