"""What an outsider finds out about a published index, and what nobody could have slipped in."""

from dataclasses import replace

import msgspec
import pytest

from exchange import events
from marketplace import contract
from settlement import index, index_check, instructions
from settlement.index_check import Trade, Value
from tests.floor import GRADE, Floor, hour, instant

GATE = 300_000_000


@pytest.fixture(scope="module")
def floor() -> Floor:
    """An hour with an index by trades that was corrected, and hours that fall back on both."""
    floor = Floor("18:00")
    for account in range(1, 11):
        floor.account(account, certified=100)
    for seller, price in ((1, 1_240), (2, 1_250), (3, 1_260), (4, 1_270), (5, 1_280)):
        floor.sell(seller, 20, price)
        floor.buy(seller + 5, 20, price)
    floor.to("20:55")
    floor.instruct(
        instructions.OverrideIndex(
            grade=GRADE,
            hour_starts_at=hour("20"),
            version=2,
            price_ticks=1_300,
            reason="wrong",
            proposed_by=1,
            confirmed_by=2,
        )
    )
    floor.to("22:55")
    return floor


def values(floor: Floor) -> dict[int, list[Value]]:
    """Every version of every hour, as it is published."""
    found: dict[int, list[Value]] = {}
    for event in floor.events:
        if isinstance(event, events.IndexPublished):
            found.setdefault(event.hour_starts_at, []).append(
                Value(
                    version=event.version,
                    price=event.price,
                    method=event.method,
                    digest=event.digest,
                    inputs=event.inputs,
                    at=event.at,
                )
            )
    return found


def tape(floor: Floor, starts_at: int, *, with_groups: bool = False) -> list[Trade]:
    """The trades of an hour as the tape has them; every account is a group of its own here."""
    symbol = contract.hour_contract(GRADE, starts_at).symbol
    trades = []
    for event in floor.events:
        if isinstance(event, events.Traded) and event.instrument == symbol:
            pair = (
                (event.taker, event.maker) if event.taker_side > 0 else (event.maker, event.taker)
            )
            trades.append(
                Trade(
                    lots=event.lots,
                    price=event.price,
                    is_auction=event.is_auction,
                    at=event.at,
                    groups=pair if with_groups else None,
                )
            )
    return trades


def differences(floor: Floor, at: str, *, known=None, trades=None) -> list[str]:
    known = known or values(floor)
    starts_at = hour(at)
    return index_check.differences(
        grade=GRADE,
        hour=starts_at,
        versions=known[starts_at],
        tape=tape(floor, starts_at) if trades is None else trades,
        before={other: versions for other, versions in known.items() if other != starts_at},
    )


def test_every_value_of_an_evening_follows_from_the_public_record(floor: Floor) -> None:
    known = values(floor)
    shown = [(v.price, v.method) for at in ("20", "21", "22", "23") for v in known[hour(at)]]
    assert shown == [
        (1_260, "trades"),
        (1_300, "override"),
        (1_260, "last"),
        (1_300, "last"),
        (1_300, "last"),
    ]
    for starts_at in known:
        at = f"{(starts_at - hour('00')) // contract.HOUR:02}"
        assert differences(floor, at) == []
        assert differences(floor, at, trades=tape(floor, starts_at, with_groups=True)) == []


def changed(floor: Floor, at: str, **more) -> dict[int, list[Value]]:
    """The record with the first version of an hour published otherwise, and never corrected."""
    known = values(floor)
    return known | {hour(at): [replace(known[hour(at)][0], **more)]}


def with_inputs(floor: Floor, at: str, **more) -> dict[int, list[Value]]:
    """The record with other inputs for an hour, and with the value and hash that they give."""
    stated = index.decode(values(floor)[hour(at)][0].inputs)
    fields = {name: getattr(stated, name) for name in stated.__struct_fields__}
    body = index.encode(index.Inputs(**(fields | more)))
    price, method = index.recompute("", body)
    return changed(
        floor, at, inputs=body, digest=index.digest(body), price=price, method=str(method)
    )


def test_another_price_than_the_inputs_give_is_found(floor: Floor) -> None:
    assert differences(floor, "20", known=changed(floor, "20", price=1_261)) == [
        "version 1: 1261 by trades is published, the inputs give 1260 by trades"
    ]
    assert differences(floor, "20", known=changed(floor, "20", method="auction")) == [
        "version 1: 1260 by auction is published, the inputs give 1260 by trades"
    ]


def test_inputs_with_another_hash_are_found(floor: Floor) -> None:
    body = values(floor)[hour("20")][0].inputs.replace(b"1240", b"1241")
    assert differences(floor, "20", known=changed(floor, "20", inputs=body)) == [
        "version 1: the inputs have another hash than the published one"
    ]


def test_inputs_that_are_written_otherwise_are_found(floor: Floor) -> None:
    body = values(floor)[hour("20")][0].inputs + b" "
    known = changed(floor, "20", inputs=body, digest=index.digest(body))
    assert differences(floor, "20", known=known) == [
        "version 1: the inputs are not in their canonical form"
    ]


def test_inputs_of_another_hour_are_found(floor: Floor) -> None:
    known = values(floor)
    assert differences(floor, "22", known=known | {hour("22"): known[hour("23")]}) == [
        "version 1: the inputs are of another hour"
    ]


@pytest.mark.parametrize(
    "alter",
    [
        lambda trades: trades[:-1],
        lambda trades: [*trades, trades[0]],
        lambda trades: [trades[1], trades[0], *trades[2:]],
        lambda trades: [(trades[0][0], trades[0][1] + 1, *trades[0][2:]), *trades[1:]],
        lambda trades: [(trades[0][0] + 1, *trades[0][1:]), *trades[1:]],
    ],
    ids=["one left out", "one made up", "two exchanged", "another price", "another quantity"],
)
def test_inputs_that_agree_with_their_value_and_not_with_the_tape_are_found(
    floor: Floor, alter
) -> None:
    stated = index.decode(values(floor)[hour("20")][0].inputs).trades
    lines = [(one.lots, one.price, one.buyer, one.seller, one.at) for one in stated]
    trades = tuple(index.Tape(line[4], *line[:4]) for line in alter(lines))
    (found,) = differences(floor, "20", known=with_inputs(floor, "20", trades=trades))
    assert found.startswith("the inputs have ")


def test_groups_that_are_numbered_otherwise_than_they_appear_are_found(floor: Floor) -> None:
    stated = index.decode(values(floor)[hour("20")][0].inputs).trades
    late = (index.Tape(stated[0].at, 20, 1_240, 3, 4), *stated[1:])
    assert differences(floor, "20", known=with_inputs(floor, "20", trades=late)) == [
        "groups are not numbered in the order of their appearance"
    ]


def test_who_knows_the_groups_finds_one_that_is_split_in_two(floor: Floor) -> None:
    """To an outsider the numbers of 10 groups and of 9 look alike."""
    trades = tape(floor, hour("20"), with_groups=True)
    one = [replace(trades[0], groups=(6, trades[1].groups[1])), *trades[1:]]
    assert differences(floor, "20", trades=one) == [
        "the numbers of the groups are not those of who traded"
    ]


def test_an_auction_that_never_was_and_one_that_is_hidden_are_found(floor: Floor) -> None:
    known = with_inputs(floor, "20", auction=1_200)
    assert differences(floor, "20", known=known) == ["no auction of the tape has that price"]
    opened = instant("-1 12:00")
    trades = [replace(trade, is_auction=True, at=opened) for trade in tape(floor, hour("20"))]
    stated = index.decode(values(floor)[hour("20")][0].inputs).trades
    lines = tuple(index.Tape(opened, *msgspec.structs.astuple(one)[1:]) for one in stated)
    known = with_inputs(floor, "20", trades=lines)
    assert differences(floor, "20", known=known, trades=trades) == [
        "the opening auction made a price that the inputs leave out"
    ]


@pytest.mark.parametrize("more", [{"last": 1_250}, {"last_age": 1}])
def test_a_last_value_that_was_never_the_last_is_found(floor: Floor, more: dict) -> None:
    known = with_inputs(floor, "22", **more)
    price = more.get("last", 1_300)
    assert differences(floor, "22", known=known) == [f"the last value is 1300, and not {price}"]


def test_a_correction_has_to_follow_from_what_it_replaces(floor: Floor) -> None:
    known = values(floor)
    first, second = known[hour("20")]
    assert differences(floor, "20", known=known | {hour("20"): [second]}) == [
        "versions are missing"
    ]
    body = index.encode(
        index.Correction(
            grade=GRADE,
            hour_starts_at=hour("20"),
            version=2,
            price=1_300,
            replaces=1_250,
            reason="wrong",
        )
    )
    other = replace(second, inputs=body, digest=index.digest(body))
    assert differences(floor, "20", known=known | {hour("20"): [first, other]}) == [
        "version 2 does not replace what version 1 says"
    ]
    late = replace(second, at=index.corrected_until(hour("20")))
    assert differences(floor, "20", known=known | {hour("20"): [first, late]}) == [
        "version 2 was not published in time"
    ]


def test_an_hour_without_a_book_of_its_own_is_worth_what_its_day_was_at_the_end() -> None:
    floor = Floor("09:00")
    day = contract.day_contract(GRADE, instant("+1 00:00"))
    floor.to("11:29")
    final = floor.machine.instrument_view(day.symbol).mark
    floor.to("+1 13:55")
    known = values(floor)
    first = known[hour("+1 14")][0]
    assert (first.price, first.method) == (final, "parent")
    for parent, found in (
        (final, []),
        (None, []),
        (final + 1, [f"the parent's final mark is {final + 1}, and not {final}"]),
    ):
        assert found == index_check.differences(
            grade=GRADE,
            hour=hour("+1 14"),
            versions=[first],
            tape=[],
            before={other: versions for other, versions in known.items() if other < hour("+1 14")},
            parent=parent,
        )
