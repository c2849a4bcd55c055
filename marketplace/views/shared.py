"""What all pages share: who acts for whom, the frame, messages, refusals, error pages."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers, patch_cache_control
from django.utils.http import url_has_allowed_host_and_scheme

from marketplace import clock, endpoint, errors, models

ORGANIZATION = "organization"
"""Key of the session: which of the user's organizations the pages act for."""

PUBLIC_LINKS = (
    ("/markets", "Markets"),
    ("/packages", "Packages"),
    ("/index", "Index"),
    ("/transparency", "Transparency"),
)
MEMBER_LINKS = (
    ("/portfolio", "Portfolio"),
    ("/entitlements", "Entitlements"),
    ("/sell", "Sell"),
    ("/keys", "Keys"),
)

OPERATOR_LINKS = (("/operations", "Operations"),)

PART_OF = {
    "/curve": "/markets",
    "/receipts": "/transparency",
    "/deliveries": "/portfolio",
    "/resale": "/portfolio",
    "/purchases": "/portfolio",
    "/transfers": "/sell",
}
"""Pages without a link of their own in the navigation, and the link that leads to them."""

View = Callable[..., HttpResponse]

ROLE_MAY = {
    models.Membership.Role.OWNER: frozenset({"read", "trade", "transfer", "keys", "capacity"}),
    models.Membership.Role.TRADER: frozenset({"read", "trade"}),
    models.Membership.Role.VIEWER: frozenset({"read"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user acting for an organization."""

    user: models.User
    organization: models.Organization
    role: str

    def require(self, what: str) -> None:
        """:raises Forbidden: when the member's role does not allow it."""
        if what not in ROLE_MAY[models.Membership.Role(self.role)]:
            raise errors.Forbidden(f"a {self.role.lower()} of the organization may not do this")


def memberships(user: Any) -> list[models.Membership]:
    """Return the user's memberships with their organizations, oldest first."""
    if not user.is_authenticated:
        return []
    return list(
        models.Membership.objects.filter(user=user).select_related("organization").order_by("id")
    )


def member_of(request: HttpRequest) -> Member | None:
    """Return for whom the request acts: the organization chosen in the session, else the first."""
    known: list[models.Membership] | None = getattr(request, "_memberships", None)
    if known is None:
        known = memberships(request.user)
        request._memberships = known  # type: ignore[attr-defined]
    if not known:
        return None
    chosen = request.session.get(ORGANIZATION)
    found = next((one for one in known if one.organization_id == chosen), known[0])
    return Member(user=found.user, organization=found.organization, role=found.role)


def may_operate(request: HttpRequest) -> bool:
    """Whether the user is staff, or acts for an operator with a role that decides."""
    if not request.user.is_authenticated:
        return False
    if request.user.is_staff:
        return True
    member = member_of(request)
    return (
        member is not None
        and member.organization.role == models.Organization.Role.OPERATOR
        and member.role != models.Membership.Role.VIEWER
    )


def page(
    request: HttpRequest, template: str, values: dict[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    """Render a page inside the frame; a member's pages are never stored."""
    # A request that an early middleware refused has no user yet.
    member = member_of(request) if hasattr(request, "user") else None
    path = _place(request.path)
    is_operator = hasattr(request, "user") and may_operate(request)
    links = (
        PUBLIC_LINKS + (MEMBER_LINKS if member else ()) + (OPERATOR_LINKS if is_operator else ())
    )
    now = clock.now()
    site = {
        "links": [
            {"href": href, "label": label, "is_current": (path + "/").startswith(href + "/")}
            for href, label in links
        ],
        "is_member": member is not None,
        "is_operator": is_operator,
        "organization": member.organization if member else None,
        "organizations": [one.organization for one in getattr(request, "_memberships", [])],
        "is_demo": settings.IS_DEMO,
        "now": now,
        "now_ms": clock.to_micros(now) // 1000,
    }
    response = render(request, template, {**(values or {}), "site": site}, status=status)
    if member is not None or request.method == "POST":
        add_never_cache_headers(response)
        patch_cache_control(response, no_store=True)
    return response


def _place(path: str) -> str:
    """Return the path whose link in the navigation a page belongs to."""
    return PART_OF.get("/" + path.split("/")[1], path)


def member_page(view: View) -> View:
    """Let only members in; others are sent to the log-in page, programs get a problem."""

    @wraps(view)
    def guarded(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        member = member_of(request)
        if member is None and request.user.is_authenticated:
            return page(request, "marketplace/no_organization.html", status=403)
        if member is None:
            if wants_json(request):
                return refused_json(errors.Unauthenticated("log in again"))
            where = request.get_full_path() if request.method == "GET" else "/portfolio"
            return redirect(f"{settings.LOGIN_URL}?{urlencode({'next': where})}")
        try:
            _refuse_nul(named)
            return view(request, member, *arguments, **named)
        except errors.Refusal as refusal:
            return refused(request, refusal)

    return guarded


def public_page(view: View) -> View:
    """Turn refusals of a page that anyone may read into an error page."""

    @wraps(view)
    def guarded(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        try:
            _refuse_nul(named)
            return view(request, *arguments, **named)
        except errors.Refusal as refusal:
            return refused(request, refusal)

    return guarded


def _refuse_nul(named: dict[str, Any]) -> None:
    """:raises NotFound: when the path has a character that the database cannot look for."""
    if any("\0" in value for value in named.values() if isinstance(value, str)):
        raise errors.NotFound()


def wants_json(request: HttpRequest) -> bool:
    """Whether a script asks, and not a person."""
    return request.headers.get("Accept", "").startswith("application/json")


def refused_json(refusal: errors.Refusal) -> JsonResponse:
    """Return a refusal for a script."""
    values = {"code": refusal.code, "detail": sentence(refusal.detail), "title": refusal.title}
    response = JsonResponse(values, status=refusal.status)
    patch_cache_control(response, no_store=True)
    return response


def refused(request: HttpRequest, refusal: errors.Refusal) -> HttpResponse:
    """Answer a refusal: JSON to a script, a message after a post, else an error page."""
    if wants_json(request):
        return refused_json(refusal)
    if request.method == "POST" and refusal.status not in (401, 404):
        messages.error(request, sentence(refusal.detail))
        return back(request, "/portfolio")
    return error(request, refusal.status, refusal.title, sentence(refusal.detail))


def sentence(text: str) -> str:
    """Return a refusal's detail as a sentence."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def back(request: HttpRequest, otherwise: str) -> HttpResponseRedirect:
    """Return to the page a form was on; only ever to a page of ours."""
    return HttpResponseRedirect(own_path(request.POST.get("next", ""), request) or otherwise)


def own_path(path: str, request: HttpRequest) -> str:
    """Return a path of our own site, or an empty text for anything else."""
    is_own = path.startswith("/") and url_has_allowed_host_and_scheme(
        path, allowed_hosts=None, require_https=request.is_secure()
    )
    return path if is_own else ""


def fresh_id(prefix: str) -> str:
    """Return an idempotency key for a form: posted twice, it is done once."""
    return f"{prefix}-{secrets.token_hex(12)}"


def error(request: HttpRequest, status: int, title: str, detail: str) -> HttpResponse:
    """Render an error page."""
    values = {"status": status, "title": title, "detail": detail}
    return page(request, "errors/error.html", values, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what could not be understood, such as a Host that is none of ours."""
    if request.path.startswith("/api/"):
        request_id = "req_" + secrets.token_hex(12)
        return endpoint.problem_response(errors.Malformed(), request_id)
    return error(request, 400, "That request made no sense", "Nothing was changed.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer who may not."""
    return error(request, 403, "Not allowed", "Your login may not do this. Nothing was changed.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a path that does not exist."""
    return error(request, 404, "No such page", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer a failure of our own, without asking the database for anything."""
    values = {
        "status": 500,
        "title": "Something broke on our side",
        "detail": "It has been recorded. If you placed an order, its outcome is in your portfolio.",
        "site": {"links": [], "now": clock.now(), "now_ms": clock.now_micros() // 1000},
    }
    return render(None, "errors/error.html", values, status=500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form that did not come from a page of ours, or from one that is too old."""
    detail = (
        "The form was too old or came from another site. Nothing was changed. Load the page again."
    )
    if wants_json(request):
        return refused_json(errors.Forbidden(detail, code="csrf_failed"))
    return error(request, 403, "This form is no longer valid", detail)
