"""Orders of every kind, at random, through the machine and through a slow market written apart.

Both are given every command and have to agree after each one (`duel`), while the machine checks its
own invariants. At random points it is replaced by what its snapshot restores; a twin that was
restored earlier answers every later command alike; and at the end the journal, through its bytes
and batch by batch, gives the same events and the same state, to the last byte.

`BASELOAD_DEEP=N` plays N times as much, from new seeds.
"""

import os
import random

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from exchange import commands, events
from exchange.machine import Machine
from tests.simulation import duel

DEEP = int(os.environ.get("BASELOAD_DEEP", "0"))
BOOKS = 1_000 * max(1, DEEP)
STEPS = 40
MOMENTS = (
    ("13:00", ("20",)),
    ("11:40", ("20", "+1 14")),
    ("19:35", ("20",)),
    ("23:40", ("+1 14",)),
    ("11:24", ("D.20251206", "W.25W50")),
)
"""In continuous trading, with an opening call beside it, near its end, around midnight, and in
windows of every length, of which the first is about to cascade."""

chances = st.randoms(use_true_random=False)


@pytest.mark.parametrize("moment", range(len(MOMENTS)), ids=[at for at, _ in MOMENTS])
def test_a_thousand_random_books_trade_as_the_slow_market_does(moment: int) -> None:
    at, hours = MOMENTS[moment]
    trades = 0
    for seed in range(moment, BOOKS, len(MOMENTS)):
        chance = random.Random(seed)
        both = duel.Duel(at, hours, checked=False)
        try:
            for _ in range(STEPS):
                duel.act(both, chance)
            both.machine.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} from {at}: {error}") from error
        trades += both.trades
    assert trades > BOOKS // 4


class EveryKind(RuleBasedStateMachine):
    """A market in which everything that orders can be and do happens at once."""

    def __init__(self) -> None:
        super().__init__()
        self.twin: Machine | None = None
        self.answered = 0
        self.drained: set[int] = set()
        """After how many commands a batch ended."""

    @initialize(moment=st.sampled_from(MOMENTS))
    def open(self, moment) -> None:
        self.both = duel.Duel(*moment)
        self.floor = self.both.floor

    @rule(chance=chances)
    def place(self, chance) -> None:
        duel.place(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def place_another(self, chance) -> None:
        duel.place(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def amend(self, chance) -> None:
        duel.amend(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def cancel(self, chance) -> None:
        duel.cancel(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def cancel_all(self, chance) -> None:
        duel.cancel_all(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def set_a_switch(self, chance) -> None:
        duel.switch(self.both, chance, duel.EVERYTHING)

    @rule(chance=chances)
    def wait(self, chance) -> None:
        duel.wait(self.both, chance, duel.EVERYTHING)

    @precondition(lambda self: any(s.state == "halted" for s in self.both.slow.values()))
    @rule(chance=chances)
    def resume(self, chance) -> None:
        duel.halt(self.both, chance, duel.EVERYTHING)

    @precondition(lambda self: len(self.floor.log) % 5 == 0)
    @rule(chance=chances)
    def halt(self, chance) -> None:
        duel.halt(self.both, chance, duel.EVERYTHING)

    @rule()
    def end_a_batch(self) -> None:
        """Let what a batch has touched be told; a snapshot is always taken after that."""
        self.drained.add(len(self.floor.log))
        self.both.machine.drain_touched()
        if self.twin is not None:
            self._catch_up()
            self.twin.drain_touched()

    @rule()
    def restart(self) -> None:
        self.end_a_batch()
        data = self.both.machine.snapshot()
        self.both.restart(Machine.restore(data))
        assert self.both.machine.snapshot() == data
        self.both.machine.check()

    @rule()
    def restore_a_twin(self) -> None:
        self.end_a_batch()
        self.twin = Machine.restore(self.both.machine.snapshot())
        self.answered = len(self.floor.log)

    def _catch_up(self) -> list[events.Event]:
        assert self.twin is not None
        happened: list[events.Event] = []
        for item in self.floor.log[self.answered :]:
            happened = self.twin.apply(item.command, item.sequence, item.at)
        self.answered = len(self.floor.log)
        return happened

    @invariant()
    def the_twin_answers_alike(self) -> None:
        if self.twin is not None and self.answered < len(self.floor.log):
            assert events.encode_batch(self._catch_up()) == events.encode_batch(self.floor.last)

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        if self.twin is not None:
            assert self.twin.snapshot() == self.both.machine.snapshot()
        again = Machine()
        happened: list[events.Event] = []
        journal = commands.decode_batch(commands.encode_batch(self.floor.log))
        assert journal == self.floor.log
        for number, item in enumerate(journal, 1):
            happened += again.apply(item.command, item.sequence, item.at)
            if number in self.drained:
                again.drain_touched()
        stored = events.encode_batch(self.floor.events)
        assert events.encode_batch(happened) == stored
        assert events.decode_batch(stored) == happened
        assert again.snapshot() == self.both.machine.snapshot()


EveryKind.TestCase.settings = settings(
    max_examples=100 * max(1, DEEP),
    stateful_step_count=60,
    deadline=None,
    derandomize=not DEEP,
    suppress_health_check=list(HealthCheck),
)
test_every_kind_of_order_at_once_does_what_the_rules_say = EveryKind.TestCase
