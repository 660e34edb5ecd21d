"""Who is let in: the limits per client address and per route, over all workers of a pod, and the plugins that limit.

Each question either passes, noting in `claims` what the session must give back when it ends, or raises SessionEnded.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable

from sniproxy.access import AddressRule, Plugins
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.networks import IpAddress
from sniproxy.objects import LimitConn
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Proxy, Rate
from sniproxy.stick_table import Admission, Key, StickTable

# Bytes of an IPv6 address: one customer's network is a /64 (RFC 6177), and all its addresses are one client.
IPV6_SITE = 8
LONGEST_DELAY = 60.0  # seconds that limit-conn may keep a session waiting


class Limits:
    """One worker's door. `clock`: seconds of a clock that all workers share."""

    def __init__(
        self, settings: Proxy, table: StickTable, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_sessions = settings.max_sessions
        self._settings = settings.limits
        self._table = table
        self._clock = clock

    @property
    def active(self) -> int:
        """Sessions of this worker, set-up included."""
        return self._table.active

    @property
    def uncounted(self) -> int:
        """How often a key was not counted, the table being full."""
        return self._table.uncounted

    @property
    def full(self) -> bool:
        """Whether max_sessions is reached."""
        return self._table.all_active >= self._max_sessions

    def enter(self) -> None:
        """A session begins."""
        self._table.active += 1

    def leave(self, claims: Iterable[Key]) -> None:
        """A session is over."""
        self._table.active -= 1
        for key in claims:
            self._table.release(key)

    def admit_client(self, listener: Listener, address: IpAddress, claims: list[Key]) -> None:
        """The listener's networks, then rate and sessions of the client's address."""
        if not listener.admits(address):
            raise SessionEnded(CloseReason.ADDRESS_DENIED, "by allow and deny of the listener")
        limits = self._settings
        if limits.address_rate is None and limits.address_sessions is None:
            return
        site = address.packed if address.version == 4 else address.packed[:IPV6_SITE]
        key = self._table.key(b"address " + site)
        if limits.address_rate is not None:
            self._take(key, limits.address_rate, CloseReason.ADDRESS_RATE, "limits.address_rate")
        if limits.address_sessions is not None:
            self._acquire(
                key,
                limits.address_sessions,
                claims,
                CloseReason.ADDRESS_LIMIT,
                "limits.address_sessions",
            )

    def admit_route(
        self, route_id: str, plugins: Plugins, arrival: Arrival, claims: list[Key]
    ) -> float:
        """The route's plugins, rate and sessions; how many seconds limit-conn keeps the session waiting, 0.0 mostly."""
        restriction = plugins.get("ip-restriction")
        if isinstance(restriction, AddressRule) and not restriction.admits(arrival.remote):
            raise SessionEnded(CloseReason.ADDRESS_DENIED, "by ip-restriction of the route")
        limits = self._settings
        if limits.route_rate is not None or limits.route_sessions is not None:
            key = self._table.key(b"route " + route_id.encode())
            if limits.route_rate is not None:
                self._take(key, limits.route_rate, CloseReason.ROUTE_RATE, "limits.route_rate")
            if limits.route_sessions is not None:
                self._acquire(
                    key,
                    limits.route_sessions,
                    claims,
                    CloseReason.ROUTE_LIMIT,
                    "limits.route_sessions",
                )
        conf = plugins.get("limit-conn")
        if not isinstance(conf, LimitConn):
            return 0.0
        key = self._table.key(_limit_conn_key(route_id, conf, arrival))
        count = self._acquire(
            key, conf.conn + conf.burst, claims, CloseReason.ROUTE_LIMIT, "limit-conn of the route"
        )
        return min((count - 1) // conf.conn * conf.default_conn_delay, LONGEST_DELAY)

    def _take(self, key: Key, rate: Rate, reason: CloseReason, where: str) -> None:
        if not self._table.take(key, rate.per_second, rate.burst, self._clock()):
            detail = f"{where}: over {rate.per_second:g} per second, {rate.burst} at once"
            raise SessionEnded(reason, detail)

    def _acquire(
        self, key: Key, cap: int, claims: list[Key], reason: CloseReason, where: str
    ) -> int:
        admission, count = self._table.acquire(key, cap, self._clock())
        if admission is Admission.REFUSED:
            raise SessionEnded(reason, f"{where}: {cap} are open")
        if admission is Admission.COUNTED:
            claims.append(key)
        return count


def _limit_conn_key(route_id: str, conf: LimitConn, arrival: Arrival) -> bytes:
    values = {
        "remote_addr": _client(arrival.remote),
        "server_addr": str(arrival.server),
        "server_port": str(arrival.server_port),
        "ssl_server_name": arrival.server_name or "",
        "ssl_preread_server_name": arrival.server_name or "",
    }
    chosen = [values[name] for name in conf.variables]
    if not any(chosen):  # as APISIX: who gives no name is counted by address
        chosen = [values["remote_addr"]]
    return "\0".join(("limit-conn", route_id, *chosen)).encode()


def _client(address: IpAddress) -> str:
    """An IPv6 client is its /64 here too: else each of its addresses would have a count of its own."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Address(address.packed[:IPV6_SITE] + bytes(16 - IPV6_SITE)))
