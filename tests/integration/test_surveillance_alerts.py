"""Surveillance: what traders do reaches an alert within one pass, once, and staff decide on it."""

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.test import Client

from exchange import commands, surveillance, tasks
from exchange.models import SurveillanceAlert, Trade
from marketplace import clock as market_clock
from marketplace import errors
from marketplace.models import AuditEntry, Membership, Organization
from settlement import jobs, kinds, models, slots
from tests.market import BUYER, CLUSTER, HOUR, OTHER, SELLER, Market, buy, sell

MINUTE = market_clock.MINUTE


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)


def trade(market: Market, seller: int, buyer: int, lots: int, price: int = 1_250) -> None:
    number = Trade.objects.count()
    market.execute(sell(seller, price, lots, f"s{number}"))
    market.execute(buy(buyer, price, lots, f"b{number}"))
    assert Trade.objects.count() == number + 1


def can_sell(market: Market, account: int) -> None:
    market.certify(account, CLUSTER + account, 1_000)


def wash(market: Market, lots: int = 40) -> None:
    """The buyer and the seller pass lots to each other and back."""
    can_sell(market, BUYER)
    trade(market, SELLER, BUYER, lots)
    trade(market, BUYER, SELLER, lots)


def passes() -> None:
    """Let the job do what is due."""
    jobs.sweep()
    jobs.work(kinds.NORMAL)
    assert not models.Job.objects.exclude(error="").exists()


def alerts(**only: object) -> list[SurveillanceAlert]:
    return list(SurveillanceAlert.objects.filter(**only).order_by("id"))


def test_a_wash_through_two_colluding_organizations_is_an_alert_after_one_pass(
    market: Market, clock
) -> None:
    passes()
    clock.advance(seconds=10)
    wash(market)
    trade(market, SELLER, OTHER, 10)
    clock.advance(seconds=50)
    passes()

    (alert,) = alerts(kind="WASH")
    assert (alert.symbol, alert.organizations) == (HOUR, [BUYER, SELLER])
    assert (alert.slot, alert.subject) == ("20261201T09Z", f"{HOUR}:{BUYER}+{SELLER}")
    assert market_clock.to_micros(alert.window_ends_at) == clock.at
    assert alert.evidence == {
        "groups": [BUYER, SELLER],
        "lots": 80,
        "round_trip_lots": 80,
        "volume": 90,
        "trades": 2,
    }
    assert (alert.state, alert.decided_at) == ("OPEN", None)


def test_an_alert_is_written_once_however_often_the_pass_runs(market: Market, clock) -> None:
    wash(market)
    until = clock.advance(seconds=60)
    for _ in range(2):
        surveillance.scan(since=until - MINUTE, until=until)
    trade(market, SELLER, BUYER, 5)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    assert [alert.kind for alert in alerts()] == ["WASH"]


def test_passes_that_were_missed_are_made_up_for_in_one(market: Market, clock) -> None:
    clock.set("2026-12-01T09:01Z")
    passes()
    clock.set("2026-12-01T09:05Z")
    wash(market)
    clock.set("2026-12-01T11:30Z")
    passes()
    (alert,) = alerts(kind="WASH")
    assert alert.slot == "20261201T09Z"
    assert slots.hour_text(market_clock.to_micros(alert.window_ends_at)) == "20261201T09Z"
    assert models.Job.objects.filter(kind=tasks.SURVEILLANCE).count() == 2


def test_a_batch_that_was_committed_after_the_pass_is_seen_by_the_next(
    market: Market, clock
) -> None:
    until = clock.set("2026-12-01T09:01Z")
    clock.set(until - 1)
    wash(market)
    surveillance.scan(since=until, until=until + MINUTE)
    assert [alert.kind for alert in alerts()] == ["WASH"]


def test_trade_that_goes_one_way_is_no_wash(market: Market, clock) -> None:
    trade(market, SELLER, BUYER, 20)
    trade(market, SELLER, OTHER, 20)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    assert alerts() == []


def test_two_groups_with_one_user_that_deal_with_each_other_are_shown(
    market: Market, clock
) -> None:
    user = get_user_model().objects.create_user("both@example.com", "x", created_at=clock_now())
    for account in (BUYER, SELLER):
        owner = Organization.objects.create(
            id=account, name=f"o{account}", skeleton=f"o{account}", group=account,
            role="BUYER", created_at=clock_now(),
        )  # fmt: skip
        Membership.objects.create(
            user=user, organization=owner, role="OWNER", created_at=clock_now()
        )
    trade(market, SELLER, BUYER, 3)
    trade(market, SELLER, OTHER, 3)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    (alert,) = alerts()
    assert (alert.kind, alert.organizations) == ("SELF_DEALING", [BUYER, SELLER])
    assert alert.evidence == {"lots": 3, "shared_users": [user.pk]}


def clock_now():
    return market_clock.now()


def test_a_corner_is_shown_by_what_was_bought_and_by_what_is_held(market: Market, clock) -> None:
    trade(market, SELLER, OTHER, 20)
    trade(market, SELLER, BUYER, 60)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    assert [(a.kind, a.organizations, a.evidence) for a in alerts()] == [
        (
            "CONCENTRATION",
            [BUYER],
            {"group": BUYER, "measure": measure, "lots": 60, "of": 80},
        )
        for measure in ("volume", "interest")
    ]


def test_one_group_is_measured_as_one_whatever_it_calls_itself(market: Market, clock) -> None:
    for account in (BUYER, OTHER):
        Organization.objects.create(
            id=account, name=f"o{account}", skeleton=f"o{account}", group=BUYER,
            role="BUYER", created_at=clock_now(),
        )  # fmt: skip
    trade(market, SELLER, BUYER, 30)
    trade(market, SELLER, OTHER, 30)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    assert {tuple(alert.organizations) for alert in alerts()} == {(BUYER, OTHER)}


def test_layers_that_were_never_meant_to_trade_are_shown(market: Market, clock) -> None:
    can_sell(market, OTHER)
    names = [f"layer{level}" for level in range(10)]
    placed = market.execute(
        *(buy(OTHER, 1_240 - level, 20, name) for level, name in enumerate(names))
    )
    trade(market, OTHER, BUYER, 4)
    trade(market, SELLER, BUYER, 4)
    market.execute(*(commands.CancelOrder(OTHER, events[0].order) for events in placed))
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    (alert,) = alerts()
    assert (alert.kind, alert.organizations) == ("LAYERING", [OTHER])
    assert alert.evidence == {
        "group": OTHER,
        "side": "buy",
        "orders": 10,
        "lots": 200,
        "traded_lots": 4,
    }


def test_the_mark_and_the_alert_look_at_the_same_half_hour(market: Market, clock) -> None:
    passes()
    trade(market, SELLER, OTHER, 10, 1_240)
    clock.set("2026-12-01T09:31Z")
    trade(market, SELLER, OTHER, 10, 1_255)
    can_sell(market, BUYER)
    trade(market, SELLER, BUYER, 40, 1_300)
    trade(market, BUYER, SELLER, 40, 1_300)
    clock.set("2026-12-01T10:00Z")
    passes()
    market.execute(commands.Tick())
    mark = models.Mark.objects.filter(symbol=HOUR).order_by("-id").first()
    assert (mark.price_ticks, mark.method) == (1_255, "trades")
    assert [alert.kind for alert in alerts(kind="WASH")] == ["WASH"]


def test_staff_decide_on_an_alert_once_and_leave_a_reason(market: Market, clock) -> None:
    user = get_user_model().objects.create_superuser(
        "staff@example.com", "correct horse battery", created_at=clock_now()
    )
    staff = Client()
    staff.force_login(user)
    wash(market)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    (alert,) = alerts()
    path = "/admin/exchange/surveillancealert/"
    given = {"_selected_action": [str(alert.pk)], "action": "confirm"}
    assert "Reason, for the audit trail" in staff.post(path, given).content.decode()
    staff.post(path, {**given, "reason": "the same people"})
    again = staff.post(
        path, {**given, "action": "dismiss", "reason": "changed my mind"}, follow=True
    )

    alert.refresh_from_db()
    entry = AuditEntry.objects.get()
    assert (alert.state, alert.decided_by, alert.reason) == (
        "CONFIRMED",
        "staff@example.com",
        "the same people",
    )
    assert (entry.action, entry.target) == ("confirm_alert", f"alert:{alert.pk}")
    assert (entry.actor, entry.reason) == ("staff@example.com", "the same people")
    assert "confirmed by staff@example.com" in again.content.decode()


def test_the_database_keeps_undecided_and_decided_apart(market: Market, clock) -> None:
    wash(market)
    until = clock.advance(seconds=60)
    surveillance.scan(since=until - MINUTE, until=until)
    with pytest.raises(IntegrityError, match="alert_is_decided_by_somebody"), transaction.atomic():
        SurveillanceAlert.objects.update(state="DISMISSED")
    with pytest.raises(errors.NotFound):
        surveillance.decide(alert_id=1_000_000, confirmed=True, actor="a", reason="r")
