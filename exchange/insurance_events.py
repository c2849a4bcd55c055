"""What options come to after their trading, in the words of `exchange.events`."""

import msgspec


class InsurancePaid(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=51):
    """An option paid an account, or was paid by it: signed micro-USD, for lots held or written.

    `interval` is that of shortage cover, 0 for the hour of a cap; `mntu` are the tokens that a
    holder is paid for at `price` ticks, 0 for a writer.
    """

    instrument: str
    hour_starts_at: int
    interval: int
    account: int
    lots: int
    mntu: int
    price: int
    amount: int
    at: int


class OptionHeld(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """An account holds lots of an option, or has written them, now that trading has ended."""

    instrument: str
    account: int
    lots: int
    pay_ticks: int
    """What cover pays; 0 of a cap."""
    at: int


class InsuranceCorrected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=68):
    """A later run added this to what an hour of an option had paid an account; micro-USD."""

    run: str
    instrument: str
    hour_starts_at: int
    account: int
    amount: int
    at: int


InsuranceEvent = InsurancePaid | OptionHeld | InsuranceCorrected
INSURANCE = (InsurancePaid, OptionHeld, InsuranceCorrected)
