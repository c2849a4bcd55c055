"""What happens when margin lacks, in the words of `exchange.events`, which these are part of."""

import msgspec


class Defaulted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """An account could not pay `amount` of what it owed to clearing: others bear it."""

    account: int
    amount: int
    cause: str
    at: int


class HaircutTaken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """An account received so much less than it was owed, for the whole waterfall was used up."""

    account: int
    amount: int
    cause: str
    at: int


class MarginCalled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=43):
    """An account has until `due_at` to bring so much more, or to need so much less."""

    account: int
    amount: int
    due_at: int
    at: int


class MarginCallMet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=44):
    """An account that was called has its initial margin again."""

    account: int
    at: int


class LiquidationStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=45):
    """A margin call was not met by so much: positions are reduced from here on."""

    account: int
    amount: int
    at: int


class LayerSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=46):
    """The exchange's own layer of the waterfall bears at most `limit` from here on."""

    limit: int
    at: int


class LiquidationStopped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """Rounds have reduced nothing; the call lacks `amount`, and the next round is at `next_at`.

    Nobody trades inside the band (`no_counterparty`), nobody took over what is covered
    (`not_taken_over`), or there is nothing that could be reduced (`nothing_left`).
    """

    account: int
    amount: int
    reason: str
    next_at: int
    at: int


class TransferAnnounced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=71):
    """Lots that an account is short of are offered with the capacity that is pledged to them."""

    transfer: int
    account: int
    instrument: str
    lots: int
    price_max: int
    due_at: int
    at: int


class TransferBidChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=72):
    """What became of a bid: placed, withdrawn, lost, or taken.

    One that is taken is short of `moved` lots at `mark` from here on, and was paid `received` (or,
    below zero, has paid) micro-USD, so that it is short of them at its price.
    """

    bid: int
    transfer: int
    account: int
    lots: int
    price: int
    state: str
    reason: str
    moved: int
    mark: int
    received: int
    at: int


class TransferEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=73):
    """An offer ended: `moved` of its lots have another obligor; `outcome` says why not more."""

    transfer: int
    account: int
    moved: int
    outcome: str
    at: int


class Drawn(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=74):
    """An account owed `amount` for `cause` and had less: who bore how much, down the waterfall.

    From its own cash, lent against its receivables, from its own share of the fund, by the
    exchange's layer, from others' shares; what even these do not reach is `unpaid`.
    """

    account: int
    amount: int
    own: int
    receivables: int
    share: int
    layer: int
    others: int
    unpaid: int
    cause: str
    at: int


DefaultEvent = (
    Defaulted
    | HaircutTaken
    | MarginCalled
    | MarginCallMet
    | LiquidationStarted
    | LayerSet
    | LiquidationStopped
    | TransferAnnounced
    | TransferBidChanged
    | TransferEnded
    | Drawn
)
