"""What accounts have promised beyond their orders and positions.

A member of a pool has promised to buy with the others at an instant (`purchases`). The seller of a
package has promised its certified lots, hour by hour (`packages`): they are pledged, and stand
behind nothing else.
"""

from typing import NamedTuple

import msgspec

from settlement.packages import Stretch


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


class Pledge(NamedTuple):
    """Lots of an hour that an account's clusters deliver to packages, some of them as P1."""

    lots: int
    p1_lots: int


NO_PLEDGE = Pledge(0, 0)


class Package(msgspec.Struct, array_like=True):
    """Hourly lots that a holder has bought of a seller: what is still to be delivered of them.

    `escrow` is their price, which the holder has paid; `margin` what the seller keeps reserved.
    """

    id: int
    cause: str
    listing: int
    parent: int
    seller: int
    holder: int
    grade: str
    starts_at: int
    ends_at: int
    stretches: list[Stretch]
    price: int
    list_price: int
    escrow: int
    margin: int
    bought_at: int
