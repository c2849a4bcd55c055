"""Issues the receipts of one gateway, in the commit that records what they are about.

A receipt is made when a request has come to its end, whatever the end: one that was refused when
its refusal is written, one that was admitted when its last totals are. It is signed with a key that
this process made for itself and that the deployment's root has certified; the private key is
nowhere else.

Each flow (organization, grade, cluster, class asked for) has its receipts numbered without gaps,
and each names the one before it, so that one that is withheld is missed. What was issued last is
kept here and taken over only when the commit has succeeded: `sign` is followed by `committed` or
`forget`, after which the database is asked again. Probes have no receipts.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from admission import receipts
from admission.metering import ReceiptRow, RequestRow, Row, UsageRow
from marketplace import contract

FLOWS_KEPT = 50_000
NAMES_KEPT = 20_000
FIRST = "0" * 64
"""What the first receipt of a flow names as the one before it."""

Flow = tuple[int, str, int, str]
"""Organization, grade, cluster, class asked for."""
_LAST = """
SELECT DISTINCT ON (organization_id, grade, cluster, class_requested)
    organization_id, grade, cluster, class_requested, sequence, hash
FROM admission_receipt
WHERE (organization_id, grade, cluster, class_requested) IN (
    SELECT organization_id, grade, cluster, class_requested FROM json_to_recordset(%s::json) AS f(
        organization_id bigint, grade text, cluster bigint, class_requested text))
ORDER BY organization_id, grade, cluster, class_requested, sequence DESC
"""
_ISSUED = "SELECT id::text, hash FROM admission_receipt WHERE id = ANY(%s::uuid[])"


class Notary:
    """Makes the receipts of what one writer commits."""

    def __init__(self, key: Ed25519PrivateKey, *, pool_name: Callable[[int], str]) -> None:
        self._key = key
        self._issuer = receipts.key_id(receipts.public_bytes(key))
        self._pool_name = pool_name
        self._admitted: dict[str, RequestRow] = {}
        self._last: OrderedDict[Flow, tuple[int, str]] = OrderedDict()
        self._issued: OrderedDict[str, str] = OrderedDict()
        self._is_unsure = False
        """Whether a commit's outcome is unknown: its receipts may be there or not."""
        self._new_admitted: dict[str, RequestRow] = {}
        self._new_last: dict[Flow, tuple[int, str]] = {}
        self._new: list[ReceiptRow] = []

    async def sign(
        self, connection: psycopg.AsyncConnection[Any], rows: Sequence[Row]
    ) -> list[ReceiptRow]:
        """Return the receipts that are due with these rows; `committed` or `forget` follows."""
        self._new_admitted, self._new_last, self._new = {}, {}, []
        ended = list(self._ended(rows))
        if self._is_unsure and ended:
            ended = await self._without_issued(connection, ended)
        await self._look_up(connection, {_flow(request) for request, _ in ended})
        for request, end in ended:
            self._new.append(self._issue(request, end))
        return self._new

    def committed(self) -> None:
        """Take over what was signed: it is durable."""
        self._admitted |= self._new_admitted
        for row in self._new:
            self._admitted.pop(row.id, None)
            self._issued[row.id] = row.hash
        for flow, last in self._new_last.items():
            self._last[flow] = last
            self._last.move_to_end(flow)
        while len(self._last) > FLOWS_KEPT:
            self._last.popitem(last=False)
        while len(self._issued) > NAMES_KEPT:
            self._issued.popitem(last=False)
        self._is_unsure = False

    def forget(self) -> None:
        """Forget what was issued last: the commit failed, or nobody knows whether it did."""
        self._last.clear()
        self._is_unsure = True

    def name(self, request_id: str) -> str:
        """Return the hash of a receipt that was issued a moment ago, or nothing."""
        return self._issued.pop(request_id, "")

    def _ended(self, rows: Sequence[Row]) -> Iterable[tuple[RequestRow, UsageRow | None]]:
        """Yield each request that has come to its end with these rows, and its last totals."""
        for row in rows:
            if isinstance(row, UsageRow):
                if row.state == "OPEN":
                    continue
                request = self._new_admitted.get(row.request_id)
                request = request or self._admitted.get(row.request_id)
                if request is not None:
                    yield request, row
            elif not row.is_probe:
                if row.outcome == "ADMITTED":
                    self._new_admitted[row.id] = row
                else:
                    yield row, None

    async def _without_issued(
        self,
        connection: psycopg.AsyncConnection[Any],
        ended: list[tuple[RequestRow, UsageRow | None]],
    ) -> list[tuple[RequestRow, UsageRow | None]]:
        """Leave out what has its receipt already."""
        cursor = await connection.execute(_ISSUED, ([request.id for request, _ in ended],))
        names = {found: bytes(name).hex() for found, name in await cursor.fetchall()}
        self._issued.update(names)
        for found in names:
            self._admitted.pop(found, None)
            self._new_admitted.pop(found, None)
        return [(request, end) for request, end in ended if request.id not in names]

    async def _look_up(self, connection: psycopg.AsyncConnection[Any], flows: set[Flow]) -> None:
        """Learn what was issued last in flows that this gateway does not remember."""
        unknown = [flow for flow in sorted(flows) if flow not in self._last]
        if not unknown:
            return
        fields = ("organization_id", "grade", "cluster", "class_requested")
        asked = [dict(zip(fields, flow, strict=True)) for flow in unknown]
        cursor = await connection.execute(_LAST, (msgspec.json.encode(asked).decode(),))
        for *flow, sequence, name in await cursor.fetchall():
            self._new_last[tuple(flow)] = (sequence, bytes(name).hex())

    def _issue(self, request: RequestRow, end: UsageRow | None) -> ReceiptRow:
        """Return the next receipt of a flow."""
        flow = _flow(request)
        sequence, previous = self._new_last.get(flow) or self._last.get(flow) or (0, FIRST)
        interval = request.arrived_at - request.arrived_at % contract.INTERVAL
        receipt, name = receipts.issue(
            self._key,
            issuer=self._issuer,
            public=_public(request, end, pool=self._pool_name(request.cluster), at=interval),
            private=_private(request, end, sequence=sequence + 1, previous=previous),
            salt=os.urandom(receipts.SALT_BYTES),
        )
        self._new_last[flow] = sequence + 1, name.hex()
        return ReceiptRow(
            id=request.id,
            hash=name.hex(),
            issuer=self._issuer,
            organization_id=request.organization_id,
            grade=request.grade,
            cluster=request.cluster,
            class_requested=request.class_requested,
            sequence=sequence + 1,
            interval_starts_at=interval,
            public=receipts.canonical(receipt.public).decode(),
            private=receipts.canonical(receipt.private).decode(),
            salt=receipt.salt.hex(),
            signature=receipt.signature.hex(),
        )


def _flow(request: RequestRow) -> Flow:
    return request.organization_id, request.grade, request.cluster, request.class_requested


def _public(request: RequestRow, end: UsageRow | None, *, pool: str, at: int) -> dict[str, str]:
    """Return what everybody may see of an outcome (RULEBOOK 8.2)."""
    return {
        "class_requested": request.class_requested.lower(),
        "class_served": request.class_served.lower(),
        "first_token_ms": _text(end.first_token_ms if end else None),
        "grade": request.grade,
        "interval_starts_at": str(at),
        "mntu": str(end.mntu if end else 0),
        "outcome": (end.state if end else request.outcome).lower(),
        "per_token_us": _text(end.per_token_us if end else None),
        "pool": pool,
        "queue_ms": str(request.queue_ms),
        "reason": request.reason.lower(),
    }


def _private(
    request: RequestRow, end: UsageRow | None, *, sequence: int, previous: str
) -> dict[str, str]:
    """Return what only holder and seller may see of it."""
    first_ms = end.first_token_ms if end else None
    return {
        "arrived_at": str(request.arrived_at),
        "body_digest": request.body_digest,
        "cached_tokens": str(end.cached_tokens if end else 0),
        "charge_mntu": str(request.charge_mntu),
        "class_owed": request.class_requested.lower() if request.is_in_profile else "",
        "first_byte_at": "" if first_ms is None else str(request.arrived_at + first_ms * 1_000),
        "key": request.key,
        "nonce": request.nonce,
        "organization": str(request.organization_id),
        "output_tokens": str(end.output_tokens if end else 0),
        "previous": previous,
        "prompt_tokens": str(end.prompt_tokens if end else 0),
        "request": request.id,
        "sequence": str(sequence),
    }


def _text(value: int | None) -> str:
    """Return a number as a receipt has it: nothing where there is none."""
    return "" if value is None else str(value)
