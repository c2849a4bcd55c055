"""`kill -9` of the engine under load: every acknowledged and every unanswered outcome is checked.

Ten points of what `make bench B=kill` does two hundred times, on the run's own servers.
"""

import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import valkey as valkey_client
from django.conf import settings
from django.db import connection

from benchmarks import engines, kill, recorded
from marketplace import clock as market_clock
from marketplace import contract, keys
from marketplace.models import ApiKey, Organization
from settlement import instructions
from tests.market import GRADE, Market

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

POINTS = 10
QUOTES = 40
STUFFED = 250
STUFFED_MIN = 20
ORGANIZATIONS = (201, 202, 203, 204)
CASH = 10**12
LOTS = 100_000


def _open(market: Market, organization: int) -> str:
    """Give an organization cash, a cluster and a key."""
    Organization.objects.create(
        id=organization,
        name=f"Organization {organization}",
        skeleton=f"organization {organization}",
        role="BUYER",
        created_at=market_clock.now(),
    )
    market.instruct(
        f"open:{organization}",
        instructions.OpenAccount(account=organization, group=organization),
    )
    market.instruct(
        f"deposit:{organization}",
        instructions.Deposit(account=organization, amount_micros=CASH),
    )
    market.certify(organization, organization, LOTS)
    issued = keys.issue(pepper=settings.KEY_PEPPER, deployment=settings.DEPLOYMENT)
    ApiKey.objects.create(
        id=issued.id,
        organization_id=organization,
        digest=issued.digest,
        scopes=["read", "trade"],
        version=organization,
        created_at=market_clock.now(),
    )
    return issued.text


@pytest.fixture
def campaign(
    valkey: valkey_client.Valkey,
    transactional_db: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[kill.Campaign]:
    market = Market(valkey)
    market.take_over()
    market.open()
    texts = [_open(market, organization) for organization in ORGANIZATIONS]
    market.loop.close()
    market.close()
    parts = urlsplit(os.environ["DATABASE_URL"])
    database = urlunsplit(parts._replace(path="/" + connection.settings_dict["NAME"]))
    # What engines are forked from inherits this when the first one starts.
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("DATABASE_ROLE", "baseload_app")
    engines.FORKS.set_forkserver_preload(["benchmarks.forked"])
    deployment = engines.Deployment(
        environment=dict(os.environ),
        database_url=database,
        valkey_url=settings.VALKEY_URL,
        log=tmp_path / "processes.log",
        forks=True,
    )
    starts_at = contract.hour_start(market_clock.now_micros()) + 2 * contract.HOUR
    symbols = [contract.hour_contract(GRADE, starts_at + k * contract.HOUR).symbol for k in (0, 1)]
    first = datetime.fromtimestamp(starts_at // 1_000_000, UTC)
    traders = [
        recorded.Trader(
            number,
            "",
            text,
            symbols,
            seed=number,
            run="suite",
            hours=(first, first + timedelta(hours=2)),
        )
        for number, text in enumerate(texts)
    ]
    campaign = kill.Campaign(deployment, traders, seed=3)
    try:
        campaign.begin()
        yield campaign
    finally:
        for trader in traders:
            trader.stop()
        deployment.stop()
        print(deployment.log.read_text()[-3_000:])


def _bid(trader: recorded.Trader, name: str) -> dict:
    """Return a bid that does not rest."""
    return {
        "instrument": trader.instruments[0],
        "side": "buy",
        "type": "limit",
        "price": "1.200",
        "quantity": 1,
        "time_in_force": "ioc",
        "client_order_id": name,
    }


def _quote(trader: recorded.Trader, name: str) -> tuple[int, float]:
    """Place a bid; return the status and how long its answer took."""
    began = time.perf_counter()
    reply = trader.door.send("POST", "orders", _bid(trader, name))
    return reply.status, time.perf_counter() - began


def test_a_key_that_stuffs_quotes_is_refused_and_no_other(campaign: kill.Campaign) -> None:
    """FAULTS H82; how much slower the others are is printed, for it is the machine's load too."""
    stuffing, *others = campaign.traders

    def quote_calmly(trader: recorded.Trader, when: str) -> list[tuple[int, float]]:
        return [_quote(trader, f"{when}-{trader.number}-{turn}") for turn in range(QUOTES)]

    def stuff(is_over: threading.Event) -> list[int]:
        statuses: list[int] = []
        while not is_over.is_set() or len(statuses) < STUFFED_MIN:
            bids = [_bid(stuffing, f"{len(statuses)}-{number}") for number in range(STUFFED)]
            operations = [{"op": "place", **bid} for bid in bids]
            statuses.append(
                stuffing.door.send("POST", "orders/batch", {"operations": operations}).status
            )
        return statuses

    def p99(quotes: list[list[tuple[int, float]]]) -> float:
        return statistics.quantiles([took for each in quotes for _, took in each], n=100)[-1]

    is_over = threading.Event()
    with ThreadPoolExecutor(len(campaign.traders)) as threads:
        alone = list(threads.map(lambda trader: quote_calmly(trader, "alone"), others))
        stuffed = threads.submit(stuff, is_over)
        beside = list(threads.map(lambda trader: quote_calmly(trader, "beside"), others))
        is_over.set()
        statuses = stuffed.result()
    assert {status for each in (*alone, *beside) for status, _ in each} == {201}
    assert set(statuses) == {200, 429}
    assert statuses.index(429) > 1, "the burst is the key's own"
    print(f"p99 of the others: {p99(alone):.4f} s alone, {p99(beside):.4f} s beside the stuffing")


def test_nothing_is_lost_or_doubled_when_the_engine_is_killed_at_ten_random_points(
    campaign: kill.Campaign,
) -> None:
    for _ in range(POINTS):
        campaign.point()
    found = campaign.finish()
    print(json.dumps(found))
    assert found["points"] == POINTS
    assert sum(found["kills"].values()) >= POINTS
    assert not [answer for answer in found["answers"] if " 40" in answer], "nothing is malformed"
    assert found["orders"] > 10 * POINTS
    assert statistics.median(campaign.takeovers_s) <= kill.TAKEOVER_S
