"""The keys that receipts are issued with, and the root that vouches for them.

A gateway makes a key for itself when it starts and keeps it in memory only: what a process signed
stays signed, and nobody can sign in its name once it has gone. The root is made of a secret of its
own, `RECEIPTS_SECRET`, and signs nothing but gateways' keys and heads of the log. All public keys
stay published with their validity, and each of its ends becomes a leaf of the log: a gateway's key
is valid until the gateway stops, or until it has not been heard of for `SILENCE`; the root key
until it is rotated, which is done by giving the processes another secret.
"""

from collections.abc import Iterable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from admission import models, receipts
from marketplace import clock
from settlement import models as clearing

GATEWAY = "gateway"
ROOT = "root"
SILENCE = clock.HOUR
"""A gateway that left no heartbeat for so long signs nothing more."""
_LABEL = b"baseload receipts root 1\0"


def root() -> Ed25519PrivateKey:
    """Return the deployment's root key."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_LABEL).derive(
        settings.RECEIPTS_SECRET.encode()
    )
    return Ed25519PrivateKey.from_private_bytes(seed)


def new_key(gateway: str) -> Ed25519PrivateKey:
    """Return a new key for a gateway, certified by the root and published."""
    key, at = Ed25519PrivateKey.generate(), clock.now_micros()
    public = receipts.public_bytes(key)
    certificate = root().sign(
        receipts.certificate_message(public_key=public, gateway=gateway, valid_from=at)
    )
    try:
        with transaction.atomic():
            publish_root(at)
            _publish(public, GATEWAY, at)
            models.GatewayKey.objects.create(
                id=receipts.key_id(public),
                gateway=gateway,
                public_key=public,
                certificate=certificate,
                valid_from=clock.to_datetime(at),
            )
    finally:
        connection.close()
    return key


def publish_root(at: int) -> str:
    """Publish the root key, which ends the one before it, where it is not; return its id."""
    public = receipts.public_bytes(root())
    if _publish(public, ROOT, at):
        others = clearing.SigningKey.objects.filter(purpose=ROOT, valid_until=None)
        others.exclude(id=receipts.key_id(public)).update(valid_until=clock.to_datetime(at))
    return receipts.key_id(public)


def end_gateway(gateway: str) -> None:
    """End the validity of a gateway's key: it has stopped."""
    try:
        ids = models.GatewayKey.objects.filter(gateway=gateway).values_list("id", flat=True)
        _end(ids, clock.now_micros())
    finally:
        connection.close()


def end_silent(at: int) -> None:
    """End the keys of gateways that have not been heard of."""
    since = clock.to_datetime(at - SILENCE)
    beats = models.Heartbeat.objects.filter(
        gateway=OuterRef("gateway"), interval_starts_at__gte=since
    )
    silent = models.GatewayKey.objects.filter(~Exists(beats), valid_from__lt=since)
    valid = clearing.SigningKey.objects.filter(purpose=GATEWAY, valid_until=None)
    _end(silent.filter(id__in=valid.values_list("id", flat=True)).values_list("id", flat=True), at)


def _end(ids: Iterable[str], at: int) -> None:
    clearing.SigningKey.objects.filter(id__in=list(ids), valid_until=None).update(
        valid_until=clock.to_datetime(at)
    )


def _publish(public_key: bytes, purpose: str, at: int) -> bool:
    """Put a key where all that sign for the exchange are listed; return whether it is new there."""
    _, is_new = clearing.SigningKey.objects.get_or_create(
        id=receipts.key_id(public_key),
        defaults={
            "public_key": public_key,
            "purpose": purpose,
            "valid_from": clock.to_datetime(at),
        },
    )
    return is_new
