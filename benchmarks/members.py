"""Members for a load: organizations with keys, cash and coverage, in a deployment that runs.

    python -m benchmarks.members ORGANIZATIONS KEYS_EACH

Run with a deployment's environment; it prints one JSON object: the keys, an hour that trades
continuously, and prices around its reference. Keys are counted one by one (100 writes a second
each), so a load has as many as it needs and no limit is moved for it.
"""

import json
import os
import sys
from datetime import timedelta
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
CASH = 10**12
LOTS = 100_000
FAR_DAYS = 400
HOURS_AHEAD = 6
"""The hour that is traded: far enough from gate closure, near enough to be open."""


def main(organizations: int, keys_each: int) -> int:
    """Make the members and print what a load needs."""
    django.setup()
    from django.db import transaction

    from marketplace import clock, models, operations
    from settlement import instructions
    from settlement import operations as settlement

    hour = _hour()
    made: list[dict[str, object]] = []
    with transaction.atomic():
        for number in range(organizations):
            member = operations.open_organization(
                name=f"Load Member {_letters(os.getpid())} {_letters(number)}",
                role=models.Organization.Role.PROVIDER,
            )
            settlement.instruct(
                id=f"bench:deposit:{member.pk}",
                command=instructions.Deposit(account=member.pk, amount_micros=CASH),
            )
            last = f"bench:certify:{member.pk}"
            settlement.instruct(
                id=last,
                command=instructions.Certify(
                    cluster=2**40 + member.pk,
                    account=member.pk,
                    grade=hour.grade_id,
                    lots=LOTS,
                    valid_until=clock.now_micros() + FAR_DAYS * clock.DAY,
                ),
            )
            for _ in range(keys_each):
                key = operations.insert_key(organization_id=member.pk, scopes=["read", "trade"])
                made.append({"key": key.text, "account": member.pk})
        version = key.row.version
    operations.announce_keys(version=version)
    operations.accepted(last)
    print(
        json.dumps(
            {
                "members": made,
                "symbol": hour.symbol,
                "reference": hour.reference_price_ticks,
                "band": [hour.band_low_ticks, hour.band_high_ticks],
            }
        )
    )
    return 0


def _letters(number: int) -> str:
    """Return a number in letters none of which looks like another: names must differ to the eye."""
    name = ""
    while number or not name:
        number, digit = divmod(number, len(_DISTINCT))
        name = _DISTINCT[digit] + name
    return name


_DISTINCT = "bdfhkprstx"


def _hour() -> Any:
    """Return the hour to trade: the first one open that begins late enough."""
    from marketplace import clock, models

    found = (
        models.Instrument.objects.filter(
            state="CONTINUOUS", starts_at__gte=clock.now() + timedelta(hours=HOURS_AHEAD)
        )
        .order_by("starts_at", "id")
        .first()
    )
    if found is None:
        raise SystemExit("no hour trades")
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
