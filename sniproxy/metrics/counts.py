"""What every session moves: plain numbers, which are read when somebody asks. A counter of the library takes a lock."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sniproxy.accounting import Account
from sniproxy.client_hello import ClientHello, HelloClass
from sniproxy.errors import CloseReason, Limit
from sniproxy.histogram import SESSIONS, WAITS, Histogram
from sniproxy.metrics.catalogue import help_of
from sniproxy.relay import Played, Terminated
from sniproxy.relay.alerts import failure_cause
from sniproxy.relay.meters import Meter
from sniproxy.tallies import MOST, Tallies

# Of a sound hello; the first four in the order in which a relay tells of those that it has read itself.
PLAIN, POST_QUANTUM, ECH, SPLIT_SEGMENTS = "plain", "post_quantum", "ech", "split_segments"
SPLIT_RECORDS, NO_SNI, IP_LITERAL = "split_records", "no_sni", "ip_literal"
SOUND = (PLAIN, POST_QUANTUM, ECH, SPLIT_SEGMENTS, SPLIT_RECORDS, NO_SNI, IP_LITERAL)
NONE_READ = (0, 0, 0, 0)
Waits = Sequence[tuple[Sequence[int], float]]
NO_WAITS: Waits = (((), 0.0), ((), 0.0), ((), 0.0), ((), 0.0))
# In the order in which a relay tells of handshakes that it has made itself.
SHAKEN = (("TLSv1.2", "no"), ("TLSv1.2", "yes"), ("TLSv1.3", "no"), ("TLSv1.3", "yes"))
VERSIONS = frozenset({"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"})


class Counts(Collector):
    """One worker's."""

    def __init__(
        self,
        accepted: Callable[[], int] = lambda: 0,
        hellos: Callable[[], Sequence[int]] = lambda: NONE_READ,
        waits: Callable[[], Waits] = lambda: NO_WAITS,
        handshakes: Callable[[], Sequence[int]] = lambda: NONE_READ,
        most_routes: int = MOST,
    ) -> None:
        """accepted, hellos, waits, handshakes: of those that the relay has accepted and read itself (`relay.Front`)."""
        self.tallies = Tallies(Meter, most_routes)
        self.hello = Histogram(WAITS)
        self.handshake = Histogram(WAITS)
        self.connect = Histogram(WAITS)
        self.first_byte = Histogram(WAITS)
        self.session = Histogram(SESSIONS)
        self.config_apply = Histogram(WAITS)
        self.opened = 0
        self.errors = 0  # defects in sessions that have come to no route
        self._accepted = accepted
        self._hellos_elsewhere = hellos
        self._waits_elsewhere = waits
        self._handshakes_elsewhere = handshakes
        self._unrouted = dict.fromkeys(CloseReason, 0)  # sessions that have come to no route
        self._hellos = Counter[str](dict.fromkeys(SOUND, 0))
        self._handshakes = Counter[tuple[str, str]]()
        self._tls_failures = Counter[str]()
        self._refusals = dict.fromkeys(Limit, 0)

    # -- what happens

    def close(self, reason: CloseReason, route: str | None = None) -> None:
        """A session has ended that never got an account."""
        if route is None:
            self._unrouted[reason] += 1
        else:
            self.tallies.of(route).close(reason)

    def set_up(self, account: Account, *, by_plan: bool) -> None:
        """A session has come as far as it comes in the worker's hands. by_plan: its hello counts where it was read."""
        step = account.started
        if account.hello_at is not None:
            if not by_plan:
                self.hello.observe(account.hello_at - step)
            step = account.hello_at
        if account.handshake_at is not None:
            if not by_plan:
                self.handshake.observe(account.handshake_at - step)
            step = account.handshake_at
        if account.connected_at is not None:
            self.connect.observe(account.connected_at - step)

    def end(self, account: Account, reason: CloseReason, now: float) -> None:
        """A session has ended."""
        if account.tally is None:
            self._unrouted[reason] += 1
        else:
            account.tally.close(reason)
        if account.connected_at is not None:
            self.session.observe(now - account.started)

    def play(self, sessions: Iterable[Played]) -> None:
        """Sessions have ended that the relay has played by plans."""
        session = self.session.observe
        for one in sessions:
            tally = one.plan.tally or self.tallies.of(one.plan.route.id)
            closed, reason = tally.closed, one.reason
            closed[reason] = closed.get(reason, 0) + 1
            if one.connect is not None:
                session(one.lasted * 1e-6)

    def sound(self, hello: ClientHello, *, split: bool) -> None:
        """A hello was read. split: it came in several pieces."""
        hellos, is_plain = self._hellos, True
        for kind, is_so in (
            (POST_QUANTUM, hello.post_quantum),
            (ECH, hello.ech),
            (SPLIT_SEGMENTS, split),
            (SPLIT_RECORDS, hello.records > 1),
            (IP_LITERAL, hello.ip_literal),
            (NO_SNI, hello.server_name is None and not hello.ip_literal),
        ):
            if is_so:
                hellos[kind] += 1
                is_plain = False
        if is_plain:
            hellos[PLAIN] += 1

    def broken(self, hello: HelloClass) -> None:
        """What was read was none."""
        self._hellos[hello.value] += 1

    def shake_hands(self, tls: Terminated) -> None:
        """A handshake with a client is done."""
        version = tls.version if tls.version in VERSIONS else "other"
        self._handshakes[version, "yes" if tls.resumed else "no"] += 1

    def refuse(self, reason: CloseReason, detail: str = "", limit: Limit | None = None) -> None:
        """A session has ended in its set-up. limit: where the reason stands for several."""
        if (found := limit or LIMITS.get(reason)) is not None:
            self._refusals[found] += 1
        elif reason is CloseReason.HANDSHAKE_FAILED:
            self._tls_failures[failure_cause(detail)] += 1
        elif reason is CloseReason.HANDSHAKE_TIMEOUT:
            self._tls_failures["timeout"] += 1

    # -- what is told

    def collect(self) -> Iterable[Metric]:
        yield _counter("sniproxy_sessions_opened", self.opened + self._accepted())
        closed = self.tallies.closed()
        yield _labelled(
            "sniproxy_sessions_closed",
            ("reason",),
            {(one.value,): closed.get(one, 0) + count for one, count in self._unrouted.items()},
        )
        to_upstream, to_client = self.tallies.moved()
        yield _counter("sniproxy_bytes_to_upstream", to_upstream)
        yield _counter("sniproxy_bytes_to_client", to_client)
        hello, handshake, connect, first_byte = self._waits_elsewhere()
        yield histogram("sniproxy_hello_seconds", self.hello.plus(*hello))
        yield histogram("sniproxy_handshake_seconds", self.handshake.plus(*handshake))
        yield histogram("sniproxy_connect_seconds", self.connect.plus(*connect))
        yield histogram("sniproxy_first_byte_seconds", self.first_byte.plus(*first_byte))
        yield histogram("sniproxy_session_seconds", self.session)
        yield histogram("sniproxy_config_apply_seconds", self.config_apply)
        hellos = self._hellos + Counter(dict(zip(SOUND, self._hellos_elsewhere(), strict=False)))
        hellos.update(dict.fromkeys(SOUND, 0))  # told from the start
        yield _labelled("sniproxy_hellos", ("class",), {(one,): n for one, n in hellos.items()})
        elsewhere = zip(SHAKEN, self._handshakes_elsewhere(), strict=True)
        handshakes = self._handshakes + Counter(dict(elsewhere))
        yield _labelled("sniproxy_tls_handshakes", ("version", "resumed"), handshakes)
        causes = {(cause,): count for cause, count in self._tls_failures.items()}
        yield _labelled("sniproxy_tls_failures", ("cause",), causes)
        limits = {(limit.value,): count for limit, count in self._refusals.items()}
        yield _labelled("sniproxy_refusals", ("limit",), limits)
        errors = {route: one.errors for route, one in self.tallies.by_route.items()}
        failed = {(route,): count for route, count in ({"": self.errors} | errors).items() if count}
        yield _labelled("sniproxy_session_errors", ("route",), failed)


# Where a reason stands for several, the one that is not named where it is raised.
LIMITS = {
    CloseReason.SESSION_LIMIT: Limit.MAX_SESSIONS,
    CloseReason.ADDRESS_DENIED: Limit.IP_RESTRICTION,
    CloseReason.ADDRESS_LIMIT: Limit.ADDRESS_SESSIONS,
    CloseReason.ADDRESS_RATE: Limit.ADDRESS_RATE,
    CloseReason.ROUTE_LIMIT: Limit.ROUTE_SESSIONS,
    CloseReason.ROUTE_RATE: Limit.ROUTE_RATE,
    CloseReason.ROUTE_DRAINED: Limit.ROUTE_DRAIN,
    CloseReason.DESCRIPTOR_LIMIT: Limit.DESCRIPTORS,
    CloseReason.MEMORY_LIMIT: Limit.MAX_MEMORY,
    CloseReason.SETUP_LIMIT: Limit.QUEUE_TIMEOUT,
}


def histogram(name: str, found: Histogram) -> Metric:
    """As the library has it."""
    return HistogramMetricFamily(name, help_of(name), found.buckets(), found.total)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_of(name), value=value)


def _labelled(name: str, labels: tuple[str, ...], values: Mapping[Any, int]) -> Metric:
    """values: by those of the labels, in order."""
    family = CounterMetricFamily(name, help_of(name), labels=labels)
    for given, value in values.items():
        family.add_metric(given, value)
    return family
