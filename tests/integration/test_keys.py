"""Keys in memory: what a ring takes, and that a revoked key is gone when the revocation answers."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import valkey as valkey_client
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.db import connection

from config import logs
from marketplace import clock as market_clock
from marketplace import errors, keys, models, operations

ALL = ("read", "trade", "transfer", "gateway")


def new_ring() -> keys.KeyRing:
    described = connection.settings_dict
    return keys.KeyRing(
        database_url=keys.conninfo.make_conninfo(
            dbname=described["NAME"],
            user=described["USER"] or None,
            password=described["PASSWORD"] or None,
            host=described["HOST"] or None,
            port=described["PORT"] or None,
        ),
        valkey_url=settings.VALKEY_URL,
        pepper=settings.KEY_PEPPER,
        deployment="demo",
    )


@pytest.fixture
def organization(transactional_db: None, valkey: valkey_client.Valkey) -> models.Organization:
    return models.Organization.objects.create(
        name="Northwind", skeleton="northwlnd", role="BUYER", group=4, created_at=market_clock.now()
    )


@pytest.fixture
def ring(organization: models.Organization) -> Iterator[keys.KeyRing]:
    ring = new_ring()
    ring.start()
    yield ring
    ring.stop()


def create(organization: models.Organization, **more) -> operations.NewKey:
    return operations.create_key(organization_id=organization.pk, scopes=ALL, **more)


def bearer(made: operations.NewKey) -> str:
    return f"Bearer {made.text}"


def test_a_ring_knows_a_key_as_soon_as_it_is_made(
    ring: keys.KeyRing, organization: models.Organization
) -> None:
    began_ns = market_clock.monotonic_ns()
    made = create(organization, default_class="P1", overflow="REJECT")
    assert market_clock.monotonic_ns() - began_ns < 1_500_000_000  # acknowledged, not waited out
    key = ring.authenticate(bearer(made))
    assert (key.id, key.organization, key.group, key.role) == (
        made.row.pk,
        organization.pk,
        4,
        "BUYER",
    )
    assert key.scopes == frozenset(ALL)
    assert (key.default_class, key.overflow) == ("P1", "REJECT")
    assert ring.find(made.row.pk) == key


def test_a_key_is_refused_for_any_other_secret(
    ring: keys.KeyRing, organization: models.Organization
) -> None:
    made, other = create(organization), create(organization)
    secret = made.text.rsplit("_", 1)[1]
    for text in (
        made.text[:-1],
        made.text + "0",
        made.text.upper(),
        made.text.replace("bl_demo_", "bl_live_"),
        f"bl_demo_{other.row.pk}_{secret}",
        f"bl_demo_{made.row.pk}",
        f"bl_demo__{secret}",
        secret,
        made.text + "é",
    ):
        with pytest.raises(keys.InvalidKey):
            ring.authenticate(f"Bearer {text}")
    for header in ("", "Basic abc", "Bearer", made.text):
        with pytest.raises(errors.Unauthenticated):
            ring.authenticate(header)


def test_the_database_holds_no_usable_key(
    ring: keys.KeyRing, organization: models.Organization
) -> None:
    made = create(organization)
    row = models.ApiKey.objects.get()
    secret = made.text.rsplit("_", 1)[1]
    assert bytes(row.digest) == keys.digest_of(settings.KEY_PEPPER, row.pk, secret)
    assert bytes(row.digest) != keys.digest_of("another pepper", row.pk, secret)
    assert secret not in repr(made)
    assert secret not in repr(ring.authenticate(bearer(made)))
    assert secret not in logs.redact(f"got {made.text}")


def test_a_revoked_key_is_taken_by_no_ring_once_the_revocation_answered(
    ring: keys.KeyRing, organization: models.Organization
) -> None:
    other = new_ring()
    other.start()
    try:
        made = create(organization)
        for one in (ring, other):
            assert one.authenticate(bearer(made)).id == made.row.pk
        began_ns = market_clock.monotonic_ns()
        operations.revoke_key(organization_id=organization.pk, key_id=made.row.pk)
        assert market_clock.monotonic_ns() - began_ns < 1_500_000_000
        for one in (ring, other):
            with pytest.raises(keys.InvalidKey):
                one.authenticate(bearer(made))
    finally:
        other.stop()


def test_no_request_that_starts_after_the_revocation_succeeds(
    ring: keys.KeyRing, organization: models.Organization
) -> None:
    made = create(organization)
    revoked, wrong = threading.Event(), []

    def ask(_: int) -> None:
        while not done.is_set():
            is_after = revoked.is_set()
            try:
                ring.authenticate(bearer(made))
            except keys.InvalidKey:
                return
            if is_after:
                wrong.append(1)

    done = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        operations.revoke_key(organization_id=organization.pk, key_id=made.row.pk)
        revoked.set()
        for one in asking:
            one.result(timeout=5)
        done.set()
    assert wrong == []


def test_a_ring_that_stopped_refreshing_is_waited_out(
    organization: models.Organization, valkey: valkey_client.Valkey
) -> None:
    ring = new_ring()
    made = create(organization)
    ring.refresh()
    assert ring.authenticate(bearer(made)).id == made.row.pk
    # It is never told, as a process that is suspended is not; its lease still stands.
    operations.revoke_key(organization_id=organization.pk, key_id=made.row.pk)
    with pytest.raises(keys.RingLapsed):
        ring.authenticate(bearer(made))
    ring.refresh()
    with pytest.raises(keys.InvalidKey):
        ring.authenticate(bearer(made))
    ring.stop()


def test_a_ring_refuses_when_it_could_not_load_for_its_lease(
    ring: keys.KeyRing, organization: models.Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(organization)
    now_ns = market_clock.monotonic_ns()
    monkeypatch.setattr(ring, "refresh", lambda: None)
    valid_until_ns = ring._snapshot.valid_until_ns
    assert valid_until_ns - now_ns <= keys.LEASE_S * 1e9
    monkeypatch.setattr(market_clock, "monotonic_ns", lambda: valid_until_ns)
    with pytest.raises(keys.RingLapsed):
        ring.authenticate(bearer(made))


def test_keys_are_checked_on_without_valkey(
    ring: keys.KeyRing, organization: models.Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(organization)

    def away(*_: object, **__: object) -> None:
        raise valkey_client.ConnectionError

    monkeypatch.setattr(ring._valkey, "set", away)
    ring.refresh()
    assert ring.authenticate(bearer(made)).id == made.row.pk


# Signatures


class Signer:
    """A caller with a private key."""

    def __init__(self, organization: models.Organization) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.made = create(organization, public_key=self.private.public_key().public_bytes_raw())

    def headers(
        self, method: str, target: str, body: bytes, skew_ms: int = 0
    ) -> list[tuple[bytes, bytes]]:
        timestamp = str(market_clock.system_micros() // 1_000 + skew_ms)
        signature = self.private.sign(keys.signed_message(timestamp, method, target, body))
        return [
            (b"Baseload-Timestamp", timestamp.encode()),
            (b"baseload-signature", base64.b64encode(signature)),
        ]


@pytest.fixture
def signer(ring: keys.KeyRing, organization: models.Organization) -> Signer:
    return Signer(organization)


def test_a_bound_key_needs_a_signature_of_exactly_this_request(
    ring: keys.KeyRing, signer: Signer
) -> None:
    target, body = "/api/v1/orders?x=%2F", b'{"quantity":1}'
    headers = signer.headers("POST", target, body)
    asked = {"method": "POST", "target": target, "body": body, "headers": headers}
    for change in (
        {"method": "PUT"},
        {"target": "/api/v1/orders?x=/"},
        {"target": "/api/v1/orders"},
        {"body": b'{"quantity":2}'},
        {"headers": headers[:1]},
        {"headers": [headers[0], (b"baseload-signature", b"AAAA")]},
        {"headers": [headers[0], (b"baseload-signature", b"!!")]},
        {"headers": [(b"baseload-timestamp", b"1e12"), headers[1]]},
        {"headers": []},
    ):
        with pytest.raises(keys.WrongSignature):
            ring.authenticate(bearer(signer.made), **(asked | change))
    assert ring.authenticate(bearer(signer.made), **asked).id == signer.made.row.pk


def test_a_signed_request_is_taken_once(
    ring: keys.KeyRing, signer: Signer, organization: models.Organization
) -> None:
    headers = signer.headers("GET", "/api/v1/account", b"")
    asked = {"method": "GET", "target": "/api/v1/account", "headers": headers}
    ring.authenticate(bearer(signer.made), **asked)
    with pytest.raises(keys.Replayed) as refused:
        ring.authenticate(bearer(signer.made), **asked)
    assert refused.value.status == 401
    other = new_ring()
    other.refresh()
    with pytest.raises(keys.Replayed):
        asyncio.run(other.authenticate_async(bearer(signer.made), **asked))
    other.stop()


def test_of_many_that_send_one_signed_request_one_is_taken(
    ring: keys.KeyRing, signer: Signer
) -> None:
    headers = signer.headers("GET", "/", b"")

    def send(_: int) -> bool:
        try:
            ring.authenticate(bearer(signer.made), headers=headers)
        except keys.Replayed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(32))) == 1


@pytest.mark.parametrize(("skew_ms", "taken"), [(4_000, True), (-4_000, True)])
def test_a_clock_that_is_four_seconds_off_is_taken(
    ring: keys.KeyRing, signer: Signer, skew_ms: int, taken: bool
) -> None:
    headers = signer.headers("GET", "/", b"", skew_ms=skew_ms)
    assert ring.authenticate(bearer(signer.made), headers=headers).id == signer.made.row.pk


@pytest.mark.parametrize("skew_ms", [6_000, -6_000])
def test_a_clock_that_is_six_seconds_off_is_told_the_time(
    ring: keys.KeyRing, signer: Signer, skew_ms: int
) -> None:
    headers = signer.headers("GET", "/", b"", skew_ms=skew_ms)
    with pytest.raises(keys.WrongSignature) as refused:
        ring.authenticate(bearer(signer.made), headers=headers)
    assert refused.value.code == "timestamp_outside_window"
    assert str(market_clock.system_micros() // 1_000_000)[:8] in refused.value.detail


def test_without_valkey_a_signed_request_is_not_believed(
    ring: keys.KeyRing, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise valkey_client.ConnectionError

    monkeypatch.setattr(ring._valkey, "set", away)
    with pytest.raises(errors.Unavailable):
        ring.authenticate(bearer(signer.made), headers=signer.headers("GET", "/", b""))


# Addresses


@pytest.mark.parametrize(
    ("bound_to", "address", "taken"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:db8::/32", "2001:db8::5", True),
        ("2001:db8::/32", "10.0.0.1", False),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "not an address", False),
    ],
)
def test_a_key_is_taken_from_its_addresses_only(
    ring: keys.KeyRing,
    organization: models.Organization,
    bound_to: str,
    address: str,
    taken: bool,
) -> None:
    made = create(organization, addresses=[bound_to])
    if taken:
        assert ring.authenticate(bearer(made), address=address).id == made.row.pk
    else:
        with pytest.raises(keys.AddressNotAllowed):
            ring.authenticate(bearer(made), address=address)


def test_versions_commit_in_order(organization: models.Organization) -> None:
    def make(_: int) -> int:
        try:
            with operations.transaction.atomic():
                return operations.insert_key(
                    organization_id=organization.pk, scopes=("read",)
                ).row.version
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        versions = sorted(pool.map(make, range(12)))
    assert versions == list(range(versions[0], versions[0] + 12))


def test_an_organization_has_a_limited_number_of_keys(
    organization: models.Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "KEYS_PER_ORGANIZATION_MAX", 1)
    create(organization)
    with pytest.raises(operations.TooManyKeys):
        create(organization)
    assert models.ApiKey.objects.count() == 1
