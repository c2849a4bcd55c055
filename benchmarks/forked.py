"""Engines that are forked from a process which has loaded the code, for benchmarks that kill many.

What a kill costs is measured, not what Python needs to start. Whoever uses it has the deployment's
environment in `os.environ` before the first process starts; nothing here is imported before that.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.core.management import call_command
from django.db import connection

from exchange import engine, loop  # noqa: F401 - loaded here so that no child has to
from marketplace import clock, models, operations
from marketplace.models import Grade
from settlement import instructions
from settlement import models as settlement_models
from settlement import operations as settlement

GRADE = "LLAMA70B"
REFERENCE_TICKS = 1_250
CASH_MICROS = 10**12
LOTS = 100_000
APPLIED_TIMEOUT_S = 60.0


def _redirect(log: str) -> None:
    """Send what this process prints to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def run_engine(log: str, failpoint: str) -> None:
    """Be an engine, or its standby, until the end."""
    _redirect(log)
    os.environ["BASELOAD_FAILPOINT"] = failpoint
    call_command("engine")


def write_snapshot(log: str) -> None:
    """Write a snapshot, as the worker of a deployment would."""
    _redirect(log)
    from exchange import tasks

    tasks.write_snapshot(after_commands=1)


def open_market(log: str, count: int, keys: str) -> None:
    """Open a grade and organizations with cash, capacity and a key each; an engine has to run."""
    _redirect(log)
    Grade.objects.create(
        code=GRADE,
        name="Llama 70B",
        region="us",
        precision="fp8",
        model_shape="llama-70b",
        context_tokens_max=131_072,
        output_tokens_max=8_192,
        reference_price_ticks=REFERENCE_TICKS,
        created_at=clock.now(),
    )
    _instruct("grade", instructions.DefineGrade(grade=GRADE, reference_price_ticks=REFERENCE_TICKS))
    made = [_open(number) for number in range(count)]
    deadline = time.monotonic() + APPLIED_TIMEOUT_S
    waiting = settlement_models.Instruction.objects.exclude(state="APPLIED")
    while waiting.exists():
        assert time.monotonic() < deadline, list(waiting.values())
        time.sleep(0.05)
    connection.close()
    Path(keys).write_text(json.dumps(made))


def _open(number: int) -> str:
    """Return the key of a new organization."""
    organization = operations.open_organization(
        name=f"Trader {number}", role=models.Organization.Role.BUYER
    )
    account = organization.pk
    _instruct(
        f"deposit:{account}",
        instructions.Deposit(account=account, amount_micros=CASH_MICROS),
    )
    _instruct(
        f"certify:{account}",
        instructions.Certify(
            cluster=account,
            account=account,
            grade=GRADE,
            lots=LOTS,
            valid_until=clock.now_micros() + 365 * clock.DAY,
        ),
    )
    key = operations.create_key(organization_id=account, scopes=["read", "trade"])
    return str(key.text)


def _instruct(name: str, command: Any) -> None:
    settlement.instruct(id=name, command=command)
