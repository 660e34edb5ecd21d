"""The paths of the API, for its description: every method, parameter, body and answer."""

from collections.abc import Iterable
from typing import Any

from admin.answers import (
    BAD_LIST,
    CONFIGURATION_ERRORS,
    DELETED,
    TRAFFIC,
    TRAFFIC_NOW,
    Schema,
    answers,
    as_json,
    envelope,
    listing,
    ref,
    shape,
    write_answers,
    written,
)
from admin.foreign import COLLECTIONS
from admin.plugins import SUBSYSTEMS
from admin.schemas import SINGULAR
from sniproxy.objects import KINDS, Kind, Ssl
from sniproxy.objects.fields import ID_PATTERN
from sniproxy.objects.plugins import MODELS

Operation = dict[str, Any]
Paths = dict[str, dict[str, Operation]]

ANY_OBJECT: Schema = {"type": "object"}
ANYTHING: Schema = {}
BODY_ERRORS = (400, 408, 413)


def _path(name: str, schema: Schema, meaning: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": meaning}


def _query(name: str, schema: Schema, meaning: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": meaning}


ID = _path(
    "id",
    {"type": "string", "minLength": 1, "maxLength": 64, "pattern": ID_PATTERN},
    "The object's id.",
)
MEMBER = _path(
    "path",
    {"type": "string", "minLength": 1},
    "A member, such as `nodes`, or one further down, such as `upstream/nodes`.",
)
FLAG: Schema = {"type": "boolean"}
WORDS: Schema = {"type": "string", "minLength": 1}
LISTED = (
    _query("page", {"type": "integer", "minimum": 1}, "From 1; together with page_size."),
    _query(
        "page_size",
        {"type": "integer", "minimum": 10, "maximum": 500},
        "Objects on a page; together with page.",
    ),
    _query("name", WORDS, "A regular expression that is searched in the object's name."),
    _query("label", WORDS, "A key that the object's labels have."),
    _query("filter", WORDS, "URL-encoded, such as `service_id=1&upstream_id=2`; both must hold."),
    _query("uri", WORDS, "A regular expression for `uri`, which only objects for HTTP have."),
)
DETAIL = _query(
    "detail", FLAG, "Tells what the certificates say, and which stream routes use them."
)
WAITING = (
    _query("wait", {"const": "all"}, "Answer once all data planes have the write in force."),
    _query(
        "timeout",
        {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m)?$"},
        "How long wait=all may take, such as `5s`.",
    ),
)
TTL = _query(
    "ttl", {"type": "integer", "minimum": 1, "maximum": 10**9}, "Seconds that the object lives."
)
FORCE = _query("force", FLAG, "Delete although other objects refer to it.")
TIME: Schema = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}(:00(:00)?)?Z?)?$",
}
SUBSYSTEM = _query("subsystem", {"enum": list(SUBSYSTEMS)}, "`stream` unless it is named.")
ABOUT_PLUGIN = shape(
    {"priority": {"type": "integer"}, "version": {"type": "number"}, "schema": ANY_OBJECT}
)
PLUGIN = _path("name", {"type": "string", "enum": list(MODELS)}, "The plugin's name.")


def _operation(
    tag: str,
    name: str,
    summary: str,
    responses: dict[str, Schema],
    parameters: Iterable[Schema] = (),
    body: dict[str, Schema] | None = None,
) -> Operation:
    """`name` is its id in the document; `body` the schemas by media type."""
    operation: Operation = {"tags": [tag], "operationId": name, "summary": summary}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        content = {media: {"schema": schema} for media, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation | {"responses": responses}


def _json_body(schema: Schema) -> dict[str, Schema]:
    return {"application/json": schema}


def all_paths() -> Paths:
    """Every path under /apisix/admin."""
    paths: Paths = {}
    for kind in KINDS.values():
        paths |= _kind_paths(kind)
    paths |= _node_paths() | _statistics_paths() | _schema_paths() | _plugin_paths() | _own_paths()
    for collection in COLLECTIONS:
        paths |= _foreign_paths(collection)
    return paths


def _kind_paths(kind: Kind) -> Paths:
    tag, title = kind.collection, kind.title
    name = tag.removesuffix("s")
    return {
        f"/{tag}": {"get": _list(kind), "post": _create(kind), "put": _put(kind, by_path=False)},
        f"/{tag}/{{id}}": {
            "get": _operation(
                tag, f"get_{name}", f"One {title}.",
                answers({200: as_json(envelope(kind), "Found.")}, 404, 503),
                [ID, *_details(kind)],
            ),
            "put": _put(kind, by_path=True),
            "patch": _patch(
                kind, f"patch_{name}", [ID], ANY_OBJECT,
                "Merges into an object: `null` removes, lists and `{}` replace.",
            ),
            "delete": _operation(
                tag, f"delete_{name}", f"Deletes a {title} that nothing refers to.",
                answers(write_answers(DELETED, 200), 400, 404, 503), [ID, FORCE, *WAITING],
            ),
        },
        f"/{tag}/{{id}}/{{path}}": {
            "patch": _patch(
                kind, f"patch_{name}_member", [ID, MEMBER], ANYTHING,
                "Replaces one member; `null` removes it.",
            ),
        },
    }  # fmt: skip


def _list(kind: Kind) -> Operation:
    entry = envelope(kind)
    return _operation(
        kind.collection,
        f"list_{kind.collection}",
        "All of them, in the order of their keys; paged, in the order of their creation.",
        answers({200: as_json(listing(entry), "Found."), 400: BAD_LIST}, 503),
        [*LISTED, *_details(kind)],
    )


def _details(kind: Kind) -> list[Schema]:
    return [DETAIL] if kind.model is Ssl else []


def _create(kind: Kind) -> Operation:
    return _operation(
        kind.collection,
        f"create_{kind.collection.removesuffix('s')}",
        f"A new {kind.title}, under an id that the API chooses.",
        answers(write_answers(written(kind), 201), *BODY_ERRORS, 503),
        [TTL, *WAITING],
        _json_body(ref(kind.model.__name__)),
    )


def _put(kind: Kind, *, by_path: bool) -> Operation:
    name = f"put_{kind.collection.removesuffix('s')}"
    body = ref(kind.model.__name__)
    return _operation(
        kind.collection,
        name if by_path else f"{name}_by_body",
        f"Creates or replaces a {kind.title}"
        + (". An `id` in the body is the same." if by_path else " under the `id` in the body."),
        answers(
            write_answers(written(kind), 200, 201), *BODY_ERRORS, *([404] if by_path else []), 503
        ),
        [*([ID] if by_path else []), TTL, *WAITING],
        _json_body(body if by_path else {"allOf": [body, {"required": ["id"]}]}),
    )


def _patch(
    kind: Kind, name: str, parameters: list[Schema], body: Schema, summary: str
) -> Operation:
    return _operation(
        kind.collection,
        name,
        summary,
        answers(write_answers(written(kind), 200), *BODY_ERRORS, 404, 503),
        [*parameters, TTL, *WAITING],
        _json_body(body),
    )


def _node_paths() -> Paths:
    record = ref("NodeRecordRead")
    return {
        "/nodes": {
            "get": _operation(
                "nodes", "list_nodes", "All live data planes, by what they say of themselves.",
                answers({200: as_json(listing(record), "Found.")}, 503),
            ),
        },
        "/nodes/{id}": {
            "get": _operation(
                "nodes", "get_node", "One live data plane.",
                answers({200: as_json(record, "Found.")}, 404, 503),
                [_path("id", WORDS, "Its id.")],
            ),
        },
    }  # fmt: skip


def _statistics_paths() -> Paths:
    csv = {"text/csv": {"schema": {"type": "string"}}}
    found = as_json(TRAFFIC, "Found; as CSV one line for each time and route.")
    found["content"] |= csv
    return {
        "/statistics": {
            "get": _operation(
                "statistics", "get_statistics",
                "Traffic by the hour or by the day, of the whole site and of each route.",
                answers({200: found}, 400, 503),
                [
                    _query("by", {"enum": ["hour", "day"]}, "`hour` unless it is named."),
                    _query("from", TIME, "The first hour or day, in UTC."),
                    _query("to", TIME, "The first one that is not told any more."),
                    _query("route", ID["schema"], "Only this route."),
                    _query("format", {"enum": ["json", "csv"]}, "Else what `Accept` asks for."),
                ],
            ),
        },
        "/statistics/now": {
            "get": _operation(
                "statistics", "get_statistics_now",
                "What comes in a second, on all live data planes.",
                answers({200: as_json(TRAFFIC_NOW, "Found.")}, 503),
            ),
        },
    }  # fmt: skip


def _schema_paths() -> Paths:
    found = {200: as_json(ANY_OBJECT, "JSON Schema, draft 2020-12.")}
    kinds = _path("name", {"type": "string", "enum": list(SINGULAR)}, "The kind, in the singular.")
    paths: Paths = {
        "/schema/{name}": {
            "get": _operation(
                "schema", "get_schema", "The schema of a kind.", answers(found, 400, 404), [kinds]
            ),
        },
        "/schema/plugins/{name}": {
            "get": _operation(
                "schema", "get_plugin_schema", "The schema of a plugin.",
                answers(found, 400, 404), [PLUGIN, SUBSYSTEM],
            ),
        },
    }  # fmt: skip
    for kind in KINDS.values():
        paths[f"/schema/validate/{kind.collection}"] = {
            "post": _operation(
                "schema", f"validate_{kind.collection.removesuffix('s')}",
                "Whether an object keeps to the schema. Certificates and references are not looked at.",
                answers({200: {"description": "It does."}}, *BODY_ERRORS),
                body=_json_body(ref(kind.model.__name__)),
            ),
        }  # fmt: skip
    return paths


def _plugin_paths() -> Paths:
    names = {"type": "array", "items": {"type": "string"}}
    every = {"type": "object", "additionalProperties": ABOUT_PLUGIN}
    whole = _query("all", {"const": "true"}, "Must be there.") | {"required": True}
    return {
        "/plugins": {
            "get": _operation(
                "plugins", "get_plugins", "All plugins with their schemas.",
                answers({200: as_json(every, "Found.")}, 400), [whole, SUBSYSTEM],
            ),
        },
        "/plugins/list": {
            "get": _operation(
                "plugins", "list_plugins", "The names of all plugins.",
                answers({200: as_json(names, "Found.")}, 400), [SUBSYSTEM],
            ),
        },
        "/plugins/{name}": {
            "get": _operation(
                "plugins", "get_plugin", "The schema of a plugin.",
                answers({200: as_json(ANY_OBJECT, "Found.")}, 400, 404), [PLUGIN, SUBSYSTEM],
            ),
        },
        "/plugins/reload": {
            "put": _operation(
                "plugins", "reload_plugins", "Does nothing: plugins are part of the gateway.",
                answers({200: as_json({"const": "done"})}),
            ),
        },
    }  # fmt: skip


def _own_paths() -> Paths:
    objects = {"type": "array", "items": shape({"id": {"type": ["string", "integer"]}})}
    whole = {"type": "object", "properties": dict.fromkeys(KINDS, objects)}
    page = {"description": "This page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    invalid = as_json(CONFIGURATION_ERRORS, "All that is wrong with it, one error per object.")
    good = {200: as_json(shape({}), "All of it would be taken."), 400: invalid}
    return {
        "/configs/validate": {
            "post": _operation(
                "configs", "validate_configuration",
                "Whether a whole configuration would be taken. Nothing is written.",
                answers(good, 408, 413), body={"application/json": whole, "application/yaml": whole},
            ),
        },
        "/openapi.json": {
            "get": _operation(
                "about", "get_openapi", "This document.", answers({200: as_json(ANY_OBJECT, "It.")})
            ),
        },
        "/docs": {
            "get": _operation("about", "get_docs", "This document to read.", answers({200: page})),
        },
    }  # fmt: skip


def _foreign_paths(collection: str) -> Paths:
    """What concerns HTTP only is told to be empty, for whoever expects an APISIX."""
    tag = "HTTP only"
    nothing = shape({"list": {"type": "array", "maxItems": 0}, "total": {"const": 0}})

    def refused(verb: str, *parameters: Schema) -> Operation:
        name = f"{verb}_{collection}"
        return _operation(tag, name, "Is always refused.", answers({}, 400), parameters)

    def missing(verb: str) -> Operation:
        return _operation(tag, f"{verb}_{collection}", "Is never there.", answers({}, 404), [ID])

    return {
        f"/{collection}": {
            "get": _operation(
                tag, f"list_{collection}", "Is always empty.",
                answers({200: as_json(nothing, "None.")}), LISTED,
            ),
            "post": refused("post"),
        },
        f"/{collection}/{{id}}": {
            "get": missing("get"),
            "put": refused("put", ID),
            "patch": refused("patch", ID),
            "delete": missing("delete"),
        },
    }  # fmt: skip
