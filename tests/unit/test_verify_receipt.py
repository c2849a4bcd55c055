"""The command that verifies receipts: what it prints, and that it believes nobody."""

import base64
import json
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command

from admission import receipts
from tests.unit.test_evidence import (
    LEAVES,
    MINE,
    NAME,
    PUBLIC,
    ROOT_PUBLIC,
    chain,
    consistency,
    inclusion,
)

KEY = base64.b64encode(PUBLIC).decode()
ROOT_KEY = base64.b64encode(ROOT_PUBLIC).decode()


def verify(*found: Path, **options: Any) -> str:
    printed = StringIO()
    call_command("verify_receipt", *map(str, found), stdout=printed, **options)
    return printed.getvalue()


def receipt_file(folder: Path, receipt: receipts.Receipt, name: str = "receipt") -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(receipts.document(receipt)))
    return path


def test_a_receipt_is_genuine_and_in_the_log_by_the_root_s_key_alone(tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    proof.write_bytes(msgspec.json.encode(inclusion(LEAVES, 2)))
    assert verify(
        receipt_file(tmp_path, MINE), proof=str(proof), root_key=ROOT_KEY
    ).splitlines() == [
        f"genuine: {NAME.hex()}",
        "in the log: leaf 2 of 6, head of 2027-01-15T08:00:00.000000Z",
    ]
    proof.write_bytes(msgspec.json.encode(inclusion(LEAVES, 3)))
    with pytest.raises(CommandError, match="not genuine: the proof is about another leaf"):
        verify(receipt_file(tmp_path, MINE), proof=str(proof), root_key=ROOT_KEY)
    proof.write_text("{}")
    with pytest.raises(CommandError, match="not genuine: inclusion: Object missing"):
        verify(receipt_file(tmp_path, MINE), proof=str(proof), root_key=ROOT_KEY)


def test_two_heads_are_consistent_or_not(tmp_path: Path) -> None:
    path = tmp_path / "consistency.json"
    path.write_bytes(msgspec.json.encode(consistency(LEAVES[:3], LEAVES)))
    printed = verify(consistency=str(path), root_key=ROOT_KEY)
    assert printed == "consistent: the log of 6 leaves begins with that of 3\n"
    path.write_bytes(msgspec.json.encode(consistency(LEAVES[1:4], LEAVES)))
    with pytest.raises(CommandError, match="not genuine: the newer head does not continue"):
        verify(consistency=str(path), root_key=ROOT_KEY)


def test_a_chain_is_replayed(tmp_path: Path) -> None:
    found = chain({}, {}, {"public": {"outcome": "shed", "class_served": ""}})
    first, last = (receipt_file(tmp_path, found[number], name=str(number)) for number in (0, 2))
    assert verify(first, last, key=[KEY]).splitlines()[2:] == [
        "chain: 2 receipts, 2 in profile",
        "omitted: 2",
        "broken promises: r3",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "name the --key"),
        ({"proof": "proof.json"}, "need --root-key"),
        ({"key": [ROOT_KEY]}, "not genuine: it names another key"),
        ({"key": ["!"]}, "the key is not base64"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        verify(receipt_file(tmp_path, MINE), **options)
    with pytest.raises(CommandError, match="name a receipt"):
        verify()
