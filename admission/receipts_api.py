"""The log of receipts over REST: heads, proofs, and the public side of every receipt.

All of it is public. What is needed to verify an answer is in it, but for the root's public key,
which is in `keys` and had better be kept from an earlier day.
"""

import base64
import re
import uuid
from typing import Annotated

import msgspec

from admission import evidence, models, queries, transparency_log
from marketplace import clock, errors, wire
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict

SIZE_MAX = 2**62
_HASH = re.compile("[0-9a-f]{64}")
HashText = Annotated[str, wire.described("0" * 64, pattern="^[0-9a-f]{64}$")]
SizeText = Annotated[str, wire.whole(1, SIZE_MAX)]


class ShowProof(Endpoint):
    """That a leaf is in the log: the path from its hash to the root of a signed head.

    Without `size` the head is the newest. The issuer is the gateway's key, certified by the root;
    it is null where the leaf is about a key.
    """

    tag = "transparency"
    codes = ("not_found",)
    Output = evidence.Inclusion

    class Query(Strict):
        """Hash of the leaf, hexadecimal, and how many leaves the head has."""

        hash: HashText
        size: SizeText | None = None

    def handle(self, call: Call) -> evidence.Inclusion:
        """Answer."""
        if _HASH.fullmatch(call.query.hash) is None:
            raise wire.invalid("hash", "invalid_value", "a hash has 64 lower case digits")
        leaf_hash = bytes.fromhex(call.query.hash)
        size = None
        if call.query.size is not None:
            size = wire.parse_whole(call.query.size, "size", low=1, high=SIZE_MAX)
        found = transparency_log.inclusion(leaf_hash, of_size=size)
        if found is None:
            raise errors.NotFound()
        return evidence.Inclusion(
            hash=call.query.hash,
            leaf=found.leaf,
            index=found.index,
            path=tuple(each.hex() for each in found.path),
            head=_head(found.head),
            issuer=_issuer(found.issuer),
        )


class ShowConsistency(Endpoint):
    """That the log of one head begins with that of an earlier one: nothing was taken out of it.

    `from` and `to` are the sizes of two heads.
    """

    tag = "transparency"
    codes = ("not_found",)
    Output = evidence.Consistency

    class Query(Strict):
        """From which size to which."""

        old: SizeText = msgspec.field(name="from")
        new: SizeText = msgspec.field(name="to")

    def handle(self, call: Call) -> evidence.Consistency:
        """Answer."""
        old = wire.parse_whole(call.query.old, "from", low=1, high=SIZE_MAX)
        new = wire.parse_whole(call.query.new, "to", low=1, high=SIZE_MAX)
        if old > new:
            raise wire.invalid("from", "out_of_range", "from is at most to")
        heads = transparency_log.head_of(old), transparency_log.head_of(new)
        if heads[0] is None or heads[1] is None:
            raise errors.NotFound()
        path = transparency_log.consistency(old, new)
        return evidence.Consistency(
            old=_head(heads[0]), new=_head(heads[1]), path=tuple(each.hex() for each in path)
        )


class ListHeads(Endpoint):
    """The signed heads of the log, the newest first."""

    tag = "transparency"
    Item = evidence.Head
    Output = Listed[evidence.Head]

    def handle(self, call: Call) -> Listed[evidence.Head]:
        """Answer."""
        rows = transparency_log.heads(before=call.page.number(), limit=call.page.fetch)
        return call.page.page(rows, _head, position=lambda row: [clock.to_micros(row.at)])


class Leaf(Answer):
    """A leaf of the log: `leaf` is the text whose hash it is."""

    index: int
    hash: str
    leaf: str


class ListLeaves(Endpoint):
    """What is public of the receipts of a pool's five-minute interval, in the log's order.

    They appear after the interval, or after the hour where fewer than three organizations were
    active. Without pool and interval, the whole log, keys included.
    """

    tag = "transparency"
    codes = ("not_found",)
    Item = Leaf
    Output = Listed[Leaf]

    class Query(Strict):
        """Which pool, and the interval that begins at an instant."""

        pool: str = ""
        interval: wire.TimeText | None = None

    def handle(self, call: Call) -> Listed[Leaf]:
        """Answer."""
        starts_at = None
        if call.query.interval is not None:
            starts_at = wire.parse_time(call.query.interval, "interval")
        cluster = None
        if call.query.pool:
            cluster = _cluster(call.query.pool)
        rows = transparency_log.leaves(
            after=call.page.number(), limit=call.page.fetch, cluster=cluster, starts_at=starts_at
        )
        return call.page.page(rows, _leaf, position=lambda row: [row.pk])


def _cluster(pool: str) -> int:
    """:raises NotFound: when there is no such pool."""
    try:
        found = queries.pool(str(uuid.UUID(pool)))
    except ValueError:
        found = None
    if found is None or found.public_id != pool:
        raise errors.NotFound()
    return found.id


def _leaf(row: models.LogLeaf) -> Leaf:
    return Leaf(index=row.pk, hash=bytes(row.hash).hex(), leaf=row.leaf)


def _head(row: models.LogHead) -> evidence.Head:
    return evidence.Head(
        at=wire.moment_text(row.at),
        size=row.size,
        root=bytes(row.root).hex(),
        signing_key=row.signing_key,
        signature=base64.b64encode(row.signature).decode(),
    )


def _issuer(found: transparency_log.Issuer | None) -> evidence.Issuer | None:
    if found is None:
        return None
    return evidence.Issuer(
        id=found.key.id,
        gateway=found.key.gateway,
        public_key=base64.b64encode(found.key.public_key).decode(),
        certificate=base64.b64encode(found.key.certificate).decode(),
        valid_from=wire.moment_text(found.key.valid_from),
        valid_until=wire.optional_moment_text(found.valid_until),
    )
