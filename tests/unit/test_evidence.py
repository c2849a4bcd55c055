"""What public keys show of receipts, proofs and heads, and every way in which one might lie."""

import base64
import dataclasses
from collections.abc import Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from admission import evidence, merkle, receipts
from marketplace import wire

ROOT = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ROOT_PUBLIC = receipts.public_bytes(ROOT)
GATEWAY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
PUBLIC = receipts.public_bytes(GATEWAY)
AT = 1_800_000_000_000_000
"""The start of an hour."""
MINUTE = 60_000_000


def receipt(
    number: int = 1,
    previous: str = evidence.FIRST,
    *,
    at: int = AT,
    key: Ed25519PrivateKey = GATEWAY,
    public: dict[str, str] | None = None,
    private: dict[str, str] | None = None,
) -> tuple[receipts.Receipt, bytes]:
    return receipts.issue(
        key,
        issuer=receipts.key_id(receipts.public_bytes(key)),
        public={
            "class_requested": "p2",
            "class_served": "p2",
            "grade": "G",
            "interval_starts_at": str(at),
            "outcome": "completed",
            "pool": "pool",
            **(public or {}),
        },
        private={
            "class_owed": "p2",
            "nonce": "mine",
            "organization": "7",
            "previous": previous,
            "request": f"r{number}",
            "sequence": str(number),
            **(private or {}),
        },
        salt=bytes([number]) * 32,
    )


def issuer(**more: object) -> evidence.Issuer:
    certificate = ROOT.sign(
        receipts.certificate_message(public_key=PUBLIC, gateway="g", valid_from=AT - MINUTE)
    )
    fields = {
        "id": receipts.key_id(PUBLIC),
        "gateway": "g",
        "public_key": base64.b64encode(PUBLIC).decode(),
        "certificate": base64.b64encode(certificate).decode(),
        "valid_from": wire.time_text(AT - MINUTE),
        "valid_until": None,
    }
    return evidence.Issuer(**(fields | more))  # type: ignore[arg-type]


def root_of(leaves: Sequence[bytes]) -> bytes:
    nodes = merkle.appended(0, [merkle.leaf_hash(leaf) for leaf in leaves], {}.__getitem__)
    return merkle.root(len(leaves), nodes.__getitem__)


def head(leaves: Sequence[bytes], at: int = AT, key: Ed25519PrivateKey = ROOT) -> evidence.Head:
    root = root_of(leaves)
    signature = key.sign(receipts.head_message(size=len(leaves), root=root, at=at))
    return evidence.Head(
        at=wire.time_text(at),
        size=len(leaves),
        root=root.hex(),
        signing_key=receipts.key_id(receipts.public_bytes(key)),
        signature=base64.b64encode(signature).decode(),
    )


def inclusion(leaves: Sequence[bytes], index: int, **more: object) -> evidence.Inclusion:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    nodes = merkle.appended(0, hashes, {}.__getitem__)
    path = merkle.proof(merkle.inclusion_spans(index, len(leaves)), nodes.__getitem__)
    fields = {
        "hash": hashes[index].hex(),
        "leaf": leaves[index].decode(),
        "index": index,
        "path": tuple(each.hex() for each in path),
        "head": head(leaves),
        "issuer": issuer(),
    }
    return evidence.Inclusion(**(fields | more))  # type: ignore[arg-type]


def consistency(old: Sequence[bytes], new: Sequence[bytes]) -> evidence.Consistency:
    """The best that somebody who has the new log can show: its own proof between the sizes."""
    hashes = [merkle.leaf_hash(leaf) for leaf in new]
    nodes = merkle.appended(0, hashes, {}.__getitem__)
    spans = merkle.consistency_spans(len(old), len(new)) if len(old) < len(new) else []
    return evidence.Consistency(
        old=head(old),
        new=head(new, AT + MINUTE),
        path=tuple(each.hex() for each in merkle.proof(spans, nodes.__getitem__)),
    )


OTHERS = [b"a", b"b", b"c", b"d", b"e"]
MINE, NAME = receipt()
LEAVES = [*OTHERS[:2], MINE.leaf(), *OTHERS[2:]]


def test_a_receipt_its_issuer_and_its_place_are_shown_by_the_root_s_key_alone() -> None:
    assert evidence.verify_receipt(MINE, inclusion(LEAVES, 2), ROOT_PUBLIC) == NAME
    written = msgspec.json.encode(inclusion(LEAVES, 2))
    read = evidence.read(written, evidence.Inclusion)
    assert evidence.verify_receipt(MINE, read, ROOT_PUBLIC) == NAME


def refused(found: receipts.Receipt, proof: evidence.Inclusion, why: str) -> None:
    with pytest.raises(receipts.Invalid, match=why):
        evidence.verify_receipt(found, proof, ROOT_PUBLIC)


def test_a_leaf_that_was_dropped_from_the_log_has_no_proof() -> None:
    without = [leaf for leaf in LEAVES if leaf != MINE.leaf()]
    for index in range(len(without)):
        shown = inclusion(without, index)
        refused(MINE, shown, "another leaf")
        lied = msgspec.structs.replace(shown, hash=NAME.hex(), leaf=MINE.leaf().decode())
        refused(MINE, lied, "not in the tree")


def test_a_leaf_in_another_place_than_is_claimed_is_found() -> None:
    refused(MINE, msgspec.structs.replace(inclusion(LEAVES, 2), index=3), "not in the tree")


def test_a_receipt_with_another_nonce_or_of_another_organization_is_another_leaf() -> None:
    proof = inclusion(LEAVES, 2)
    for change in ({"nonce": "yours"}, {"organization": "8"}):
        forged = dataclasses.replace(MINE, private={**MINE.private, **change})
        refused(forged, proof, "the signature is not the key's")
        signed, _ = receipt(private=change)
        refused(signed, proof, "another leaf")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda leaves: leaves[:2] + leaves[3:], "does not continue"),
        (lambda leaves: [leaves[1], leaves[0], *leaves[2:]], "does not continue"),
        (lambda leaves: [*leaves[:2], b"swapped", *leaves[3:]], "does not continue"),
    ],
)
def test_a_log_that_dropped_reordered_or_swapped_a_leaf_does_not_continue_the_old_one(
    change, why: str
) -> None:
    honest = consistency(LEAVES, [*LEAVES, b"f", b"g"])
    evidence.verify_consistency(honest, ROOT_PUBLIC)
    with pytest.raises(receipts.Invalid, match=why):
        evidence.verify_consistency(consistency(LEAVES, [*change(LEAVES), b"f", b"g"]), ROOT_PUBLIC)


def test_two_heads_of_one_size_with_two_roots_are_found_and_so_is_a_log_that_shrank() -> None:
    evidence.verify_heads([head(LEAVES), head(LEAVES, AT + MINUTE)], ROOT_PUBLIC)
    forked = [*LEAVES[:-1], b"forked"]
    with pytest.raises(receipts.Invalid, match="two heads of 6 leaves have different roots"):
        evidence.verify_heads([head(LEAVES), head(forked, AT + MINUTE)], ROOT_PUBLIC)
    with pytest.raises(receipts.Invalid, match="does not continue"):
        evidence.verify_consistency(consistency(LEAVES, forked), ROOT_PUBLIC)
    with pytest.raises(receipts.Invalid, match="shrank from 6 to 5"):
        evidence.verify_heads([head(LEAVES[:5], AT + MINUTE), head(LEAVES)], ROOT_PUBLIC)


def test_a_head_that_the_root_did_not_sign_is_refused() -> None:
    with pytest.raises(receipts.Invalid, match="names another key"):
        evidence.verify_head(head(LEAVES, key=GATEWAY), ROOT_PUBLIC)
    lied = msgspec.structs.replace(head(LEAVES, key=GATEWAY), signing_key=head(LEAVES).signing_key)
    with pytest.raises(receipts.Invalid, match="signature"):
        evidence.verify_head(lied, ROOT_PUBLIC)
    larger = msgspec.structs.replace(head(LEAVES), size=7)
    with pytest.raises(receipts.Invalid, match="signature"):
        evidence.verify_head(larger, ROOT_PUBLIC)


def test_a_key_that_was_stolen_signs_nothing_after_it_was_rotated() -> None:
    rotated = issuer(valid_until=wire.time_text(AT + MINUTE))
    late, _ = receipt(at=AT + 5 * MINUTE)
    refused(
        late, inclusion([late.leaf()], 0, issuer=rotated), "the issuer's key was no longer valid"
    )
    back_dated, _ = receipt(2)
    shown = inclusion(LEAVES, 2, issuer=rotated)
    refused(back_dated, shown, "another leaf")
    early, _ = receipt(at=AT - 10 * MINUTE)
    refused(early, inclusion([early.leaf()], 0), "not valid yet")


def test_a_key_that_the_root_did_not_certify_issues_nothing() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    found, _ = receipt(key=stranger)
    public = base64.b64encode(receipts.public_bytes(stranger)).decode()
    own = issuer(id=found.issuer, public_key=public)
    refused(found, inclusion([found.leaf()], 0, issuer=own), "signature")
    refused(found, inclusion([found.leaf()], 0), "another issuer")


# A holder's own chain

KEYS = {receipts.key_id(PUBLIC): PUBLIC}


def chain(*changes: dict[str, dict[str, str]]) -> list[receipts.Receipt]:
    made = []
    previous = evidence.FIRST
    for number, change in enumerate(changes, start=1):
        one, name = receipt(number, previous, **change)  # type: ignore[arg-type]
        previous = name.hex()
        made.append(one)
    return made


def test_a_chain_tells_which_promises_were_broken() -> None:
    found = chain(
        {},
        {"public": {"outcome": "shed", "class_served": ""}},
        {"public": {"class_served": "p3"}},
        {"public": {"outcome": "shed", "class_served": ""}, "private": {"class_owed": ""}},
    )
    assert evidence.replay(found[::-1], KEYS) == evidence.Chain(
        count=4, omitted=(), in_profile=3, broken=("r2", "r3")
    )


def test_a_gap_proves_an_omission() -> None:
    found = chain({}, {}, {}, {})
    assert evidence.replay([found[0], found[3]], KEYS).omitted == (2, 3)


def test_a_chain_that_was_forked_reordered_or_mixed_is_refused() -> None:
    found = chain({}, {}, {})
    forked, _ = receipt(2, found[0].hash().hex(), private={"nonce": "forked"})
    for wrong, why in (
        ([*found, forked], "two receipts have the sequence 2"),
        ([found[0], forked, found[2]], "receipt 3 does not continue"),
        ([receipt(1, "ab" * 32)[0]], "receipt 1 does not continue"),
        ([found[0], receipt(3, private={"organization": "8"})[0]], "several flows"),
        ([receipt(0)[0]], "not a number"),
    ):
        with pytest.raises(receipts.Invalid, match=why):
            evidence.replay(wrong, KEYS)
    with pytest.raises(receipts.Invalid, match="is not known"):
        evidence.replay(found, {})
