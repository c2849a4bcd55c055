"""What the gateways decided and metered, for staff to read. The gateways and meters write it."""

import uuid

from django.contrib import admin

from admission import models
from marketplace import backoffice


@admin.register(models.Request)
class RequestAdmin(backoffice.ReadOnly):
    """Requests a gateway decided on, refusals too."""

    list_display = (
        "id",
        "organization_id",
        "grade",
        "cluster",
        "class_requested",
        "class_served",
        "outcome",
        "reason",
        "queue_ms",
        "arrived_at",
    )
    list_filter = ("outcome", "class_requested", "class_served", "is_probe", "grade")
    search_fields = ("=id", "=organization_id", "=key")
    ordering = ("-arrived_at", "id")
    exclude = ("body_digest",)


@admin.register(models.Receipt)
class ReceiptAdmin(backoffice.ReadOnly):
    """Receipts as they were issued."""

    list_display = (
        "id",
        "organization_id",
        "grade",
        "cluster",
        "class_requested",
        "sequence",
        "interval_starts_at",
        "issuer",
    )
    list_filter = ("class_requested", "grade")
    search_fields = ("=id", "=organization_id")
    ordering = ("-interval_starts_at", "id")
    exclude = ("hash", "salt", "signature")


@admin.register(models.GatewayKey)
class GatewayKeyAdmin(backoffice.ReadOnly):
    """Public keys of gateways that the root has certified."""

    list_display = ("id", "gateway", "valid_from")
    search_fields = ("=id", "=gateway")
    ordering = ("-valid_from", "id")
    exclude = ("public_key", "certificate")


@admin.register(models.CoverOffer)
class CoverOfferAdmin(backoffice.ReadOnly):
    """Standing offers of cover."""

    list_display = ("id", "cluster", "price_ticks", "lots", "created_at", "withdrawn_at")
    search_fields = ("=cluster",)
    ordering = ("-id",)


@admin.register(models.MeteredRequest)
class MeteredRequestAdmin(backoffice.ReadOnly):
    """How much of a request the capacity chain has posted."""

    list_display = (
        "request_id",
        "mntu",
        "entitled_mntu",
        "shared_mntu",
        "overrun_mntu",
        "hour_starts_at",
        "is_final",
    )
    list_filter = ("is_final",)
    search_fields = ("=request_id",)
    ordering = ("-hour_starts_at", "request_id")


@admin.register(models.Heartbeat)
class HeartbeatAdmin(backoffice.ReadOnly):
    """In which intervals a gateway served."""

    list_display = ("gateway", "interval_starts_at")
    list_filter = ("gateway",)
    ordering = ("-interval_starts_at", "-id")


@admin.register(models.Probe)
class ProbeAdmin(backoffice.ReadOnly):
    """Synthetic requests."""

    list_display = ("cluster", "slot_at", "passed", "reason")
    list_filter = ("passed", "cluster")
    ordering = ("-slot_at", "-id")


@admin.register(models.Certification)
class CertificationAdmin(backoffice.ReadOnly):
    """Searches for a cluster's rate."""

    list_display = ("id", "cluster", "state", "progress", "lots", "created_at", "finished_at")
    list_filter = ("state",)
    search_fields = ("=cluster",)
    ordering = ("-id",)


@admin.register(models.Outage)
class OutageAdmin(backoffice.ReadOnly):
    """Clusters that were down, from when to when."""

    list_display = ("id", "cluster", "began_at", "ended_at", "lots", "valid_until")
    search_fields = ("=cluster",)
    ordering = ("-began_at", "id")


@admin.register(models.PoolInterval)
class PoolIntervalAdmin(backoffice.ReadOnly):
    """What is published of a cluster and class."""

    list_display = (
        "cluster",
        "service_class",
        "interval_starts_at",
        "admitted",
        "queued",
        "shed",
        "queue_ms_p99",
        "first_token_ms_p99",
        "delivered_mntu",
    )
    list_filter = ("service_class", "cluster")
    ordering = ("-interval_starts_at", "-id")


@admin.register(models.UsageEventShown)
class UsageEventAdmin(backoffice.ByTwoKeys):
    """Checkpoints and ends of requests: running totals."""

    keys = (("request_id", uuid.UUID), ("sequence", int))
    list_display = ("id", "prompt_tokens", "cached_tokens", "output_tokens", "mntu", "state", "at")
    list_filter = ("state", "is_estimated", "is_bounded")
    search_fields = ("=request_id",)
    ordering = ("-at", "request_id", "sequence")


@admin.register(models.MeterCursor)
class MeterCursorAdmin(backoffice.ReadOnly):
    """How far the meter has read."""

    list_display = ("name", "xid", "number")
    ordering = ("name",)


@admin.register(models.ReceiptWaiting)
class ReceiptWaitingAdmin(backoffice.ReadOnly):
    """Receipts that the log does not have yet."""

    list_display = ("id", "organization_id", "cluster", "interval_starts_at")
    ordering = ("interval_starts_at", "id")


@admin.register(models.LogLeaf)
class LogLeafAdmin(backoffice.ReadOnly):
    """Leaves of the log of receipts."""

    list_display = ("id", "name", "cluster", "interval_starts_at")
    search_fields = ("=id", "=name")
    ordering = ("-id",)
    exclude = ("hash",)


@admin.register(models.LogNode)
class LogNodeAdmin(backoffice.ReadOnly):
    """Complete subtrees of the log of receipts."""

    list_display = ("id",)
    ordering = ("-id",)
    exclude = ("hash",)


@admin.register(models.LogHead)
class LogHeadAdmin(backoffice.ReadOnly):
    """Signed heads of the log of receipts."""

    list_display = ("at", "size", "signing_key")
    ordering = ("-at",)
    exclude = ("root", "signature")
