"""Certificates made at test time, once per run, and the TLS settings of both sides that use them."""

import ssl
from functools import cache

import trustme

from sniproxy.tls import ServerTls

NAME = "play.example.com"


@cache
def authority(which: str = "ours") -> trustme.CA:
    """A CA; each `which` is another one."""
    return trustme.CA(organization_name=which)


@cache
def leaf(name: str = NAME, which: str = "ours") -> trustme.LeafCert:
    """A certificate with its key, from that CA."""
    return authority(which).issue_cert(name)


def pair(name: str = NAME, which: str = "ours") -> tuple[str, str]:
    """(chain PEM, key PEM) of `leaf`."""
    made = leaf(name, which)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    return chain.decode(), made.private_key_pem.bytes().decode()


def authority_pem(which: str = "ours") -> str:
    """The CA's own certificate."""
    return authority(which).cert_pem.bytes().decode()


@cache
def server_tls(protocols: tuple[str, ...] = (), client_ca: str | None = None) -> ServerTls:
    """What a relay terminates TLS with; `client_ca` names the CA that client certificates must be from."""
    return ServerTls(
        pairs=(pair(),),
        protocols=protocols,
        client_ca=None if client_ca is None else authority_pem(client_ca),
    )


@cache
def player_context(
    version: ssl.TLSVersion | None = None, *, trusts: str = "ours", identity: str | None = None
) -> ssl.SSLContext:
    """A client that trusts one CA, speaks one version if it is given, and shows a certificate of the CA `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority(trusts).configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if identity is not None:
        leaf("player.example.com", identity).configure_cert(context)
    return context
