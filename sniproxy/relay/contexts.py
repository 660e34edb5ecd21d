"""OpenSSL contexts, made at the first handshake of their kind and kept as long as what they were made from is.

A player may come back to a context that he was at, by a ticket of its, or by the id of a session that it keeps. OpenSSL does
not ask under which name that was, as RFC 6066 (section 3) has it: so every name that is asked for has a context of its own.
"""

import os
import ssl
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay.alerts import cause_of
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls

_VERSIONS = {
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

# Of TLS 1.2: keys exchanged anew each time, encryption that authenticates (RFC 9325 section 4.2). Those of 1.3 all do.
SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"

# Contexts of one ssl object, of some 18 KiB each. One that was used the longest time ago gives way, and with it only the
# chance to come back.
MOST_NAMES = 64

_for_players: WeakKeyDictionary[ServerTls, OrderedDict[str | None, ssl.SSLContext]] = (
    WeakKeyDictionary()
)
_for_servers: WeakKeyDictionary[ClientTls, ssl.SSLContext] = WeakKeyDictionary()


def server_context(server_tls: ServerTls, name: str | None = None) -> ssl.SSLContext:
    """That of an ssl object, for who comes under that name.

    SessionEnded NO_CERTIFICATE when OpenSSL does not take the object's certificate and key.
    """
    contexts = _for_players.setdefault(server_tls, OrderedDict())
    context = contexts.get(name)
    if context is None:
        try:
            context = contexts[name] = _make_context(server_tls)
        except ssl.SSLError as error:  # such as a key that is too short for its policy
            raise SessionEnded(
                CloseReason.NO_CERTIFICATE, f"OpenSSL refuses it: {cause_of(error)}"
            ) from None
        if len(contexts) > MOST_NAMES:
            contexts.popitem(last=False)
    contexts.move_to_end(name)
    return context


def client_context(client_tls: ClientTls) -> ssl.SSLContext:
    """That of an upstream, for its game servers. SessionEnded UPSTREAM_TLS when OpenSSL takes no such certificates."""
    context = _for_servers.get(client_tls)
    if context is None:
        try:
            context = _for_servers[client_tls] = _make_client_context(client_tls)
        except ssl.SSLError as error:
            why = f"OpenSSL refuses the upstream's certificates: {cause_of(error)}"
            raise SessionEnded(CloseReason.UPSTREAM_TLS, why) from None
    return context


def _make_client_context(client_tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _limit_versions(context, ("TLSv1.2", "TLSv1.3"))
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not client_tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif not client_tls.authorities:
        context.load_default_certs()
    for authorities in client_tls.authorities:
        context.load_verify_locations(cadata=_ascii(authorities))
    if client_tls.pair is not None:
        _load_pair(context, *client_tls.pair)
    return context


def _make_context(server_tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(SUITES)
    _limit_versions(context, server_tls.protocols or ("TLSv1.2", "TLSv1.3"))
    context.options |= ssl.OP_NO_RENEGOTIATION
    if server_tls.client_ca is not None:
        context.load_verify_locations(cadata=_ascii(server_tls.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        # Nobody comes back by a ticket whose certificate was found too deep once the handshake was over.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    for certificate, key in server_tls.pairs:
        _load_pair(context, certificate, key)
    return context


def _ascii(authorities: str) -> str:
    """Comments between the certificates may be in any language; OpenSSL wants ASCII."""
    return authorities.encode("ascii", "replace").decode()


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    with _private_file(f"{certificate}\n{key}\n") as path:
        context.load_cert_chain(path)


def _limit_versions(context: ssl.SSLContext, protocols: tuple[str, ...]) -> None:
    asked = [version for name, version in _VERSIONS.items() if name in protocols]
    if asked[0] < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 has no TLS 1.1 at level 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # asked for by the operator
        context.minimum_version, context.maximum_version = asked[0], asked[-1]
        if len(asked) == 2 and asked[-1] - asked[0] == 2:
            context.options |= ssl.OP_NO_TLSv1_2


@contextmanager
def _private_file(text: str) -> Iterator[str]:
    """A path that OpenSSL can read `text` from. On Linux it is memory only: a key in clear never touches a disk."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("certificate")
        try:
            os.write(fd, text.encode())
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        with tempfile.NamedTemporaryFile("w") as file:  # created with mode 0600
            file.write(text)
            file.flush()
            yield file.name
