"""A repeatable stream of orders: the same numbers for every engine that is measured.

An operation is a plain tuple, (order, account, side, price, lots) or (order, account) for a
cancel, so that no engine is given its own objects for nothing. Two shapes:

- `near`: what the peer's own benchmark sends, without its market orders: three limit orders to
  one cancel, prices within 50 ticks of the middle, one order in ten through it.
- `deep`: long queues at few prices, swept by large orders: first-in-first-out at its plainest.

A third, `steady`, is for journals: as `near`, but every order is canceled after 5,000 others unless
it was filled, so that the books stay the size they are.
"""

import random
from collections.abc import Iterator

MIDDLE = 10_000
ACCOUNTS = 1_000
CANCEL_SHARE = 0.25
LIFE = 5_000
"""After how many others an order of `steady` is canceled."""
SHAPES = ("near", "deep")

Operation = tuple[int, ...]


def stream(shape: str, count: int, *, seed: int = 1, accounts: int = ACCOUNTS) -> list[Operation]:
    """Return `count` operations of a shape."""
    chance = random.Random(f"{shape} {seed}")
    make = {"near": _near, "deep": _deep, "steady": _steady}[shape]
    return list(make(chance, count, accounts))


def resting(count: int, *, accounts: int = ACCOUNTS) -> list[Operation]:
    """Return `count` orders that all rest, over 500 prices a side."""
    chance = random.Random("resting")
    found: list[Operation] = []
    for number in range(1, count + 1):
        side = 1 if number % 2 else -1
        price = MIDDLE - side * chance.randint(1, 500)
        found.append((number, 1 + number % accounts, side, price, chance.randint(1, 9)))
    return found


def _near(chance: random.Random, count: int, accounts: int) -> Iterator[Operation]:
    placed: list[tuple[int, int]] = []
    for number in range(1, count + 1):
        if placed and chance.random() < CANCEL_SHARE:
            yield placed[chance.randrange(len(placed))]
            continue
        account, side = chance.randint(1, accounts), chance.choice((1, -1))
        placed.append((number, account))
        price = MIDDLE - side * chance.randint(-5, 50)
        yield number, account, side, price, chance.randint(1, 100)


def _deep(chance: random.Random, count: int, accounts: int) -> Iterator[Operation]:
    for number in range(1, count + 1):
        account, side = chance.randint(1, accounts), chance.choice((1, -1))
        if number % 20:
            yield number, account, side, MIDDLE - side * chance.randint(1, 5), chance.randint(1, 9)
        else:
            yield number, account, side, MIDDLE + side * 5, 95


def _steady(chance: random.Random, count: int, accounts: int) -> Iterator[Operation]:
    placed: list[tuple[int, int]] = []
    for number in range(1, count + 1):
        if len(placed) > LIFE and number % 2:
            yield placed[-LIFE]
            continue
        account, side = chance.randint(1, accounts), chance.choice((1, -1))
        placed.append((number, account))
        price = MIDDLE - side * chance.randint(-5, 50)
        yield number, account, side, price, chance.randint(1, 100)
