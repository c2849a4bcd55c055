"""Make the demo's market: its participants, two days of history, and live entitlements."""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from exchange import models as exchange_models
from marketplace import operations, private_files
from marketplace.seeding import demo


class Command(BaseCommand):
    """Runs once, on an empty journal, before the engine starts."""

    help = "Make the demo's market, on an empty journal, before the engine starts."

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed, and write `seed.json` with the login and the keys."""
        if not settings.IS_DEMO:
            raise CommandError("production takes no demo data")
        if exchange_models.JournalBatch.objects.exists():
            raise CommandError("the journal is not empty: this market has begun already")
        operations.claim_deployment()
        described = demo.make(progress=self.stdout.write)
        private_files.write(Path(settings.VAR) / "seed.json", json.dumps(described, indent=1))
