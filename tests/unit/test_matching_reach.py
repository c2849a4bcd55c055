"""Looking ahead: `reach` says exactly what `match` then takes, in every mode, icebergs included."""

import random

import pytest

from exchange import commands, matching
from exchange.book import Book, Order

MODES = sorted(commands.PREVENTIONS)


def _order(number: int, side: int, price: int, lots: int, group: int, display: int = 0) -> Order:
    order = Order(number, side, price, lots, group, lots)
    terms = commands.Terms(display_lots=display) if display else None
    order.request = commands.PlaceOrder(1, "", side, price, lots, "GTC", str(number), b"", terms)
    return order


def _random_book(chance: random.Random) -> Book:
    book = Book()
    for number in range(1, chance.randint(2, 40)):
        side = chance.choice((1, -1))
        lots = chance.randint(2, 20)
        display = chance.randint(1, lots - 1) if chance.random() < 0.4 else 0
        price = 100 - side * chance.randint(1, 5)
        order = _order(number, side, price, lots, chance.randint(1, 4), display)
        if display:
            order.show(lots)
        book.rest(order)
    book.check()
    return book


@pytest.mark.parametrize("prevention", MODES)
def test_what_is_reached_is_what_is_taken(prevention: str) -> None:
    chance = random.Random(prevention)
    fell_short = in_full = 0
    for _ in range(1_500):
        book = _random_book(chance)
        side = chance.choice((1, -1))
        order = _order(1_000, side, 100 + side * chance.randint(0, 6), chance.randint(1, 60), 1)
        lots = order.lots
        before = {number: (resting.left, resting.group) for number, resting in book.orders.items()}
        ahead = matching.reach(book, side, order.price, lots, order.group, prevention)

        fills, stopped = matching.match(book, order, 0, prevention)

        taken: dict[int, int] = {}
        lost = dict.fromkeys(before, 0)
        for maker, count in fills:
            assert (maker.group == order.group) == (count <= 0)
            if count > 0:
                taken[maker.price] = taken.get(maker.price, 0) + count
                lost[maker.id] += count
            elif count < 0:
                lost[maker.id] -= count
        assert ahead == sorted(taken.items(), key=lambda item: side * item[0])
        book.check()
        gone = {maker.id for maker, count in fills if count == 0}
        for number, (left, _) in before.items():
            still = book.orders[number].left if number in book.orders else 0
            assert number in gone or still == left - lost[number]
        decremented = sum(before[number][0] for number in gone) if prevention == "DECREMENT" else 0
        if not stopped:
            assert order.remaining == lots - sum(taken.values()) - decremented
        assert order.lots - order.left == sum(taken.values())
        fell_short += sum(taken.values()) < lots
        in_full += sum(taken.values()) == lots
    assert fell_short > 200
    assert in_full > 100


def test_looking_ahead_changes_nothing() -> None:
    chance = random.Random(7)
    for _ in range(100):
        book = _random_book(chance)
        shown = [(o.id, o.remaining, o.hidden) for o in book]
        for prevention in MODES:
            matching.reach(book, 1, 106, 50, 1, prevention)
            matching.reach(book, -1, 94, 50, 1, prevention)
        assert [(o.id, o.remaining, o.hidden) for o in book] == shown


@pytest.mark.parametrize(
    ("prevention", "stopped", "left", "order_lots"),
    [
        ("CANCEL_NEWEST", True, {1: 5, 2: 4, 3: 7}, 10),
        ("CANCEL_OLDEST", False, {1: 5}, 10),
        ("CANCEL_BOTH", True, {1: 5, 3: 7}, 10),
        ("DECREMENT", True, {1: 5, 3: 1}, 6),
    ],
)
def test_where_nothing_trades_an_order_meets_only_its_own_group(
    prevention: str, stopped: bool, left: dict[int, int], order_lots: int
) -> None:
    book = Book()
    for number, price, lots, group in ((1, 101, 5, 2), (2, 101, 4, 1), (3, 102, 7, 1)):
        book.rest(_order(number, -1, price, lots, group))
    order = _order(4, 1, 102, 10, 1)

    _, gave_up = matching.give_way(book, order, prevention)

    assert gave_up == stopped
    assert {o.id: o.left for o in book} == left
    assert order.lots == order_lots
    book.check()


def test_the_tips_of_a_queue_are_met_before_what_is_shown_again() -> None:
    book = Book()
    for number, lots, group, display in ((1, 9, 2, 2), (2, 3, 3, 0), (3, 5, 4, 1)):
        order = _order(number, -1, 101, lots, group, display)
        if display:
            order.show(lots)
        book.rest(order)
    taker = _order(9, 1, 101, 10, 1)

    fills, stopped = matching.match(book, taker)

    assert [(maker.id, lots) for maker, lots in fills] == [
        (1, 2),
        (2, 3),
        (3, 1),
        (1, 2),
        (3, 1),
        (1, 1),
    ]
    assert not stopped
    assert [(o.id, o.remaining, o.hidden) for o in book] == [(1, 1, 3), (3, 1, 2)]
    book.check()
