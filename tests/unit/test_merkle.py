"""The log's tree: RFC 6962's own example, and proofs for trees of any size."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from admission import merkle
from admission.merkle import Node

EXAMPLE = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", ""]
EXAMPLE[7] = "606162636465666768696a6b6c6d6e6f"
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The vectors that implementations of Certificate Transparency test themselves with."""

SIZES = st.integers(min_value=1, max_value=200)


def tree(size: int, *, word: str = "leaf") -> dict[Node, bytes]:
    leaves = [merkle.leaf_hash(f"{word} {number}".encode()) for number in range(size)]
    return merkle.appended(0, leaves, lambda node: b"never asked")


def slow_root(leaves: list[bytes]) -> bytes:
    """The definition in RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    width = 1
    while width * 2 < len(leaves):
        width *= 2
    left, right = slow_root(leaves[:width]), slow_root(leaves[width:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_roots_are_those_of_certificate_transparency() -> None:
    leaves = [merkle.leaf_hash(bytes.fromhex(each)) for each in EXAMPLE]
    nodes = merkle.appended(0, leaves, lambda node: b"")
    found = [merkle.root(size, nodes.__getitem__).hex() for size in range(1, 9)]
    assert found == ROOTS


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@given(size=st.integers(min_value=0, max_value=200), first=st.integers(0, 200))
@settings(max_examples=60)
def test_a_tree_that_grows_in_steps_has_the_root_of_the_definition(size: int, first: int) -> None:
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    first = min(first, size)
    nodes = merkle.appended(0, leaves[:first], lambda node: b"")
    nodes |= merkle.appended(first, leaves[first:], nodes.__getitem__)
    assert merkle.root(size, nodes.__getitem__) == slow_root(leaves)


@given(size=SIZES, data=st.data())
@settings(max_examples=100)
def test_every_leaf_is_proved_and_no_other_one(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size + 3))
    nodes = tree(size)
    path = merkle.proof(merkle.inclusion_spans(index, size), nodes.__getitem__)
    head = merkle.root(size, nodes.__getitem__)
    leaf = nodes[Node(0, index)]

    def holds(**changed: object) -> bool:
        given = {"leaf": leaf, "index": index, "size": size, "path": path, "root_hash": head}
        return merkle.verify_inclusion(**(given | changed))  # type: ignore[arg-type]

    assert holds()
    assert holds(index=other) == (other == index)
    assert not holds(leaf=merkle.leaf_hash(b"another"))
    assert not holds(path=[*path, head])
    assert not holds(root_hash=merkle.leaf_hash(b"root"))
    assert not path or not holds(path=path[:-1])
    assert not path or not holds(path=[*path[:-1], bytes(32)])


@given(old=SIZES, more=st.integers(min_value=0, max_value=200))
@settings(max_examples=100)
def test_any_two_heads_of_one_log_are_consistent(old: int, more: int) -> None:
    new = old + more
    nodes = tree(new)
    path = merkle.proof(merkle.consistency_spans(old, new), nodes.__getitem__)
    before, after = (merkle.root(size, nodes.__getitem__) for size in (old, new))

    def holds(**changed: object) -> bool:
        given = {"old": old, "new": new, "old_root": before, "new_root": after, "path": path}
        return merkle.verify_consistency(**(given | changed))  # type: ignore[arg-type]

    assert holds()
    assert not holds(path=[*path, after])
    assert not holds(old_root=merkle.leaf_hash(b"x"))
    assert not holds(new_root=merkle.leaf_hash(b"x"))
    assert not path or not holds(path=path[1:])


@given(common=st.integers(0, 50), old=st.integers(1, 60), more=st.integers(1, 60))
@settings(max_examples=100)
def test_a_forked_head_is_consistent_with_none_of_the_other_branch(
    common: int, old: int, more: int
) -> None:
    """Both logs prove what they can: no proof of the fork leads to what a witness has seen."""
    new = common + old + more
    seen = common + old
    honest = tree(seen)
    forked = tree(common) | merkle.appended(
        common,
        [merkle.leaf_hash(f"other {number}".encode()) for number in range(common, new)],
        tree(common).__getitem__,
    )
    path = merkle.proof(merkle.consistency_spans(seen, new), forked.__getitem__)
    assert not merkle.verify_consistency(
        old=seen,
        new=new,
        old_root=merkle.root(seen, honest.__getitem__),
        new_root=merkle.root(new, forked.__getitem__),
        path=path,
    )


def test_an_empty_log_is_the_beginning_of_every_log() -> None:
    nodes = tree(3)
    head = merkle.root(3, nodes.__getitem__)
    given = {"old": 0, "new": 3, "new_root": head}
    assert merkle.verify_consistency(**given, old_root=merkle.EMPTY_ROOT, path=[])
    assert not merkle.verify_consistency(**given, old_root=head, path=[])
