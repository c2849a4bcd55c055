"""Symbols, windows and when they are listed: everything that follows from the calendar alone."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import contract
from marketplace.contract import DAY, HOUR, Contract, Product

GRADE = "LLAMA70B"


def at(text: str) -> int:
    """Return microseconds of `2025-12-05T14:00` (UTC)."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(moment.timestamp()) * contract.MICROS_PER_SECOND


def of(symbol: str) -> Contract:
    terms = contract.parse_symbol(f"{GRADE}.{symbol}")
    assert terms is not None, symbol
    return terms


@pytest.mark.parametrize(
    ("symbol", "product", "starts", "hours", "trading_ends"),
    [
        ("H.20261205T14Z", "HOUR", "2026-12-05T14:00", 1, "2026-12-05T13:55"),
        ("H.20270101T00Z", "HOUR", "2027-01-01T00:00", 1, "2026-12-31T23:55"),
        ("D.20261205", "DAY", "2026-12-05T00:00", 24, "2026-12-04T11:30"),
        ("D.20280229", "DAY", "2028-02-29T00:00", 24, "2028-02-28T11:30"),
        ("D.20280301", "DAY", "2028-03-01T00:00", 24, "2028-02-29T11:30"),
        # The clocks of Berlin, New York and Sydney change; the market's do not.
        ("D.20260329", "DAY", "2026-03-29T00:00", 24, "2026-03-28T11:30"),
        ("D.20261101", "DAY", "2026-11-01T00:00", 24, "2026-10-31T11:30"),
        ("D.20261004", "DAY", "2026-10-04T00:00", 24, "2026-10-03T11:30"),
        ("W.26W49", "WEEK", "2026-11-30T00:00", 168, "2026-11-28T11:30"),
        ("W.26W53", "WEEK", "2026-12-28T00:00", 168, "2026-12-26T11:30"),
        ("W.27W01", "WEEK", "2027-01-04T00:00", 168, "2027-01-02T11:30"),
        ("W.25W01", "WEEK", "2024-12-30T00:00", 168, "2024-12-28T11:30"),
        ("M.Z26", "MONTH", "2026-12-01T00:00", 744, "2026-11-29T11:30"),
        ("M.F27", "MONTH", "2027-01-01T00:00", 744, "2026-12-30T11:30"),
        ("M.G27", "MONTH", "2027-02-01T00:00", 672, "2027-01-30T11:30"),
        ("M.G28", "MONTH", "2028-02-01T00:00", 696, "2028-01-30T11:30"),
        ("M.H28", "MONTH", "2028-03-01T00:00", 744, "2028-02-28T11:30"),
        ("P0.20261205T14Z", "SLOT", "2026-12-05T14:00", 1, "2026-12-05T13:55"),
        ("P1.20261205T14Z", "SLOT", "2026-12-05T14:00", 1, "2026-12-05T13:55"),
        ("M.Z26.C1250", "CAP", "2026-12-01T00:00", 744, "2026-11-29T11:30"),
        ("M.Z26.S", "COVER", "2026-12-01T00:00", 744, "2026-11-29T11:30"),
    ],
)
def test_a_symbol_says_everything(symbol, product, starts, hours, trading_ends) -> None:
    terms = of(symbol)
    assert terms.symbol == f"{GRADE}.{symbol}"
    assert (terms.grade, terms.product) == (GRADE, product)
    assert (terms.starts_at, terms.hours) == (at(starts), hours)
    assert terms.ends_at == at(starts) + hours * HOUR
    assert terms.trading_ends_at == at(trading_ends)
    assert terms.tick_micros == (100 if product == "SLOT" else 60 * hours)


def test_a_class_and_a_strike_are_part_of_the_symbol() -> None:
    assert (of("P1.20261205T14Z").service_class, of("P1.20261205T14Z").price_decimals) == ("P1", 4)
    assert (of("M.Z26.C1250").strike, of("M.Z26.C1250").price_decimals) == (1_250, 3)


@pytest.mark.parametrize(
    "text",
    [
        "H.20261205T24Z", "H.20261205T14", "H.20261305T14Z", "H.20261205T1Z", "D.20270229",
        "D.20261305", "D.20261232", "D.2026120", "W.25W53", "W.26W00", "W.26W54", "W.26W1",
        "M.A26", "M.Z2026", "M.Z6", "M.z26", "M.Z26.C0", "M.Z26.C01", "M.Z26.C10000001",
        "M.Z26.C99999999", "M.Z26.P", "M.Z26.S1", "P2.20261205T14Z", "P0.20261205",
        "X.20261205", "D.20261205T14Z", "D.20261205\n", " D.20261205", "D.２０２６1205",
        "H.20161231T23:59:60Z", "",
    ],
)  # fmt: skip
def test_what_is_no_window_is_no_symbol(text: str) -> None:
    assert contract.parse_symbol(f"{GRADE}.{text}") is None


WINDOWS = st.builds(
    lambda product, instant, strike: {
        Product.HOUR: lambda: contract.hour_contract(GRADE, contract.hour_start(instant)),
        Product.DAY: lambda: contract.day_contract(GRADE, contract.day_start(instant)),
        Product.WEEK: lambda: contract.week_contract(GRADE, contract.week_start(instant)),
        Product.MONTH: lambda: contract.month_contract(GRADE, contract.month_start(instant)),
        Product.SLOT: lambda: contract.slot_contract(GRADE, "P0", contract.hour_start(instant)),
        Product.CAP: lambda: contract.cap_contract(GRADE, contract.month_start(instant), strike),
        Product.COVER: lambda: contract.cover_contract(GRADE, contract.month_start(instant)),
    }[product](),
    st.sampled_from(list(Product)),
    st.integers(at("2001-01-08T00:00"), at("2099-12-31T23:00")),
    st.integers(1, contract.PRICE_TICKS_MAX),
)
"""Contracts of every product, in every hour that symbols of two-digit years reach."""


@given(WINDOWS)
def test_every_symbol_is_read_back_as_its_contract(terms: Contract) -> None:
    assert contract.parse_symbol(terms.symbol) == terms
    assert contract.is_symbol(terms.symbol)
    assert terms.starts_at < terms.ends_at
    assert contract.listed_at(terms) < terms.trading_ends_at < terms.starts_at


@given(st.integers(at("2001-01-08T00:00"), at("2098-12-31T23:00")))
def test_windows_of_a_product_follow_one_another_without_a_gap(instant: int) -> None:
    week = contract.week_contract(GRADE, contract.week_start(instant))
    month = contract.month_contract(GRADE, contract.month_start(instant))
    assert week.starts_at <= instant < week.ends_at == contract.week_start(week.ends_at)
    assert month.starts_at <= instant < month.ends_at == contract.month_start(month.ends_at)
    assert month.hours in (28 * 24, 29 * 24, 30 * 24, 31 * 24)
    assert contract.add_months(month.starts_at, 1) == month.ends_at


@pytest.mark.parametrize(
    "day",
    [
        "2026-03-08", "2026-11-01",  # New York's clocks change
        "2026-03-29", "2026-10-25",  # Berlin's
        "2026-04-05", "2026-10-04",  # Sydney's
        "2028-02-28", "2028-02-29", "2026-12-31", "2027-01-01",
        "2016-12-31",  # ended with a leap second
    ],
)  # fmt: skip
def test_every_day_has_twenty_four_hours_wherever_clocks_change(day: str) -> None:
    start = at(f"{day}T00:00")
    terms = contract.day_contract(GRADE, start)
    assert (terms.hours, terms.ends_at - terms.starts_at) == (24, DAY)
    symbols = [contract.hour_contract(GRADE, start + n * contract.HOUR).symbol for n in range(24)]
    assert symbols == [f"{GRADE}.H.{day.replace('-', '')}T{n:02}Z" for n in range(24)]


@pytest.mark.parametrize(
    ("symbol", "listed"),
    [
        ("H.20261205T14Z", "2026-12-04T10:00"),
        ("P0.20261205T00Z", "2026-12-04T10:00"),
        # December cascaded on 29 November, before any of its days was 14 days ahead.
        ("D.20261220", "2026-11-29T11:30"),
        # The week of 4 January cascades later than January, and that later than 14 days ahead.
        ("D.20270108", "2026-12-25T00:00"),
        ("D.20270120", "2026-12-30T11:30"),
        # The week that begins in February is not in March; its days are listed with March.
        ("D.20270301", "2027-02-15T00:00"),
        ("W.26W50", "2026-10-10T11:30"),
        ("M.Z26", "2025-11-29T11:30"),
        ("M.H28", "2027-02-27T11:30"),
        ("M.Z26.S", "2026-08-30T11:30"),
        ("M.Z26.C1250", "2026-08-30T11:30"),
    ],
)
def test_when_a_window_is_listed(symbol: str, listed: str) -> None:
    assert contract.listed_at(of(symbol)) == at(listed)


@given(st.integers(at("2001-03-01T00:00"), at("2090-12-31T23:00")))
def test_twelve_months_and_eight_weeks_are_listed_at_any_instant(instant: int) -> None:
    month, week = contract.month_start(instant), contract.week_start(instant)
    months = [
        contract.month_contract(GRADE, contract.add_months(month, ahead)) for ahead in range(-2, 16)
    ]
    weeks = [contract.week_contract(GRADE, week + 7 * DAY * ahead) for ahead in range(-2, 12)]
    for windows, count in ((months, 12), (weeks, 8)):
        open_ = [one for one in windows if contract.listed_at(one) <= instant < one.trading_ends_at]
        assert len(open_) == count
        assert open_ == [one for one in windows if one.trading_ends_at > instant][:count]
