"""Signatures of requests, for keys that are bound to an Ed25519 public key.

A signature covers the time, the method, the path with its query exactly as sent, and the body, and
each is taken once. So every attempt is signed anew, and no two with the same millisecond. The time
is the caller's own, which must be within 5 s of the exchange's.
"""

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

KEY_BYTES = 32


class Signer:
    """Signs with a private key: 32 bytes, their base64, or a PEM text."""

    def __init__(
        self,
        private_key: bytes | str,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Load the key.

        :raises ValueError: when it is no Ed25519 private key.
        :raises ImportError: when the extra `signing` was not installed.
        """
        try:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ed25519
        except ImportError as error:
            said = "signing needs cryptography: pip install 'clients/python[signing]'"
            raise ImportError(said) from error

        data = private_key.encode() if isinstance(private_key, str) else private_key
        if data.lstrip().startswith(b"-----"):
            loaded = serialization.load_pem_private_key(data, password=None)
            if not isinstance(loaded, ed25519.Ed25519PrivateKey):
                raise ValueError("the private key is not of the kind Ed25519")
            self._key = loaded
        else:
            raw = data if len(data) == KEY_BYTES else base64.b64decode(data, validate=True)
            self._key = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
        self._clock_ms = clock_ms
        self._last_ms = 0
        self._lock = threading.Lock()

    @classmethod
    def from_file(cls, path: str | Path) -> "Signer":
        """Load the key from a PEM file."""
        return cls(Path(path).read_bytes())

    @property
    def public_key(self) -> str:
        """The public key in base64, as `create_api_key` takes it."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """Return the headers that sign a request; `target` is its path and query as sent."""
        with self._lock:
            self._last_ms = max(self._clock_ms(), self._last_ms + 1)
            timestamp = str(self._last_ms)
        digest = hashlib.sha256(body).hexdigest()
        message = f"{timestamp}\n{method}\n{target}\n{digest}".encode()
        return {
            "Baseload-Timestamp": timestamp,
            "Baseload-Signature": base64.b64encode(self._key.sign(message)).decode(),
        }
