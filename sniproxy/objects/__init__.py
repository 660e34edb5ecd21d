"""The objects that operators write: APISIX's names, fields and limits. Imports nothing of ours.

`KINDS` is the one list of collections; `read` turns JSON into a model or raises pydantic's ValidationError, which
`describe` puts into one line with the path of the member; `refusal` makes an answer of it.
"""

from dataclasses import dataclass
from typing import Any

from sniproxy.objects.describing import describe, refusal
from sniproxy.objects.fields import Meta
from sniproxy.objects.plugins import IpRestriction, LimitConn, Prometheus, StreamPlugin, read_plugin
from sniproxy.objects.service import Service
from sniproxy.objects.ssl import OLD_TIMES, Ssl
from sniproxy.objects.stream_route import StreamRoute
from sniproxy.objects.upstream import InlineUpstream, Node, Upstream

__all__ = [
    "KINDS",
    "OLD_TIMES",
    "InlineUpstream",
    "IpRestriction",
    "Kind",
    "LimitConn",
    "Meta",
    "Node",
    "Prometheus",
    "Service",
    "Ssl",
    "StreamPlugin",
    "StreamRoute",
    "Upstream",
    "describe",
    "read",
    "read_plugin",
    "refusal",
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
