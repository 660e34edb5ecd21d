"""Where no session is ever connected to, whatever an object says: it is asked when one is written, and for each connection.

Whoever may write a route, or a name that one leads to, must not reach by it what only this machine reaches: the credentials
that clouds give out on a link-local address, our own ports, the store. The second look is at the address that a name had at
that moment, so a name that moves is caught.
"""

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from sniproxy.networks import IpAddress, Networks, parse_address
from sniproxy.settings import Proxy, Settings, SqliteUrl, split_address

# Cloud metadata (169.254.169.254) and neighbours; broadcast and multicast; and what means "this host" (RFC 1122 section
# 3.2.1.3), which the kernel takes for its loopback.
NEVER = (
    "169.254.0.0/16",
    "fe80::/10",
    "0.0.0.0/8",
    "::/128",
    "224.0.0.0/4",
    "ff00::/8",
    "255.255.255.255/32",
)
# Of clouds that give out credentials elsewhere: AWS by IPv6, also to pods; Google by IPv6; Alibaba.
METADATA = ("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128", "100.100.100.200/32")
# IPv6 networks whose addresses end in the IPv4 address that a translator, or the kernel, goes on to: NAT64 (RFC 6052, RFC
# 8215), SIIT (RFC 2765), and IPv4-compatible ones (RFC 4291).
TRANSLATED = ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")

LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def is_local(address: IpAddress) -> bool:
    """Whether an address is one of this machine's. Asks the kernel, which sends nothing for that."""
    if address.is_loopback:  # all of 127.0.0.0/8, while the kernel names one of them
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return parse_address(sock.getsockname()[0]) == address
    except OSError:  # there is no way there
        return False


class Forbidden:
    """What `proxy.deny_upstreams` and we ourselves keep everybody from; `proxy.allow_upstreams` opens both."""

    def __init__(
        self,
        settings: Proxy,
        own: Iterable[str] = (),
        local: Callable[[IpAddress], bool] = is_local,
    ) -> None:
        """own: HOST:PORT of what listens here beside the listeners, or must be reached by us alone."""
        self._allowed = Networks(settings.allow_upstreams)
        self._never = Networks((*NEVER, *METADATA))
        self._denied = Networks(settings.deny_upstreams)
        self._translated = Networks(TRANSLATED)
        self._local = local
        self._own: dict[int, list[tuple[IpAddress, str]]] = {}
        self._names: dict[tuple[str, int], str] = {}
        for address in (*(one.address for one in settings.listeners), *own):
            self._add(address)

    def _add(self, address: str) -> None:
        host, port = split_address(address)
        if not port:
            return
        try:
            self._own.setdefault(port, []).append((parse_address(host), address))
        except ValueError:
            self._names[host.lower(), port] = address
            if host.lower() == "localhost":
                self._own.setdefault(port, []).extend((one, address) for one in LOOPBACK)

    def why(self, address: IpAddress, port: int) -> str | None:
        """Why nobody may be connected there; None: one may."""
        behind = None if address.version == 4 else self._behind(address)
        if port in self._own:
            ours = self._why_own(address, port)
            if ours is None and behind is not None:
                ours = self._why_own(behind, port)
            if ours is not None:
                return ours
        if address in self._allowed:
            return None
        if address in self._never:
            return "link-local, multicast and unspecified addresses are no game servers: proxy.allow_upstreams opens them"
        if address in self._denied:
            return "it is in proxy.deny_upstreams"
        return None if behind is None else self.why(behind, port)

    def _behind(self, address: IPv6Address) -> IPv4Address | None:
        """Where one ends who connects to an address that only carries another."""
        if address.is_loopback:
            return None
        if address in self._translated:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.sixtofour

    def why_named(self, host: str, port: int | None) -> str | None:
        """The same of a host as an object names it, as far as it can be told without asking anybody.

        Of a name nothing is known but whether we have it ourselves; port: None where it is the client's.
        """
        address = _as_kernel(host)
        if address is not None:
            return self.why(address, port or 0)
        ours = self._names.get((host.lower().removesuffix("."), port or 0))
        return None if ours is None else f"{ours} is ours"

    def _why_own(self, address: IpAddress, port: int) -> str | None:
        for own, text in self._own.get(port, ()):
            if own == address or (own.is_unspecified and self._local(address)):
                return f"{text} is ours"
        return None


def own_addresses(settings: Settings) -> list[str]:
    """What is ours beside the listeners: the status port, the admin, and etcd."""
    where = settings.where
    endpoints = () if isinstance(where, SqliteUrl) else where.endpoints
    stores = [endpoint.partition("://")[2] for endpoint in endpoints]
    return [settings.status.address, settings.admin.address, *stores]


def _as_kernel(host: str) -> IpAddress | None:
    """The address that a text is for whoever looks names up in the C library: also 2130706433, 0x7f.1 and 127.1."""
    with suppress(ValueError):
        return parse_address(host.strip("[]"))
    with suppress(OSError):
        return IPv4Address(socket.inet_aton(host))
    return None
