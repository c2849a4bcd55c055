"""The client against a market: the API's own server, an engine, and a socket between them."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baseload import Amend, AsyncClient, Cancel, Client, NewOrder, Signer, errors, models
from tests.market import GRADE, HOUR
from tests.served import Served

CASH = 1_000_000_000


@pytest.fixture
def buyer(served: Served) -> Iterator[Client]:
    party = served.world.party("Buyer", cash=CASH)
    with Client(served.origin, key=party.api.key) as client:
        yield client


@pytest.fixture
def seller(served: Served) -> Iterator[Client]:
    party = served.world.party("Seller", "PROVIDER", cash=CASH)
    served.world.cluster(party)
    with Client(served.origin, key=party.api.key) as client:
        yield client


def buy(price: str, quantity: int, **more) -> NewOrder:
    return NewOrder(instrument=HOUR, side="buy", quantity=quantity, price=price, **more)


def sell(price: str, quantity: int, **more) -> NewOrder:
    return NewOrder(instrument=HOUR, side="sell", quantity=quantity, price=price, **more)


def test_two_sides_meet_and_everything_is_typed(buyer: Client, seller: Client) -> None:
    resting = seller.place_order(sell("1.250", 10))
    assert (resting.status, resting.price, resting.remaining_quantity) == (
        "open",
        Decimal("1.250"),
        10,
    )
    order = buyer.place_order(buy("1.260", 4))
    assert (order.status, order.average_price) == ("filled", Decimal("1.250000"))
    (fill,) = order.fills
    assert (fill.price, fill.quantity, fill.liquidity) == (Decimal("1.250"), 4, "taker")
    (position,) = buyer.positions()
    assert (position.instrument, position.quantity) == (HOUR, 4)
    assert [one.quantity for one in seller.fills()] == [4]
    book = buyer.book(HOUR)
    assert book.asks == ((Decimal("1.250"), 6),)
    (trade,) = buyer.trades(HOUR)
    assert (trade.side, trade.quantity) == ("buy", 4)
    assert buyer.account().cash == Decimal("1000") - order.fee
    assert seller.order(resting.id).filled_quantity == 4
    assert buyer.instrument(HOUR).last == Decimal("1.250")


def test_the_same_object_is_the_same_order(buyer: Client) -> None:
    order = buy("1.200", 3)
    first, second = buyer.place_order(order), buyer.place_order(order)
    assert first == second
    assert [one.id for one in buyer.orders()] == [first.id]
    (found,) = buyer.orders_by_client_id(order.client_order_id)
    assert found.id == first.id
    assert list(buyer.orders_by_client_id("nobody-knows")) == []
    assert buyer.place_order(order.again()).id != first.id
    with pytest.raises(errors.KeyReuse):
        buyer.place_order(buy("1.200", 4, client_order_id=order.client_order_id))


def test_refusals_have_classes_and_codes(served: Served, buyer: Client) -> None:
    poor = served.world.party("Poor")
    with Client(served.origin, key=poor.api.key) as client:
        with pytest.raises(errors.InsufficientFunds) as short:
            client.place_order(buy("1.250", 10))
        (kept,) = client.orders()
    assert short.value.status == 422
    assert (kept.status, kept.reason) == ("rejected", "insufficient_funds")
    with pytest.raises(errors.PositionLimit):
        buyer.place_order(buy("1.250", 500))
    with pytest.raises(errors.OutsideBand):
        buyer.place_order(buy("9.000", 1))
    with pytest.raises(errors.InsufficientCoverage):
        buyer.place_order(sell("1.250", 1))
    with pytest.raises(errors.UnknownOrder):
        buyer.cancel_order("123456789")
    with pytest.raises(errors.Malformed) as raised:
        buyer.book(HOUR, depth=0)
    assert [(one.field, one.code) for one in raised.value.fields] == [("depth", "invalid_number")]
    with Client(served.origin, key="bl_demo_x_y") as nobody, pytest.raises(errors.InvalidKey):
        nobody.account()


def test_lists_are_read_to_their_end(buyer: Client) -> None:
    for number in range(7):
        buyer.place_order(buy("1.200", number + 1))
    assert [one.quantity for one in buyer.orders(page_size=3)] == [7, 6, 5, 4, 3, 2, 1]
    pages = list(buyer.orders(page_size=3).pages())
    assert [len(page.results) for page in pages] == [3, 3, 1]
    hours = [one.symbol for one in buyer.instruments(grade=GRADE, page_size=5)]
    assert len(hours) == len(set(hours)) > 5


def test_mass_cancel_takes_what_matches(buyer: Client) -> None:
    for number in range(3):
        buyer.place_order(buy("1.200", number + 1))
    assert buyer.cancel_orders(side="sell").results == ()
    assert len(buyer.cancel_orders(instrument=HOUR, side="buy").results) == 3
    assert [one.status for one in buyer.orders()] == ["canceled"] * 3


def test_a_batch_has_an_outcome_for_each(buyer: Client) -> None:
    old = buyer.place_order(buy("1.200", 5))
    placed, amended, refused, canceled = buyer.batch(
        [
            buy("1.210", 1),
            Amend(id=old.id, quantity=3),
            buy("9.000", 1),
            Cancel(id=old.id),
        ]
    )
    assert isinstance(placed, models.Order) and placed.status == "open"
    assert isinstance(amended, models.Order) and amended.quantity == 3
    assert isinstance(refused, errors.OutsideBand)
    assert isinstance(canceled, models.Order) and canceled.status == "canceled"


def test_an_event_loop_has_the_same_methods(served: Served) -> None:
    party = served.world.party("Async", cash=CASH)

    async def trade() -> None:
        async with AsyncClient(served.origin, key=party.api.key) as client:
            placed = await asyncio.gather(
                *(client.place_order(buy("1.200", n % 3 + 1)) for n in range(20))
            )
            assert len({one.id for one in placed}) == 20
            seen = [one.id async for one in client.orders(page_size=7)]
            assert sorted(seen) == sorted(one.id for one in placed)
            assert len((await client.cancel_orders()).results) == 20
            assert (await client.account()).order_margin == 0

    asyncio.run(trade())


def test_a_bound_key_signs_every_request(served: Served, buyer: Client) -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signer = Signer(pem)
    made = buyer.create_api_key(["read", "trade"], public_key=signer.public_key)
    assert made.key is not None
    unsigned = Client(served.origin, key=made.key)
    with unsigned, pytest.raises(errors.InvalidSignature):
        unsigned.account()
    with Client(served.origin, key=made.key, signer=signer) as signed:
        assert signed.account().cash == 1_000
        assert signed.place_order(buy("1.200", 1)).status == "open"
        assert [one.quantity for one in signed.orders(side="buy", instrument=HOUR)] == [1]
        assert len(signed.cancel_orders(side="buy").results) == 1
    late = Signer(private.private_bytes_raw(), clock_ms=lambda: 1_000)
    outside = Client(served.origin, key=made.key, signer=late)
    with outside, pytest.raises(errors.TimestampOutsideWindow):
        outside.account()


def test_money_moves_once_per_key(buyer: Client) -> None:
    first = buyer.deposit("12.5", idempotency_key="salary")
    again = buyer.deposit("12.5", idempotency_key="salary")
    assert (first.id, first.amount, first.state) == (again.id, Decimal("12.500000"), "posted")
    assert buyer.account().cash == Decimal("1012.5")
    with pytest.raises(errors.InsufficientFunds):
        buyer.withdraw(5_000)


def test_what_cannot_be_meant_never_leaves() -> None:
    with pytest.raises(TypeError):
        buy(1.25, 1).body()  # type: ignore[arg-type]
    for wrong in ("1.2345", "NaN", "one", "Infinity"):
        with pytest.raises(ValueError, match=r"decimals|number"):
            buy(wrong, 1).body()
    assert buy(Decimal("1.25"), 1).body()["price"] == "1.250"
    assert buy(2, 1).body()["price"] == "2.000"


def test_every_class_of_error_is_a_code_of_the_exchange() -> None:
    from marketplace.codes import CODES

    known = {code: CODES[code][0] for code in errors.all_codes()}
    assert {code: status for code, (status, _) in errors.all_codes().items()} == known
