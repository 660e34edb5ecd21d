"""Where etcd is and how to speak to it: the configuration, its endpoints and its TLS files checked. Connects to nothing."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sniproxy.errors import SettingsError


@dataclass(frozen=True)
class EtcdConfig:
    """Where etcd is and how to speak to it.

    endpoints: base URLs, `http://host:2379` or `https://host:2379`. user, password: for etcd with authentication.
    ca_file: PEM to check etcd's certificate with, None for the system's. cert_file, key_file: PEM, a client certificate.
    timeout: seconds that one call of the store takes at most, over all endpoints and with signing in; each page of a
    long list has this long. watch_silence: seconds without a sign of life after which a watch is given up.
    """

    endpoints: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout: float = 5.0
    watch_silence: float = 10.0


def base_url(url: str) -> str:
    """An endpoint without its last slash. Raises SettingsError for what is no endpoint."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise SettingsError("etcd endpoints: a URL carries a user: use etcd.user and etcd.password")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"etcd endpoints: {url!r}: expected http://HOST:PORT or https://HOST:PORT"
        )
    return url.rstrip("/")


def tls_context(config: EtcdConfig) -> ssl.SSLContext | bool:
    """The TLS rules; False when no endpoint speaks it, as making one takes a while."""
    if not any(url.startswith("https:") for url in config.endpoints):
        return False
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"etcd.ca_file {config.ca_file}: {error}: expected PEM certificates"
        ) from error
    if config.cert_file is not None:
        try:
            # a passphrase is never asked for at the terminal
            context.load_cert_chain(config.cert_file, config.key_file, password="")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"etcd.cert_file {config.cert_file}, etcd.key_file {config.key_file}: {error}:"
                " expected a PEM certificate and its key without a passphrase"
            ) from error
    return context
