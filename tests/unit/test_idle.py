"""Whose idle rate pay-as-you-go is served on, worked by hand."""

from admission import idle
from marketplace import contract
from settlement import delivery

LOT = contract.MNTU_PER_LOT_INTERVAL


def test_what_is_not_sold_serves_first() -> None:
    served = idle.served_on({1: 4 * LOT}, certified_lots=10, lots={7: 6}, used={})
    assert served == {}


def test_beyond_it_each_holder_serves_by_what_it_left_and_each_payer_by_what_it_used() -> None:
    """Of 10 lots 8 are sold; 6 are left of them, 4 and 2. Six lots of P3: four on the idle."""
    served = idle.served_on(
        {1: 4 * LOT, 2: 2 * LOT}, certified_lots=10, lots={7: 5, 8: 3}, used={7: LOT, 8: LOT}
    )
    assert sum(sum(of.values()) for of in served.values()) == 4 * LOT
    assert {payer: sum(of.values()) for payer, of in served.items()} == {
        1: 13_333_333,
        2: 6_666_667,
    }
    assert served[2] == {7: served[2][7], 8: served[2][8]}
    assert abs(served[1][7] - 2 * served[1][8]) <= 2


def test_no_more_is_served_on_idle_rate_than_was_idle() -> None:
    served = idle.served_on({1: 9 * LOT}, certified_lots=2, lots={7: 1, 8: 1}, used={7: 2 * LOT})
    assert served == {1: {8: LOT}}


def test_eighty_percent_of_the_idle_part_goes_to_its_holders_to_the_micro() -> None:
    assert delivery.idle_shares(earned=1_001, mntu=10, idle=[3, 3]) == [240, 240]
    assert delivery.idle_shares(earned=1_001, mntu=10, idle=[10]) == [800]
    assert delivery.idle_shares(earned=7, mntu=3, idle=[1, 1]) == [2, 1]
    assert delivery.idle_shares(earned=7, mntu=3, idle=[]) == []
