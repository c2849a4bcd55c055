"""`kill -9` of the engine at random points under load, and every outcome checked afterwards.

Traders send orders of every kind over REST and write down what they are told (`recorded`). Again
and again the engine dies: by a signal at a random moment, by its own hand right before or after a
commit, or with the replies of a batch released and its news not. A standby takes over. Then the
traders rest, and what they were told is compared with what is stored:

- what was acknowledged is there, unchanged: the order, its terms as last amended, its fills;
- what nobody answered is wholly there, once, or was never placed: its `client_order_id` says which;
- what was refused for want of an engine is nowhere;
- trades add up to what orders and positions say.

At the end the journal is replayed and the ledger audited. `Campaign` is what the suite runs for ten
points on its own servers; `run` does two hundred on servers of its own, fsync on.
"""

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import engines
from benchmarks.recorded import Record, Trader
from benchmarks.report import Result, percentile
from config import servers

POINTS = int(os.environ.get("BENCH_POINTS", "200"))
SECONDS_MAX = float(os.environ.get("BENCH_SECONDS", "inf"))
"""After so long no further point begins, and the result says how many there were."""
SEED = int(os.environ.get("BENCH_SEED", "20261205"))
TRADERS = 6
STANDBYS = 2
LOAD_S_MAX = 0.9
"""How long the engine works at most before it is killed."""
TAKEOVER_TIMEOUT_S = 30.0
DYING_TIMEOUT_S = 20.0
TAKEOVER_S = 3.0
"""What a hot standby has, from the kill to the first order acknowledged."""
SNAPSHOT_EVERY = 50
PROGRESS_EVERY = 10
RETRIES_MAX = 20
FAILPOINTS = ("before_commit", "after_commit", "mid_release")
FAILS_IN_BATCH = (5, 40)
SIGNAL = "signal"


class OutcomeBroken(AssertionError):
    """What a trader was told is not what is stored."""


class Campaign:
    """Kills under load, one after another."""

    def __init__(self, deployment: engines.Deployment, traders: list[Trader], *, seed: int) -> None:
        self.deployment = deployment
        self.traders = traders
        self.chance = random.Random(seed)
        self.takeovers_s: list[float] = []
        self.kinds: dict[str, int] = {}
        self.resolved = {"placed": 0, "never_placed": 0}
        self.checked = 0

    def begin(self) -> None:
        """Start the engines and the traders."""
        if not self.deployment.engines:
            self.deployment.start_engine()
        self.deployment.await_engine()
        for _ in range(STANDBYS):
            self._start_standby()
        self.deployment.start_web()
        for trader in self.traders:
            trader.door.address = self.deployment.origin.removeprefix("http://")
            trader.start()

    def _start_standby(self) -> None:
        point = self.chance.choice((SIGNAL, SIGNAL, *FAILPOINTS))
        batch = self.chance.randint(*FAILS_IN_BATCH)
        self.deployment.start_engine("" if point == SIGNAL else f"{point}:{batch}")

    def point(self) -> None:
        """Kill the engine once under load, have it replaced, and check every outcome."""
        engines.until(self.deployment.is_backed, engines.READY_TIMEOUT_S, "a standby waits")
        process, failpoint = self.deployment.await_engine()
        for trader in self.traders:
            trader.resume()
        if failpoint:
            process.wait(DYING_TIMEOUT_S)
        else:
            time.sleep(self.chance.uniform(0.02, LOAD_S_MAX))
            process.kill()
            process.wait()
        killed_at = time.monotonic_ns()
        self._replace_dead()
        self.takeovers_s.append(self._await_takeover(killed_at))
        for trader in self.traders:
            trader.pause()
        self._replace_dead()
        self.check()

    def _replace_dead(self) -> int:
        """Count the engines that died, and start a standby for each; return how many they were."""
        dead = [each for each in self.deployment.engines if each[0].poll() is not None]
        for each in dead:
            process, failpoint = each
            if process.returncode != -signal.SIGKILL:
                raise OutcomeBroken(f"an engine ended by itself with {process.returncode}")
            kind = failpoint.partition(":")[0] or SIGNAL
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            self.deployment.engines.remove(each)
            self._start_standby()
        return len(dead)

    def _await_takeover(self, killed_at: int) -> float:
        """Return the seconds from the kill to the first order sent later and acknowledged."""
        first: list[int] = []

        def is_served() -> bool:
            nonlocal killed_at
            self._refuse_failures()
            if self._replace_dead():
                # The successor died too, before it answered: it is that one's turn to be replaced.
                killed_at = time.monotonic_ns()
                return False
            for trader in self.traders:
                first.extend(
                    answered for sent, answered in trader.acknowledged[:] if sent > killed_at
                )
            return bool(first)

        engines.until(is_served, TAKEOVER_TIMEOUT_S, "an order is acknowledged after the takeover")
        for trader in self.traders:
            trader.acknowledged.clear()
        return (min(first) - killed_at) / 1e9

    def _refuse_failures(self) -> None:
        failures = [failure for trader in self.traders for failure in trader.failures]
        if failures:
            raise OutcomeBroken("; ".join(failures))

    # Checking

    def check(self, *, everything: bool = False) -> None:
        """Compare what traders were told since the last look, or ever, with what is stored.

        The traders have to rest.

        :raises OutcomeBroken: it is not the same.
        """
        self._refuse_failures()
        with psycopg.connect(self.deployment.database_url, autocommit=True) as connection:
            for trader in self.traders:
                watched = trader.records if everything else trader.touched
                records = list(watched.values())
                before = _stored(connection, records)
                for record in records:
                    if not record.status and not record.is_promised_absent:
                        self._resolve(trader, record, before.get(record.name))
                stored = _stored(connection, records)
                for record in records:
                    _check_order(record, stored.get(record.name))
                _check_fills(connection, records)
                self.checked += len(records)
                trader.touched = {}
            _check_sums(connection, self.traders[0].instruments)

    def _resolve(self, trader: Trader, record: Record, row: dict[str, Any] | None) -> None:
        """Ask again for an order that nobody answered."""
        for _ in range(RETRIES_MAX):
            reply = trader.door.send("POST", record.path, record.body)
            if reply.status in (HTTPStatus.CREATED, HTTPStatus.UNPROCESSABLE_ENTITY):
                break
            time.sleep(0.1)
        else:
            raise OutcomeBroken(f"{record.name} cannot be resolved: {reply.status} {reply.body}")
        trader.note(record, reply.status, reply.body, reply)
        self.resolved["placed" if row is not None else "never_placed"] += 1
        if row is not None and reply.status == HTTPStatus.CREATED:
            _expect(record, "id", reply.body["id"], row["id"])

    def repeat_some(self, count: int) -> None:
        """Ask again for orders that were answered: the answer is the first one."""
        for trader in self.traders:
            known = [record for record in trader.records.values() if record.answer.get("id")]
            for record in self.chance.sample(known, min(count, len(known))):
                reply = trader.door.send("POST", record.path, record.body)
                if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
                    continue
                _expect(record, "repeated answer", reply.body, record.answer)

    def finish(self) -> dict[str, Any]:
        """Check everything once more, stop the traders, replay the journal and audit the ledger."""
        self.check(everything=True)
        self.repeat_some(10)
        for trader in self.traders:
            trader.stop()
        for command in (("verify_journal", "--json"), ("audit_ledger", "--json")):
            done = self.deployment.manage(*command)
            if done.returncode:
                raise OutcomeBroken(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        counts: dict[str, int] = {}
        for trader in self.traders:
            for name, count in trader.counts.items():
                counts[name] = counts.get(name, 0) + count
        return {
            "points": len(self.takeovers_s),
            "kills": dict(sorted(self.kinds.items())),
            "orders": sum(len(trader.records) for trader in self.traders),
            "outcomes_checked": self.checked,
            "unanswered": dict(self.resolved),
            "takeover_s": {
                "p50": round(statistics.median(self.takeovers_s), 3),
                "p95": round(percentile(self.takeovers_s, 95) or 0, 3),
                "max": round(max(self.takeovers_s), 3),
            },
            "answers": dict(sorted(counts.items())),
        }


# What is stored

_ORDERS = """
    SELECT organization_id, client_order_id, id::text, symbol, side, type, price_ticks, lots,
           filled_lots, status, reason
    FROM exchange_order WHERE client_order_id = ANY(%s)
"""
_FILLS = """
    SELECT id::text, price_ticks, lots, maker_order::text, taker_order::text
    FROM exchange_trade WHERE id = ANY(%s)
"""
_SUMS = {
    "an order's fills add up to what it has filled": """
        WITH fill AS (
            SELECT maker_order AS id, lots FROM exchange_trade
            UNION ALL SELECT taker_order, lots FROM exchange_trade
        ), filled AS (SELECT id, sum(lots) AS lots FROM fill GROUP BY id)
        SELECT count(*) FROM exchange_order o LEFT JOIN filled USING (id)
        WHERE o.type <> 'STRIP' AND o.filled_lots <> coalesce(filled.lots, 0)
    """,
    "nobody trades with itself": """
        SELECT count(*) FROM exchange_trade WHERE maker = taker
    """,
    "a position is the sum of its trades": """
        WITH side AS (
            SELECT taker AS organization_id, symbol, taker_side * lots AS lots FROM exchange_trade
            UNION ALL SELECT maker, symbol, -taker_side * lots FROM exchange_trade
        ), net AS (SELECT organization_id, symbol, sum(lots) AS lots FROM side GROUP BY 1, 2)
        SELECT count(*) FROM settlement_position p
        FULL JOIN net USING (organization_id, symbol)
        WHERE symbol = ANY(%(symbols)s) AND coalesce(p.net_lots, 0) <> coalesce(net.lots, 0)
    """,
    "positions of an instrument sum to zero": """
        SELECT count(*) FROM (
            SELECT symbol FROM settlement_position GROUP BY symbol HAVING sum(net_lots) <> 0
        ) AS wrong
    """,
}


def _stored(connection: psycopg.Connection[Any], records: list[Record]) -> dict[str, Any]:
    """Return the rows of orders by client order id; their organization is their trader's alone."""
    found: dict[str, Any] = {}
    rows = connection.execute(_ORDERS, [[record.name for record in records]])
    assert rows.description is not None, "a query has columns"
    names = [column.name for column in rows.description]
    for values in rows:
        row = dict(zip(names, values, strict=True))
        if row["client_order_id"] in found:
            raise OutcomeBroken(f"{row['client_order_id']} is there twice")
        found[row["client_order_id"]] = row
    return found


def _check_order(record: Record, row: dict[str, Any] | None) -> None:
    """Assert that an order is as its trader was told."""
    if record.is_promised_absent:
        _expect(record, "row", row, None)
        return
    if row is None:
        raise OutcomeBroken(f"{record.name} was answered with {record.status} and is not there")
    if record.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        _expect(record, "status", row["status"], "REJECTED")
        if record.answer.get("code"):
            _expect(record, "reason", row["reason"], record.answer["code"])
        return
    _expect(record, "id", row["id"], record.answer["id"])
    side = 1 if record.body["side"] == "buy" else -1
    _expect(record, "side", row["side"], side)
    if row["filled_lots"] < record.answer["filled_quantity"]:
        raise OutcomeBroken(f"{record.name} had {record.answer['filled_quantity']} filled: {row}")
    if record.path != "orders":
        return
    _expect(record, "symbol", row["symbol"], record.body["instrument"])
    if record.answer["status"] in ("filled", "canceled", "expired"):
        _expect(record, "status", row["status"], record.answer["status"].upper())
        _expect(record, "filled", row["filled_lots"], record.answer["filled_quantity"])
        return
    price, _ = record.terms
    is_reduced = record.body.get("self_trade_prevention") == "decrement" or any(
        row["status"] == status for status in ("CANCELED", "EXPIRED")
    )
    ticks = row["price_ticks"] or 0
    terms = (f"{ticks // 1000}.{ticks % 1000:03}" if price else "", row["lots"])
    allowed = [record.terms, *record.doubts]
    if terms not in allowed and not is_reduced and not _is_decremented(terms, allowed):
        raise OutcomeBroken(f"{record.name} is {terms}, not one of {allowed}")
    if record.is_canceled and row["status"] not in ("CANCELED", "FILLED"):
        raise OutcomeBroken(f"{record.name} was canceled and is {row['status']}")


def _is_decremented(terms: tuple[str, int], allowed: list[tuple[str, int]]) -> bool:
    """Whether self-trade prevention may have taken lots off an order with such terms."""
    return any(terms[0] == price and terms[1] < lots for price, lots in allowed)


def _check_fills(connection: psycopg.Connection[Any], records: list[Record]) -> None:
    """Assert that every fill that was acknowledged is stored as it was told."""
    told = {
        fill["id"]: (record, fill)
        for record in records
        for fill in record.answer.get("fills") or []
    }
    found = connection.execute(_FILLS, [[int(number) for number in told]]).fetchall()
    if len(found) != len(told):
        raise OutcomeBroken(f"{len(told) - len(found)} acknowledged fills are lost")
    for number, price, lots, maker, taker in found:
        record, fill = told[number]
        _expect(record, "fill's price", f"{price // 1000}.{price % 1000:03}", fill["price"])
        _expect(record, "fill's quantity", lots, fill["quantity"])
        if record.answer["id"] not in (maker, taker):
            raise OutcomeBroken(f"{record.name}: fill {number} is of other orders")


def _check_sums(connection: psycopg.Connection[Any], symbols: list[str]) -> None:
    """Assert that the stored tables agree with one another."""
    for what, query in _SUMS.items():
        row = connection.execute(query, {"symbols": symbols}).fetchone()
        if row != (0,):
            raise OutcomeBroken(f"it is not true that {what}: {row}")


def _expect(record: Record, what: str, found: Any, told: Any) -> None:
    if found != told:
        raise OutcomeBroken(f"{record.name}: {what} is {found!r}, and was {told!r}")


# The two hundred


def run() -> Result:
    """Kill the engine `BENCH_POINTS` times."""
    with tempfile.TemporaryDirectory(prefix="baseload-kill-", ignore_cleanup_errors=True) as folder:
        var = Path(folder)
        var.chmod(0o711)  # a root run gives PostgreSQL to another user
        try:
            return _run(var)
        finally:
            servers.erase(var)


def _run(var: Path) -> Result:
    addresses = servers.start(var)
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_ROLE"} | {
        "BASELOAD_VAR": str(var),
        "DEPLOYMENT": "demo",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": addresses.database_url,
        "VALKEY_URL": addresses.valkey_url,
        "CELERY_BROKER_URL": addresses.broker_url,
    }
    deployment = engines.Deployment(
        environment=environment,
        database_url=addresses.database_url,
        valkey_url=addresses.valkey_url,
        log=var / "kill.log",
        forks=True,
    )
    try:
        return _kill(deployment, var)
    except BaseException:
        sys.stderr.write(deployment.log.read_text()[-4_000:] if deployment.log.exists() else "")
        raise
    finally:
        deployment.stop()


def _open_market(log: str, count: int, keys: str) -> None:
    from benchmarks import forked

    forked.open_market(log, count, keys)


def _write_snapshot(log: str) -> None:
    from benchmarks import forked

    forked.write_snapshot(log)


def _kill(deployment: engines.Deployment, var: Path) -> Result:
    done = deployment.manage("migrate", "--verbosity", "0")
    if done.returncode:
        raise RuntimeError(f"manage.py migrate: {done.stderr[-2000:]}")
    deployment.environment |= {"DATABASE_ROLE": "baseload_app"}
    os.environ |= deployment.environment
    engines.FORKS.set_forkserver_preload(["benchmarks.forked"])
    log = str(deployment.log)
    deployment.start_engine()
    deployment.await_engine()
    opened = engines.Forked(_open_market, log, TRADERS, str(var / "keys.json"))
    if opened.wait(engines.READY_TIMEOUT_S):
        raise RuntimeError("the market does not open")
    keys = json.loads((var / "keys.json").read_text())
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now + timedelta(hours=ahead) for ahead in (2, 3)]
    symbols = [f"LLAMA70B.H.{hour:%Y%m%dT%H}Z" for hour in hours]
    traders = [
        Trader(
            number,
            "",
            key,
            symbols,
            seed=SEED + number,
            run="kill",
            hours=(hours[0], hours[-1] + timedelta(hours=1)),
        )
        for number, key in enumerate(keys)
    ]
    campaign = Campaign(deployment, traders, seed=SEED)
    campaign.begin()
    began = time.monotonic()
    for number in range(1, POINTS + 1):
        if time.monotonic() - began > SECONDS_MAX:
            break
        campaign.point()
        if number % SNAPSHOT_EVERY == 0:
            engines.Forked(_write_snapshot, str(deployment.log)).wait(engines.READY_TIMEOUT_S)
        if number % PROGRESS_EVERY == 0:
            print(
                f"kill: {number} of {POINTS} after {time.monotonic() - began:.0f} s,"
                f" {campaign.checked} outcomes checked,"
                f" takeover p50 {statistics.median(campaign.takeovers_s):.2f} s",
                flush=True,
            )
    found = campaign.finish()
    return Result(
        bench="kill",
        ours=found | {"lost": 0, "doubled": 0},
        ratio=1.0,
        load={"traders": len(traders), "seed": SEED, "seconds": round(time.monotonic() - began)},
    )
