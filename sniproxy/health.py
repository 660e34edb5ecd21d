"""Whether a game server may get sessions: by what probes found of it, and by how real sessions fared there. Pure.

Probes (`checks.active`) are one opinion for the whole data plane, and told to every worker as the names of those that are
unhealthy. Real sessions (`checks.passive`) are each worker's own opinion: a circuit for each game server, which opens after
so many failures in a row, lets one session try again after a while, and longer each time that one fails. APISIX leaves a
node that was judged by sessions alone out for ever; nobody would go there to find that it is well again.

What is known belongs to a host, a port and the rules it is judged by, not to an object: one that is written again goes on
with it. It is forgotten when no upstream and no session refers to it any more.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from weakref import WeakSet, WeakValueDictionary

from sniproxy.balancing import Node
from sniproxy.objects.upstream import Active, Passive

# Seconds until one session tries a game server again at which sessions have failed. They double each time that one fails ...
OPEN_FOR = 1.0
OPEN_AT_MOST = 60.0  # ... up to this
# Seconds after connecting within which a game server that hangs up without a byte has not taken the session at all.
EARLY = 1.0


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
    """What sessions of this worker found of a game server. Closed: it gets sessions; open: none, until one may try.

    To connect is one thing and to be kept is another, and each has failures in a row of its own: else a game server that
    takes everybody and hangs up on them would never be found out. A session is kept once EARLY has passed since it
    connected. That needs no timer: whoever looks next finds it passed.
    """

    __slots__ = (
        "__weakref__",
        "_connecting",
        "_lost",
        "_trial_until",
        "_unproven",
        "_wait",
        "until",
    )

    def __init__(self, thresholds: Thresholds) -> None:
        self._connecting = Health(thresholds)
        self._lost = 0  # early, in a row
        self._unproven: list[float] = []  # when it is known of each who connected that he was kept
        self._wait = OPEN_FOR
        self._trial_until = -inf  # the session that tries has until then
        self.until: float | None = None  # when one may try; None: it is closed

    def admits(self, now: float) -> bool:
        """Whether a session may go there."""
        self._settle(now)
        return self.until is None or now >= max(self.until, self._trial_until)

    def shut_until(self) -> float:
        """When that may be another answer, where it is open and admits nobody: then, or when something happens."""
        assert self.until is not None
        kept_at = self._unproven[0] if self._unproven else inf
        return min(kept_at, max(self.until, self._trial_until))

    def begin(self, now: float, seconds: float) -> None:
        """A session is sent there, and has so long. Where it is open, others wait for what becomes of it, but no longer."""
        if self.until is not None and now >= self.until:
            self._try_until(now + seconds)

    def withdraw(self) -> None:
        """What became of that session says nothing of the game server."""
        self._try_until(-inf)

    def connect(self, now: float) -> None:
        """That session got there. Where it is open, that closes it unless it ends early."""
        self._settle(now)
        self._connecting.succeed()
        self._unproven.append(now + EARLY)
        if self.until is not None:
            self._try_until(now + EARLY)

    def fail(self, failure: Failure, began: float, now: float) -> bool:
        """A session that was sent there at `began` did not get there; whether that opens it."""
        self._settle(now)
        if self.until is not None:
            return self._stay_open(began, now)
        return self._connecting.fail(failure) and self._open(now)

    def lose(self, connected: float, now: float) -> bool:
        """The game server hung up on a session that got there at `connected`, without a byte; whether that opens it."""
        self._settle(now)
        kept_at = connected + EARLY
        if now >= kept_at:
            return False
        if kept_at in self._unproven:
            self._unproven.remove(kept_at)
        if self.until is not None:
            return self._stay_open(connected, now)
        self._lost += 1
        limit = self._connecting.thresholds.limit(Failure.TCP)
        return 0 < limit <= self._lost and self._open(now)

    def _settle(self, now: float) -> None:
        """Those who connected long enough ago were kept."""
        kept = bisect_right(self._unproven, now)
        if kept:
            del self._unproven[:kept]
            self._lost = 0
            if self.until is not None:
                self.until, self._wait = None, OPEN_FOR
                _OPEN.discard(self)
                self._try_until(-inf)

    def _open(self, now: float) -> bool:
        self._connecting = Health(self._connecting.thresholds)
        self._lost = 0
        self._unproven.clear()  # who got there before proves nothing any more
        self.until = now + self._wait
        _OPEN.add(self)
        self._try_until(-inf)
        return True

    def _stay_open(self, began: float, now: float) -> bool:
        """For longer, unless that one was sent there before anybody was to try."""
        if self.until is not None and began >= self.until:
            self._wait = min(2 * self._wait, OPEN_AT_MOST)
            self.until = now + self._wait
            self._try_until(-inf)
        return False

    def _try_until(self, when: float) -> None:
        self._trial_until = when
        _OPEN.changes += 1


class _Open(WeakSet[Circuit]):
    """Those that are open: few, so that nobody has to look at all nodes; and whether to look again."""

    changes = 0  # of any of them


_OPEN = _Open()
_CIRCUITS: WeakValueDictionary[tuple[str, int | None, Thresholds], Circuit] = WeakValueDictionary()


def open_circuits(now: float) -> int:
    """How many game servers get no sessions of this worker, or one that tries."""
    for circuit in tuple(_OPEN):
        circuit.admits(now)  # closes where that is due
    return len(_OPEN)


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

    __slots__ = (
        "_circuits",
        "_down",
        "_ids",
        "_names",
        "_out",
        "_seen",
        "_seen_until",
        "active",
        "passive",
    )

    def __init__(
        self, nodes: Iterable[Node], active: Active | None, passive: Passive | None
    ) -> None:
        nodes = list(nodes)
        self.active = active
        found = Thresholds.of(passive) if passive is not None else None
        # sessions know of no other failures
        self.passive = found if found is not None and (found.tcp or found.timeout) else None
        # by the id of the node
        self._names = {id(one): probe_name(one, active) for one in nodes} if active else {}
        self._circuits = (
            {id(one): circuit_of(one, self.passive) for one in nodes} if self.passive else {}
        )
        self._ids: dict[Circuit, list[int]] = {}  # an object may name a game server twice
        for one, circuit in self._circuits.items():
            self._ids.setdefault(circuit, []).append(one)
        self._down: frozenset[int] = frozenset()
        # what `out` has answered, and for how long that is good
        self._out = self._down
        self._seen = -1
        self._seen_until = -inf

    def name(self, node: Node) -> str:
        """Of the probe of a node, where there are any."""
        return self._names[id(node)]

    def hear(self, unhealthy: frozenset[str]) -> None:
        """What probes have found by now: the names of those that are not well."""
        self._down = frozenset(one for one, name in self._names.items() if name in unhealthy)
        self._seen = -1

    def out(self, now: float) -> frozenset[int]:
        """The ids of nodes that get no session at this moment."""
        if not _OPEN or not self._circuits:
            return self._down
        if self._seen != _OPEN.changes or now >= self._seen_until:
            self._look(now)
        return self._out

    def _look(self, now: float) -> None:
        # whichever are fewer; `admits` takes those out of them that close
        few = tuple(_OPEN) if len(_OPEN) < len(self._ids) else self._ids
        shut = [one for one in few if one in self._ids and not one.admits(now)]
        self._out = self._down.union(*(self._ids[circuit] for circuit in shut))
        self._seen_until = min((circuit.shut_until() for circuit in shut), default=inf)
        self._seen = _OPEN.changes

    @property
    def steady(self) -> bool:
        """Whether everybody may go by a plan: all are well, and no session's fate is asked for."""
        return not self._circuits and not self._down

    def circuit(self, node: Node) -> Circuit | None:
        """Where sessions' fates are counted; None where they are not."""
        return self._circuits.get(id(node))
