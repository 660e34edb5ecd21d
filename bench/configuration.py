"""The objects of a large installation, as the admin API stores them: what a worker has to hold.

The same for the same numbers, but for the certificates. Names have two to six labels of three to twelve letters, so that
wildcards come in many lengths. Every ssl object has a chain, a key and a ciphertext of its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sniproxy.keyring import Keyring
from sniproxy.store import Entry, Listing

PREFIX = "/apisix"
KEYRING = ["YmVuY2hiZW5jaGJlbmNoYmVuY2hiZW5jaGJlbmNoYmU="]
SHARED = "shared"  # the upstream and the service that many routes name
USERS = 1_000  # routes that name that upstream, and as many that name that service
WRITTEN = {"create_time": 1_790_000_000, "update_time": 1_795_000_000}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A full list, and the names in it."""

    listing: Listing
    exact: list[str]  # of the route with that number
    wildcards: list[str]
    certified: list[str]  # of the ssl object with that number


def make_configuration(routes: int, wildcards: int, certificates: int) -> Configuration:
    """`routes` in all, `wildcards` of them; the certificates are for the first names of both, in turn."""
    random = Random(1)
    suffixes = set[str]()
    while len(suffixes) < routes:
        suffixes.add(".".join(_label(random) for _ in range(random.randint(2, 6))))
    names = sorted(suffixes)
    random.shuffle(names)
    exact, stars = names[wildcards:], [f"*.{suffix}" for suffix in names[:wildcards]]
    certified = [name for two in zip(exact, stars, strict=False) for name in two]
    certified = [*certified, *exact[len(stars) :]][:certificates]
    objects = {
        f"upstreams/{SHARED}": upstream(random),
        f"services/{SHARED}": {"upstream": upstream(random)},
        **{
            f"stream_routes/{number}": route(random, number, name)
            for number, name in enumerate([*exact, *stars])
        },
        **dict(_ssl_objects(certified)),
    }
    entries = (entry(key, value, number) for number, (key, value) in enumerate(objects.items(), 1))
    listing = Listing(tuple(sorted(entries, key=lambda one: one.key)), len(objects))
    return Configuration(listing, exact, stars, certified)


def entry(key: str, value: dict[str, Any], revision: int) -> Entry:
    """An object as it stands in the store."""
    whole = {"id": key.partition("/")[2]} | value | WRITTEN
    return Entry(f"{PREFIX}/{key}", json.dumps(whole).encode(), revision, revision)


def upstream(random: Random) -> dict[str, Any]:
    """One game server, or a few."""
    addresses = [f"10.{random.randrange(256)}.{random.randrange(256)}.{end}" for end in (1, 2, 3)]
    port = random.randrange(20_000, 30_000)
    if random.random() < 0.7:
        return {"nodes": {f"{addresses[0]}:{port}": 1}, "type": "roundrobin"}
    nodes = [{"host": address, "port": port, "weight": 1} for address in addresses]
    return {"nodes": nodes, "timeout": {"connect": 3, "send": 600, "read": 600}}


def route(random: Random, number: int, name: str) -> dict[str, Any]:
    """The first name the shared upstream, the next the shared service, the others have an upstream of their own."""
    where: dict[str, Any] = {"upstream": upstream(random)}
    if number < 2 * USERS:
        where = {"service_id" if number % 2 else "upstream_id": SHARED}
    names = {"sni": name} if number % 10 else {"snis": [name, f"{name}.again"]}
    rules: dict[str, Any] = {}
    if number % 50 == 3:
        rules = {"remote_addr": "10.0.0.0/8", "server_port": 443}
    elif number % 50 == 4:
        rules = {"plugins": {"ip-restriction": {"blacklist": ["192.0.2.0/24"]}}}
    return {**names, "tls_passthrough": number % 4 > 0, **where, **rules}


def _label(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=random.randint(3, 12)))


def _ssl_objects(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    keyring, issuer = Keyring(KEYRING), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority.test", issuer, issuer)
    for number, name in enumerate(names):
        key = ec.generate_private_key(ec.SECP256R1())
        clear = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        yield (
            f"ssls/{number}",
            {
                "snis": [name],
                "cert": _certificate(name, key, issuer) + authority,
                "key": keyring.encrypt(clear, f"ssls/{number}/key"),
            },
        )


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
) -> str:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority.test")]),
        subject_name=x509.Name([]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now,
        not_valid_after=now + timedelta(days=90),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
    signed = builder.sign(issuer, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()
