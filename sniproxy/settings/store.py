"""Where objects are kept, how to speak to it, and the keys that private keys are encrypted with."""

import base64
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sniproxy.settings.fields import SECOND, PositiveSeconds, Section, split_address

OWN_SPACE = "/sniproxy/"  # in the store: what is not an object of the operator's


def _keyring_entry(entry: str) -> str:
    keyring_secret(entry)
    return entry


def keyring_secret(entry: str) -> bytes:
    """The bytes of a keyring entry: base64 of 32 bytes (ours), or 16 or 32 characters (an APISIX key)."""
    try:
        secret = base64.b64decode(entry, validate=True)
    except ValueError:  # not base64, or not even ASCII
        secret = b""
    if len(secret) == 32:
        return secret
    if len(entry) in (16, 32) and entry.isascii():
        return entry.encode()
    raise ValueError("expected base64 of 32 bytes; make one with: openssl rand -base64 32")


class Etcd(Section):
    """How to speak to etcd; where it is stands in `store`."""

    user: str | None = None
    password: str | None = Field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout: PositiveSeconds = 5 * SECOND  # per call, all endpoints together
    watch_silence: PositiveSeconds = 10 * SECOND  # without a sign of life a watch counts as lost


class Encryption(Section):
    """Private keys at rest: the first key writes, in the form that goes with it; all of them read."""

    keyring: tuple[Annotated[str, AfterValidator(_keyring_entry)], ...] = Field(
        default=(), repr=False
    )


class SqliteUrl(Section):
    """sqlite:///absolute/path/config.db"""

    path: Path
    prefix: str = "/apisix"


class EtcdUrl(Section):
    """etcd://h1:2379,h2:2379/apisix, or etcds:// for TLS."""

    endpoints: tuple[str, ...]
    prefix: str


def store_url(url: str) -> SqliteUrl | EtcdUrl:
    """What the `store` setting names; ValueError when it names nothing that we know."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        absolute = parts.path.startswith("/") and parts.path != "/"
        if parts.netloc or not absolute or parts.query or parts.fragment:
            raise ValueError("expected sqlite:///absolute/path/config.db, with three slashes")
        return SqliteUrl(path=Path(parts.path))
    if parts.scheme in ("etcd", "etcds"):
        if "@" in parts.netloc:
            raise ValueError("user and password stand in etcd.user and etcd.password")
        scheme = "https" if parts.scheme == "etcds" else "http"
        hosts = [host for host in parts.netloc.split(",") if host]
        for host in hosts:
            split_address(host)
        if not hosts:
            raise ValueError("expected etcd://HOST:2379,HOST:2379/apisix")
        prefix = parts.path.rstrip("/") or "/apisix"
        if (prefix + "/").startswith(OWN_SPACE):
            raise ValueError(
                f"{OWN_SPACE} is where sniproxy keeps its own keys: name another prefix"
            )
        return EtcdUrl(endpoints=tuple(f"{scheme}://{host}" for host in hosts), prefix=prefix)
    raise ValueError("expected sqlite:///PATH, etcd://HOST:PORT/PREFIX or etcds://HOST:PORT/PREFIX")


def _store(url: str) -> str:
    store_url(url)
    return url


StoreUrl = Annotated[str, AfterValidator(_store)]
