"""The streams that engines are measured with, and the interpreter they run on."""

import pytest

from benchmarks import core, environment, fees, flow, machine


def test_a_stream_is_the_same_every_time() -> None:
    for shape in (*flow.SHAPES, "steady"):
        assert flow.stream(shape, 500) == flow.stream(shape, 500)
        assert len(flow.stream(shape, 500)) == 500


def test_a_cancel_names_an_order_that_came_before_it_by_the_machines_number() -> None:
    placed: dict[int, int] = {}
    for operation in machine.numbered(flow.stream("near", 2_000)):
        if len(operation) == 2:
            assert placed[operation[0]] == operation[1]
        else:
            assert operation[0] == len(placed) + 1
            placed[operation[0]] = operation[1]


def test_only_an_interpreter_that_is_new_enough_is_taken() -> None:
    found = environment.newest()
    assert found is None or tuple(map(int, found[1].split("."))) >= environment.VERSION_MIN


def test_whoever_has_no_new_interpreter_is_told_what_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(environment, "newest", lambda: None)
    with pytest.raises(environment.Unavailable, match=r"needs Python 3\.12 or newer"):
        environment.prepare()


def test_the_machine_and_the_bare_book_trade_the_same_stream_alike() -> None:
    operations = machine.numbered(flow.stream("near", 2_000))
    assert machine.ours(operations, machine.prepared()) == core.ours(operations)


def test_fees_are_one_sum_by_trade_by_order_and_in_the_account(monkeypatch) -> None:
    monkeypatch.setattr(fees, "SLICE", 5_000)
    found = fees.counted(2_000)
    assert found["trades"] >= 2_000
    assert found["charged"] == found["by_order"] == found["account"] > 0
