"""Heads of the log of receipts, as the journal has them: the log only grows, under one root."""

import pytest

from exchange.machine import Machine
from settlement import instructions
from tests.floor import Floor

ONE, OTHER = "ab" * 32, "cd" * 32


def anchor(floor: Floor, size: int, root: str = ONE) -> str | None:
    return floor.instruct(instructions.AnchorReceipts(size=size, root=root, at=floor.at))


def test_a_head_is_anchored_and_a_restored_machine_knows_it() -> None:
    floor = Floor()
    assert anchor(floor, 5) is None
    assert anchor(floor, 5) is None
    assert anchor(floor, 9, OTHER) is None
    assert floor.machine.state.anchored == (9, OTHER)
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.state.anchored == (9, OTHER)


@pytest.mark.parametrize(("size", "root"), [(5, OTHER), (4, ONE), (4, OTHER), (0, ONE)])
def test_a_log_that_shrinks_or_has_two_roots_of_one_size_is_refused(size: int, root: str) -> None:
    floor = Floor()
    assert anchor(floor, 5) is None
    assert anchor(floor, size, root) == "log_rewritten"
    assert floor.machine.state.anchored == (5, ONE)


@pytest.mark.parametrize(("size", "root"), [(-1, ONE), (2**63, ONE), (6, ""), (6, "AB" * 32)])
def test_what_is_no_head_is_refused(size: int, root: str) -> None:
    floor = Floor()
    assert anchor(floor, size, root) == "invalid_terms"
    assert floor.machine.state.anchored == (0, "")
