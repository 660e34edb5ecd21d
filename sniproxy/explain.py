"""What would become of a connection, and why: the same stages that serve it, asked one by one."""

from dataclasses import dataclass, field, replace

from sniproxy.balancer import UNSPOKEN, Target
from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, host_name
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.objects import LimitConn
from sniproxy.refusals import hello_refusal
from sniproxy.router import Arrival, Match, Route
from sniproxy.settings import Listener, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.tls import Certificate
from sniproxy.upstream_tls import TLS_IN_TLS

VERSIONS = {0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}


@dataclass(slots=True)
class Explanation:
    """Lines of (topic, what is so), and the reason for which the connection would be refused, if it would."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    refused: CloseReason | None = None

    def say(self, topic: str, text: str) -> None:
        """One more line."""
        self.lines.append((topic, text))

    def refuse(self, reason: CloseReason, topic: str, text: str) -> None:
        """One more line, and the end."""
        self.say(topic, text)
        self.say("closed", reason.value)
        self.refused = reason

    def __str__(self) -> str:
        return "\n".join(f"{topic:<12}{text}" for topic, text in self.lines)


def read_flight(flight: bytes, settings: Proxy, to: Explanation) -> ClientHello | None:
    """The hello that a first flight starts with; None, with the refusal said, when there is none."""
    reader = ClientHelloReader(max_hello=settings.max_hello, max_raw=settings.max_hello_raw)
    try:
        hello = reader.feed(flight)
    except BrokenHello as broken:
        kind = broken.hello_class
        to.refuse(hello_refusal(kind), "hello", f"refused as {kind}: {broken.detail}")
        return None
    if hello is None:
        timeout = f"not complete after {len(flight)} bytes: more is waited for"
        to.refuse(CloseReason.HELLO_TIMEOUT, "hello", timeout)
        return None
    to.say("hello", f"sound, {len(flight)} bytes, {_described(hello)}")
    return hello


def read_name(name: str, to: Explanation) -> str | None:
    """A name as the hello's reader would give it; with the refusal said when no hello may carry it."""
    try:
        return host_name(name.encode(errors="surrogateescape"))[0]
    except BrokenHello as broken:
        kind = broken.hello_class
        to.refuse(hello_refusal(kind), "name", f"refused as {kind}: {broken.detail}")
        return None


def explain(
    snapshot: Snapshot, listener: Listener, arrival: Arrival, now: float, to: Explanation
) -> Explanation:
    """What would become of a connection with that name, client and listening address. Limits that depend on who else
    is connected are named, not counted. now: Unix seconds, for certificates.
    """
    if not listener.is_tls:
        arrival = replace(arrival, server_name=None)
    to.say("listener", f"{listener.address}, {_mode(listener)}")
    to.say("name", arrival.server_name or "none, or none that can be used")
    to.say("client", str(arrival.remote))
    if not listener.admits(arrival.remote):
        to.refuse(CloseReason.ADDRESS_DENIED, "client", "denied by allow and deny of the listener")
        return to
    match = _explain_route(snapshot, arrival, to)
    if match is not None:
        _explain_plugins(snapshot, match.route, arrival, to)
    if match is not None and to.refused is None:
        _explain_tls(snapshot, listener, match.route, arrival, now, to)
    if match is not None and to.refused is None:
        _explain_upstream(snapshot, listener, match.route, arrival, to)
    return to


def _explain_route(snapshot: Snapshot, arrival: Arrival, to: Explanation) -> Match | None:
    won: Match | None = None
    for route, pattern in snapshot.router.asked(arrival):
        by = f"{route.id} by {pattern}" if pattern else f"{route.id}, which names nothing"
        misfit = route.misfit(arrival)
        if misfit is not None:
            to.say("passed over", f"{by}: its {misfit} does not fit")
        elif won is None:
            won = Match(route, pattern)
            to.say("route", by)
        else:
            to.say("next", by)
            break
    if won is None:
        to.refuse(CloseReason.NO_ROUTE, "route", "none takes it")
    return won


def _explain_plugins(snapshot: Snapshot, route: Route, arrival: Arrival, to: Explanation) -> None:
    for name, plugin in snapshot.plugins(route).items():
        if plugin is None:
            to.say("plugin", f"{name}: switched off")
        elif isinstance(plugin, LimitConn):
            burst = f", {plugin.burst} more are kept waiting" if plugin.burst else ""
            to.say("plugin", f"{name}: {plugin.conn} sessions per {plugin.key}{burst}")
        elif not plugin.admits(arrival.remote):
            to.refuse(CloseReason.ADDRESS_DENIED, "plugin", f"{name}: denies the client's address")
            return
        else:
            to.say("plugin", f"{name}: admits the client's address")


def _explain_tls(
    snapshot: Snapshot,
    listener: Listener,
    route: Route,
    arrival: Arrival,
    now: float,
    to: Explanation,
) -> None:
    if not listener.is_tls:
        return
    if listener.passes_through(asked=route.tls_passthrough):
        to.say("tls", "passed through: the game server answers the hello")
        return
    chosen = snapshot.certificates.choose(arrival.server_name, now)
    if chosen is None:
        to.refuse(CloseReason.NO_CERTIFICATE, "tls", "no ssl object has that name")
        return
    _explain_choice(snapshot, chosen, arrival, now, to)
    policy = chosen.server_tls
    protocols = ", ".join(policy.protocols or ("TLSv1.2", "TLSv1.3"))
    client = f"wanted, depth {policy.client_depth}" if policy.client_ca else "not asked for"
    flaw = chosen.flaw(now)
    text = f"terminated with ssl {chosen.id}; {protocols}; client certificate {client}"
    to.say("tls", f"{text}; {flaw}" if flaw else text)


def _explain_choice(
    snapshot: Snapshot, chosen: Certificate, arrival: Arrival, now: float, to: Explanation
) -> None:
    """Which ones were written later, and why they are not served."""
    for one in snapshot.certificates.candidates(arrival.server_name):
        if one is chosen:
            return
        if isinstance(one, Certificate) and one.asks == chosen.asks:
            to.say("passed over", f"ssl {one.id}: {one.flaw(now)}")


def _explain_upstream(
    snapshot: Snapshot, listener: Listener, route: Route, arrival: Arrival, to: Explanation
) -> None:
    target = snapshot.target(route)
    if target is None:
        to.refuse(
            CloseReason.NO_UPSTREAM,
            "upstream",
            "the route has none, or names one that is not there",
        )
        return
    if target.scheme in UNSPOKEN:
        unspoken = f"scheme {target.scheme} is not spoken to upstreams"
        to.refuse(CloseReason.NO_UPSTREAM, "upstream", unspoken)
        return
    if target.tls is not None and listener.passes_through(asked=route.tls_passthrough):
        to.refuse(CloseReason.NO_UPSTREAM, "upstream", TLS_IN_TLS)
        return
    try:
        client_tls = snapshot.client_tls(target)
    except SessionEnded as end:
        to.refuse(end.reason, "upstream", end.detail)
        return
    header = f"; PROXY {target.proxy_protocol} first" if target.proxy_protocol else ""
    if target.service is not None:
        to.say("upstream", f"what DNS has under {target.service.service_name}" + header)
        _explain_checks(target, to)
        return
    nodes = [
        f"{node.host}:{node.port or '(the port connected to)'} weight {node.weight}"
        for node in target.balancer.nodes
    ]
    if not nodes:
        to.refuse(CloseReason.NO_UPSTREAM, "upstream", "no node with a weight above 0")
        return
    by = f"; by {target.balancer.by}" if target.balancer.by else ""
    to.say("upstream", ", ".join(nodes) + by + header)
    _explain_checks(target, to)
    if target.tls is not None and client_tls is not None:
        hosts = [node.bare_host for node in target.balancer.nodes]
        peers = sorted({target.tls.peer(arrival.server_name, host) for host in hosts})
        verified = "verified" if client_tls.verify else "not verified"
        shown = "shown where one is asked for" if client_tls.pair else "none"
        text = f"spoken with {', '.join(peers)}, {verified}; client certificate {shown}"
        to.say("tls", text)


def _explain_checks(target: Target, to: Explanation) -> None:
    """That there are some; who is well is known to the data plane alone."""
    checkup = target.checkup
    if checkup is None or not (checkup.active or checkup.passive):
        return
    by = [f"{checkup.active.type} probes"] if checkup.active else []
    by += ["how sessions fare there"] if checkup.passive else []
    text = f"by {' and '.join(by)}: a node that is not well gets none, unless no other is there"
    to.say("checks", text)


def _mode(listener: Listener) -> str:
    if listener.tls and listener.tls_passthrough:
        return "TLS terminated or passed through, as the route says"
    if listener.is_tls:
        return "TLS terminated" if listener.tls else "TLS passed through"
    return "plain TCP"


def _described(hello: ClientHello) -> str:
    newest = max(hello.supported_versions, default=hello.legacy_version, key=_known)
    parts = [f"TLS {VERSIONS.get(newest, hex(newest))}", f"{hello.records} record(s)"]
    parts += ["post-quantum"] * hello.post_quantum + ["ECH"] * hello.ech
    if hello.alpn:
        parts.append("ALPN " + ", ".join(repr(one)[2:-1] for one in hello.alpn))
    if hello.ip_literal:
        parts.append("an IP address for a name")
    return ", ".join(parts)


def _known(version: int) -> int:
    return version if version in VERSIONS else -1  # GREASE (RFC 8701) is no version
