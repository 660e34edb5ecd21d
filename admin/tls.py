"""HTTPS for the admin API. The files are looked at with each handshake, so a renewed certificate is served at once."""

import os
import ssl
from pathlib import Path

from sniproxy.errors import SettingsError
from sniproxy.logs import Log
from sniproxy.settings import Admin

Mark = tuple[int, int, int]  # a file's inode, size in bytes and time of change in nanoseconds


class Certificate:
    """What the settings name, as it is in force: what cannot be read is said in the log, and the one before goes on."""

    def __init__(self, settings: Admin, log: Log) -> None:
        """SettingsError when the files hold no certificate with its key, or no CA."""
        self._settings = settings
        self._log = log
        self._seen = self._marks()
        self._context = make_context(settings)

    def listening(self) -> ssl.SSLContext:
        """The context that each handshake begins with; it goes on with what is in force by then."""
        context = make_context(self._settings)
        context.sni_callback = self._choose  # called for a client without SNI too
        return context

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        marks = self._marks()
        if marks != self._seen:
            self._seen = marks
            try:
                self._context = make_context(self._settings)
            except SettingsError as error:
                self._log.warning(
                    "certificate kept", cause=str(error), advice="the one before goes on"
                )
        connection.context = self._context

    def _marks(self) -> list[Mark | None]:
        admin = self._settings
        return [_mark(path) for path in (admin.cert_file, admin.key_file, admin.client_ca_file)]


def make_context(settings: Admin) -> ssl.SSLContext:
    """TLS 1.2 and 1.3. Without tickets, so that whoever comes back shows a certificate again. SettingsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    assert settings.cert_file is not None
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
    except (OSError, ValueError) as error:  # what OpenSSL says of a file names no byte of it
        raise SettingsError(
            f"admin.cert_file {settings.cert_file}, admin.key_file {settings.key_file}: {error}"
        ) from None
    if settings.client_ca_file is not None:
        try:
            context.load_verify_locations(settings.client_ca_file)
        except OSError as error:
            raise SettingsError(
                f"admin.client_ca_file {settings.client_ca_file}: {error}"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted with a passphrase, which nobody is there to give")


def _mark(path: Path | None) -> Mark | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
