"""What a receipt is, to the byte, and how anybody checks one with nothing but public keys.

A receipt has a public part and a private part, both flat objects of strings: integers are written
as decimal strings, so that no reader rounds them. Its *leaf* is the canonical JSON (RFC 8785) of

    {"issuer": key id, "private": salted hash, "public": {...}, "version": "1"}

and the hash of that leaf in the log (`admission.merkle.leaf_hash`) is the receipt's name to the
world. The issuer signs it (Ed25519, behind a label of its own). The private part enters as
SHA-256 of a label, a 32-byte salt and its own canonical JSON: whoever is shown the public leaf
learns nothing of it, and whoever holds salt and private part can show that they belong to it.

Canonical JSON is the standard library's here: RFC 8785 differs from it in numbers, of which there
are none, and in the order of names beyond the Basic Multilingual Plane, and names are ASCII.
Anything else is refused, so a receipt has exactly one spelling.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from admission import merkle

VERSION = "1"
SALT_BYTES = 32
NONCE_BYTES_MAX = 64
DOCUMENT_CHARS_MAX = 16_384
_SIGNED = b"baseload receipt 1\0"
_SEALED = b"baseload receipt private 1\0"
_HEAD = b"baseload receipts head 1\0"
_KEY = b"baseload gateway key 1\0"

Part = Mapping[str, str]


class NotCanonical(ValueError):
    """Something that a receipt does not consist of: a number, a null, a name that is not ASCII."""


class Invalid(ValueError):
    """A receipt, a head or a certificate that does not verify; the message says why."""


def canonical(value: object) -> bytes:
    """Return objects of strings as RFC 8785 writes them.

    :raises NotCanonical: when there is anything else in it.
    """
    _require_strings(value)
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    except UnicodeEncodeError:
        raise NotCanonical("half of a surrogate pair") from None


def _require_strings(value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, dict):
        raise NotCanonical(f"{type(value).__name__} is neither an object nor a string")
    for name, each in value.items():
        if not isinstance(name, str) or not name.isascii():
            raise NotCanonical("a name is not ASCII")
        if type(each) is not str:
            _require_strings(each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A signed receipt in full, as its holder and its seller may have it."""

    issuer: str
    public: Part
    private: Part
    salt: bytes
    signature: bytes

    def leaf(self) -> bytes:
        """Return what the log holds of it."""
        return leaf_of(
            issuer=self.issuer,
            public=self.public,
            sealed=sealed(private=self.private, salt=self.salt),
        )

    def hash(self) -> bytes:
        """Return its name: the hash of its leaf."""
        return merkle.leaf_hash(self.leaf())


def sealed(*, private: Part, salt: bytes) -> str:
    """Return the salted hash of a private part, hexadecimal."""
    return sealed_bytes(private=canonical(private), salt=salt)


def sealed_bytes(*, private: bytes, salt: bytes) -> str:
    """Return the same of a private part that is written already."""
    return hashlib.sha256(_SEALED + salt + private).hexdigest()


def part(written: str) -> Part:
    """Return a part as it was written.

    :raises NotCanonical: when it is not an object of strings.
    """
    found = fields(written)
    _require_strings(found)
    return found


def fields(leaf: str) -> dict[str, Any]:
    """Return what stands in a leaf that the log holds.

    :raises NotCanonical: when it is not an object.
    """
    found = json.loads(leaf)
    if not isinstance(found, dict):
        raise NotCanonical("it is not an object")
    return found


def leaf_of(*, issuer: str, public: Part, sealed: str) -> bytes:
    """Return the leaf of a receipt, given the salted hash of its private part."""
    return canonical({"issuer": issuer, "private": sealed, "public": public, "version": VERSION})


def key_id(public_key: bytes) -> str:
    """Return what a public key is known by."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the raw public key of a private one."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def issue(
    key: Ed25519PrivateKey, *, issuer: str, public: Part, private: Part, salt: bytes
) -> tuple[Receipt, bytes]:
    """Return a signed receipt, and the hash that it is known by."""
    assert len(salt) == SALT_BYTES, "a salt that cannot be guessed"
    leaf = leaf_of(issuer=issuer, public=public, sealed=sealed(private=private, salt=salt))
    name = merkle.leaf_hash(leaf)
    signature = key.sign(_SIGNED + name)
    receipt = Receipt(issuer=issuer, public=public, private=private, salt=salt, signature=signature)
    return receipt, name


def verify(receipt: Receipt, public_key: bytes) -> bytes:
    """Return the hash of a receipt that was issued with the key.

    :raises Invalid: when it was not, or was altered since.
    """
    if receipt.issuer != key_id(public_key):
        raise Invalid("it names another key")
    try:
        name = receipt.hash()
    except NotCanonical as error:
        raise Invalid(str(error)) from None
    require_signature(public_key, receipt.signature, _SIGNED + name)
    return name


def require_signature(public_key: bytes, signature: bytes, signed: bytes) -> None:
    """:raises Invalid: when the signature is not the key's over these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise Invalid("the signature is not the key's") from None


# Heads, and the keys that the root has certified


def head_message(*, size: int, root: bytes, at: int) -> bytes:
    """Return the bytes that are signed for a head: so many leaves, their root, the instant (us)."""
    return _HEAD + canonical({"at": str(at), "root": root.hex(), "size": str(size)})


def certificate_message(*, public_key: bytes, gateway: str, valid_from: int) -> bytes:
    """Return the bytes by which the root certifies a gateway's key, from an instant (us) on."""
    return _KEY + canonical(
        {"gateway": gateway, "key": public_key.hex(), "valid_from": str(valid_from)}
    )


# As a document


def document(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as it is handed out."""
    return {
        "version": VERSION,
        "issuer": receipt.issuer,
        "public": dict(receipt.public),
        "private": dict(receipt.private),
        "salt": receipt.salt.hex(),
        "signature": base64.b64encode(receipt.signature).decode(),
    }


def parse(text: str) -> Receipt:
    """Return the receipt of a document, in whatever order its fields stand.

    :raises Invalid: when it is not one: a name twice, a number for a string, a field too many.
    """
    if len(text) > DOCUMENT_CHARS_MAX:
        raise Invalid("it is longer than any receipt")
    try:
        found = json.loads(text, object_pairs_hook=_object)
        _require_strings(found)
        if found.keys() != {"version", "issuer", "public", "private", "salt", "signature"}:
            raise Invalid("its fields are not those of a receipt")
        if found["version"] != VERSION:
            raise Invalid("its version is not known")
        for name in ("public", "private"):
            if not isinstance(found[name], dict):
                raise Invalid(f"its {name} part is not an object")
        salt = bytes.fromhex(found["salt"])
        signature = base64.b64decode(found["signature"], validate=True)
    except Invalid:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise Invalid(f"it is not a receipt: {error}") from None
    if len(salt) != SALT_BYTES:
        raise Invalid("its salt has the wrong length")
    return Receipt(
        issuer=found["issuer"],
        public=found["public"],
        private=found["private"],
        salt=salt,
        signature=signature,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are all different.

    :raises Invalid: when one stands there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid("a name stands there twice")
    return found
