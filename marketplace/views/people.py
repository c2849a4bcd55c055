"""Signing up, logging in and out, and for which organization a session acts."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, logout
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST

from marketplace import errors, forms, http, operations
from marketplace.views import shared

WRONG = "The e-mail address or the password is wrong."
ATTEMPTS = http.RateLimiter(per_second=1, burst_s=10)
"""Log-ins and sign-ups per address of the caller and process; a guesser gets one a second."""


@require_http_methods(["GET", "HEAD", "POST"])
@shared.public_page
def log_in(request: HttpRequest) -> HttpResponse:
    """Ask who it is; an address that is known looks like one that is not."""
    following = shared.own_path(
        request.POST.get("next", "") or request.GET.get("next", ""), request
    )
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(following or settings.LOGIN_REDIRECT_URL)
        return _login_page(request, following)
    ATTEMPTS.take(_caller(request))
    form = forms.Login(request.POST)
    user = None
    if form.is_valid():
        user = authenticate(
            request,
            username=form.cleaned_data["email"].lower(),
            password=form.cleaned_data["password"],
        )
    if user is None:
        return _login_page(request, following, error=WRONG)
    login(request, user)
    return redirect(following or settings.LOGIN_REDIRECT_URL)


def _login_page(request: HttpRequest, following: str, *, error: str = "") -> HttpResponse:
    values = {"next": following, "error": error, "email": request.POST.get("email", "")[:254]}
    return shared.page(request, "marketplace/login.html", values, status=401 if error else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@shared.public_page
def sign_up(request: HttpRequest) -> HttpResponse:
    """Create a user and the organization it owns, and log in."""
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(settings.LOGIN_REDIRECT_URL)
        return _signup_page(request, forms.Signup())
    ATTEMPTS.take(_caller(request))
    form = forms.Signup(request.POST)
    if not form.is_valid():
        return _signup_page(request, form, status=422)
    given: dict[str, Any] = form.cleaned_data
    try:
        user = operations.sign_up(
            email=given["email"].lower(),
            password=given["password"],
            organization_name=given["organization"],
            role=given["role"],
        )
    except IntegrityError:
        # The same words whatever the reason, so that nobody learns which addresses are known.
        error = "This could not be created. If the address is yours already, log in instead."
        return _signup_page(request, form, error=error, status=422)
    except errors.Refusal as refusal:
        form.add_error("organization", shared.sentence(refusal.detail))
        return _signup_page(request, form, status=422)
    login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])
    messages.success(request, "Your account is ready. Deposit some cash to trade.")
    return redirect("/portfolio")


def _signup_page(
    request: HttpRequest, form: forms.Signup, *, error: str = "", status: int = 200
) -> HttpResponse:
    values = {"form": form, "error": error}
    return shared.page(request, "marketplace/signup.html", values, status=status)


def _caller(request: HttpRequest) -> str:
    """Return the address a request came from; never what a header claims."""
    return f"pages:{request.META.get('REMOTE_ADDR', '')}"


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("/")


@require_POST
@shared.member_page
def choose_organization(request: HttpRequest, member: shared.Member) -> HttpResponse:
    """Act for another of the user's organizations from here on."""
    wanted = request.POST.get("organization", "")
    for one in shared.memberships(member.user):
        if str(one.organization_id) == wanted:
            request.session[shared.ORGANIZATION] = one.organization_id
            return shared.back(request, "/portfolio")
    raise errors.NotFound("there is no such organization")
