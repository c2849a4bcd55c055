"""Published percentiles from public leaves: exact, each leaf once, and none that was altered."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from admission import merkle, percentiles, receipts
from tests.unit.test_evidence import AT, receipt


def leaf(number: int, **public: str) -> tuple[str, str]:
    fields = {"queue_ms": "0", "first_token_ms": "", **public}
    one, name = receipt(number, public=fields)
    return name.hex(), one.leaf().decode()


HUNDRED = [leaf(n, queue_ms=str(n), first_token_ms=str(1_000 + n)) for n in range(1, 101)]
OF = ("pool", str(AT), "p2")


def test_percentiles_are_those_of_postgresql_s_percentile_disc() -> None:
    assert percentiles.recompute(HUNDRED)[OF] == percentiles.Figures(
        admitted=100, queue_ms_p50=50, queue_ms_p95=95, queue_ms_p99=99,
        first_token_ms_p50=1_050, first_token_ms_p99=1_099,
    )  # fmt: skip
    assert [percentiles.percentile([7, 3, 5], each) for each in (50, 95, 99)] == [5, 7, 7]
    assert percentiles.percentile([7, 3], 50) == 3
    assert percentiles.percentile([], 50) is None


def test_refusals_and_keys_are_not_counted_and_a_leaf_that_comes_twice_is_one() -> None:
    key = receipts.canonical({"key": "00", "version": "1"})
    shed = leaf(101, queue_ms="9999", outcome="shed", class_served="")
    unserved = leaf(102, queue_ms="5", outcome="aborted")
    found = percentiles.recompute(
        [*HUNDRED, HUNDRED[0], shed, (merkle.leaf_hash(key).hex(), key.decode()), unserved]
    )
    assert list(found) == [OF]
    assert (found[OF].admitted, found[OF].queue_ms_p99) == (101, 99)


def test_the_command_prints_them_and_believes_no_leaf_that_was_altered(tmp_path: Path) -> None:
    page = tmp_path / "leaves.json"

    def run(leaves: list[tuple[str, str]]) -> str:
        rows = [{"index": 0, "hash": name, "leaf": text} for name, text in leaves]
        page.write_text(json.dumps({"results": rows, "next_cursor": None}))
        printed = StringIO()
        call_command("recompute_percentiles", str(page), stdout=printed)
        return printed.getvalue()

    assert run(HUNDRED) == (
        "pool 2027-01-15T08:00:00.000000Z P2 admitted 100 wait 50 95 99 ms"
        " first token 1050 1099 ms\n"
    )
    name, text = HUNDRED[98]
    with pytest.raises(CommandError, match=f"the leaf is not that of hash {name}"):
        run([*HUNDRED, (name, text.replace('"queue_ms":"99"', '"queue_ms":"1"'))])
