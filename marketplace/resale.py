"""Standing resale instructions: what a holder will not use is sold again, above its floor price.

Once an hour every instruction is looked at. For each hour of its grade that still trades and that
the holder is long of, it keeps what the holder is expected to use and what the holder said to keep,
and offers the rest by an order like any other. The expectation is the mean of what was metered in
the same hour of the last seven days, rounded up to whole lots; where nothing was ever used there is
none, and nothing is offered.

An hour is offered at its mark, so that a resting offer gives nothing away, and in the last hour of
its trading at the floor, because capacity that is not sold by then is worth nothing; never below
the floor. Orders are reduce-only: they can sell what is held and no more, and leave by themselves
when that shrinks. What still rests as it should keeps its place in the queue. Client order ids are
made of instruction, hour and look, so a look that is repeated finds its orders again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import QuerySet

from admission import queries as admission_queries
from exchange import commands
from exchange import models as exchange_models
from exchange import operations as exchange_operations
from marketplace import clock, contract, errors, models, queries
from settlement import models as settlement_models

FORECAST_DAYS = 7
LAST_CALL = contract.HOUR
"""Before an hour's trading ends, how long its surplus is offered at the floor."""
COMMANDS_MAX = 200
_OUTAGE = 500
_LIVE = (exchange_models.Order.Status.OPEN, exchange_models.Order.Status.PARTIALLY_FILLED)
_CALL = models.Instrument.State.CALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an instruction wants to rest in one book: no lots, where nothing is to be offered."""

    symbol: str
    price_ticks: int
    lots: int


def expected_lots(used_mntu: Mapping[int, int], starts_at: int) -> int | None:
    """Return the lots that will be used of an hour, by what was used of each hour before it.

    The mean of the same hour on each of the last seven days since the first use, rounded up; None
    where there is no such day.
    """
    first = min((hour for hour, mntu in used_mntu.items() if mntu), default=None)
    days = [
        starts_at - day * contract.DAY
        for day in range(1, FORECAST_DAYS + 1)
        if first is not None and starts_at - day * contract.DAY >= contract.hour_start(first)
    ]
    if not days:
        return None
    total = sum(used_mntu.get(hour, 0) for hour in days)
    return -(-total // (len(days) * contract.MNTU_PER_LOT_HOUR))


def offer_price(*, mark: int, floor: int, band: tuple[int, int], left: int) -> int | None:
    """Return at which price surplus is offered, or None where the band is below the floor.

    `left` is for how long the hour still trades, in microseconds.
    """
    low, high = band
    if floor > high:
        return None
    wanted = floor if left <= LAST_CALL else max(floor, mark)
    return max(low, min(high, wanted))


def write(
    *, organization_id: int, grade: str, floor_price_ticks: int, forecast: str, kept_lots: int
) -> models.ResaleInstruction:
    """Write an instruction in the caller's transaction; it takes the place of the grade's last.

    :raises NotFound: when no such grade is listed.
    """
    queries.grade(grade)
    models.Organization.objects.select_for_update().get(pk=organization_id)
    now = clock.now()
    active(organization_id).filter(grade_id=grade).update(
        state=models.ResaleInstruction.State.STOPPED, stopped_at=now
    )
    return models.ResaleInstruction.objects.create(
        organization_id=organization_id,
        grade_id=grade,
        floor_price_ticks=floor_price_ticks,
        forecast=forecast,
        kept_lots=kept_lots,
        state=models.ResaleInstruction.State.ACTIVE,
        created_at=now,
    )


def active(organization_id: int) -> QuerySet[models.ResaleInstruction]:
    """Return the instructions of an organization that are followed."""
    return models.ResaleInstruction.objects.filter(
        organization_id=organization_id, state=models.ResaleInstruction.State.ACTIVE
    ).order_by("id")


def instruction_of(*, organization_id: int, instruction_id: int) -> models.ResaleInstruction:
    """Return an instruction of the organization.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = models.ResaleInstruction.objects.filter(
        organization_id=organization_id, pk=instruction_id
    ).first()
    if found is None:
        raise errors.NotFound()
    return found


def stop(instruction: models.ResaleInstruction) -> models.ResaleInstruction:
    """Follow an instruction no longer and cancel what it offers.

    :raises Unavailable: when the engine is away; asked again, the rest is canceled.
    """
    if instruction.state == models.ResaleInstruction.State.ACTIVE:
        instruction.state = models.ResaleInstruction.State.STOPPED
        instruction.stopped_at = clock.now()
        instruction.save(update_fields=["state", "stopped_at"])
    _submit(_cancel(instruction.organization_id, _orders(instruction)))
    return instruction


def look_at_all(at: int) -> int:
    """Bring what every instruction offers in line with its wishes; return how many there are.

    :raises Refusal: when the engine is away; what was done then is found again.
    """
    instructions = list(
        models.ResaleInstruction.objects.filter(
            state=models.ResaleInstruction.State.ACTIVE
        ).order_by("id")
    )
    replaced = exchange_models.Order.objects.filter(
        client_order_id__startswith="resale:", status__in=_LIVE
    ).order_by("id")
    known = {_name(one) for one in instructions}
    gone = [row for row in replaced if row.client_order_id.rsplit(":", 2)[0] not in known]
    for organization in sorted({row.organization_id for row in gone}):
        own = [row for row in gone if row.organization_id == organization]
        _submit(_cancel(organization, own))
    for instruction in instructions:
        look(instruction, at)
    return len(instructions)


def look(instruction: models.ResaleInstruction, at: int) -> int:
    """Bring what one instruction offers in line with its wishes; return the lots on offer.

    :raises Refusal: when the engine is away.
    """
    resting: dict[str, list[exchange_models.Order]] = {}
    for row in _orders(instruction):
        resting.setdefault(row.symbol, []).append(row)
    batch: list[commands.Asked] = []
    offered = 0
    for wish in wishes(instruction, at):
        own = resting.pop(wish.symbol, [])
        offered += wish.lots
        if [(one.price_ticks, one.lots - one.filled_lots) for one in own] == [
            (wish.price_ticks, wish.lots)
        ]:
            continue
        batch += _cancel(instruction.organization_id, own)
        if wish.lots:
            batch.append(_order(instruction, wish, at))
    for own in resting.values():
        batch += _cancel(instruction.organization_id, own)
    _submit(batch)
    models.ResaleInstruction.objects.filter(pk=instruction.pk).update(
        looked_at=clock.to_datetime(at), offered_lots=offered
    )
    return offered


def wishes(instruction: models.ResaleInstruction, at: int) -> list[Wish]:
    """Return what an instruction wants to offer in each hour that may still be changed."""
    organization, grade = instruction.organization_id, instruction.grade_id
    held = {
        row.symbol: row.net_lots
        for row in settlement_models.Position.objects.filter(
            organization_id=organization, net_lots__gt=0
        )
    }
    rows = models.Instrument.objects.filter(
        grade_id=grade,
        product=contract.Product.HOUR,
        symbol__in=list(held),
        state__in=[_CALL, models.Instrument.State.CONTINUOUS],
        trading_ends_at__gt=clock.to_datetime(at),
    ).order_by("starts_at", "id")
    frozen = set(
        exchange_models.Auction.objects.filter(
            symbol__in=list(held), frozen_at__lte=clock.to_datetime(at)
        ).values_list("symbol", flat=True)
    )
    used = _used(organization, grade, at)
    others = _other_sales(instruction)
    found = []
    for row in rows:
        if row.state == _CALL and row.symbol in frozen:
            continue
        kept: int | None = instruction.kept_lots
        if instruction.forecast == models.ResaleInstruction.Forecast.LAST_WEEK_SAME_HOUR:
            expected = expected_lots(used, clock.to_micros(row.starts_at))
            kept = None if expected is None else max(instruction.kept_lots, expected)
        price = offer_price(
            mark=row.mark_price_ticks or row.reference_price_ticks,
            floor=instruction.floor_price_ticks,
            band=(row.band_low_ticks, row.band_high_ticks),
            left=clock.to_micros(row.trading_ends_at) - at,
        )
        lots = 0
        if kept is not None and price is not None:
            lots = max(0, held[row.symbol] - kept - others.get(row.symbol, 0))
        found.append(Wish(symbol=row.symbol, price_ticks=price or 0, lots=lots))
    return found


def _used(organization: int, grade: str, at: int) -> dict[int, int]:
    """Return what was metered in each hour of the last days, in mNTU by its start."""
    until = clock.to_datetime(contract.hour_start(at))
    rows = admission_queries.usage(
        organization, since=until - timedelta(days=FORECAST_DAYS), until=until
    )
    used: dict[int, int] = {}
    for row in rows:
        if row.grade == grade:
            starts_at = clock.to_micros(row.starts_at)
            used[starts_at] = used.get(starts_at, 0) + row.mntu
    return used


def _other_sales(instruction: models.ResaleInstruction) -> dict[str, int]:
    """Return the lots that the holder offers by orders of its own, by symbol."""
    rows = exchange_models.Order.objects.filter(
        organization_id=instruction.organization_id,
        side=contract.Side.SELL,
        status__in=[*_LIVE, exchange_models.Order.Status.UNTRIGGERED],
    ).exclude(client_order_id__startswith=f"{_name(instruction)}:")
    sold: dict[str, int] = {}
    for row in rows:
        sold[row.symbol] = sold.get(row.symbol, 0) + row.lots - row.filled_lots
    return sold


def _orders(instruction: models.ResaleInstruction) -> list[exchange_models.Order]:
    """Return the live orders that an instruction has placed, oldest first."""
    return list(
        exchange_models.Order.objects.filter(
            organization_id=instruction.organization_id,
            client_order_id__startswith=f"{_name(instruction)}:",
            status__in=_LIVE,
        ).order_by("id")
    )


def _name(instruction: models.ResaleInstruction) -> str:
    """Return how the client order ids of an instruction begin."""
    return f"resale:{instruction.pk}"


def _cancel(
    organization: int, orders: Iterable[exchange_models.Order]
) -> list[commands.CancelOrder]:
    return [commands.CancelOrder(account=organization, order=order.pk) for order in orders]


def _order(instruction: models.ResaleInstruction, wish: Wish, at: int) -> commands.PlaceOrder:
    return exchange_operations.place_command(
        organization=instruction.organization_id,
        instrument=wish.symbol,
        side=contract.Side.SELL,
        price_ticks=wish.price_ticks,
        lots=wish.lots,
        client_order_id=f"{_name(instruction)}:{wish.symbol}:{at}",
        terms=commands.Terms(reduce_only=True),
    )


def _submit(batch: "list[commands.Asked] | list[commands.CancelOrder]") -> None:
    """:raises Refusal: when the engine is away; rules that refuse a single order are its own."""
    for start in range(0, len(batch), COMMANDS_MAX):
        for outcome in exchange_operations.submit(batch[start : start + COMMANDS_MAX]):
            if isinstance(outcome, errors.Refusal) and outcome.status >= _OUTAGE:
                raise outcome
