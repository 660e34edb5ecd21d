"""Which route a connection takes: a pure function of server name, client address and the address it connected to.

Exact name, then the longest wildcard (`*.x` covers any depth below x), then routes that name nothing; at each of these
steps a route must also fit by server_port, server_addr and remote_addr, else the next one is asked. `*` restricts
nothing: after the longer wildcards for a client that gave a name, after the unnamed routes for one that did not.

Among routes for one name the narrower wins (longer remote_addr, then longer server_addr, then a server_port), then the
lower id in text order: the same on every pod, whatever the order in which objects were written.
"""

import bisect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sniproxy.access import enable
from sniproxy.balancer import Target
from sniproxy.networks import IpAddress, Network, parse_network
from sniproxy.objects import StreamRoute

_DOT = re.compile(r"\.")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection as the router sees it. `server_name` is lower-case, or None when the client gave no usable name."""

    server_name: str | None
    remote: IpAddress
    server: IpAddress
    server_port: int


class Route:
    """One stream_route, ready to be matched. Never changed after it was made.

    Of the object it keeps what a session asks for and no more: there may be many thousands.
    """

    __slots__ = (
        "id",
        "names",
        "plugins",
        "remote",
        "server",
        "server_port",
        "service_id",
        "target",
        "tls_passthrough",
        "upstream_id",
    )

    def __init__(
        self, route_id: str, route: StreamRoute, open_key: Callable[[str], str] = lambda key: key
    ) -> None:
        """`open_key`: as its target takes it."""
        self.id = route_id
        self.names = route.names
        self.plugins = enable(route.plugins)
        self.target = None if route.upstream is None else Target(route.upstream, open_key)
        self.remote = _network(route.remote_addr)
        self.server = _network(route.server_addr)
        self.server_port = route.server_port
        self.tls_passthrough = route.tls_passthrough
        self.upstream_id = route.upstream_id
        self.service_id = route.service_id

    @property
    def rank(self) -> tuple[int, int, bool, str]:
        """Among routes for one name the lowest is asked first."""
        return (
            0 if self.remote is None else -1 - self.remote.prefixlen,
            0 if self.server is None else -1 - self.server.prefixlen,
            self.server_port is None,
            self.id,
        )

    def fits(self, arrival: Arrival) -> bool:
        """Whether every condition but the name holds."""
        return self.misfit(arrival) is None

    def misfit(self, arrival: Arrival) -> str | None:
        """The member of the object that does not hold, the name aside."""
        if self.server_port is not None and self.server_port != arrival.server_port:
            return "server_port"
        if self.remote is not None and arrival.remote not in self.remote:
            return "remote_addr"
        if self.server is not None and arrival.server not in self.server:
            return "server_addr"
        return None


@dataclass(frozen=True, slots=True)
class Match:
    """The route that won, and the pattern it won by ("" = it names nothing)."""

    route: Route
    pattern: str


class Router:
    """An index of routes. `add` and `remove` touch only the entries of that route's own names."""

    def __init__(self) -> None:
        # A pattern without its star is a suffix; "" stands for `*`.
        self._exact: dict[str, list[Route]] = {}
        self._wildcard: dict[str, list[Route]] = {}
        self._unnamed: list[Route] = []
        # How many suffixes that begin with no dot have each length: a look-up tries these, and what begins at its dots.
        self._lengths: Counter[int] = Counter()

    def add(self, route: Route) -> None:
        """Takes a route in."""
        for bucket in self._buckets(route):
            bisect.insort(bucket, route, key=_rank)

    def remove(self, route: Route) -> None:
        """Takes out a route that was added."""
        for bucket in self._buckets(route):
            del bucket[bisect.bisect_left(bucket, route.rank, key=_rank)]
        for name in set(route.names):
            index, key = self._place(name)
            if not index[key]:
                del index[key]
                if index is self._wildcard:
                    self._count(key, -1)

    def match(self, arrival: Arrival) -> Match | None:
        """The route for a connection, or None."""
        for route, pattern in self.asked(arrival):
            if route.fits(arrival):
                return Match(route, pattern)
        return None

    def match_for_all(self, name: str, port: int) -> Route | None:
        """The route that everybody takes who asks for that name at that port; None if their addresses matter."""
        for route, _ in self._asked(name):
            if route.server_port in (None, port):
                alike = route.remote is None and route.server is None
                return route if alike else None
        return None

    def asked(self, arrival: Arrival) -> Iterator[tuple[Route, str]]:
        """Every route whose names take the connection, in the order in which they are asked, and the pattern of each."""
        return self._asked(arrival.server_name)

    def _asked(self, name: str | None) -> Iterator[tuple[Route, str]]:
        if name is None:
            yield from self._of(self._unnamed, "")
            yield from self._of(self._wildcard.get("", ()), "*")
            return
        yield from self._of(self._exact.get(name, ()), name)
        for start in self._starts(name):
            suffix = name[start:]
            if suffix in self._wildcard:
                yield from self._of(self._wildcard[suffix], "*" + suffix)
        yield from self._of(self._unnamed, "")

    def _starts(self, name: str) -> list[int]:
        """Where the suffix of a wildcard may begin in a name, the longest first; the star is one character at least."""
        starts = [dot.start() for dot in _DOT.finditer(name, 1)]
        if self._lengths:
            others = {len(name) - length for length in self._lengths if length < len(name)}
            starts = sorted(others.union(starts))
        return starts

    @staticmethod
    def _of(routes: Sequence[Route], pattern: str) -> Iterator[tuple[Route, str]]:
        return ((route, pattern) for route in routes)

    def _buckets(self, route: Route) -> list[list[Route]]:
        if not route.names:
            return [self._unnamed]
        buckets = []
        for name in set(route.names):
            index, key = self._place(name)
            if key not in index:
                index[key] = []
                if index is self._wildcard:
                    self._count(key, 1)
            buckets.append(index[key])
        return buckets

    def _place(self, name: str) -> tuple[dict[str, list[Route]], str]:
        return (self._wildcard, name[1:]) if name.startswith("*") else (self._exact, name)

    def _count(self, suffix: str, step: int) -> None:
        if suffix.startswith("."):
            return
        self._lengths[len(suffix)] += step
        if not self._lengths[len(suffix)]:
            del self._lengths[len(suffix)]


def _rank(route: Route) -> tuple[int, int, bool, str]:
    """No two routes have the same: an id is there once."""
    return route.rank


def _network(text: str | None) -> Network | None:
    return None if text is None else parse_network(text)
