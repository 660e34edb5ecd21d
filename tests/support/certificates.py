"""Certificates made at test time, once per run, and the TLS settings of both sides that use them."""

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls, share

NAME = "play.example.com"
PLAYER = "player.example.com"
TODAY, YEAR = datetime.now(UTC), timedelta(days=365)

Flaw = Literal[
    "expired",
    "early",
    "self-signed",
    "damaged",
    "a server's",
    "path too long",
    "from no authority",
]


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


@cache
def dated(name: str, begins: float, ends: float) -> dict[str, str]:
    """`cert` and `key` of an ssl object, valid between two times in Unix seconds."""
    times = [datetime.fromtimestamp(moment, UTC) for moment in (begins, ends)]
    made = authority().issue_cert(name, not_before=times[0], not_after=times[1])
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    return {"cert": chain.decode(), "key": made.private_key_pem.bytes().decode()}


def authority_pem(which: str = "ours") -> str:
    """The CA's own certificate."""
    return authority(which).cert_pem.bytes().decode()


@cache
def issuer(which: str = "ours", below: int = 0) -> trustme.CA:
    """What signs for that CA, with so many intermediate authorities below it."""
    return issuer(which, below - 1).create_child_ca() if below else authority(which)


@cache
def flawed(flaw: Flaw) -> trustme.Blob:
    """Key and certificate of a player, from our CA but for one flaw."""
    ca = authority("ours")
    match flaw:
        case "expired":
            made = ca.issue_cert(PLAYER, not_before=TODAY - 2 * YEAR, not_after=TODAY - YEAR)
        case "early":
            made = ca.issue_cert(PLAYER, not_before=TODAY + YEAR, not_after=TODAY + 2 * YEAR)
        case "path too long":
            last = trustme.CA(parent_cert=ca, path_length=0)
            made = trustme.CA(parent_cert=last).issue_cert(PLAYER)
        case "damaged":
            made = ca.issue_cert(PLAYER)
            return _blob(made.private_key_pem, _damaged(made.cert_chain_pems[0]))
        case "a server's":
            made = ca.issue_cert(PLAYER)
            only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            signed = _sign(made, ca.cert_pem, ca.private_key_pem, only)
            return _blob(made.private_key_pem, signed)
        case "self-signed":
            itself = trustme.CA(organization_name="itself")
            return _blob(itself.private_key_pem, itself.cert_pem)
        case "from no authority":
            friend, made = ca.issue_cert("friend.example.com"), ca.issue_cert(PLAYER)
            plain = _sign(friend, ca.cert_pem, ca.private_key_pem)
            return _blob(made.private_key_pem, _sign(made, plain, friend.private_key_pem), plain)
    return made.private_key_and_cert_chain_pem


def _blob(*parts: trustme.Blob) -> trustme.Blob:
    return trustme.Blob(b"".join(part.bytes() for part in parts))


def _damaged(pem: trustme.Blob) -> trustme.Blob:
    """The last bit of the signature is another."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(pem.bytes().decode()))
    der[-1] ^= 1
    return trustme.Blob(ssl.DER_cert_to_PEM_cert(bytes(der)).encode())


def _sign(
    leaf: trustme.LeafCert, by: trustme.Blob, key: trustme.Blob, *extensions: x509.ExtensionType
) -> trustme.Blob:
    """A certificate for the key of `leaf` that has no extensions but these."""
    was = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    signer = serialization.load_pem_private_key(key.bytes(), None)
    assert isinstance(signer, EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        issuer_name=x509.load_pem_x509_certificate(by.bytes()).subject,
        subject_name=was.subject,
        public_key=was.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=TODAY - YEAR,
        not_valid_after=TODAY + YEAR,
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signed = builder.sign(signer, hashes.SHA256())
    return trustme.Blob(signed.public_bytes(serialization.Encoding.PEM))


@cache
def server_tls(
    protocols: tuple[str, ...] = (), client_ca: str | None = None, client_depth: int = 1
) -> ServerTls:
    """What a relay terminates TLS with; `client_ca` names the CA that client certificates must be from."""
    return ServerTls(
        pairs=(pair(),),
        protocols=protocols,
        client_ca=None if client_ca is None else authority_pem(client_ca),
        client_depth=client_depth,
    )


@cache
def player_context(
    version: ssl.TLSVersion | None = None,
    *,
    trusts: str = "ours",
    identity: str | None = None,
    intermediates: int = 0,
    flaw: Flaw | None = None,
    any_name: bool = False,
) -> ssl.SSLContext:
    """A client that trusts one CA, speaks one version if it is given, and shows a certificate of the CA `identity`, or
    one with that flaw. `any_name`: the server's certificate may be for any name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority(trusts).configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if identity is not None:
        issuer(identity, intermediates).issue_cert(PLAYER).configure_cert(context)
    elif flaw is not None:
        with flawed(flaw).tempfile() as path:
            context.load_cert_chain(path)
    context.check_hostname = not any_name
    return context


@cache
def game_context(
    version: ssl.TLSVersion | None = None,
    *,
    name: str = NAME,
    which: str = "ours",
    flaw: Flaw | None = None,
    wants: str | None = None,
) -> ssl.SSLContext:
    """A game server with a certificate of that CA for that name or address, or one with that flaw.

    `wants`: the CA that the certificate of whoever comes must be from.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if flaw is not None:
        with flawed(flaw).tempfile() as path:
            context.load_cert_chain(path)
    else:
        leaf(name, which).configure_cert(context)
    if wants is not None:
        authority(wants).configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(
    *, verify: bool = True, trusts: str = "ours", identity: str | None = None
) -> ClientTls:
    """What a relay speaks TLS to a game server with; `identity`: the CA that its own certificate is from."""
    shown = None if identity is None else pair(PLAYER, identity)
    return share(verify=verify, authorities=(authority_pem(trusts),), pair=shown)
