"""The reader of the API's document: every operation on one page, without scripts."""

from django.http import HttpRequest, HttpResponse

from marketplace import codes, openapi
from marketplace.views import shared


def reader(request: HttpRequest) -> HttpResponse:
    """Show the document."""
    return shared.page(
        request,
        "marketplace/api_docs.html",
        {
            "groups": openapi.groups(),
            "info": openapi.INFO,
            "codes": [
                {"code": code, "status": status, "meaning": meaning}
                for code, (status, meaning) in codes.CODES.items()
            ],
        },
    )
