"""An hour under delivery, for tests: a market past gate closure, a model server, a gateway.

Everything is the real thing on loopback ports: the engine of `tests.market`, the cluster model and
the gateway under uvicorn in threads of this process, which share its frozen clock. The buyer holds
40 lots of the present hour on the seller's cluster; the other organization has cash and no lots.
"""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import uvicorn
from django.conf import settings
from openai import OpenAI

from admission import gateway, model_server, queries
from admission import models as admission_models
from marketplace import clock as market_clock
from marketplace import keys, models
from tests.market import BUYER, CLUSTER, GRADE, HOUR, OTHER, SELLER, Market, buy, sell

STARTS_IN_S = 20
LOTS = 40
CERTIFIED_LOTS = 1_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url: str, method: str = "GET", body: Any = None) -> Any:
    """Return the JSON that a server answers."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, data, method=method), timeout=10
    ) as got:
        return json.loads(got.read())


@contextmanager
def serving(application: Any, port: int) -> Iterator[uvicorn.Server]:
    """Serve an ASGI application from a thread while the block runs."""
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host="127.0.0.1",
            port=port,
            log_config=None,
            lifespan="on",
            timeout_graceful_shutdown=3,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + STARTS_IN_S
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < until, "the server did not start in time"
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


def make_catalog() -> None:
    """The organizations, the grade's shape and the cluster that the engine's ids stand for."""
    for number, role in ((BUYER, "BUYER"), (SELLER, "PROVIDER"), (OTHER, "BUYER")):
        models.Organization.objects.create(
            id=number,
            name=f"Organization {number}",
            skeleton=f"organization {number}",
            role=role,
            created_at=market_clock.now(),
        )


def make_cluster(number: int, *, lots: int, replicas: int = 2) -> models.Cluster:
    return models.Cluster.objects.create(
        id=number,
        organization_id=SELLER,
        grade_id=GRADE,
        name=f"Cluster {number}",
        is_modelled=True,
        accelerator="B200",
        replicas=replicas,
        endpoint=f"{settings.CLUSTER_ORIGIN}/clusters/{number}/v1",
        state=models.Cluster.State.CERTIFIED,
        certified_lots=lots,
        created_at=market_clock.now(),
    )


def make_key(organization: int, *, version: int, **more: Any) -> str:
    issued = keys.issue(pepper=settings.KEY_PEPPER, deployment=settings.DEPLOYMENT)
    fields = {"scopes": ["read", "trade", "gateway"], **more}
    models.ApiKey.objects.create(
        id=issued.id,
        organization_id=organization,
        digest=issued.digest,
        version=version,
        created_at=market_clock.now(),
        **fields,
    )
    return issued.text


class Stage:
    """What a test of delivery has in its hands."""

    def __init__(self, market: Market, clock: Any, port: int, cluster_port: int) -> None:
        self.market = market
        self.clock = clock
        self.port = port
        self.cluster_port = cluster_port
        self.keys: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, who: str = "buyer", **more: Any) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=self.keys[who], max_retries=0, **more)

    def cluster(self, method: str, path: str, body: Any = None) -> Any:
        """Speak to the model server about the cluster."""
        return fetch(f"http://127.0.0.1:{self.cluster_port}/clusters/{path}", method, body)

    def fault(self, available: float) -> None:
        self.cluster("PUT", f"{CLUSTER}/fault", {"available": available})

    def generated(self, cluster: int = CLUSTER) -> dict[str, Any]:
        return self.cluster("GET", f"{cluster}/debug/generated")

    def ends(self, count: int) -> list[admission_models.UsageEvent]:
        """Wait until so many requests of organizations have ended, and return their ends."""
        until = time.monotonic() + 10
        while True:
            known = {row.id: row for row in admission_models.Request.objects.filter(is_probe=False)}
            found = [
                event
                for event in admission_models.UsageEvent.objects.exclude(state="OPEN").order_by(
                    "number"
                )
                if event.request_id in known
            ]
            if len(found) >= count:
                assert len(found) == count
                return found
            assert time.monotonic() < until, f"{len(found)} of {count} requests ended"
            time.sleep(0.02)

    def settled(self) -> list[admission_models.UsageEvent]:
        """Wait until nothing runs any more, and return the ends of all requests."""
        until = time.monotonic() + 15
        while True:
            admitted = admission_models.Request.objects.filter(is_probe=False, outcome="ADMITTED")
            count = admitted.count()
            ended = admission_models.UsageEvent.objects.exclude(state="OPEN").filter(
                request_id__in=admitted.values("id")
            )
            is_quiet = all(one["state"] != "running" for one in self.generated().values())
            if is_quiet and ended.count() == count:
                return list(ended.order_by("number"))
            assert time.monotonic() < until, f"{count - ended.count()} still run; quiet: {is_quiet}"
            time.sleep(0.05)

    def requests(self) -> list[admission_models.Request]:
        return list(
            admission_models.Request.objects.filter(is_probe=False).order_by("arrived_at", "id")
        )


def open_market(market: Market, clock: Any, *, lots: int = LOTS) -> None:
    """Bring the buyer to the first seconds of the hour it bought lots of."""
    make_catalog()
    market.open(lots=CERTIFIED_LOTS)
    models.Grade.objects.update(
        model_shape="LLAMA8B", precision="bf16", is_listed=True, output_tokens_max=1_024
    )
    make_cluster(CLUSTER, lots=CERTIFIED_LOTS)
    if 4 * lots > CERTIFIED_LOTS:  # one group holds at most a quarter of what all may deliver
        market.certify(OTHER, CLUSTER + 1, 4 * lots - CERTIFIED_LOTS)
    market.execute(sell(SELLER, 1_250, CERTIFIED_LOTS, "s1"))
    market.execute(buy(BUYER, 1_260, lots, "b1"))
    clock.set("2026-12-01T13:55:01Z")
    market.work()
    clock.set("2026-12-01T14:00:02Z")
    market.work()
    assert HOUR.endswith("14Z")


@contextmanager
def stage(
    market: Market,
    clock: Any,
    monkeypatch: Any,
    *,
    has_gateway: bool = True,
    upstream: Any = None,
    lots: int = LOTS,
) -> Iterator[Stage]:
    """An hour under delivery, with a model server and, unless it is not wanted, a gateway.

    `upstream` is an ASGI application to stand behind the cluster instead of the model server.
    """
    port, cluster_port = free_port(), free_port()
    monkeypatch.setattr(settings, "CLUSTER_ORIGIN", f"http://127.0.0.1:{cluster_port}")
    monkeypatch.setattr(settings, "GATEWAY_ORIGIN", f"http://127.0.0.1:{port}")
    open_market(market, clock, lots=lots)
    made = Stage(market, clock, port, cluster_port)
    made.keys = {
        "buyer": make_key(BUYER, version=1),
        "rejecting": make_key(BUYER, version=2, overflow="REJECT"),
        "queueing": make_key(BUYER, version=3, overflow="QUEUE"),
        "other": make_key(OTHER, version=4),
        "reader": make_key(BUYER, version=5, scopes=["read"]),
    }
    keys.shared_ring().refresh()
    clusters = model_server.ModelServer()
    for cluster_id, config in queries.modelled_clusters():
        assert clusters.put(cluster_id, config) is None
    with ExitStack() as servers:
        if upstream is not None:
            other_port = free_port()
            servers.enter_context(serving(upstream, other_port))
            models.Cluster.objects.update(
                is_modelled=False, endpoint=f"http://127.0.0.1:{other_port}/v1"
            )
        servers.enter_context(serving(clusters, cluster_port))
        if has_gateway:
            servers.enter_context(serving(gateway.Gateway(), port))
        # Levels begin at zero; two seconds fill them.
        clock.advance(seconds=3)
        yield made
