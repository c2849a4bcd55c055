"""Statements and balances with a million transfers in the ledger: how long a member waits.

The transfers are posted by the engine's own writer, batch by batch, over sixty days and so over
several partitions: a fifth of them are one busy organization's, a fifth are of ten others, the rest
of a thousand. Then each page is asked for again and again, at random instants, as a member or its
program would: through Django with its middleware, keys, sessions and templates, in one process, and
without the network. Asked for are the balance, the ledger's first page and one at a random depth,
the statement of a random day, in JSON and as a page, and of two months, of which the past one is
closed, as a job does it. The tables are vacuumed first, as they are in production by themselves.

Every answer has to be a good one, and every day's statement that was read to the end has to add up.
"""

import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import environment
from benchmarks.report import Result, percentile
from config import servers

TRANSFERS = int(os.environ.get("BENCH_TRANSFERS", "1000000"))
BATCH = 1_000
DAYS = 60
ASKED = int(os.environ.get("BENCH_ASKED", "200"))
"""Requests of each kind and organization."""
ASKED_PER_KEY = 200
"""Requests by one key: beyond 250 at once it would be told to wait."""
KINDS_BY_KEY = 6
TARGET_BALANCE_MS, TARGET_PAGE_MS = 50.0, 250.0
BUSY_COUNT, PLAIN_COUNT = 10, 1_000
FIRST_AT = 1_791_244_800_000_000
"""October 6, 2026, 00:00 UTC; two months on, it is now."""
BALANCES = ("balance",)
HOST = "127.0.0.1"


def run() -> Result:
    """Measure; the ratio is the worst p99 under its target."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        addresses = servers.start(var)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "BASELOAD_VAR": str(var),
            "DATABASE_URL": addresses.database_url,
            "VALKEY_URL": addresses.valkey_url,
            "CELERY_BROKER_URL": addresses.broker_url,
            "DATABASE_POOL_SIZE_MAX": "0",
            "DATABASE_ROLE": "",
        }
        try:
            done = environment.work("benchmarks.statements", python=Path(sys.executable))
        finally:
            servers.erase(var)
    ratios = [
        (TARGET_BALANCE_MS if what in BALANCES else TARGET_PAGE_MS) / times["p99_ms"]
        for pages in done["pages"].values()
        for what, times in pages.items()
    ]
    return Result(
        bench="statements",
        ours=done,
        ratio=round(min(ratios), 3),
        load={
            "transfers": TRANSFERS,
            "days": DAYS,
            "organizations": 1 + BUSY_COUNT + PLAIN_COUNT,
            "requests_of_each": ASKED,
            "where": "in one process, through middleware and templates, without the network",
            "durability": "fsync on",
            "target": {"balance_p99_ms": TARGET_BALANCE_MS, "page_p99_ms": TARGET_PAGE_MS},
        },
    )


def measure() -> dict[str, Any]:
    """Fill the ledger and ask; return milliseconds by organization and page."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    from marketplace import clock, months

    clock.freeze(FIRST_AT)
    kinds = {"busy": _member("Statements Busy"), "plain": _member("Statements Plain")}
    begun = time.perf_counter()
    fill(kinds["busy"].id, kinds["plain"].id)
    filled = time.perf_counter() - begun
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    clock.freeze(FIRST_AT + DAYS * clock.DAY)
    begun = time.perf_counter()
    for month in (date(2026, 10, 1), date(2026, 11, 1)):
        months.close_month(month, at=clock.now())
    closed = time.perf_counter() - begun
    pages = {name: ask(name, member) for name, member in kinds.items()}
    return {
        "pages": pages,
        "closing_two_months_s": round(closed, 1),
        "transfers_posted_per_second": round(TRANSFERS / filled),
        "transfers_of": {name: _count(member.id) for name, member in kinds.items()},
        "partitions": _partitions(),
    }


def fill(busy: int, plain: int) -> None:
    """Post the transfers, a share of each day's from every batch of it."""
    from django.db import connection

    from benchmarks.ledger import Poster
    from exchange import store
    from marketplace import clock
    from settlement import posting, queries

    with connection.cursor() as cursor:
        posting.make_partitions(cursor, at=FIRST_AT, months=4)
    others = [plain + 1_000 + number for number in range(BUSY_COUNT)]
    many = [plain, *(plain + 2_000 + number for number in range(PLAIN_COUNT - 1))]
    poster = Poster(store.connect(), queries.chain_sequence("cash"))
    choice = random.Random(7)
    owners = [busy, *others, *many]
    poster.post(
        [_transfer(0, 10, owner, 1, 10**13, 1, f"deposit:{owner}") for owner in owners], at=FIRST_AT
    )
    batches = TRANSFERS // BATCH
    for number in range(batches):
        at = FIRST_AT + (number + 1) * DAYS * clock.DAY // (batches + 1)
        batch = []
        for place in range(BATCH):
            part = place % 10
            owner = busy if part < 2 else choice.choice(others if part < 4 else many)
            batch.append(_movement(choice, owner, number * BATCH + place))
        poster.post(batch, at=at)
        if number % (batches // 10) == 0:
            environment.say(f"{number * BATCH:,} of {TRANSFERS:,} transfers")


def _movement(choice: random.Random, owner: int, number: int) -> Any:
    """Return a transfer as marks, premiums, gates and usage make them.

    Fees and deliveries would have to have the trades and intervals that a month explains them by.
    """
    amount = choice.randint(1_000, 9_000_000)
    what = number % 5
    if what == 0:
        return _transfer(owner, 1, 0, 11, amount, 22, f"trade:{number}")
    if what == 1:
        return _transfer(owner, 1, 0, 12, amount, 4, f"mark:{number // BATCH}")
    if what == 2:
        return _transfer(0, 12, owner, 1, amount, 4, f"mark:{number // BATCH}")
    if what == 3:
        return _transfer(
            owner, 1, owner, 2, amount, 5, f"gate:LLAMA70B.H.20261101T{number % 24:02}Z"
        )
    return _transfer(0, 12, owner, 1, amount, 10, f"usage:LLAMA70B.H.20261101T{number % 24:02}Z")


def _transfer(
    debit: int, debit_kind: int, credit: int, credit_kind: int, amount: int, code: int, cause: str
) -> Any:
    return SimpleNamespace(
        debit_owner=debit, debit_kind=debit_kind, credit_owner=credit, credit_kind=credit_kind,
        amount=amount, code=code, cause=cause,
    )  # fmt: skip


def _member(name: str) -> Any:
    """Return an organization with a key for its programs and a session for its people."""
    from django.test import Client

    from marketplace import models, operations

    email = f"{name.split()[-1].lower()}@example.com"
    operations.sign_up(email=email, password="a long one for once", organization_name=name,
                       role="BUYER")  # fmt: skip
    organization = models.Organization.objects.get(name=name)
    keys = [
        operations.create_key(organization_id=organization.pk, scopes=["read"]).text
        for _ in range(1 + KINDS_BY_KEY * ASKED // ASKED_PER_KEY)
    ]
    browser = Client(headers={"Host": HOST})
    browser.force_login(models.User.objects.get(email=email))
    return SimpleNamespace(id=organization.pk, keys=keys, browser=browser)


def ask(name: str, member: Any) -> dict[str, dict[str, float]]:
    """Ask for each page at random instants; return milliseconds of each."""
    from django.test import Client

    from marketplace import clock

    program = Client(headers={"Host": HOST})
    asked = itertools.count()
    choice = random.Random(11)

    def day() -> Any:
        return clock.to_datetime(FIRST_AT) + timedelta(days=1 + choice.randrange(DAYS - 1))

    def api(path: str) -> Any:
        key = member.keys[next(asked) // ASKED_PER_KEY]
        return program.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {key}"})

    def of_day() -> Any:
        since = day()
        until = since + timedelta(days=1)
        form = "%Y-%m-%dT%H:%M:%S.%fZ"
        answer = api(f"statements?since={since:{form}}&until={until:{form}}")
        for part in answer.json()["results"][0]["accounts"]:
            moved = sum(_micros(group["total"]) for group in part["groups"])
            opening, closing = _micros(part["opening"]), _micros(part["closing"])
            assert opening + moved == closing, "a statement adds up"
        return answer

    def deep() -> Any:
        return api(f"ledger?limit=100&until={day():%Y-%m-%dT%H:%M:%S.%fZ}")

    kinds: dict[str, Callable[[], Any]] = {
        "balance": lambda: api("account"),
        "ledger, first page": lambda: api("ledger?limit=100"),
        "ledger, at any depth": deep,
        "statement of a day": of_day,
        "statement of a day, page": lambda: member.browser.get(
            f"/portfolio/statements?day={day():%Y-%m-%d}"
        ),
        "statement of this month": lambda: api("statements/2026-12"),
        "statement of a past month": lambda: api("statements/2026-10"),
    }
    found = {}
    for what, send in kinds.items():
        times = []
        send()  # what is compiled once is compiled now
        for _ in range(ASKED):
            begun = time.perf_counter()
            answer = send()
            times.append(1_000 * (time.perf_counter() - begun))
            assert answer.status_code == 200, (what, answer.status_code, answer.content[:500])
        found[what] = {
            "p50_ms": round(percentile(times, 50) or 0, 1),
            "p99_ms": round(percentile(times, 99) or 0, 1),
            "most_ms": round(max(times), 1),
        }
        environment.say(f"{name:6} {what:28} {found[what]}")
    return found


def _micros(amount: str) -> int:
    whole, _, part = amount.partition(".")
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 1_000_000 + sign * int(part.ljust(6, "0"))


def _count(owner: int) -> int:
    """Return how many transfers an organization has."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM settlement_transfer WHERE debit_account / 64 = %(owner)s"
            " OR credit_account / 64 = %(owner)s",
            {"owner": owner},
        )
        return int(cursor.fetchone()[0])


def _partitions() -> int:
    """Return over how many partitions the transfers lie."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT tableoid) FROM settlement_transfer")
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    print(json.dumps(measure()))
