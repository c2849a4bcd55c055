"""Kinds of work that a test can watch, kill and suspend, in a process of their own.

As a module of Celery (`-A tests.background`) it is the deployment's application with these kinds
alone; as a script it works off what is due once. A kind's effect is a row of `settlement.Mark`, so
that two effects are two rows. Kinds that misbehave do so once: the first to come finds no file of
the job's name in `BASELOAD_TEST_MARKS`.
"""

import os
import signal
import threading
from pathlib import Path

import django
import django.apps

from config.celery import app
from settlement import kinds
from settlement.kinds import Claim, Kind

LEASE_S = 1.0


def effect(slot: str, at: int) -> None:
    """Do what is to be done once."""
    from marketplace import clock
    from settlement import models

    models.Mark.objects.create(
        symbol=slot[:40], price_ticks=1, method="effect", at=clock.to_datetime(at)
    )


def is_first(slot: str) -> bool:
    """Whether nobody has begun the job before; from now on somebody has."""
    try:
        (Path(os.environ["BASELOAD_TEST_MARKS"]) / slot.replace("/", "_")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def suspend(slot: str, at: int) -> None:
    """Fall asleep in the middle, the first time."""
    effect(slot, at)
    if is_first(slot):
        os.kill(os.getpid(), signal.SIGSTOP)


def die(slot: str, at: int) -> None:
    """Die in the middle, the first time."""
    effect(slot, at)
    if is_first(slot):
        os.kill(os.getpid(), signal.SIGKILL)


def die_long(claim: Claim) -> None:
    """Die in the second of three transactions, the first time."""
    from django.db import transaction

    from settlement import jobs, models

    for number in range(3):
        with transaction.atomic():
            jobs.fence(claim)
            name = f"{claim.slot}-{number}"
            if not models.Mark.objects.filter(symbol=name).exists():
                effect(name, claim.at)
            if number == 1 and is_first(claim.slot):
                os.kill(os.getpid(), signal.SIGKILL)


def last(claim: Claim) -> None:
    """Take three leases and longer than the broker waits."""
    from django.db import transaction

    from settlement import jobs

    threading.Event().wait(3 * LEASE_S)
    with transaction.atomic():
        jobs.fence(claim)
        effect(claim.slot, claim.at)


def fail(slot: str, at: int) -> None:
    """Never succeed."""
    effect(slot, at)
    raise RuntimeError("poison")


def register() -> None:
    """Leave these kinds alone."""
    kinds._registry.clear()
    kinds._loaded[:] = [True]
    for name, handler in (("quick", effect), ("suspend", suspend), ("die", die), ("fail", fail)):
        kinds.register(Kind(name=name, handler=handler, lease_s=LEASE_S))
    for name, long_handler in (("die_long", die_long), ("last", last)):
        kinds.register(Kind(name=name, long_handler=long_handler, lease_s=LEASE_S))


if not django.apps.apps.ready:  # a process of its own, and not the test's
    django.setup()
    kinds.load()  # now and not later: what an import registers is taken out again
    register()
    app.conf.broker_transport_options |= {"visibility_timeout": 2}
    app.conf.beat_schedule = {
        "settlement.sweep": {
            "task": "settlement.sweep",
            "schedule": 0.5,
            "options": {"queue": "urgent", "expires": 5},
        }
    }

if __name__ == "__main__":
    from settlement import jobs

    print(jobs.work(kinds.NORMAL))
