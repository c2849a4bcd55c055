"""The OpenAPI document over REST."""

from typing import Any

from marketplace import openapi
from marketplace.endpoint import Call, Endpoint


class ShowSchema(Endpoint):
    """The OpenAPI document of everything here."""

    tag = "document"
    Output = dict[str, Any]

    def handle(self, call: Call) -> dict[str, Any]:
        """Answer."""
        return openapi.document()
