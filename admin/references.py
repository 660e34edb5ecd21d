"""What objects refer to: it must exist when they are written, and stays until they are gone."""

from collections.abc import Awaitable, Callable
from typing import Any

from sniproxy.errors import ObjectRefused
from sniproxy.objects import KINDS

Find = Callable[[str, str], Awaitable[dict[str, Any] | None]]  # (collection, id) -> object
Reference = tuple[str, str]  # collection and id of what is referred to

# collection -> those whose objects may refer to one of it, in the order in which a refusal names them
REFERRERS: dict[str, tuple[str, ...]] = {
    "upstreams": ("services", "stream_routes"),
    "services": ("stream_routes",),
    "ssls": ("upstreams", "services", "stream_routes"),
    "stream_routes": (),
}


def references(value: dict[str, Any]) -> list[Reference]:
    """Everything that an object refers to, in the order in which it is checked."""
    found = [
        (collection, str(value[member]))
        for member, collection in (("upstream_id", "upstreams"), ("service_id", "services"))
        if value.get(member) is not None
    ]
    for upstream in (value, value.get("upstream")):
        tls = upstream.get("tls") if isinstance(upstream, dict) else None
        if isinstance(tls, dict) and tls.get("client_cert_id") is not None:
            found.append(("ssls", str(tls["client_cert_id"])))
    return found


async def check_references(value: dict[str, Any], find: Find) -> None:
    """ObjectRefused unless everything that the object refers to exists."""
    for collection, object_id in references(value):
        found = await find(collection, object_id)
        title = KINDS[collection].title
        if found is None:
            raise ObjectRefused(
                f"failed to fetch {title} info by {title} id [{object_id}], response code: 404"
            )
        if collection == "ssls" and found.get("type") != "client":
            raise ObjectRefused(f"failed to fetch ssl info by ssl id [{object_id}], wrong ssl type")


def still_used(collection: str, referrer: str, user: str) -> ObjectRefused:
    """Why an object of `collection` cannot be deleted: `user` of `referrer` refers to it."""
    return ObjectRefused(
        f"can not delete this {KINDS[collection].title}, "
        f"{KINDS[referrer].title} [{user}] is still using it now"
    )


def still_client(collection: str, referrer: str, user: str) -> ObjectRefused:
    """Why an ssl object cannot become a server's: `user` of `referrer` refers to it. (APISIX leaves it the wrong type.)"""
    return ObjectRefused(
        f"can not change the type of this {KINDS[collection].title}, "
        f"{KINDS[referrer].title} [{user}] is still using it as client certificate"
    )
