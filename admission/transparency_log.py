"""The log of receipts: what it takes in, the heads that are signed of it, and proofs about it.

Every five minutes a job takes in what waits and signs a head. Keys come first, so that a receipt
never stands before the key that it was issued with; then the public sides of receipts, sorted by
their hashes. A hash contains a salt that nobody can guess, so the order says nothing about who came
when, and everybody can see that nobody chose it (RULEBOOK 8.3).

Receipts of a pool's interval are taken in when it is over, if those that wait are of at least
`ACTIVE_MIN` organizations; all others wait for the first run after the hour is full. A receipt that
was issued late, as that of a long stream is, goes in with the next run by the same rule.

A head that shows a new size is an instruction to the machine, which notes it in the journal and
refuses a smaller log or a second root of one size (`settlement.instructions.AnchorReceipts`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from admission import custody, merkle, models, receipts
from marketplace import clock, contract
from settlement import instructions, operations
from settlement import models as clearing

ACTIVE_MIN = 3
ROWS_MAX = 5_000
"""Rows of one statement."""
_LEVELS = 64
_DUE = """
WITH active AS (
    SELECT cluster, interval_starts_at FROM admission_receiptwaiting
    WHERE interval_starts_at < %(ended)s
    GROUP BY cluster, interval_starts_at
    HAVING count(DISTINCT organization_id) >= %(active_min)s OR interval_starts_at < %(hourly)s)
SELECT receipt.id::text, receipt.hash, receipt.issuer, receipt.public, receipt.private,
    receipt.salt, receipt.cluster, receipt.interval_starts_at
FROM active
JOIN admission_receiptwaiting waiting USING (cluster, interval_starts_at)
JOIN admission_receipt receipt ON receipt.id = waiting.id
ORDER BY receipt.hash
"""
_NEW_KEYS = """
SELECT key.id, key.purpose, key.public_key, key.valid_from, coalesce(gateway.gateway, ''),
    coalesce(gateway.certificate, ''::bytea)
FROM settlement_signingkey key LEFT JOIN admission_gatewaykey gateway ON gateway.id = key.id
WHERE key.purpose IN ('gateway', 'root')
  AND NOT EXISTS (SELECT FROM admission_logleaf WHERE name = 'key:' || key.id)
ORDER BY key.valid_from, key.id
"""
_ENDED_KEYS = """
SELECT key.id, key.valid_until FROM settlement_signingkey key
WHERE key.purpose IN ('gateway', 'root') AND key.valid_until IS NOT NULL
  AND NOT EXISTS (SELECT FROM admission_logleaf WHERE name = 'end:' || key.id)
ORDER BY key.valid_until, key.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What the log is about to take in."""

    name: str
    content: bytes
    cluster: int = 0
    interval_starts_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A gateway's key, and until when it signs."""

    key: models.GatewayKey
    valid_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """That a leaf is in the tree of a head."""

    index: int
    leaf: str
    head: models.LogHead
    path: list[bytes]
    issuer: Issuer | None
    """Of the leaf of a receipt."""


class Altered(Exception):
    """A receipt that waits for the log is not the one that was issued."""


def grow(at: int) -> models.LogHead:
    """Take in what is due and sign a head of an instant (us), in the caller's transaction."""
    custody.publish_root(at)
    custody.end_silent(at)
    before = size()
    _append(before, [*_keys(), *_receipts(at)])
    return _sign(at)


def size() -> int:
    """Return how many leaves there are."""
    last = models.LogLeaf.objects.order_by("-id").values_list("id", flat=True).first()
    return 0 if last is None else last + 1


def root(of_size: int) -> bytes:
    """Return the root of the first leaves."""
    return merkle.root(of_size, _loaded([merkle.Span(0, of_size)]).__getitem__)


def inclusion(leaf_hash: bytes, *, of_size: int | None = None) -> Inclusion | None:
    """Return the proof that a leaf is under the head of a size, or the newest; None if it is not.

    None also where no head has the size.
    """
    leaf = models.LogLeaf.objects.filter(hash=leaf_hash).first()
    head = newest_head() if of_size is None else head_of(of_size)
    if leaf is None or head is None or leaf.pk >= head.size:
        return None
    spans = merkle.inclusion_spans(leaf.pk, head.size)
    path = merkle.proof(spans, _loaded(spans).__getitem__)
    issuer = _issuer(str(receipts.fields(leaf.leaf).get("issuer", "")))
    return Inclusion(index=leaf.pk, leaf=leaf.leaf, head=head, path=path, issuer=issuer)


def consistency(old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` leaves begins with that of `old` ones."""
    spans = merkle.consistency_spans(old, new)
    return merkle.proof(spans, _loaded(spans).__getitem__)


def heads(*, before: int | None, limit: int) -> list[models.LogHead]:
    """Return heads, the newest first, of before an instant (us)."""
    rows = models.LogHead.objects.order_by("-at")
    if before is not None:
        rows = rows.filter(at__lt=clock.to_datetime(before))
    return list(rows[:limit])


def leaves(
    *, after: int | None, limit: int, cluster: int | None = None, starts_at: int | None = None
) -> list[models.LogLeaf]:
    """Return leaves in their order, of a cluster or an interval (us), behind a place."""
    rows = models.LogLeaf.objects.order_by("id")
    if after is not None:
        rows = rows.filter(id__gt=after)
    if cluster is not None:
        rows = rows.filter(cluster=cluster)
    if starts_at is not None:
        rows = rows.filter(interval_starts_at=clock.to_datetime(starts_at))
    return list(rows[:limit])


def _issuer(key_id: str) -> Issuer | None:
    key = models.GatewayKey.objects.filter(id=key_id).first()
    if key is None:
        return None
    valid = clearing.SigningKey.objects.filter(id=key_id).values_list("valid_until", flat=True)
    return Issuer(key=key, valid_until=valid.first())


def newest_head() -> models.LogHead | None:
    """Return the last head that was signed."""
    return models.LogHead.objects.order_by("-at").first()


def head_of(of_size: int) -> models.LogHead | None:
    """Return the last head of a size."""
    return models.LogHead.objects.filter(size=of_size).order_by("-at").first()


# What is taken in


def key_leaf(
    *, purpose: str, public_key: bytes, valid_from: int, gateway: str, certificate: bytes
) -> bytes:
    """Return the leaf that says that a key is valid from an instant (us) on."""
    return receipts.canonical(
        {
            "certificate": certificate.hex(),
            "gateway": gateway,
            "key": public_key.hex(),
            "purpose": purpose,
            "valid_from": str(valid_from),
            "version": receipts.VERSION,
        }
    )


def end_leaf(*, key: str, valid_until: int) -> bytes:
    """Return the leaf that says that a key is valid until an instant (us)."""
    return receipts.canonical(
        {"ended": key, "valid_until": str(valid_until), "version": receipts.VERSION}
    )


def _keys() -> Iterable[Leaf]:
    """Yield what became of keys since the last time."""
    with connection.cursor() as cursor:
        cursor.execute(_NEW_KEYS)
        for key, purpose, public_key, valid_from, gateway, certificate in cursor.fetchall():
            content = key_leaf(
                purpose=purpose,
                public_key=bytes(public_key),
                valid_from=clock.to_micros(valid_from),
                gateway=gateway,
                certificate=bytes(certificate),
            )
            yield Leaf(name=f"key:{key}", content=content)
        cursor.execute(_ENDED_KEYS)
        for key, valid_until in cursor.fetchall():
            content = end_leaf(key=key, valid_until=clock.to_micros(valid_until))
            yield Leaf(name=f"end:{key}", content=content)


def _receipts(at: int) -> Iterable[Leaf]:
    """Yield the receipts that are due, in order of their hashes; they wait no longer.

    :raises Altered: when one of them is not what was issued.
    """
    hour = contract.hour_start(at)
    last = newest_head()
    is_first_of_hour = last is None or clock.to_micros(last.at) < hour
    ended = at - at % contract.INTERVAL
    with connection.cursor() as cursor:
        cursor.execute(
            _DUE,
            {
                "active_min": ACTIVE_MIN,
                "ended": clock.to_datetime(ended),
                "hourly": clock.to_datetime(hour if is_first_of_hour else 0),
            },
        )
        rows = cursor.fetchall()
    taken = []
    for name, leaf_hash, issuer, public, private, salt, cluster, starts_at in rows:
        sealed = receipts.sealed_bytes(private=private.encode(), salt=bytes(salt))
        content = receipts.leaf_of(issuer=issuer, public=receipts.part(public), sealed=sealed)
        if merkle.leaf_hash(content) != bytes(leaf_hash):
            raise Altered(f"receipt {name} is not what was issued")
        taken.append(name)
        yield Leaf(
            name=f"receipt:{name}",
            content=content,
            cluster=cluster,
            interval_starts_at=clock.to_micros(starts_at),
        )
    models.ReceiptWaiting.objects.filter(id__in=taken).delete()


def _append(before: int, leaves: Sequence[Leaf]) -> None:
    """Write leaves, and every subtree that they complete."""
    if not leaves:
        return
    known = _loaded([merkle.Span(0, before)]) if before else {}
    hashes = [merkle.leaf_hash(leaf.content) for leaf in leaves]
    nodes = merkle.appended(before, hashes, known.__getitem__)
    models.LogLeaf.objects.bulk_create(
        [
            models.LogLeaf(
                id=index,
                hash=leaf_hash,
                name=leaf.name,
                leaf=leaf.content.decode(),
                cluster=leaf.cluster,
                interval_starts_at=None
                if leaf.interval_starts_at is None
                else clock.to_datetime(leaf.interval_starts_at),
            )
            for index, (leaf, leaf_hash) in enumerate(zip(leaves, hashes, strict=True), before)
        ],
        batch_size=ROWS_MAX,
    )
    models.LogNode.objects.bulk_create(
        [
            models.LogNode(id=_node_id(node), hash=joined)
            for node, joined in nodes.items()
            if node.level
        ],
        batch_size=ROWS_MAX,
    )


def _sign(at: int) -> models.LogHead:
    """Sign and anchor the log as it is; a head of the instant that is there stays as it is."""
    known = models.LogHead.objects.filter(at=clock.to_datetime(at)).first()
    if known is not None:
        return known
    before = newest_head()
    of_size = size()
    digest = root(of_size)
    key = custody.root()
    head = models.LogHead.objects.create(
        at=clock.to_datetime(at),
        size=of_size,
        root=digest,
        signing_key=receipts.key_id(receipts.public_bytes(key)),
        signature=key.sign(receipts.head_message(size=of_size, root=digest, at=at)),
    )
    if before is None or before.size != of_size:
        operations.instruct(
            id=f"anchor:{at}",
            command=instructions.AnchorReceipts(size=of_size, root=digest.hex(), at=at),
        )
    return head


# Nodes


def _node_id(node: merkle.Node) -> int:
    return node.number * _LEVELS + node.level


def _loaded(spans: Iterable[merkle.Span]) -> dict[merkle.Node, bytes]:
    """Return the hashes of the complete nodes that spans are made of."""
    nodes = [node for span in spans if span.end > span.start for node in span.nodes()]
    leaves = [node.number for node in nodes if not node.level]
    above = {_node_id(node): node for node in nodes if node.level}
    found = {
        merkle.Node(0, index): bytes(leaf_hash)
        for index, leaf_hash in models.LogLeaf.objects.filter(id__in=leaves).values_list(
            "id", "hash"
        )
    }
    for number, joined in models.LogNode.objects.filter(id__in=above).values_list("id", "hash"):
        found[above[number]] = bytes(joined)
    return found
