"""Forms that move money or capacity are carried out once, however often they are sent.

A form carries an idempotency key that was made with the page, so a reload, a double click or a
second submission after a lost answer finds what the first one did. The record is the same one that
REST keeps: written in the transaction of the effect.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from django.db import connection, transaction

from marketplace import clock, errors, models


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Whose form it is, its key, and what it asks for."""

    organization: int
    idempotency_key: str
    what: str
    terms: str

    @property
    def fingerprint(self) -> bytes:
        """What tells the same form sent again from another one with its key."""
        return hashlib.sha256(f"page {self.what}\n{self.terms}".encode()).digest()


def perform(request: PageRequest, effect: Callable[[], str]) -> str:
    """Do `effect` in a transaction, at most once for the key, and return its reference.

    :raises KeyReuse: when the key came before with another form.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO marketplace_idempotencyrecord
                    (organization_id, key, fingerprint, reference, created_at)
                VALUES (%s, %s, %s, '', %s)
                ON CONFLICT ON CONSTRAINT idempotency_key_is_single DO NOTHING
                """,
                [
                    request.organization,
                    request.idempotency_key,
                    request.fingerprint,
                    clock.now(),
                ],
            )
            is_new = cursor.rowcount == 1
        record = models.IdempotencyRecord.objects.get(
            organization_id=request.organization, key=request.idempotency_key
        )
        if is_new:
            record.reference = effect()
            record.save(update_fields=["reference"])
    if bytes(record.fingerprint) != request.fingerprint:
        raise errors.KeyReuse("this form was sent before with other values; load the page again")
    return record.reference
