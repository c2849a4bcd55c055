"""A buyer names acceptable substitutes, and the gateway falls back to them by price."""

import json
from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client

from admission import models, operations
from marketplace import keys
from marketplace import models as catalog
from settlement import instructions
from tests.delivery import Stage, make_cluster, stage
from tests.market import CLUSTER, GRADE, Market

pytestmark = pytest.mark.django_db(transaction=True)

CHEAP, DEAR = "CHEAP8B", "DEAR8B"


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            for number, (code, ticks) in enumerate(((DEAR, 2_000), (CHEAP, 500)), CLUSTER + 1):
                add_grade(made, code, ticks, number)
            clock.advance(seconds=3)
            with market.running():
                yield made
    finally:
        market.close()
        keys.close_shared_ring()


def add_grade(delivery: Stage, code: str, ticks: int, cluster: int) -> None:
    """A grade with one certified cluster, like the first one but for its price."""
    grade = catalog.Grade.objects.get(pk=GRADE)
    grade.code, grade.name, grade.reference_price_ticks = code, code, ticks
    grade.save(force_insert=True)
    delivery.market.instruct(
        code, instructions.DefineGrade(grade=code, reference_price_ticks=ticks)
    )
    row = make_cluster(cluster, lots=100)
    catalog.Cluster.objects.filter(pk=cluster).update(grade_id=code)
    row.refresh_from_db()
    operations._install(row)
    assert operations.probe(cluster) == (True, "")  # the gateway has not heard of it, and looks


def ask(delivery: Stage, substitutes: str = "", *, who: str = "other", **more: object):
    return delivery.client(who).chat.completions.with_raw_response.create(
        model=GRADE,
        messages=[{"role": "user", "content": "Say it."}],
        max_tokens=8,
        extra_headers={"x-baseload-substitutes": substitutes} if substitutes else {},
        **more,
    )


def test_the_model_asked_for_answers_while_it_can(delivery: Stage) -> None:
    answer = ask(delivery, f"{CHEAP}, {DEAR}")
    assert answer.headers["x-baseload-grade-served"] == GRADE
    assert answer.parse().model == GRADE


def test_the_cheapest_substitute_answers_where_there_is_no_capacity(delivery: Stage) -> None:
    delivery.fault(0.0)
    with pytest.raises(openai.InternalServerError) as refused:
        ask(delivery)
    assert refused.value.code == "no_capacity"
    answer = ask(delivery, f"{DEAR},{CHEAP}")
    assert (answer.headers["x-baseload-grade-served"], answer.parse().model) == (CHEAP, CHEAP)
    served = models.Request.objects.get(pk=answer.headers["x-baseload-receipt"])
    assert (served.grade, served.cluster, served.class_served) == (CHEAP, CLUSTER + 2, "P3")
    delivery.cluster("PUT", f"{CLUSTER + 2}/fault", {"available": 0.0})
    assert ask(delivery, f"{DEAR},{CHEAP}").headers["x-baseload-grade-served"] == DEAR


def test_a_stream_says_which_model_it_comes_from(delivery: Stage) -> None:
    delivery.fault(0.0)
    chunks = list(ask(delivery, CHEAP, stream=True).parse())
    assert {chunk.model for chunk in chunks} == {CHEAP}


def test_when_no_substitute_can_the_refusal_is_that_of_the_model_asked_for(
    delivery: Stage,
) -> None:
    for cluster in (CLUSTER, CLUSTER + 1, CLUSTER + 2):
        delivery.cluster("PUT", f"{cluster}/fault", {"available": 0.0})
    with pytest.raises(openai.InternalServerError) as refused:
        ask(delivery, f"{CHEAP},{DEAR},{GRADE}")
    assert refused.value.code == "no_capacity"
    outcomes = models.Request.objects.filter(is_probe=False).values_list("grade", flat=True)
    assert set(outcomes) == {GRADE, CHEAP, DEAR}, "each was tried"


def test_who_does_not_spill_is_not_charged_for_a_substitute(delivery: Stage) -> None:
    delivery.fault(0.0)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(delivery, CHEAP, who="rejecting")
    assert refused.value.status_code == 503
    assert not models.Request.objects.filter(
        grade=CHEAP, is_probe=False, class_served="P3"
    ).exists()


@pytest.mark.parametrize("header", ["NOBODY", f"{CHEAP},,", ",".join([CHEAP] * 9)])
def test_a_substitute_that_nobody_knows_is_refused(delivery: Stage, header: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(delivery, header)
    assert json.loads(refused.value.response.text)["error"]["param"] == "x-baseload-substitutes"
