"""Writes the OpenAPI 3.1 document: every endpoint with its parameters, body, answers, and errors in the shape of its dialect.

Pure. Knows dialects as data, no web framework. Describes bodies exactly, whole answers as objects, streams by their media type.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from serve_app.dialects.base import Dialect, Embed, Endpoint, Generate, JsonObject, Query, WireBody
from serve_app.http.wrong_paths import find_dialect
from serve_app.types import Task

_OPEN_OBJECT: JsonObject = {"type": "object", "additionalProperties": True}
_SCHEMAS: Mapping[str, JsonObject] = MappingProxyType(
    {
        "application/json": _OPEN_OBJECT,
        # No type: some readers treat a stream as one text, others validate each of its events.
        "text/event-stream": {"description": "Server-sent events."},
        "application/x-ndjson": {"description": "One JSON object a line."},
    }
)
_REFUSALS = MappingProxyType(
    {
        "400": "The request is wrong; the error says where.",
        "401": "No valid API key, where the server asks for one.",
        "403": "The key may not do this, or the page's origin or the Host header is not let in (`browsers`).",
        "404": "No such endpoint, model or kept response.",
    }
)
_USAGE_QUERY = (
    ("since", "The first day (UTC), such as 2026-11-30."),
    ("until", "The last day (UTC)."),
    ("key", "Only the usage of this key."),
)
_BODY_REFUSALS = MappingProxyType({"413": "The body exceeds limits.max_body_bytes."})
_FAILURES = MappingProxyType({"500": "An engine or the server failed.", "503": "Nothing can serve it now; see Retry-After."})
_GENERATING_FAILURES = MappingProxyType(
    {
        "429": "A quota of the key or the model is used up; see Retry-After and x-ratelimit-*.",
        "502": "The generation broke off.",
        "504": "The time for the request is over.",
    }
)
_STORING_FAILURES = MappingProxyType({"507": "It could not be written."})
_HINTS: tuple[tuple[str, JsonObject, str], ...] = (
    ("x-engine", {"type": "string"}, "The only group that may answer."),
    ("x-task", {"type": "string", "enum": [str(task) for task in Task]}, "What the request counts as in routing."),
    ("x-session-id", {"type": "string"}, "Turns of one conversation are sent to one replica."),
    ("x-timeout-s", {"type": "number", "exclusiveMinimum": 0}, "Seconds that the answer may take."),
)
_PLACING_HINTS = frozenset({"x-engine", "x-timeout-s"})
"""The headers that embeddings have too."""
_SECURITY: Mapping[str, JsonObject] = MappingProxyType(
    {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of `phi-serve keys create`, where keys are asked for.",
        },
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
    }
)
_PLACEHOLDER = re.compile(r"\{(\w+)(?::\w+)?\}")


class _WireSchema(GenerateJsonSchema):
    """Writes schemas without the parts that mislead generators of clients.

    A title becomes a class name, and two dialects would share it. A field with a default of null would seem to be always present.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", ...) is None:
            del described["default"]
        return described


@dataclass(frozen=True, slots=True)
class OperatorPath:
    """An endpoint of operators."""

    method: str
    path: str
    summary: str
    media_type: str = "application/json"
    """Of the answer."""
    body: type[WireBody] | type[bytes] | None = None
    """Type of the request's body: a `WireBody`, or `bytes` for the text of a file; None: no body."""


def describe(dialects: Iterable[Dialect], status: Mapping[str, str], operations: Iterable[OperatorPath] = ()) -> JsonObject:
    """Return the document; `status` maps the paths of the status endpoints to the media types of their answers.

    `operations` are operators' endpoints. A path of several dialects is described once, with the answers of all of them.
    """
    dialects = tuple(dialects)
    paths: dict[str, JsonObject] = {}
    schemas: JsonObject = {}
    for dialect in dialects:
        prefix = dialect.name.capitalize()
        bodies, described = _describe_bodies(dialect, prefix)
        schemas |= described | {f"{prefix}Error": dialect.error_schema}
        for endpoint in dialect.endpoints:
            path = _PLACEHOLDER.sub(r"{\1}", endpoint.path)
            verbs = paths.setdefault(path, {})
            method = _find_method(endpoint).lower()
            operation = _describe_operation(endpoint, dialect, f"{prefix}Error", bodies)
            if method in verbs:
                _add_answers(verbs[method]["responses"], operation["responses"])
            else:
                verbs[method] = operation
    for each in operations:
        error = f"{find_dialect(each.path, dialects).name.capitalize()}Error"
        paths.setdefault(each.path, {})[each.method.lower()] = _describe_operator_path(each, error)
        if each.body is not None and issubclass(each.body, WireBody):
            name = f"Operations{each.body.__name__}"
            schemas[name] = each.body.model_json_schema(schema_generator=_WireSchema) | {"title": name}
    for path, media_type in status.items():
        paths.setdefault(path, {})["get"] = _describe_status(
            path, media_type, f"{find_dialect(path, dialects).name.capitalize()}Error"
        )
    summary = "One endpoint in front of GPU and CPU engines"
    return {
        "openapi": "3.1.0",
        "info": {"title": "phi-serve", "summary": summary, "version": version("phi-serve"), "license": {"name": "Apache-2.0"}},
        "security": [{}, *({name: []} for name in _SECURITY)],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": dict(_SECURITY)},
    }


def _add_answers(described: dict[str, JsonObject], more: dict[str, JsonObject]) -> None:
    """Add the answers of another dialect at the same path: any of the schemas where both have one of a media type."""
    for status, answer in more.items():
        content = described.setdefault(status, answer).setdefault("content", {})
        for media_type, shown in answer.get("content", {}).items():
            known = content.setdefault(media_type, shown)
            if known["schema"] != shown["schema"]:
                content[media_type] = {"schema": {"anyOf": [*known["schema"].get("anyOf", [known["schema"]]), shown["schema"]]}}


def _find_method(endpoint: Endpoint) -> str:
    return "POST" if isinstance(endpoint, Generate | Embed) else endpoint.method


def _find_body(endpoint: Endpoint) -> type[WireBody] | None:
    if isinstance(endpoint, Generate | Embed):
        body: type[WireBody] = endpoint.codec.body
        return body
    return endpoint.body if endpoint.body is not None and issubclass(endpoint.body, WireBody) else None


def _describe_bodies(dialect: Dialect, prefix: str) -> tuple[dict[type[WireBody], JsonObject], JsonObject]:
    """Return a reference per body, and the referenced schemas by names that begin with the dialect's name."""
    types = dict.fromkeys(body for endpoint in dialect.endpoints if (body := _find_body(endpoint)) is not None)
    template = f"#/components/schemas/{prefix}{{model}}"
    references, definitions = models_json_schema(
        [(body, "validation") for body in types], ref_template=template, schema_generator=_WireSchema
    )
    named = {f"{prefix}{name}": schema | {"title": f"{prefix}{name}"} for name, schema in definitions.get("$defs", {}).items()}
    return {body: references[body, "validation"] for body in types}, named


def _describe_operation(
    endpoint: Endpoint, dialect: Dialect, error: str, bodies: Mapping[type[WireBody], JsonObject]
) -> JsonObject:
    method, has_body = _find_method(endpoint), not isinstance(endpoint, Query) or endpoint.body is not None
    failures = _REFUSALS | _FAILURES
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _PLACEHOLDER.findall(endpoint.path)
    ]
    if isinstance(endpoint, Generate | Embed):
        failures = failures | _GENERATING_FAILURES
        hints = [hint for hint in _HINTS if isinstance(endpoint, Generate) or hint[0] in _PLACING_HINTS]
        parameters += [{"name": name, "in": "header", "schema": schema, "description": why} for name, schema, why in hints]
    if isinstance(endpoint, Query):
        parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in endpoint.query]
    if isinstance(endpoint, Query) and endpoint.writes:
        failures = failures | _STORING_FAILURES
    operation: JsonObject = {"operationId": _name_operation(method, endpoint.path), "tags": [dialect.name]}
    if parameters:
        operation["parameters"] = parameters
    if has_body and method != "HEAD":
        failures = failures | _BODY_REFUSALS
        body = _find_body(endpoint)
        media_type, schema = ("application/octet-stream", _BYTES) if body is None else ("application/json", bodies[body])
        operation["requestBody"] = {"required": True, "content": {media_type: {"schema": schema}}}
    operation["responses"] = _describe_success(endpoint, method) | {
        status: {"description": failures[status]} | ({} if method == "HEAD" else _describe_error(f"#/components/schemas/{error}"))
        for status in sorted(failures)
    }
    return operation


_BYTES: JsonObject = {"type": "string", "format": "binary"}


def _describe_error(reference: str) -> JsonObject:
    return {"content": {"application/json": {"schema": {"$ref": reference}}}}


def _describe_success(endpoint: Endpoint, method: str) -> JsonObject:
    status = endpoint.success if isinstance(endpoint, Query) else 200
    media_types = ["application/json"]
    if isinstance(endpoint, Generate) and endpoint.streams:
        media_types.append(endpoint.streams)
    elif isinstance(endpoint, Query):
        media_types = list(endpoint.media_types)
    content = {each: {"schema": _SCHEMAS.get(each, {"type": "string"})} for each in media_types}
    return {str(status): {"description": "The answer."} | ({} if method == "HEAD" else {"content": content})}


def _name_operation(method: str, path: str) -> str:
    """Return an operation's id, e.g. post_v1_chat_completions."""
    return (
        "_".join((method.lower(), *re.findall(r"\w+", _PLACEHOLDER.sub(r"\1", path)))) if path != "/" else f"{method.lower()}_root"
    )


def _describe_operator_path(endpoint: OperatorPath, error: str) -> JsonObject:
    method, path = endpoint.method, endpoint.path
    refusals = {"400", "401", "403", "503"} | ({"404"} if "{" in path else set()) | ({"413"} if method == "POST" else set())
    answer = {endpoint.media_type: {"schema": _SCHEMAS.get(endpoint.media_type, _BYTES)}}
    token = {"name": "x-operator-token", "in": "header", "schema": {"type": "string"}, "description": "Where there are no keys."}
    operation: JsonObject = {
        "operationId": _name_operation(method, path),
        "summary": endpoint.summary,
        "tags": ["operations"],
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _PLACEHOLDER.findall(path)),
            token,
        ],
        "responses": {"200": {"description": "The answer.", "content": answer}}
        | {
            status: {"description": (_REFUSALS | _FAILURES | _BODY_REFUSALS)[status]}
            | _describe_error(f"#/components/schemas/{error}")
            for status in sorted(refusals)
        },
    }
    if endpoint.body is bytes:
        operation["requestBody"] = {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}
    elif endpoint.body is not None:
        schema = {"$ref": f"#/components/schemas/Operations{endpoint.body.__name__}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _describe_status(path: str, media_type: str, error: str) -> JsonObject:
    content: dict[str, Any] = {media_type: {"schema": _OPEN_OBJECT if media_type == "application/json" else {"type": "string"}}}
    answers: JsonObject = {"200": {"description": "The answer.", "content": content}}
    operation: JsonObject = {"operationId": _name_operation("GET", path), "tags": ["health"], "responses": answers}
    if path == "/health":
        answers["503"] = {"description": "Not every group is ready.", "content": content}
    elif path == "/v1/usage":
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string"}, "description": why} for name, why in _USAGE_QUERY
        ]
    refusals = {"/health": (), "/livez": (), "/v1/usage": ("400", "401", "403", "503")}.get(path, ("401", "403"))
    for status in refusals:
        answers[status] = {"description": (_REFUSALS | _FAILURES)[status]} | _describe_error(f"#/components/schemas/{error}")
    return operation
