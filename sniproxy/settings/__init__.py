"""Frozen settings from flags, environment and file, in that order of precedence; every limit with its unit and default.

    sniproxy.yaml          proxy: {hello_timeout: 3}
    environment            SNIPROXY_PROXY__HELLO_TIMEOUT=3      (two underscores between levels; lists as JSON)

A refused setting is a SettingsError that names the key and the reason.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as EnvironmentUnreadable

from sniproxy.errors import SettingsError
from sniproxy.settings.admin import PUBLISHED_KEYS, Admin, AdminKey, Status
from sniproxy.settings.fields import split_address
from sniproxy.settings.proxy import Dns, Drain, Limits, Listener, Overload, Proxy, Rate
from sniproxy.settings.statistics import Statistics
from sniproxy.settings.store import (
    Encryption,
    Etcd,
    EtcdUrl,
    SqliteUrl,
    StoreUrl,
    keyring_secret,
    store_url,
)
from sniproxy.settings.telling import Logging, Traces

__all__ = [
    "PUBLISHED_KEYS",
    "Admin",
    "AdminKey",
    "Dns",
    "Drain",
    "Encryption",
    "Etcd",
    "EtcdUrl",
    "Limits",
    "Listener",
    "Logging",
    "Overload",
    "Proxy",
    "Rate",
    "Settings",
    "SqliteUrl",
    "Statistics",
    "Status",
    "Traces",
    "keyring_secret",
    "load_settings",
    "new_admin_key",
    "split_address",
    "store_url",
]


class Settings(BaseSettings):
    """All settings. `load_settings` makes them; tests may call the class with keywords."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # type: ignore[assignment]  # no env of its own

    store: StoreUrl = "sqlite:///var/lib/sniproxy/config.db"
    state_dir: Path = Path("/var/lib/sniproxy")
    node: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9\-_.:]{1,128}$")] | None = None
    node_ttl: Annotated[int, Field(ge=3)] = 15  # seconds after which a silent data plane is gone
    proxy: Proxy = Proxy()
    drain: Drain = Drain()
    overload: Overload = Overload()
    admin: Admin = Admin()
    status: Status = Status()
    statistics: Statistics = Statistics()
    etcd: Etcd = Etcd()
    encryption: Encryption = Encryption()
    log: Logging = Logging()
    traces: Traces = Traces()

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
