"""The client's calls and models against the OpenAPI document: neither may drift from the other."""

import inspect
import re
import types
import typing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from baseload import NewOrder, NewStrip, models, terms
from baseload.api import Api
from baseload.calls import Endpoint, Listing
from marketplace import openapi

HOUR = "LLAMA70B.H.20261205T14Z"
STARTS_AT = datetime(2026, 12, 5, 14, tzinfo=UTC)
ENDS_AT = datetime(2026, 12, 5, 16, tzinfo=UTC)
ORDER = NewOrder(instrument=HOUR, side="buy", quantity=1, price="1.250")
STRIP = NewStrip(
    grade="LLAMA70B", side="buy", starts_at=STARTS_AT, ends_at=ENDS_AT, price="1.250", quantity=1
)
GIVEN: dict[str, Any] = {
    "order": ORDER,
    "strip": STRIP,
    "operations": [ORDER, terms.Amend(id="1", quantity=2), terms.Cancel(id="1")],
    "scopes": ["read"],
    "first": 1,
    "last": 2,
    "timeout_ms": 0,
    "quantity": 1,
    "price": "1.250",
    "amount": "1.5",
    "role": "buyer",
    "advance_to": ENDS_AT,
    "since": STARTS_AT,
    "until": ENDS_AT,
    "from_date": STARTS_AT.date(),
    "to_date": ENDS_AT.date(),
    "lots": [1],
    "p1_lots": [1],
    "discounts": {7: 5},
    "list_price": "1.250",
    "floor_price": "1.250",
    "keep_lots": 1,
    "forecast": "none",
    "starts_at": STARTS_AT,
    "ends_at": ENDS_AT,
    "deadline": STARTS_AT,
    "delivered_ntu": "1.000",
    "available_ntu": "1.000",
    "short_ntu": "1.000",
    "intervals": [1],
    "limit": "1",
    "page_size": 1,
    "enabled": True,
    "uphold": True,
    "available": 0.5,
}
OPTIONAL_OF_ONE_FORM = {
    models.Order: {"grade", "from", "to", "min_share", "alternatives", "fills"},
    models.IndexValue: {"inputs", "inputs_base64"},
    models.ApiKey: {"key"},
    models.Fill: {"instrument"},
    models.Delivery: {"corrections"},
}
"""Fields that only some of the answers which are read as the model have."""
CALLS = {
    name: one
    for kind in Api.__mro__
    for name, one in vars(kind).items()
    if isinstance(one, Endpoint | Listing)
}
IN_NO_CLIENT = {"GET /api/v1/schema"}
"""What the document describes, and nobody calls who has read it."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document()


def described(name: str) -> Any:
    """Return a call with something for every parameter."""
    describe = CALLS[name]._describe
    wanted = list(inspect.signature(describe).parameters.values())[1:]
    named = {one.name: GIVEN.get(one.name, one.default) for one in wanted}
    empty = inspect.Parameter.empty
    given = {key: "1" if value in ("", empty, None) else value for key, value in named.items()}
    positional = [given.pop(one.name) for one in wanted if one.kind is not one.KEYWORD_ONLY]
    return describe(None, *positional, **given)


def operation_of(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """Return the operation that a path is of; a fixed path goes before one with a parameter."""
    for known in sorted(document["paths"], key=lambda one: "{" in one):
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", known), f"/api/v1/{path}"):
            found = document["paths"][known].get(method.lower())
            if found is not None:
                return found
    raise AssertionError(f"the document has no {method} {path}")


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def test_every_operation_of_the_document_has_a_call(document: dict[str, Any]) -> None:
    called = set()
    for name in CALLS:
        call = described(name)
        called.add(id(operation_of(document, call.method, call.path)))
    missed = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if id(operation) not in called
    }
    assert missed == IN_NO_CLIENT


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_in_the_document(document: dict[str, Any], name: str) -> None:
    call = described(name)
    operation = operation_of(document, call.method, call.path)
    known = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    assert {key for key, _ in call.query} <= known
    if call.is_idempotency_header:
        assert "Idempotency-Key" in {one["name"] for one in operation["parameters"]}
    if call.body is not None:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        properties = resolve(document, body)["properties"]
        assert msgspec.json.decode(call.body).keys() <= properties.keys()


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("batch", "cancel_orders")])
def test_every_field_of_a_model_is_in_the_answer(document: dict[str, Any], name: str) -> None:
    call = described(name)
    operation = operation_of(document, call.method, call.path)
    status = min(code for code in operation["responses"] if code.startswith("2"))
    answer = operation["responses"][status]["content"]["application/json"]["schema"]
    assert missing(document, call.result, answer) == []


def missing(document: dict[str, Any], kind: Any, schema: dict[str, Any]) -> list[str]:
    """Return the fields of a model that a schema does not have."""
    schema = resolve(document, schema)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is models.Page:
        return missing(document, tuple[arguments[0], ...], schema["properties"]["results"])
    if origin in (typing.Union, types.UnionType):
        options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        return missing(document, arguments[0], options[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return missing(document, arguments[0], schema["items"]) if "items" in schema else []
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    found = []
    hints = typing.get_type_hints(kind)
    for one in msgspec.structs.fields(kind):
        below = schema["properties"].get(one.encode_name)
        if below is None:
            if one.encode_name not in OPTIONAL_OF_ONE_FORM.get(kind, ()):
                found.append(f"{kind.__name__}.{one.encode_name}")
        else:
            found += missing(document, hints[one.name], below)
    return found
