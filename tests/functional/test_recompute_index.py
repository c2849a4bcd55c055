"""`manage.py recompute_index`, with the database and with nothing but an exchange's address."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from settlement.models import IndexValue
from tests.conftest import MovedClock
from tests.market import GRADE, buy, sell
from tests.rest import Api, World

HOUR = "LLAMA70B.H.20261201T10Z"


@pytest.fixture
def closed(world: World, clock: MovedClock) -> World:
    """An exchange whose hour 10 has an index by trades, corrected, and whose hour 11 falls back."""
    market = world.market
    for number, price in enumerate((1_240, 1_250, 1_260, 1_270, 1_280)):
        seller = world.party(f"Hall {number}", "PROVIDER", cash=10_000_000)
        buyer = world.party(f"Desk {number}", cash=10_000_000)
        world.cluster(seller)
        market.execute(sell(seller.id, price, 20, f"s{number}", instrument=HOUR))
        market.execute(buy(buyer.id, price, 20, f"b{number}", instrument=HOUR))
    operators = [world.party(name, "OPERATOR") for name in ("Desk of one", "Desk of two")]
    clock.set("2026-12-01T09:56Z")
    market.work()
    with world.running():
        for operator in operators:
            path = f"index/{GRADE}/20261201T10Z/override"
            body = {"price": "1.300", "reason": "A quote stood in the wrong hour"}
            assert operator.api.post(path, body, key="-").status in (200, 202)
    clock.set("2026-12-01T11:56Z")
    market.work()
    return world


@pytest.fixture(params=["database", "address"])
def source(request: pytest.FixtureRequest, closed: World) -> list[str]:
    """What tells the command where the record is: nothing, or the address of a server."""
    if request.param == "database":
        return []
    return ["--from", request.getfixturevalue("live_server").url]


def run(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("recompute_index", *arguments, stdout=out)
    return out.getvalue().splitlines()


def _alter(statement: str) -> None:
    """Do behind the database's own rules what it would refuse."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)


def test_every_value_is_recomputed_to_the_digit(source: list[str]) -> None:
    assert run("--all", *source) == [
        f"{GRADE} 20261201T10Z 1.300 override  recomputed",
        f"{GRADE} 20261201T11Z 1.300 last      recomputed",
        f"{GRADE} 20261201T12Z 1.300 last      recomputed",
        "3 values recomputed, all of them alike",
    ]
    (line,) = run(GRADE, "20261201T10Z", "--json", *source)
    assert json.loads(line) == {
        "grade": GRADE,
        "hour": "20261201T10Z",
        "price": "1.300",
        "version": 2,
        "method": "override",
        "differences": [],
    }


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE settlement_indexvalue SET price_ticks = 1301 WHERE version = 2", "1301"),
        ("UPDATE exchange_trade SET lots = 21 WHERE price_ticks = 1240", "4 of them alike"),
        ("DELETE FROM exchange_trade WHERE price_ticks = 1240", "the tape 4"),
        ("DELETE FROM settlement_indexvalue WHERE version = 1 AND method = 'trades'", "missing"),
    ],
)
def test_what_was_altered_is_found_with_an_exit_status(
    source: list[str], statement: str, text: str
) -> None:
    _alter(statement)
    out = StringIO()
    with pytest.raises(CommandError, match=r"1 of 3|3 of 3"):
        call_command("recompute_index", GRADE, "--all", *source, stdout=out)
    assert text in out.getvalue().splitlines()[0]


def test_the_database_keeps_what_was_published(closed: World) -> None:
    for statement in (
        "UPDATE settlement_indexvalue SET at = at",
        "DELETE FROM settlement_indexvalue",
    ):
        refused = pytest.raises(DatabaseError, match="never changed or removed")
        with refused, connection.cursor() as cursor:
            cursor.execute(statement)


def test_the_journal_gives_every_version_again(closed: World) -> None:
    out = StringIO()
    call_command("verify_journal", "--public", "--json", stdout=out)
    assert json.loads(out.getvalue())["index_values"] == 4


def test_only_the_exchange_itself_can_tell_the_groups_apart(closed: World) -> None:
    _alter(
        'UPDATE marketplace_organization SET "group" ='
        " (SELECT id FROM marketplace_organization WHERE name = 'Hall 0') WHERE name = 'Hall 1'"
    )
    with pytest.raises(CommandError, match="1 of 3"):
        run("--all")


def test_what_is_not_published_is_said(source: list[str]) -> None:
    with pytest.raises(CommandError, match="no index of LLAMA70B is published for 20261201T20Z"):
        run(GRADE, "20261201T20Z", *source)
    with pytest.raises(CommandError, match="hour is written"):
        run(GRADE, "tomorrow", *source)
    for arguments in ((), (GRADE,), (GRADE, "20261201T10Z", "--all")):
        with pytest.raises(CommandError, match="name a grade and an hour, or --all"):
            run(*arguments, *source)


def test_an_address_that_is_none_or_where_nobody_is_ends_the_command(closed: World) -> None:
    with pytest.raises(CommandError, match="begins with http"):
        run("--all", "--from", "file:///etc/passwd")
    with pytest.raises(CommandError, match="cannot be reached"):
        run("--all", "--from", "http://127.0.0.1:9")


def test_the_record_that_the_command_reads_is_public(closed: World) -> None:
    """All that it asks for over REST is answered without a key."""
    for path in ("grades", f"index/{GRADE}", f"index/{GRADE}/20261201T10Z"):
        assert Api().get(path).status == 200
    assert len(Api().get(f"instruments/{HOUR}/trades").json["results"]) == 5
    assert IndexValue.objects.count() == 4
