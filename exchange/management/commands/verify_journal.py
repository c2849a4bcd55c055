"""Replay the journal and compare it, batch by batch, with what was stored."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from exchange import record, recovery, store
from settlement import doorbell


class Command(BaseCommand):
    """Exits with an error at the first batch whose hash, place or events are wrong."""

    help = "Replay the journal and compare it with what was stored."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the clearing group, where to begin, how far to look, and the form of the answer."""
        parser.add_argument("--group", default=doorbell.GROUP)
        parser.add_argument(
            "--from-snapshot", action="store_true", help="begin at the newest snapshot"
        )
        parser.add_argument(
            "--public",
            action="store_true",
            help="compare deltas, trades, index and instruments too, from the beginning",
        )
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(
        self,
        *args: Any,
        group: str,
        from_snapshot: bool,
        public: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Replay to the head of the journal."""
        if public and from_snapshot:
            raise CommandError("the public record begins with the journal, not with a snapshot")
        with store.connect() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            sequence, hash_ = _head(connection, group)
            result: dict[str, Any] = {"group": group, "sequence": sequence}
            try:
                if public:
                    found = record.verify(connection, group, up_to=sequence)
                    recovered = found.recovered
                else:
                    recovered = recovery.rebuild(
                        connection, group, up_to=sequence, from_genesis=not from_snapshot
                    )
            except recovery.Diverged as error:
                raise CommandError(f"the journal does not replay {error}") from None
            except record.Altered as error:
                raise CommandError(f"the public record was altered: {error}") from None
        if recovered.hash != hash_:
            raise CommandError("the head has another hash than the journal")
        recovered.machine.check()
        result |= {
            "started_from": recovered.started_from,
            "batches": recovered.batches,
            "commands": recovered.commands,
            "hash": recovered.hash.hex(),
            "state": recovered.machine.digest().hex(),
        }
        if public:
            result |= {
                "messages": found.messages,
                "deltas": found.deltas,
                "trades": found.trades,
                "index_values": found.index_values,
                "instruments": found.instruments,
                "public": found.digest.hex(),
            }
        if as_json:
            self.stdout.write(json.dumps(result))
        else:
            for name, value in result.items():
                self.stdout.write(f"{name:14}{value}")


def _head(connection: store.Connection, group: str) -> tuple[int, bytes]:
    """Return where the journal ends as of this transaction, and its hash there.

    :raises CommandError: when there is none.
    """
    row = connection.execute(
        'SELECT sequence, hash FROM exchange_head WHERE "group" = %s', [group]
    ).fetchone()
    if row is None:
        raise CommandError(f"the group {group} has no journal")
    return row[0], bytes(row[1])
