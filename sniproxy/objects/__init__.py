"""The objects that operators write: APISIX's names, fields and limits. Imports nothing of ours.

`KINDS` is the one list of collections; `read` turns JSON into a model or raises pydantic's ValidationError, which
`describe` puts into one line with the path of the member.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sniproxy.objects.fields import Meta
from sniproxy.objects.service import Service
from sniproxy.objects.ssl import Ssl
from sniproxy.objects.stream_route import StreamRoute
from sniproxy.objects.upstream import InlineUpstream, Node, Upstream

__all__ = [
    "KINDS",
    "InlineUpstream",
    "Kind",
    "Meta",
    "Node",
    "Service",
    "Ssl",
    "StreamRoute",
    "Upstream",
    "describe",
    "read",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One collection: its name in paths and keys, its name in messages, its model."""

    collection: str
    title: str
    model: type[Meta]


# In the order in which they can be written: what is referred to comes first.
KINDS: dict[str, Kind] = {
    kind.collection: kind
    for kind in (
        Kind("ssls", "ssl", Ssl),
        Kind("upstreams", "upstream", Upstream),
        Kind("services", "service", Service),
        Kind("stream_routes", "stream route", StreamRoute),
    )
}


def read(collection: str, value: dict[str, Any]) -> Meta:
    """The model of a JSON object; ValidationError when it breaks the schema, KeyError for an unknown collection."""
    return KINDS[collection].model.model_validate(value)


def describe(error: ValidationError) -> str:
    """The first violation in one line, nested from the outside in, e.g.

    `property "upstream" validation failed: property "nodes" validation failed: ...`
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = list(first["loc"])
    if first["type"] == "missing":
        text = f'property "{path.pop()}" is required'
    elif first["type"] == "extra_forbidden":
        text = f"additional properties forbidden, found {path.pop()}"
    else:
        text = first["msg"].removeprefix("Value error, ")
    for step in reversed(path):
        text = _within(step, text)
    return text


def _within(step: int | str, text: str) -> str:
    if isinstance(step, int):
        return f"failed to validate item {step + 1}: {text}"
    if step in {"constrained-str", "constrained-int"}:
        return text  # pydantic's names for the arms of Id, not members
    return f'property "{step}" validation failed: {text}'
