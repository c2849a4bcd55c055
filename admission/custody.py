"""The keys that receipts are issued with, and the root that vouches for them.

A gateway makes a key for itself when it starts and keeps it in memory only: what a process signed
stays signed, and nobody can sign in its name once it has gone. The root is derived from the
deployment's secret, as the key of seals is, and signs nothing but gateways' keys and heads of the
log. All public keys stay published.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import connection, transaction

from admission import models, receipts
from marketplace import clock
from settlement import models as clearing

GATEWAY = "gateway"
ROOT = "root"
_LABEL = b"baseload receipts root 1\0"


def root() -> Ed25519PrivateKey:
    """Return the deployment's root key."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_LABEL).derive(
        settings.SECRET_KEY.encode()
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
            _publish(receipts.public_bytes(root()), ROOT, at)
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


def _publish(public_key: bytes, purpose: str, at: int) -> None:
    """Put a key where all that sign for the exchange are listed."""
    clearing.SigningKey.objects.get_or_create(
        id=receipts.key_id(public_key),
        defaults={
            "public_key": public_key,
            "purpose": purpose,
            "valid_from": clock.to_datetime(at),
        },
    )
