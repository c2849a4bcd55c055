"""What only a demo offers: organizations with keys, a clock that moves, clusters that fail."""

from typing import Annotated, Literal

import msgspec

from admission import operations as admission_operations
from marketplace import clock, demonstration, errors, models, wire
from marketplace.api import operator
from marketplace.endpoint import Answer, Call, Endpoint, Strict


class CreateDemoOrganization(Endpoint):
    """Create an organization with a key of all scopes, which is shown this once."""

    method = "POST"
    status = 201
    tag = "demo"
    codes = ("name_taken",)

    class Input(Strict):
        """Its name and what it does."""

        name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
        role: Literal["buyer", "provider", "operator"]

    class Output(Answer):
        """The organization and its key."""

        id: str
        name: str
        role: str
        key: str

    def handle(self, call: Call, given: Input) -> Output:
        """Answer."""
        demonstration.require_demo()
        organization, made = demonstration.open_with_key(name=given.name, role=given.role.upper())
        return self.Output(
            id=str(organization.pk), name=organization.name, role=given.role, key=made.text
        )


class AdvanceClock(Endpoint):
    """Move market time forward; answered when all work that is due by then is done."""

    method = "POST"
    scope = "operate"
    tag = "demo"
    codes = ("clock_moves_forward", "clock_not_settled")

    class Input(Strict):
        """To when, RFC 3339."""

        advance_to: wire.TimeText

    class Output(Answer):
        """Market time now, and how far it is ahead of the system's clock."""

        now: str
        offset_ms: int

    def handle(self, call: Call, given: Input) -> Output:
        """Answer."""
        now = demonstration.advance_clock(
            advance_to=wire.parse_time(given.advance_to, "advance_to"), actor=operator.actor(call)
        )
        return self.Output(now=wire.time_text(now), offset_ms=clock.offset_micros() // 1_000)


class SetFault(Endpoint):
    """Degrade a modelled cluster to a share of its capacity; 1.0 mends it, 0.0 is an outage.

    For the cluster's owner and for operators.
    """

    method = "POST"
    scope = "read"
    tag = "demo"

    class Input(Strict):
        """Which cluster, by its id or its pool's, and the share of it that works."""

        cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
        available: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]

    class Output(Answer):
        """What was set."""

        cluster: str
        available: float

    def handle(self, call: Call, given: Input) -> Output:
        """Answer."""
        demonstration.require_demo()
        assert call.key is not None, "the endpoint has a scope"
        cluster = _cluster(given.cluster)
        if "operate" not in call.key.scopes and cluster.organization_id != call.organization:
            raise errors.NotFound()
        admission_operations.set_fault(cluster_id=cluster.pk, available=given.available)
        return self.Output(cluster=given.cluster, available=given.available)


def _cluster(text: str) -> models.Cluster:
    """:raises NotFound: when there is no such modelled cluster."""
    rows = models.Cluster.objects.filter(is_modelled=True)
    if text.isascii() and text.isdigit():
        found = rows.filter(pk=wire.parse_id(text)).first()
    else:
        found = next((row for row in rows if str(row.public_id) == text), None)
    if found is None:
        raise errors.NotFound()
    return found
