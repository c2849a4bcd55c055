"""From a registered cluster to a rate the machine knows, and the jobs around delivery."""

from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client
from django.conf import settings
from django.db import transaction

from admission import cluster as physics
from admission import models, operations, upstream
from marketplace import clock as market_clock
from marketplace import contract, errors, keys
from marketplace import models as catalog
from settlement import jobs, kinds
from settlement import models as clearing
from tests.delivery import LOTS, Stage, open_market, stage
from tests.market import CLUSTER, GRADE, SELLER, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    open_market(market, clock)
    yield market
    market.close()


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def register(**more) -> catalog.Cluster:
    terms = {
        "organization_id": SELLER,
        "grade": GRADE,
        "name": "New",
        "accelerator": "H100",
        "tensor_parallel": 1,
        "replicas": 1,
    }
    return operations.register_cluster(**{**terms, **more})


def work() -> None:
    for queue in kinds.queues():
        jobs.work(queue)


def test_a_modelled_cluster_is_served_by_the_deployments_own_model_server(market: Market) -> None:
    row = register()
    assert row.is_modelled
    assert row.endpoint == f"{settings.CLUSTER_ORIGIN}/clusters/{row.pk}/v1"
    live = register(endpoint="https://llm.example.com/v1/")
    assert (live.is_modelled, live.endpoint) == (False, "https://llm.example.com/v1")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"accelerator": "A17"}, "unknown_accelerator"),
        ({"replicas": 0}, "replicas_out_of_range"),
        ({"tensor_parallel": 3}, "unsupported_tensor_parallel"),
        ({"endpoint": "http://169.254.169.254/"}, "endpoint_not_allowed"),
        ({"grade": "NONE"}, "not_found"),
    ],
)
def test_what_cannot_serve_the_grade_is_refused(market: Market, more: dict, code: str) -> None:
    before = catalog.Cluster.objects.count()
    with pytest.raises(errors.Refusal) as refused:
        register(**more)
    assert refused.value.code == code
    assert catalog.Cluster.objects.count() == before
    assert upstream.EndpointRefused.code == "endpoint_not_allowed"


def test_a_certification_ends_with_lots_that_the_machine_knows(market: Market) -> None:
    row = register()
    asked = operations.request_certification(cluster_id=row.pk)
    with pytest.raises(operations.CertificationRunning):
        operations.request_certification(cluster_id=row.pk)
    with market.running():
        work()
    done = models.Certification.objects.get(pk=asked.pk)
    assert (done.state, done.progress) == ("CERTIFIED", 100)
    assert done.lots == done.report["certified_lots"] > 0
    assert done.lots <= done.report["measured_lots"] * 9 // 10
    assert done.report["mix"]["prompt_tokens"] == 1_024
    row.refresh_from_db()
    assert (row.certified_lots, row.state) == (done.lots, "CERTIFIED")
    instruction = clearing.Instruction.objects.get(id=f"certify:{asked.pk}")
    assert instruction.state == "APPLIED"

    again = clearing.Job.objects.get(kind="certify", slot=str(asked.pk))
    assert again.state == "DONE"


def test_a_certification_whose_worker_died_goes_on_from_its_result(
    market: Market, monkeypatch
) -> None:
    row = register()
    asked = operations.request_certification(cluster_id=row.pk)
    models.Certification.objects.filter(pk=asked.pk).update(
        state="RUNNING", lots=123, report={"certified_lots": 123}
    )
    monkeypatch.setattr(physics, "problem", lambda _: pytest.fail("it searches again"))
    with market.running():
        work()
    assert models.Certification.objects.get(pk=asked.pk).state == "CERTIFIED"
    row.refresh_from_db()
    assert row.certified_lots == 123


def test_a_bad_interval_is_reported_settled_and_refunded(delivery: Stage) -> None:
    delivery.client().chat.completions.create(model=GRADE, messages=HELLO, max_tokens=10)
    delivery.ends(1)
    delivery.fault(0.0)
    with pytest.raises(openai.InternalServerError):
        delivery.client().chat.completions.create(
            model=GRADE, messages=[{"role": "user", "content": "again"}], max_tokens=10
        )
    delivery.ends(2)
    # As a demo's clock does: probes first, then the leap.
    probes = operations.probe_clusters(n=10)
    assert probes == {str(CLUSTER): [0, 10]}
    from_at = market_clock.now_micros()
    to_at = contract.hour_start(from_at) + contract.HOUR + 120_000_000
    from settlement import operations as settlement

    with transaction.atomic():
        settlement.record_clock_jump(from_at=from_at, to_at=to_at, probes=probes)
    delivery.clock.set(to_at)
    with delivery.market.running():
        work()
        work()
    settled = clearing.IntervalSettlement.objects.order_by("interval")
    assert [row.interval for row in settled] == list(range(1, 13))
    assert [row.available_mntu for row in settled] == [0] * 12
    escrow = 1_250 * 5 * LOTS
    assert [row.refunded_micros for row in settled] == [escrow] * 12
    first = clearing.DeliveryReport.objects.get(interval=1)
    assert first.short_mntu > 0
    assert first.delivered_mntu > 0
    metered = models.MeteredRequest.objects.filter(is_final=True)
    assert {row.mntu for row in metered} == {0, first.delivered_mntu}
    assert clearing.Job.objects.exclude(state="DONE").filter(attempts__gt=0).count() == 0
