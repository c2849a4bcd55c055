"""What happens to packages, in the words of `exchange.events`, which these are part of."""

import msgspec


class PackageChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=63):
    """A package is this from here on: bought, cut out of another, or cut.

    `schedule` has (starts at, ends at, lots, P1 lots) of each stretch of it, in patterns. `escrow`
    and `margin` are what its holder has paid and its seller reserves for what is to come of it.
    `cause` is the instruction that made it; with `parent` it was cut out of that one.
    """

    package: int
    cause: str
    listing: int
    parent: int
    seller: int
    holder: int
    grade: str
    starts_at: int
    ends_at: int
    schedule: tuple[tuple[int, int, tuple[int, ...], tuple[int, ...]], ...]
    price: int
    list_price: int
    escrow: int
    margin: int
    bought_at: int
    at: int


class PackageResold(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """A slice of a package was sold on for `amount`; it is a package of its own from here on."""

    package: int
    parent: int
    holder: int
    buyer: int
    starts_at: int
    ends_at: int
    lot_hours: int
    price: int
    amount: int
    fee: int
    at: int


PackageEvent = PackageChanged | PackageResold
