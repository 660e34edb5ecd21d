"""Which certificate a server name gets, and what an ssl object asks of a handshake. Pure: no sockets, no OpenSSL context.

The name's own certificate, then that of `*.x` (one label, as RFC 6125 section 6.4.3 has it), then that of `*`. A client
without a name is served by `*` only. Of two ssl objects for one name the one that was written last wins, which every
pod knows from the store's revision.
"""

import bisect
from dataclasses import dataclass

from sniproxy.objects import Ssl
from sniproxy.objects.pem import check_authorities, check_pair


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServerTls:
    """All that a relay needs to terminate TLS; each relay builds its own handle from it, once, at the first handshake."""

    pairs: tuple[tuple[str, str], ...]  # (certificate chain PEM, key PEM in clear)
    protocols: tuple[str, ...]  # of TLSv1.1 TLSv1.2 TLSv1.3; empty = 1.2 and 1.3
    client_ca: str | None = None  # PEM; set = a client certificate from it is required
    client_depth: int = 1

    def __repr__(self) -> str:
        return f"ServerTls({len(self.pairs)} pairs)"


class Certificate:
    """One ssl object of type server, ready to be chosen."""

    __slots__ = ("id", "names", "rank", "server_tls")

    def __init__(self, ssl_id: str, revision: int, ssl: Ssl) -> None:
        for certificate, key in ssl.pairs:
            check_pair(certificate, key)
        if ssl.client is not None:
            check_authorities(ssl.client.ca)
        self.id = ssl_id
        self.names = ssl.names if ssl.type == "server" and ssl.status else ()
        self.rank = (-revision, ssl_id)
        self.server_tls = ServerTls(
            pairs=ssl.pairs,
            protocols=tuple(ssl.ssl_protocols or ()),
            client_ca=ssl.client.ca if ssl.client else None,
            client_depth=ssl.client.depth if ssl.client else 1,
        )


class Certificates:
    """An index of certificates by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Certificate]] = {}

    def add(self, certificate: Certificate) -> None:
        """Takes a certificate in."""
        for name in set(certificate.names):
            bucket = self._by_name.setdefault(name, [])
            bisect.insort(bucket, certificate, key=lambda other: other.rank)

    def remove(self, certificate: Certificate) -> None:
        """Takes out a certificate that was added."""
        for name in set(certificate.names):
            bucket = self._by_name[name]
            bucket.remove(certificate)
            if not bucket:
                del self._by_name[name]

    def choose(self, server_name: str | None) -> Certificate | None:
        """The certificate for a lower-case server name, or None."""
        patterns = ["*"]
        if server_name is not None:
            patterns = [server_name, "*." + server_name.partition(".")[2], "*"]
        for pattern in patterns:
            bucket = self._by_name.get(pattern)
            if bucket:
                return bucket[0]
        return None
