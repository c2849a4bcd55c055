"""Keep every open book of the demo two-sided."""

import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from marketplace import maker, models
from marketplace.seeding import catalog


class Command(BaseCommand):
    """Runs until stopped."""

    help = "Keep every open book of the demo two-sided."

    def handle(self, *args: Any, **options: Any) -> None:
        """Quote for the seeded market-maker."""
        organization = models.Organization.objects.filter(name=catalog.MAKER).first()
        if organization is None:
            raise CommandError("the market-maker is part of the demo's seed; there is none here")
        bidder = models.Organization.objects.get(name=catalog.COVER_BIDDER)
        work = maker.Maker(organization=organization.pk, bidder=bidder.pk)
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: work.stopped.set())
        work.run()
