"""What the admin pages of every app share: rows nobody may touch, and actions that name a reason.

The journal, the ledger and everything projected from them are written by one process each. The
admin shows them and offers no way to add, change or delete, not to superusers either: permission to
do what the database would refuse anyway is not a permission. What staff may do is an action; an
action asks for a reason, calls an operation, and leaves an entry in the audit trail.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from marketplace import contract, errors, wire

REASON_LENGTH_MIN = 5
REASON_LENGTH_MAX = 500
SELECTION_MAX = 100

Action = Callable[["ReadOnly", HttpRequest, QuerySet[Any]], HttpResponse | None]


class ReadOnly(admin.ModelAdmin[Any]):
    """Shows rows; nobody adds, changes or deletes one here."""

    actions_selection_counter = True
    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(
        self,
        request: HttpRequest,
        obj: Model | None = None,
    ) -> bool:
        """Nobody changes."""
        return False

    def has_delete_permission(
        self,
        request: HttpRequest,
        obj: Model | None = None,
    ) -> bool:
        """Nobody deletes."""
        return False


class ByTwoKeys(ReadOnly):
    """Shows rows that have a key of two columns; `keys` names them with their types.

    The page's own key is the two joined by a colon, which no index knows; a single row is therefore
    looked up by the columns themselves.
    """

    keys: tuple[tuple[str, Callable[[str], Any]], ...] = ()

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """Return the row of a key, or None."""
        parts = object_id.rsplit(":", 1)
        if len(parts) != len(self.keys) or from_field is not None:
            return None
        try:
            found = {name: kind(part) for (name, kind), part in zip(self.keys, parts, strict=True)}
        except ValueError:
            return None
        return self.get_queryset(request).filter(**found).first()


def with_reason(
    *, name: str, title: str, perform: Callable[[HttpRequest, Any, str], None]
) -> Action:
    """Return an admin action that asks for a reason and then performs it on each row.

    `perform` gets the request, the row and the reason; a refusal it raises is shown and the other
    rows go on.
    """

    def action(page: ReadOnly, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
        reason = " ".join(request.POST.get("reason", "").split())
        if REASON_LENGTH_MIN <= len(reason) <= REASON_LENGTH_MAX:
            for row in rows.order_by("pk")[:SELECTION_MAX]:
                _perform_one(page, request, row, reason)
            return None
        return TemplateResponse(
            request,
            "admin/reason.html",
            {
                **page.admin_site.each_context(request),
                "title": title,
                "action": name,
                "rows": rows.order_by("pk")[:SELECTION_MAX],
                "opts": page.model._meta,
                "reason": reason,
                "is_short": "reason" in request.POST,
                "length_min": REASON_LENGTH_MIN,
                "length_max": REASON_LENGTH_MAX,
            },
        )

    def _perform_one(page: ReadOnly, request: HttpRequest, row: Any, reason: str) -> None:
        try:
            perform(request, row, reason)
        except errors.Refusal as refusal:
            page.message_user(request, f"{row}: {refusal.detail}", messages.ERROR)
        else:
            page.message_user(request, f"{row}: {title.lower()}, done.", messages.SUCCESS)

    action.__name__ = name
    action.short_description = title  # type: ignore[attr-defined]
    return action


def price(field: str, name: str) -> Callable[[Any, Any], str]:
    """Return a column that prints a field of ticks as USD, with the decimals of its instrument."""

    @admin.display(description=name, ordering=field, empty_value="-")
    def column(page: Any, row: Any) -> Any:
        ticks = getattr(row, field)
        return wire.optional_price_text(ticks, contract.decimals_of(getattr(row, "symbol", "")))

    return column


def money(field: str, name: str) -> Callable[[Any, Any], str]:
    """Return a column that prints a field of micro-USD as USD."""

    @admin.display(description=name, ordering=field)
    def column(page: Any, row: Any) -> Any:
        return wire.micros_text(getattr(row, field))

    return column


def digest(field: str, name: str) -> Callable[[Any, Any], str]:
    """Return a column that prints the first bytes of a hash."""

    @admin.display(description=name)
    def column(page: Any, row: Any) -> Any:
        value = getattr(row, field)
        return None if value is None else bytes(value)[:8].hex()

    return column
