"""What a class may lend its holders, so that a request larger than a level is still timed.

A request is timed when its flow's level is above zero and what its charge exceeds the level by
fits the loan of its class (RULEBOOK 7.2): a quarter of a second of the rate that is sold at the
class on the cluster, refilled at a quarter of that rate. All holders of the class draw on the one
bucket, so that thirty long prompts at once cannot all be timed. What of its prompt exceeds the
flow's pace (`admission.tickets`) has to be lent as well. Amounts are grains, as levels are:
a lot is one grain a microsecond, and the bucket is kept in quarters of one, so nothing is rounded.
"""

from collections.abc import Collection
from fractions import Fraction

from admission.decisions import ClusterTerms, ServiceClass
from admission.latency_bound import Sold
from admission.levels import LOAN_US
from admission.loads import HeldBack
from admission.scaling import PARTS, factors
from admission.tickets import TIMED, Flow

HELD_BACK_DIVISOR = 8
"""Of the sequences and KV that what is sold would take, this part is kept free for it: while the
other requests end in their turn, no more is needed than for what comes at once."""
_QUARTERS = 4
_NEVER = 1 << 62


class Loan:
    """The loan bucket of one class, full at first; an instant before the last is taken as it."""

    __slots__ = ("_quarters", "_refilled_at", "lots")

    def __init__(self, *, lots: int, at: int) -> None:
        self.lots = lots
        self._quarters = lots * LOAN_US * _QUARTERS
        self._refilled_at = at

    def set_lots(self, lots: int, at: int) -> None:
        """Change the rate that is sold; what may be lent never grows by it at once."""
        self.refill(at)
        self.lots = lots
        self._quarters = min(self._quarters, lots * LOAN_US * _QUARTERS)

    def refill(self, at: int) -> int:
        """Bring the bucket up to `at` and return the whole grains it may lend."""
        if at > self._refilled_at:
            refilled = self._quarters + self.lots * (at - self._refilled_at)
            self._quarters = min(self.lots * LOAN_US * _QUARTERS, refilled)
            self._refilled_at = at
        return self._quarters // _QUARTERS

    def take(self, grains: int, at: int) -> bool:
        """Lend grains when all of them are there, and return whether they were."""
        assert grains >= 0, "a loan is not negative"
        if grains > self.refill(at):
            return False
        self._quarters -= grains * _QUARTERS
        return True

    def give_back(self, grains: int) -> None:
        """Take back what was lent to a request that never ran."""
        self._quarters = min(self._quarters + grains * _QUARTERS, self.lots * LOAN_US * _QUARTERS)


class Loans:
    """The loan buckets of every class, by the rate that is sold of it at the instant."""

    def __init__(self) -> None:
        self._loans: dict[ServiceClass, Loan] = {}
        self._sold: dict[ServiceClass, int] = {}
        self._largest: dict[ServiceClass, int] = {}
        self._factors: tuple[int, ...] = (PARTS,) * len(TIMED)
        self._known_until = 0
        """The instant at which the rate sold of some class changes next."""

    def forget_rates(self) -> None:
        """Have the rates added up again before the next loan: a flow's hours have changed."""
        self._known_until = 0

    def lend(
        self, service_class: ServiceClass, grains: int, *, flows: Collection[Flow], at: int
    ) -> bool:
        """Lend what a charge exceeds its level by, and return whether the class could."""
        if not grains:
            return True
        self._know_rates(flows, at)
        loan = self._loans.get(service_class)
        return loan is not None and loan.take(grains, at)

    def give_back(self, service_class: ServiceClass, grains: int) -> None:
        """Take back what was lent to a request that never ran."""
        if grains:
            self._loans[service_class].give_back(grains)

    def left(self, service_class: ServiceClass, at: int) -> int:
        """Return the grains that a class may lend, by the rates that were last known."""
        loan = self._loans.get(service_class)
        return 0 if loan is None else loan.refill(at)

    def sold(self, flows: Collection[Flow], at: int) -> list[Sold]:
        """Return what of P0, P1 and P2 is sold at an instant."""
        self._know_rates(flows, at)
        return [
            Sold(
                lots=Fraction(self._sold.get(each, 0) * factor, PARTS),
                lots_largest=Fraction(self._largest.get(each, 0) * factor, PARTS),
            )
            for each, factor in zip(ServiceClass, self._factors, strict=False)
        ]

    def factors_with(self, capacity_lots: int, flows: Collection[Flow], at: int) -> tuple[int, ...]:
        """Return what of the rate of P0, P1 and P2 a capacity reaches for (RULEBOOK 7.8)."""
        self._know_rates(flows, at)
        sold = [self._sold.get(each, 0) for each in ServiceClass if each is not ServiceClass.P3]
        return factors(capacity_lots=capacity_lots, sold_lots=sold)

    def scale(self, scaled: tuple[int, ...]) -> None:
        """Lend by these parts of the rates from now on."""
        self._factors = scaled
        self.forget_rates()

    def held_back(self, terms: ClusterTerms, flows: Collection[Flow], at: int) -> HeldBack:
        """Return what of each replica is kept free: an eighth of what is sold of it."""
        if not terms.certified_lots:
            return HeldBack()
        self._know_rates(flows, at)
        sold = min(terms.certified_lots, sum(self._sold.values()))
        divisor = HELD_BACK_DIVISOR * terms.certified_lots
        return HeldBack(
            sequences=terms.sequences_max * sold // divisor,
            kv_tokens=terms.kv_tokens * sold // divisor,
        )

    def _know_rates(self, flows: Collection[Flow], at: int) -> None:
        if at >= self._known_until:
            self._set_rates(flows, at)

    def _set_rates(self, flows: Collection[Flow], at: int) -> None:
        """Add up what is sold of each class, and find out until when that holds."""
        sold: dict[ServiceClass, int] = {}
        self._largest = {}
        self._known_until = _NEVER
        for flow in flows:
            each = flow.service_class
            lots = flow.level.lots(at)
            sold[each] = sold.get(each, 0) + lots
            self._largest[each] = max(self._largest.get(each, 0), lots)
            for window in flow.level.windows:
                edge = window.starts_at if at < window.starts_at else window.ends_at
                if at < edge:
                    self._known_until = min(self._known_until, edge)
        self._sold = sold
        for each, lots_sold in sold.items():
            lots = lots_sold * self._factors[each] // PARTS
            loan = self._loans.get(each)
            if loan is None:
                self._loans[each] = Loan(lots=lots, at=at)
            else:
                loan.set_lots(lots, at)
