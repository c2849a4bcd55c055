"""Recomputes published values of the index from the public record, and says where they differ.

With `--from URL` it is an outsider: it asks that exchange's REST interface for the values, their
inputs and the tape, and believes nothing else. Without, it reads the same from the database, and
there it also knows the groups behind the trades.
"""

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Protocol

from django.core.management.base import BaseCommand, CommandError, CommandParser

from exchange import queries as exchange_queries
from marketplace import clock, contract, errors, models, wire
from settlement import index_check
from settlement import models as settlement_models

PAGE = 1_000
TRIES_MAX = 10
TIMEOUT_S = 30.0

Hours = dict[int, list[index_check.Value]]


class Record(Protocol):
    """Where values and trades are read from."""

    def grades(self) -> list[str]:
        """Return the codes of all grades."""
        ...

    def values(self, grade: str) -> Hours:
        """Return every version of every hour of a grade, in order."""
        ...

    def tape(self, symbol: str) -> list[index_check.Trade]:
        """Return the trades of an instrument in order."""
        ...

    def mark(self, symbol: str) -> int | None:
        """Return the last mark of an instrument in ticks; None where there is none."""
        ...


class Command(BaseCommand):
    """Prints one line per hour; the exit status is 1 when one of them differs."""

    help = "Recompute values of the index from the public record."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name what to recompute, and where the record is."""
        parser.add_argument("grade", nargs="?", default="", help="as LLAMA70B")
        parser.add_argument("hour", nargs="?", default="", help="as 20261205T14Z")
        parser.add_argument("--all", action="store_true", dest="is_all", help="every hour")
        parser.add_argument("--from", default="", dest="url", help="an exchange's address")
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(
        self,
        *args: Any,
        grade: str,
        hour: str,
        is_all: bool,
        url: str,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Recompute and compare."""
        if is_all == bool(hour) or (hour and not grade):
            raise CommandError("name a grade and an hour, or --all")
        record: Record = PublicRecord(url) if url else OwnRecord()
        wrong = count = 0
        for code in [grade] if grade else record.grades():
            values = record.values(code)
            wanted = sorted(values) if is_all else [_hour(hour)]
            for at in wanted:
                if at not in values:
                    raise CommandError(f"no index of {code} is published for {hour}")
                found = self._compare(record, code, at, values)
                wrong += bool(found)
                count += 1
                self._say(code, at, values[at][-1], found, as_json=as_json)
        if wrong:
            raise CommandError(f"{wrong} of {count} values differ from what the record gives")
        if not as_json:
            self.stdout.write(f"{count} values recomputed, all of them alike")

    def _compare(self, record: Record, grade: str, at: int, values: Hours) -> list[str]:
        """Return where an hour differs."""
        return index_check.differences(
            grade=grade,
            hour=at,
            versions=values[at],
            tape=record.tape(contract.hour_contract(grade, at).symbol),
            before={hour: versions for hour, versions in values.items() if hour != at},
            parent=record.mark(contract.day_contract(grade, contract.day_start(at)).symbol),
        )

    def _say(
        self, grade: str, at: int, value: index_check.Value, found: list[str], *, as_json: bool
    ) -> None:
        """Print what was found of an hour."""
        hour, price = wire.hour_text(at), wire.price_text(value.price)
        if as_json:
            line = {"grade": grade, "hour": hour, "price": price, "version": value.version}
            self.stdout.write(json.dumps(line | {"method": value.method, "differences": found}))
            return
        self.stdout.write(
            f"{grade} {hour} {price} {value.method:9} {'; '.join(found) or 'recomputed'}"
        )


def _hour(text: str) -> int:
    try:
        return wire.parse_hour(text, "hour")
    except errors.Malformed as refusal:
        raise CommandError(str(refusal.detail)) from None


class OwnRecord:
    """The record as this exchange's database has it."""

    def grades(self) -> list[str]:
        """Return the codes of all grades."""
        return list(models.Grade.objects.order_by("code").values_list("code", flat=True))

    def values(self, grade: str) -> Hours:
        """Return every version of every hour of a grade, in order."""
        hours: Hours = {}
        rows = settlement_models.IndexValue.objects.filter(grade=grade)
        for row in rows.order_by("hour_starts_at", "version"):
            value = index_check.Value(
                version=row.version,
                price=row.price_ticks,
                method=row.method,
                digest=bytes(row.digest),
                inputs=bytes(row.inputs),
                at=clock.to_micros(row.at),
            )
            hours.setdefault(clock.to_micros(row.hour_starts_at), []).append(value)
        return hours

    def tape(self, symbol: str) -> list[index_check.Trade]:
        """Return the trades of an instrument in order, with the groups that made them."""
        rows: list[Any] = []
        while page := exchange_queries.trades(
            symbol=symbol, limit=PAGE, before=rows[-1].id if rows else None
        ):
            rows += page
        owners = {row.maker for row in rows} | {row.taker for row in rows}
        found = models.Organization.objects.filter(pk__in=owners)
        groups = dict(found.values_list("pk", "group"))
        trades = []
        for row in reversed(rows):
            pair = (groups.get(row.taker, row.taker), groups.get(row.maker, row.maker))
            trades.append(
                index_check.Trade(
                    lots=row.lots,
                    price=row.price_ticks,
                    is_auction=row.is_auction,
                    at=clock.to_micros(row.at),
                    groups=pair if row.taker_side > 0 else pair[::-1],
                )
            )
        return trades

    def mark(self, symbol: str) -> int | None:
        """Return the last mark of an instrument in ticks; None where there is none."""
        marks = models.Instrument.objects.filter(symbol=symbol)
        return marks.values_list("mark_price_ticks", flat=True).first()


class PublicRecord:
    """The record as an exchange's REST interface shows it to anyone."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CommandError("an exchange's address begins with http:// or https://")
        self._base = f"{parts.scheme}://{parts.netloc}/api/v1/"
        self._marks: dict[str, int | None] = {}

    def grades(self) -> list[str]:
        """Return the codes of all grades."""
        return [row["code"] for row in self._list("grades")]

    def values(self, grade: str) -> Hours:
        """Return every version of every hour of a grade, in order."""
        hours: Hours = {}
        for row in self._list(f"index/{grade}"):
            shown = self._get(f"index/{grade}/{row['hour']}")
            versions = [*reversed(shown["earlier"]), shown]
            hours[wire.parse_time(row["starts_at"], "starts_at")] = [
                index_check.Value(
                    version=one["version"],
                    price=wire.parse_price(one["price"]),
                    method=one["method"],
                    digest=bytes.fromhex(one["digest"]),
                    inputs=base64.b64decode(one["inputs_base64"]),
                    at=wire.parse_time(one["published_at"], "published_at"),
                )
                for one in versions
            ]
        return hours

    def tape(self, symbol: str) -> list[index_check.Trade]:
        """Return the trades of an instrument in order."""
        rows = list(self._list(f"instruments/{symbol}/trades"))
        return [
            index_check.Trade(
                lots=row["quantity"],
                price=wire.parse_price(row["price"]),
                is_auction=row["is_auction"],
                at=wire.parse_time(row["at"], "at"),
            )
            for row in reversed(rows)
        ]

    def mark(self, symbol: str) -> int | None:
        """Return the last mark of an instrument in ticks; None where there is none."""
        if symbol not in self._marks:
            shown = self._get(f"instruments/{symbol}", may_be_absent=True)
            text = shown and shown["mark"]
            self._marks[symbol] = wire.parse_price(text) if text else None
        return self._marks[symbol]

    def _list(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield every row of a list."""
        query = {"limit": str(PAGE)}
        while True:
            page = self._get(f"{path}?{urllib.parse.urlencode(query)}")
            yield from page["results"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def _get(self, path: str, *, may_be_absent: bool = False) -> Any:
        """Return what a path answers, patiently where the exchange asks for patience."""
        for _ in range(TRIES_MAX):
            try:
                # Of the schemes that this could open, two are let in by the constructor.
                with urllib.request.urlopen(  # noqa: S310
                    self._base + path, timeout=TIMEOUT_S
                ) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code == 404 and may_be_absent:
                    return None
                if error.code not in (429, 503):
                    raise CommandError(f"{path} answers {error.code}") from None
                time.sleep(float(error.headers.get("Retry-After") or 1))
            except (urllib.error.URLError, TimeoutError) as error:
                raise CommandError(f"the exchange cannot be reached: {error}") from None
        raise CommandError(f"{path} is refused again and again")
