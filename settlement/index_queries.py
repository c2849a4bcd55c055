"""What is published of the index: values in force, their versions, and means of longer periods."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef, QuerySet

from marketplace import clock, contract
from marketplace.errors import Refusal
from settlement import index, models


class PriceUnresolved(Refusal):
    """There is no price to settle on; whatever needs it waits until two operators set one."""

    code, status, title = "price_unresolved", 422, "Price is unresolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPrice:
    """The index of an hour as it is in force; a version above 1 is a correction."""

    price_ticks: int
    version: int
    method: str
    at: datetime


def index_versions(*, grade: str, hour_starts_at: datetime) -> list[models.IndexValue]:
    """Return every value that was published of an hour, the one in force first."""
    found = models.IndexValue.objects.filter(grade=grade, hour_starts_at=hour_starts_at)
    return list(found.order_by("-version"))


def index_values(*, grade: str = "") -> QuerySet[models.IndexValue]:
    """Return the values that are in force, of a grade or of all, the latest hour first."""
    found = models.IndexValue.objects.all()
    if grade:
        found = found.filter(grade=grade)
    newer = models.IndexValue.objects.filter(
        grade=OuterRef("grade"),
        hour_starts_at=OuterRef("hour_starts_at"),
        version__gt=OuterRef("version"),
    )
    return found.exclude(Exists(newer)).order_by("-hour_starts_at", "grade", "id")


def index_price(grade: str, hour_starts_at: int) -> IndexPrice:
    """Return the index of an hour that is in force, to settle on.

    :raises PriceUnresolved: when none is published, or the ladder's is ten times off its own mark.
    """
    moment = clock.to_datetime(hour_starts_at)
    row = index_values(grade=grade).filter(hour_starts_at=moment).first()
    name = contract.hour_contract(grade, hour_starts_at).symbol
    if row is None:
        raise PriceUnresolved(f"no index of {name} is published")
    if row.method != index.Method.OVERRIDE:
        mark = index.decode(bytes(row.inputs)).mark
        if not index.is_plausible(row.price_ticks, mark):
            raise PriceUnresolved(f"the index of {name} is ten times off the mark")
    return IndexPrice(
        price_ticks=row.price_ticks, version=row.version, method=row.method, at=row.at
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMean:
    """The mean index over a day, week or month: of `hours` hours out of `hours_max`."""

    period: str
    starts_at: int
    ends_at: int
    mean_ticks: int
    hours: int

    @property
    def hours_max(self) -> int:
        """How many hours the period has."""
        return (self.ends_at - self.starts_at) // contract.HOUR


def index_means(grade: str, *, periods: Sequence[tuple[str, int, int]]) -> list[IndexMean]:
    """Return the mean of each (name, start, end) in which hours of the grade were published."""
    if not periods:
        return []
    first, last = min(period[1] for period in periods), max(period[2] for period in periods)
    values = index_values(grade=grade).filter(
        hour_starts_at__gte=clock.to_datetime(first), hour_starts_at__lt=clock.to_datetime(last)
    )
    prices = [
        (clock.to_micros(at), price)
        for at, price in values.values_list("hour_starts_at", "price_ticks")
    ]
    means = []
    for name, starts_at, ends_at in periods:
        own = [price for at, price in prices if starts_at <= at < ends_at]
        if own:
            means.append(
                IndexMean(
                    period=name,
                    starts_at=starts_at,
                    ends_at=ends_at,
                    mean_ticks=index.mean(own),
                    hours=len(own),
                )
            )
    return means
