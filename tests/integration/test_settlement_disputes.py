"""What parties say of a delivery: figures that differ, disputes, and who decides them."""

from collections.abc import Iterator
from datetime import datetime

import pytest
import valkey as valkey_client
from django.db import transaction

from marketplace import clock as market_clock
from marketplace import errors, rulings
from marketplace import models as catalog
from settlement import deliveries, disputes, jobs, models
from tests import settling
from tests.integration.test_settlement_runs import DAMAGES, FINAL, FINAL_AT, REVISION, REVISION_AT
from tests.market import BUYER, OTHER, SELLER, Market
from tests.settling import BAD, PER_INTERVAL, USED, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

DEADLINE = "2026-12-13T02:00:00Z"
OPERATOR, SECOND = 901, 902


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    with settling.only_settlements_kinds():
        market = Market(valkey)
        market.take_over()
        clock.set("2026-12-01T12:30Z")
        market.open()
        settling.deliver(market, clock)
        yield market
        market.close()


def figure(organization: int, mntu: int, at: int) -> models.DeliveryFigure:
    return disputes.report_figure(organization_id=organization, allocation_id=1, mntu=mntu, at=at)


def object_to(at: int, *intervals: int, organization: int = SELLER) -> models.Dispute:
    return disputes.open_dispute(
        organization_id=organization, allocation_id=1, intervals=intervals or [BAD],
        reason="We served all of it", at=at,
    )  # fmt: skip


def uphold(dispute: models.Dispute, operator: int, available: int, short: int = 0):
    return rulings.uphold(
        dispute_id=dispute.pk, organization_id=operator, available_mntu=available,
        short_mntu=short, actor=f"organization:{operator}", reason="By the cluster's own records",
    )  # fmt: skip


def run_at(market: Market, clock, at: str) -> None:
    clock.set(at)
    settling.settle_all(market)


# Figures


def test_a_mismatch_of_three_settles_at_the_gateways_figure_and_is_raised(market, clock) -> None:
    figure(SELLER, 2 * USED, clock.at)
    figure(BUYER, USED // 2, clock.at)
    before = models.Transfer.objects.count()
    run_at(market, clock, FINAL_AT)
    (found,) = models.DeliveryDifference.objects.all()
    assert (found.run_id, found.gateway_mntu, found.seller_mntu, found.holder_mntu) == (
        FINAL,
        USED,
        2 * USED,
        USED // 2,
    )
    assert models.Transfer.objects.filter(code__in=(30, 31)).count() == 0
    assert models.Transfer.objects.count() >= before
    for organization in (SELLER, BUYER):
        (seen,) = deliveries.deliveries(organization)
        assert seen.is_different
        assert (seen.gateway_mntu, seen.seller_mntu, seen.holder_mntu) == (
            USED,
            2 * USED,
            USED // 2,
        )
        assert seen.state == "final"


@pytest.mark.parametrize(
    ("said", "is_raised"),
    [
        ({}, False),
        ({SELLER: USED, BUYER: USED}, False),
        ({SELLER: USED + USED // 100}, False),
        ({SELLER: USED + USED // 100 + 1_000}, True),
        ({BUYER: 0}, True),
        ({SELLER: USED, BUYER: USED // 2}, True),
    ],
)
def test_a_difference_is_raised_for_every_case_beyond_a_hundredth(
    market, clock, said: dict[int, int], is_raised: bool
) -> None:
    for organization, mntu in said.items():
        figure(organization, mntu, clock.at)
    run_at(market, clock, FINAL_AT)
    run_at(market, clock, REVISION_AT)
    assert models.DeliveryDifference.objects.count() == is_raised


def test_the_latest_figure_of_a_party_stands(market, clock) -> None:
    figure(SELLER, 9 * USED, clock.at)
    figure(SELLER, USED, clock.at)
    run_at(market, clock, FINAL_AT)
    assert not models.DeliveryDifference.objects.exists()


def test_figures_are_taken_from_the_hours_end_until_its_day_is_settled(market, clock) -> None:
    for at in ("2026-12-01T14:59:59Z", "2026-12-02T02:00:00Z"):
        with pytest.raises(disputes.FiguresClosed):
            figure(SELLER, 1, market_clock.to_micros(_moment(at)))
    assert figure(SELLER, 1, market_clock.to_micros(_moment("2026-12-02T01:59:59Z"))).pk
    with pytest.raises(errors.NotFound):
        figure(OTHER, 1, clock.at)


def _moment(text: str):
    return datetime.fromisoformat(text)


# Disputes


def test_an_upheld_dispute_is_posted_by_the_last_run(market, clock) -> None:
    run_at(market, clock, FINAL_AT)
    dispute = object_to(clock.at)
    decided = uphold(dispute, OPERATOR, WHOLE)
    assert (decided.state, decided.moves_micros) == ("UPHELD", PER_INTERVAL + DAMAGES)
    run_at(market, clock, REVISION_AT)
    (correction,) = models.DeliveryCorrection.objects.all()
    assert (correction.run, correction.delivery_micros, correction.damages_micros) == (
        REVISION,
        -PER_INTERVAL,
        -DAMAGES,
    )
    dispute.refresh_from_db()
    assert (dispute.state, dispute.run_id) == ("SETTLED", REVISION)
    assert dispute.opened_at <= dispute.decided_at < dispute.settled_at
    assert catalog.AuditEntry.objects.get().action == "dispute_upheld"


def test_a_dispute_that_is_upheld_before_the_final_run_is_settled_by_it(market, clock) -> None:
    dispute = object_to(clock.at)
    uphold(dispute, OPERATOR, WHOLE)
    run_at(market, clock, FINAL_AT)
    dispute.refresh_from_db()
    assert (dispute.state, dispute.run_id) == ("SETTLED", FINAL)
    assert models.DeliveryCorrection.objects.get().delivery_micros == -PER_INTERVAL


def test_what_moves_much_takes_a_second_operator_who_names_the_same(
    market, clock, monkeypatch
) -> None:
    monkeypatch.setattr(disputes, "DECIDED_ALONE_MICROS_MAX", PER_INTERVAL + DAMAGES - 1)
    dispute = object_to(clock.at)
    assert uphold(dispute, OPERATOR, WHOLE).state == "PROPOSED"
    with pytest.raises(disputes.SecondOperatorRequired):
        uphold(dispute, OPERATOR, WHOLE)
    assert not models.DeliveryRevision.objects.exists()
    other = uphold(dispute, SECOND, WHOLE, 1_000_000)
    assert (other.state, other.proposed_by) == ("UPHELD", None), "that moves less"
    assert models.DeliveryRevision.objects.get().short_mntu == 1_000_000


def test_the_second_operator_confirms(market, clock, monkeypatch) -> None:
    monkeypatch.setattr(disputes, "DECIDED_ALONE_MICROS_MAX", 0)
    dispute = object_to(clock.at)
    uphold(dispute, OPERATOR, WHOLE)
    decided = uphold(dispute, SECOND, WHOLE)
    assert (decided.state, decided.proposed_by, decided.decided_by) == (
        "UPHELD",
        OPERATOR,
        SECOND,
    )
    actions = list(catalog.AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["dispute_proposed", "dispute_upheld"]


def test_a_rejected_dispute_changes_nothing(market, clock) -> None:
    dispute = object_to(clock.at)
    rejected = rulings.reject(
        dispute_id=dispute.pk, organization_id=OPERATOR, actor="a", reason="As metered"
    )
    assert (rejected.state, rejected.decision) == ("REJECTED", "As metered")
    run_at(market, clock, FINAL_AT)
    run_at(market, clock, REVISION_AT)
    assert not models.DeliveryCorrection.objects.exists()
    with pytest.raises(disputes.DisputeClosed):
        uphold(dispute, OPERATOR, WHOLE)


def test_what_nobody_decided_lapses_with_the_last_run_and_not_before(market, clock) -> None:
    dispute = object_to(clock.at)
    run_at(market, clock, FINAL_AT)
    dispute.refresh_from_db()
    assert dispute.state == "OPEN"
    run_at(market, clock, REVISION_AT)
    dispute.refresh_from_db()
    assert (dispute.state, dispute.run_id) == ("LAPSED", REVISION)
    with pytest.raises(disputes.DisputeClosed):
        uphold(dispute, OPERATOR, WHOLE)
    assert not models.DeliveryCorrection.objects.exists()


def test_a_dispute_has_a_deadline(market, clock) -> None:
    deadline = market_clock.to_micros(_moment(DEADLINE))
    assert disputes.disputed_until(models.Allocation.objects.get().starts_at) == deadline
    with pytest.raises(disputes.TooLate):
        object_to(deadline)
    assert object_to(deadline - 1).state == "OPEN"


def test_who_is_no_party_cannot_dispute_or_withdraw_and_a_party_does_not_decide(
    market, clock
) -> None:
    with pytest.raises(errors.NotFound):
        object_to(clock.at, organization=OTHER)
    dispute = object_to(clock.at)
    with pytest.raises(errors.NotFound):
        disputes.withdraw_dispute(organization_id=BUYER, dispute_id=dispute.pk, at=clock.at)
    for party in (BUYER, SELLER):
        with pytest.raises(disputes.OwnDispute):
            uphold(dispute, party, WHOLE)
    withdrawn = disputes.withdraw_dispute(
        organization_id=SELLER, dispute_id=dispute.pk, at=clock.at
    )
    assert withdrawn.state == "WITHDRAWN"
    with pytest.raises(disputes.DisputeClosed):
        disputes.withdraw_dispute(organization_id=SELLER, dispute_id=dispute.pk, at=clock.at)


def test_an_interval_is_under_one_open_dispute_at_a_time(market, clock) -> None:
    object_to(clock.at, 1, 2)
    with pytest.raises(disputes.AlreadyDisputed):
        object_to(clock.at, 2, 3, organization=BUYER)
    assert object_to(clock.at, 3, organization=BUYER).intervals == [3]


@pytest.mark.parametrize(("available", "short"), [(WHOLE + 1, 0), (0, WHOLE + 1), (-1, 0)])
def test_no_interval_is_decided_to_have_had_more_than_it_can(
    market, clock, available: int, short: int
) -> None:
    dispute = object_to(clock.at)
    with pytest.raises(errors.Malformed):
        uphold(dispute, OPERATOR, available, short)


def test_disputes_are_decided_once_by_whoever_is_first(market, clock) -> None:
    dispute = object_to(clock.at)
    with transaction.atomic():
        disputes.reject(dispute_id=dispute.pk, operator_id=OPERATOR, reason="No", at=clock.at)
    with pytest.raises(disputes.DisputeClosed):
        uphold(dispute, SECOND, WHOLE)
