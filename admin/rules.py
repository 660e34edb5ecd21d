"""What an object must satisfy before it is written, in this order: its schema, its certificates, what it refers to."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from admin.body import check_plain
from sniproxy.errors import KeyringError, ObjectRefused
from sniproxy.keyring import Keyring
from sniproxy.objects import KINDS, OLD_TIMES, Ssl, describe, read
from sniproxy.objects.pem import check_authorities, check_pair
from sniproxy.objects.secrets import map_secrets, without_secrets
from sniproxy.store import Store

PRIVATE = "PRIVATE KEY-----"  # in the first line of every private key in PEM

Find = Callable[[str, str], Awaitable[dict[str, Any] | None]]  # (collection, id) -> object


def reveal(
    collection: str, object_id: str, stored: dict[str, Any], keyring: Keyring
) -> dict[str, Any]:
    """A stored object with its private keys in clear, as it may be written again. KeyringError if one does not open."""
    clear = map_secrets(collection, object_id, stored, keyring.decrypt)
    for member in OLD_TIMES if collection == "ssls" else ():
        clear.pop(member, None)
    return clear


def refuse_times(value: dict[str, Any]) -> None:
    """Times are ours to set: ObjectRefused if an object that is created or replaced names them."""
    for where in (value, value.get("upstream"), value.get("plugins")):
        for member in ("create_time", "update_time"):
            if isinstance(where, dict) and member in where:
                raise ObjectRefused(f"the property is forbidden:  {member}")


def is_id(given: Any, object_id: str) -> bool:
    """Whether a member that names an object, as text or as a number, names this one."""
    return given is not None and str(given) == object_id


def check(collection: str, clear: dict[str, Any]) -> None:
    """Schema and certificates of an object with its keys in clear; ObjectRefused with the path and the reason."""
    if PRIVATE in json.dumps(without_secrets(collection, clear)):
        raise ObjectRefused(
            "invalid configuration: a private key stands where it would be stored in clear"
        )
    try:
        model = read(collection, clear)
    except ValidationError as error:
        raise ObjectRefused(f"invalid configuration: {describe(error)}") from None
    if isinstance(model, Ssl):
        _check_ssl(model)


def prepare(
    collection: str, object_id: str, value: dict[str, Any], keyring: Keyring
) -> dict[str, Any]:
    """Checks an object on its own and returns the form to store, its private keys encrypted; ObjectRefused.

    A key that is encrypted already (from a dump, or in APISIX's form) is taken if the keyring opens it at this very place.
    """
    try:
        check_plain(value)
        clear = map_secrets(collection, object_id, value, keyring.decrypt)
    except (KeyringError, ValueError) as error:
        raise ObjectRefused(f"invalid configuration: {error}") from None
    check(collection, clear)
    return map_secrets(collection, object_id, clear, keyring.encrypt)


def _check_ssl(ssl: Ssl) -> None:
    try:
        for certificate, key in ssl.pairs:
            check_pair(certificate, key)
        if ssl.client is not None:
            check_authorities(ssl.client.ca)
    except ValueError as error:
        raise ObjectRefused(f"invalid configuration: {error}") from None


async def check_references(value: dict[str, Any], find: Find) -> None:
    """ObjectRefused unless everything that the object refers to exists."""
    for member, collection, title in (
        ("upstream_id", "upstreams", "upstream"),
        ("service_id", "services", "service"),
    ):
        if value.get(member) is not None:
            await _existing(find, collection, title, value[member])
    for upstream in (value, value.get("upstream")):
        tls = upstream.get("tls") if isinstance(upstream, dict) else None
        if isinstance(tls, dict) and tls.get("client_cert_id") is not None:
            found = await _existing(find, "ssls", "ssl", tls["client_cert_id"])
            if found.get("type") != "client":
                raise ObjectRefused(
                    f"failed to fetch ssl info by ssl id [{tls['client_cert_id']}], wrong ssl type"
                )


async def _existing(find: Find, collection: str, title: str, object_id: Any) -> dict[str, Any]:
    found = await find(collection, str(object_id))
    if found is None:
        raise ObjectRefused(
            f"failed to fetch {title} info by {title} id [{object_id}], response code: 404"
        )
    return found


# collection -> where references to it stand: (collection, path of the member)
_REFERRERS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "upstreams": (("services", ("upstream_id",)), ("stream_routes", ("upstream_id",))),
    "services": (("stream_routes", ("service_id",)),),
    "ssls": (
        ("upstreams", ("tls", "client_cert_id")),
        ("services", ("upstream", "tls", "client_cert_id")),
        ("stream_routes", ("upstream", "tls", "client_cert_id")),
    ),
    "stream_routes": (),
}


async def check_unused(collection: str, object_id: str, store: Store, prefix: str) -> None:
    """ObjectRefused while another object refers to this one. (APISIX forgets upstreams of stream routes here.)"""
    for referrer, path in _REFERRERS[collection]:
        for entry in (await store.list(f"{prefix}/{referrer}/")).entries:
            value = decode(entry.value)
            if is_id(_member(value, path), object_id):
                user = entry.key.rpartition("/")[2]
                raise ObjectRefused(
                    f"can not delete this {KINDS[collection].title}, "
                    f"{KINDS[referrer].title} [{user}] is still using it now"
                )


def _member(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def decode(raw: bytes) -> dict[str, Any] | None:
    """A stored value as an object; None when it is something else, such as APISIX's marker of an empty directory."""
    try:
        value = json.loads(raw)
        check_plain(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def encode(value: dict[str, Any]) -> bytes:
    """The bytes to store."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def merge(under: Any, over: Any) -> Any:
    """APISIX's PATCH: objects are merged, `null` removes, anything else (and an empty object) replaces."""
    if not isinstance(under, dict) or not isinstance(over, dict) or not over:
        return over
    merged = dict(under)
    for member, value in over.items():
        if value is None:
            merged.pop(member, None)
        else:
            merged[member] = merge(merged.get(member), value)
    return merged


def merge_at(under: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """APISIX's PATCH of one member: it is replaced, parents that are missing are made, `null` removes it."""
    step, rest = path[0], path[1:]
    merged = dict(under)
    if rest:
        below = merged.get(step)
        merged[step] = merge_at(below if isinstance(below, dict) else {}, rest, value)
    elif value is None:
        merged.pop(step, None)
    else:
        merged[step] = value
    return merged
