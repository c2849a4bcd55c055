"""Numbers, instants and names at the edge: one spelling each, in and out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import errors, text, wire

WRONG_NUMBERS = [
    "", " ", "-0", "-1.000", "+5", "+1.250", ".5", "5.", "1e11", "1_000", "1_0.000", "１２", "٣",
    " 5 ", "5\n", "1.250\n", "1.250 ", "\u00a01.250", "NaN", "Infinity", "0x10", "1,250", "1.250.0",
    "1" * 999, "1." + "0" * 999, "٣.٠٠٠", "1.２５０",
]  # fmt: skip


@pytest.mark.parametrize("given_text", [*WRONG_NUMBERS, "1", "1.25", "1.2500", "0.000", "01.000"])
def test_a_price_has_exactly_three_decimals(given_text: str) -> None:
    with pytest.raises(errors.Malformed) as refused:
        wire.parse_price(given_text)
    assert refused.value.errors == (errors.FieldError(field="price", code="invalid_price"),)


@pytest.mark.parametrize(
    ("given_text", "ticks"), [("0.001", 1), ("1.250", 1_250), ("10000.000", 10_000_000)]
)
def test_a_price_is_whole_ticks(given_text: str, ticks: int) -> None:
    assert wire.parse_price(given_text) == ticks
    assert wire.price_text(ticks) == given_text


@pytest.mark.parametrize("given_text", ["0.005", "0.00500", "0.0000", "1000.0001"])
def test_a_price_of_slots_has_exactly_four_decimals(given_text: str) -> None:
    with pytest.raises(errors.Malformed, match="exactly four decimals"):
        wire.parse_price(given_text, decimals=4)
    assert wire.parse_price("0.0050", decimals=4) == 50
    assert wire.price_text(50, 4) == "0.0050"
    assert wire.average_price_text(101, 2, 4) == "0.005050"


def test_a_price_beyond_the_largest_is_refused() -> None:
    with pytest.raises(errors.Malformed):
        wire.parse_price("10000.001")


@pytest.mark.parametrize("given_text", [*WRONG_NUMBERS, "0", "0.0", "1.0000000", "007"])
def test_money_has_at_most_six_decimals(given_text: str) -> None:
    with pytest.raises(errors.Malformed) as refused:
        wire.parse_money(given_text)
    assert refused.value.errors == (errors.FieldError(field="amount", code="invalid_amount"),)


@pytest.mark.parametrize(
    ("given_text", "micros"), [("1", 10**6), ("0.000001", 1), ("12.34", 12_340_000)]
)
def test_money_is_whole_micros(given_text: str, micros: int) -> None:
    assert wire.parse_money(given_text) == micros


@given(st.integers(min_value=1, max_value=wire.MONEY_MICROS_MAX))
def test_money_comes_back_as_it_was_printed(micros: int) -> None:
    assert wire.parse_money(wire.micros_text(micros)) == micros


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_zero_has_no_sign_and_decimals_are_fixed(micros: int) -> None:
    printed = wire.micros_text(micros)
    assert (printed[0] == "-") == (micros < 0)
    assert len(printed.partition(".")[2]) == 6
    assert int(printed.replace(".", "")) == micros


def test_zero_is_zero() -> None:
    assert wire.price_text(0) == "0.000"
    assert wire.micros_text(-0) == "0.000000"
    assert wire.micros_text(-1) == "-0.000001"
    assert wire.ntu_text(60_000_000) == "60000.000"


@pytest.mark.parametrize("value", [0, -5, 10**30, True, False, 5.0, "5", None, 1_000_001])
def test_lots_are_a_positive_integer(value: object) -> None:
    with pytest.raises(errors.Malformed):
        wire.parse_lots(value)


def test_an_average_is_rounded_half_to_even() -> None:
    assert wire.average_price_text(0, 0) is None
    assert wire.average_price_text(3_751, 3) == "1.250333"
    assert wire.average_price_text(1_250 * 7, 7) == "1.250000"
    # 1 tick over 2,000 lots and three are half a micro above 0 and above 1: both go to even.
    assert wire.average_price_text(1, 2_000) == "0.000000"
    assert wire.average_price_text(3, 2_000) == "0.000002"


@pytest.mark.parametrize(
    ("given_text", "printed"),
    [
        ("2026-12-05T14:00:00Z", "2026-12-05T14:00:00.000000Z"),
        ("2026-12-05T14:00:00.5Z", "2026-12-05T14:00:00.500000Z"),
        ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z"),
    ],
)
def test_a_time_is_utc_to_the_microsecond(given_text: str, printed: str) -> None:
    assert wire.time_text(wire.parse_time(given_text, "since")) == printed


@pytest.mark.parametrize(
    "given_text",
    [
        "",
        "2026-12-05",
        "2026-12-05T14:00:00",
        "2026-12-05T14:00:00+00:00",
        "2026-12-05 14:00:00Z",
        "2026-02-29T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2026-12-05T24:00:00Z",
        "2026-12-05T14:00:00.1234567Z",
        "２026-12-05T14:00:00Z",
        "2026-12-05T14:00:00Z\n",
        "1764943200",
    ],
)
def test_another_spelling_of_a_time_is_refused(given_text: str) -> None:
    with pytest.raises(errors.Malformed) as refused:
        wire.parse_time(given_text, "since")
    assert refused.value.errors == (errors.FieldError(field="since", code="invalid_time"),)


@pytest.mark.parametrize(
    "given_text", ["", "-1", "1.0", "{1}", "urn:uuid:5", "9" * 30, "1 ", "١", "0x1", "01"]
)
def test_an_id_that_is_none_names_nothing(given_text: str) -> None:
    with pytest.raises(errors.NotFound):
        wire.parse_id(given_text)


def test_ids_beyond_31_bits_are_ids() -> None:
    assert wire.parse_id("9223372036854775807") == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "invalid_length"),
        ("x" * 81, "invalid_length"),
        ("Ac\u202eme", "invalid_text"),
        ("Ac\u200bme", "invalid_text"),
        ("Ac\u2066me", "invalid_text"),
        ("Acme\x00", "invalid_text"),
        ("Acme\n", "invalid_text"),
        ("Acme\ud800", "invalid_text"),
        ("Acme 🚀", "invalid_text"),
        ("Ac\ufe0fme", "invalid_text"),
        ("Ac\u034fme", "invalid_text"),
        ("Ac\u00a0me", "invalid_text"),
        ("=Acme", "invalid_text"),
        ("+Acme", "invalid_text"),
        ("-Acme", "invalid_text"),
        ("@Acme", "invalid_text"),
        (" Acme", "invalid_text"),
        ("Ac  me", "invalid_text"),
        ("...", "invalid_text"),
        ("\u0410cme", "mixed_scripts"),
        ("Αcme", "mixed_scripts"),
    ],
)
def test_a_name_has_nothing_that_the_eye_cannot_see(name: str, code: str) -> None:
    with pytest.raises(errors.Malformed) as refused:
        text.parse_name(name)
    assert refused.value.errors == (errors.FieldError(field="name", code=code),)


def test_a_name_is_in_normal_form() -> None:
    assert text.parse_name("Cafe\u0301 Zu\u0308rich") == "Café Zürich"
    assert text.parse_name("株式会社 日本") == "株式会社 日本"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Acme", "ACME"),
        ("Acme", "Acmé"),
        ("Acme", "Асме"),
        ("Acme", "Ａｃｍｅ"),
        ("Acme", "A-c-m-e"),
        ("Modern", "rnodern"),
        ("Bill", "Bi11"),
        ("Oslo", "0sl0"),
        ("Fine", "ﬁne"),
        ("Paypal", "PayPaI"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert text.skeleton(one) == text.skeleton(other)


def test_names_that_look_different_have_two() -> None:
    assert text.skeleton("Northwind") != text.skeleton("Southwind")
