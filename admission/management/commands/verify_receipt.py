"""Verifies receipts and the log with public keys and nothing else: no database, no network.

Each file is the body of an operation of `/api/v1/`: a receipt is that of `receipts/{id}`, `--proof`
that of `receipts/proof`, `--consistency` that of `receipts/consistency`. A key is the `public_key`
(base64) in `keys`: with `--proof` the root's is enough, because the proof has the certificate of
the gateway that issued the receipt; without, the issuer's own is needed. Several receipts are one
flow, and are replayed as its chain: what was omitted, and which promises were broken.
"""

import base64
import binascii
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from admission import evidence, receipts

PROOF_CHARS_MAX = 65_536


class Command(BaseCommand):
    """Prints what is shown; the exit status is 1 when something is not genuine."""

    help = "Verify receipts, their place in the log, and two heads of it, with public keys alone."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Name receipts, proofs and keys."""
        parser.add_argument("receipts", nargs="*", help="files, or - for the standard input")
        parser.add_argument(
            "--key", action="append", default=[], help="an issuer's public key, base64; repeatable"
        )
        parser.add_argument("--root-key", default="", help="the root's public key, base64")
        parser.add_argument("--proof", default="", help="that one receipt is in the log")
        parser.add_argument("--consistency", default="", help="that one head continues another")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify what was named."""
        found = options["receipts"]
        if not found and not options["consistency"]:
            raise CommandError("name a receipt, or --consistency")
        if options["proof"] and len(found) != 1:
            raise CommandError("--proof is about one receipt")
        if (options["proof"] or options["consistency"]) and not options["root_key"]:
            raise CommandError("--proof and --consistency need --root-key")
        if found and not options["proof"] and not options["key"]:
            raise CommandError("name the --key of the issuer, or a --proof with the --root-key")
        keys = {receipts.key_id(key): key for key in map(_key, options["key"])}
        try:
            read = [receipts.parse(_read(path, receipts.DOCUMENT_CHARS_MAX)) for path in found]
            if options["proof"]:
                self._verify_place(read[0], options["proof"], _key(options["root_key"]))
            elif read:
                self._verify_chain(read, keys)
            if options["consistency"]:
                self._verify_consistency(options["consistency"], _key(options["root_key"]))
        except receipts.Invalid as error:
            raise CommandError(f"not genuine: {error}") from None

    def _verify_place(self, receipt: receipts.Receipt, path: str, root_key: bytes) -> None:
        proof = evidence.read(_read(path, PROOF_CHARS_MAX), evidence.Inclusion)
        name = evidence.verify_receipt(receipt, proof, root_key)
        head = proof.head
        self.stdout.write(f"genuine: {name.hex()}")
        self.stdout.write(f"in the log: leaf {proof.index} of {head.size}, head of {head.at}")

    def _verify_chain(self, found: list[receipts.Receipt], keys: dict[str, bytes]) -> None:
        for receipt in found:
            key = keys.get(receipt.issuer)
            if key is None:
                raise receipts.Invalid("it names another key")
            self.stdout.write(f"genuine: {receipts.verify(receipt, key).hex()}")
        if len(found) > 1:
            chain = evidence.replay(found, keys)
            self.stdout.write(f"chain: {chain.count} receipts, {chain.in_profile} in profile")
            omitted = ", ".join(map(str, chain.omitted)) or "none"
            self.stdout.write(f"omitted: {omitted}")
            self.stdout.write(f"broken promises: {', '.join(chain.broken) or 'none'}")

    def _verify_consistency(self, path: str, root_key: bytes) -> None:
        proof = evidence.read(_read(path, PROOF_CHARS_MAX), evidence.Consistency)
        evidence.verify_consistency(proof, root_key)
        self.stdout.write(
            f"consistent: the log of {proof.new.size} leaves begins with that of {proof.old.size}"
        )


def _key(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CommandError("the key is not base64") from None


def _read(path: str, limit: int) -> str:
    """Return the text of a file, no more of it than a document may have."""
    try:
        if path == "-":
            return sys.stdin.read(limit + 1)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(limit + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"it cannot be read: {error}") from None
