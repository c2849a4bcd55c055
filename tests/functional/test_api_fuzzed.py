"""The served API against its own document: schemathesis looks for an answer that disagrees.

Every operation is called with what the document allows and with what it forbids, over HTTP, with
an engine behind it; the operators' part comes last, because it halts what the others trade in.
Every check is on. What is well formed may be refused by a rule of the market (422), or because the
same goes on already (409); nothing else may refuse it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey as valkey_client

from exchange import client, operations
from marketplace import http, openapi
from tests.market import GRADE, HOUR
from tests.rest import Party
from tests.served import Served, serving

ROOT = Path(__file__).resolve().parents[2]
HOOKS = "tests.functional.api_hooks"
EXAMPLES = 3
"""Random cases an operation, after those that the document itself suggests."""
SECONDS_MAX = 300
ACCEPTED = ["2xx", "401", "403", "404", "409", "422"]


@pytest.fixture
def served(
    _ring: None, valkey: valkey_client.Valkey, transactional_db: None, clock, settings, monkeypatch
) -> Iterator[Served]:
    settings.CLUSTER_ORIGIN = settings.GATEWAY_ORIGIN = "http://127.0.0.1:9"  # nobody is there
    monkeypatch.setattr(client, "REPLY_TIMEOUT_S", 60.0)  # how quick we are is not the question
    for name in ("READS", "WRITES"):
        monkeypatch.setattr(http, name, http.RateLimiter(per_second=1_000_000))
    with serving(valkey) as market:
        yield market


def configured(folder: Path, parties: dict[str, Party]) -> Path:
    """Write who calls what: the header of each tag's operations."""
    tags = {one.tag for _, one in openapi.operations()}
    who = {"capacity": "provider", "operator": "operator", "demo": "operator"}
    lines = [
        "[checks]",
        f"positive_data_acceptance.expected-statuses = {ACCEPTED}",
        "",
    ]
    for tag in sorted(tags):
        key = parties[who.get(tag, "buyer")].api.key
        lines += [
            "[[operations]]",
            f'include-tag = "{tag}"',
            f'headers = {{ Authorization = "Bearer {key}" }}',
            "",
        ]
    lines += [
        "# A batch is taken, and each of its operations answered by itself.",
        "[[operations]]",
        'include-path = "/api/v1/orders/batch"',
        f'headers = {{ Authorization = "Bearer {parties["buyer"].api.key}" }}',
        'checks.negative_data_rejection.expected-statuses = ["200", "4xx"]',
    ]
    path = folder / "schemathesis.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
def test_no_answer_disagrees_with_the_document(served: Served, tmp_path: Path) -> None:
    world = served.world
    parties = {
        "buyer": world.party("Northwind", cash=1_000_000_000),
        "provider": world.party("Cirrus", "PROVIDER", cash=1_000_000_000),
        "operator": world.party("Market operations", "OPERATOR"),
    }
    cluster = world.cluster(parties["provider"])
    order = operations.place(
        organization=parties["buyer"].id,
        instrument=HOUR,
        side=1,
        price_ticks=1_200,
        lots=100,
        client_order_id="known",
    )
    known = {"order_id": order.id, "cluster_id": str(cluster.pk), "symbol": HOUR, "grade": GRADE}
    config = configured(tmp_path, parties)
    for part in (["--exclude-tag", "operator"], ["--include-tag", "operator"]):
        found = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                f"--config-file={config}",
                "run",
                f"{served.origin}/api/v1/schema",
                "--phases=examples,coverage,fuzzing",
                f"--max-examples={EXAMPLES}",
                "--seed=1",
                "--no-color",
                "--request-timeout=60",
                *part,
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": HOOKS,
                "KNOWN_OBJECTS": json.dumps(known),
            },
        )
        assert found.returncode == 0, found.stdout + found.stderr
