"""The two price ladders: what they keep, and that random abuse never confuses them."""

from hypothesis import given
from hypothesis import strategies as st

from exchange.book import TIDY_MIN, Book, Order
from exchange.matching import match, submit


def rest(book: Book, number: int, side: int, price: int, lots: int = 5) -> Order:
    order = Order(number, side, price, lots, number, lots)
    book.rest(order)
    return order


def test_levels_add_up_and_the_best_stands_first() -> None:
    book = Book()
    for number, price in enumerate((101, 99, 100, 99), start=1):
        rest(book, number, 1, price, number)

    assert book.bids.depth(10) == [(101, 1), (100, 3), (99, 6)]
    assert book.bids.depth(1) == [(101, 1)]
    assert book.bids.depth(0) == []
    assert book.best() == (101, 0)


def test_asks_are_best_when_lowest() -> None:
    book = Book()
    for number, price in enumerate((103, 101, 102), start=1):
        rest(book, number, -1, price)

    assert [price for price, _ in book.asks.depth(10)] == [101, 102, 103]


def test_an_order_leaves_from_the_front_the_middle_and_the_back() -> None:
    book = Book()
    for number in (1, 2, 3):
        rest(book, number, 1, 100)

    for gone, left in ((2, [1, 3]), (1, [3]), (3, [])):
        assert book.cancel(gone) is not None
        book.check()
        assert [order.id for order in book.bids] == left
    assert book.bids.keys == []


def test_canceling_what_does_not_rest_does_nothing() -> None:
    assert Book().cancel(7) is None


def test_an_order_of_the_same_group_stops_the_arriving_one() -> None:
    book = Book()
    for number, group in ((1, 5), (2, 9), (3, 5)):
        book.rest(Order(number, -1, 100, 2, group, 2))
    arriving = Order(4, 1, 100, 10, 9, 10)

    fills, stopped = match(book, arriving)

    assert [(maker.id, lots) for maker, lots in fills] == [(1, 2)]
    assert stopped
    assert arriving.remaining == 8
    book.check()
    assert book.asks.depth(5) == [(100, 4)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from((1, -1)),
        st.integers(95, 105),
        st.integers(1, 9),
        st.integers(1, 4),
        st.integers(0, 40),
    ),
    max_size=120,
)


@given(STEPS)
def test_random_orders_and_cancels_keep_every_invariant(steps) -> None:
    book = Book()
    entered = traded = canceled = 0
    for number, (side, price, lots, group, victim) in enumerate(steps, start=1):
        order = Order(number, side, price, lots, group, lots)
        entered += lots
        traded += 2 * sum(lots for _, lots in submit(book, order))
        if order.remaining and order.id not in book.orders:
            canceled += order.remaining
        gone = book.cancel(victim)
        canceled += gone.remaining if gone is not None else 0
        book.check()
    assert entered == traded + canceled + sum(order.remaining for order in book)


def test_an_order_that_comes_back_to_its_price_stands_behind_all_others() -> None:
    book = Book()
    orders = [rest(book, number, 1, 100) for number in (1, 2, 3, 4)]

    for _ in range(2):  # The queue has still to pass where it stood before.
        book.remove(orders[2])
        book.rest(orders[2])
    assert [order.id for order in book.bids] == [1, 2, 4, 3]

    fills, _ = match(book, Order(5, -1, 100, 17, 9, 17))
    assert [(maker.id, lots) for maker, lots in fills] == [(1, 5), (2, 5), (4, 5), (3, 2)]
    book.check()


def test_a_level_keeps_no_more_that_has_left_than_rests() -> None:
    book = Book()
    for number in range(1, 1_001):
        rest(book, number, -1, 100, 1)
    for number in range(2, 1_001, 2):
        book.cancel(number)
    match(book, Order(2_000, 1, 100, 400, 0, 400))
    level = book.asks.levels[-100]

    assert level.lots == 100
    assert len(level.orders) <= 2 * 100 + 2 * TIDY_MIN
    assert [order.id for order in book.asks] == list(range(801, 1_001, 2))
    book.check()


MOVES = st.lists(
    st.tuples(
        st.sampled_from(("rest", "rest", "cancel", "move", "match", "look")),
        st.integers(0, 60),
        st.sampled_from((99, 100)),
        st.integers(1, 30),
    ),
    min_size=20,
    max_size=300,
)


@given(MOVES)
def test_a_queue_with_orders_that_leave_and_come_back_is_a_plain_list(moves) -> None:
    book = Book()
    queues: dict[int, list[Order]] = {100: [], 99: []}
    for number, (action, which, price, lots) in enumerate(moves, start=1):
        resting = queues[100] + queues[99]
        order = resting[which % len(resting)] if resting else None
        if action == "rest":
            queues[price].append(rest(book, number, 1, price, lots))
        elif action == "cancel" and order is not None:
            assert book.cancel(order.id) is order
            queues[order.price].remove(order)
        elif action == "move" and order is not None:
            book.remove(order)
            queues[order.price].remove(order)
            order.price = price
            book.rest(order)
            queues[price].append(order)
        elif action == "match":
            fills, _ = match(book, Order(number, -1, price, lots, 0, lots))
            wanted = lots
            for maker, filled in fills:
                queue = queues[100] or queues[99]
                assert maker is queue[0]
                wanted -= filled
                if not maker.remaining:
                    queue.pop(0)
            assert not wanted or not [
                one for one in resting if one.price >= price and one.remaining
            ]
        elif action == "look":
            book.check()
        assert book.bids.depth(2) == [
            (at, sum(one.remaining for one in queue)) for at, queue in queues.items() if queue
        ]
    assert list(book.bids) == queues[100] + queues[99]
    book.check()
