"""What the API's document cannot say of a valid request, for the run of schemathesis.

JSON Schema sees one field at a time and its own kinds of number and text. A request that is meant
to be valid is brought into agreement here with what the descriptions say in words: a cursor is one
that a list gave out, an id that of an object, a whole number has no decimal point, a day is one
that a calendar has, a name has letters of one alphabet, an order has the fields of its type. One
that is meant to be invalid is left alone.
"""

import json
import os
import string
from datetime import datetime
from typing import Any

import schemathesis

KNOWN: dict[str, str] = json.loads(os.environ["KNOWN_OBJECTS"])
"""Objects that exist, so that operations on them have something to answer."""
PRICES = {"limit": ("price",), "stop": ("stop_price",), "stop_limit": ("price", "stop_price")}
TIMES = {"from", "to", "since", "until", "expires_at", "advance_to"}
NOW = "2026-12-01T09:00:00Z"
ORDERS = ("/api/v1/orders", "/api/v1/orders/test")
NAMED = ("/api/v1/clusters", "/api/v1/demo/organizations", "/api/v1/api-keys")


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Say of a tuple's places what the reader understands: that each is of one of their kinds."""
    kinds: list[Any] = [raw_schema]
    while kinds:
        one = kinds.pop()
        if isinstance(one, dict):
            if "prefixItems" in one:
                one["items"] = {"anyOf": one.pop("prefixItems")}
            kinds += one.values()
        elif isinstance(one, list):
            kinds += one


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
        if case.path.endswith(("/deltas", "/consistency")):
            if "to" in case.query:
                case.query["to"] = max(int(case.query["from"]), int(case.query["to"]))
        else:
            mend_times(case.query)
        if case.path.endswith(("/statements", "/usage")) and {"since", "until"} & set(case.query):
            case.query |= {"since": "2026-11-30T00:00:00Z", "until": "2026-12-01T00:00:00Z"}
    if isinstance(case.path_parameters, dict):
        mend_times(case.path_parameters)
        case.path_parameters |= {
            name: KNOWN[name] for name in case.path_parameters.keys() & KNOWN.keys()
        }
    if isinstance(case.body, dict):
        case.body = whole(case.body)
        mend_times(case.body)
        if case.path in ORDERS:
            mend_order(case.body)
        elif case.path == "/api/v1/orders/batch":
            for operation in case.body["operations"]:
                mend_times(operation)
                if operation["op"] == "place":
                    mend_order(operation)
                elif operation["op"] == "amend":
                    mend_amendment(operation)
        elif case.path == "/api/v1/orders/{order_id}":
            mend_amendment(case.body)
        elif case.path == "/api/v1/demo/clock":
            case.body["advance_to"] = NOW  # nobody is here to do what would be due by later
        elif case.path in ("/api/v1/strips", "/api/v1/strips/test"):
            mend_strip(case.body)
        elif case.path == "/api/v1/demo/faults":
            case.body["cluster"] = "999999"  # the server that would degrade it does not run here
        elif case.path in NAMED:
            mend_names(case.body)


def whole(value: Any) -> Any:
    """Schemas take 5.0 for an integer and NUL for a character; we take neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, list) else value


def mend_times(fields: dict[str, Any]) -> None:
    for name in TIMES & fields.keys():
        if fields[name]:
            try:
                datetime.fromisoformat(fields[name])
            except ValueError:
                fields[name] = "2026-12-05T14:00:00Z"
    if "hour" in fields:
        fields["hour"] = "20261201T14Z"


def mend_order(order: dict[str, Any]) -> None:
    kind = order.get("type", "limit")
    for name in ("price", "stop_price"):
        if name not in PRICES.get(kind, ()):
            order.pop(name, None)
        elif order.get(name) is None:
            order[name] = "1.250"
    if kind == "market" and order.get("time_in_force") in ("gtd", "day"):
        order["time_in_force"] = "ioc"
    in_force = order.get("time_in_force", "gtc")
    if in_force != "gtd":
        order.pop("expires_at", None)
    elif order.get("expires_at") is None:
        order["expires_at"] = "2026-12-01T10:00:00Z"
    may_rest = "limit" in kind and in_force in ("gtc", "gtd", "day")
    if not may_rest or (order.get("display_quantity") or 0) >= order["quantity"]:
        order.pop("display_quantity", None)
    if not may_rest or kind != "limit":
        order.pop("post_only", None)
    if order.get("post_only") or (order.get("min_quantity") or 0) > order["quantity"]:
        order.pop("min_quantity", None)


def mend_amendment(fields: dict[str, Any]) -> None:
    if all(fields.get(name) is None for name in ("price", "quantity", "stop_price")):
        fields["quantity"] = 1


def mend_strip(strip: dict[str, Any]) -> None:
    strip |= {"from": "2026-12-01T14:00:00Z", "to": "2026-12-01T16:00:00Z"}
    others = dict.fromkeys(strip.get("alternatives", []))
    strip["alternatives"] = [grade for grade in others if grade != strip["grade"]]


def mend_names(fields: dict[str, Any]) -> None:
    if "name" in fields:
        letters = [char for char in fields["name"] if char in string.ascii_letters]
        fields["name"] = "".join(letters) or "Fabrikam"
    fields.pop("public_key", None)
    fields.pop("addresses", None)
    if fields.get("endpoint"):
        fields["endpoint"] = "https://cluster.example/v1"
