"""What an hour's price caps and shortage cover owe by everything known now. *Core*.

Holders and writers are known once trading has ended, and stay who they are. So what an hour has
paid can be computed again from what it was paid on: the index in force and the tokens used for
caps, and for cover what was missed in each interval. Where these are known better, a run posts the
difference, account by account: what holders are owed more, their writers owe in the same
proportions as ever, and what was paid too much comes back the same way.

Whether a group had a cluster in an interval, and so was paid no cover, is a fact of that instant:
it is said with the interval and not looked at again.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from marketplace import contract
from marketplace.contract import Contract, Product
from settlement import insurance


class Policy(msgspec.Struct, frozen=True, array_like=True):
    """An option that does not trade any more; `lots` are (account, net), writers below zero."""

    symbol: str
    pay_ticks: int
    """What cover pays; 0 of a cap."""
    lots: tuple[tuple[int, int], ...]


class Missed(msgspec.Struct, frozen=True, array_like=True):
    """What a holder was owed by other groups in an interval, and missed; mNTU."""

    interval: int
    holder: int
    mntu: int
    entitled_lots: int
    is_barred: bool
    """Whether its group had a cluster of the grade."""


class Hour(msgspec.Struct, frozen=True, array_like=True):
    """What decides what an hour pays: the index, what each account used (mNTU), what was missed."""

    starts_at: int
    index: int
    metered: tuple[tuple[int, int], ...]
    missed: tuple[Missed, ...]


def terms_of(policy: Policy) -> Contract:
    """Return the contract of an option."""
    terms = contract.parse_symbol(policy.symbol)
    assert terms is not None, "options have symbols"
    assert terms.product in contract.OPTIONS, "only options insure"
    return terms


def owed(policies: Sequence[Policy], hour: Hour) -> dict[tuple[str, int], int]:
    """Return what each (option, account) receives of an hour in all, or pays (below zero)."""
    total: dict[tuple[str, int], int] = {}
    metered = dict(hour.metered)
    ordered = sorted((terms_of(policy).strike, policy.symbol, policy) for policy in policies)
    for strike, symbol, policy in ordered:
        lots = dict(policy.lots)
        if terms_of(policy).product is Product.CAP:
            price = insurance.cap_pays(index=hour.index, strike=strike)
            paid = [(price, insurance.take_insured(metered, lots))] if price else []
        else:
            paid = [(policy.pay_ticks, tokens) for tokens in _covered(lots, hour.missed)]
        for price, tokens in paid:
            for account, amount in _settled(lots, price, tokens).items():
                total[symbol, account] = total.get((symbol, account), 0) + amount
    return total


def _covered(lots: Mapping[int, int], missed: Iterable[Missed]) -> list[dict[int, int]]:
    """Return the tokens that cover pays its holders for, interval by interval."""
    by_interval: dict[int, dict[int, int]] = {}
    for each in missed:
        if lots.get(each.holder, 0) > 0 and not each.is_barred:
            by_interval.setdefault(each.interval, {})[each.holder] = min(
                each.mntu,
                insurance.insured_in_interval(
                    lots=lots[each.holder], entitled_lots=each.entitled_lots
                ),
            )
    return [by_interval[interval] for interval in sorted(by_interval)]


def _settled(lots: Mapping[int, int], price: int, tokens: Mapping[int, int]) -> dict[int, int]:
    """Return what holders receive for tokens, and what their writers pay."""
    due = {
        account: insurance.payment(pay_ticks=price, mntu=mntu) for account, mntu in tokens.items()
    }
    writers = {account: -net for account, net in lots.items() if net < 0}
    return insurance.settle(due, writers)


def bound(terms: Contract, *, pay_ticks: int, lots: int) -> int:
    """Return the most that lots of an option can pay in an hour, in micro-USD."""
    most = insurance.pays_most(terms, pay_ticks=pay_ticks)
    return contract.notional_micros(price_ticks=most, lots=lots)
