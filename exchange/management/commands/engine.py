"""Run the engine of a clearing group, or wait as its standby."""

import logging
import signal
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from exchange import loop, recovery, store
from settlement import doorbell, posting, projection

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Runs until stopped, or until another engine takes over."""

    help = "Run the engine of a clearing group, or wait as its standby."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the clearing group."""
        parser.add_argument("--group", default=doorbell.GROUP)

    def handle(self, *args: Any, group: str, **options: Any) -> None:
        """Take the lock, take over and work.

        A lost head or an unknown commit ends the process: what starts it again begins an epoch.
        """
        try:
            connection = store.connect()
        except psycopg.OperationalError as error:
            raise CommandError(f"PostgreSQL is away: {error}") from None
        work = loop.Loop(
            connection=connection, client=loop.connect(settings.VALKEY_URL), group=group
        )
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: work.stop())
        try:
            work.run()
        except (store.Fenced, posting.ChainMoved, projection.OutcomeLost) as error:
            raise CommandError(f"another engine took over: {error}") from None
        except recovery.Diverged as error:
            raise CommandError(f"the journal does not replay {error}") from None
        except psycopg.Error as error:
            raise CommandError(f"a commit failed or is unknown: {error}") from None
        finally:
            connection.close()
