"""Who asks: the key of `?api_key=`, else of the header X-API-KEY, else of the cookie x_api_key, as in APISIX.

The first that is there counts, even if it is wrong. Keys are compared as digests in constant time, against every key, so
that neither the length nor the number of right characters shows in the time an answer takes.
"""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.requests import Request

from sniproxy.settings import AdminKey

READING = frozenset({"GET", "HEAD"})


class Unauthorized(Exception):
    """401, with APISIX's description."""


class Authenticator:
    """Knows the keys of the settings."""

    def __init__(self, keys: Iterable[AdminKey]) -> None:
        self._keys = [(_digest(key.key), key) for key in keys]

    def identify(self, request: Request) -> AdminKey:
        """The key's entry in the settings; Unauthorized when the key is absent, wrong, or may not do this."""
        given = (
            request.query_params.get("api_key")
            or request.headers.get("x-api-key")
            or request.cookies.get("x_api_key")
        )
        if not given:
            raise Unauthorized("missing apikey")
        digest = _digest(given)
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        if found is None:
            raise Unauthorized("wrong apikey")
        if found.role == "viewer" and request.method not in READING:
            raise Unauthorized("invalid method for role viewer")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
