"""Statements of a month: they add up to the ledger, are made once, and read the same everywhere."""

import base64
import csv
import io
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from types import SimpleNamespace

import msgspec
import pytest
import valkey as valkey_client
from django.db import connection, transaction

from marketplace import clock as market_clock
from marketplace import errors, months
from marketplace import models as catalog
from settlement import jobs, models, monthly, posting, statement_forms
from tests import settling
from tests.market import BUYER, OTHER, SELLER, Market
from tests.settling import BAD, LOTS, PER_INTERVAL, PRICE, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

DECEMBER, NOVEMBER, JANUARY = date(2026, 12, 1), date(2026, 11, 1), date(2027, 1, 1)
NAMES = {BUYER: "Acme", SELLER: "Nordlicht Räume", OTHER: "Idle"}


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    for number, name in NAMES.items():
        catalog.Organization.objects.create(
            id=number, name=name, skeleton=name.casefold(), role="BUYER", group=number,
            created_at=datetime(2026, 11, 20, tzinfo=UTC),
        )  # fmt: skip
    with settling.only_settlements_kinds():
        market = Market(valkey)
        market.take_over()
        clock.set("2026-12-01T12:30Z")
        market.open()
        settling.deliver(market, clock)
        models.DeliveryRevision.objects.create(
            allocation_id=1, interval=BAD, source="REVIEW", available_mntu=WHOLE, short_mntu=0,
            delivered_mntu=0, at=market_clock.now(),
        )  # fmt: skip
        clock.set("2026-12-02T02:00:01Z")
        settling.settle_all(market)
        yield market
        market.close()


def sums(account: int, since: str, until: str) -> dict[int, tuple[int, int]]:
    """Count and net amount by code, by a query of the test's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT code, count(*), sum(CASE WHEN credit_account = %s THEN amount ELSE -amount END)"
            " FROM settlement_transfer WHERE %s IN (credit_account, debit_account)"
            " AND phase IN (0, 2) AND at >= %s AND at < %s GROUP BY code",
            [account, account, since, until],
        )
        return {code: (count, int(net)) for code, count, net in cursor.fetchall()}


@pytest.mark.parametrize("organization", NAMES)
def test_a_statement_adds_up_to_the_ledger_account_by_account(market, organization: int) -> None:
    month = months.statement(organization, DECEMBER)
    assert [part.account for part in month.accounts] == ["cash", "escrow", "usage_hold"]
    for part, kind in zip(month.accounts, (1, 2, 3), strict=True):
        account = organization * 64 + kind
        expected = sums(account, "2026-12-01T00:00Z", "2027-01-01T00:00Z")
        shown = {
            monthly.Code[one.code.upper()]: (one.count, one.total_micros) for one in part.movements
        }
        assert shown == expected
        assert part.opening_micros == 0
        assert part.closing_micros == sum(net for _, net in expected.values())
        row = models.Account.objects.filter(id=account).first()
        assert part.closing_micros == (row.credits - row.debits if row else 0)


def test_trades_days_and_corrections_explain_the_movements(market) -> None:
    bought, sold = (months.statement(who, DECEMBER) for who in (BUYER, SELLER))
    (trade,) = bought.trades
    notional = 60 * PRICE * LOTS
    assert (trade.grade, trade.product, trade.count) == ("LLAMA70B", "hour", 1)
    assert (trade.bought_lots, trade.sold_lots, trade.bought_micros) == (LOTS, 0, notional)
    assert trade.fees_micros == notional * 20 // 10_000
    (other,) = sold.trades
    assert (other.bought_lots, other.sold_lots, other.sold_micros) == (0, LOTS, notional)
    (day,) = bought.days
    assert (day.date, day.role, day.intervals) == ("2026-12-01", "holder", 12)
    assert (day.released_micros, day.refunded_micros) == (-11 * PER_INTERVAL, PER_INTERVAL)
    (seen,) = sold.days
    assert (seen.role, seen.released_micros, seen.refunded_micros) == (
        "seller",
        11 * PER_INTERVAL,
        0,
    )
    assert seen.compensated_micros == -day.compensated_micros < 0
    (correction,) = bought.corrections
    assert (correction.run, correction.role, correction.deliveries) == (
        "LLAMA70B/20261201/final",
        "holder",
        1,
    )
    assert correction.delivery_micros == -PER_INTERVAL
    assert sold.corrections[0].delivery_micros == PER_INTERVAL


def test_damages_that_no_interval_paid_stand_on_the_day_of_their_instrument(market) -> None:
    before = {who: months.statement(who, DECEMBER).days for who in (BUYER, SELLER)}
    with transaction.atomic(), connection.cursor() as cursor:
        head = posting.lock_chain(cursor, "cash")
        paid = SimpleNamespace(
            debit_owner=SELLER, debit_kind=1, credit_owner=BUYER, credit_kind=1, amount=77, code=8,
            cause="slots:LLAMA70B.P0.20261203T14Z",
        )  # fmt: skip
        posting.post_cash(cursor, [paid], at=market_clock.now_micros(), expected_sequence=head)
    for who, role, amount in ((BUYER, "holder", 77), (SELLER, "seller", -77)):
        *same, added = months.statement(who, DECEMBER).days
        assert tuple(same) == before[who]
        assert (added.date, added.grade, added.role) == ("2026-12-03", "LLAMA70B", role)
        assert (added.compensated_micros, added.intervals) == (amount, 0)


def test_a_month_in_which_nothing_happened_has_a_statement_of_nothing(market) -> None:
    month = months.statement(BUYER, NOVEMBER)
    assert month.is_closed
    assert month.trades == month.days == month.corrections == ()
    for part in month.accounts:
        assert (part.opening_micros, part.movements, part.closing_micros) == (0, (), 0)
    assert statement_forms.to_pdf(month).startswith(b"%PDF-")
    idle = months.statement(OTHER, DECEMBER)
    assert [one.code for one in idle.accounts[0].movements] == ["deposit"]


def test_months_before_an_organization_was_there_or_that_are_to_come_have_none(market) -> None:
    assert months.months(BUYER) == [DECEMBER, NOVEMBER]
    for month in (date(2026, 10, 1), JANUARY):
        with pytest.raises(errors.NotFound):
            months.statement(BUYER, month)


def test_statements_are_made_once_when_the_month_is_over_and_stay_as_they_were(
    market, clock
) -> None:
    clock.set("2027-01-01T00:00:01Z")
    with pytest.raises(errors.Unavailable):
        months.close_month(DECEMBER, at=market_clock.now())
    market.work()
    assert months.close_month(DECEMBER, at=market_clock.now()) == 3
    made = list(models.MonthlyStatement.objects.order_by("organization_id").values())
    assert [row["organization_id"] for row in made] == [BUYER, SELLER, OTHER]
    catalog.Organization.objects.filter(id=BUYER).update(name="Acme Renamed")
    assert months.close_month(DECEMBER, at=market_clock.now()) == 0
    assert list(models.MonthlyStatement.objects.order_by("organization_id").values()) == made
    shown = months.statement(BUYER, DECEMBER)
    assert (shown.organization, shown.is_closed) == ("Acme", True)
    assert shown.made_at == "2027-01-01T00:00:00Z"
    january = months.statement(BUYER, JANUARY)
    assert january.organization == "Acme Renamed"
    assert january.accounts[0].opening_micros == shown.accounts[0].closing_micros


def test_a_statement_that_is_not_the_ledgers_is_not_shown(market) -> None:
    month = months.statement(SELLER, DECEMBER)
    for name, wrong in (
        ("trades", ()),
        ("days", ()),
        ("corrections", ()),
        ("accounts", (msgspec.structs.replace(month.accounts[0], opening_micros=1),)),
    ):
        with pytest.raises(monthly.DoesNotAddUp):
            monthly.check(msgspec.structs.replace(month, **{name: wrong}))


def test_the_csv_sums_to_the_closing_balance_and_says_utc(market) -> None:
    month = months.statement(SELLER, DECEMBER)
    rows = list(csv.DictReader(io.StringIO(statement_forms.to_csv(month))))
    assert {row["time_zone"] for row in rows} == {"UTC"}
    cash = [row for row in rows if row["section"] == "cash"]
    amounts = [round(float(row["amount_usd"]) * 10**6) for row in cash]
    assert (cash[0]["what"], cash[-1]["what"]) == ("opening", "closing")
    assert sum(amounts[:-1]) == amounts[-1] == month.accounts[0].closing_micros
    released = sum(float(row["amount_usd"]) for row in rows if row["what"] == "released")
    assert round(released * 10**6) == 11 * PER_INTERVAL


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\t=1"])
def test_no_text_of_a_csv_is_a_formula(market, name: str) -> None:
    month = msgspec.structs.replace(months.statement(SELLER, DECEMBER), organization=name)
    rows = list(csv.reader(io.StringIO(statement_forms.to_csv(month))))
    cells = [cell for row in rows for cell in row]
    assert "'" + name in cells
    for cell in cells:
        assert not cell.startswith(("=", "+", "@", "\t")), cell
        assert not cell.startswith("-") or re.fullmatch(r"-\d+(\.\d+)?", cell), cell


def texts(pdf: bytes) -> str:
    """What a PDF writes on its pages."""
    found = b""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found += zlib.decompress(base64.a85decode(stream.strip(), adobe=False))
        except (ValueError, zlib.error):
            data = stream.strip().removesuffix(b"~>")
            found += zlib.decompress(base64.a85decode(data))
    return "".join(re.findall(r"\((.*?)\) Tj", found.decode("latin-1")))


def test_the_pdf_says_what_the_statement_says_and_is_the_same_bytes_again(market) -> None:
    month = months.statement(SELLER, DECEMBER)
    pdf = statement_forms.to_pdf(month)
    assert pdf == statement_forms.to_pdf(month)
    shown = texts(pdf)
    closing = f"{month.accounts[0].closing_micros / 10**6:.6f}"
    for wanted in ("Statement for 2026-12", closing, "UTC", "11", "LLAMA70B/20261201/final"):
        assert wanted in shown, wanted
    cyrillic = msgspec.structs.replace(month, organization="Северный зал")
    assert "(id 102)" in texts(statement_forms.to_pdf(cyrillic)).replace("\\", "")


def test_a_month_of_many_days_goes_on_over_pages(market) -> None:
    month = months.statement(SELLER, DECEMBER)
    long = msgspec.structs.replace(month, days=month.days * 200)
    assert statement_forms.to_pdf(long).count(b"/Type /Page\n") > 3


class Killed(BaseException):
    """The worker is gone."""


@pytest.mark.parametrize("after", range(3))
def test_a_closing_that_is_killed_anywhere_makes_the_same_statements(
    market, clock, monkeypatch, after: int
) -> None:
    monkeypatch.setattr(months, "PER_TRANSACTION", 1)
    clock.set("2027-01-01T00:00:01Z")
    market.work()
    left = [after]

    def fence() -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1

    with pytest.raises(Killed):
        months.close_month(DECEMBER, at=market_clock.now(), fence=fence)
    assert models.MonthlyStatement.objects.count() == after
    clock.set("2027-01-03T00:00:01Z")
    market.work()
    months.close_month(DECEMBER, at=market_clock.now())
    whole = [months.statement(number, DECEMBER) for number in NAMES]
    made = models.MonthlyStatement.objects.order_by("organization_id")
    assert [bytes(row.body) for row in made] == [monthly.encode(month) for month in whole]
    assert [month.made_at for month in whole] == ["2027-01-01T00:00:00Z"] * 3
