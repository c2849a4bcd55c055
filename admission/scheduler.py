"""Which request runs now, which waits and which is refused: the scheduler of one cluster.

It is pure: it is given every instant, in integer microseconds, and decides the same way whether
time is real or simulated. A request that arrives is judged by the level of its flow (RULEBOOK 7.2):

* above zero, it is debited its charge at once, so that parallel requests cannot spend the same
  level twice. It is *timed* when its class lends what its charge exceeds the level by
  (`admission.loans`), and else only *entitled*;
* otherwise it goes by its overflow policy: `SPILL` serves it at P3, `REJECT` refuses it with the
  time to come back, `QUEUE` lets it wait, bounded, until its level allows it.

There is a line for the timed requests of each class, one for the entitled and one for P3, and they
move strictly in this order. Inside each, organizations share by virtual counters
(`admission.fairness`), holders in proportion to their lots, those at P3 by one more than the slots
that their holder has no lots for (RULEBOOK 4.4). Work is conserved: a request waits only while no
replica may take one. For a timed request a replica may while sequences and KV tokens are free; for
any other also only while its prefill backlog is below one chunk, and for a long prompt while none
such is being read there (RULEBOOK 7.7): what is read already is all that a timed request has to
wait for. The line forms here, where it is ordered and visible, and not in the model server. The
first in line is never overtaken by a smaller request behind it, so nobody starves inside a line.

Everything that happens to a request is a `Decision`, which says what was asked, what was served,
how long it waited and why. A request gets one from `arrive`; if that leaves it waiting, it gets its
final one from `dispatch`. Who calls: `arrive` and then `dispatch`, `dispatch` again at `next_wake`
and after every `first_token`, `finish` and `abort`.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from admission import latency_bound
from admission.deadlines import Deadlines
from admission.decisions import (
    ClusterTerms,
    Decision,
    Outcome,
    Overflow,
    Reason,
    Request,
    ServiceClass,
)
from admission.fairness import FairQueue, Shares
from admission.inspection import FlowReport, Inspection, Tally
from admission.levels import (
    GRAINS_PER_MNTU,
    OUTPUT_TOKENS_PRIOR,
    OutputEstimate,
    Window,
)
from admission.loads import Loads
from admission.loans import Loans
from admission.scaling import PARTS
from admission.tickets import LINES, TIMED, Flow, Place, Ticket

RETRY_AFTER_US_MIN = 100_000
RETRY_AFTER_US_DEFAULT = 1_000_000
"""What a caller is told when nothing says when capacity will be back."""


class Scheduler:
    """Admits, queues and sheds the requests of one cluster; instants never go back."""

    def __init__(self, terms: ClusterTerms) -> None:
        self.terms = terms
        self._flows: dict[tuple[int, ServiceClass], Flow] = {}
        self._waiting_flows: dict[tuple[int, ServiceClass], Flow] = {}
        self._estimates: dict[int, OutputEstimate] = {}
        self._tickets: dict[str, Ticket] = {}
        self._lines: dict[Place, FairQueue[Ticket]] = {place: FairQueue() for place in LINES}
        self._loans = Loans()
        self._idle_slots: Mapping[int, Sequence[Window]] = {}
        self._waiting_grains = 0
        self._deadlines = Deadlines()
        self._loads = Loads(terms.replicas)
        self._shares = {place: Shares() for place in (Place.ENTITLED, Place.SHARED)}
        self._tallies = {each: Tally() for each in ServiceClass}
        self._factors: tuple[int, ...] = (PARTS,) * len(TIMED)

    def set_flow(
        self,
        organization: int,
        *,
        windows: Sequence[Window],
        at: int,
        service_class: ServiceClass = ServiceClass.P2,
    ) -> None:
        """Replace the hours an organization is entitled to; idempotent, level and debt are kept."""
        assert service_class is not ServiceClass.P3, "what is shared has no level"
        flow = self._flows.get((organization, service_class))
        if flow is None:
            flow = Flow(organization, service_class, windows=windows, at=at)
            self._flows[organization, service_class] = flow
            flow.level.scale(self._factors[service_class], at)
            flow.pace.scale(self._factors[service_class], at)
        else:
            flow.level.set_windows(windows, at)
            flow.pace.set_windows(windows, at)
        self._loans.forget_rates()

    def set_idle_slots(self, slots: Mapping[int, Sequence[Window]]) -> None:
        """Replace what each organization has of slots without lots, in order of time."""
        self._idle_slots = slots

    def set_replica(self, replica: int, *, available: bool) -> None:
        """Take a replica out of dispatch, or back; what runs on it goes on until told otherwise."""
        self._loads.set_available(replica, available=available)

    def estimate_mntu(self, request: Request) -> int:
        """Return what a request will be charged on arrival (RULEBOOK 7.3)."""
        weights = self.terms.weights
        output_tokens = self._output_estimate(request)
        return request.prompt_tokens * weights.uncached + output_tokens * weights.output

    def arrive(self, request: Request, at: int) -> Decision:
        """Judge a request: `QUEUE` (`dispatch` decides, maybe at once) or `SHED` (final)."""
        assert request.id not in self._tickets, "every request has an id of its own"
        kv_tokens = request.prompt_tokens + self._output_estimate(request)
        charge_grains = self.estimate_mntu(request) * GRAINS_PER_MNTU
        ticket = Ticket(request, at=at, charge_grains=charge_grains, kv_tokens=kv_tokens)
        tally = self._tallies[request.service_class]
        tally.arrived += 1
        self._scale(at)
        if request.prompt_tokens >= self.terms.kv_tokens:
            return self._shed(ticket, Reason.CONTEXT_TOO_LONG, at, None)
        if not self._loads.available:
            return self._shed(ticket, Reason.NO_CAPACITY, at, RETRY_AFTER_US_DEFAULT)
        if request.service_class is ServiceClass.P3:
            return self._wait_shared(ticket, at)
        return self._judge_level(ticket, at)

    def dispatch(self, at: int) -> list[Decision]:
        """Return every final decision that is due: `ADMIT`, `SPILL` and late `SHED`."""
        self._scale(at)
        decisions = self._shed_late(at)
        if self._waiting_flows:
            self._promote(at, decisions)
        held_back = self._loans.held_back(self.terms, self._flows.values(), at)
        for place in LINES[: Place.SHARED] if self._is_short else LINES:
            while (ticket := self._next_of(place)) is not None:
                replica = self._loads.least(ticket, self.terms, held_back)
                if replica is None:
                    return decisions
                decisions.append(self._run(ticket, replica, at))
        return decisions

    def _scale(self, at: int) -> None:
        """Scale every rate to what is left for its class of the replicas (RULEBOOK 7.8)."""
        left, terms = self._loads.available, self.terms
        scaled: tuple[int, ...] = (PARTS,) * len(TIMED)
        if left < terms.replicas and terms.certified_lots:
            capacity_lots = terms.certified_lots * left // terms.replicas
            scaled = self._loans.factors_with(capacity_lots, self._flows.values(), at)
        if scaled == self._factors:
            return
        self._factors = scaled
        self._loans.scale(scaled)
        for (_, service_class), flow in self._flows.items():
            flow.level.scale(scaled[service_class], at)
            flow.pace.scale(scaled[service_class], at)

    @property
    def _is_short(self) -> bool:
        """Whether what is left does not reach for what is sold: P3 stops then."""
        return min(self._factors) < PARTS

    def _next_of(self, place: Place) -> Ticket | None:
        """Return who is next in a line; who holds more than its share only if all who wait do."""
        line = self._lines[place]
        head = line.peek()
        if head is None:
            return None
        organization, ticket = head
        shares = self._shares.get(place)
        if shares is None or not shares.is_over(organization, self._loads.available, self.terms):
            return ticket
        for other, its_first in line.heads():
            if not shares.is_over(other, self._loads.available, self.terms):
                return its_first
        return ticket

    def first_token(self, request_id: str, at: int) -> None:
        """Note that a request's prompt was read: its replica may be fed again."""
        ticket = self._tickets.get(request_id)
        if ticket is not None and ticket.prefilling:
            self._loads.end_prefill(ticket)
            tally = self._tallies[ticket.served]
            tally.first_tokens_us.append(at - ticket.arrived_at)
            if ticket.line in TIMED and not ticket.waited_us:
                tally.bounded_us.append(at - ticket.arrived_at)

    def charged(self, request_id: str, *, mntu: int, at: int) -> None:
        """Note what a running request used so far; what exceeds its charge is debited."""
        ticket = self._tickets[request_id]
        assert ticket.place is Place.RUNNING, "only what runs uses tokens"
        used_grains = mntu * GRAINS_PER_MNTU
        if used_grains > ticket.charge_grains:
            self._recharge(ticket, used_grains, at)

    def consume(
        self,
        organization: int,
        *,
        mntu: int,
        at: int,
        service_class: ServiceClass = ServiceClass.P2,
    ) -> None:
        """Debit a flow by what another cluster has served of it; below zero gives some back."""
        flow = self._flows.get((organization, service_class))
        if flow is None:
            return
        flow.level.refill(at)
        if mntu >= 0:
            flow.level.debit(mntu * GRAINS_PER_MNTU)
        else:
            flow.level.credit(-mntu * GRAINS_PER_MNTU)

    def finish(self, request_id: str, *, actual_mntu: int, output_tokens: int, at: int) -> None:
        """End a running request and reconcile its charge with what it used."""
        ticket = self._tickets[request_id]
        assert ticket.place is Place.RUNNING, "a request ends where it runs"
        self._leave(ticket, actual_mntu, at)
        if not ticket.request.output_tokens_max:
            return
        organization = ticket.request.organization
        estimate = self._estimates.get(organization)
        if estimate is None:
            estimate = self._estimates[organization] = OutputEstimate()
        estimate.observe(output_tokens)

    def abort(self, request_id: str, *, at: int, actual_mntu: int = 0) -> None:
        """End a request whose caller hung up or whose upstream failed, waiting or running.

        What had not been dispatched is free (RULEBOOK 7.12). An unknown id is ignored: its
        final decision crossed with the abort.
        """
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return
        self._tallies[ticket.request.service_class].aborted += 1
        if ticket.place is Place.RUNNING:
            self._leave(ticket, actual_mntu, at)
        else:
            self._unqueue(ticket, at)

    @property
    def waiting(self) -> int:
        """How many requests are in a line."""
        lines = sum(len(line) for line in self._lines.values())
        return lines + sum(len(flow.waiting) for flow in self._waiting_flows.values())

    def next_wake(self, at: int) -> int | None:
        """Return when `dispatch` is due again if nothing else happens, or None."""
        first = self._deadlines.first(self._tickets)
        wake = None if first is None else first.deadline
        for flow in self._waiting_flows.values():
            flow.level.refill(at)
            ready_at = flow.level.ready_at()
            if ready_at is not None and (wake is None or ready_at < wake):
                wake = ready_at
        return wake if wake is None else max(wake, at)

    def inspect(self, at: int) -> Inspection:
        """Return the state, every queue and counter included."""
        for tally in self._tallies.values():
            tally.roll(at)
        queued, running = dict.fromkeys(ServiceClass, 0), dict.fromkeys(ServiceClass, 0)
        for ticket in self._tickets.values():
            where = running if ticket.place is Place.RUNNING else queued
            where[ticket.served] += 1
        for flow in self._flows.values():
            flow.level.refill(at)
        return Inspection(
            at=at,
            classes={
                each: self._tallies[each].report(
                    queued_now=queued[each],
                    running_now=running[each],
                    bound_us=self.bound_us(each, at),
                    is_bound_void=any(len(self._lines[place]) for place in TIMED[: each + 1]),
                    factor=self._factors[each] if each < ServiceClass.P3 else PARTS,
                )
                for each in ServiceClass
            },
            flows=tuple(self._flow_report(flow, at) for _, flow in sorted(self._flows.items())),
            replicas=tuple(self._loads.reports()),
        )

    def bound_us(self, service_class: ServiceClass, at: int) -> int | None:
        """Return how late the first token of a timed request may be by what is sold, if any."""
        sold = self._loans.sold(self._flows.values(), at)
        replicas = self._loads.available
        return latency_bound.bound_us(self.terms, sold, service_class, replicas=replicas)

    def flow(
        self, organization: int, *, at: int, service_class: ServiceClass = ServiceClass.P2
    ) -> FlowReport | None:
        """Return the state of one flow, or None when the organization has none."""
        flow = self._flows.get((organization, service_class))
        if flow is None:
            return None
        flow.level.refill(at)
        return self._flow_report(flow, at)

    def _flow_report(self, flow: Flow, at: int) -> FlowReport:
        lines = (TIMED[flow.service_class], Place.ENTITLED)
        in_line = sum(self._lines[place].waiting(flow.organization) for place in lines)
        return FlowReport(
            organization=flow.organization,
            service_class=flow.service_class,
            lots=flow.level.lots(at),
            level_mntu=flow.level.grains // GRAINS_PER_MNTU,
            owed_mntu=flow.level.owed(at) // GRAINS_PER_MNTU,
            forgiven_mntu=flow.level.forgiven // GRAINS_PER_MNTU,
            waiting=len(flow.waiting) + in_line,
        )

    # Judging an arrival

    def _output_estimate(self, request: Request) -> int:
        estimate = self._estimates.get(request.organization)
        if estimate is None:
            return min(OUTPUT_TOKENS_PRIOR, request.output_tokens_max)
        return estimate.tokens(request.output_tokens_max)

    def _judge_level(self, ticket: Ticket, at: int) -> Decision:
        """Entitle a request by its class or the holder's lower ones; else go by its policy.

        RULEBOOK 7.1. The reason given is that of the highest class the holder has.
        """
        request = ticket.request
        held: Flow | None = None
        why = Reason.NO_ENTITLEMENT
        for number in range(request.service_class, ServiceClass.P3):
            flow = self._flows.get((request.organization, ServiceClass(number)))
            if flow is None or not flow.level.windows:
                continue
            reason = self._refused_by(flow, ticket, at)
            if reason is None:
                if not self._entitle(ticket, flow, at):
                    return self._shed(ticket, Reason.QUEUE_FULL, at, RETRY_AFTER_US_DEFAULT)
                return self._decide(ticket, Outcome.QUEUE, at)
            if held is None:
                held, why = flow, reason
                ticket.level_before = ticket.level_after = flow.level.grains // GRAINS_PER_MNTU
        return self._overflow(ticket, held, why, at)

    def _refused_by(self, flow: Flow, ticket: Ticket, at: int) -> Reason | None:
        """Return why a flow's level does not cover a request, or None when it does."""
        level = flow.level
        level.refill(at)
        if not level.lots(at):
            return Reason.NO_ENTITLEMENT
        if level.grains <= 0 or flow.waiting:
            return Reason.LEVEL_SPENT
        if not level.affords(ticket.charge_grains):
            return Reason.WINDOW_ENDS
        return None

    def _entitle(self, ticket: Ticket, flow: Flow, at: int) -> bool:
        """Debit the charge and put the request in its line; return False when that is full."""
        prompt_grains = ticket.request.prompt_tokens * self.terms.weights.uncached * GRAINS_PER_MNTU
        paced_grains = min(prompt_grains, max(0, flow.pace.refill(at)))
        excess_grains = max(
            0, ticket.charge_grains - flow.level.grains, prompt_grains - paced_grains
        )
        timed = TIMED[flow.service_class]
        if len(self._lines[timed]) < self.terms.entitled_queue_max and self._loans.lend(
            flow.service_class, excess_grains, flows=self._flows.values(), at=at
        ):
            ticket.line, ticket.reason, ticket.loan_grains = timed, Reason.TIMED, excess_grains
            ticket.paced_grains = flow.pace.debit(paced_grains)
        elif len(self._lines[Place.ENTITLED]) < self.terms.entitled_queue_max:
            ticket.line, ticket.reason = Place.ENTITLED, Reason.ENTITLED
        else:
            return False
        ticket.flow = flow
        ticket.served = flow.service_class
        ticket.level_before = flow.level.grains // GRAINS_PER_MNTU
        ticket.debited = flow.level.debit(ticket.charge_grains)
        ticket.level_after = flow.level.grains // GRAINS_PER_MNTU
        self._stand_in_line(ticket, at, self.terms.entitled_wait_us_max)
        return True

    def _stand_in_line(self, ticket: Ticket, at: int, wait_us_max: int) -> None:
        """Put a request at the end of its organization's part of its line."""
        organization = ticket.request.organization
        ticket.place = ticket.line
        self._tickets[ticket.request.id] = ticket
        self._waiting_grains += ticket.charge_grains
        self._lines[ticket.line].push(organization, ticket)
        if ticket.line in self._shares:
            self._shares[ticket.line].join(organization, self._weight(ticket, at))
        self._tallies[ticket.served].wait(organization, at)
        self._deadlines.set(ticket, at + wait_us_max)

    def _overflow(self, ticket: Ticket, flow: Flow | None, reason: Reason, at: int) -> Decision:
        """Do with a request that its level does not cover what its policy says."""
        policy = ticket.request.overflow
        if policy is Overflow.SPILL:
            return self._wait_shared(ticket, at, spilled_because=reason)
        ready_at = None
        if flow is not None and reason is not Reason.WINDOW_ENDS:
            ready_at = flow.level.ready_at(flow.waiting_grains)
        if policy is Overflow.REJECT or flow is None or ready_at is None:
            return self._shed(ticket, reason, at, None if ready_at is None else ready_at - at)
        if len(flow.waiting) >= self.terms.flow_queue_max:
            return self._shed(ticket, Reason.QUEUE_FULL, at, ready_at - at)
        if ready_at - at > self.terms.flow_wait_us_max:
            return self._shed(ticket, reason, at, ready_at - at)
        ticket.place = Place.FLOW
        ticket.flow = flow
        ticket.served = flow.service_class
        ticket.reason = reason
        self._tickets[ticket.request.id] = ticket
        flow.waiting.append(ticket)
        flow.waiting_grains += ticket.charge_grains
        self._waiting_flows[flow.organization, flow.service_class] = flow
        self._deadlines.set(ticket, at + self.terms.flow_wait_us_max)
        return self._decide(ticket, Outcome.QUEUE, at)

    def _wait_shared(
        self, ticket: Ticket, at: int, *, spilled_because: Reason | None = None
    ) -> Decision:
        """Put a request in the P3 line, or refuse it at once when it would wait too long there."""
        ticket.reason = spilled_because or Reason.PAY_AS_YOU_GO
        if self._is_short:
            return self._shed(ticket, Reason.NO_CAPACITY, at, RETRY_AFTER_US_DEFAULT)
        predicted_us = self._shared_wait_us()
        late_us = predicted_us - self.terms.shared_wait_us_max
        if len(self._lines[Place.SHARED]) >= self.terms.shared_queue_max:
            return self._shed(ticket, Reason.QUEUE_FULL, at, predicted_us)
        if late_us > 0:
            return self._shed(ticket, Reason.OVERLOADED, at, late_us)
        self._stand_in_line(ticket, at, self.terms.shared_wait_us_max)
        return self._decide(ticket, Outcome.QUEUE, at)

    def _shared_wait_us(self) -> int:
        """Predict the wait of a P3 request: what is in line before it, at the certified rate."""
        if not self.terms.certified_lots:
            return 0
        return self._waiting_grains // self.terms.certified_lots

    # Moving the lines

    def _promote(self, at: int, decisions: list[Decision]) -> None:
        """Entitle those who waited for their level, in order, as far as it reaches now."""
        for key, flow in list(self._waiting_flows.items()):
            flow.level.refill(at)
            while flow.waiting and flow.level.grains > 0 and flow.level.lots(at):
                ticket = flow.waiting.popleft()
                flow.waiting_grains -= ticket.charge_grains
                refused = None
                if not flow.level.affords(ticket.charge_grains):
                    refused = self._shed(ticket, Reason.WINDOW_ENDS, at, None)
                elif not self._entitle(ticket, flow, at):
                    refused = self._shed(ticket, Reason.QUEUE_FULL, at, RETRY_AFTER_US_DEFAULT)
                if refused is not None:
                    del self._tickets[ticket.request.id]
                    decisions.append(refused)
            if not flow.waiting:
                del self._waiting_flows[key]

    def _run(self, ticket: Ticket, replica: int, at: int) -> Decision:
        """Take the head of its line and give it to a replica."""
        organization = ticket.request.organization
        weight = self._weight(ticket, at)
        line = self._lines[ticket.line]
        taken = line.pop(organization, charge=ticket.charge_grains, weight=weight)
        assert taken is ticket, "the first of its organization runs"
        if ticket.line in self._shares:
            self._shares[ticket.line].begin(organization, ticket.kv_tokens)
        self._waiting_grains -= ticket.charge_grains
        self._loads.begin(ticket, replica)
        ticket.place = Place.RUNNING
        ticket.waited_us = at - ticket.arrived_at
        tally = self._tallies[ticket.served]
        tally.admitted += 1
        tally.queued += ticket.waited_us > 0
        tally.waits_us.append(ticket.waited_us)
        tally.serve(
            organization,
            Fraction(ticket.charge_grains, weight),
            at,
            still_waiting=bool(line.waiting(organization)),
        )
        spilled = ticket.served is not ticket.request.service_class and ticket.flow is None
        if spilled:
            self._tallies[ticket.request.service_class].spilled += 1
        return self._decide(ticket, Outcome.SPILL if spilled else Outcome.ADMIT, at)

    def _weight(self, ticket: Ticket, at: int) -> int:
        """Return an organization's weight in its line: its lots, or at P3 its idle slots and 1."""
        if ticket.flow is not None:
            return max(1, ticket.flow.level.lots(at))
        for window in self._idle_slots.get(ticket.request.organization, ()):
            if window.starts_at <= at < window.ends_at:
                return 1 + window.lots
        return 1

    def _shed_late(self, at: int) -> list[Decision]:
        """Refuse what has waited as long as its line allows."""
        decisions = []
        while (ticket := self._deadlines.first(self._tickets)) and ticket.deadline <= at:
            self._unqueue(ticket, at)
            self._tallies[ticket.served].queued += 1
            retry_after_us = max(RETRY_AFTER_US_DEFAULT, self._shared_wait_us())
            decisions.append(self._shed(ticket, Reason.WAITED_TOO_LONG, at, retry_after_us))
        return decisions

    # Ending

    def _unqueue(self, ticket: Ticket, at: int) -> None:
        """Take a waiting request out of its line and give its charge back in full."""
        organization = ticket.request.organization
        flow = ticket.flow
        del self._tickets[ticket.request.id]
        if ticket.place is Place.FLOW:
            assert flow is not None, "what waits for a level waits in its flow"
            flow.waiting.remove(ticket)
            flow.waiting_grains -= ticket.charge_grains
            if not flow.waiting:
                del self._waiting_flows[organization, flow.service_class]
            return
        line = self._lines[ticket.line]
        line.remove(organization, ticket)
        if not line.waiting(organization):
            self._tallies[ticket.served].leave(organization)
            if ticket.line in self._shares:
                self._shares[ticket.line].leave(organization)
        self._waiting_grains -= ticket.charge_grains
        if flow is None:
            return
        flow.level.refill(at)
        flow.level.credit(ticket.debited)
        flow.pace.refill(at)
        flow.pace.credit(ticket.paced_grains)
        self._loans.give_back(flow.service_class, ticket.loan_grains)

    def _leave(self, ticket: Ticket, actual_mntu: int, at: int) -> None:
        """Free the replica of a running request and reconcile its charge."""
        self._loads.end(ticket)
        del self._tickets[ticket.request.id]
        if (shares := self._shares.get(ticket.line)) is not None:
            organization = ticket.request.organization
            shares.end(organization, ticket.kv_tokens)
            if not self._lines[ticket.line].waiting(organization):
                shares.leave(organization)
        self._recharge(ticket, actual_mntu * GRAINS_PER_MNTU, at)

    def _recharge(self, ticket: Ticket, grains: int, at: int) -> None:
        """Change a running request's charge: its level and its organization's counter follow."""
        organization = ticket.request.organization
        difference = grains - ticket.charge_grains
        weight = self._weight(ticket, at)
        self._lines[ticket.line].correct(organization, charge=difference, weight=weight)
        ticket.charge_grains = grains
        if ticket.flow is None:
            return
        level = ticket.flow.level
        level.refill(at)
        if grains > ticket.debited:
            ticket.debited += level.debit(grains - ticket.debited)
        else:
            level.credit(ticket.debited - grains)
            ticket.debited = grains

    # Saying so

    def _shed(
        self, ticket: Ticket, reason: Reason, at: int, retry_after_us: int | None
    ) -> Decision:
        """Refuse a request for good."""
        ticket.reason = reason
        self._tallies[ticket.request.service_class].shed += 1
        if retry_after_us is not None:
            retry_after_us = max(retry_after_us, RETRY_AFTER_US_MIN)
        return self._decide(ticket, Outcome.SHED, at, retry_after_us)

    def _decide(
        self, ticket: Ticket, outcome: Outcome, at: int, retry_after_us: int | None = None
    ) -> Decision:
        return Decision(
            request_id=ticket.request.id,
            organization=ticket.request.organization,
            outcome=outcome,
            reason=ticket.reason,
            class_requested=ticket.request.service_class,
            class_served=ticket.served,
            at=at,
            waited_us=at - ticket.arrived_at,
            charge_mntu=ticket.charge_grains // GRAINS_PER_MNTU,
            level_before_mntu=ticket.level_before,
            level_after_mntu=ticket.level_after,
            replica=ticket.replica,
            retry_after_us=retry_after_us,
            queue_length=len(self._lines[ticket.line]),
            priority=ticket.line,
            loan_mntu=ticket.loan_grains // GRAINS_PER_MNTU,
        )
