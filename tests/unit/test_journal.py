"""The hashes that chain the journal, and the bytes of what it stores."""

import hashlib

import pytest

from exchange import commands, events, journal
from exchange.machine import FORMAT, Machine
from settlement import instructions
from tests.floor import GRADE, Floor, symbol


def test_fields_that_read_alike_when_joined_have_different_hashes() -> None:
    assert journal.batch_hash(b"", b"ab", b"c") != journal.batch_hash(b"", b"a", b"bc")
    assert journal.batch_hash(b"x", b"", b"") != journal.batch_hash(b"", b"x", b"")


def test_a_hash_is_over_lengths_and_bytes() -> None:
    expected = hashlib.sha256(
        (32).to_bytes(8, "big") + bytes(32) + (1).to_bytes(8, "big") + b"c" + bytes(8)
    )
    assert journal.batch_hash(journal.GENESIS_HASH, b"c", b"") == expected.digest()


def test_commands_and_events_survive_the_journal() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 10, 1250)
    floor.buy(2, 5, 1250)
    floor.apply(commands.CancelOrders(1, grade=GRADE))
    floor.apply(commands.Quarantine(b"bytes", "an assertion", symbol("20")))
    floor.apply(commands.Upgrade(2))

    assert commands.decode_batch(commands.encode_batch(floor.log)) == floor.log
    assert events.decode_batch(events.encode_batch(floor.events)) == floor.events


def test_a_replay_of_the_stored_commands_gives_the_same_events_and_state() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 10, 1250)
    floor.buy(2, 5, 1250)
    floor.to("+1 21:00")

    replayed = Machine()
    again: list[events.Event] = []
    for item in commands.decode_batch(commands.encode_batch(floor.log)):
        again += replayed.apply(item.command, item.sequence, item.at)

    assert events.encode_batch(again) == events.encode_batch(floor.events)
    assert replayed.snapshot() == floor.machine.snapshot()
    assert replayed.digest() == floor.machine.digest()


@pytest.mark.parametrize("level", [{"instrument": symbol("20")}, {"grade": GRADE}, {}])
def test_a_halt_survives_a_snapshot(level) -> None:
    floor = Floor()
    floor.account(1)
    floor.instruct(instructions.Halt(**level))
    restored = Machine.restore(floor.machine.snapshot())
    order = commands.PlaceOrder(1, symbol("20"), 1, 1_250, 1, "GTC", "id", b"")
    (event,) = restored.apply(order, restored.sequence + 1, floor.at)
    assert isinstance(event, events.OrderRejected)
    assert event.reason == "halted"


def test_a_snapshot_of_another_format_is_refused() -> None:
    data = Machine().snapshot()
    assert data[:2] == bytes((data[0], FORMAT)) or FORMAT in data[:4]
    other = bytes(data).replace(bytes((FORMAT,)), bytes((FORMAT + 1,)), 1)
    with pytest.raises(ValueError, match=f"snapshot format {FORMAT + 1}"):
        Machine.restore(other)


def test_an_instruction_that_cannot_be_read_is_refused_and_changes_nothing() -> None:
    floor = Floor()
    before = floor.machine.state.accounts.copy()
    for body in (b"", b"{}", b'{"kind":"deposit","account":"NaN","amount_micros":1}', b"\xff"):
        (event,) = floor.apply(commands.Instruct("bad", body))
        assert isinstance(event, events.InstructionRefused)
        assert event.reason == "malformed_instruction"
    assert floor.machine.state.accounts == before


def test_an_instruction_body_is_plain_json() -> None:
    body = instructions.encode(instructions.Deposit(account=1, amount_micros=2))
    assert body == b'{"kind":"deposit","account":1,"amount_micros":2}'
