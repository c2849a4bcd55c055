"""Packages by the client and from a shell, against a market."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from baseload import Client, cli, errors
from tests.market import GRADE
from tests.rest import Party
from tests.served import Served

CASH = 10_000_000_000
FROM, TO = date(2026, 12, 3), date(2026, 12, 10)


@pytest.fixture
def provider(served: Served) -> Iterator[Client]:
    party = served.world.party("Cirrus", "PROVIDER", cash=CASH)
    served.world.cluster(party, lots=100)
    with Client(served.origin, key=party.api.key) as client:
        yield client


@pytest.fixture
def buyer(served: Served) -> Party:
    return served.world.party("Northwind", cash=CASH)


def offer(provider: Client, **more):
    terms = {"discounts": {7: 5}, "quantity": 4} | more
    return provider.offer_package(GRADE, FROM, date(2026, 12, 24), [10], "1.250", **terms)


def test_a_package_is_offered_quoted_and_withdrawn(
    served: Served, provider: Client, buyer: Party
) -> None:
    made = offer(provider, idempotency_key="once")
    assert offer(provider, idempotency_key="once") == made
    assert (made.provider_name, made.available, made.state) == ("Cirrus", 4, "open")
    assert (made.from_date, made.lots, made.list_price) == (FROM, (10,), Decimal("1.250"))
    with Client(served.origin, key=buyer.api.key) as client:
        assert list(client.packages(grade=GRADE)) == [made]
        quote = client.quote_package(made.id, FROM, TO, quantity=2)
        assert (quote.days, quote.discount_percent, quote.price) == (7, 5, Decimal("1.187"))
        assert quote.lot_hours == 2 * 10 * 24 * 7
        assert quote.total == Decimal("239.299200")
        assert quote.saved_against_list == Decimal("12.700800")
        assert list(client.bought_packages()) == []
        with pytest.raises(errors.ApiError) as caught:
            client.withdraw_package(made.id)
        assert caught.value.status == 404
    gone = provider.withdraw_package(made.id)
    assert (gone.state, gone.reason, gone.available) == ("withdrawn", "requested", 0)
    assert provider.withdraw_package(made.id) == gone


def test_packages_from_a_shell(
    served: Served, provider: Client, buyer: Party, capsys, monkeypatch
) -> None:
    made = offer(provider)
    monkeypatch.setenv("BASELOAD_URL", served.origin)
    monkeypatch.setenv("BASELOAD_KEY", buyer.api.key)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    status, out, _ = run("packages")
    assert (status, out.splitlines()[1].split()[:3]) == (0, [made.id, "Cirrus", GRADE])
    status, out, _ = run("package", "quote", made.id, "2026-12-03", "2026-12-10", "2", "--json")
    assert (status, json.loads(out)["total"]) == (0, "239.299200")
    assert run("package", "quote", made.id)[0] == 2
    assert "package quote ID FROM TO [UNITS]" in run("package", "quote", made.id)[2]
    assert run("package", "quote", made.id, "soon", "later")[0] == 2
    assert run("package", "bought") == (0, "", "no package\n")
    assert run("package", "slices") == (0, "", "no slice\n")
    assert run("package", "withdraw", made.id)[0] == 1


def test_the_rest_of_the_account_is_read_from_a_shell(
    served: Served, buyer: Party, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("BASELOAD_URL", served.origin)
    monkeypatch.setenv("BASELOAD_KEY", buyer.api.key)
    for command in ("deliveries", "insurance"):
        assert cli.main([command]) == 0
    assert capsys.readouterr().err == "no delivery\nno payment\n"
    assert cli.main(["month"]) == 0
    assert "2026-12" in capsys.readouterr().out
    assert cli.main(["month", "2026-12"]) == 0
    assert "cash: 0.000000 to 10000.000000" in capsys.readouterr().out
    assert cli.main(["margin"]) == 0
    assert "available" in capsys.readouterr().out
    assert cli.main(["curve", GRADE]) == 0
    assert f"{GRADE}.D.20261202" in capsys.readouterr().out
    assert cli.main(["index", GRADE]) == 0


def test_surplus_and_pools_by_the_client(served: Served, buyer: Party) -> None:
    with Client(served.origin, key=buyer.api.key) as client:
        made = client.instruct_resale(GRADE, "1.100", keep_lots=3, idempotency_key="r1")
        assert (made.state, made.floor_price, made.keep_lots) == ("active", Decimal("1.100"), 3)
        assert list(client.resale_instructions()) == [made]
        assert client.stop_resale(made.id).state == "stopped"
        hour = f"{GRADE}.H.20261201T14Z"
        deadline = datetime(2026, 12, 1, 13, tzinfo=UTC)
        committed = client.commit_purchase(hour, deadline, 5, "1.300")
        (pool,) = client.open_purchase_pools().results
        assert (pool.instrument, pool.members, pool.quantity) == (hour, 1, 5)
        assert client.withdraw_commitment(committed.id).state == "withdrawn"
        assert [one.state for one in client.commitments()] == ["withdrawn"]


def test_a_package_is_bought_and_a_slice_of_it_sold_on(
    served: Served, provider: Client, buyer: Party, capsys, monkeypatch
) -> None:
    made = offer(provider)
    with Client(served.origin, key=buyer.api.key) as client:
        held = client.buy_package(made.id, FROM, TO, quantity=2, idempotency_key="b1")
        assert client.buy_package(made.id, FROM, TO, quantity=2, idempotency_key="b1") == held
        assert (held.provider_name, held.price) == ("Cirrus", Decimal("1.187"))
        assert (held.remaining_lot_hours, held.remaining_value) == (3_360, Decimal("239.299200"))
        assert [one.lots for one in held.remaining] == [(20,)]
        assert client.bought_package(held.id) == held
        assert list(provider.sold_packages()) == [held]
        start, end = datetime(2026, 12, 5, 8, tzinfo=UTC), datetime(2026, 12, 5, 18, tzinfo=UTC)
        slice_of = client.resell_package(held.id, start, end, [5], "1.300")
        assert (slice_of.lot_hours, slice_of.total) == (50, Decimal("3.900000"))
        with pytest.raises(errors.ApiError) as caught:
            client.resell_package(held.id, start, end, [21], "1.300")
        assert caught.value.code == "exceeds_package"
        second = client.resell_package(held.id, start, end, [1], "1.300")
        assert client.withdraw_package_slice(second.id).state == "withdrawn"
        other = served.world.party("Acme", cash=CASH)
        monkeypatch.setenv("BASELOAD_URL", served.origin)
        monkeypatch.setenv("BASELOAD_KEY", other.api.key)
        capsys.readouterr()
        assert cli.main(["package", "slices"]) == 0
        assert cli.main(["package", "take", slice_of.id]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[1].split()[:3] == [slice_of.id, "Northwind", GRADE]
        assert f"50 lot-hours of {GRADE} @ 1.187" in said[2]
        assert [one.state for one in client.own_package_slices()] == ["withdrawn", "sold"]
        assert cli.main(["package", "take", slice_of.id]) == 1
