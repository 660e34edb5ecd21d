"""Who is let in: the limits per client address and per route, over all workers of a pod, and the plugins that limit.

Each question either passes, noting in `claims` what the session must give back when it ends, or raises SessionEnded.
"""

import ipaddress
import mmap
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sniproxy.access import AddressRule, Plugins
from sniproxy.errors import CloseReason, Limit, SessionEnded
from sniproxy.networks import IpAddress
from sniproxy.objects import LimitConn
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Proxy, Rate
from sniproxy.stick_table import Admission, Key, Places, StickTable, prepare, table_size

# Bytes of an IPv6 address: one customer's network is a /64 (RFC 6177), and all its addresses are one client.
IPV6_SITE = 8
LONGEST_DELAY = 60.0  # seconds that limit-conn may keep a session waiting


class _Scope(NamedTuple):
    """What the limits of the settings count by, and the reasons for which they refuse."""

    name: str
    too_often: CloseReason
    too_many: CloseReason


_ADDRESS = _Scope("address", CloseReason.ADDRESS_RATE, CloseReason.ADDRESS_LIMIT)
_ROUTE = _Scope("route", CloseReason.ROUTE_RATE, CloseReason.ROUTE_LIMIT)


class Limits:
    """One worker's door. `clock`: seconds of a clock that all workers share."""

    def __init__(
        self, settings: Proxy, table: StickTable, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_sessions = settings.max_sessions
        self._settings = settings.limits
        self._table = table
        self._clock = clock

    def settle(self, settings: Proxy) -> None:
        """Other limits, from now on; what is counted stays counted."""
        self._max_sessions = settings.max_sessions
        self._settings = settings.limits

    @property
    def active(self) -> int:
        """Sessions of this worker, set-up included."""
        return self._table.active

    @property
    def uncounted(self) -> int:
        """How often a key was not counted, the table being full."""
        return self._table.uncounted

    @property
    def places(self) -> Places:
        """Where the native relay counts those sessions that it has accepted itself."""
        return self._table.places

    def enter(self) -> bool:
        """A session begins; whether max_sessions allows it. `leave` must follow either way."""
        # First counted and then looked at, as in every worker: max_sessions is never passed.
        self._table.count(1)
        return self._table.all_active <= self._max_sessions

    def leave(self, claims: Iterable[Key]) -> None:
        """A session is over."""
        self._table.count(-1)
        for key in claims:
            self._table.release(key)

    def admit_client(self, listener: Listener, address: IpAddress, claims: list[Key]) -> None:
        """The listener's networks, then rate and sessions of the client's address."""
        if not listener.admits(address):
            why = "by allow and deny of the listener"
            raise SessionEnded(CloseReason.ADDRESS_DENIED, why, Limit.ALLOW_DENY)
        limits = self._settings
        self._count(
            _ADDRESS, site_of(address), limits.address_rate, limits.address_sessions, claims
        )

    def admit_route(
        self, route_id: str, plugins: Plugins, arrival: Arrival, claims: list[Key]
    ) -> float:
        """The route's plugins, rate and sessions; how many seconds limit-conn keeps the session waiting, 0.0 mostly."""
        restriction = plugins.get("ip-restriction")
        if isinstance(restriction, AddressRule) and not restriction.admits(arrival.remote):
            raise SessionEnded(CloseReason.ADDRESS_DENIED, "by ip-restriction of the route")
        limits = self._settings
        self._count(_ROUTE, route_id.encode(), limits.route_rate, limits.route_sessions, claims)
        conf = plugins.get("limit-conn")
        if not isinstance(conf, LimitConn):
            return 0.0
        key = self._table.key(_limit_conn_key(route_id, conf, arrival))
        where = "limit-conn of the route"
        cap = conf.conn + conf.burst
        count = self._acquire(key, cap, claims, CloseReason.ROUTE_LIMIT, where, Limit.LIMIT_CONN)
        return min((count - 1) // conf.conn * conf.default_conn_delay, LONGEST_DELAY)

    def _count(
        self, scope: _Scope, name: bytes, rate: Rate | None, cap: int | None, claims: list[Key]
    ) -> None:
        """The limits of the settings for one client address, or one route."""
        if rate is None and cap is None:
            return
        key = self._table.key(scope.name.encode() + b" " + name)
        if rate and not self._table.take(key, rate.per_second, rate.burst, self._clock()):
            over = f"over {rate.per_second:g} per second, {rate.burst} at once"
            raise SessionEnded(scope.too_often, f"limits.{scope.name}_rate: {over}")
        if cap is not None:
            self._acquire(key, cap, claims, scope.too_many, f"limits.{scope.name}_sessions")

    def _acquire(
        self,
        key: Key,
        cap: int,
        claims: list[Key],
        reason: CloseReason,
        where: str,
        limit: Limit | None = None,
    ) -> int:
        admission, count = self._table.acquire(key, cap, self._clock())
        if admission is Admission.REFUSED:
            raise SessionEnded(reason, f"{where}: {cap} are open", limit)
        if admission is Admission.COUNTED:
            claims.append(key)
        return count


def open_limits(settings: Proxy) -> Limits:
    """Limits that are shared with no other worker."""
    entries = settings.limits.table
    memory = memoryview(mmap.mmap(-1, table_size(entries, workers=1)))
    return Limits(settings, StickTable(prepare(memory), entries=entries))


def site_of(address: IpAddress) -> bytes:
    """Whom an address belongs to, as far as can be told: itself, or its /64."""
    return address.packed if address.version == 4 else address.packed[:IPV6_SITE]


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
