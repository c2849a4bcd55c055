"""The API as a caller sees it: a client that speaks JSON, and organizations with keys."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from django.test import Client

from marketplace import models, operations
from settlement import instructions
from settlement import operations as settlement
from tests.market import GRADE, Market

_numbers = count(1)
_client = Client(raise_request_exception=False)


@dataclass
class Reply:
    """An answer, decoded."""

    status: int
    json: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return self.json["code"]

    @property
    def blamed(self) -> list[tuple[str, str]]:
        return [(error["field"], error["code"]) for error in self.json["errors"]]


@dataclass
class Api:
    """A caller with a key, or without one."""

    key: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **query: Any) -> Reply:
        return self.send("GET", path, query=query)

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Reply:
        """POST with a fresh idempotency key, unless one is given; "-" sends none."""
        given = f"k{next(_numbers)}" if key is None else key
        headers = {} if given == "-" else {"Idempotency-Key": given}
        return self.send("POST", path, body=body, headers=headers)

    def delete(self, path: str) -> Reply:
        return self.send("DELETE", path)

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        sent = dict(self.headers) | (headers or {})
        if self.key:
            sent.setdefault("Authorization", f"Bearer {self.key}")
        if body is None:
            data = b""
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = _client.generic(
            method,
            f"/api/v1/{path}",
            data,
            content_type=content_type,
            headers=sent,
            query_params=query or None,
        )
        return Reply(
            status=response.status_code,
            json=json.loads(response.content) if response.content else None,
            headers=dict(response.headers),
        )


@dataclass
class Party:
    """An organization with a key of all scopes, known to the machine."""

    organization: models.Organization
    api: Api

    @property
    def id(self) -> int:
        return self.organization.pk


@dataclass
class World:
    """The exchange with an engine that works while `running`."""

    market: Market

    def party(self, name: str, role: str = "BUYER", *, cash: int = 0) -> Party:
        organization = operations.open_organization(name=name, role=role)
        scopes = [*operations.ALL_SCOPES, *(["operate"] if role == "OPERATOR" else [])]
        made = operations.create_key(organization_id=organization.pk, scopes=scopes)
        if cash:
            settlement.instruct(
                id=f"test-deposit:{organization.pk}",
                command=instructions.Deposit(account=organization.pk, amount_micros=cash),
            )
        self.market.work()
        return Party(organization=organization, api=Api(key=made.text))

    def cluster(self, owner: Party, *, lots: int = 1_000) -> models.Cluster:
        """A cluster of the owner's, certified for the year."""
        cluster = models.Cluster.objects.create(
            organization=owner.organization,
            grade_id=GRADE,
            name="hall one",
            accelerator="H100",
            replicas=4,
            endpoint="http://127.0.0.1:1/v1",
            state=models.Cluster.State.REGISTERED,
            created_at="2026-12-01T00:00Z",
        )
        if lots:
            self.market.certify(owner.id, cluster.pk, lots)
        cluster.refresh_from_db()
        return cluster

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.market.running():
            yield
