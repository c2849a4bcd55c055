"""Surveillance: what the tape shows that somebody should look at, written down once.

The patterns are `settlement.surveillance`; here rows are read, alerts are stored, and what staff
made of one is kept. A pass looks at each minute in which something traded since the last pass, over
windows that end with that minute, and a minute before again, because a batch is committed a moment
after its instant. An alert is unique by kind, clock hour and subject, so a pass that runs twice, or
a pattern that goes on, writes nothing new.

An alert stops nobody. Whoever finds one confirmed has the halts and the kill switch at hand.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db import connection, transaction

from exchange import models
from marketplace import clock, errors
from marketplace.models import AuditEntry, Membership, Organization
from settlement import slots
from settlement import surveillance as core
from settlement.models import Position
from settlement.surveillance import AlertKind

STEP = clock.MINUTE
"""Windows end with full minutes."""
WASH_WINDOW = 30 * clock.MINUTE
"""As long as what the mark looks at (RULEBOOK 3.4)."""
VOLUME_WINDOW = clock.HOUR
LAYERING_WINDOW = 5 * clock.MINUTE
ORDERS_MAX = 5_000
"""How many of an organization's latest orders are searched for withdrawn ones."""


class AlertDecided(errors.Refusal):
    """The alert was confirmed or dismissed already."""

    code, status, title = "alert_decided", 422, "The alert is decided already"


@dataclass(frozen=True, slots=True)
class Dealt:
    """A trade as the patterns want it, and the organizations of its two sides."""

    trade: core.Trade
    buyer: int
    seller: int


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An order that was canceled unfilled, when it came and when it went."""

    symbol: str
    group: int
    organization: int
    entered_at: int
    left_at: int
    order: core.Withdrawn


def scan(*, since: int, until: int) -> None:
    """Write alerts for the minutes of trading between two instants (us), in one transaction."""
    traded = _minutes_traded(since - STEP, until)
    if not traded:
        return
    groups = {row: group or row for row, group in Organization.objects.values_list("id", "group")}
    tapes = {
        symbol: _tape(symbol, ends[0] - VOLUME_WINDOW, ends[-1], groups)
        for symbol, ends in traded.items()
    }
    withdrawn = _withdrawn(tapes, traded, groups)
    members = _members(tapes.values())
    found: list[models.SurveillanceAlert] = []
    for symbol, ends in traded.items():
        own = [one for one in withdrawn if one.symbol == symbol]
        held = _held(symbol, groups)
        for end in ends:
            found += _look(symbol, end, tapes[symbol], own, members)
            found += [
                _concentration(symbol, end - VOLUME_WINDOW, end, share, held[1], "interest")
                for share in core.holds_most(held[0])
            ]
    models.SurveillanceAlert.objects.bulk_create(found, ignore_conflicts=True)


def _look(
    symbol: str,
    end: int,
    tape: list[Dealt],
    withdrawn: list[Withdrawal],
    members: dict[int, set[int]],
) -> Iterator[models.SurveillanceAlert]:
    """Yield what one instrument's trades up to an instant show."""
    dealt = _window(tape, end - WASH_WINDOW, end)
    for wash in core.round_trips([one.trade for one in dealt]).pairs:
        yield _wash(symbol, end, wash, dealt)
    yield from _self_dealing(symbol, end, dealt, members)
    hour = _window(tape, end - VOLUME_WINDOW, end)
    by_group = _by_group(hour)
    for share in core.bought_most(one.trade for one in hour):
        yield _concentration(symbol, end - VOLUME_WINDOW, end, share, by_group, "volume")
    start = end - LAYERING_WINDOW
    recent = [one.trade for one in _window(tape, start, end)]
    for group in sorted({side for trade in recent for side in trade[3:]}):
        own = [
            one
            for one in withdrawn
            if one.group == group and start <= one.entered_at and one.left_at < end
        ]
        layers = core.layering(group, [one.order for one in own], recent)
        if layers is not None:
            yield _layering(symbol, start, end, group, layers, own, by_group)


# Reading


def _minutes_traded(since: int, until: int) -> dict[str, list[int]]:
    """Return the ends of the minutes in which each instrument traded, in order."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT trade.symbol, date_bin('1 minute', trade.at, '1970-01-01Z') AS minute
            FROM marketplace_instrument instrument
            JOIN exchange_trade trade ON trade.symbol = instrument.symbol
                AND trade.at >= %(since)s AND trade.at < %(until)s
            WHERE instrument.trading_ends_at > %(since)s
            ORDER BY trade.symbol, minute
            """,
            {"since": clock.to_datetime(since), "until": clock.to_datetime(until)},
        )
        rows = cursor.fetchall()
    return {
        symbol: [clock.to_micros(minute) + STEP for _, minute in minutes]
        for symbol, minutes in groupby(rows, key=lambda row: str(row[0]))
    }


def _tape(symbol: str, since: int, until: int, groups: dict[int, int]) -> list[Dealt]:
    """Return an instrument's trades in order of time."""
    rows = models.Trade.objects.filter(
        symbol=symbol, at__gte=clock.to_datetime(since), at__lt=clock.to_datetime(until)
    ).order_by("at", "id")
    tape = []
    for at, lots, price, maker, taker, side in rows.values_list(
        "at", "lots", "price_ticks", "maker", "taker", "taker_side"
    ):
        buyer, seller = (taker, maker) if side > 0 else (maker, taker)
        trade = (
            clock.to_micros(at),
            lots,
            price,
            groups.get(buyer, buyer),
            groups.get(seller, seller),
        )
        tape.append(Dealt(trade, buyer, seller))
    return tape


def _window(tape: list[Dealt], start: int, end: int) -> list[Dealt]:
    """Return the trades at or after one instant and before another."""
    low = bisect_left(tape, start, key=lambda one: one.trade[0])
    return tape[low : bisect_left(tape, end, lo=low, key=lambda one: one.trade[0])]


def _withdrawn(
    tapes: dict[str, list[Dealt]], traded: dict[str, list[int]], groups: dict[int, int]
) -> list[Withdrawal]:
    """Return what those who traded entered and canceled unfilled, of their latest orders."""
    since = min(ends[0] for ends in traded.values()) - LAYERING_WINDOW
    people = sorted(
        {side for tape in tapes.values() for one in tape for side in (one.buyer, one.seller)}
    )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT symbol, organization_id, side, price_ticks, lots, created_at, updated_at
            FROM unnest(%(people)s::bigint[]) AS person
            CROSS JOIN LATERAL (
                SELECT * FROM exchange_order WHERE organization_id = person
                ORDER BY id DESC LIMIT %(limit)s
            ) AS latest
            WHERE status = 'CANCELED' AND filled_lots = 0 AND price_ticks IS NOT NULL
              AND created_at >= %(since)s AND symbol = ANY(%(symbols)s)
            ORDER BY latest.id
            """,
            {
                "people": people,
                "limit": ORDERS_MAX,
                "since": clock.to_datetime(since),
                "symbols": sorted(tapes),
            },
        )
        rows = cursor.fetchall()
    return [
        Withdrawal(
            symbol,
            groups.get(organization, organization),
            organization,
            clock.to_micros(entered_at),
            clock.to_micros(left_at),
            core.Withdrawn(side=side, price=price, lots=lots),
        )
        for symbol, organization, side, price, lots, entered_at, left_at in rows
    ]


def _members(tapes: Iterable[list[Dealt]]) -> dict[int, set[int]]:
    """Return the users of each organization that traded."""
    people = {side for tape in tapes for one in tape for side in (one.buyer, one.seller)}
    found: dict[int, set[int]] = {}
    rows = Membership.objects.filter(organization_id__in=people)
    for organization, user in rows.values_list("organization_id", "user_id"):
        found.setdefault(organization, set()).add(user)
    return found


def _held(symbol: str, groups: dict[int, int]) -> tuple[dict[int, int], dict[int, set[int]]]:
    """Return each group's net lots now, and its organizations that hold any."""
    net: dict[int, int] = {}
    people: dict[int, set[int]] = {}
    rows = Position.objects.filter(symbol=symbol).exclude(net_lots=0)
    for organization, lots in rows.values_list("organization_id", "net_lots"):
        group = groups.get(organization, organization)
        net[group] = net.get(group, 0) + lots
        people.setdefault(group, set()).add(organization)
    return net, people


def _by_group(dealt: Iterable[Dealt]) -> dict[int, set[int]]:
    """Return the organizations of each group that traded."""
    found: dict[int, set[int]] = {}
    for one in dealt:
        found.setdefault(one.trade[3], set()).add(one.buyer)
        found.setdefault(one.trade[4], set()).add(one.seller)
    return found


# What is written


def _alert(
    kind: AlertKind,
    symbol: str,
    window: tuple[int, int],
    subject: str,
    organizations: Iterable[int],
    **evidence: Any,
) -> models.SurveillanceAlert:
    """Return the row of a finding; its slot is the clock hour in which its window ends."""
    start, end = window
    return models.SurveillanceAlert(
        kind=kind,
        slot=slots.hour_text(end - 1),
        subject=f"{symbol}:{subject}",
        symbol=symbol,
        window_starts_at=clock.to_datetime(start),
        window_ends_at=clock.to_datetime(end),
        organizations=sorted(organizations),
        evidence=evidence,
        created_at=clock.now(),
    )


def _wash(symbol: str, end: int, wash: core.Wash, dealt: list[Dealt]) -> models.SurveillanceAlert:
    """Return the alert of a pair that passed lots round."""
    between = [one for one in dealt if tuple(sorted(one.trade[3:])) == wash.groups]
    low, high = wash.groups
    return _alert(
        AlertKind.WASH,
        symbol,
        (end - WASH_WINDOW, end),
        f"{low}+{high}",
        {side for one in between for side in (one.buyer, one.seller)},
        groups=[low, high],
        lots=wash.lots,
        round_trip_lots=wash.round_lots,
        volume=wash.volume,
        trades=len(between),
    )


def _self_dealing(
    symbol: str, end: int, dealt: list[Dealt], members: dict[int, set[int]]
) -> Iterator[models.SurveillanceAlert]:
    """Yield the alerts of organizations of two groups that share a member, or of one group."""
    lots: dict[tuple[int, int], int] = {}
    for one in dealt:
        first, second = sorted((one.buyer, one.seller))
        is_one = one.trade[3] == one.trade[4]
        if is_one or members.get(first, set()) & members.get(second, set()):
            lots[first, second] = lots.get((first, second), 0) + one.trade[1]
    for (first, second), traded in sorted(lots.items()):
        yield _alert(
            AlertKind.SELF_DEALING,
            symbol,
            (end - WASH_WINDOW, end),
            f"{first}+{second}",
            {first, second},
            lots=traded,
            shared_users=sorted(members.get(first, set()) & members.get(second, set())),
        )


def _concentration(
    symbol: str,
    start: int,
    end: int,
    share: core.Share,
    by_group: dict[int, set[int]],
    measure: str,
) -> models.SurveillanceAlert:
    """Return the alert of a group that bought or holds too much."""
    return _alert(
        AlertKind.CONCENTRATION,
        symbol,
        (start, end),
        f"{share.group}:{measure}",
        by_group[share.group],
        group=share.group,
        measure=measure,
        lots=share.lots,
        of=share.of,
    )


def _layering(
    symbol: str,
    start: int,
    end: int,
    group: int,
    layers: core.Layering,
    own: list[Withdrawal],
    by_group: dict[int, set[int]],
) -> models.SurveillanceAlert:
    """Return the alert of a group that filled and emptied one side."""
    side = "buy" if layers.side > 0 else "sell"
    return _alert(
        AlertKind.LAYERING,
        symbol,
        (start, end),
        f"{group}:{side}",
        {one.organization for one in own} | by_group[group],
        group=group,
        side=side,
        orders=layers.orders,
        lots=layers.lots,
        traded_lots=layers.traded,
    )


# What becomes of an alert


def decide(*, alert_id: int, confirmed: bool, actor: str, reason: str) -> models.SurveillanceAlert:
    """Confirm or dismiss an alert, once, and keep who did and why in the audit trail.

    :raises NotFound: when there is no such alert.
    :raises AlertDecided: when somebody has decided it before.
    """
    states = models.SurveillanceAlert.State
    with transaction.atomic():
        alert = (
            models.SurveillanceAlert.objects.select_for_update(no_key=True)
            .filter(pk=alert_id)
            .first()
        )
        if alert is None:
            raise errors.NotFound()
        if alert.state != states.OPEN:
            raise AlertDecided(f"{alert.state.lower()} by {alert.decided_by}")
        alert.state = states.CONFIRMED if confirmed else states.DISMISSED
        alert.decided_at = clock.now()
        alert.decided_by = actor
        alert.reason = reason
        alert.save(update_fields=["state", "decided_at", "decided_by", "reason"])
        AuditEntry.objects.create(
            actor=actor,
            action="confirm_alert" if confirmed else "dismiss_alert",
            target=f"alert:{alert_id}",
            reason=reason,
            details={"kind": alert.kind, "subject": alert.subject},
            at=alert.decided_at,
        )
    return alert
