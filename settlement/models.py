"""The clearing house's rows: positions, marks, entitlements, instructions, jobs; and all others."""

from django.db import models
from django.db.models import F, Q

from settlement.books import (
    Account,
    ChainHead,
    ChainLink,
    ChainLinkShown,
    Hold,
    HoldResolution,
    HoldResolutionShown,
    HoldShown,
    Seal,
    SealShown,
    SigningKey,
    Transfer,
    TransferId,
    TransferIdShown,
    TransferShown,
)
from settlement.default_records import (
    DefaultEvent,
    LayerProposal,
    TransferBid,
    TransferOffer,
    WaterfallDraw,
)
from settlement.records import (
    CoverSettlement,
    DeliveryCorrection,
    DeliveryCover,
    DeliveryDay,
    DeliveryDifference,
    DeliveryFigure,
    DeliveryRevision,
    Dispute,
    InsuranceCorrection,
    InsurancePayment,
    InsurancePosition,
    InsuranceRunLine,
    InsuredUsage,
    MonthlyStatement,
    Package,
    PackageResale,
    SettlementRun,
    SettlementRunLine,
    SlotSettlement,
)

__all__ = [
    "Account",
    "ChainHead",
    "ChainLink",
    "ChainLinkShown",
    "CoverSettlement",
    "DefaultEvent",
    "DeliveryCorrection",
    "DeliveryCover",
    "DeliveryDay",
    "DeliveryDifference",
    "DeliveryFigure",
    "DeliveryRevision",
    "Dispute",
    "Hold",
    "HoldResolution",
    "HoldResolutionShown",
    "HoldShown",
    "InsuranceCorrection",
    "InsurancePayment",
    "InsurancePosition",
    "InsuranceRunLine",
    "InsuredUsage",
    "LayerProposal",
    "MonthlyStatement",
    "Package",
    "PackageResale",
    "Seal",
    "SealShown",
    "SettlementRun",
    "SettlementRunLine",
    "SigningKey",
    "SlotSettlement",
    "Transfer",
    "TransferBid",
    "TransferId",
    "TransferIdShown",
    "TransferOffer",
    "TransferShown",
    "WaterfallDraw",
]


class MarginAccount(models.Model):
    """What the machine last said of an organization's money; one row each."""

    organization_id = models.BigIntegerField(primary_key=True)
    cash_micros = models.BigIntegerField(default=0)
    available_micros = models.BigIntegerField(default=0)
    order_margin_micros = models.BigIntegerField(default=0)
    initial_margin_micros = models.BigIntegerField(default=0)
    maintenance_margin_micros = models.BigIntegerField(default=0)
    withdrawable_micros = models.BigIntegerField(default=0)
    escrow_micros = models.BigIntegerField(default=0)
    debt_micros = models.BigIntegerField(default=0)
    fund_micros = models.BigIntegerField(default=0)
    """Its share of the default fund."""
    locked_micros = models.BigIntegerField(default=0)
    """Proceeds that cannot be withdrawn before their day is final."""
    margin_call_due_at = models.DateTimeField(null=True)
    uncovered = models.JSONField(default=list)
    """What of the initial margin is for shorts that nothing covers (`coverage.Line`)."""
    orders_sequence = models.BigIntegerField(default=0)
    """How many messages its topics have had."""
    fills_sequence = models.BigIntegerField(default=0)
    account_sequence = models.BigIntegerField(default=0)
    sequence = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()


class Position(models.Model):
    """Net lots of one organization in one instrument."""

    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    net_lots = models.BigIntegerField()
    cost_ticks = models.BigIntegerField()
    """Signed sum of lots times price over the fills, and over what cascaded at its final mark."""
    received_ticks = models.BigIntegerField(default=0)
    """What marks have paid of it: lots times their moves; the rest of the value is still to be."""
    initial_margin_micros = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "symbol"], name="position_is_single"
            ),
        ]
        indexes = [models.Index(fields=["symbol"], name="position_by_symbol")]


class Mark(models.Model):
    """A price that positions were settled to."""

    symbol = models.CharField(max_length=40)
    price_ticks = models.BigIntegerField()
    method = models.CharField(max_length=24)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["symbol", "at"], name="mark_by_symbol")]


class IndexValue(models.Model):
    """The hourly index of a grade, with what reproduces it."""

    grade = models.CharField(max_length=16)
    hour_starts_at = models.DateTimeField()
    price_ticks = models.BigIntegerField()
    method = models.CharField(max_length=24)
    inputs = models.BinaryField()
    digest = models.BinaryField(max_length=32)
    at = models.DateTimeField()
    sequence = models.BigIntegerField(default=0)
    """How many values of the grade there have been, with this one."""
    version = models.BigIntegerField(default=1)
    """The first is the ladder's; each further one is a correction, and the last is in force."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["grade", "hour_starts_at", "version"], name="index_is_single"
            ),
            models.CheckConstraint(condition=Q(price_ticks__gt=0), name="index_is_positive"),
        ]


class IndexOverride(models.Model):
    """A correction of the index that an operator proposed; it needs another one's word."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        REPLACED = "REPLACED"
        """By another proposal."""
        CONFIRMED = "CONFIRMED"

    grade = models.CharField(max_length=16)
    hour_starts_at = models.DateTimeField()
    version = models.BigIntegerField()
    """Which version it would be."""
    price_ticks = models.BigIntegerField()
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
                fields=["grade", "hour_starts_at"],
                condition=Q(state="PENDING"),
                name="index_override_pends_once",
            ),
            models.CheckConstraint(
                condition=Q(state="CONFIRMED", confirmed_by__isnull=False)
                & ~Q(confirmed_by=F("proposed_by"))
                | ~Q(state="CONFIRMED") & Q(confirmed_by__isnull=True),
                name="index_override_has_two_operators",
            ),
        ]


class Instruction(models.Model):
    """A command to the machine that is a row."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        APPLIED = "APPLIED"
        REFUSED = "REFUSED"

    id = models.CharField(max_length=320, primary_key=True)
    number = models.BigIntegerField(unique=True)
    """Order of arrival; from a sequence. The engine takes rows by state, this only sorts them."""
    body = models.BinaryField()
    state = models.CharField(max_length=8, choices=State)
    reason = models.CharField(max_length=40, blank=True)
    sequence = models.BigIntegerField(null=True)
    created_at = models.DateTimeField()
    applied_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["number"], name="instruction_pending", condition=Q(state="PENDING")
            )
        ]


class Obligation(models.Model):
    """A seller's duty in an hour."""

    id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    lots = models.BigIntegerField()
    failed_lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "grade", "starts_at"], name="obligation_is_single"
            ),
        ]


class Entitlement(models.Model):
    """A holder's right in an hour."""

    id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    escrow_micros = models.BigIntegerField()
    delivered_mntu = models.BigIntegerField(default=0)
    """Metered so far; kept by the metering worker."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "grade", "starts_at"], name="entitlement_is_single"
            ),
        ]
        indexes = [models.Index(fields=["starts_at", "grade"], name="entitlement_by_hour")]


class Allocation(models.Model):
    """Lots of an entitlement that one cluster serves; cluster 0 stands for failed lots."""

    id = models.BigIntegerField(primary_key=True)
    entitlement = models.ForeignKey(Entitlement, models.PROTECT, related_name="allocations")
    obligation = models.ForeignKey(Obligation, models.PROTECT, related_name="allocations")
    holder = models.BigIntegerField()
    seller = models.BigIntegerField()
    cluster = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    p0_lots = models.BigIntegerField(default=0)
    p1_lots = models.BigIntegerField(default=0)
    package = models.BigIntegerField(default=0)
    """What the lots were bought in; 0: in the market."""

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(p0_lots__gte=0, p1_lots__gte=0, lots__gte=F("p0_lots") + F("p1_lots")),
                name="slots_have_lots",
            ),
        ]
        indexes = [models.Index(fields=["starts_at", "grade"], name="allocation_by_hour")]


class DeliveryHour(models.Model):
    """An hour of a grade that somebody is entitled to or uses: what the sweep plans jobs for."""

    grade = models.CharField(max_length=16)
    starts_at = models.DateTimeField()
    last_entitlement = models.BigIntegerField(default=0)
    """Greatest entitlement seen of this hour; the machine numbers them in order of commit."""
    planned_steps = models.SmallIntegerField(default=0)
    """How many of its steps have their jobs: gate closure, twelve intervals, the end."""
    granted_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["grade", "starts_at"], name="delivery_hour_is_single"),
        ]
        indexes = [
            models.Index(fields=["last_entitlement"], name="delivery_hour_by_entitlement"),
            models.Index(
                fields=["starts_at"],
                name="delivery_hour_open",
                condition=Q(planned_steps__lt=14),
            ),
        ]


class DeliveryReport(models.Model):
    """What admission saw of one allocation in one interval; input of settlement."""

    allocation = models.ForeignKey(Allocation, models.PROTECT)
    interval = models.SmallIntegerField()
    owed_mntu = models.BigIntegerField()
    available_mntu = models.BigIntegerField()
    short_mntu = models.BigIntegerField()
    delivered_mntu = models.BigIntegerField()
    probes = models.IntegerField()
    probes_passed = models.IntegerField()
    is_suspended = models.BooleanField(default=False)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["allocation", "interval"], name="delivery_report_is_single"
            ),
            models.CheckConstraint(
                condition=Q(interval__gte=1, interval__lte=12), name="interval_is_of_an_hour"
            ),
        ]


class IntervalSettlement(models.Model):
    """What one interval of one allocation paid; written by the engine."""

    allocation = models.ForeignKey(Allocation, models.PROTECT)
    interval = models.SmallIntegerField()
    available_mntu = models.BigIntegerField()
    short_mntu = models.BigIntegerField()
    delivered_mntu = models.BigIntegerField()
    released_micros = models.BigIntegerField()
    refunded_micros = models.BigIntegerField()
    compensated_micros = models.BigIntegerField()
    compensation_due_micros = models.BigIntegerField()
    next_mark_ticks = models.BigIntegerField(default=0)
    """Mark of the next hour that could be bought then; 0 where there was none."""
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["allocation", "interval"], name="interval_is_settled_once"
            ),
        ]


class Job(models.Model):
    """The queue of record: one row per kind and slot; a message is only a doorbell."""

    class State(models.TextChoices):
        DUE = "DUE"
        RUNNING = "RUNNING"
        DONE = "DONE"
        PARKED = "PARKED"
        GIVEN_UP = "GIVEN_UP"
        """An operator decided that it is not to be done; it may be run again."""

    kind = models.CharField(max_length=32)
    slot = models.CharField(max_length=80)
    due_at = models.DateTimeField()
    """Market time."""
    after_kind = models.CharField(max_length=32, blank=True)
    """With `after_slot`, the job that must be done first; empty when there is none."""
    after_slot = models.CharField(max_length=80, blank=True)
    is_awaited = models.BooleanField(default=True)
    """Whether a demo's clock, when it is advanced, waits for it."""
    state = models.CharField(max_length=8, choices=State)
    lease_epoch = models.BigIntegerField(default=0)
    leased_until = models.DateTimeField(null=True)
    """The database's own time, not market time: a lease is about processes."""
    holder = models.CharField(max_length=64, blank=True)
    """The process that works on it, or worked on it last."""
    claimed_at = models.DateTimeField(null=True)
    """The database's own time."""
    not_before = models.DateTimeField(null=True)
    """The database's own time: when a failed job may be tried again."""
    attempts = models.IntegerField(default=0)
    progress = models.JSONField(default=dict)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "slot"], name="job_is_single")]
        indexes = [
            models.Index(
                fields=["due_at", "id"],
                name="job_open",
                condition=Q(state__in=["DUE", "RUNNING"]),
            ),
            models.Index(
                fields=["due_at", "id"],
                name="job_set_aside",
                condition=Q(state__in=["PARKED", "GIVEN_UP"]),
            ),
            models.Index(fields=["kind", "due_at"], name="job_by_kind"),
        ]


class Lease(models.Model):
    """Who may run what must run once: `meter`, a cluster's scheduler."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.CharField(max_length=64)
    epoch = models.BigIntegerField()
    expires_at = models.DateTimeField()
    """The database's own time."""


class Heartbeat(models.Model):
    """When a process of the background work was last heard of."""

    process = models.CharField(max_length=64, primary_key=True)
    role = models.CharField(max_length=8)
    """`worker` or `beat`."""
    queues = models.CharField(max_length=80, blank=True)
    started_at = models.DateTimeField()
    """The database's own time, as is the next."""
    seen_at = models.DateTimeField()


class ClockJump(models.Model):
    """A demo's clock was moved: probes made at the jump stand for what it leapt over."""

    from_at = models.DateTimeField()
    to_at = models.DateTimeField()
    probes = models.JSONField(default=dict)
    """Per cluster id: [passed, probes] made at the jump."""

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(from_at__lt=F("to_at")), name="clock_moves_forward"),
        ]
