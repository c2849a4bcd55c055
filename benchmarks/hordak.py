"""The ledger's peer: django-hordak, driven by its own API on a database that it is given.

Each transfer is `Account.transfer_to` in a transaction of its own, which is how hordak is used: it
creates a transaction and two legs, and a trigger of the database checks that they balance when it
commits. It runs in the peers' environment, so nothing of the project is imported here.
"""

import json
import os
import sys
import time
from urllib.parse import parse_qs, urlsplit

ACCOUNTS = 100


def main(seconds: float) -> dict[str, float | int]:
    """Return transfers per second, each durable when it returns."""
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="benchmark",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "mptt",
            "hordak",
        ],
        DATABASES={"default": database(os.environ["DATABASE_URL"])},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        DEFAULT_CURRENCY="USD",
        CURRENCIES=["USD"],
        HORDAK_DEFAULT_CURRENCY="USD",
        HORDAK_CURRENCIES=["USD"],
    )
    django.setup()
    from django.core.management import call_command
    from django.db import connection, transaction
    from hordak.models import Account
    from hordak.models import Transaction as Entry
    from moneyed import Money

    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SHOW fsync")
        assert cursor.fetchone()[0] == "on", "every transfer is durable"
    accounts = [
        Account.objects.create(name=f"account {number}", type="LI", currencies=["USD"])
        for number in range(ACCOUNTS)
    ]
    amount = Money("1.00", "USD")
    count = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        debit = accounts[count % ACCOUNTS]
        credit = accounts[(count * 7 + 1) % ACCOUNTS]
        with transaction.atomic():
            debit.transfer_to(credit, amount)
        count += 1
    rate = count / (time.perf_counter() - started)
    assert Entry.objects.count() == count, "every transfer is there"
    return {"per_second": round(rate, 1), "transfers": count}


def database(url: str) -> dict[str, object]:
    """Return Django's terms of a database from its URL."""
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or asked.get("host", [""])[0],
        "PORT": str(parts.port or asked.get("port", [""])[0]),
        "CONN_MAX_AGE": None,
    }


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]))))
