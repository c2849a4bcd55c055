"""The client against a market: the API's own server, an engine, and a socket between them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baseload import Amend, AsyncClient, Cancel, Client, NewOrder, NewStrip, Signer, errors, models
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


def test_every_kind_of_order_is_taken(buyer: Client, seller: Client) -> None:
    seller.place_order(sell("1.250", 10))
    market = buyer.place_order(NewOrder(instrument=HOUR, side="buy", type="market", quantity=2))
    assert (market.status, market.price, market.filled_quantity) == ("filled", None, 2)
    tomorrow = datetime(2026, 12, 1, 12, tzinfo=UTC)
    resting = buyer.place_order(
        buy("1.240", 9, time_in_force="gtd", expires_at=tomorrow, post_only=True)
    )
    assert (resting.expires_at, resting.post_only) == (tomorrow, True)
    iceberg = buyer.place_order(buy("1.240", 9, display_quantity=3, time_in_force="day"))
    assert iceberg.display_quantity == 3
    assert buyer.book(HOUR).bids == ((Decimal("1.240"), 12),)
    stop = buyer.place_order(
        NewOrder(instrument=HOUR, side="buy", type="stop", quantity=1, stop_price="1.260")
    )
    assert (stop.status, stop.stop_price, stop.is_live) == ("untriggered", Decimal("1.260"), True)
    killed = buyer.place_order(buy("1.250", 20, time_in_force="fok"))
    assert (killed.status, killed.reason) == ("canceled", "fill_or_kill")
    least = buyer.place_order(buy("1.250", 20, min_quantity=15))
    assert (least.status, least.reason) == ("canceled", "min_quantity")
    reducing = seller.place_order(
        NewOrder(instrument=HOUR, side="buy", quantity=1, price="1.240", reduce_only=True)
    )
    assert (reducing.reduce_only, reducing.status) == (True, "open")
    with pytest.raises(errors.PostOnlyWouldTrade):
        buyer.place_order(buy("1.250", 1, post_only=True))
    amended = buyer.amend_order(resting.id, price="1.245", quantity=4)
    assert (amended.price, amended.remaining_quantity) == (Decimal("1.245"), 4)


def test_a_test_says_what_an_order_would_do_and_does_nothing(buyer: Client, seller: Client) -> None:
    seller.batch([sell("1.250", 10), sell("1.260", 10)])
    preview = buyer.test_order(buy("1.260", 15))
    assert preview.reason is None
    assert (preview.status, preview.filled_quantity) == ("filled", 15)
    assert [(one.price, one.quantity) for one in preview.fills] == [
        (Decimal("1.250"), 10),
        (Decimal("1.260"), 5),
    ]
    assert preview.impact is not None
    assert (preview.impact.best_before, preview.impact.best_after) == (
        Decimal("1.250"),
        Decimal("1.260"),
    )
    assert buyer.test_order(buy("9.000", 1)).reason == "outside_band"
    assert list(buyer.orders()) == []
    order = buyer.place_order(buy("1.260", 15))
    assert (order.average_price, order.fee) == (preview.average_price, preview.fee)


def test_a_strip_trades_the_same_lots_in_every_hour(buyer: Client, seller: Client) -> None:
    starts_at = datetime(2026, 12, 1, 14, tzinfo=UTC)
    hours = [f"{GRADE}.H.20261201T{hour}Z" for hour in (14, 15)]
    for number, symbol in enumerate(hours):
        price = f"1.2{number}0"
        seller.place_order(NewOrder(instrument=symbol, side="sell", quantity=5, price=price))
    strip = NewStrip(
        grade=GRADE,
        side="buy",
        starts_at=starts_at,
        ends_at=starts_at + timedelta(hours=2),
        price="1.205",
        quantity=8,
        min_share=50,
    )
    preview = buyer.test_strip(strip)
    assert list(buyer.orders()) == [], "it is only asked about"
    done = buyer.place_strip(strip)
    assert (preview.grade, preview.filled_quantity, preview.status, preview.reason) == (
        strip.grade,
        done.filled_quantity,
        done.status,
        done.reason,
    )
    assert (preview.average_price, preview.fee) == (done.average_price, done.fee)
    assert [
        (hour.instrument, fill.price, fill.quantity)
        for hour in preview.hours
        for fill in hour.fills
    ] == [(fill.instrument, fill.price, fill.quantity) for fill in done.fills]
    assert (done.type, done.status, done.filled_quantity) == ("strip", "canceled", 5)
    assert done.average_price == Decimal("1.205000")
    assert [(fill.instrument, fill.quantity) for fill in done.fills] == [(one, 5) for one in hours]
    assert (done.grade, done.starts_at) == (GRADE, starts_at)
    assert buyer.place_strip(strip) == done
    assert [one.quantity for one in buyer.positions()] == [5, 5]


def test_the_dead_mans_switch_is_set_and_unset(buyer: Client) -> None:
    switch = buyer.cancel_all_after(60_000)
    assert (switch.timeout_ms, switch.cancel_at) == (
        60_000,
        datetime(2026, 12, 1, 9, 1, tzinfo=UTC),
    )
    assert buyer.cancel_all_after(0).cancel_at is None


def test_what_is_read_of_the_market_has_models(buyer: Client, seller: Client) -> None:
    seller.place_order(sell("1.250", 10))
    buyer.place_order(buy("1.250", 4))
    assert buyer.status().state == "running"
    assert buyer.time().now == datetime(2026, 12, 1, 9, tzinfo=UTC)
    (grade,) = buyer.grades()
    assert (grade.code, grade.weights.output) == (GRADE, Decimal("4.000"))
    (candle,) = buyer.candles(HOUR, interval="5m")
    assert (candle.close, candle.volume) == (Decimal("1.250"), 4)
    auction = buyer.auction(HOUR)
    assert (auction.kind, auction.state) == (None, "continuous")
    assert {one.instrument for one in buyer.curve(GRADE).points} >= {HOUR}
    assert [one.previous_sequence for one in buyer.deltas(HOUR, 1)] == [0, 1]
    assert buyer.margin().positions[0].quantity == 4
    assert {one.code for one in buyer.ledger()} >= {"deposit", "trading_fee"}
    assert list(buyer.entitlements()) == list(buyer.settlements()) == []
    assert buyer.usage().results == ()
    assert list(buyer.index(GRADE)) == []
    assert [one.seller for one in buyer.pools()] == ["Seller"]
    assert len(list(buyer.api_keys())) == 1


def test_a_provider_certifies_and_offers_capacity(seller: Client) -> None:
    with pytest.raises(errors.Refused) as raised:
        seller.register_cluster("hall two", GRADE, "H100", replicas=2)
    assert raised.value.code == "unknown_model"
    (hall_one,) = seller.clusters()
    begun = seller.certify_cluster(hall_one.id, idempotency_key="once")
    assert seller.certify_cluster(hall_one.id, idempotency_key="once") == begun
    assert seller.certification(hall_one.id, begun.id).cluster == hall_one.id
    offer = seller.offer(hall_one.id, HOUR, 5, "1.250")
    assert [one.id for one in seller.listings()] == [offer.id]
    assert seller.book(HOUR).asks == ((Decimal("1.250"), 5),)
    assert seller.withdraw_offer(offer.id).state == "withdrawn"
    (statement,) = seller.statements()
    cash = next(part for part in statement.accounts if part.account == "cash")
    assert (cash.opening, cash.closing) == (Decimal("0"), Decimal("1000"))


class Cutter:
    """A line to the exchange that breaks just when the answer comes, so many times."""

    def __init__(self, origin: str, cuts: int) -> None:
        host, port = origin.removeprefix("http://").split(":")
        self._exchange = host, int(port)
        self.cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                exchange = socket.create_connection(self._exchange)
                for one, other in ((caller, exchange), (exchange, caller)):
                    is_answer = one is exchange
                    threading.Thread(
                        target=self._pass_on, args=(one, other, is_answer), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if is_answer and self.cuts:
                    self.cuts -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def test_what_the_exchange_did_before_the_line_broke_is_done_once(served: Served) -> None:
    party = served.world.party("Buyer", cash=CASH)
    line = Cutter(served.origin, cuts=0)
    with Client(line.origin, key=party.api.key) as client:
        line.cuts = 2
        order = client.place_order(buy("1.200", 5))
        line.cuts = 1
        money = client.deposit(7)
        line.cuts = 1
        assert client.amend_order(order.id, quantity=3).quantity == 3
        line.cuts = 1
        assert client.cancel_order(order.id).status == "canceled"
        line.cuts = 2
        batch = client.batch([buy("1.200", 1), buy("1.200", 2)])
        assert line.cuts == 0
        orders = [(one.quantity, one.status) for one in client.orders()]
        assert orders == [(2, "open"), (1, "open"), (3, "canceled")]
        assert len(batch) == 2
        assert money.state == "posted"
        assert client.account().cash == 1_007
    line.close()
