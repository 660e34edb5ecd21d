"""Whether a game server may get sessions: by what probes found of it, and by how real sessions fared there. Pure.

Probes (`checks.active`) are one opinion for the whole data plane, and told to every worker as the names of those that are
unhealthy. Real sessions (`checks.passive`) are each worker's own opinion: a circuit for each game server, which opens after
so many failures in a row, lets one session try again after a while, and longer each time that one fails. APISIX leaves a
node that was judged by sessions alone out for ever; nobody would go there to find that it is well again.

What is known belongs to a host, a port and the rules it is judged by, not to an object: one that is written again goes on
with it. It is forgotten when no upstream refers to it any more.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from weakref import WeakSet, WeakValueDictionary

from sniproxy.balancing import Node
from sniproxy.objects.upstream import Active, Passive

OPEN_FOR = (
    1.0  # seconds until a game server is tried again that sessions have failed at; it doubles ...
)
OPEN_AT_MOST = 60.0  # ... up to this


class Failure(StrEnum):
    """In which way a probe or a session came to nothing, by APISIX's counters."""

    TCP = "tcp_failure"
    TIMEOUT = "timeout_failure"
    HTTP = "http_failure"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """So many in a row change the opinion; 0: never."""

    successes: int
    tcp: int
    timeout: int
    http: int

    @classmethod
    def of(cls, checks: Active | Passive) -> "Thresholds":
        """As an upstream's checks name them."""
        bad = checks.unhealthy
        return cls(checks.healthy.successes, bad.tcp_failures, bad.timeouts, bad.http_failures)

    def limit(self, failure: Failure) -> int:
        """Failures of that kind."""
        match failure:
            case Failure.TCP:
                return self.tcp
            case Failure.TIMEOUT:
                return self.timeout
            case Failure.HTTP:
                return self.http


class Health:
    """An opinion, and what has been counted since it was formed."""

    __slots__ = ("failures", "healthy", "successes", "thresholds")

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.healthy = True
        self.successes = 0  # in a row
        self.failures = dict.fromkeys(Failure, 0)  # of each kind, since the last success

    def succeed(self) -> bool:
        """Whether that changes the opinion."""
        self.failures = dict.fromkeys(Failure, 0)
        self.successes += 1
        if self.healthy or not 0 < self.thresholds.successes <= self.successes:
            return False
        self.healthy = True
        return True

    def fail(self, failure: Failure) -> bool:
        """Whether that changes the opinion."""
        self.successes = 0
        self.failures[failure] += 1
        if not self.healthy or not 0 < self.thresholds.limit(failure) <= self.failures[failure]:
            return False
        self.healthy = False
        return True


class Circuit:
    """What sessions of this worker found of a game server. Closed: it gets sessions; open: none, until one may try."""

    __slots__ = ("__weakref__", "_health", "_tried_at", "_wait", "until")

    def __init__(self, thresholds: Thresholds) -> None:
        self._health = Health(thresholds)
        self._wait = OPEN_FOR
        self._tried_at: float | None = None  # when a session was sent to try
        self.until: float | None = None  # when one may try; None: it is closed

    def admits(self, now: float) -> bool:
        """Whether a session may go there. One that may try it is `begin`'s to say."""
        if self.until is None:
            return True
        trying = self._tried_at is not None and now < self._tried_at + self._wait
        return now >= self.until and not trying

    def begin(self, now: float) -> None:
        """A session is sent there: where it is open, others wait for what becomes of it, but not for ever."""
        if self.until is not None:
            self._tried_at = now

    def succeed(self) -> bool:
        """A session got there; whether that closes it."""
        self._health.succeed()
        if self.until is None:
            return False
        self._health = Health(self._health.thresholds)
        self.until = self._tried_at = None
        self._wait = OPEN_FOR
        _OPEN.discard(self)
        return True

    def fail(self, failure: Failure, now: float) -> bool:
        """A session did not get there; whether that opens it, or leaves it open for longer."""
        if self.until is not None:
            if now < self.until:
                return False  # one that was on its way when it opened
            self._wait = min(2 * self._wait, OPEN_AT_MOST)
        elif not self._health.fail(failure):
            return False
        self.until, self._tried_at = now + self._wait, None
        _OPEN.add(self)
        return True


_OPEN: WeakSet[Circuit] = WeakSet()  # few, so that nobody has to look at all nodes
_CIRCUITS: WeakValueDictionary[tuple[str, int | None, Thresholds], Circuit] = WeakValueDictionary()


def circuit_of(node: Node, thresholds: Thresholds) -> Circuit:
    """The one of a game server; made where nobody has asked before."""
    key = node.host, node.port, thresholds
    circuit = _CIRCUITS.get(key)
    if circuit is None:
        circuit = _CIRCUITS[key] = Circuit(thresholds)
    return circuit


def probe_name(node: Node, active: Active) -> str:
    """What all processes call a probe: the game server, and the rules by which it is judged."""
    rules = json.dumps(active.model_dump(mode="json"), sort_keys=True).encode()
    return f"{node.host}:{node.port or ''}/{hashlib.blake2b(rules, digest_size=8).hexdigest()}"


class Checkup:
    """Which nodes of one upstream get no sessions now."""

    __slots__ = ("_circuits", "_down", "_names", "_nodes", "active", "passive")

    def __init__(
        self, nodes: Iterable[Node], active: Active | None, passive: Passive | None
    ) -> None:
        nodes = list(nodes)
        self.active = active
        self.passive = Thresholds.of(passive) if passive is not None else None
        # by the id of the node
        self._names = {id(one): probe_name(one, active) for one in nodes} if active else {}
        self._circuits = (
            {id(one): circuit_of(one, self.passive) for one in nodes} if self.passive else {}
        )
        self._nodes = {circuit: one for one, circuit in self._circuits.items()}
        self._down: frozenset[int] = frozenset()

    def name(self, node: Node) -> str:
        """Of the probe of a node, where there are any."""
        return self._names[id(node)]

    def hear(self, unhealthy: frozenset[str]) -> None:
        """What probes have found by now: the names of those that are not well."""
        self._down = frozenset(one for one, name in self._names.items() if name in unhealthy)

    def out(self, now: float) -> frozenset[int]:
        """The ids of nodes that get no session at this moment."""
        if not _OPEN or not self._nodes:
            return self._down
        open_ones = {
            self._nodes[circuit]
            for circuit in _OPEN
            if circuit in self._nodes and not circuit.admits(now)
        }
        return self._down | open_ones if open_ones else self._down

    @property
    def steady(self) -> bool:
        """Whether everybody may go by a plan: all are well, and no session's fate is asked for."""
        return not self._circuits and not self._down

    def circuit(self, node: Node) -> Circuit | None:
        """Where sessions' fates are counted; None where they are not."""
        return self._circuits.get(id(node))
