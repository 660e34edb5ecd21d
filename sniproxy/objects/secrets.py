"""Where private keys stand inside objects, so that whoever encrypts, decrypts or hides them cannot forget one.

A reference in the place of a key is none.
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from sniproxy.objects.references import is_reference

PRIVATE = "PRIVATE KEY-----"  # in the first line of every private key in PEM
_CLEAR_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----\s*|\Z)",
    re.DOTALL,
)


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


def without_clear_keys(value: Any) -> Any:
    """A copy without any private key in PEM, in whatever text it stands: an APISIX takes one behind a certificate, say.

    Of a text the rest stays.
    """
    if isinstance(value, str):
        rest = _CLEAR_KEY.sub("", value) if PRIVATE in value else value
        return "" if PRIVATE in rest else rest
    if isinstance(value, list):
        return [without_clear_keys(one) for one in value]
    if isinstance(value, dict):
        kept = ((name, one) for name, one in value.items() if PRIVATE not in name)
        return {name: without_clear_keys(one) for name, one in kept}
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
