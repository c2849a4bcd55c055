"""DRF's plumbing: who is calling, and that JSON is all there is.

Endpoints, limits, problem documents and paging are `marketplace.endpoint`'s, because every app's
`api` stands on them. A caller is a bearer key or, from the exchange's own pages, a session: then
the request needs the CSRF token, and the member's role takes the place of the key's scopes. Method
overrides and forwarding headers have no effect.
"""

from typing import Any

from django.http import HttpResponse
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from marketplace import endpoint, errors, http, keys, queries

_SIGNATURE_HEADERS = (
    ("HTTP_BASELOAD_TIMESTAMP", b"baseload-timestamp"),
    ("HTTP_BASELOAD_SIGNATURE", b"baseload-signature"),
)


class KeyAuthentication(BaseAuthentication):
    """A bearer key, looked up in this process's snapshot of all keys."""

    def authenticate(self, request: Request) -> tuple[None, keys.Key] | None:
        """Return the key, or None when the request carries none.

        :raises Refusal: when it carries one that is not valid here.
        """
        authorization = request.META.get("HTTP_AUTHORIZATION")
        if authorization is None:
            return None
        headers = [
            (name, request.META[meta].encode("latin-1", "replace"))
            for meta, name in _SIGNATURE_HEADERS
            if meta in request.META
        ]
        key = keys.shared_ring().authenticate(
            authorization,
            address=endpoint.peer(request),
            method=str(request.method),
            target=_target(request),
            body=endpoint.raw_body(request) if headers else b"",
            headers=headers,
        )
        return None, key


class MemberAuthentication(SessionAuthentication):
    """A member's session, for the exchange's own pages."""

    def authenticate(self, request: Request) -> tuple[None, keys.Key] | None:
        """Return the scopes of the member whose session this is, or None without one.

        :raises Forbidden: when the CSRF token is missing or from elsewhere.
        """
        user = getattr(request._request, "user", None)
        if user is None or not user.is_active or not user.is_authenticated:
            return None
        key = queries.member_key(
            user=user, organization_id=request._request.session.get("organization")
        )
        if key is None:
            return None
        try:
            # Not DRF's request, which would look for the token in a body that it cannot parse.
            self.enforce_csrf(request._request)  # type: ignore[arg-type]
        except PermissionDenied:
            raise errors.Forbidden("the CSRF token is missing or wrong", code="csrf") from None
        return None, key


class JsonOnly(BaseContentNegotiation):
    """The API speaks JSON, whatever the caller says that it accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return no parser: bodies are decoded strictly by the endpoint."""
        return None

    def select_renderer(
        self,
        request: Request,
        renderers: Any,
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """Return JSON."""
        return JSONRenderer(), http.JSON


def handle_exception(error: Exception, context: dict[str, Any]) -> HttpResponse:
    """Answer what a view did not expect; `Resource` answers for itself."""
    return endpoint.problem_response(endpoint.refusal_of(error), "")


def _target(request: Request) -> str:
    """Return the path with its query as it was sent."""
    scope = getattr(request._request, "scope", None)
    if scope is not None:
        return http.target(scope)
    return str(request._request.get_full_path())
