"""Order entry as a caller reaches it in a test: keys, and requests over its ASGI interface."""

import asyncio
import itertools
import json

from django.conf import settings

from exchange.entry import Entry
from marketplace import clock as market_clock
from marketplace import keys
from marketplace.models import ApiKey, Organization
from tests.market import HOUR

LIMIT = {
    "instrument": HOUR,
    "side": "buy",
    "type": "limit",
    "price": "1.250",
    "quantity": 5,
    "client_order_id": "c1",
}

versions = itertools.count(1)
"""A ring loads the keys when their greatest version has changed."""


def key_of(organization: int, scopes: list[str]) -> str:
    """Give an organization a key."""
    Organization.objects.get_or_create(
        id=organization,
        defaults={
            "name": f"Organization {organization}",
            "skeleton": f"organization {organization}",
            "role": "BUYER",
            "created_at": market_clock.now(),
        },
    )
    issued = keys.issue(pepper=settings.KEY_PEPPER, deployment=settings.DEPLOYMENT)
    ApiKey.objects.create(
        id=issued.id,
        organization_id=organization,
        digest=issued.digest,
        scopes=scopes,
        version=next(versions),
        created_at=market_clock.now(),
    )
    return issued.text


async def call(
    app: Entry,
    method: str,
    path: str,
    key: str,
    body=None,
    query: str = "",
    content_type: str = "application/json",
):
    """Send one request and return (status, headers, decoded body)."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-type", content_type.encode()),
        ],
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict] = []

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


def talk(conversation, *, reply_timeout_s: float = 5.0):
    """Run a conversation with a started application."""

    async def run():
        app = Entry()
        await app.start(reply_timeout_s=reply_timeout_s)
        try:
            return await conversation(app)
        finally:
            await app.stop()

    return asyncio.run(run())


def place(key: str, **changes):
    async def conversation(app: Entry):
        return await call(app, "POST", "/api/v1/orders", key, {**LIMIT, **changes})

    return conversation
