"""The hourly index over REST: its values, what reproduces them, and means of longer periods.

A value has versions: the ladder's, and one more for each correction. What is shown is the one in
force, and with one hour also those before it, so that whoever settled on one of them can see why.
"""

import base64
from collections.abc import Sequence

import msgspec

from marketplace import clock, contract, errors, queries, wire
from marketplace.endpoint import Answer, Call, Empty, Endpoint, Listed
from settlement import index, index_queries, models


class IndexValue(Answer):
    """The index of one hour; `method` says by which rung of the ladder it was found.

    The first version is the ladder's. Each correction by two operators is one more, of the method
    `override`; the highest is in force.
    """

    grade: str
    hour: str
    starts_at: str
    price: str
    method: str
    version: int
    digest: str
    published_at: str


class IndexMean(Answer):
    """The mean of the hours of a period that are published: a reference, on which nothing settles.

    `hours` of `hours_max` are in it; it is final when all are and none can be corrected any more.
    """

    period: str
    starts_at: str
    ends_at: str
    mean: str
    hours: int
    hours_max: int
    is_final: bool


class IndexVersion(IndexValue):
    """`inputs` is the canonical JSON whose SHA-256 is `digest`; `inputs_base64` its bytes."""

    inputs: msgspec.Raw
    inputs_base64: str


class ListIndex(Endpoint):
    """The hourly index of a grade, the latest hour first.

    `means` are those of the day, the week (from Monday) and the month that run, and of the ones
    before them.
    """

    tag = "index"
    Query = Empty
    Item = IndexValue

    class Output(Listed[IndexValue]):
        """A page of values, with the means."""

        means: Sequence[IndexMean]

    def handle(self, call: Call, grade: str) -> Output:
        """Answer."""
        queries.grade(grade)
        rows = index_queries.index_values(grade=grade)
        after = call.page.number()
        if after is not None:
            rows = rows.filter(hour_starts_at__lt=clock.to_datetime(after))
        page: Listed[IndexValue] = call.page.page(
            rows[: call.page.fetch],
            _index_value,
            position=lambda row: [clock.to_micros(row.hour_starts_at)],
        )
        now = clock.now_micros()
        return self.Output(
            results=page.results,
            next_cursor=page.next_cursor,
            means=[
                _mean(found, now)
                for found in index_queries.index_means(grade, periods=index.reference_periods(now))
            ],
        )


class ShowIndex(Endpoint):
    """The index of one hour with the inputs that reproduce it to the digit."""

    tag = "index"

    class Output(IndexVersion):
        """The value in force; `earlier` are the versions it replaced, the latest first."""

        earlier: list[IndexVersion]

    def handle(self, call: Call, grade: str, hour: str) -> Output:
        """Answer."""
        queries.grade(grade)
        rows = index_queries.index_versions(
            grade=grade, hour_starts_at=clock.to_datetime(wire.parse_hour(hour, "hour"))
        )
        if not rows:
            raise errors.NotFound()
        first, *earlier = map(_version, rows)
        return self.Output(**msgspec.structs.asdict(first), earlier=earlier)


def _version(row: models.IndexValue) -> IndexVersion:
    """Return one version with its inputs."""
    inputs = bytes(row.inputs)
    return IndexVersion(
        **msgspec.structs.asdict(_index_value(row)),
        inputs=msgspec.Raw(inputs),
        inputs_base64=base64.b64encode(inputs).decode(),
    )


def _index_value(row: models.IndexValue) -> IndexValue:
    hour = clock.to_micros(row.hour_starts_at)
    return IndexValue(
        grade=row.grade,
        hour=wire.hour_text(hour),
        starts_at=wire.time_text(hour),
        price=wire.price_text(row.price_ticks),
        method=row.method,
        version=row.version,
        digest=bytes(row.digest).hex(),
        published_at=wire.moment_text(row.at),
    )


def _mean(found: index_queries.IndexMean, now: int) -> IndexMean:
    is_whole = found.hours == found.hours_max
    return IndexMean(
        period=found.period,
        starts_at=wire.time_text(found.starts_at),
        ends_at=wire.time_text(found.ends_at),
        mean=wire.price_text(found.mean_ticks),
        hours=found.hours,
        hours_max=found.hours_max,
        is_final=is_whole and now >= index.corrected_until(found.ends_at - contract.HOUR),
    )
