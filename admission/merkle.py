"""The Merkle tree of RFC 6962: what a signed head commits to, and the two proofs about it.

A leaf's hash and a node's hash begin with different bytes, so that no leaf can pass for a node. A
tree of any size is made of *complete* nodes: (level, number) covers 2^level leaves from
number * 2^level, and never changes once it is there. So the log stores every complete node when
its last leaf arrives, and the root of any size, and every proof, is put together from a few of
them: the functions below say which (`Span.nodes`), whoever has the tree looks them up, and `fold`
joins them. `verify_inclusion` and `verify_consistency` are the algorithms of RFC 9162 (2.1.3.2,
2.1.4.2), written apart from those that build the proofs.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

EMPTY_ROOT = hashlib.sha256(b"").digest()
HASH_BYTES = 32
PROOF_HASHES_MAX = 64
"""No tree has 2^64 leaves, so no path is longer (a consistency proof has one hash more)."""


class Node(NamedTuple):
    """A complete subtree: 2^level leaves from number * 2^level."""

    level: int
    number: int


@dataclass(frozen=True, slots=True)
class Span:
    """Leaves [start, end) that are one subtree of some tree: start is a multiple of its width."""

    start: int
    end: int

    def nodes(self) -> list[Node]:
        """Return the complete nodes that it is made of, from the left."""
        found = []
        at, rest = self.start, self.end - self.start
        while rest:
            level = rest.bit_length() - 1
            found.append(Node(level, at >> level))
            at, rest = at + (1 << level), rest - (1 << level)
        return found


Lookup = Callable[[Node], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf with this content."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node with these children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of a span, given its complete nodes' from the left."""
    assert hashes, "a span is not empty"
    joined = hashes[-1]
    for each in reversed(hashes[:-1]):
        joined = node_hash(each, joined)
    return joined


def root(size: int, lookup: Lookup) -> bytes:
    """Return the root of the tree of the first `size` leaves."""
    return fold([lookup(node) for node in Span(0, size).nodes()]) if size else EMPTY_ROOT


def appended(size: int, leaves: Iterable[bytes], lookup: Lookup) -> dict[Node, bytes]:
    """Return every node that is complete once these leaf hashes follow the first `size` ones."""
    new: dict[Node, bytes] = {}
    for number, leaf in enumerate(leaves, start=size):
        node, joined = Node(0, number), leaf
        new[node] = joined
        while node.number % 2:
            left = Node(node.level, node.number - 1)
            joined = node_hash(new[left] if left in new else lookup(left), joined)
            node = Node(node.level + 1, node.number // 2)
            new[node] = joined
    return new


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Return the subtrees whose hashes prove that a leaf is in a tree, the nearest first."""
    assert 0 <= index < size, "the leaf is in the tree"
    spans = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    spans.reverse()
    return spans


def consistency_spans(old: int, new: int) -> list[Span]:
    """Return the subtrees whose hashes prove that a tree begins with a smaller one."""
    assert 0 < old <= new, "the smaller tree has leaves, and comes first"
    spans = []
    start, end, is_old_whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start, is_old_whole = middle, False
    if not is_old_whole:
        spans.append(Span(start, end))
    spans.reverse()
    return spans


def proof(spans: Iterable[Span], lookup: Lookup) -> list[bytes]:
    """Return the hashes of spans, in their order."""
    return [fold([lookup(node) for node in span.nodes()]) for span in spans]


def verify_inclusion(
    *, leaf: bytes, index: int, size: int, path: Sequence[bytes], root_hash: bytes
) -> bool:
    """Whether the path proves that the leaf is the tree's at this index."""
    if not 0 <= index < size or len(path) > PROOF_HASHES_MAX:
        return False
    number, last, joined = index, size - 1, leaf
    for each in path:
        if last == 0:
            return False
        if number % 2 or number == last:
            joined = node_hash(each, joined)
            while number % 2 == 0 and number:
                number, last = number >> 1, last >> 1
        else:
            joined = node_hash(joined, each)
        number, last = number >> 1, last >> 1
    return last == 0 and joined == root_hash


def verify_consistency(
    *, old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the path proves that the tree of `new` leaves begins with that of `old` ones."""
    if not 0 <= old <= new or len(path) > PROOF_HASHES_MAX + 1:
        return False
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    if old == new:
        return not path and old_root == new_root
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    number, last = old - 1, new - 1
    while number % 2:
        number, last = number >> 1, last >> 1
    before = after = hashes[0]
    for each in hashes[1:]:
        if last == 0:
            return False
        if number % 2 or number == last:
            before, after = node_hash(each, before), node_hash(each, after)
            while number % 2 == 0 and number:
                number, last = number >> 1, last >> 1
        else:
            after = node_hash(after, each)
        number, last = number >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


def _split(width: int) -> int:
    """Return the largest power of two that is smaller than a width."""
    return 1 << ((width - 1).bit_length() - 1)
