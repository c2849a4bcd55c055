"""Receipts from the real gateway: one for every outcome, in the commit that records it."""

import asyncio
import dataclasses
import json
import urllib.request
import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import openai
import psycopg
import pytest
import valkey as valkey_client
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from admission import (
    custody,
    demand,
    merkle,
    metering,
    models,
    notary,
    percentiles,
    receipts,
    reporting,
)
from marketplace import clock, contract, keys
from settlement import models as clearing
from tests.delivery import Stage, make_key, stage
from tests.market import BUYER, GRADE, OTHER, SELLER, Market
from tests.rest import Api

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "Say what an hour of capacity costs, and why."}]


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def verified(row: models.Receipt) -> receipts.Receipt:
    """Return a stored receipt, having checked it with public keys and nothing else."""
    key = models.GatewayKey.objects.get(id=row.issuer)
    receipt = receipts.Receipt(
        issuer=row.issuer,
        public=json.loads(row.public),
        private=json.loads(row.private),
        salt=bytes(row.salt),
        signature=bytes(row.signature),
    )
    text = json.dumps(receipts.document(receipt))
    assert receipts.verify(receipts.parse(text), bytes(key.public_key)) == bytes(row.hash)
    assert merkle.leaf_hash(receipt.leaf()) == bytes(row.hash)
    return receipt


def chain(**where: object) -> list[receipts.Receipt]:
    """Return the receipts of a flow, having checked that none is missing."""
    rows = list(models.Receipt.objects.filter(**where).order_by("sequence"))
    previous = "0" * 64
    for number, row in enumerate(rows, start=1):
        private = verified(row).private
        assert (private["sequence"], private["previous"]) == (str(number), previous)
        previous = bytes(row.hash).hex()
    return [verified(row) for row in rows]


def test_an_answer_names_a_receipt_that_says_what_was_metered(delivery: Stage) -> None:
    raw = delivery.client().chat.completions.with_raw_response.create(
        model=GRADE, messages=HELLO, max_tokens=10, extra_headers={"x-baseload-nonce": "my-7"}
    )
    row = models.Receipt.objects.get(id=raw.headers["x-baseload-receipt"])
    (end,) = delivery.ends(1)
    receipt = verified(row)

    assert row.id == end.request_id
    assert row.organization_id == BUYER
    assert receipt.public | {"pool": ""} == {
        "class_requested": "p2",
        "class_served": "p2",
        "first_token_ms": str(end.first_token_ms),
        "grade": GRADE,
        "interval_starts_at": receipt.public["interval_starts_at"],
        "mntu": str(end.mntu),
        "outcome": "completed",
        "per_token_us": str(end.per_token_us),
        "pool": "",
        "queue_ms": "0",
        "reason": "timed",
    }
    assert receipt.public["pool"] == raw.headers["x-baseload-pool"]
    assert receipt.private["nonce"] == "my-7"
    assert receipt.private["class_owed"] == "p2"
    assert receipt.private["output_tokens"] == "10"
    assert receipt.private["prompt_tokens"] == str(end.prompt_tokens)


def test_a_stream_names_its_receipt_in_a_comment_before_it_is_done(delivery: Stage) -> None:
    client = delivery.client()
    body = {"model": GRADE, "messages": HELLO, "max_tokens": 5, "stream": True}
    request = urllib.request.Request(
        f"{client.base_url}chat/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {client.api_key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as got:
        name = got.headers["x-baseload-receipt"]
        events = got.read().decode().strip().split("\n\n")
    row = models.Receipt.objects.get(id=name)
    assert events[-2:] == [f": receipt {name} {bytes(row.hash).hex()}", "data: [DONE]"]
    assert "receipt" not in "".join(events[:-2])

    chunks = list(client.chat.completions.create(**body))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_refusal_has_the_next_receipt_of_its_flow(delivery: Stage) -> None:
    # Two seconds of forty lots are 1,333 NTU: one request of a few hundred tokens spends them.
    delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=400, extra_body={"ignore_eos": True}
    )
    with pytest.raises(openai.RateLimitError) as rejected:
        delivery.client("rejecting").chat.completions.create(
            model=GRADE, messages=HELLO, max_tokens=5
        )
    named = rejected.value.response.headers["x-baseload-receipt"]
    served, refused = chain(organization_id=BUYER)
    assert refused.private["request"] == named
    assert [each.public["outcome"] for each in (served, refused)] == ["completed", "shed"]
    assert (refused.public["mntu"], refused.public["class_served"]) == ("0", "")


def test_a_caller_that_hangs_up_has_a_receipt_of_what_was_generated(delivery: Stage) -> None:
    stream = delivery.client().chat.completions.create(
        model=GRADE, messages=HELLO, max_tokens=1_000, stream=True
    )
    next(stream)
    stream.close()
    (end,) = delivery.ends(1)
    (receipt,) = chain(organization_id=BUYER)
    assert (receipt.public["outcome"], receipt.public["mntu"]) == ("aborted", str(end.mntu))


def test_a_nonce_that_is_too_long_is_refused(delivery: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        delivery.client().chat.completions.create(
            model=GRADE, messages=HELLO, extra_headers={"x-baseload-nonce": "n" * 65}
        )
    assert refused.value.body["param"] == "x-baseload-nonce"
    assert models.Receipt.objects.count() == 0


def test_a_gateway_s_key_is_certified_by_the_root(delivery: Stage) -> None:
    (key,) = models.GatewayKey.objects.all()
    message = receipts.certificate_message(
        public_key=bytes(key.public_key),
        gateway=key.gateway,
        valid_from=clock.to_micros(key.valid_from),
    )
    root = receipts.public_bytes(custody.root())
    receipts.require_signature(root, bytes(key.certificate), message)
    purposes = dict(clearing.SigningKey.objects.values_list("id", "purpose"))
    assert purposes == {key.id: "gateway", receipts.key_id(root): "root"}


def request_row(number: int, **more: object) -> metering.RequestRow:
    fields = {
        "id": str(uuid.UUID(int=number)),
        "organization_id": BUYER,
        "key": "key",
        "grade": GRADE,
        "cluster": 1,
        "class_requested": "P1",
        "class_served": "",
        "outcome": "SHED",
        "reason": "NO_CAPACITY",
        "charge_mntu": 5,
        "body_digest": "00" * 16,
        "is_probe": False,
        "arrived_at": 1_000_000_000_000_000 + number,
        "queue_ms": 0,
        "gateway": "g",
    }
    return metering.RequestRow(**(fields | more))  # type: ignore[arg-type]


def new_writer() -> metering.Writer:
    made = notary.Notary(custody.new_key("g"), pool_name=lambda cluster: f"pool {cluster}")
    return metering.Writer(metering.connection_parameters(), made)


def test_two_gateways_that_share_a_flow_leave_no_gap(transactional_db: None) -> None:
    first, second = new_writer(), new_writer()

    async def run() -> None:
        await first.start()
        await second.start()
        for number in range(1, 9):  # each believes to know which receipt was the last
            await (first if number % 3 else second).admit(request_row(number))
        await first.close()
        await second.close()

    asyncio.run(run())
    issued = chain(organization_id=BUYER)
    assert [each.private["request"][-1] for each in issued] == list("12345678")
    assert len({each.issuer for each in issued}) == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_a_commit_whose_outcome_is_unknown_leaves_one_receipt(
    transactional_db: None, monkeypatch, is_there: bool
) -> None:
    """The answer to a batch is lost, after it was committed or before."""
    end = metering.nothing_used(str(uuid.UUID(int=2)), 1_000_000_000_000_000)

    writer = new_writer()

    async def run() -> None:
        await writer.start()
        await writer.admit(request_row(1))
        await writer.admit(request_row(2, outcome="ADMITTED", class_served="P1"))
        session = writer._connection
        execute = session.execute

        async def lose(statement: str, given: tuple[str, ...]) -> None:
            if is_there:
                await execute(statement, given)
            await session.close()
            raise psycopg.OperationalError("the answer was lost")

        monkeypatch.setattr(session, "execute", lose)
        await writer.end(end)
        await writer.admit(request_row(3))
        await writer.close()

    asyncio.run(run())
    issued = chain(organization_id=BUYER)
    assert [each.private["request"][-1] for each in issued] == ["1", "2", "3"]
    assert [each.public["outcome"] for each in issued] == ["shed", "aborted", "shed"]


def test_receipts_are_never_changed(delivery: Stage) -> None:
    for table in ("receipt", "gatewaykey"):
        with pytest.raises(IntegrityError, match="never changed"), transaction.atomic():
            connection.cursor().execute(f"DELETE FROM admission_{table}")


def test_a_receipt_is_for_its_holder_and_its_seller_and_anybody_can_verify_it(
    delivery: Stage, tmp_path
) -> None:
    raw = delivery.client().chat.completions.with_raw_response.create(
        model=GRADE, messages=HELLO, max_tokens=5
    )
    path = f"receipts/{raw.headers['x-baseload-receipt']}"
    seller = make_key(SELLER, version=11, scopes=["read"])
    stranger = make_key(OTHER, version=12, scopes=["read"])
    keys.shared_ring().refresh()

    got = Api(delivery.keys["reader"]).get(path)
    assert got.status == 200
    assert Api(seller).get(path).json == got.json
    assert Api(stranger).get(path).status == 404
    assert Api(delivery.keys["reader"]).get(f"receipts/{uuid.UUID(int=5)}").status == 404

    public_keys = Api().get("keys").json["results"]
    (key,) = [each["public_key"] for each in public_keys if each["id"] == got.json["issuer"]]
    row = models.Receipt.objects.get()
    assert verify(tmp_path, got.json, key) == f"genuine: {bytes(row.hash).hex()}\n"
    got.json["public"]["mntu"] = "1"
    with pytest.raises(CommandError, match="not genuine: the signature is not the key's"):
        verify(tmp_path, got.json, key)
    with pytest.raises(CommandError, match="the key is not base64"):
        verify(tmp_path, got.json, "!")


def test_the_published_percentiles_follow_from_the_public_side_of_receipts(
    delivery: Stage,
) -> None:
    client = delivery.client()
    for _ in range(4):
        client.chat.completions.create(model=GRADE, messages=HELLO, max_tokens=5)
    leaves = [(bytes(row.hash).hex(), verified(row).leaf().decode()) for row in _receipts()]
    (((_, starts_at, served), figures),) = percentiles.recompute(leaves).items()
    at = int(starts_at)
    hour = contract.hour_start(at)
    number = (at - hour) // contract.INTERVAL + 1
    interval = demand.Interval(grade=GRADE, hour_starts_at=hour, number=number)
    (published,) = reporting._by_class(interval, "class_served").values()
    assert (served, figures.admitted) == ("p2", 4)
    assert figures.first_token_ms_p99
    for field in dataclasses.fields(figures):
        assert getattr(figures, field.name) == published[field.name], field.name


def _receipts() -> list[models.Receipt]:
    return list(models.Receipt.objects.order_by("sequence"))


def verify(folder: Path, document: dict[str, object], key: str) -> str:
    """Return what the command prints of a receipt."""
    file, printed = folder / "receipt.json", StringIO()
    file.write_text(json.dumps(document))
    call_command("verify_receipt", str(file), key=[key], stdout=printed)
    return printed.getvalue()
