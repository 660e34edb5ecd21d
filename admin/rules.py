"""What an object must satisfy by itself before it is written: its schema, then its certificates."""

import json
from typing import Any

from pydantic import ValidationError

from admin.body import check_plain
from sniproxy.errors import KeyringError, ObjectRefused
from sniproxy.forbidden import Forbidden
from sniproxy.keyring import Keyring
from sniproxy.objects import OLD_TIMES, InlineUpstream, Meta, Ssl, describe, read, refusal
from sniproxy.objects.describing import shown
from sniproxy.objects.pem import check_authorities, check_certificate, check_key, check_pair
from sniproxy.objects.references import is_reference
from sniproxy.objects.secrets import PRIVATE, map_secrets, without_secrets

FREE = frozenset({"metadata", "discovery_args"})  # members that hold whatever their owner likes
INVALID = refusal("")  # how most refusals of an object begin


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


def check_schema(collection: str, clear: dict[str, Any]) -> Meta:
    """The model of an object with its keys in clear; ObjectRefused with the path and the reason, and no private key."""
    if PRIVATE in json.dumps(without_secrets(collection, clear)):
        raise ObjectRefused("a private key stands where it would be stored in clear")
    try:
        return read(collection, clear)
    except ValidationError as error:
        raise ObjectRefused(describe(error)) from None


def check(collection: str, clear: dict[str, Any]) -> Meta:
    """The model of an object with its keys in clear, its certificates looked at; ObjectRefused with the path and the reason.

    What passes may be in a store, and a backup of that one can be restored.
    """
    try:
        model = check_schema(collection, clear)
        if isinstance(model, Ssl):
            _check_ssl(model)
        elif isinstance(upstream := getattr(model, "upstream", model), InlineUpstream):
            _check_tls(upstream)
    except (ObjectRefused, ValueError) as error:
        raise ObjectRefused(refusal(str(error))) from None
    return model


def check_new(collection: str, clear: dict[str, Any]) -> Meta:
    """As `check`, for who writes an object: also what would make no difference here, but an APISIX could not use it.

    As there, an upstream inside a stream route is not looked at.
    """
    model = check(collection, clear)
    upstream = clear if collection == "upstreams" else clear.get("upstream")
    if collection in ("upstreams", "services") and isinstance(upstream, dict):
        hashes = upstream.get("type") == "chash" and upstream.get("hash_on") != "consumer"
        if hashes and upstream.get("key") is None:
            raise ObjectRefused("missing key")
    return model


def check_nodes(model: Meta, forbidden: Forbidden) -> None:
    """ObjectRefused where no data plane would connect. Names may lead anywhere: the data planes look at them each time."""
    upstream = getattr(model, "upstream", model)
    for node in (upstream.nodes or ()) if isinstance(upstream, InlineUpstream) else ():
        if why := forbidden.why_named(node.host, node.port):
            where = node.host if node.port is None else f"{node.host}:{node.port}"
            raise ObjectRefused(f"{INVALID}node {where} may not be reached: {why}")


def prepare(
    collection: str,
    object_id: str,
    value: dict[str, Any],
    keyring: Keyring,
    forbidden: Forbidden | None = None,
) -> dict[str, Any]:
    """Checks an object on its own and returns the form to store, its private keys encrypted; ObjectRefused.

    A key that is encrypted already (from a dump, or in APISIX's form) is taken if the keyring opens it at this very place.
    References are stored as they are. forbidden: where nodes must not be; None where nothing is written.
    """

    def opened(text: str, place: str) -> str:
        # what looks like a reference and is none: its schema says better what is wrong
        meant = collection == "ssls" and text.startswith("$")
        return text if meant else keyring.decrypt(text, place)

    try:
        check_plain(value)
        clear = map_secrets(collection, object_id, value, opened)
    except (KeyringError, ValueError) as error:
        raise ObjectRefused(f"{INVALID}{error}") from None
    model = check_new(collection, clear)
    if forbidden is not None:
        check_nodes(model, forbidden)
    return map_secrets(collection, object_id, _without_nulls(clear), keyring.encrypt)


def _without_nulls(value: Any) -> Any:
    """A member that is null is as good as none here, and in what an APISIX reads it is of the wrong type."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        member: content if member in FREE else _without_nulls(content)
        for member, content in value.items()
        if content is not None
    }


def _check_ssl(ssl: Ssl) -> None:
    """ValueError. What a reference names may be nowhere but on the data planes: they check it."""
    for certificate, key in ssl.pairs:
        match is_reference(certificate), is_reference(key):
            case False, False:
                check_pair(certificate, key)
            case False, True:
                check_certificate(certificate)
            case True, False:
                check_key(key)
    if ssl.client is not None and not is_reference(ssl.client.ca):
        check_authorities(ssl.client.ca)


def _check_tls(upstream: InlineUpstream) -> None:
    """ValueError. Not for a pair that does not fit: an APISIX has taken it, and its objects stay good here."""
    tls = upstream.tls
    for authorities in (tls and tls.ca_certs) or ():
        check_authorities(authorities, "tls.ca_certs")
    if tls is not None and tls.client_cert is not None and tls.client_key is not None:
        check_certificate(tls.client_cert)
        check_key(tls.client_key)


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
    """APISIX's PATCH of one member: it is replaced, parents that are missing are made, `null` removes it.

    ObjectRefused where a parent is a list or a text: what it holds would be lost.
    """
    step, rest = path[0], path[1:]
    merged = dict(under)
    if rest:
        below = merged.get(step)
        if not isinstance(below, dict | None):
            raise ObjectRefused(f"invalid sub-path: {shown(step)} is no object")
        merged[step] = merge_at(below or {}, rest, value)
    elif value is None:
        merged.pop(step, None)
    else:
        merged[step] = value
    return merged
