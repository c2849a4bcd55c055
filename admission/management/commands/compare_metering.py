"""Compare what was metered with what the modelled clusters say they generated, by request."""

import json
from typing import Any
from urllib.request import urlopen

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from admission import queries

HTTP_TIMEOUT_S = 10.0
SHOWN_MAX = 20


class Command(BaseCommand):
    """Exits 1 where a request that has ended differs, in prompt, cached or output tokens."""

    help = "Compare what was metered with what the modelled clusters say they generated."

    def add_arguments(self, parser: CommandParser) -> None:
        """Offer the counts as JSON."""
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare every request that a running model server remembers."""
        metered = generated = requests = 0
        different: list[str] = []
        for cluster_id, _ in queries.modelled_clusters():
            known = _generated(cluster_id)
            totals = _metered(list(known))
            for request_id, made in known.items():
                if made["state"] == "running":
                    continue
                said = (made["prompt"], made["cached"], made["completion"])
                found = totals.get(request_id, (0, 0, 0))
                requests += 1
                generated += made["completion"]
                metered += found[2]
                if found != said:
                    different.append(f"{request_id}: metered {found}, generated {said}")
        counts = {
            "requests": requests,
            "metered": metered,
            "generated": generated,
            "different": len(different),
        }
        if options["json"]:
            self.stdout.write(json.dumps(counts))
        else:
            for line in different[:SHOWN_MAX]:
                self.stdout.write(line)
            self.stdout.write(
                f"{requests} requests, {metered} output tokens metered, {generated} generated, "
                f"{len(different)} requests differ"
            )
        if different:
            raise SystemExit(1)


def _generated(cluster_id: str) -> dict[str, dict[str, Any]]:
    """Return what a modelled cluster remembers of its requests."""
    row = queries.cluster(int(cluster_id))
    assert row is not None, "listed just now"
    url = row.endpoint.removesuffix("/v1") + "/debug/generated"
    with urlopen(url, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310 our own model server
        found: dict[str, dict[str, Any]] = json.load(answer)
    return found


def _metered(request_ids: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return the last totals of requests: prompt, cached and output tokens."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (request_id)
                request_id::text, prompt_tokens, cached_tokens, output_tokens
            FROM admission_usageevent WHERE request_id::text = ANY(%s)
            ORDER BY request_id, sequence DESC
            """,
            [request_ids],
        )
        return {row[0]: (row[1], row[2], row[3]) for row in cursor.fetchall()}
