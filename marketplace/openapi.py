"""The OpenAPI document, and what its reader shows, both built from the endpoints themselves.

Every path of the API is a `Resource` in the URL configuration, and a resource knows its endpoints,
their inputs, their outputs and the codes of their refusals. The document is put together from these
once per process; the reader (`marketplace.views.document`) is the same document as a page.
"""

import functools
import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from django.urls import URLPattern, URLResolver, get_resolver

from marketplace import codes, http
from marketplace.endpoint import Endpoint, Resource

PREFIX = "/api/v1/"
_REFERENCE = "#/components/schemas/"
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@functools.cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of every endpoint."""
    found = list(operations())
    kinds: list[Any] = [http.Problem]
    for _, endpoint in found:
        is_plain = endpoint.Item is not None and not _is_more_than_a_page(endpoint)
        output = endpoint.Item if is_plain else endpoint.Output
        kinds += [kind for kind in (endpoint.Input, output) if kind is not None]
    unique = list(dict.fromkeys(kinds))
    shown, components = _named(
        msgspec.json.schema_components(unique, ref_template=_REFERENCE + "{name}")
    )
    schemas = dict(zip(unique, shown, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, endpoint in found:
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(path, endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(e.tag for _, e in found)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key: bl_live_<id>_<secret>, or bl_demo_ in a demo.",
                }
            },
            "headers": _HEADERS,
        },
        "x-error-codes": {code: text for code, (_, text) in sorted(codes.CODES.items())},
    }


def _named(found: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Return schemas and components with `exchange.api.ShowCurve.Output` called `ShowCurveOutput`.

    msgspec gives a class its whole path when another has the same name.
    """
    text = msgspec.json.encode(_standard(found)).decode()
    for name in found[1]:
        if "." in name:
            short = "".join(name.split(".")[-2:])
            assert short not in found[1], "endpoints have names of their own"
            text = text.replace(f'"{name}"', f'"{short}"')
            text = text.replace(f'"{_REFERENCE}{name}"', f'"{_REFERENCE}{short}"')
    shown, components = msgspec.json.decode(text)
    return shown, components


def _standard(schema: Any) -> Any:
    """Return a schema whose patterns end as JSON Schema's do, and not as Python's."""
    if isinstance(schema, dict):
        found = {name: _standard(each) for name, each in schema.items()}
        if isinstance(schema.get("pattern"), str):
            found["pattern"] = schema["pattern"].replace(r"\Z", "$")
        return found
    if isinstance(schema, list | tuple):
        return [_standard(each) for each in schema]
    return schema


def operations() -> Iterator[tuple[str, type[Endpoint]]]:
    """Yield every operation with its path, in the order of the URL configuration."""
    for path, view in _walk(get_resolver().url_patterns, "/"):
        resource = getattr(view, "cls", None)
        if path.startswith(PREFIX) and resource is not None and issubclass(resource, Resource):
            for endpoint in resource.endpoints.values():
                yield path, endpoint


def _walk(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, view) of every route, with parameters as OpenAPI writes them."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield _PARAMETER.sub(r"{\1}", prefix + str(pattern.pattern)), pattern.callback


def _operation(
    path: str, endpoint: type[Endpoint], schemas: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    """Return the description of one operation."""
    summary, _, description = inspect.cleandoc(endpoint.__doc__ or "").partition("\n")
    described: dict[str, Any] = {
        "operationId": endpoint.operation_id(),
        "tags": [endpoint.tag],
        "summary": summary,
        "description": " ".join(description.split()),
        "parameters": _parameters(path, endpoint),
        "security": [{"bearer": []}] if endpoint.scope else [{}, {"bearer": []}],
        "responses": _responses(path, endpoint, schemas),
    }
    if endpoint.scope:
        described["x-scope"] = endpoint.scope
    if endpoint.Input is not None:
        fields = msgspec.structs.fields(endpoint.Input)
        described["requestBody"] = {
            # Where every field may be left out, so may the body.
            "required": endpoint.is_documented_only or any(field.required for field in fields),
            "content": {http.JSON: {"schema": schemas[endpoint.Input]}},
        }
    return described


def _parameters(path: str, endpoint: type[Endpoint]) -> list[dict[str, Any]]:
    """Return path, query and header parameters of an operation."""
    found = [
        {"name": name, "in": "path", "required": True, "schema": _PATHS.get(name, _ANY)}
        for name in re.findall(r"{(\w+)}", path)
    ]
    for each in msgspec.structs.fields(endpoint.Query):
        schema = _standard(msgspec.json.schema(each.type))
        if "anyOf" in schema:  # what is not sent is null, which nobody can send
            schema = next(one for one in schema["anyOf"] if one != {"type": "null"})
        if "minimum" in schema:
            schema["type"] = "integer"  # read from text, as all of a query is
        found.append(
            {"name": each.encode_name, "in": "query", "required": each.required, "schema": schema}
        )
    if endpoint.Item is not None:
        found.append(
            {
                "name": "limit",
                "in": "query",
                "required": False,
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": http.LIMIT_MAX,
                    "default": http.LIMIT_DEFAULT,
                },
            }
        )
        found.append(
            {
                "name": "cursor",
                "in": "query",
                "required": False,
                "description": "The `next_cursor` of the page before; no other text is one.",
                "schema": {"type": "string", "minLength": 1},
            }
        )
    if endpoint.is_idempotent:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": http.IDEMPOTENCY_KEY_LENGTH_MAX,
                    "pattern": "^[ -~]+$",
                },
            }
        )
    return found


def _responses(
    path: str, endpoint: type[Endpoint], schemas: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    """Return what an operation may answer: its output, and every code it may refuse with."""
    headers: dict[str, Any] = {
        name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS if name in _ALWAYS
    }
    if endpoint.is_idempotent or endpoint.has_client_id:
        headers["Idempotency-Replayed"] = {"$ref": "#/components/headers/Idempotency-Replayed"}
    answers: dict[str, Any] = {
        str(endpoint.status): {
            "description": "Done",
            "headers": headers,
            "content": {http.JSON: {"schema": _answer(endpoint, schemas)}},
        }
    }
    if endpoint.pending_status is not None:
        answers[str(endpoint.pending_status)] = {
            **answers[str(endpoint.status)],
            "description": "Pending until it is confirmed",
        }
    by_status: dict[int, list[str]] = {}
    for code in _codes(path, endpoint):
        by_status.setdefault(codes.CODES[code][0], []).append(code)
    for status, named in sorted(by_status.items()):
        answers[str(status)] = {
            "description": "Refused: " + ", ".join(named),
            "content": {http.PROBLEM_JSON: {"schema": schemas[http.Problem]}},
            "x-codes": named,
        }
    return answers


def _answer(endpoint: type[Endpoint], schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of what an operation answers; a list is a page of its items."""
    if endpoint.Item is None or _is_more_than_a_page(endpoint):
        return schemas[endpoint.Output]
    return {
        "type": "object",
        "required": ["results", "next_cursor"],
        "properties": {
            "results": {"type": "array", "items": schemas[endpoint.Item]},
            "next_cursor": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }


def _is_more_than_a_page(endpoint: type[Endpoint]) -> bool:
    """Whether a list says more than its items: its output is then a class of its own."""
    return isinstance(endpoint.Output, type)


def _codes(path: str, endpoint: type[Endpoint]) -> list[str]:
    """Return every code that an operation may refuse with."""
    found = ["malformed", "rate_limited", "internal_error", "unavailable"]
    found += ["invalid_key", "invalid_signature", "timestamp_outside_window", "replayed"]
    found += ["address_not_allowed", "keys_unavailable"]
    if endpoint.scope is not None:
        found += ["unauthenticated", "missing_scope", "csrf"]
    if "{" in path or endpoint.tag == "demo":
        found.append("not_found")
    if endpoint.Input is not None:
        found += ["too_large", "unsupported_media_type"]
    if endpoint.is_idempotent or endpoint.has_client_id:
        found += ["key_reuse", "outcome_unknown"]
    return list(dict.fromkeys([*found, *endpoint.codes]))


def groups() -> list[dict[str, Any]]:
    """Return the operations as the page shows them, by tag."""
    found: dict[str, list[dict[str, Any]]] = {}
    described = document()
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            answers = [
                {
                    "status": status,
                    "description": answer["description"],
                    "fields": _fields(next(iter(answer["content"].values()))["schema"]),
                    "is_refusal": int(status) >= 400,
                }
                for status, answer in one["responses"].items()
            ]
            body = one.get("requestBody")
            schema = body["content"][http.JSON]["schema"] if body else None
            found.setdefault(one["tags"][0], []).append(
                {
                    **one,
                    "anchor": one["operationId"],
                    "method": method.upper(),
                    "path": path,
                    "answers": answers,
                    "body": _fields(schema) if schema else [],
                    "scope": one.get("x-scope", ""),
                }
            )
    return [{"tag": tag, "operations": each} for tag, each in found.items()]


def _fields(schema: dict[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    """Return the fields of a schema as lines, nested ones indented, references followed."""
    resolved = _resolved(schema)
    lines: list[dict[str, Any]] = []
    required = set(resolved.get("required", ()))
    for name, field in resolved.get("properties", {}).items():
        lines.append(
            {
                "name": name,
                "type": _type_text(field),
                "required": name in required,
                "indent": range(depth),
            }
        )
        inner = _resolved(field)
        inner = _resolved(inner["items"]) if isinstance(inner.get("items"), dict) else inner
        if depth < 2 and "properties" in inner:
            lines += _fields(inner, depth + 1)
    return lines


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to; of alternatives with null, the other one."""
    while True:
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            schema = document()["components"]["schemas"][name]
        elif "anyOf" in schema:
            others = [one for one in schema["anyOf"] if one.get("type") != "null"]
            if len(others) != 1:
                return schema
            schema = others[0]
        else:
            return schema


def _type_text(schema: dict[str, Any]) -> str:
    """Return a type in a few words."""
    if "$ref" in schema:
        return "object"
    if "anyOf" in schema:
        return " or ".join(_type_text(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"] if value != "")
    kind = str(schema.get("type", "any"))
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_type_text(schema['items'])}"
    return kind


_ANY = {"type": "string", "minLength": 1}
_PATHS: dict[str, Any] = {
    "hour": {
        "type": "string",
        "pattern": "^[1-9][0-9]{3}[0-9]{4}T[0-9]{2}Z$",
        "examples": ["20261205T14Z"],
    }
}
"""Parameters of paths that have a form; any other text names what does not exist."""
_ALWAYS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Request-Id")
_HEADERS: dict[str, dict[str, Any]] = {
    "RateLimit-Limit": {
        "description": "Requests that a key may send at once; reads and writes count apart.",
        "schema": {"type": "integer"},
    },
    "RateLimit-Remaining": {
        "description": "How many are left now.",
        "schema": {"type": "integer"},
    },
    "RateLimit-Reset": {
        "description": "Seconds until all are back.",
        "schema": {"type": "integer"},
    },
    "Request-Id": {
        "description": "Names the request in problem documents and logs.",
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "true when the answer is the one that was given before.",
        "schema": {"type": "string"},
    },
}
INFO = {
    "title": "Baseload",
    "version": "1",
    "description": (
        "The exchange for inference capacity. Prices are strings with three decimals in USD per "
        "million NTU, money strings with six, lots integers, times RFC 3339 in UTC with "
        "microseconds. Unknown fields, duplicate keys and wrong types are refused by name."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
