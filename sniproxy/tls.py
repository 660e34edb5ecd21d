"""Which certificate a server name gets, and what an ssl object asks of a handshake. Pure: no sockets, no OpenSSL context.

The name's own certificate, then that of `*.x` (one label, as RFC 6125 section 6.4.3 has it), then that of `*`, unless a
certificate `*.y` further up wants client certificates. A client
without a name is served by `*` only.

Of the ssl objects for one name the one that was written last wins, which every pod knows from its `update_time` and, within
one second or without that, from the store's revision. A revision alone would not do: encrypting keys anew and restoring a
dump bring new ones, in another order, and would put an old object in front again. But as
long as its certificate is not valid, another stands in: the last one whose certificate is, if it asks of clients what the
last one does. No certificate that has expired is replaced by one that lets in who shows none.
"""

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sniproxy.errors import CloseReason, KeyringError, SessionEnded
from sniproxy.objects import Ssl
from sniproxy.objects.pem import check_authorities, check_pair, validity


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
    """One ssl object: of type server, ready to be chosen; of type client, to be shown to game servers.

    All of it is checked when it comes, so that no handshake finds out that it is broken. But most are not asked for at any
    one worker: until one is, nothing of it is kept in clear.
    """

    __slots__ = (
        "_read",
        "_server_tls",
        "asks",
        "begins",
        "content",
        "ends",
        "id",
        "is_shown",
        "names",
        "rank",
    )

    def __init__(self, ssl_id: str, revision: int, read: Callable[[], Ssl]) -> None:
        """`read` gives the object, its keys in clear: now, and once more at the first handshake."""
        ssl = read()
        for certificate, key in ssl.pairs:
            check_pair(certificate, key)
        if ssl.client is not None:
            check_authorities(ssl.client.ca)
        self.id = ssl_id
        self.names = ssl.names if ssl.type == "server" and ssl.status else ()
        self.is_shown = ssl.type == "client" and bool(ssl.status)
        self.rank = _rank(ssl.update_time, revision, ssl_id)
        self.begins, self.ends = validity(ssl.cert)  # Unix seconds; of the main pair
        self.asks = None if ssl.client is None else (_digest(ssl.client.ca), ssl.client.depth)
        self.content = hash((ssl.pairs, self.asks))  # tells two readings of one object apart
        self._read = read
        self._server_tls: ServerTls | None = None

    @property
    def wants_client(self) -> bool:
        """Whether clients have to show a certificate."""
        return self.asks is not None

    def flaw(self, now: float) -> str | None:
        """Why it is not valid at a time in Unix seconds; None when it is."""
        if now < self.begins:
            return "not valid yet"
        return "expired" if now >= self.ends else None

    @property
    def server_tls(self) -> ServerTls:
        """The same for every session and name. SessionEnded NO_CERTIFICATE when the object does not open any more."""
        if self._server_tls is None:
            try:
                ssl = self._read()
            except (ValueError, RecursionError, KeyringError):  # what its check would have shown
                raise SessionEnded(
                    CloseReason.NO_CERTIFICATE, f"ssl {self.id} does not open any more"
                ) from None
            self._server_tls = ServerTls(
                pairs=ssl.pairs,
                protocols=tuple(ssl.ssl_protocols or ()),
                client_ca=ssl.client.ca if ssl.client else None,
                client_depth=ssl.client.depth if ssl.client else 1,
            )
        return self._server_tls


class Closed:
    """In the place of an ssl object that wants client certificates and cannot be used.

    Its names are served by nobody: a wider certificate would let in who shows none.
    """

    __slots__ = ("id", "names", "rank")

    def __init__(
        self, ssl_id: str, revision: int, names: tuple[str, ...], update_time: int | None = None
    ) -> None:
        self.id = ssl_id
        self.names = names
        self.rank = _rank(update_time, revision, ssl_id)

    @property
    def wants_client(self) -> bool:
        return True


class Certificates:
    """An index of certificates by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Certificate | Closed]] = {}

    def add(self, certificate: Certificate | Closed) -> None:
        """Takes a certificate in."""
        for name in set(certificate.names):
            bucket = self._by_name.setdefault(name, [])
            bisect.insort(bucket, certificate, key=lambda other: other.rank)

    def remove(self, certificate: Certificate | Closed) -> None:
        """Takes out a certificate that was added."""
        for name in set(certificate.names):
            bucket = self._by_name[name]
            bucket.remove(certificate)
            if not bucket:
                del self._by_name[name]

    def choose(self, server_name: str | None, now: float) -> Certificate | None:
        """The certificate for a lower-case server name at a time in Unix seconds, or None."""
        candidates = self.candidates(server_name)
        last = candidates[0] if candidates else None
        if not isinstance(last, Certificate):
            return None
        if len(candidates) == 1 or last.flaw(now) is None:
            return last
        for other in candidates:
            if isinstance(other, Certificate) and other.asks == last.asks and not other.flaw(now):
                return other
        return last

    def candidates(self, server_name: str | None) -> Sequence[Certificate | Closed]:
        """All objects for the pattern that a name gets its certificate by, the one written last first."""
        by_name = self._by_name
        if server_name is None:
            return by_name.get("*", ())
        parent = server_name.partition(".")[2]
        found = by_name.get(server_name) or by_name.get("*." + parent)
        while found is None and parent:
            # `*.x` is for one label more. But where it wants client certificates, a route `*.x`, which is for any depth,
            # must not be reached through a certificate that wants none.
            parent = parent.partition(".")[2]
            passed_over = by_name.get("*." + parent)
            if passed_over is not None and passed_over[0].wants_client:
                return ()
        return found or by_name.get("*") or ()


def _rank(update_time: int | None, revision: int, ssl_id: str) -> tuple[int, int, str]:
    """The smaller, the later it was written."""
    return -(update_time or 0), -revision, ssl_id


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
