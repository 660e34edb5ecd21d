"""What becomes of everybody who asks a listener for a name: decided once, and good until the configuration changes. Pure.

Most games have one route per name and one game server, or a few in turn, behind it: then nothing about a connection but its
name matters, and whoever moves the bytes may go by the plan without asking again. Where anything else matters (the client's
address, a limit, a plugin, a name to look up, a PROXY header to send, a node that is not well), there is no plan: each
connection is decided alone.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from sniproxy.accounting import Account, Form
from sniproxy.balancer import Target
from sniproxy.errors import SessionEnded
from sniproxy.forbidden import Forbidden
from sniproxy.networks import family_of, host_port, parse_address
from sniproxy.router import Route
from sniproxy.settings import Listener, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.tallies import Tally
from sniproxy.tls import Certificate, ServerTls

PASSTHROUGH = "passthrough"
PATIENCE = 1.0  # seconds for which a relay may keep somebody who is no session yet: shorter timeouts are not its to hold


class Agreed(NamedTuple):
    """What a TLS handshake with a client has come to, as far as log lines have it."""

    version: str
    cipher: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The course of a session. Its node is the next one of `target.round`."""

    listener: Listener
    name: str
    route: Route
    target: Target
    port: int  # of a node that names none
    server_tls: ServerTls | None = None  # what TLS is terminated with; None: it is passed through
    forms: dict[tuple[int, Agreed | None], Form] = field(
        default_factory=dict, compare=False
    )  # of its sessions' lines, by pick and by what was agreed on
    tally: Tally | None = field(default=None, compare=False)  # where its sessions count

    def form(self, pick: int, agreed: Agreed | None = None) -> Form:
        """The log lines of sessions that went to that node of the round, and had that TLS of ours."""
        key = pick, agreed
        if key not in self.forms:
            self.forms[key] = Form(self.account("", "", pick, agreed))
        return self.forms[key]

    def node(self, pick: int) -> str:
        """The host:port of a node of the round."""
        node = self.target.round[pick]
        return f"{node.host}:{node.port or self.port}"

    def node_address(self, pick: int) -> str:
        """Its address and port: nodes of plans have no names."""
        node = self.target.round[pick]
        return host_port(node.bare_host, node.port or self.port)

    def account(
        self, session: str, client: str, pick: int, agreed: Agreed | None = None
    ) -> Account:
        """One of its sessions, that took no time at all."""
        return Account(
            client=client,
            listener=self.listener.address,
            started=0.0,
            id=session,
            sni=self.name,
            route=self.route.id,
            node=self.node(pick),
            node_address=self.node_address(pick),
            tls=PASSTHROUGH if agreed is None else agreed.version,
            cipher=None if agreed is None else agreed.cipher,
            resumed=agreed is not None and agreed.resumed,
            hello_at=0.0,
            handshake_at=None if agreed is None else 0.0,
            connected_at=0.0,
        )


def treats_all_alike(listener: Listener, settings: Proxy) -> bool:
    """Whether there may be plans for a listener: nobody's address is looked at before he says a name."""
    asks_first = listener.allow or listener.deny or settings.limits.ask_each
    return listener.is_tls and not asks_first and settings.hello_timeout >= PATIENCE


def plan_for(
    snapshot: Snapshot,
    listener: Listener,
    settings: Proxy,
    name: str,
    port: int,
    forbidden: Forbidden,
    tally: Tally | None = None,
) -> Plan | None:
    """The plan for a name at a listener, whose port that is; None where not everybody fares the same.

    tally: where its sessions are to count.
    """
    if not treats_all_alike(listener, settings):
        return None
    route = snapshot.router.match_for_all(name, port)
    if route is None:
        return None
    server_tls: ServerTls | None = None
    if not listener.passes_through(asked=route.tls_passthrough):
        server_tls = _server_tls(snapshot, name)
        if server_tls is None or settings.handshake_timeout < PATIENCE:
            return None
    target = snapshot.target(route)
    if target is None or not target.is_plain or snapshot.plugins(route):
        return None
    if target.checkup is not None and not target.checkup.steady:
        return None
    if (target.connect_timeout or settings.connect_timeout) < PATIENCE:
        return None
    if not target.round or any(family_of(node.bare_host) is None for node in target.round):
        return None
    nodes = set(target.round)
    if any(forbidden.why(parse_address(one.bare_host), one.port or port) for one in nodes):
        return None
    return Plan(listener, name, route, target, port, server_tls, tally=tally)


def _server_tls(snapshot: Snapshot, name: str) -> ServerTls | None:
    """What everybody's handshake is made with who asks for a name; None where that may be another one in a while.

    Who has to show a certificate is told of one by one.
    """
    candidates = snapshot.certificates.candidates(name)
    if len(candidates) != 1 or not isinstance(candidates[0], Certificate):
        return None
    if candidates[0].wants_client:
        return None
    try:
        return candidates[0].server_tls
    except SessionEnded:  # it does not open any more: each is told so
        return None
