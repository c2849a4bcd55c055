"""Who is calling: bearer keys, held in memory by every process that takes requests.

A key reads `bl_<live|demo>_<id>_<secret>`. The database holds a keyed digest of the secret, so that
a dump of it holds no usable key. Asking the database on every request would cost more than the
request, so each process has a `KeyRing`: a snapshot of all active keys, replaced when any key
changes. What a stale snapshot could let in is bounded by construction:

- A snapshot serves for `LEASE_S` seconds from the moment its loading began, and no longer: a ring
  that could not load for that long answers 503. So whoever revokes a key and waits `LEASE_S` after
  its commit has outlasted every snapshot that still held it.
- A ring tells Valkey which version it holds, under a lease of the same length. When every lease
  names the new version, and as many as PostgreSQL has sessions of rings, nobody is left to wait for
  and the revocation answers at once: a message on a channel makes that a few milliseconds.

The version of a key comes from a sequence taken under one lock, so versions commit in order and the
highest one seen means that all lower ones were seen too.

Signatures and their replay are judged by the system's clock and not by market time: the caller's
own clock does not move when a demo's market does.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import psycopg
import valkey
import valkey.asyncio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from psycopg import conninfo

from marketplace import clock, errors

SCOPES: Final = ("read", "trade", "transfer", "gateway", "operate")
LEASE_S = 2.0
REFRESH_S = 0.5
SIGNATURE_WINDOW_MS = 5_000
KEY_LENGTH_MAX = 200

CHANNEL = "keys:changed"
HOLDER_PREFIX = "keys:holder:"
REPLAY_PREFIX = "keys:replay:"
SESSION_NAME = "baseload keys"
"""`application_name` of a ring's session: how PostgreSQL knows how many rings there are."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
RawHeaders = Iterable[tuple[bytes, bytes]]

log = logging.getLogger(__name__)

_SNAPSHOT_SQL = """
    SELECT k.id, k.organization_id, coalesce(o."group", o.id), o.role, k.digest, k.scopes,
           k.default_class, k.overflow, k.public_key, k.addresses
    FROM marketplace_apikey k JOIN marketplace_organization o ON o.id = k.organization_id
    WHERE k.revoked_at IS NULL
"""
_VERSION_SQL = "SELECT coalesce(max(version), 0) FROM marketplace_apikey"
_SESSIONS_SQL = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = %s AND datname = current_database()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An active key and on whose behalf it speaks."""

    id: str
    organization: int
    group: int
    role: str
    scopes: frozenset[str]
    default_class: str = "P2"
    overflow: str = "SPILL"
    digest: bytes = field(default=b"", repr=False)
    public_key: Ed25519PublicKey | None = None
    networks: tuple[Network, ...] = ()

    def require(self, scope: str) -> None:
        """:raises MissingScope: when the key was not given `scope`."""
        if scope not in self.scopes:
            raise MissingScope(f"the key lacks the scope {scope}")


class InvalidKey(errors.Unauthenticated):
    """The key is unknown, revoked or wrong: the three look the same."""

    code, title = "invalid_key", "Invalid key"


class WrongSignature(errors.Unauthenticated):
    """The key asks for a signature, and it is missing, wrong or too old."""

    code, title = "invalid_signature", "Invalid signature"


class Replayed(errors.Unauthenticated):
    """A signed request was sent again."""

    code, title = "replayed", "Signed request was seen before"


class MissingScope(errors.Forbidden):
    """The key may not do this."""

    code, title = "missing_scope", "Missing scope"


class AddressNotAllowed(errors.Forbidden):
    """The key is bound to other addresses."""

    code, title = "address_not_allowed", "Address not allowed"


class RingLapsed(errors.Unavailable):
    """The process could not read the keys for `LEASE_S` seconds and believes none of them."""

    code, title = "keys_unavailable", "Keys cannot be checked now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new key: its text is shown once, its digest is stored."""

    id: str
    text: str = field(repr=False)
    digest: bytes = field(repr=False)


def issue(*, pepper: str, deployment: str) -> Issued:
    """Return a new random key of a deployment, `demo` or `production`."""
    key_id = secrets.token_hex(8)
    secret = secrets.token_hex(24)
    text = f"{prefix(deployment)}{key_id}_{secret}"
    return Issued(id=key_id, text=text, digest=digest_of(pepper, key_id, secret))


def prefix(deployment: str) -> str:
    """Return what the keys of a deployment begin with."""
    return "bl_demo_" if deployment == "demo" else "bl_live_"


def digest_of(pepper: str, key_id: str, secret: str) -> bytes:
    """Return what is stored of a key."""
    return hmac.digest(pepper.encode(), f"{key_id}:{secret}".encode(), "sha256")


def signed_message(timestamp: str, method: str, target: str, body: bytes) -> bytes:
    """Return what a bound key signs; `target` is the path and query exactly as they are sent."""
    digest = hashlib.sha256(body).hexdigest()
    return f"{timestamp}\n{method}\n{target}\n{digest}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """All active keys at a version; `valid_until_ns` is on the monotonic clock."""

    keys: Mapping[str, Key]
    version: int
    valid_until_ns: int


class KeyRing:
    """The active keys of a deployment, in the memory of one process.

    `start` loads them and keeps them fresh from a thread, so it serves asyncio and Django alike:
    looking a key up never waits. `authenticate` and `authenticate_async` differ only in how they
    ask Valkey whether a signed request was seen before; for keys without a signature neither asks.
    """

    def __init__(
        self,
        *,
        database_url: str,
        valkey_url: str,
        pepper: str,
        deployment: str,
        role: str = "",
    ) -> None:
        self._database_url = database_url
        self._options = f"-c role={role}" if role else ""
        self._valkey_url = valkey_url
        self._valkey = valkey.Valkey.from_url(
            valkey_url, socket_timeout=1.0, socket_connect_timeout=1.0
        )
        self._valkey_async: valkey.asyncio.Valkey | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop that `_valkey_async` belongs to."""
        self._pepper = pepper.encode()
        self._prefix = prefix(deployment)
        self._holder = HOLDER_PREFIX + secrets.token_hex(8)
        self._connection: psycopg.Connection[Any] | None = None
        self._snapshot = _Snapshot(keys={}, version=0, valid_until_ns=0)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # Life

    def start(self) -> None:
        """Load the keys and keep them fresh from a thread; safe to call again."""
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._try_refresh()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and give up the lease."""
        self._stopping.set()
        with contextlib.suppress(valkey.ValkeyError):
            self._valkey.publish(CHANNEL, 0)  # wakes the thread
        if self._thread is not None:
            self._thread.join(timeout=LEASE_S)
        with contextlib.suppress(valkey.ValkeyError):
            self._valkey.delete(self._holder)
        if self._connection is not None:
            self._connection.close()

    def is_ready(self) -> bool:
        """Whether keys can be checked now."""
        return clock.monotonic_ns() < self._snapshot.valid_until_ns

    def refresh(self) -> None:
        """Load the keys if any changed, and lengthen the lease.

        The lease is announced before the keys are read: a change that commits in between finds a
        holder with the old version and waits for it.
        """
        with self._lock:
            began_ns = clock.monotonic_ns()
            self._announce(self._snapshot.version)
            connection = self._connected()
            version = connection.execute(_VERSION_SQL).fetchone()[0]  # type: ignore[index]
            keys = self._snapshot.keys
            if version != self._snapshot.version or not self._snapshot.valid_until_ns:
                rows = connection.execute(_SNAPSHOT_SQL).fetchall()
                keys = {row[0]: _key(row) for row in rows}
            self._snapshot = _Snapshot(
                keys=keys,
                version=version,
                valid_until_ns=began_ns + int(LEASE_S * 1_000_000_000),
            )
            self._announce(version)

    def _announce(self, version: int) -> None:
        """Tell Valkey which version this ring holds; without Valkey, revocations wait instead."""
        with contextlib.suppress(valkey.ValkeyError):
            self._valkey.set(self._holder, version, px=int(LEASE_S * 1_000))

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._database_url,
                options=self._options,
                application_name=SESSION_NAME,
                autocommit=True,
                connect_timeout=2,
            )
        return self._connection

    def _try_refresh(self) -> None:
        try:
            self.refresh()
        except (psycopg.Error, OSError) as error:
            log.warning("the keys could not be read: %s", type(error).__name__)
            if self._connection is not None:
                self._connection.close()

    def _run(self) -> None:
        """Refresh on every message and at least every `REFRESH_S` seconds, until stopped."""
        client: Any = self._valkey
        channel = client.pubsub(ignore_subscribe_messages=True)
        while not self._stopping.is_set():
            try:
                if not channel.subscribed:
                    channel.subscribe(CHANNEL)
                channel.get_message(timeout=REFRESH_S)
            except (valkey.ValkeyError, OSError):
                self._stopping.wait(REFRESH_S)
            self._try_refresh()
        channel.close()

    # Requests

    def authenticate(
        self,
        authorization: str | bytes,
        *,
        address: str = "",
        method: str = "GET",
        target: str = "/",
        body: bytes = b"",
        headers: RawHeaders = (),
    ) -> Key:
        """Return the key of a request.

        `authorization` is the header's value, `address` the peer's own, `target` the path with its
        query as sent. `headers` are only read for keys that are bound to a public key.

        :raises Unauthenticated: no key, or one that is wrong or not signed as it must be.
        :raises Forbidden: the key may not be used from this address.
        :raises Unavailable: the keys, or the memory of signed requests, cannot be read.
        """
        key = self._find(authorization, address)
        if key.public_key is not None:
            seen = self._verify(key, method, target, body, headers)
            try:
                is_new = self._valkey.set(seen, b"1", nx=True, px=2 * SIGNATURE_WINDOW_MS + 1_000)
            except (valkey.ValkeyError, OSError):
                raise RingLapsed(retry_after_s=1) from None
            if not is_new:
                raise Replayed()
        return key

    async def authenticate_async(
        self,
        authorization: str | bytes,
        *,
        address: str = "",
        method: str = "GET",
        target: str = "/",
        body: bytes = b"",
        headers: RawHeaders = (),
    ) -> Key:
        """Return the key of a request, as `authenticate` does, without blocking the event loop."""
        key = self._find(authorization, address)
        if key.public_key is not None:
            seen = self._verify(key, method, target, body, headers)
            loop = asyncio.get_running_loop()
            if self._valkey_async is None or self._loop is not loop:
                self._loop = loop
                self._valkey_async = valkey.asyncio.Valkey.from_url(
                    self._valkey_url, socket_timeout=1.0
                )
            try:
                is_new = await self._valkey_async.set(
                    seen, b"1", nx=True, px=2 * SIGNATURE_WINDOW_MS + 1_000
                )
            except (valkey.ValkeyError, OSError):
                raise RingLapsed(retry_after_s=1) from None
            if not is_new:
                raise Replayed()
        return key

    def find(self, key_id: str) -> Key | None:
        """Return an active key by its public id, for connections that outlive a request.

        :raises Unavailable: when the keys cannot be read.
        """
        snapshot = self._snapshot
        if clock.monotonic_ns() >= snapshot.valid_until_ns:
            raise RingLapsed(retry_after_s=1)
        return snapshot.keys.get(key_id)

    def _find(self, authorization: str | bytes, address: str) -> Key:
        """Return the key that the header holds, if it may be used from `address`."""
        if isinstance(authorization, bytes):
            authorization = authorization.decode("latin-1")
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise errors.Unauthenticated("send Authorization: Bearer KEY")
        text = text.strip()
        key_id, _, secret = text.removeprefix(self._prefix).partition("_")
        if len(text) > KEY_LENGTH_MAX or not text.startswith(self._prefix) or not text.isascii():
            key_id = secret = ""
        key = self.find(key_id)
        # An unknown id costs as much time as a wrong secret.
        expected = key.digest if key is not None else _NOBODY
        given = hmac.digest(self._pepper, f"{key_id}:{secret}".encode(), "sha256")
        if not hmac.compare_digest(expected, given) or key is None:
            raise InvalidKey("the key is not valid")
        if key.networks and not _is_inside(address, key.networks):
            raise AddressNotAllowed("the key may not be used from this address")
        return key

    def _verify(self, key: Key, method: str, target: str, body: bytes, headers: RawHeaders) -> str:
        """Check the signature of a bound key and return under which name it counts as seen."""
        sent = {name.lower(): value.decode("latin-1") for name, value in headers}
        timestamp = sent.get(b"baseload-timestamp", "")
        signature = sent.get(b"baseload-signature", "")
        if not timestamp or not signature:
            raise WrongSignature("the key asks for Baseload-Timestamp and Baseload-Signature")
        now_ms = clock.system_micros() // 1_000
        is_number = len(timestamp) <= 15 and timestamp.isascii() and timestamp.isdigit()
        if not is_number or abs(now_ms - int(timestamp)) > SIGNATURE_WINDOW_MS:
            raise WrongSignature(
                f"the timestamp is more than {SIGNATURE_WINDOW_MS} ms from the server's {now_ms}",
                code="timestamp_outside_window",
            )
        message = signed_message(timestamp, method, target, body)
        assert key.public_key is not None, "only bound keys are verified"
        try:
            key.public_key.verify(base64.b64decode(signature, validate=True), message)
        except (binascii.Error, InvalidSignature):
            raise WrongSignature("the signature does not match the request") from None
        return REPLAY_PREFIX + hashlib.sha256(key.id.encode() + b"\n" + message).hexdigest()


class Connection(Protocol):
    """An open connection to the database: psycopg's, or Django's around it."""

    def cursor(self) -> Any:
        """Return a cursor that is a context manager."""


def announce_and_wait(*, version: int, valkey_url: str, connection: Connection) -> None:
    """Return when no process believes an older snapshot than `version`, which is committed.

    That is when every ring has acknowledged it, and otherwise `LEASE_S` after this call at the
    latest. `connection` is any open one to the database; it tells how many rings there are.
    """
    deadline_ns = clock.monotonic_ns() + int(LEASE_S * 1_000_000_000)
    client = valkey.Valkey.from_url(valkey_url, socket_timeout=1.0, socket_connect_timeout=1.0)
    pause_s = 0.002
    try:
        with contextlib.suppress(valkey.ValkeyError, OSError):
            client.publish(CHANNEL, version)
        while clock.monotonic_ns() < deadline_ns and not _is_seen(client, connection, version):
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _is_seen(client: "valkey.Valkey", connection: Connection, version: int) -> bool:
    """Whether every ring has acknowledged `version`; False whenever that cannot be told."""
    try:
        names = list(client.scan_iter(match=HOLDER_PREFIX + "*", count=1_000))
        values: Any = client.mget(names) if names else []
        held = [int(value) for value in values if value is not None]
    except (valkey.ValkeyError, OSError):
        return False
    with connection.cursor() as cursor:
        cursor.execute(_SESSIONS_SQL, [SESSION_NAME])
        sessions = cursor.fetchone()[0]
    return len(held) >= sessions and all(each >= version for each in held)


def parse_network(text: str) -> Network:
    """Return an address or network that a key is bound to.

    :raises ValueError: when it is neither.
    """
    return ipaddress.ip_network(text, strict=False)


def _is_inside(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        peer: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return any((mapped or peer) in network for network in networks)


def _key(row: tuple[Any, ...]) -> Key:
    """Return the key of a row of `_SNAPSHOT_SQL`."""
    public_key = None if row[8] is None else Ed25519PublicKey.from_public_bytes(bytes(row[8]))
    return Key(
        id=row[0],
        organization=row[1],
        group=row[2],
        role=row[3],
        digest=bytes(row[4]),
        scopes=frozenset(row[5]),
        default_class=row[6],
        overflow=row[7],
        public_key=public_key,
        networks=tuple(parse_network(text) for text in row[9]),
    )


_NOBODY = bytes(32)
_shared: KeyRing | None = None
_shared_lock = threading.Lock()


def shared_ring() -> KeyRing:
    """Return this process's ring, started on first use from Django's settings."""
    global _shared
    with _shared_lock:
        if _shared is None:
            from django.conf import settings
            from django.db import connection

            described = connection.settings_dict
            _shared = KeyRing(
                database_url=conninfo.make_conninfo(
                    dbname=described["NAME"],
                    user=described["USER"] or None,
                    password=described["PASSWORD"] or None,
                    host=described["HOST"] or None,
                    port=described["PORT"] or None,
                ),
                valkey_url=settings.VALKEY_URL,
                pepper=settings.KEY_PEPPER,
                deployment=settings.DEPLOYMENT,
                role=settings.DATABASE_ROLE,
            )
    _shared.start()
    return _shared


def close_shared_ring() -> None:
    """Stop this process's ring, if it was ever asked for."""
    global _shared
    with _shared_lock:
        ring, _shared = _shared, None
    if ring is not None:
        ring.stop()
