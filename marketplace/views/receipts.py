"""The page on which anybody verifies a receipt: the work is done in the browser, not here."""

import json
import uuid

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from admission import queries as admission_queries
from admission import receipts as admission_receipts
from marketplace.views import shared


@require_safe
@shared.public_page
def receipts(request: HttpRequest) -> HttpResponse:
    """Show the form; filled in with a receipt of one's own when its id is given."""
    wanted = request.GET.get("id", "").strip()
    document = ""
    member = shared.member_of(request)
    if wanted and member is not None and _is_id(wanted):
        found = admission_queries.receipt(wanted, organization=member.organization.pk)
        if found is not None:
            document = json.dumps(admission_receipts.document(found), indent=1)
    values = {
        "wanted": wanted,
        "document": document,
        "is_missing": bool(wanted) and not document,
        "is_member": member is not None,
    }
    return shared.page(request, "marketplace/receipts.html", values)


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
