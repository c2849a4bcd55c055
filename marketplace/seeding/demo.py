"""The whole demo in order: participants, certified clusters, grades, then two days of market.

Everything happens at frozen instants of the past, the last of which is the present; from there
the live processes go on.
"""

from collections.abc import Callable
from typing import Any

from django.db import connection as django_connection

from exchange import store
from exchange.engine import Engine
from marketplace import clock, contract
from marketplace.seeding import catalog, certificates, history, packages, service
from settlement import doorbell, instructions
from settlement import operations as settlement_operations

HISTORY = 48 * contract.HOUR
DELIVERED = 24 * contract.HOUR
"""How far back the hours lie that were bought and delivered."""

Progress = Callable[[str], object]


def make(*, progress: Progress) -> dict[str, Any]:
    """Seed an empty market and return its login and keys, as `demo.json` shows them.

    :raises RuntimeError: when another engine holds the market.
    """
    ends_at = clock.now_micros()
    starts_at = contract.hour_start(ends_at - HISTORY)
    try:
        return _make(starts_at, ends_at, progress)
    finally:
        clock.freeze(None)


def _make(starts_at: int, ends_at: int, progress: Progress) -> dict[str, Any]:
    clock.freeze(starts_at)
    connection = store.connect()
    try:
        if not store.try_lock(connection, doorbell.GROUP):
            raise RuntimeError("another engine holds this market")
        # A seed that is cut short begins again, so nothing in it needs to wait for the disk.
        connection.execute("SET synchronous_commit TO off")
        with django_connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit TO off")
        engine = Engine(connection=connection, client=None)
        engine.take_over()
        made = catalog.make(progress=progress)
        for grade in catalog.GRADES:
            settlement_operations.instruct(
                id=f"grade:{grade.code}:1",
                command=instructions.DefineGrade(
                    grade=grade.code,
                    reference_price_ticks=grade.reference_price_ticks,
                    slot_reference_ticks=grade.slot_reference_ticks,
                    premium_percents=catalog.PREMIUM_PERCENTS,
                ),
            )
        engine.run_batch(engine.take_instructions())
        certified = certificates.certify(made, progress=progress)
        past = history.History(
            engine=engine,
            reference_ticks={one.code: one.reference_price_ticks for one in catalog.GRADES},
            participants=[
                history.Participant(account=made.organizations[one.name].pk, trader=one.trader)
                for one in catalog.ORGANIZATIONS
                if one.trader is not None
            ],
            certified=certified,
            maker=made.organizations[catalog.MAKER].pk,
            deals_from=contract.hour_start(ends_at - DELIVERED),
            deliver=service.Service(present=ends_at).deliver,
            progress=_every_tenth(progress),
        )
        past.carry_out()
        past.run(starts_at=starts_at, ends_at=ends_at)
        progress(f"{packages.offer(certified, now=ends_at)} packages on offer")
        progress(f"{past.issued} commands in the journal")
    finally:
        connection.close()
    return _described(made)


def _every_tenth(progress: Progress) -> Callable[[int], None]:
    """Return a progress of percents that speaks at every tenth only."""
    said = [-1]

    def say(percent: int) -> None:
        if percent // 10 > said[0]:
            said[0] = percent // 10
            progress(f"history {percent} %")

    return say


def _described(made: catalog.Catalog) -> dict[str, Any]:
    return {
        "login": {"email": made.email, "password": made.password},
        "organizations": [
            {
                "id": str(organization.pk),
                "name": name,
                "role": organization.role.lower(),
                "key": made.keys[name],
            }
            for name, organization in made.organizations.items()
        ],
    }
