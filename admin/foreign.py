"""APISIX's HTTP collections, of which there is nothing here: empty lists for the tools that read them, and no writes."""

from admin.asking import Answer, Ask, NotOffered
from admin.resources import NotFound
from sniproxy.errors import ObjectRefused

COLLECTIONS = (
    "routes",
    "consumers",
    "consumer_groups",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "protos",
    "secrets",
)


async def foreign(ask: Ask) -> Answer:
    """Implements `admin.asking.Section` for each of them."""
    match ask.method:
        case "GET" if ask.object_id is None:
            return Answer(200, {"list": [], "total": 0})
        case "GET" | "DELETE" if ask.object_id is not None:
            raise NotFound
        case "PUT" | "POST" | "PATCH" | "DELETE":
            raise ObjectRefused(not_ours(ask.section))
    raise NotOffered


def not_ours(collection: str) -> str:
    """Why nothing of a collection is taken."""
    return (
        f"{collection} belong to APISIX's HTTP side, which this gateway has not: it serves ssls, "
        "stream_routes, upstreams and services"
    )
