"""The staff's pages for the catalog: who takes part, what is traded, and what staff may decide.

Decisions are actions: each asks for a reason, calls an operation that instructs the machine, and is
kept in the audit trail. Instruments, clusters and listings are projections and stay read-only; a
grade can be edited until it is listed. Digests of keys and bodies of answers are never shown.
"""

import uuid
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from marketplace import backoffice, clock, models, operations

admin.site.site_header = "Baseload administration"
admin.site.site_title = "Baseload"
admin.site.index_title = "The exchange"


def _actor(request: HttpRequest) -> str:
    return str(request.user.get_username())


class _UserCreation(AdminUserCreationForm[models.User]):
    """A new user; who it is for and when it was made."""

    class Meta:
        model = models.User
        fields = ("email",)

    def save(self, commit: bool = True) -> Any:
        """Save with the market's time."""
        self.instance.created_at = clock.now()
        return super().save(commit)


class _UserChange(UserChangeForm[models.User]):
    """A user as staff may edit it."""

    class Meta:
        model = models.User
        fields = "__all__"
        field_classes: dict[str, type[forms.Field]] = {}


@admin.register(models.User)
class UserAdmin(DjangoUserAdmin[models.User]):
    """People who log in."""

    form = _UserChange
    add_form = _UserCreation
    ordering = ("email",)
    list_display = ("email", "name", "is_staff", "is_active", "last_login", "created_at")
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_fields = ("email", "name")
    readonly_fields = ("created_at", "last_login")
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        (
            "May",
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        ("When", {"fields": ("last_login", "created_at")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "usable_password", "password1", "password2")}),)


def _verify(request: HttpRequest, row: models.Organization, reason: str) -> None:
    operations.verify_organization(organization_id=row.pk, actor=_actor(request), reason=reason)


def _kill(request: HttpRequest, row: models.Organization, reason: str) -> None:
    _set_killed(request, row, reason, enabled=True)


def _lift(request: HttpRequest, row: models.Organization, reason: str) -> None:
    _set_killed(request, row, reason, enabled=False)


def _set_killed(
    request: HttpRequest, row: models.Organization, reason: str, *, enabled: bool
) -> None:
    operations.set_killed(
        organization_id=row.pk,
        enabled=enabled,
        actor=_actor(request),
        reason=reason,
        request_id=uuid.uuid4().hex,
    )


@admin.register(models.Organization)
class OrganizationAdmin(backoffice.ReadOnly):
    """Legal participants."""

    list_display = ("id", "name", "role", "group", "is_verified", "is_killed", "created_at")
    list_filter = ("role", "is_verified", "is_killed")
    search_fields = ("=id", "name", "skeleton")
    ordering = ("id",)
    actions = (
        backoffice.with_reason(name="verify", title="Verify", perform=_verify),
        backoffice.with_reason(
            name="kill", title="Kill switch: cancel all orders, refuse new ones", perform=_kill
        ),
        backoffice.with_reason(name="lift_kill", title="Lift the kill switch", perform=_lift),
    )


@admin.register(models.Membership)
class MembershipAdmin(admin.ModelAdmin[models.Membership]):
    """Who may act for whom."""

    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role",)
    list_select_related = ("user", "organization")
    search_fields = ("user__email", "organization__name")
    autocomplete_fields = ("user", "organization")
    readonly_fields = ("created_at",)
    ordering = ("organization__name", "id")

    def save_model(
        self,
        request: HttpRequest,
        obj: models.Membership,
        form: forms.ModelForm[models.Membership],
        change: bool,
    ) -> None:
        """Save with the market's time."""
        if not change:
            obj.created_at = clock.now()
        super().save_model(request, obj, form, change)


@admin.register(models.ApiKey)
class ApiKeyAdmin(backoffice.ReadOnly):
    """Keys by their public part; neither the secret nor its digest is anywhere to be seen."""

    list_display = (
        "id",
        "organization",
        "name",
        "scopes",
        "default_class",
        "created_at",
        "revoked_at",
    )
    list_filter = ("default_class", "overflow")
    list_select_related = ("organization",)
    search_fields = ("=id", "name", "organization__name")
    ordering = ("-created_at", "id")
    exclude = ("digest", "public_key")


def _halt_grade(request: HttpRequest, row: models.Grade, reason: str) -> None:
    _set_halt(request, reason, halted=True, grade=row.pk)


def _resume_grade(request: HttpRequest, row: models.Grade, reason: str) -> None:
    _set_halt(request, reason, halted=False, grade=row.pk)


def _halt_market(request: HttpRequest, row: models.Deployment, reason: str) -> None:
    _set_halt(request, reason, halted=True)


def _resume_market(request: HttpRequest, row: models.Deployment, reason: str) -> None:
    _set_halt(request, reason, halted=False)


def _halt(request: HttpRequest, row: models.Instrument, reason: str) -> None:
    _set_halt(request, reason, halted=True, instrument=row.symbol)


def _resume(request: HttpRequest, row: models.Instrument, reason: str) -> None:
    _set_halt(request, reason, halted=False, instrument=row.symbol)


def _set_halt(
    request: HttpRequest, reason: str, *, halted: bool, instrument: str = "", grade: str = ""
) -> None:
    operations.set_halt(
        halted=halted,
        instrument=instrument,
        grade=grade,
        actor=_actor(request),
        reason=reason,
        request_id=uuid.uuid4().hex,
    )


@admin.register(models.Grade)
class GradeAdmin(backoffice.ReadOnly):
    """What is delivered; terms can be edited until the grade is listed, and never after."""

    list_display = ("code", "name", "region", "precision", "shown_price", "is_listed", "created_at")
    list_filter = ("is_listed", "region", "precision")
    search_fields = ("code", "name")
    ordering = ("code",)
    shown_price = backoffice.price("reference_price_ticks", "reference price")
    readonly_fields = ("created_at", "is_listed")
    actions = (
        backoffice.with_reason(name="halt", title="Halt every hour", perform=_halt_grade),
        backoffice.with_reason(name="resume", title="Resume every hour", perform=_resume_grade),
    )

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Staff with the right to change grades change those that are not listed yet."""
        if obj is None or (isinstance(obj, models.Grade) and obj.is_listed):
            return False
        return bool(request.user.has_perm("marketplace.change_grade"))


@admin.register(models.Instrument)
class InstrumentAdmin(backoffice.ReadOnly):
    """Contracts as the machine has listed them."""

    list_display = (
        "symbol",
        "state",
        "starts_at",
        "trading_ends_at",
        "last",
        "reference",
        "volume_lots",
        "open_interest_lots",
    )
    list_filter = ("state", "product", "grade")
    search_fields = ("symbol",)
    date_hierarchy = "starts_at"
    ordering = ("-starts_at", "symbol")
    last = backoffice.price("last_price_ticks", "last")
    reference = backoffice.price("reference_price_ticks", "reference")
    actions = (
        backoffice.with_reason(name="halt", title="Halt", perform=_halt),
        backoffice.with_reason(name="resume", title="Resume", perform=_resume),
    )


@admin.register(models.Cluster)
class ClusterAdmin(backoffice.ReadOnly):
    """Accelerators and what they may sell."""

    list_display = (
        "id",
        "name",
        "organization",
        "grade",
        "accelerator",
        "tensor_parallel",
        "replicas",
        "state",
        "certified_lots",
        "certified_until",
    )
    list_filter = ("state", "grade", "accelerator", "is_modelled")
    list_select_related = ("organization", "grade")
    search_fields = ("=id", "name", "organization__name")
    ordering = ("id",)


@admin.register(models.Listing)
class ListingAdmin(backoffice.ReadOnly):
    """Providers' offers."""

    list_display = ("id", "organization", "cluster", "symbol", "shown_price", "lots", "state")
    list_filter = ("state",)
    list_select_related = ("organization", "cluster")
    search_fields = ("=id", "symbol", "organization__name")
    ordering = ("-id",)
    shown_price = backoffice.price("price_ticks", "price")


def _confirm(request: HttpRequest, row: models.Deposit, reason: str) -> None:
    operations.confirm_deposit(deposit_id=row.pk, actor=_actor(request), reason=reason)


@admin.register(models.Deposit)
class DepositAdmin(backoffice.ReadOnly):
    """Money on its way in; staff confirm what has arrived."""

    list_display = ("id", "organization", "amount", "state", "created_at", "confirmed_at")
    list_filter = ("state",)
    list_select_related = ("organization",)
    search_fields = ("=id", "organization__name", "=instruction")
    ordering = ("-id",)
    amount = backoffice.money("amount_micros", "amount")
    actions = (
        backoffice.with_reason(
            name="confirm", title="Confirm that the money arrived", perform=_confirm
        ),
    )


def _pay(request: HttpRequest, row: models.Withdrawal, reason: str) -> None:
    operations.decide_withdrawal(
        withdrawal_id=row.pk, is_paid=True, actor=_actor(request), reason=reason
    )


def _give_back(request: HttpRequest, row: models.Withdrawal, reason: str) -> None:
    operations.decide_withdrawal(
        withdrawal_id=row.pk, is_paid=False, actor=_actor(request), reason=reason
    )


@admin.register(models.Withdrawal)
class WithdrawalAdmin(backoffice.ReadOnly):
    """Money on its way out; what is held is paid out or given back."""

    list_display = ("id", "organization", "amount", "state", "created_at", "decided_at")
    list_filter = ("state",)
    list_select_related = ("organization",)
    search_fields = ("=id", "organization__name")
    ordering = ("-id",)
    amount = backoffice.money("amount_micros", "amount")
    actions = (
        backoffice.with_reason(name="pay", title="Note that the money was paid", perform=_pay),
        backoffice.with_reason(name="give_back", title="Give the money back", perform=_give_back),
    )


@admin.register(models.IdempotencyRecord)
class IdempotencyRecordAdmin(backoffice.ReadOnly):
    """First answers to requests that move money or capacity; the answers themselves stay hidden."""

    list_display = ("organization", "key", "status", "reference", "created_at")
    list_filter = ("status",)
    list_select_related = ("organization",)
    search_fields = ("=key", "organization__name")
    ordering = ("-id",)
    exclude = ("body", "fingerprint")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave out the bodies."""
        return super().get_queryset(request).defer("body")


@admin.register(models.Deployment)
class DeploymentAdmin(backoffice.ReadOnly):
    """What kind of deployment the database is, written once; and trading of everything in it."""

    list_display = ("kind", "created_at")
    actions = (
        backoffice.with_reason(name="halt", title="Halt all trading", perform=_halt_market),
        backoffice.with_reason(name="resume", title="Resume all trading", perform=_resume_market),
    )


@admin.register(models.AuditEntry)
class AuditEntryAdmin(backoffice.ReadOnly):
    """What staff and operators did, to what, and why."""

    list_display = ("at", "actor", "action", "target", "reason")
    list_filter = ("action",)
    search_fields = ("actor", "target", "reason")
    date_hierarchy = "at"
    ordering = ("-at", "-id")


@admin.register(models.ResaleInstruction)
class ResaleInstructionAdmin(backoffice.ReadOnly):
    """What holders have standing orders to sell again."""

    list_display = ("id", "organization", "grade", "state", "kept_lots", "offered_lots")
    list_filter = ("state", "grade")
    ordering = ("-id",)


@admin.register(models.PackageListing)
class PackageListingAdmin(backoffice.ReadOnly):
    """Packages that providers have listed."""

    list_display = ("id", "organization", "grade", "starts_at", "ends_at", "units", "state")
    list_filter = ("state", "grade")
    ordering = ("-id",)


@admin.register(models.PackagePurchase)
class PackagePurchaseAdmin(backoffice.ReadOnly):
    """What was asked for of packages, and what the machine made of it."""

    list_display = ("id", "listing", "organization", "units", "total_micros", "state", "reason")
    list_filter = ("state",)
    ordering = ("-id",)


@admin.register(models.PackageSlice)
class PackageSliceAdmin(backoffice.ReadOnly):
    """Slices of packages that holders have offered."""

    list_display = ("id", "package", "organization", "buyer", "state", "reason")
    list_filter = ("state", "grade")
    ordering = ("-id",)


@admin.register(models.PurchaseCommitment)
class PurchaseCommitmentAdmin(backoffice.ReadOnly):
    """What organizations have committed to pools that buy together."""

    ordering = ("-id",)
