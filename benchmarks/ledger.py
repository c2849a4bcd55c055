"""Transfers into the ledger, durable: set-based beside one at a time, and beside django-hordak.

All sides post to one server with fsync on, in one run, in turns: batches of 500 through the
function that the engine posts with, a batch a statement and a commit; the same transfers one to a
commit; and hordak's own `transfer_to`. *Spread* moves money between pairs of a thousand accounts,
*hot* from each of them to one account, as every trade does with its fee: a hot account may cost
nothing (FAULTS Q154). A *held* batch places holds and posts them. The audit looks at everything
afterwards.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from benchmarks import environment
from benchmarks.report import Result
from config import servers

BATCH = 500
ACCOUNTS = 1_000
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
TARGET = 40.0
HOT_TARGET = 0.8
AT = 1_796_115_600_000_000
"""December 1, 2026, 09:00 UTC."""


def run() -> Result:
    """Measure; the ratio is the worse of both over their targets: beside hordak, hot to spread."""
    terms = {
        "transfers_per_batch": BATCH,
        "accounts": ACCOUNTS,
        "seconds": SECONDS,
        "rounds": ROUNDS,
        "durability": "fsync on, a commit per batch",
        "target": {"ratio_to_peer": TARGET, "hot_over_spread": HOT_TARGET},
    }
    try:
        found = environment.prepare()
    except environment.Unavailable as error:
        return Result(
            bench="ledger", ours={}, peer={"not available": str(error)}, ratio=0.0, load=terms
        )
    table: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        addresses = servers.start(var, valkey=False)
        try:
            urls = _databases(addresses.database_url)
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "config.settings",
                "BASELOAD_VAR": str(var),
                "DATABASE_POOL_SIZE_MAX": "0",
                "DATABASE_ROLE": "",
            }
            for number in range(ROUNDS):
                os.environ["DATABASE_URL"] = urls["ours"]
                ours = environment.work(
                    "benchmarks.ledger", str(SECONDS), python=Path(sys.executable)
                )
                os.environ["DATABASE_URL"] = urls[f"peer{number}"]
                peer = environment.work("benchmarks.hordak", str(SECONDS), python=found.python)
                for key, value in (*ours.items(), ("peer", peer["per_second"])):
                    table.setdefault(key, []).append(value)
                environment.say(f"round {number + 1} of {ROUNDS}: {ours}, hordak {peer}")
        finally:
            servers.erase(var)
    wrong = int(sum(table.pop("violations")))
    medians = {key: statistics.median(values) for key, values in table.items()}
    peer_rate = medians.pop("peer")
    medians["hot_over_spread"] = round(
        statistics.median(h / s for h, s in zip(table["hot"], table["spread"], strict=True)), 3
    )
    ratio = min(
        min(medians["hot"], medians["spread"]) / peer_rate / TARGET,
        medians["hot_over_spread"] / HOT_TARGET,
    )
    return Result(
        bench="ledger",
        ours=medians
        | {"ratio_to_peer": round(min(medians["hot"], medians["spread"]) / peer_rate, 1)}
        | {"violations": wrong, "unit": "transfers/s"},
        peer={
            "name": "django-hordak 2.0.0, transfer_to in a transaction each",
            "per_second": round(peer_rate, 1),
            "python": found.version,
        },
        ratio=0.0 if wrong else round(ratio, 2),
        load=terms,
    )


def _databases(url: str) -> dict[str, str]:
    """Make a database for us, and a new one for each round of the peer; return their URLs."""
    import psycopg

    parts = urlsplit(url)
    names = ["ours", *(f"peer{number}" for number in range(ROUNDS))]
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return {name: urlunsplit(parts._replace(path=f"/{name}")) for name in names}


def measure(seconds: float) -> dict[str, float]:
    """Return transfers per second by way of posting, on the database that the environment names."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from exchange import store
    from settlement import audit, queries
    from settlement.ledger import Phase

    connection = store.connect()
    row = connection.execute("SHOW fsync").fetchone()
    assert row is not None, "a setting has a value"
    assert row[0] == "on", "every transfer is durable"
    poster = Poster(connection, queries.chain_sequence("cash"))
    poster.fund()
    found: dict[str, float] = {}
    for name, size, batch in (
        ("spread", BATCH, spread),
        ("hot", BATCH, hot),
        ("single", 1, spread),
    ):
        found[name] = poster.rate(seconds, size, batch)

    def held(first: int, size: int) -> list[Any]:
        half = size // 2
        names = [f"bench:{first + number}" for number in range(half)]
        placed = [transfer(first + n, phase=Phase.HOLD, id=each) for n, each in enumerate(names)]
        ended = [transfer(first + n, phase=Phase.POST, hold=each) for n, each in enumerate(names)]
        return [*placed, *ended]

    found["held"] = poster.rate(seconds / 2, BATCH, held, is_plain=False)
    asked = [finding for finding in audit.run() if "deposits" not in finding.name]
    found["violations"] = sum(finding.violations for finding in asked)
    for finding in asked:
        if finding.violations:
            environment.say(str(finding))
    return found


class Poster:
    """Posts batches to the cash chain as the engine does: a transaction with one statement each."""

    def __init__(self, connection: Any, sequence: int) -> None:
        self.connection = connection
        self.sequence = sequence

    def post(self, transfers: Sequence[Any], *, is_plain: bool = True, at: int = AT) -> None:
        """Post a batch and commit it."""
        from marketplace import rowset
        from settlement import posting

        with posting.refusals(), rowset.transaction(self.connection) as writer:
            self.sequence = posting.post_cash(
                writer,
                transfers,
                at=at,
                expected_sequence=self.sequence,
                is_plain=is_plain,
            )

    def fund(self) -> None:
        """Give every account more than it can spend."""
        self.post(
            [
                SimpleNamespace(
                    debit_owner=0, debit_kind=10, credit_owner=owner, credit_kind=1,
                    amount=10**12, code=1, cause=f"fund:{self.sequence}:{owner}",
                )
                for owner in range(1, ACCOUNTS + 1)
            ]
        )  # fmt: skip

    def rate(
        self,
        seconds: float,
        size: int,
        batch: Callable[[int, int], list[Any]],
        *,
        is_plain: bool = True,
    ) -> float:
        """Return transfers per second of batches of a size; the making of them counts."""
        first = before = self.sequence
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.post(batch(first, size), is_plain=is_plain)
            first = self.sequence
        return round((first - before) / (time.perf_counter() - started), 1)


def spread(first: int, size: int) -> list[Any]:
    """Return transfers between pairs of accounts."""
    return [
        SimpleNamespace(
            debit_owner=number * 7 % ACCOUNTS + 1, debit_kind=1,
            credit_owner=(number * 7 + 389) % ACCOUNTS + 1, credit_kind=1,
            amount=5, code=3, cause=f"trade:{number}",
        )
        for number in range(first, first + size)
    ]  # fmt: skip


def hot(first: int, size: int) -> list[Any]:
    """Return transfers of which each credits the account of fees."""
    return [transfer(number) for number in range(first, first + size)]


def transfer(number: int, **named: Any) -> Any:
    """Return a transfer from one of the accounts to the account of fees."""
    return SimpleNamespace(
        debit_owner=number * 7 % ACCOUNTS + 1, debit_kind=1, credit_owner=0, credit_kind=11,
        amount=5, code=3, cause=f"trade:{number}", **named,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]))))
