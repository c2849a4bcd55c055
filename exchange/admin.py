"""The journal and what is projected from it, for staff to read; and alerts, for them to decide."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from exchange import models, surveillance
from marketplace import backoffice


@admin.register(models.Head)
class HeadAdmin(backoffice.ReadOnly):
    """The end of each journal."""

    list_display = ("group", "epoch", "sequence", "released_sequence", "at", "short_hash")
    short_hash = backoffice.digest("hash", "hash")
    fields = ("group", "epoch", "sequence", "released_sequence", "stream_entry", "at")


@admin.register(models.Snapshot)
class SnapshotAdmin(backoffice.ReadOnly):
    """States from which a replay starts; the state itself is not loaded."""

    list_display = ("group", "sequence", "format", "rules", "created_at", "short_digest")
    list_filter = ("group",)
    ordering = ("-created_at", "-id")
    short_digest = backoffice.digest("state_digest", "state digest")
    fields = ("group", "sequence", "format", "rules", "created_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave out the state, which is large."""
        return super().get_queryset(request).defer("body")


@admin.register(models.Order)
class OrderAdmin(backoffice.ReadOnly):
    """Orders as they stand; refused ones too."""

    list_display = (
        "id",
        "organization_id",
        "symbol",
        "side",
        "type",
        "shown_price",
        "lots",
        "filled_lots",
        "status",
        "reason",
        "created_at",
    )
    list_filter = ("status", "type", "time_in_force", "side", "reason")
    search_fields = ("=id", "=organization_id", "symbol", "=client_order_id")
    ordering = ("-id",)
    shown_price = backoffice.price("price_ticks", "price")
    exclude = ("fingerprint",)


@admin.register(models.Trade)
class TradeAdmin(backoffice.ReadOnly):
    """Matches of two orders."""

    list_display = ("id", "symbol", "shown_price", "lots", "maker", "taker", "taker_side", "at")
    list_filter = ("taker_side",)
    search_fields = ("=id", "symbol", "=maker", "=taker", "=maker_order", "=taker_order")
    ordering = ("-id",)
    shown_price = backoffice.price("price_ticks", "price")


@admin.register(models.JournalBatchShown)
class JournalBatchAdmin(backoffice.ByTwoKeys):
    """Batches of commands as they were journaled, and the hashes that chain them."""

    keys = (("group", str), ("sequence", int))
    list_display = (
        "id",
        "first_sequence",
        "sequence",
        "epoch",
        "at",
        "short_hash",
        "short_previous",
    )
    list_filter = ("group", "epoch")
    ordering = ("-sequence", "group")
    short_hash = backoffice.digest("hash", "hash")
    short_previous = backoffice.digest("previous_hash", "previous hash")
    exclude = ("hash", "previous_hash")


@admin.register(models.Auction)
class AuctionAdmin(backoffice.ReadOnly):
    """The call of each book that runs, or the last one, and the last that made a price."""

    list_display = ("symbol", "kind", "frozen_at", "ends_at", "shown_price", "last_lots", "last_at")
    list_filter = ("kind",)
    search_fields = ("symbol",)
    ordering = ("-ends_at", "symbol")
    shown_price = backoffice.price("last_price_ticks", "last price")


@admin.register(models.BookDeltaShown)
class BookDeltaAdmin(backoffice.ByTwoKeys):
    """What batches did to books, as it was published."""

    keys = (("symbol", str), ("sequence", int))
    list_display = ("id", "symbol", "previous_sequence", "sequence", "at")
    search_fields = ("=symbol",)
    ordering = ("-symbol", "-sequence")


def _confirm(request: HttpRequest, row: models.SurveillanceAlert, reason: str) -> None:
    _decide(request, row, reason, confirmed=True)


def _dismiss(request: HttpRequest, row: models.SurveillanceAlert, reason: str) -> None:
    _decide(request, row, reason, confirmed=False)


def _decide(
    request: HttpRequest, row: models.SurveillanceAlert, reason: str, *, confirmed: bool
) -> None:
    surveillance.decide(
        alert_id=row.pk,
        confirmed=confirmed,
        actor=str(request.user.get_username()),
        reason=reason,
    )


@admin.register(models.SurveillanceAlert)
class SurveillanceAlertAdmin(backoffice.ReadOnly):
    """Patterns that somebody should look at; each is confirmed or dismissed once, with a reason."""

    list_display = (
        "id",
        "kind",
        "symbol",
        "organizations",
        "window_starts_at",
        "window_ends_at",
        "state",
        "decided_by",
        "reason",
    )
    list_filter = ("state", "kind")
    search_fields = ("subject", "symbol", "reason")
    date_hierarchy = "window_ends_at"
    ordering = ("-window_ends_at", "-id")
    actions = (
        backoffice.with_reason(name="confirm", title="Confirm", perform=_confirm),
        backoffice.with_reason(name="dismiss", title="Dismiss", perform=_dismiss),
    )
