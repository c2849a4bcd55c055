"""What anybody can conclude from receipts, proofs and heads, given public keys and nothing else.

The documents are the bodies of `receipts/{id}`, `receipts/proof`, `receipts/consistency` and
`receipts/heads`. Nothing here asks the exchange: whoever kept the root's public key can tell a
receipt that was left out of the log, or a log that was rewritten, from ones that were not.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from admission import merkle, receipts
from admission.receipts import Invalid
from marketplace import contract, errors, wire

FIRST = "0" * 64
"""What the first receipt of a flow names as the one before it."""
_BROKEN = {"shed", "refused", "failed"}


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A signed head: root in hexadecimal, signature in base64, an instant as RFC 3339."""

    at: str
    size: int
    root: str
    signing_key: str
    signature: str


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's key as the root has certified it; key and certificate are base64."""

    id: str
    gateway: str
    public_key: str
    certificate: str
    valid_from: str
    valid_until: str | None


class Inclusion(msgspec.Struct, frozen=True, kw_only=True):
    """The proof that a leaf is in the tree of a head; hashes are hexadecimal."""

    hash: str
    leaf: str
    index: int
    path: tuple[str, ...]
    head: Head
    issuer: Issuer | None
    """Of the leaf of a receipt."""


class Consistency(msgspec.Struct, frozen=True, kw_only=True):
    """The proof that the tree of one head begins with that of another."""

    old: Head
    new: Head
    path: tuple[str, ...]


def read(text: str | bytes, kind: type[Any]) -> Any:
    """Return the document of a kind.

    :raises Invalid: when it is not one.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{kind.__name__.lower()}: {error}") from None


def verify_head(head: Head, root_key: bytes) -> None:
    """:raises Invalid: when the head was not signed with the root key."""
    if head.signing_key != receipts.key_id(root_key):
        raise Invalid("the head names another key")
    message = receipts.head_message(size=head.size, root=_hash(head.root), at=_instant(head.at))
    receipts.require_signature(root_key, _base64(head.signature), message)


def verify_issuer(issuer: Issuer, root_key: bytes, *, interval_starts_at: int) -> bytes:
    """Return the key of a gateway that might issue receipts of an interval (us).

    :raises Invalid: when the root did not certify it, or not for then.
    """
    public_key, valid_from = _base64(issuer.public_key), _instant(issuer.valid_from)
    if issuer.id != receipts.key_id(public_key):
        raise Invalid("the issuer's id is not its key's")
    message = receipts.certificate_message(
        public_key=public_key, gateway=issuer.gateway, valid_from=valid_from
    )
    receipts.require_signature(root_key, _base64(issuer.certificate), message)
    if interval_starts_at + contract.INTERVAL <= valid_from:
        raise Invalid("the issuer's key was not valid yet")
    if issuer.valid_until is not None and interval_starts_at >= _instant(issuer.valid_until):
        raise Invalid("the issuer's key was no longer valid")
    return public_key


def verify_inclusion(proof: Inclusion, root_key: bytes, *, name: bytes) -> None:
    """:raises Invalid: when the proof does not show that the leaf of this hash is in the log."""
    verify_head(proof.head, root_key)
    if proof.hash != name.hex() or merkle.leaf_hash(proof.leaf.encode()) != name:
        raise Invalid("the proof is about another leaf")
    if not merkle.verify_inclusion(
        leaf=name,
        index=proof.index,
        size=proof.head.size,
        path=[_hash(each) for each in proof.path],
        root_hash=_hash(proof.head.root),
    ):
        raise Invalid("the leaf is not in the tree of the head")


def verify_receipt(receipt: receipts.Receipt, proof: Inclusion, root_key: bytes) -> bytes:
    """Return the hash of a receipt that a certified gateway issued and that the log contains.

    :raises Invalid: when that is not shown.
    """
    if proof.issuer is None or proof.issuer.id != receipt.issuer:
        raise Invalid("the proof is of another issuer")
    starts_at = receipt.public.get("interval_starts_at", "")
    if not (starts_at.isascii() and starts_at.isdecimal()):
        raise Invalid("the receipt does not say of which interval it is")
    key = verify_issuer(proof.issuer, root_key, interval_starts_at=int(starts_at))
    name = receipts.verify(receipt, key)
    verify_inclusion(proof, root_key, name=name)
    return name


def verify_consistency(proof: Consistency, root_key: bytes) -> None:
    """:raises Invalid: when the newer head does not continue the older one."""
    for head in (proof.old, proof.new):
        verify_head(head, root_key)
    if not merkle.verify_consistency(
        old=proof.old.size,
        new=proof.new.size,
        old_root=_hash(proof.old.root),
        new_root=_hash(proof.new.root),
        path=[_hash(each) for each in proof.path],
    ):
        raise Invalid("the newer head does not continue the older one")


def verify_heads(heads: Iterable[Head], root_key: bytes) -> None:
    """:raises Invalid: when two heads contradict each other without a proof being needed."""
    before: Head | None = None
    for head in sorted(heads, key=lambda head: _instant(head.at)):
        verify_head(head, root_key)
        if before is not None and head.size < before.size:
            raise Invalid(f"the log shrank from {before.size} to {head.size} leaves")
        if before is not None and head.size == before.size and head.root != before.root:
            raise Invalid(f"two heads of {head.size} leaves have different roots")
        before = head


# A holder's own chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the receipts of one flow show, in order of their sequence."""

    count: int
    omitted: tuple[int, ...]
    """Sequences below the last that nobody has shown."""
    in_profile: int
    broken: tuple[str, ...]
    """Requests in profile that were refused, failed, or served as another class than owed."""


def replay(found: Sequence[receipts.Receipt], keys: Mapping[str, bytes]) -> Chain:
    """Return what the receipts of one flow show, given the public keys by their ids.

    :raises Invalid: when one is not genuine, or two do not belong into one chain.
    """
    names: dict[int, str] = {}
    by_sequence: dict[int, receipts.Receipt] = {}
    for receipt in found:
        key = keys.get(receipt.issuer)
        if key is None:
            raise Invalid(f"the key {receipt.issuer} is not known")
        name = receipts.verify(receipt, key).hex()
        number = _number(receipt.private, "sequence")
        if names.setdefault(number, name) != name:
            raise Invalid(f"two receipts have the sequence {number}")
        by_sequence[number] = receipt
    flows = {_flow(receipt) for receipt in found}
    if len(flows) > 1:
        raise Invalid("the receipts are of several flows")
    broken = []
    in_profile = 0
    for number, receipt in sorted(by_sequence.items()):
        before = FIRST if number == 1 else names.get(number - 1)
        if before is not None and receipt.private.get("previous") != before:
            raise Invalid(f"receipt {number} does not continue the one before it")
        owed = receipt.private.get("class_owed", "")
        in_profile += bool(owed)
        public = receipt.public
        is_served = public.get("class_served") == owed and public.get("outcome") not in _BROKEN
        if owed and not is_served:
            broken.append(receipt.private.get("request", ""))
    last = max(by_sequence, default=0)
    return Chain(
        count=len(by_sequence),
        omitted=tuple(number for number in range(1, last) if number not in by_sequence),
        in_profile=in_profile,
        broken=tuple(broken),
    )


def _flow(receipt: receipts.Receipt) -> tuple[str, ...]:
    public, private = receipt.public, receipt.private
    return (
        private.get("organization", ""),
        public.get("grade", ""),
        public.get("pool", ""),
        public.get("class_requested", ""),
    )


def _number(part: receipts.Part, name: str) -> int:
    """:raises Invalid: when a field is not a whole number above zero."""
    text = part.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18) or int(text) == 0:
        raise Invalid(f"its {name} is not a number")
    return int(text)


def _hash(text: str) -> bytes:
    """:raises Invalid: when it is not a hash in hexadecimal."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        raise Invalid("a hash is not hexadecimal") from None
    if len(found) != merkle.HASH_BYTES:
        raise Invalid("a hash has another length")
    return found


def _base64(text: str) -> bytes:
    """:raises Invalid: when it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("a key or a signature is not base64") from None


def _instant(text: str) -> int:
    """:raises Invalid: when it is not an instant."""
    try:
        return wire.parse_time(text, "at")
    except errors.Malformed:
        raise Invalid("an instant is not RFC 3339") from None
