"""Where private keys stand inside objects, so that whoever encrypts, decrypts or hides them cannot forget one.

A reference in the place of a key is none.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from sniproxy.objects.references import is_reference


def map_secrets(
    collection: str, object_id: str, value: dict[str, Any], change: Callable[[str, str], str]
) -> dict[str, Any]:
    """A copy in which every private key is `change(text, place)`; place is like "ssls/1/key" and unique in a store."""
    result = copy.deepcopy(value)
    for holder, member, path in _secrets(collection, result):
        holder[member] = change(holder[member], f"{collection}/{object_id}/{path}")
    return result


def without_secrets(collection: str, value: dict[str, Any]) -> dict[str, Any]:
    """A copy without any private key, as GET gives it."""
    return drop_secrets(collection, copy.deepcopy(value))


def drop_secrets(collection: str, value: dict[str, Any]) -> dict[str, Any]:
    """The same object, every private key taken out of it."""
    for holder, member, _ in list(_secrets(collection, value)):
        if isinstance(holder, dict):
            holder.pop(member)
    if collection == "ssls":
        value.pop("keys", None)
        value.pop("key", None)
    return value


def _secrets(collection: str, value: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    if collection == "ssls":
        if _is_key(value.get("key")):
            yield value, "key", "key"
        keys = value.get("keys")
        for index, key in enumerate(keys if isinstance(keys, list) else ()):
            if _is_key(key):
                yield keys, index, f"keys/{index}"
    elif collection == "upstreams":
        yield from _client_key(value, "")
    else:
        upstream = value.get("upstream")
        if isinstance(upstream, dict):
            yield from _client_key(upstream, "upstream/")


def _is_key(text: Any) -> bool:
    return isinstance(text, str) and not is_reference(text)


def _client_key(upstream: dict[str, Any], path: str) -> Iterator[tuple[Any, Any, str]]:
    tls = upstream.get("tls")
    if isinstance(tls, dict) and isinstance(tls.get("client_key"), str):
        yield tls, "client_key", f"{path}tls/client_key"
