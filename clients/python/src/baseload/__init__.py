"""A typed client of Baseload, the exchange for inference capacity.

`Client` and `AsyncClient` speak REST, `Stream` the WebSocket, `Book` keeps a book from it. The
guide is docs/client.md; `baseload.models` has what comes back, `baseload.errors` what can go wrong.
"""

from baseload.book import Book
from baseload.client import AsyncClient, Client
from baseload.conversation import Policy
from baseload.errors import ApiError, BaseloadError, OutcomeUnknown, TransportError
from baseload.signing import Signer
from baseload.stream import Message, Stream
from baseload.terms import Amend, Cancel, NewOrder, NewStrip

__version__ = "0.1.0"
__all__ = [
    "Amend",
    "ApiError",
    "AsyncClient",
    "BaseloadError",
    "Book",
    "Cancel",
    "Client",
    "Message",
    "NewOrder",
    "NewStrip",
    "OutcomeUnknown",
    "Policy",
    "Signer",
    "Stream",
    "TransportError",
    "__version__",
]
