"""How TLS is spoken to the game servers of an upstream: which name is asked for, who is trusted, what is shown. Pure.

The name is the client's (`pass_host: pass`), the node's (`node`) or `upstream_host` (`rewrite`). The certificate is
verified for it, if `tls.verify` asks for that; an address is never asked for (RFC 6066 section 3), but verified.
Everything is checked when the object comes, so that no session finds out that it is broken. A client key stays as it is
stored until a session needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from sys import intern
from weakref import WeakValueDictionary

from sniproxy.errors import CloseReason, KeyringError, SessionEnded
from sniproxy.objects import InlineUpstream
from sniproxy.objects.pem import check_authorities, check_pair
from sniproxy.objects.upstream import Tls
from sniproxy.tls import Certificate

TLS_IN_TLS = "scheme tls: the client's own TLS is passed through, no second one is put around it"
Pair = tuple[str, str]  # certificate chain PEM, key PEM in clear


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ClientTls:
    """All that a relay needs to speak TLS as a client; each relay builds its own handle from it, once.

    Made by `share`: what is equal is one, for many thousand routes too.
    """

    verify: bool
    authorities: tuple[str, ...]  # PEM; empty: those of the system
    pair: Pair | None  # what is shown to who asks for a certificate

    def __repr__(self) -> str:
        return f"ClientTls(verify={self.verify})"


_shared: WeakValueDictionary[tuple[bool, tuple[str, ...], Pair | None], ClientTls] = (
    WeakValueDictionary()
)


def share(*, verify: bool, authorities: tuple[str, ...], pair: Pair | None) -> ClientTls:
    """The one of that content. Who trusts whom counts only where somebody verifies."""
    content = verify, authorities if verify else (), pair
    found = _shared.get(content)
    if found is None:
        found = _shared[content] = ClientTls(*content)
    return found


class UpstreamTls:
    """The `tls` member of an upstream with `scheme: tls`, at work."""

    __slots__ = (
        "_authorities",
        "_host",
        "_made",
        "_open_key",
        "_pair",
        "_pass_host",
        "client_cert_id",
        "verify",
    )

    def __init__(self, upstream: InlineUpstream, open_key: Callable[[str], str]) -> None:
        """`open_key` gives a private key in clear: now, and once more when a session needs it. ValueError, KeyringError."""
        tls = upstream.tls or Tls()
        for pem in tls.ca_certs or ():
            check_authorities(pem, "tls.ca_certs")
        self._pair: Pair | None = None  # the key as it is stored
        if tls.client_cert is not None and tls.client_key is not None:
            check_pair(tls.client_cert, open_key(tls.client_key))
            self._pair = tls.client_cert, tls.client_key
        self.client_cert_id = None if tls.client_cert_id is None else str(tls.client_cert_id)
        self.verify = tls.verify
        self._authorities = tuple(map(intern, tls.ca_certs or ()))  # of many routes it is one text
        self._pass_host = upstream.pass_host
        self._host = _host_alone(upstream.upstream_host)
        self._open_key = open_key
        self._made: tuple[Certificate | None, ClientTls] | None = None

    def peer(self, asked: str | None, node_host: str) -> str:
        """Whom the game server must be: a name, which it is asked for as well, or an address, which it is not.

        `asked`: the client's server name; None: it gave none.
        """
        wanted = {"pass": asked, "rewrite": self._host}.get(self._pass_host)
        return wanted or node_host.strip("[]").partition("%")[0].removesuffix(".").lower()

    def client_tls(self, shown: Certificate | None) -> ClientTls:
        """What a relay needs; the same until the ssl object of the client certificate is another.

        `shown`: that of `client_cert_id`, as it is now. SessionEnded NO_UPSTREAM when it is none that can be shown, or a key
        does not open any more.
        """
        if self._made is None or self._made[0] is not shown:
            if self.client_cert_id is not None and (shown is None or not shown.is_shown):
                why = "is not there" if shown is None else "is no client's, or is switched off"
                self._refuse(f"ssl {self.client_cert_id}, its client certificate, {why}")
            self._made = shown, self._make(shown)
        return self._made[1]

    def _make(self, shown: Certificate | None) -> ClientTls:
        pair = self._pair
        try:
            if shown is not None:
                pair = shown.server_tls.pairs[0]
            elif pair is not None:
                pair = pair[0], self._open_key(pair[1])
        except SessionEnded as end:
            self._refuse(end.detail)
        except (ValueError, KeyringError):  # what its check would have shown
            self._refuse("the key of its client certificate does not open any more")
        return share(verify=self.verify, authorities=self._authorities, pair=pair)

    def _refuse(self, why: str) -> None:
        raise SessionEnded(CloseReason.NO_UPSTREAM, why)


def _host_alone(host: str | None) -> str | None:
    """Of `upstream_host`, which may have a port as in HTTP; None for a pattern, which names nobody."""
    if host is None or "*" in host:
        return None
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.removesuffix(".").lower()
