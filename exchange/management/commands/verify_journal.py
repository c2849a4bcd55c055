"""Replay the journal and compare it, batch by batch, with what was stored."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from exchange import models, recovery, store
from settlement import doorbell


class Command(BaseCommand):
    """Exits with an error at the first batch whose hash, place or events are wrong."""

    help = "Replay the journal and compare it with what was stored."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the clearing group, where to begin, and the form of the answer."""
        parser.add_argument("--group", default=doorbell.GROUP)
        parser.add_argument(
            "--from-snapshot", action="store_true", help="begin at the newest snapshot"
        )
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(
        self, *args: Any, group: str, from_snapshot: bool, as_json: bool, **options: Any
    ) -> None:
        """Replay to the head of the journal."""
        head = models.Head.objects.filter(group=group).first()
        if head is None:
            raise CommandError(f"the group {group} has no journal")
        with store.connect() as connection:
            try:
                recovered = recovery.rebuild(
                    connection,
                    group,
                    up_to=head.sequence,
                    from_genesis=not from_snapshot,
                )
            except recovery.Diverged as error:
                raise CommandError(f"the journal does not replay {error}") from None
        if recovered.hash != bytes(head.hash):
            raise CommandError("the head has another hash than the journal")
        recovered.machine.check()
        result = {
            "group": group,
            "sequence": head.sequence,
            "started_from": recovered.started_from,
            "batches": recovered.batches,
            "commands": recovered.commands,
            "hash": recovered.hash.hex(),
            "state": recovered.machine.digest().hex(),
        }
        if as_json:
            self.stdout.write(json.dumps(result))
        else:
            for name, value in result.items():
                self.stdout.write(f"{name:14}{value}")
