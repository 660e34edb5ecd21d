"""The API's own description: OpenAPI 3.1, made from the models that it checks with, and the page that shows it."""

from functools import cached_property
from typing import Any

from pydantic.json_schema import models_json_schema

from admin.answers import HEADERS, error_responses
from admin.asking import Answer, Ask, NotOffered
from admin.operations import all_paths
from admin.page import render
from sniproxy.objects import KINDS
from sniproxy.objects.node_record import NodeRecord
from sniproxy.objects.plugins import MODELS
from sniproxy.settings import Settings

# Model -> members that hold private keys. They can be written, and are never read.
PRIVATE_MEMBERS = {"Ssl": ("key", "keys"), "Tls": ("client_key",)}
TIMES = ("create_time", "update_time")  # ours to set: who writes them is refused
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


class Description:
    """The document and its page, each made when it is asked for first."""

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = settings
        self._version = version

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(self._settings, self._version)

    @cached_property
    def _page(self) -> str:
        return render(self._document)

    async def openapi(self, ask: Ask) -> Answer:
        """GET /openapi.json. Implements `admin.asking.Section`."""
        _only_read(ask)
        return Answer(200, self._document)

    async def docs(self, ask: Ask) -> Answer:
        """GET /docs. Implements `admin.asking.Section`."""
        _only_read(ask)
        return Answer(200, self._page, media="text/html", headers=PAGE_HEADERS)


def _only_read(ask: Ask) -> None:
    if ask.method != "GET" or ask.object_id is not None:
        raise NotOffered


def document(settings: Settings, version: str) -> dict[str, Any]:
    """The whole API as an OpenAPI 3.1 document. `version` is ours."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sniproxy Admin API",
            "version": version,
            "description": _about(settings),
        },
        "servers": [{"url": "/apisix/admin"}],
        "security": [{"header": []}, {"query": []}, {"cookie": []}],
        "paths": all_paths(),
        "components": {
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": "X-API-KEY"},
                "query": {"type": "apiKey", "in": "query", "name": "api_key"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "x_api_key"},
            },
            "headers": HEADERS,
            "responses": error_responses(),
            "schemas": _written() | _read(),
        },
    }


def _about(settings: Settings) -> str:
    admin = settings.admin
    return (
        "Paths, shapes and texts are those of Apache APISIX 3.18; they answer under /admin too. "
        "A body is JSON whatever its Content-Type says. Of the key in the query, the header and "
        "the cookie the first that is there counts; one with the role viewer only reads. "
        "Private keys are stored encrypted and never read back. Objects that another program "
        f"wrote into the store are given as they stand there, under {settings.where.prefix}/. "
        f"Limits: {admin.max_body} bytes of a body, {admin.body_timeout:g} s to send it, "
        f"{admin.store_timeout:g} s for the store, {admin.max_wait:g} s for wait=all."
    )


def _schemas(suffix: str) -> dict[str, dict[str, Any]]:
    """The models by name and suffix, and all that they are made of. Each call makes new ones."""
    models = [kind.model for kind in KINDS.values()] + [NodeRecord, *MODELS.values()]
    _, schemas = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=f"#/components/schemas/{{model}}{suffix}",
    )
    found: dict[str, dict[str, Any]] = schemas["$defs"]
    return found


def _written() -> dict[str, Any]:
    """What may be written."""
    schemas = _schemas("")
    for name in ("InlineUpstream", *(kind.model.__name__ for kind in KINDS.values())):
        _drop(schemas[name], TIMES)
    return schemas


def _read() -> dict[str, Any]:
    """What is read: without private keys, and open to members that a newer version may have written."""
    schemas = _schemas("Read")
    for name, schema in schemas.items():
        _drop(schema, PRIVATE_MEMBERS.get(name, ()))
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
    return {f"{name}Read": schema for name, schema in schemas.items()}


def _drop(schema: dict[str, Any], members: tuple[str, ...]) -> None:
    for member in members:
        del schema["properties"][member]
        if member in schema.get("required", ()):
            schema["required"].remove(member)
