"""The section of the schemas: JSON Schema of what may be written, and objects tried against it without being written."""

from typing import Any

from admin.asking import Answer, Ask, NotOffered
from admin.foreign import COLLECTIONS, not_ours
from admin.plugins import plugin_names, plugin_schema, unknown_plugin
from admin.rules import check_schema
from sniproxy.errors import ObjectRefused
from sniproxy.objects import KINDS

SINGULAR = {collection.removesuffix("s"): kind for collection, kind in KINDS.items()}


class SchemaSection:
    """/schema. Implements `admin.asking.Section`."""

    async def __call__(self, ask: Ask) -> Answer:
        match ask.method, ask.object_id or "", ask.path:
            case "GET", "plugins", name:
                return Answer(200, _plugin(ask, name))
            case "GET", name, "":
                return Answer(200, kind_schema(name))
            case "POST", "validate", collection:
                return await _validate(ask, collection)
        raise NotOffered


def kind_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a kind by its singular, such as "stream_route". ObjectRefused."""
    kind = SINGULAR.get(name)
    if kind is None:
        named = name or "none is named"
        raise ObjectRefused(
            f"not found schema: {named}; known are {', '.join(SINGULAR)}, plugins/*"
        )
    return kind.model.model_json_schema()


def _plugin(ask: Ask, name: str) -> dict[str, Any]:
    if name not in plugin_names(ask):
        raise ObjectRefused(f"not found schema: {unknown_plugin(ask, name)}")
    return plugin_schema(name)


async def _validate(ask: Ask, collection: str) -> Answer:
    if collection in COLLECTIONS:
        raise ObjectRefused(not_ours(collection))
    if collection not in KINDS:
        raise ObjectRefused(f"unknown collection [{collection}]; known are {', '.join(KINDS)}")
    value = await ask.json()
    if not isinstance(value, dict):
        raise ObjectRefused("invalid request body: expected a JSON object")
    check_schema(collection, value)
    return Answer(200, b"", media="text/plain")
