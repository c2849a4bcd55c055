"""Receipts: one spelling, one key, and nothing that can be altered unseen."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from admission import receipts

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = receipts.public_bytes(KEY)
PUBLIC = {
    "class_requested": "P0",
    "class_served": "P0",
    "mntu": "9007199254740993",
    "outcome": "COMPLETED",
    "price_ticks": "1250",
}
PRIVATE = {"organization": "7", "nonce": "grüße ☂", "sequence": "12"}


def issued() -> tuple[receipts.Receipt, bytes]:
    return receipts.issue(
        KEY,
        issuer=receipts.key_id(PUBLIC_KEY),
        public=PUBLIC,
        private=PRIVATE,
        salt=bytes(receipts.SALT_BYTES),
    )


def text(change: Callable[[dict[str, Any]], None] = lambda document: None) -> str:
    document = receipts.document(issued()[0])
    change(document)
    return json.dumps(document)


def test_a_receipt_verifies_with_the_public_key_alone() -> None:
    receipt, name = issued()
    assert receipts.verify(receipts.parse(text()), PUBLIC_KEY) == name
    assert receipt.leaf() == (
        b'{"issuer":"56475aa75463474c0285df5dbf2bcab7",'
        b'"private":"' + receipts.sealed(private=PRIVATE, salt=bytes(32)).encode() + b'",'
        b'"public":{"class_requested":"P0","class_served":"P0","mntu":"9007199254740993",'
        b'"outcome":"COMPLETED","price_ticks":"1250"},"version":"1"}'
    )


def test_the_order_of_fields_is_nobody_s_business() -> None:
    def reverse(document: dict[str, Any]) -> None:
        for part in ("public", "private"):
            document[part] = dict(reversed(document[part].items()))
        turned = dict(reversed(document.items()))
        document.clear()
        document.update(turned)

    assert receipts.verify(receipts.parse(text(reverse)), PUBLIC_KEY) == issued()[1]


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("public", "mntu", "9007199254740992"),
        ("public", "price_ticks", "1251"),
        ("public", "class_served", "P3"),
        ("public", "added", ""),
        ("private", "sequence", "13"),
        ("private", "organization", "8"),
    ],
)
def test_whatever_is_altered_is_found(part: str, name: str, value: str) -> None:
    receipt = receipts.parse(text(lambda document: document[part].update({name: value})))
    with pytest.raises(receipts.Invalid, match="the signature is not the key's"):
        receipts.verify(receipt, PUBLIC_KEY)


def test_another_key_s_signature_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = receipts.public_bytes(other)
    with pytest.raises(receipts.Invalid, match="it names another key"):
        receipts.verify(issued()[0], public)
    forged = text(lambda document: document.update(issuer=receipts.key_id(public)))
    with pytest.raises(receipts.Invalid, match="the signature is not the key's"):
        receipts.verify(receipts.parse(forged), public)


@pytest.mark.parametrize("number", [1, 1.5, 2**53 + 1, True, None, ["1"]])
def test_only_strings_are_in_a_receipt(number: object) -> None:
    with pytest.raises(receipts.Invalid):
        receipts.parse(text(lambda document: document["public"].update(mntu=number)))
    with pytest.raises(receipts.NotCanonical):
        receipts.canonical({"mntu": number})


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "null",
        '"receipt"',
        '{"version":"1"}',
        text(lambda document: document.update(more="x")),
        text(lambda document: document.update(version="2")),
        text(lambda document: document.update(salt="00")),
        text(lambda document: document.update(salt="zz")),
        text(lambda document: document.update(signature="!")),
        text(lambda document: document.update(public="x")),
        text()[:-1] + ',"version":"1"}',
        "[" * 5_000,
        " " * 20_000,
    ],
)
def test_what_is_no_receipt_is_refused(broken: str) -> None:
    with pytest.raises(receipts.Invalid):
        receipts.parse(broken)


def test_fields_whose_texts_run_together_have_different_hashes() -> None:
    one = receipts.canonical({"a": "x|b", "c": "d"})
    other = receipts.canonical({"a": "x", "b": "c|d"})
    assert one != other
    assert receipts.canonical({"a": 'b","c":"d'}) != receipts.canonical({"a": "b", "c": "d"})


@given(st.dictionaries(st.text(st.characters(codec="ascii")), st.text()))
def test_canonical_json_is_json_and_has_one_spelling(value: dict[str, str]) -> None:
    spelled = receipts.canonical(value)
    assert json.loads(spelled) == value
    assert receipts.canonical(dict(reversed(value.items()))) == spelled


def test_characters_are_escaped_as_rfc_8785_does() -> None:
    assert receipts.canonical({"a": "\u20ac$\x0f\nA'B\"\\/\x7f\u2028"}) == (
        '{"a":"\u20ac$\\u000f\\nA\'B\\"\\\\/\x7f\u2028"}'.encode()
    )


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(receipts.NotCanonical):
        receipts.canonical({"a": "\ud800"})


def test_a_private_part_is_known_by_its_salt_only() -> None:
    one = receipts.sealed(private=PRIVATE, salt=bytes(32))
    assert one != receipts.sealed(private=PRIVATE, salt=bytes(31) + b"\x01")
