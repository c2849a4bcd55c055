"""The data plane's truth: admissions, usage, probes, certifications, what is published."""

from django.db import models
from django.db.models import Q

from admission.proofs import GatewayKey, LogHead, LogLeaf, LogNode, Receipt, ReceiptWaiting

__all__ = ["GatewayKey", "LogHead", "LogLeaf", "LogNode", "Receipt", "ReceiptWaiting"]


class Request(models.Model):
    """One request a gateway decided on, refusals too; written before it is dispatched."""

    id = models.UUIDField(primary_key=True)
    organization_id = models.BigIntegerField()
    key = models.CharField(max_length=24)
    grade = models.CharField(max_length=16)
    cluster = models.BigIntegerField()
    """0 when no cluster was chosen."""
    class_requested = models.CharField(max_length=2)
    class_served = models.CharField(max_length=2, blank=True)
    outcome = models.CharField(max_length=12)
    """ADMITTED, SHED, REFUSED."""
    reason = models.CharField(max_length=40, blank=True)
    charge_mntu = models.BigIntegerField()
    """Estimated at admission (RULEBOOK 7.3)."""
    body_digest = models.BinaryField(max_length=16)
    is_probe = models.BooleanField(default=False)
    arrived_at = models.DateTimeField()
    queue_ms = models.IntegerField(default=0)
    gateway = models.CharField(max_length=40)
    is_in_profile = models.BooleanField(default=False)
    """Its holder's level was above zero when it arrived: its targets were promised."""
    is_retry = models.BooleanField(default=False)
    """Its client declared it one."""
    retry_after_ms = models.IntegerField(default=0)
    """For how long a refused one was told to wait; 0 when it was not, or was served elsewhere."""
    cover_offer = models.BigIntegerField(default=0)
    """The standing offer that it is served by in the stead of its holder's cluster; 0: none."""
    covered_cluster = models.BigIntegerField(default=0)
    """That cluster: what is delivered to a holder of its lots by cover."""

    class Meta:
        indexes = [
            models.Index(fields=["arrived_at"], name="request_by_arrival"),
            models.Index(fields=["organization_id", "arrived_at"], name="request_by_organization"),
            models.Index(fields=["cluster", "arrived_at"], name="request_by_cluster"),
        ]


class UsageEvent(models.Model):
    """A checkpoint or the end of a request: running totals, never differences."""

    class State(models.TextChoices):
        OPEN = "OPEN"
        COMPLETED = "COMPLETED"
        ABORTED = "ABORTED"
        FAILED = "FAILED"

    pk = models.CompositePrimaryKey("request_id", "sequence")
    request_id = models.UUIDField()
    sequence = models.IntegerField()
    """From 1 within the request, without gaps."""
    prompt_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    mntu = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State)
    is_estimated = models.BooleanField(default=False)
    is_bounded = models.BooleanField(default=False)
    first_token_ms = models.IntegerField(null=True)
    per_token_us = models.IntegerField(null=True)
    at = models.DateTimeField()
    number = models.BigIntegerField(unique=True)
    """Order of arrival in the table, from a sequence; with `xid` it is the metering cursor."""
    xid = models.BigIntegerField()
    """The transaction that wrote it. A reader takes only what is below the oldest transaction
    still running, so that a number handed out early and committed late is never skipped."""

    class Meta:
        indexes = [
            models.Index(fields=["xid", "number"], name="usage_by_transaction"),
            models.Index(fields=["at"], name="usage_by_time"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(prompt_tokens__gte=0, cached_tokens__gte=0, output_tokens__gte=0)
                & Q(cached_tokens__lte=models.F("prompt_tokens")),
                name="usage_is_possible",
            ),
        ]


class MeterCursor(models.Model):
    """How far the metering worker has read: everything up to this transaction and number."""

    name = models.CharField(max_length=16, primary_key=True)
    xid = models.BigIntegerField()
    number = models.BigIntegerField()


class MeteredRequest(models.Model):
    """How much of a request the capacity chain has posted so far: consumption is idempotent."""

    request_id = models.UUIDField(primary_key=True)
    sequence = models.IntegerField()
    mntu = models.BigIntegerField()
    entitled_mntu = models.BigIntegerField()
    shared_mntu = models.BigIntegerField()
    overrun_mntu = models.BigIntegerField()
    hour_starts_at = models.DateTimeField()
    is_final = models.BooleanField(default=False)


class Heartbeat(models.Model):
    """A gateway served in this interval."""

    gateway = models.CharField(max_length=40)
    interval_starts_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "interval_starts_at"], name="heartbeat_is_single"
            ),
        ]


class Probe(models.Model):
    """A synthetic request through the gateway; one per cluster and 30 seconds."""

    cluster = models.BigIntegerField()
    slot_at = models.DateTimeField()
    passed = models.BooleanField()
    reason = models.CharField(max_length=40, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cluster", "slot_at"], name="probe_is_single"),
        ]


class Outage(models.Model):
    """A cluster that is down, from when to when, and the certificate it had (RULEBOOK 6.7)."""

    id = models.BigAutoField(primary_key=True)
    cluster = models.BigIntegerField()
    began_at = models.DateTimeField()
    """End of the last of the intervals in which nothing was available."""
    ended_at = models.DateTimeField(null=True)
    lots = models.BigIntegerField()
    valid_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cluster"], condition=Q(ended_at=None), name="outage_is_single"
            ),
            models.CheckConstraint(
                condition=Q(ended_at=None) | Q(ended_at__gte=models.F("began_at")),
                name="outage_ends_after_it_began",
            ),
        ]


class Certification(models.Model):
    """The search for a cluster's rate, and its report."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        RUNNING = "RUNNING"
        CERTIFIED = "CERTIFIED"
        REFUSED = "REFUSED"
        FAILED = "FAILED"

    id = models.BigAutoField(primary_key=True)
    cluster = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State)
    progress = models.IntegerField(default=0)
    """Percent."""
    lots = models.BigIntegerField(null=True)
    report = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)


class CoverOffer(models.Model):
    """A price at which a cluster takes over what others' clusters fail to serve (RULEBOOK 6.6)."""

    id = models.BigAutoField(primary_key=True)
    cluster = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    lots = models.BigIntegerField()
    created_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(price_ticks__gt=0, lots__gt=0), name="cover_offer_is_of_something"
            ),
        ]
        indexes = [models.Index(fields=["cluster", "id"], name="cover_offer_by_cluster")]


class PoolInterval(models.Model):
    """What is published of a cluster and class in one interval."""

    cluster = models.BigIntegerField()
    service_class = models.CharField(max_length=2)
    interval_starts_at = models.DateTimeField()
    admitted = models.IntegerField()
    queued = models.IntegerField()
    shed = models.IntegerField()
    spilled = models.IntegerField()
    queue_ms_p50 = models.IntegerField(null=True)
    queue_ms_p95 = models.IntegerField(null=True)
    queue_ms_p99 = models.IntegerField(null=True)
    first_token_ms_p50 = models.IntegerField(null=True)
    first_token_ms_p99 = models.IntegerField(null=True)
    per_token_us_p50 = models.IntegerField(null=True)
    guaranteed_mntu = models.BigIntegerField()
    delivered_mntu = models.BigIntegerField()
    jain = models.FloatField(null=True)
    utilisation = models.FloatField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cluster", "service_class", "interval_starts_at"],
                name="pool_interval_is_single",
            ),
        ]


class UsageEventShown(models.Model):
    """The usage events under one key, for the admin, which takes no composite one; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    request_id = models.UUIDField()
    sequence = models.IntegerField()
    prompt_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    mntu = models.BigIntegerField()
    state = models.CharField(max_length=9)
    is_estimated = models.BooleanField()
    is_bounded = models.BooleanField()
    at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "admission_usageevent_shown"
        verbose_name = "usage event"
        verbose_name_plural = "usage events"
