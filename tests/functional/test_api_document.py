"""The OpenAPI document, its reader, and the table of codes: complete and true."""

import ast
import json
import re
from pathlib import Path

import pytest
from django.test import Client

from exchange import reasons
from marketplace import codes, errors, openapi
from tests.market import HOUR
from tests.rest import Api, World

ROOT = Path(__file__).resolve().parents[2]
PROMISED = """
    GET time; GET status; GET grades; GET instruments; GET instruments/{symbol};
    GET instruments/{symbol}/book; GET instruments/{symbol}/trades;
    GET instruments/{symbol}/candles; GET instruments/{symbol}/auction;
    GET instruments/{symbol}/deltas; GET curve/{grade};
    GET index/{grade}; GET index/{grade}/{hour}; GET pools; GET pools/{pool_id}/transparency;
    GET keys; GET orders; POST orders; DELETE orders; POST orders/batch; POST orders/test;
    POST orders/cancel-all-after; GET orders/{order_id}; PATCH orders/{order_id};
    DELETE orders/{order_id}; POST strips; POST strips/test; GET account; GET positions; GET fills;
    GET ledger;
    GET margin; GET entitlements; GET usage; GET receipts/{receipt_id}; GET receipts/heads;
    GET receipts/leaves; GET receipts/proof; GET receipts/consistency;
    GET settlements; GET insurance; GET statements;
    GET settlements/slots; GET insurance/corrections;
    GET statements/months;
    GET statements/{month};
    GET deliveries; GET deliveries/{delivery_id}; POST deliveries/{delivery_id}/figures;
    GET disputes; POST disputes; GET disputes/open; GET disputes/{dispute_id};
    DELETE disputes/{dispute_id}; POST disputes/{decided_id}/decide;
    POST deposits;
    POST withdrawals; GET api-keys; POST api-keys; DELETE api-keys/{key_id}; GET clusters;
    POST clusters; GET clusters/{cluster_id}; POST clusters/{cluster_id}/certify;
    GET clusters/{cluster_id}/certifications/{certification_id}; GET listings; POST listings;
    GET clusters/{cluster_id}/cover; POST clusters/{cluster_id}/cover;
    DELETE clusters/{cluster_id}/cover/{cover_offer_id};
    DELETE listings/{listing_id}; GET pools/purchase; POST pools/purchase;
    GET pools/purchase/open; DELETE pools/purchase/{commitment_id};
    GET packages; POST packages; GET packages/bought; GET packages/bought/{bought_id};
    POST packages/bought/{bought_id}/resell; GET packages/sold; GET packages/slices;
    GET packages/slices/own; DELETE packages/slices/own/{slice_id};
    POST packages/slices/{offered_slice_id}/buy; GET packages/{offer_id};
    DELETE packages/{offer_id}; POST packages/{offer_id}/quote; POST packages/{offer_id}/buy;
    GET resale-instructions; POST resale-instructions;
    DELETE resale-instructions/{instruction_id}; POST instruments/{symbol}/halt;
    POST instruments/{symbol}/resume; POST grades/{grade}/halt; POST grades/{grade}/resume;
    POST market/halt; POST market/resume; POST organizations/{organization_id}/kill;
    GET transfers; GET transfers/bids; DELETE transfers/bids/{bid_id};
    POST transfers/{transfer_id}/bids; GET operations/defaults; POST operations/layer;
    GET operations; POST operations/jobs/run-again; POST operations/jobs/give-up;
    POST index/{grade}/{hour}/override;
    POST demo/organizations; POST demo/clock; POST demo/faults; GET schema
"""


def operations() -> dict[str, dict]:
    return {
        f"{method.upper()} {path.removeprefix('/api/v1/')}": one
        for path, methods in openapi.document()["paths"].items()
        for method, one in methods.items()
    }


def test_every_operation_that_is_promised_is_documented() -> None:
    promised = {" ".join(one.split()) for one in PROMISED.split(";")}
    assert set(operations()) == promised


def test_the_document_is_whole() -> None:
    document = openapi.document()
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in schemas
    for name in re.findall(r'"#/components/headers/([^"]+)"', text):
        assert name in document["components"]["headers"]
    ids = [one["operationId"] for one in operations().values()]
    assert len(ids) == len(set(ids))
    for one in operations().values():
        assert one["summary"].endswith(".") or one["description"]
        for parameter in one["parameters"]:
            assert parameter["in"] != "path" or parameter["required"]


def test_unknown_fields_are_forbidden_by_the_document_too() -> None:
    schemas = openapi.document()["components"]["schemas"]
    for name, one in operations().items():
        if "requestBody" in one:
            schema = one["requestBody"]["content"]["application/json"]["schema"]
            resolved = schemas[schema["$ref"].rsplit("/", 1)[1]]
            assert resolved.get("additionalProperties") is False, name


def test_every_scope_is_the_one_that_is_enforced(world: World) -> None:
    nobody = Api()
    for name, one in operations().items():
        method, path = name.split(" ", 1)
        if "x-scope" not in one or (path.startswith(("orders", "strips")) and method != "GET"):
            continue
        reply = nobody.send(method, re.sub(r"{\w+}", "1", path))
        assert (reply.status, reply.code) == (401, "unauthenticated"), name


def test_the_document_and_its_reader_are_served(world: World) -> None:
    assert Api().get("schema").json == openapi.document()
    response = Client().get("/api/v1/docs")
    page = response.content.decode()
    assert response.status_code == 200
    assert "unsafe-inline" not in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert " style=" not in page
    for one in operations().values():
        assert f'id="{one["operationId"]}"' in page


@pytest.mark.parametrize("path", [f"instruments/{HOUR}", "account", "time", "margin"])
def test_an_answer_has_exactly_the_documented_fields(world: World, path: str) -> None:
    buyer = world.party("Northwind")
    one = operations()["GET " + path.replace(HOUR, "{symbol}")]
    schema = one["responses"]["200"]["content"]["application/json"]["schema"]
    resolved = openapi.document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    assert set(buyer.api.get(path).json) == set(resolved["properties"])


# Codes


def declared() -> set[str]:
    """The codes of every refusal that the source declares, the gateway's own dialect aside."""
    found: set[str] = set()
    kinds = list(errors.Refusal.__subclasses__())
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if not kind.__module__.startswith("admission.") or kind.__module__ in (
            "admission.operations",
            "admission.upstream",
        ):
            found.add(kind.code)
    return found


def test_every_code_stands_in_the_table() -> None:
    assert declared() - set(codes.CODES) == set()
    assert {*reasons.Reject, *reasons.Refuse} - set(codes.CODES) == set()


def test_a_codes_status_is_the_one_it_is_answered_with() -> None:
    kinds = list(errors.Refusal.__subclasses__())
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.code in codes.CODES and not kind.__module__.startswith("admission."):
            assert codes.CODES[kind.code][0] == kind.status, kind


def test_every_code_beside_a_field_stands_in_the_table() -> None:
    for path in (*ROOT.glob("marketplace/**/*.py"), *ROOT.glob("exchange/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="malformed" | "invalid"),
                    args=[field, ast.Constant(value=code), _],
                ) if not (isinstance(field, ast.Constant) and field.value == ""):
                    assert code in codes.CODES, (path, code)


def test_the_page_of_codes_is_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page, re.MULTILINE))
    shown = {
        code: str(status) if status else "in `errors`" for code, (status, _) in codes.CODES.items()
    }
    assert rows == shown
    for _, meaning in codes.CODES.values():
        assert meaning in page
