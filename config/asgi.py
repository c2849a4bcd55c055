"""The web process: pages, REST and WebSocket as one ASGI application.

Order entry and the WebSocket are hot paths, each a small application beside Django; which path goes
where is decided here and nowhere else. Django serves everything else, static files included.
"""

import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application

# whitenoise hands Django a file to read, which is what static files are.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")

pages: Any = get_asgi_application()

from django.urls import get_resolver

from config import servable
from exchange import entry
from marketplace import gauges, http, stream

STREAM_PATH = "/ws/v1"

# Every view is imported now and not while the first caller waits.
assert get_resolver().url_patterns, "there are pages"


async def application(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
    """Hand a connection to the part that serves it."""
    match scope["type"]:
        case "lifespan":
            parts = (entry.application, stream.application)
            await servable.lifespan(parts, scope, receive, send)
        case "websocket":
            if scope["path"] == STREAM_PATH:
                await stream.application(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 4404})
        case "http":
            await _http(scope, receive, send)


async def _http(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
    """Serve one request."""
    path = scope["path"]
    if path == "/healthz":
        await servable.answer(send, 200, {"healthy": True})
    elif path == "/readyz":
        await servable.ready(send)
    elif path == "/metrics":
        await servable.metrics(send, await sync_to_async(gauges.text, thread_sensitive=False)())
    elif entry.serves(scope["method"], path):
        await servable.guarded("entry", entry.application, scope, receive, send)
    else:
        await servable.guarded("pages", pages, scope, receive, send)
