"""What accounts have promised beyond their orders and positions.

A member of a pool has promised to buy with the others at an instant (`purchases`).
"""

import msgspec


class Commitment(msgspec.Struct, array_like=True):
    """What a member of a pool buys at most, at which price at most, and keeps reserved for it."""

    id: int
    account: int
    lots: int
    price: int
    reserve: int


class Purchase(msgspec.Struct, array_like=True):
    """A pool: what its members buy together at one instant."""

    id: int
    symbol: str
    due_at: int
    commitments: dict[int, Commitment]
