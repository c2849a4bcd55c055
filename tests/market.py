"""A market in a box for tests: an engine in this process, on the run's own servers.

`Market` drives the real engine step by step at the test's own clock; `running` lets it work in a
thread for tests that come in through the stream.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import valkey as valkey_client

from exchange import commands, events, loop, operations, store
from exchange.machine import Machine
from marketplace import clock as market_clock
from marketplace.models import Grade
from settlement import instructions
from settlement import operations as settlement

GRADE = "LLAMA70B"
HOUR = "LLAMA70B.H.20261201T14Z"
BUYER, SELLER, OTHER = 101, 102, 103
CLUSTER = 7


class Market:
    """An engine that the test holds in its hand."""

    def __init__(self, client: valkey_client.Valkey, machine_type: type[Machine] = Machine) -> None:
        self.client = client
        self.connection = store.connect()
        self.loop = loop.Loop(connection=self.connection, client=client, machine_type=machine_type)

    @property
    def engine(self):
        return self.loop.engine

    @property
    def machine(self) -> Machine:
        return self.loop.engine.machine

    def take_over(self) -> None:
        assert store.try_lock(self.connection, self.loop.group)
        self.loop._take_over()

    def close(self) -> None:
        self.connection.close()

    def instruct(self, name: str, command: instructions.AnyInstruction) -> None:
        """Write an instruction and let the engine take it."""
        settlement.instruct(id=name, command=command)
        self.work()

    def work(self) -> None:
        """Let the engine do all that waits for it now."""
        self.loop._poll_at = 0
        while self.loop.step(wait_ms=1):
            self.loop._poll_at = 0

    def open(self, *, cash: int = 1_000_000_000, lots: int = 1_000) -> None:
        """A grade, three accounts with cash, and a cluster of the seller's."""
        define_grade()
        self.instruct("grade", instructions.DefineGrade(grade=GRADE, reference_price_ticks=1_250))
        for account in (BUYER, SELLER, OTHER):
            self.instruct(
                f"open:{account}", instructions.OpenAccount(account=account, group=account)
            )
            self.instruct(
                f"deposit:{account}",
                instructions.Deposit(account=account, amount_micros=cash),
            )
        self.certify(SELLER, CLUSTER, lots)

    def certify(self, account: int, cluster: int, lots: int) -> None:
        self.instruct(
            f"certify:{cluster}:{lots}",
            instructions.Certify(
                cluster=cluster,
                account=account,
                grade=GRADE,
                lots=lots,
                valid_until=market_clock.now_micros() + 365 * market_clock.DAY,
            ),
        )

    def execute(self, *wanted: commands.Command) -> list[list[events.Event]]:
        return self.engine.execute(wanted)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the engine work in a thread while the block runs."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not self.loop._stopping.is_set():
                    self.loop.step()
            except BaseException as failure:  # noqa: BLE001 - shown by the test's own thread
                failures.append(failure)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.loop.stop()
            thread.join(10)
            self.loop._stopping.clear()
            assert not failures, failures


def define_grade() -> None:
    Grade.objects.create(
        code=GRADE,
        name="Llama 70B",
        region="us",
        precision="fp8",
        model_shape="llama-70b",
        context_tokens_max=131_072,
        output_tokens_max=8_192,
        reference_price_ticks=1_250,
        created_at=market_clock.now(),
    )


def order(
    account: int,
    side: int,
    price: int,
    lots: int,
    client_order_id: str,
    *,
    instrument: str = HOUR,
    time_in_force: str = "GTC",
) -> commands.PlaceOrder:
    return operations.place_command(
        organization=account,
        instrument=instrument,
        side=side,
        price_ticks=price,
        lots=lots,
        client_order_id=client_order_id,
        time_in_force=time_in_force,
    )


def buy(account: int, price: int, lots: int, name: str, **more) -> commands.PlaceOrder:
    return order(account, 1, price, lots, name, **more)


def sell(account: int, price: int, lots: int, name: str, **more) -> commands.PlaceOrder:
    return order(account, -1, price, lots, name, **more)
