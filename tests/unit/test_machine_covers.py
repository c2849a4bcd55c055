"""What a cluster is paid that delivers in another's stead (RULEBOOK 6.6), worked by hand."""

import pytest

from exchange import events
from settlement import instructions
from settlement.ledger import Code, Kind
from tests.floor import GRADE, Floor, hour

SELLER, BUYER, HELPER, DEARER, FRIEND, ALLY = 1, 2, 3, 4, 5, 6
CASH, ESCROW = Kind.CASH, Kind.ESCROW
FULL = 200_000
"""NTU of forty lots in an interval."""
PRICE = 1_250
ESCROWED = 5 * PRICE * 40


def closed(*, seller_cash: int = 10**9) -> Floor:
    """Forty lots of an hour at 1.250, past gate closure."""
    floor = Floor("18:00")
    floor.account(SELLER, cash=seller_cash, certified=100)
    floor.account(BUYER)
    floor.account(HELPER, certified=100)
    floor.account(DEARER, certified=100)
    floor.account(FRIEND, group=SELLER)
    floor.account(ALLY, group=BUYER)
    floor.sell(SELLER, 40, PRICE)
    floor.buy(BUYER, 40, PRICE)
    floor.to("19:55")
    floor.to("20:06")
    return floor


def cover(seller: int, price: int, ntu: int, offer: int = 0) -> instructions.CoverLine:
    return instructions.CoverLine(offer or seller, seller, seller, price, 1_000 * ntu)


def settle(
    floor: Floor,
    available: int,
    short: int,
    *covers: instructions.CoverLine,
    interval: int = 1,
    suspended: bool = False,
) -> str | None:
    """Settle an interval of which so much (NTU) was there, missed, and covered."""
    line = instructions.DeliveryLine(1, 1_000 * available, 1_000 * short, 0, covers)
    return floor.instruct(
        instructions.SettleInterval(
            grade=GRADE,
            hour_starts_at=hour("20"),
            interval=interval,
            lines=(line,),
            suspended=suspended,
        )
    )


def test_cover_gets_the_delivery_price_from_escrow_and_the_rest_from_who_failed() -> None:
    """Half is missed but for 40,000 NTU that were covered at 1.500: 50,000 and 10,000 for them."""
    floor = closed()
    assert settle(floor, FULL // 2, 0, cover(HELPER, 1_500, 40_000)) is None
    assert floor.moved() == [
        ((BUYER, ESCROW), (SELLER, CASH), 125_000, Code.RELEASE),
        ((BUYER, ESCROW), (BUYER, CASH), ESCROWED - 125_000 - 50_000, Code.REFUND),
        ((BUYER, ESCROW), (HELPER, CASH), 50_000, Code.COVER_RELEASE),
        ((SELLER, CASH), (HELPER, CASH), 10_000, Code.COVER_EXCESS),
    ]
    (settled,) = floor.of(events.CoverSettled)
    assert (settled.released, settled.excess, settled.excess_due) == (50_000, 10_000, 10_000)


def test_cover_below_the_delivery_price_is_cheaper_for_the_holder() -> None:
    floor = closed()
    assert settle(floor, 0, 0, cover(HELPER, 1_000, 40_000)) is None
    assert floor.moved() == [
        ((BUYER, ESCROW), (BUYER, CASH), ESCROWED - 40_000, Code.REFUND),
        ((BUYER, ESCROW), (HELPER, CASH), 40_000, Code.COVER_RELEASE),
    ]


def test_what_is_missed_beside_it_is_replaced_at_the_dearest_cover() -> None:
    """20,000 NTU at 1.500 elsewhere: 5,000 more than at 1.250, and a quarter of 25,000."""
    floor = closed()
    helped = cover(HELPER, 1_400, 10_000), cover(DEARER, 1_500, 10_000)
    assert settle(floor, 0, 20_000, *helped) is None
    (settled,) = floor.of(events.IntervalSettled)
    assert (settled.compensation_due, settled.compensated) == (11_250, 11_250)
    assert [each.excess for each in floor.of(events.CoverSettled)] == [1_500, 2_500]


def test_the_excess_of_a_price_beyond_five_times_the_delivery_price_is_not_owed() -> None:
    floor = closed()
    assert settle(floor, 0, 0, cover(HELPER, 9_000, 40_000)) is None
    assert [each.excess for each in floor.of(events.CoverSettled)] == [4 * 50_000]


def test_a_seller_that_has_too_little_pays_cover_before_damages() -> None:
    floor = closed(seller_cash=160_000)
    has = floor.view(SELLER).cash
    assert settle(floor, 0, FULL // 2, cover(HELPER, 6_250, 40_000)) is None
    (helped,) = floor.of(events.CoverSettled)
    (settled,) = floor.of(events.IntervalSettled)
    assert helped.excess_due == 200_000 > has
    assert (helped.excess, settled.compensated) == (has, 0)
    assert floor.view(SELLER).cash == 0


def test_a_month_that_cover_has_used_up_pays_no_damages_but_more_cover() -> None:
    """The month may pay 150 % of 3,000,000; five intervals of cover take 5,000,000."""
    floor = closed()
    floor.to("21:00")
    for interval in range(1, 6):
        assert settle(floor, 0, 0, cover(HELPER, 6_250, FULL), interval=interval) is None
        assert [each.excess for each in floor.of(events.CoverSettled)] == [1_000_000]
    assert settle(floor, 0, FULL // 2, cover(HELPER, 6_250, FULL // 2), interval=6) is None
    (helped,), (settled,) = floor.of(events.CoverSettled), floor.of(events.IntervalSettled)
    assert (helped.excess, settled.compensated) == (500_000, 0)
    assert settled.compensation_due == 500_000 + 125_000 // 4


def test_a_suspended_interval_pays_no_cover() -> None:
    floor = closed()
    assert settle(floor, 0, 0, cover(HELPER, 1_500, FULL), suspended=True) is None
    assert floor.moved() == [((BUYER, ESCROW), (BUYER, CASH), ESCROWED, Code.REFUND)]
    assert floor.of(events.CoverSettled) == []


@pytest.mark.parametrize(
    "covers",
    [
        (cover(HELPER, 1_500, 0),),
        (cover(HELPER, 1_500, -1),),
        (cover(HELPER, 0, 1),),
        (cover(99, 1_500, 1),),
        (cover(SELLER, 1_500, 1),),
        (cover(FRIEND, 1_500, 1),),
        (cover(BUYER, 1_500, 1),),
        (cover(ALLY, 1_500, 1),),
        (cover(HELPER, 1_500, FULL), cover(DEARER, 1_500, 1)),
        (cover(HELPER, 1_500, 1), cover(DEARER, 1_500, 1, offer=HELPER)),
    ],
)
def test_a_report_of_impossible_cover_is_refused_and_changes_nothing(covers) -> None:
    floor = closed()
    assert settle(floor, 0, 0, *covers) == "invalid_report"
    assert floor.moved() == []


def test_what_cover_is_paid_after_midnight_is_of_the_day_it_was_delivered_on() -> None:
    floor = Floor("18:00")
    floor.account(SELLER, certified=100)
    floor.account(BUYER)
    floor.account(HELPER, certified=100)
    floor.sell(SELLER, 40, PRICE, instrument=f"{GRADE}.H.20251205T23Z")
    floor.buy(BUYER, 40, PRICE, instrument=f"{GRADE}.H.20251205T23Z")
    floor.to("+1 00:01")
    line = instructions.DeliveryLine(1, 0, 0, 0, (cover(HELPER, 1_500, 40_000),))
    assert (
        floor.instruct(
            instructions.SettleInterval(
                grade=GRADE, hour_starts_at=hour("23"), interval=12, lines=(line,)
            )
        )
        is None
    )
    assert floor.view(HELPER).locked == 50_000 + 10_000
    floor.to("+1 02:00")
    assert floor.view(HELPER).locked == 0
