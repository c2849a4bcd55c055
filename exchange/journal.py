"""How the journal is chained: the part of it that is arithmetic.

Each batch has a hash over the hash before it, its commands and its events, as the bytes that are
stored. Every field goes in behind its own length, so that no two different batches are the same
string of bytes: a joined hash would not tell ("ab", "c") from ("a", "bc").
"""

import hashlib
from collections.abc import Iterable

GENESIS_HASH = bytes(32)
"""What the first batch follows."""
_LENGTH_BYTES = 8


def batch_hash(previous: bytes, commands: bytes, events: bytes) -> bytes:
    """Return the hash of a batch, given the hash before it and its journaled bytes."""
    return fields_hash((previous, commands, events))


def fields_hash(fields: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of fields, each behind its length in eight bytes, big end first."""
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(_LENGTH_BYTES, "big"))
        digest.update(field)
    return digest.digest()
