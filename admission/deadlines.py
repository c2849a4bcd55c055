"""Until when each waiting request may wait, the earliest first.

A request that moves on, or whose deadline changes, leaves its old entry behind; it is passed over
when it comes up.
"""

from collections.abc import Mapping
from heapq import heappop, heappush

from admission.tickets import Place, Ticket


class Deadlines:
    """The deadlines of the requests of one scheduler."""

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._entries = 0

    def set(self, ticket: Ticket, deadline: int) -> None:
        """Let a request wait until an instant."""
        ticket.deadline = deadline
        self._entries += 1
        heappush(self._heap, (deadline, self._entries, ticket.request.id))

    def first(self, tickets: Mapping[str, Ticket]) -> Ticket | None:
        """Return who of those that still wait may do so least long."""
        while self._heap:
            deadline, _, request_id = self._heap[0]
            ticket = tickets.get(request_id)
            is_waiting = ticket is not None and ticket.place is not Place.RUNNING
            if ticket is not None and is_waiting and ticket.deadline == deadline:
                return ticket
            heappop(self._heap)
        return None
