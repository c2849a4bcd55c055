"""Requests that move money or capacity happen once, however often they are sent.

The record of an idempotency key is written in the transaction of the effect, with a `reference` to
what the effect made; a retry that runs at the same time waits for that transaction at the unique
constraint. The answer is formed from the reference afterwards, because it may depend on what the
machine says of an instruction, and is kept as soon as it is known. So after a crash at any point
the retry finds either nothing, or the reference, or the answer.

A refusal by a rule is an answer too: the same key is refused alike for ever, whatever has changed.
A malformed request, a missing scope or an outage leaves no record.
"""

from collections.abc import Callable
from typing import Any

from django.db import connection, transaction

from marketplace import clock, errors, http, models
from marketplace.endpoint import Call, Replayable

FINAL_STATUSES = (409, 422)
"""Refusals that are kept as the answer."""


def once(
    call: Call,
    *,
    effect: Callable[[], str],
    finish: Callable[[str], tuple[int, Any]],
) -> Replayable:
    """Do `effect` at most once for the call's key and return its answer, kept or new.

    `effect` runs in a transaction and returns a reference to what it made; `finish` forms status
    and body from it, may wait, and may run again.

    :raises KeyReuse: when the key came before with another request.
    :raises Refusal: whatever the two raise that is not final.
    """
    record, is_new = _begin(call, effect)
    if record.body is None:
        status, body = _formed(call, record.reference, finish)
        models.IdempotencyRecord.objects.filter(pk=record.pk, body=None).update(
            status=status, body=body
        )
        record.refresh_from_db(fields=["status", "body"])
    assert record.status is not None, "an answer was kept"
    assert record.body is not None, "an answer was kept"
    return Replayable(status=record.status, body=bytes(record.body), is_replay=not is_new)


def _begin(call: Call, effect: Callable[[], str]) -> tuple[models.IdempotencyRecord, bool]:
    """Return the record of the call's key, made with the effect when there was none."""
    found = {"organization_id": call.organization, "key": call.idempotency_key}
    with transaction.atomic():
        is_new = _insert(call)
        record = models.IdempotencyRecord.objects.get(**found)
        if is_new:
            try:
                with transaction.atomic():
                    record.reference = effect()
            except errors.Refusal as refusal:
                if refusal.status not in FINAL_STATUSES:
                    raise
                record.status, _, record.body = http.problem(refusal, call.request_id)
            record.save(update_fields=["reference", "status", "body"])
    if bytes(record.fingerprint) != call.fingerprint:
        raise errors.KeyReuse()
    return record, is_new


def _insert(call: Call) -> bool:
    """Insert the record; False when there is one, once whoever writes it has committed."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO marketplace_idempotencyrecord
                (organization_id, key, fingerprint, reference, created_at)
            VALUES (%s, %s, %s, '', %s)
            ON CONFLICT ON CONSTRAINT idempotency_key_is_single DO NOTHING
            """,
            [call.organization, call.idempotency_key, call.fingerprint, clock.now()],
        )
        return bool(cursor.rowcount == 1)


def _formed(
    call: Call, reference: str, finish: Callable[[str], tuple[int, Any]]
) -> tuple[int, bytes]:
    """Return status and body of the answer; a final refusal is one."""
    try:
        status, answer = finish(reference)
    except errors.Refusal as refusal:
        if refusal.status not in FINAL_STATUSES:
            raise
        status, _, body = http.problem(refusal, call.request_id)
        return status, body
    return status, http.encode(answer)
