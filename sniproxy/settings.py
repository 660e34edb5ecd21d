"""Frozen settings from flags, environment and file, in that order of precedence; every limit with its unit and default.

    sniproxy.yaml          proxy: {hello_timeout: 3}
    environment            SNIPROXY_PROXY__HELLO_TIMEOUT=3      (two underscores between levels; lists as JSON)

A refused setting is a SettingsError that names the key and the reason.
"""

import base64
import ipaddress
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as EnvironmentUnreadable

from sniproxy.errors import SettingsError
from sniproxy.networks import IpAddress, Networks, parse_address, parse_network

KIB = 1024
MIB = 1024 * KIB
SECOND = 1.0
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

OWN_SPACE = "/sniproxy/"  # in the store: what is not an object of the operator's

# Keys that APISIX published as defaults: whoever scans for APISIX tries them first (CVE-2020-13945).
PUBLISHED_KEYS = frozenset({"edd1c9f034335f136f87ad84b625c8f1", "4054f7cf07e344346cd3f287985e76a2"})


def split_address(address: str) -> tuple[str, int]:
    """("0.0.0.0", 8888) of "0.0.0.0:8888", ("::", 8888) of "[::]:8888"; ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    sound = bare and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    if not colon or not sound or (":" in bare) != bracketed:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8888 or [::]:8888")
    if bracketed:
        ipaddress.IPv6Address(bare)
    return bare, int(port)


def _address(address: str) -> str:
    split_address(address)
    return address


def _network(text: str) -> str:
    parse_network(text)
    return text


def _admin_key(key: str) -> str:
    if key in PUBLISHED_KEYS:
        raise ValueError("this is a default key of APISIX that everybody knows; make your own")
    return key


def _keyring_entry(entry: str) -> str:
    keyring_secret(entry)
    return entry


def keyring_secret(entry: str) -> bytes:
    """The bytes of a keyring entry: base64 of 32 bytes (ours), or 16 or 32 characters (an APISIX key, for reading)."""
    try:
        secret = base64.b64decode(entry, validate=True)
    except ValueError:  # not base64, or not even ASCII
        secret = b""
    if len(secret) == 32:
        return secret
    if len(entry) in (16, 32) and entry.isascii():
        return entry.encode()
    raise ValueError("expected base64 of 32 bytes; make one with: openssl rand -base64 32")


Address = Annotated[str, AfterValidator(_address)]
NetworkText = Annotated[str, AfterValidator(_network)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """One level of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Listener(Section):
    """One listening address. Both flags: the route's `tls_passthrough` decides. Neither: plain TCP."""

    address: Address
    tls: bool = False
    tls_passthrough: bool = False
    proxy_protocol: bool = False  # a PROXY header, v1 or v2, comes first, from proxy.trusted only
    allow: tuple[NetworkText, ...] = ()  # the only clients that may come in; empty = everybody
    deny: tuple[NetworkText, ...] = ()  # clients that may not, allowed or not

    @property
    def is_tls(self) -> bool:
        """Whether a ClientHello is expected."""
        return self.tls or self.tls_passthrough

    def passes_through(self, *, asked: bool) -> bool:
        """Whether TLS is left as it is; `asked`: what the route says, which counts where both are offered."""
        return self.tls_passthrough and (asked or not self.tls)

    def admits(self, address: IpAddress) -> bool:
        """Whether a client may come in, by `allow` and `deny`."""
        return address not in self._denied and (not self.allow or address in self._allowed)

    @cached_property
    def _allowed(self) -> Networks:
        return Networks(self.allow)

    @cached_property
    def _denied(self) -> Networks:
        return Networks(self.deny)


class Rate(Section):
    """A token bucket: `burst` at once, then `per_second`."""

    per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class Limits(Section):
    """Limits of sessions, over all workers of a pod; unset = none. An IPv6 client is its /64."""

    address_sessions: Annotated[int, Field(ge=1)] | None = None  # at once, per client address
    address_rate: Rate | None = None  # new ones, per client address
    route_sessions: Annotated[int, Field(ge=1)] | None = None  # at once, per route
    route_rate: Rate | None = None  # new ones, per route
    session_time: PositiveSeconds | None = None  # how long one may last
    session_bandwidth: Annotated[int, Field(ge=1024)] | None = None  # bytes per second, each way
    table: Annotated[int, Field(ge=1024, le=2**24)] = 65_536  # addresses and routes counted at once

    @property
    def ask_each(self) -> bool:
        """Whether a new session must be counted by its address or its route."""
        counted = (
            self.address_sessions,
            self.address_rate,
            self.route_sessions,
            self.route_rate,
        )
        return any(limit is not None for limit in counted)


class Proxy(Section):
    """The data plane and its limits. Every timeout is total, not per read."""

    listeners: tuple[Listener, ...] = (
        Listener(address="0.0.0.0:8888", tls=True, tls_passthrough=True),
    )
    trusted: tuple[NetworkText, ...] = ()  # who may say PROXY
    backlog: Annotated[int, Field(ge=1)] = 4096  # connections the kernel keeps for us
    defer_accept: Annotated[int, Field(ge=0, le=60)] = 1  # seconds to wait for the first byte
    accept_batch: Annotated[int, Field(ge=1)] = 64  # connections taken per turn of the loop
    max_sessions: Annotated[int, Field(ge=1)] = 20_000  # sessions at once, set-up included
    limits: Limits = Limits()
    hello_timeout: PositiveSeconds = 5 * SECOND
    max_hello: Annotated[int, Field(ge=16 * KIB, le=16 * MIB)] = 64 * KIB  # bytes of the handshake
    max_hello_raw: Annotated[int, Field(ge=96 * KIB)] = 128 * KIB  # the same with record headers
    handshake_timeout: PositiveSeconds = 10 * SECOND
    connect_timeout: PositiveSeconds = 3 * SECOND  # per node, name lookup included
    idle_timeout: PositiveSeconds = 1 * HOUR  # no byte in either direction
    half_close_timeout: PositiveSeconds = 2 * MINUTE  # the same after one side has ended
    keepalive_idle: Annotated[int, Field(ge=1)] = 300  # seconds; an NLB forgets a flow after 350
    relay: Literal["auto", "native", "trio"] = "auto"  # auto: native where it is built
    relay_buffer: Annotated[int, Field(ge=4 * KIB)] = 64 * KIB  # bytes, shared by all sessions
    relay_pipes: Annotated[int, Field(ge=0, le=1024)] = 16  # for bulk, of 1 MiB each; 0: none
    refused_log_interval: Annotated[float, Field(ge=0)] = 1 * SECOND  # between lines of one reason
    refused_kept: Annotated[int, Field(ge=0)] = 1 * MIB  # bytes of the latest refused first flights
    store_retry: PositiveSeconds = 0.1 * SECOND  # first pause before asking a lost store
    store_retry_max: PositiveSeconds = 3 * SECOND  # it doubles up to this
    store_wait: PositiveSeconds = 2 * SECOND  # at start, before the old copy is served from

    @model_validator(mode="after")
    def _headers_have_a_source(self) -> Self:
        if any(listener.proxy_protocol for listener in self.listeners) and not self.trusted:
            raise ValueError("proxy_protocol needs proxy.trusted: the balancer's networks")
        return self

    def trusts(self, address: str) -> bool:
        """Whether a PROXY header from this peer is believed."""
        return parse_address(address) in self._trusted

    @cached_property
    def _trusted(self) -> Networks:
        return Networks(self.trusted)


class AdminKey(Section):
    """A key for the admin API; `viewer` may only read."""

    name: str
    key: Annotated[str, StringConstraints(min_length=16), AfterValidator(_admin_key)] = Field(
        repr=False
    )
    role: Literal["admin", "viewer"] = "admin"


class Admin(Section):
    """The admin API."""

    address: Address = "127.0.0.1:9180"
    keys: tuple[AdminKey, ...] = ()
    max_body: Annotated[int, Field(ge=1)] = 1536 * KIB  # bytes of a request
    body_timeout: PositiveSeconds = 30 * SECOND  # to send a request's body
    store_timeout: PositiveSeconds = 10 * SECOND  # for all that one request asks of the store
    shutdown_timeout: Annotated[int, Field(ge=1)] = 1  # seconds for requests still in flight
    max_wait: PositiveSeconds = 60 * SECOND  # for all data planes, by ?wait=all


class Status(Section):
    """/livez, /readyz and /metrics of the data plane."""

    address: Address = "127.0.0.1:7085"


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
    """Private keys at rest: the first key writes, all of them read."""

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


class Settings(BaseSettings):
    """All settings. `load_settings` makes them; tests may call the class with keywords."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # type: ignore[assignment]  # no env of its own

    store: Annotated[str, AfterValidator(_store)] = "sqlite:///var/lib/sniproxy/config.db"
    state_dir: Path = Path("/var/lib/sniproxy")
    node: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9\-_.:]{1,128}$")] | None = None
    node_ttl: Annotated[int, Field(ge=3)] = 15  # seconds after which a silent data plane is gone
    proxy: Proxy = Proxy()
    admin: Admin = Admin()
    status: Status = Status()
    etcd: Etcd = Etcd()
    encryption: Encryption = Encryption()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load_settings` merges the layers: nothing is read here."""
        return (init_settings,)

    @property
    def where(self) -> SqliteUrl | EtcdUrl:
        """The parsed `store`."""
        return store_url(self.store)


def load_settings(file: Path | None = None, flags: Mapping[str, Any] | None = None, /) -> Settings:
    """Settings of a YAML file, the environment over it, `flags` (nested like the file) over both."""
    merged = _read_file(file) if file is not None else {}
    try:
        environment = EnvSettingsSource(
            Settings, env_prefix="SNIPROXY_", env_nested_delimiter="__"
        )()
    except EnvironmentUnreadable as error:
        raise SettingsError(f"environment: {error}: lists and objects are given as JSON") from error
    for layer in (environment, flags or {}):
        merged = _merge(merged, layer)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(step) for step in first["loc"])
        raise SettingsError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open() as text:  # of a stream YAML's errors quote nothing, so no key of it
            data = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"{file}: expected keys and values, got {type(data).__name__}")
    for key in data:
        if not isinstance(key, str) or key.startswith("_"):
            raise SettingsError(f"{file}: {key!r} is not the name of a setting")
    return data


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def new_admin_key() -> str:
    """A random admin key: 32 hexadecimal characters."""
    return os.urandom(16).hex()
