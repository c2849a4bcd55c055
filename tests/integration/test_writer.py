"""Statements that are sent together: all of them are kept, or none."""

from collections.abc import Iterator

import psycopg
import pytest

from exchange import store
from marketplace import rowset

pytestmark = pytest.mark.django_db(transaction=True)

_GROUPS = rowset.Table("written", {"name": "text", "number": "bigint"}, key=["name"])


@pytest.fixture
def connection() -> Iterator[store.Connection]:
    connection = store.connect()
    connection.execute("CREATE TEMPORARY TABLE written (name text PRIMARY KEY, number bigint)")
    yield connection
    connection.close()


def rows(connection: store.Connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT name, number FROM written ORDER BY name").fetchall()


def test_what_a_block_sends_is_there_after_it(connection: store.Connection) -> None:
    with rowset.transaction(connection) as writer:
        _GROUPS.insert(writer, [("a", 1), ("b", 2)])
        _GROUPS.update(writer, [("a", 3)])
        _GROUPS.upsert(writer, [("b", 4), ("c", 5)])
    assert rows(connection) == [("a", 3), ("b", 4), ("c", 5)]


def test_the_first_statement_that_fails_is_what_is_raised(connection: store.Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation), rowset.transaction(connection) as writer:
        _GROUPS.insert(writer, [("a", 1)])
        _GROUPS.insert(writer, [("a", 2)])
        _GROUPS.update(writer, [("nobody", 1)])
    assert rows(connection) == []


def test_an_update_that_finds_too_few_rows_keeps_nothing(connection: store.Connection) -> None:
    with pytest.raises(AssertionError), rowset.transaction(connection) as writer:
        _GROUPS.insert(writer, [("a", 1)])
        _GROUPS.update(writer, [("a", 2), ("b", 2)])
    assert rows(connection) == []


def test_a_block_that_raises_keeps_nothing_and_the_session_goes_on(
    connection: store.Connection,
) -> None:
    with pytest.raises(LookupError), rowset.transaction(connection) as writer:
        _GROUPS.insert(writer, [("a", 1)])
        raise LookupError
    with rowset.transaction(connection) as writer:
        _GROUPS.insert(writer, [("a", 2)])
    assert rows(connection) == [("a", 2)]


def test_an_instant_is_written_to_the_microsecond(connection: store.Connection) -> None:
    connection.execute("CREATE TEMPORARY TABLE noted (id bigint, at timestamptz)")
    notes = rowset.Table("noted", {"id": "bigint", "at": rowset.INSTANT}, key=["id"])
    with rowset.transaction(connection) as writer:
        notes.insert(writer, [(1, 1_796_115_600_000_001), (2, None)])
    found = connection.execute("SELECT (extract(epoch FROM at) * 1000000)::bigint FROM noted")
    assert [row[0] for row in found.fetchall()] == [1_796_115_600_000_001, None]
