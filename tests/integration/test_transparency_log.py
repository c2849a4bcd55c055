"""The log of receipts: who is taken in when, in what order, and what is proven and refused."""

import asyncio
import base64
import json
import uuid

import msgspec
import pytest
from django.db import DatabaseError, connection, transaction

from admission import (
    custody,
    evidence,
    merkle,
    metering,
    models,
    notary,
    receipts,
    transparency_log,
)
from marketplace import clock as market_clock
from marketplace import contract, wire
from settlement import instructions
from settlement import models as clearing
from tests.rest import Api

pytestmark = pytest.mark.django_db(transaction=True)

INTERVAL, MINUTE = contract.INTERVAL, market_clock.MINUTE
HOUR = contract.hour_start(1_800_000_000_000_000)


@pytest.fixture(autouse=True)
def _then(clock) -> None:
    clock.set("2027-01-15T08:00Z")
    assert market_clock.now_micros() == HOUR


def issue(*requests: tuple[int, int], cluster: int = 1) -> list[models.Receipt]:
    """Issue refusals of (organization, minute of the hour) and return their receipts."""
    writer = metering.Writer(
        metering.connection_parameters(),
        notary.Notary(custody.new_key(f"g{uuid.uuid4().hex[:8]}"), pool_name=lambda number: "pool"),
    )
    ids = [str(uuid.uuid4()) for _ in requests]

    async def run() -> None:
        await writer.start()
        for name, (organization, minute) in zip(ids, requests, strict=True):
            await writer.admit(
                metering.RequestRow(
                    id=name, organization_id=organization, key="key", grade="G", cluster=cluster,
                    class_requested="P1", class_served="", outcome="SHED", reason="NO_CAPACITY",
                    charge_mntu=5, body_digest="00" * 16, is_probe=False,
                    arrived_at=HOUR + minute * MINUTE, queue_ms=0, gateway="g",
                )
            )  # fmt: skip
        await writer.close()

    asyncio.run(run())
    found = {str(row.pk): row for row in models.Receipt.objects.filter(id__in=ids)}
    return [found[name] for name in ids]


def grow(minute: int) -> models.LogHead:
    with transaction.atomic():
        return transparency_log.grow(HOUR + minute * MINUTE)


def logged() -> list[str]:
    """Return the ids of the receipts in the log, in its order."""
    names = models.LogLeaf.objects.filter(name__startswith="receipt:").order_by("id")
    return [name.removeprefix("receipt:") for name in names.values_list("name", flat=True)]


def test_three_organizations_are_taken_in_after_the_interval_and_fewer_after_the_hour() -> None:
    crowd = issue((1, 0), (2, 1), (3, 4), (1, 2))
    pair = issue((1, 6), (2, 7))
    running = issue((1, 10), (2, 10), (3, 10))
    grow(10)
    assert sorted(logged()) == sorted(str(row.pk) for row in crowd)
    grow(15)
    assert sorted(logged()) == sorted(str(row.pk) for row in (*crowd, *running))
    grow(55)
    assert len(logged()) == 7
    grow(60)
    assert sorted(logged()) == sorted(str(row.pk) for row in (*crowd, *pair, *running))
    assert not models.ReceiptWaiting.objects.exists()


def test_organizations_are_counted_in_each_pool_apart() -> None:
    issue((1, 0), (2, 0), cluster=1)
    issue((3, 0), cluster=2)
    grow(5)
    assert logged() == []


def test_an_hour_that_nobody_ran_at_is_made_up_by_the_first_run_after_it() -> None:
    issue((1, 59))
    grow(55)
    grow(65)
    assert len(logged()) == 1
    issue((1, 58))
    grow(70)
    assert len(logged()) == 1
    grow(120)
    assert len(logged()) == 2


def test_leaves_stand_in_the_order_of_their_hashes_which_is_not_that_of_arrival() -> None:
    rows = issue(*((number % 4, number % 5) for number in range(24)))
    grow(5)
    by_hash = sorted(rows, key=lambda row: bytes(row.hash))
    assert logged() == [str(row.pk) for row in by_hash]
    assert by_hash != rows


def test_a_head_is_signed_by_the_root_and_anchored_once_for_each_size() -> None:
    issue((1, 0), (2, 0), (3, 0))
    first, second, third = grow(5), grow(10), grow(10)
    root = receipts.public_bytes(custody.root())
    for head in (first, second):
        message = receipts.head_message(
            size=head.size, root=bytes(head.root), at=market_clock.to_micros(head.at)
        )
        receipts.require_signature(root, bytes(head.signature), message)
        assert head.signing_key == receipts.key_id(root)
    assert (first.size, bytes(first.root)) == (second.size, bytes(second.root))
    assert third.at == second.at
    (anchor,) = clearing.Instruction.objects.all()
    assert instructions.decode(bytes(anchor.body)) == instructions.AnchorReceipts(
        size=5, root=bytes(first.root).hex(), at=HOUR + INTERVAL
    )
    hashes = [bytes(row.hash) for row in models.LogLeaf.objects.order_by("id")]
    assert bytes(first.root) == naive_root(hashes)


def naive_root(hashes: list[bytes]) -> bytes:
    """Return RFC 6962's root, by its definition."""
    if len(hashes) == 1:
        return hashes[0]
    width = 1
    while 2 * width < len(hashes):
        width *= 2
    return merkle.node_hash(naive_root(hashes[:width]), naive_root(hashes[width:]))


def test_every_leaf_is_proven_in_every_head_and_every_head_continues_every_other() -> None:
    sizes = []
    for number in range(4):
        issue(*((organization, 5 * number) for organization in range(3 + number)))
        sizes.append(grow(5 * number + 5).size)
    assert sizes == sorted(set(sizes))
    for of_size in sizes:
        root = bytes(transparency_log.head_of(of_size).root)
        for leaf in models.LogLeaf.objects.filter(id__lt=of_size):
            found = transparency_log.inclusion(bytes(leaf.hash), of_size=of_size)
            assert merkle.verify_inclusion(
                leaf=merkle.leaf_hash(found.leaf.encode()), index=leaf.pk, size=of_size,
                path=found.path, root_hash=root,
            )  # fmt: skip
        for new in (size for size in sizes if size >= of_size):
            assert merkle.verify_consistency(
                old=of_size, new=new, old_root=root,
                new_root=bytes(transparency_log.head_of(new).root),
                path=transparency_log.consistency(of_size, new),
            )  # fmt: skip
    last = models.LogLeaf.objects.get(id=sizes[-1] - 1)
    assert transparency_log.inclusion(bytes(last.hash), of_size=sizes[0]) is None
    assert transparency_log.inclusion(bytes(32)) is None


def test_keys_are_leaves_before_what_they_signed_and_so_are_their_ends(settings) -> None:
    issue((1, 0))
    gateway = models.GatewayKey.objects.get()
    grow(60)
    custody.end_gateway(gateway.gateway)
    settings.RECEIPTS_SECRET = "another secret, of at least 32 characters"
    grow(65)
    root, key, receipt, *rotated = map(
        json.loads, models.LogLeaf.objects.order_by("id").values_list("leaf", flat=True)
    )
    assert (root["purpose"], key["purpose"]) == ("root", "gateway")
    assert key["key"] == bytes(gateway.public_key).hex()
    assert receipt["issuer"] == gateway.id
    assert sorted(each.get("ended", each.get("purpose")) for each in rotated) == sorted(
        [gateway.id, receipts.key_id(bytes.fromhex(root["key"])), "root"]
    )
    last = transparency_log.newest_head()
    assert last.signing_key == receipts.key_id(receipts.public_bytes(custody.root()))
    assert clearing.SigningKey.objects.filter(valid_until=None).count() == 1


def test_the_key_of_a_gateway_that_fell_silent_ends(clock) -> None:
    issue((1, 0))
    (gateway,) = models.GatewayKey.objects.all()
    models.Heartbeat.objects.create(
        gateway=gateway.gateway, interval_starts_at=market_clock.to_datetime(HOUR + 5 * INTERVAL)
    )
    keys = clearing.SigningKey.objects.filter(purpose="gateway", valid_until=None)
    grow(85)
    assert keys.count() == 1
    grow(90)
    assert keys.count() == 0


def test_the_log_cannot_be_changed_and_a_head_signed_twice_is_one() -> None:
    issue((1, 0), (2, 0), (3, 0))
    grow(5)
    for change in (
        "DELETE FROM admission_logleaf WHERE id = 1",
        "UPDATE admission_logleaf SET id = 9 WHERE id = 1",
        "UPDATE admission_lognode SET hash = ''",
        "UPDATE admission_loghead SET root = ''",
    ):
        with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
            connection.cursor().execute(change)


def test_a_receipt_that_was_altered_before_it_was_taken_in_stops_the_log() -> None:
    (row,) = issue((1, 0))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE admission_receipt DISABLE TRIGGER append_only")
        cursor.execute(
            'UPDATE admission_receipt SET public = replace(public, \'"mntu":"0"\', \'"mntu":"1"\')'
        )
        cursor.execute("ALTER TABLE admission_receipt ENABLE TRIGGER append_only")
    with pytest.raises(transparency_log.Altered, match=str(row.pk)):
        grow(60)
    assert models.ReceiptWaiting.objects.count() == 1


# Over REST


def test_everything_of_the_log_is_public_and_is_verified_with_the_root_s_key() -> None:
    row, *_ = issue((1, 0), (2, 0), (3, 0))
    old = grow(5)
    issue((1, 5), (2, 5), (3, 5))
    new = grow(10)
    api = Api()
    published = api.get("keys").json["results"]
    (root,) = [base64.b64decode(key["public_key"]) for key in published if key["purpose"] == "root"]

    got = api.get("receipts/proof", hash=bytes(row.hash).hex())
    proof = evidence.read(json.dumps(got.json), evidence.Inclusion)
    receipt = receipts.Receipt(
        issuer=row.issuer, public=json.loads(row.public), private=json.loads(row.private),
        salt=bytes(row.salt), signature=bytes(row.signature),
    )  # fmt: skip
    assert evidence.verify_receipt(receipt, proof, root) == bytes(row.hash)
    assert (proof.head.size, new.size) == (9, 9)
    small = api.get("receipts/proof", hash=bytes(row.hash).hex(), size=old.size).json
    assert small["head"]["size"] == old.size

    between = api.get("receipts/consistency", **{"from": old.size, "to": new.size}).json
    evidence.verify_consistency(evidence.read(json.dumps(between), evidence.Consistency), root)

    heads = api.get("receipts/heads").json["results"]
    assert [head["size"] for head in heads] == [new.size, old.size]
    evidence.verify_heads((msgspec.convert(head, evidence.Head) for head in heads), root)
    page = api.get("receipts/heads", limit=1).json
    assert api.get("receipts/heads", limit=1, cursor=page["next_cursor"]).json["results"] == [
        heads[1]
    ]


def test_the_public_side_of_receipts_is_listed_by_interval_and_says_nothing_of_anybody() -> None:
    first = issue((1, 0), (2, 0), (3, 0))
    issue((1, 5), (2, 5), (3, 5))
    grow(10)
    api = Api()
    starts_at = wire.time_text(HOUR)
    rows = api.get("receipts/leaves", interval=starts_at).json["results"]
    assert sorted(row["hash"] for row in rows) == sorted(bytes(one.hash).hex() for one in first)
    for row in rows:
        assert merkle.leaf_hash(row["leaf"].encode()).hex() == row["hash"]
        assert json.loads(row["leaf"]).keys() == {"issuer", "private", "public", "version"}
    everything = api.get("receipts/leaves").json["results"]
    assert [row["index"] for row in everything] == list(range(9))
    page = api.get("receipts/leaves", limit=4).json
    later = api.get("receipts/leaves", limit=9, cursor=page["next_cursor"]).json["results"]
    assert later == everything[4:]


def test_what_is_not_in_the_log_is_not_found_and_what_is_no_hash_is_refused() -> None:
    api = Api()
    for path, query, status in (
        ("receipts/proof", {"hash": "00" * 32}, 404),
        ("receipts/proof", {"hash": "AB" * 32}, 400),
        ("receipts/proof", {}, 400),
        ("receipts/consistency", {"from": 1, "to": 2}, 404),
        ("receipts/consistency", {"from": 2, "to": 1}, 400),
        ("receipts/leaves", {"pool": str(uuid.UUID(int=4))}, 404),
        ("receipts/leaves", {"pool": "x"}, 404),
        ("receipts/leaves", {"interval": "yesterday"}, 400),
    ):
        assert api.get(path, **query).status == status, (path, query)
    assert api.get("receipts/heads").json["results"] == []
