"""The front's background work: statements of a month that is over, standing resale instructions.

The job of a day looks whether the month before has statements to be made, so that one that was
missed, or parked and run again, is made up for on any later day.
"""

from django.db import transaction

from marketplace import clock, contract, months, resale
from settlement import jobs, kinds, monthly, slots
from settlement.kinds import Claim, Kind

STATEMENTS = "statements"
STATEMENTS_LEASE_S = 300.0


def statements(claim: Claim) -> None:
    """Make the statements of the month before the slot's day, those that are missing."""
    day = clock.to_datetime(slots.read_instant(claim.slot)).date()
    months.close_month(
        monthly.previous_month(day.replace(day=1)),
        at=clock.to_datetime(claim.at),
        fence=lambda: jobs.fence(claim),
    )


def resell(claim: Claim) -> None:
    """Bring what standing resale instructions offer in line with the market, once an hour."""
    with transaction.atomic():
        jobs.fence(claim)
    resale.look_at_all(slots.read_instant(claim.slot))


kinds.register(Kind(name="resell", schedule=kinds.Every(period=contract.HOUR), long_handler=resell))
kinds.register(
    Kind(
        name=STATEMENTS,
        schedule=kinds.Every(period=contract.DAY),
        long_handler=statements,
        lease_s=STATEMENTS_LEASE_S,
    )
)
