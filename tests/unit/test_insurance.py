"""The arithmetic of usage insurance: strikes, premiums, collateral, payments, the worst case."""

import csv
import gzip
from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import contract
from settlement import insurance

JANUARY = contract.month_start(1_767_225_600 * contract.MICROS_PER_SECOND)
CAP = contract.cap_contract("LLAMA70B", JANUARY, 1_250)
COVER = contract.cover_contract("LLAMA70B", JANUARY)
ticks = st.integers(1, contract.PRICE_TICKS_MAX)


@pytest.mark.parametrize(
    ("reference", "listed"),
    [
        (1_000, (1_000, 1_100, 1_250, 1_500, 2_000)),
        (1_250, (1_250, 1_400, 1_550, 1_900, 2_500)),  # 1375, 1562.5 and 1875 are rounded.
        (1_234, (1_250, 1_350, 1_550, 1_850, 2_450)),
        (100, (100, 150, 200)),  # 110 and 125 would be 100 and 150 again.
        (12, (50,)),
    ],
)
def test_strikes_are_shares_of_the_reference_in_steps_of_50(reference, listed) -> None:
    assert insurance.strikes(reference) == listed


def test_half_a_step_is_rounded_up() -> None:
    assert [insurance.round_strike(each, 1) for each in (1_224, 1_225, 1_274, 1_275)] == [
        1_200,
        1_250,
        1_250,
        1_300,
    ]


@pytest.mark.parametrize(("outermost", "following"), [(2_500, 3_350), (50, 100), (1_500, 2_000)])
def test_the_strike_beyond_the_outermost_is_four_thirds_of_it(outermost, following) -> None:
    assert insurance.next_strike(outermost) == following


def test_no_strike_is_beyond_what_a_price_can_be() -> None:
    assert insurance.next_strike(contract.PRICE_TICKS_MAX) == 0
    assert insurance.strikes(contract.PRICE_TICKS_MAX) == (contract.PRICE_TICKS_MAX,)


def test_a_premium_begins_at_a_share_of_the_mark_and_what_is_in_the_money() -> None:
    assert insurance.premium(CAP, mark=1_250, percent=5) == 62
    assert insurance.premium(CAP, mark=1_300, percent=5) == 50 + 65
    assert insurance.premium(COVER, mark=1_300, percent=3) == 39
    assert insurance.premium(COVER, mark=100, percent=3) == insurance.PREMIUM_TICKS_MIN


@pytest.mark.parametrize(
    ("index", "pays"), [(1_249, 0), (1_250, 0), (1_251, 1), (7_500, 6_250), (7_501, 6_250)]
)
def test_a_cap_pays_what_the_index_exceeds_its_strike_by_at_most_five_strikes(index, pays) -> None:
    assert insurance.cap_pays(index=index, strike=1_250) == pays


def test_a_payment_on_a_whole_lot_and_hour_is_exact() -> None:
    # 3 lots insure 180,000 NTU; at 200 ticks (0.200 USD a million) that is 0.036 USD.
    assert insurance.payment(pay_ticks=200, mntu=insurance.insured_in_hour(3)) == 36_000
    assert insurance.payment(pay_ticks=200, mntu=1_999) == 0
    assert insurance.payment(pay_ticks=1_250, mntu=5_000_000) == 6_250


def test_only_entitled_lots_are_covered() -> None:
    assert insurance.insured_in_interval(lots=3, entitled_lots=2) == 10_000_000
    assert insurance.insured_in_interval(lots=3, entitled_lots=0) == 0


def test_what_is_set_aside_is_what_can_be_paid_at_most() -> None:
    assert insurance.collateral(CAP, pay_ticks=0, hours=744) == 5 * 1_250 * 60 * 744
    assert insurance.collateral(COVER, pay_ticks=1_300, hours=2) == 1_300 * 60 * 2


def test_writers_share_by_lots_and_the_largest_remainder() -> None:
    assert insurance.settle({1: 70, 2: 30}, {3: 1, 4: 1, 5: 1}) == {
        1: 70,
        2: 30,
        3: -34,
        4: -33,
        5: -33,
    }
    assert insurance.settle({1: 0}, {3: 1}) == {}
    assert insurance.settle({}, {}) == {}


@given(
    index=ticks,
    strike=st.integers(1, 20_000),
    holders=st.lists(
        st.tuples(st.integers(1, 500), st.integers(0, 10**11)), min_size=1, max_size=6
    ),
    data=st.data(),
)
def test_no_writer_pays_more_than_it_has_set_aside(index, strike, holders, data) -> None:
    lots = sum(held for held, _ in holders)
    cuts = sorted(data.draw(st.sets(st.integers(1, lots - 1), max_size=4)) if lots > 1 else ())
    written = [b - a for a, b in zip([0, *cuts], [*cuts, lots], strict=True)]
    writers = {100 + number: each for number, each in enumerate(written)}
    price = insurance.cap_pays(index=index, strike=strike)
    paid = {
        number: insurance.payment(pay_ticks=price, mntu=min(used, insurance.insured_in_hour(held)))
        for number, (held, used) in enumerate(holders)
    }
    payments = insurance.settle(paid, writers)
    assert sum(payments.values()) == 0
    assert {n: a for n, a in payments.items() if a > 0} == {n: a for n, a in paid.items() if a}
    cap = contract.cap_contract("LLAMA70B", JANUARY, strike)
    aside = insurance.collateral(cap, pay_ticks=0, hours=1)
    assert all(-payments.get(writer, 0) <= aside * of for writer, of in writers.items())


def test_the_worst_case_is_premium_and_strike_on_every_insured_token() -> None:
    worst = insurance.worst_case(CAP, value_ticks=124, lots=2, fee_micros=1_000)
    assert worst == (1_312, 2 * 744 * 60_000_000, 1_312 * 60 * 2 * 744 + 1_000, 7_500)
    # 89.28 million tokens at 1.312 USD, and the fee.
    assert worst.total_micros == 117_135_360 + 1_000


def real_paths(folder: Path) -> list[list[int]]:
    """Return list prices of an hour each, a whole history squeezed into a month, from 1.250 on."""
    found: dict[str, list[tuple[str, Decimal]]] = {}
    with gzip.open(folder / "openrouter_prices" / "price_events.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["event"] != "DELIST" and row["completion"] and Decimal(row["completion"]) > 0:
                event = row["ts_utc"], Decimal(row["completion"])
                found.setdefault(row["model_id"], []).append(event)
    paths = []
    for _, changes in sorted(found.items()):
        if len(changes) >= 8:
            hours = 31 * 24
            prices = [changes[hour * len(changes) // hours][1] for hour in range(hours)]
            paths.append([max(1, int(1_250 * price / prices[0])) for price in prices])
    return paths


@pytest.mark.data("openrouter_prices")
def test_the_worst_case_holds_on_every_real_price_path(data_folder: Path) -> None:
    paths = real_paths(data_folder)
    assert len(paths) > 50
    paid = passed = 0
    for prices, strike in product(paths, insurance.strikes(1_250)):
        terms = contract.cap_contract("LLAMA70B", JANUARY, strike)
        lots, fee = 3, 777
        worst = insurance.worst_case(terms, value_ticks=62 * lots, lots=lots, fee_micros=fee)
        cost = contract.notional_micros(price_ticks=62, lots=lots, hours=terms.hours) + fee
        beyond = 0
        for number, price in enumerate(prices):
            mntu = insurance.insured_in_hour(lots) * (number % 5) // 4
            pays = insurance.cap_pays(index=price, strike=strike)
            cost += insurance.payment(pay_ticks=price, mntu=mntu)
            cost -= insurance.payment(pay_ticks=pays, mntu=mntu)
            over = max(0, price - worst.holds_to)
            beyond += insurance.payment(pay_ticks=over, mntu=mntu)
            paid += pays > 0
        assert cost <= worst.total_micros + beyond
        passed += beyond > 0
        # Whoever uses every hour all it has insured, at prices above the strike, comes to it.
        dearest = max(prices)
        if strike <= dearest <= worst.holds_to:
            full = insurance.insured_in_hour(lots)
            pays = insurance.cap_pays(index=dearest, strike=strike)
            hour = insurance.payment(pay_ticks=dearest, mntu=full)
            hour -= insurance.payment(pay_ticks=pays, mntu=full)
            assert hour * terms.hours + 62 * 60 * lots * terms.hours + fee == worst.total_micros
    assert paid > 1_000
    assert passed > 0  # The data has moves beyond six strikes, and they are the holder's.
