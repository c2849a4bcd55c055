"""How late the first token of a timed request can be: the bound that is sold with a class.

A server reads at least `K - S - Q` prompt tokens in an iteration of at most `T`, the higher classes
first. What arrives of a class in any time `t` is at most its bursts and its loan, and 5/4 of its
rate times `t`: a level refills at the rate, and the loan bucket at a quarter of it beside. So a
request of class c that arrives in the worst moment, with everything before it that may be, has its
first token on a single replica within (RULEBOOK 7.6)

    D = T x (2 + (W + sum of B_j, j <= c) / (K - S - Q - T x 5/4 x sum of rho_j, j < c))

One `T` is the iteration that has just begun, which reads none of it; the other is the one in which
the last token is read, of which it may need a part only. `W` and `Q` are what a server that does
not reorder prompts has read in part: nothing where it does, else a chunk, and a quarter of one in
every iteration. There is no bound unless the server keeps up with the rates, those of c too.

Of several replicas each has its part of the rates and of the bursts, and of each class at most one
prompt more than that: lists that are given to the least loaded differ by their largest item.
Everything is in grains, of which a prompt token counts `uncached x 60`, and exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from admission.decisions import ClusterTerms, ServiceClass
from admission.levels import BURST_US, GRAINS_PER_MNTU, LOAN_US

LOAN_RATE = Fraction(1, 4)
"""What the loan of a class adds to its rate, while it is refilled (RULEBOOK 7.2)."""
READ_IN_PART = Fraction(1, 4)
"""Of a chunk: the most that a long prompt may take of an iteration (RULEBOOK 7.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """What of a class is sold on a cluster at an instant, and the most to one holder."""

    lots: Fraction = Fraction(0)
    lots_largest: Fraction = Fraction(0)


def bound_us(
    terms: ClusterTerms, sold: Sequence[Sold], service_class: ServiceClass, *, replicas: int
) -> int | None:
    """Return the bound of a class whose cluster has so many replicas; None when there is none.

    `sold` is what of P0, P1 and P2 is sold, in this order.
    """
    if service_class is ServiceClass.P3 or not replicas or not terms.iteration_us:
        return None
    iteration_us = terms.iteration_us
    token_grains = terms.weights.uncached * GRAINS_PER_MNTU
    read_in_part = Fraction(0) if terms.reorders_prefills else terms.chunk_tokens * READ_IN_PART
    of_iteration = (terms.chunk_tokens - terms.sequences_max - read_in_part) * token_grains
    part = Fraction(1, replicas)
    arriving = [iteration_us * (1 + LOAN_RATE) * each.lots * part for each in sold]
    of_lower = of_iteration - sum(arriving[:service_class])
    if of_lower <= 0 or of_lower < arriving[service_class]:
        return None
    before_it = Fraction(0 if terms.reorders_prefills else terms.chunk_tokens * token_grains)
    for number, each in enumerate(sold[: service_class + 1]):
        loan = each.lots * LOAN_US
        largest = each.lots_largest * BURST_US[number] + loan
        if terms.context_tokens_max:
            largest = min(largest, Fraction(terms.context_tokens_max * token_grains))
        before_it += (each.lots * BURST_US[number] + loan + (replicas - 1) * largest) * part
    return -(-iteration_us * (2 * of_lower + before_it) // of_lower)


def may_issue_p0(terms: ClusterTerms, sold: Sequence[Sold], *, replicas: int) -> bool:
    """Whether P0 may be sold in this quantity: only while its bound is within its target."""
    bound = bound_us(terms, sold, ServiceClass.P0, replicas=replicas)
    return bound is not None and bound <= terms.first_token_us[ServiceClass.P0]
