"""Verifies a receipt with a public key and nothing else: no database, no network, no secret.

The receipt is the body of `GET /api/v1/receipts/{id}`; the key is the `public_key` (base64) of its
issuer in `GET /api/v1/keys`.
"""

import base64
import binascii
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from admission import receipts


class Command(BaseCommand):
    """Prints the hash that the receipt is known by; the exit status is 1 when it is not genuine."""

    help = "Verify a receipt with the public key of its issuer."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the receipt and the key."""
        parser.add_argument("receipt", help="a file, or - for the standard input")
        parser.add_argument("--key", required=True, help="the issuer's public key, base64")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify it."""
        try:
            public_key = base64.b64decode(options["key"], validate=True)
        except (binascii.Error, ValueError):
            raise CommandError("the key is not base64") from None
        try:
            receipt = receipts.parse(_read(options["receipt"]))
            name = receipts.verify(receipt, public_key)
        except receipts.Invalid as error:
            raise CommandError(f"not genuine: {error}") from None
        self.stdout.write(f"genuine: {name.hex()}")


def _read(path: str) -> str:
    """Return the text of a file, no more of it than a receipt may have."""
    try:
        if path == "-":
            return sys.stdin.read(receipts.DOCUMENT_CHARS_MAX + 1)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(receipts.DOCUMENT_CHARS_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the receipt cannot be read: {error}") from None
