"""Signed heads of chains: what the exchange said its ledger was, at an instant.

Whoever keeps a seal can prove later that history was rewritten, since every link's hash binds all
before it. Seals are Ed25519 signatures by a key derived from the deployment's secret; the public
keys stay published with their validity. The signed bytes are a label, the length-prefixed name of
the chain, the sequence, the instant (8 bytes each, big-endian, us) and the hash.
"""

import hashlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import transaction
from django.db.models import Max

from marketplace import clock
from settlement import models

LABEL = b"baseload seal 1\0"
PURPOSE = "seal"


def message(*, chain: str, sequence: int, at: int, digest: bytes) -> bytes:
    """Return the bytes that a seal signs."""
    name = chain.encode()
    return LABEL + struct.pack(">I", len(name)) + name + struct.pack(">qq", sequence, at) + digest


def is_valid(*, public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` is the key's over `signed`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(at: int) -> int:
    """Sign the heads that have moved since their last seal; return how many."""
    key = private_key()
    count = 0
    with transaction.atomic():
        signer = _published(key, at)
        for head in models.ChainHead.objects.order_by("chain"):
            if head.sequence == 0:
                continue
            signature = key.sign(
                message(chain=head.chain, sequence=head.sequence, at=at, digest=bytes(head.hash))
            )
            new = models.Seal.objects.bulk_create(
                [
                    models.Seal(
                        chain=head.chain,
                        sequence=head.sequence,
                        hash=head.hash,
                        signing_key=signer,
                        signature=signature,
                        at=clock.to_datetime(at),
                    )
                ],
                ignore_conflicts=True,
            )
            count += len(new)
    return count


def last_at() -> int:
    """Return when the chain that has gone without longest was last sealed; 0 for never."""
    sealed = dict(models.Seal.objects.values_list("chain").annotate(Max("at")))
    instants = [
        clock.to_micros(sealed[chain]) if chain in sealed else 0
        for chain in models.ChainHead.objects.filter(sequence__gt=0).values_list("chain", flat=True)
    ]
    return min(instants, default=0)


def private_key() -> Ed25519PrivateKey:
    """Return the deployment's key for seals."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=LABEL).derive(
        settings.SECRET_KEY.encode()
    )
    return Ed25519PrivateKey.from_private_bytes(seed)


def _published(key: Ed25519PrivateKey, at: int) -> models.SigningKey:
    """Return the row of the key, ending the validity of the one before it."""
    public = key.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    row, is_new = models.SigningKey.objects.get_or_create(
        id=hashlib.sha256(public).hexdigest()[:32],
        defaults={
            "public_key": public,
            "purpose": PURPOSE,
            "valid_from": clock.to_datetime(at),
        },
    )
    if is_new:
        models.SigningKey.objects.filter(purpose=PURPOSE, valid_until=None).exclude(
            id=row.id
        ).update(valid_until=clock.to_datetime(at))
    return row
