"""What may become of a connection, case by case, and what `sniproxy explain` must say of each."""

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sniproxy.errors import CloseReason
from sniproxy.settings import Listener
from sniproxy.upstream_tls import TLS_IN_TLS
from tests.support.certificates import NAME, authority_pem, dated
from tests.support.gateway import Objects, certificate, route

MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
TERMINATE = Listener(address="127.0.0.1:0", tls=True)
PASSTHROUGH = Listener(address="127.0.0.1:0", tls_passthrough=True)
PLAIN = Listener(address="127.0.0.1:0")
HOME = ipaddress.ip_address("127.0.0.1")
NOW = time.time()

Lines = list[tuple[str, str]]
NODE = ("upstream", "127.0.0.1:9 weight 1")
ENCRYPTED = {"nodes": {"127.0.0.1:9": 1}, "scheme": "tls"}
PASSED = ("tls", "passed through: the game server answers the hello")


def passing(*, port: int | None = 9, **members: Any) -> dict[str, Any]:
    """A route that passes through to where nobody listens."""
    return route(port, **{"sni": NAME, "tls_passthrough": True, **members})


def won(route_id: str = "1", pattern: str = NAME) -> tuple[str, str]:
    return "route", f"{route_id} by {pattern}"


def over(route_id: str, member: str, pattern: str = NAME) -> tuple[str, str]:
    return "passed over", f"{route_id} by {pattern}: its {member} does not fit"


@dataclass(frozen=True)
class Case:
    """Routes by id and other objects, and what is said of a player from this machine who asks for NAME."""

    name: str
    routes: Mapping[str, Mapping[str, Any]]
    lines: Lines  # those between the client's and the last one of a refusal
    refused: CloseReason | None = None
    others: Objects = field(default_factory=dict)
    listener: Listener = MIXED
    asked: str | None = NAME

    @property
    def objects(self) -> Objects:
        """All of them."""
        return {**{f"stream_routes/{key}": one for key, one in self.routes.items()}, **self.others}


UNASKED = "TLSv1.2, TLSv1.3; client certificate not asked for"
EXPIRED, EARLY = dated(NAME, NOW - 2, NOW - 1), dated(NAME, NOW + 1e6, NOW + 2e6)
DENIED, NO_UPSTREAM = CloseReason.ADDRESS_DENIED, CloseReason.NO_UPSTREAM
RESTRICTED = {"ip-restriction": {"blacklist": ["127.0.0.0/8"]}}
ELSEWHERE = {"ip-restriction": {"blacklist": ["10.0.0.0/8"]}}
LIMIT = {"conn": 3, "burst": 0, "default_conn_delay": 0.001, "key": "remote_addr"}
OFF = {"_meta": {"disable": True}}
MUTUAL = certificate(client={"ca": authority_pem("ours"), "depth": 2}, ssl_protocols=["TLSv1.3"])


def encrypted(name: str, said: str | tuple[str, str], **members: Any) -> Case:
    """One that is led to a game server with TLS; `said`: of that, or why not."""
    upstream = ENCRYPTED | {"tls": members.pop("tls", {})}
    rest = [said] if isinstance(said, tuple) else [NODE, ("tls", f"spoken with {said}")]
    lines = [("route", "1, which names nothing"), *rest]
    refused = NO_UPSTREAM if isinstance(said, tuple) else None
    routes = {"1": {"upstream": upstream}}
    return Case(name, routes, lines, refused, listener=PLAIN, asked=None, **members)


CASES = [
    Case("exact name", {"1": passing()}, [won(), PASSED, NODE]),
    Case("wildcard", {"1": passing(sni="*.com")}, [won("1", "*.com"), PASSED, NODE]),
    Case(
        "names nothing",
        {"1": route(9, tls_passthrough=True)},
        [("route", "1, which names nothing"), PASSED, NODE],
    ),
    Case(
        "the next one",
        {"b": passing(), "a": passing(), "c": passing()},
        [won("a"), ("next", f"b by {NAME}"), PASSED, NODE],
    ),
    Case(
        "the narrower one",
        {"a": passing(), "b": passing(remote_addr="127.0.0.0/8"), "w": passing(sni="*")},
        [won("b"), ("next", f"a by {NAME}"), PASSED, NODE],
    ),
    Case(
        "no name",
        {"1": passing(), "2": passing(sni="*"), "3": route(9, tls_passthrough=True)},
        [("route", "3, which names nothing"), ("next", "2 by *"), PASSED, NODE],
        asked=None,
    ),
    *(
        Case(
            f"{member} does not fit",
            {"1": {**passing(), member: value}, "2": passing(sni="*")},
            [over("1", member), won("2", "*"), PASSED, NODE],
        )
        for member, value in (
            ("server_port", 1),
            ("remote_addr", "10.0.0.0/8"),
            ("server_addr", "10.0.0.1"),
        )
    ),
    Case("no objects", {}, [("route", "none takes it")], CloseReason.NO_ROUTE),
    Case(
        "none fits",
        {"1": passing(server_port=1), "2": passing(remote_addr="10.0.0.1")},
        [over("2", "remote_addr"), over("1", "server_port"), ("route", "none takes it")],
        CloseReason.NO_ROUTE,
    ),
    Case(
        "denied by the listener",
        {"1": passing()},
        [("client", "denied by allow and deny of the listener")],
        DENIED,
        listener=MIXED.model_copy(update={"deny": ("127.0.0.1",)}),
    ),
    Case(
        "not allowed by the listener",
        {},
        [("client", "denied by allow and deny of the listener")],
        DENIED,
        listener=MIXED.model_copy(update={"allow": ("10.0.0.0/8",)}),
    ),
    Case(
        "denied by the route",
        {"1": passing(plugins=RESTRICTED), "2": passing(sni="*")},
        [won(), ("next", "2 by *"), ("plugin", "ip-restriction: denies the client's address")],
        DENIED,
    ),
    Case(
        "denied by the service",
        {"1": passing(service_id="s")},
        [won(), ("plugin", "ip-restriction: denies the client's address")],
        DENIED,
        {"services/s": {"plugins": RESTRICTED}},
    ),
    Case(
        "admitted by the route, whatever its service has",
        {"1": passing(service_id="s", plugins=ELSEWHERE)},
        [won(), ("plugin", "ip-restriction: admits the client's address"), PASSED, NODE],
        others={"services/s": {"plugins": RESTRICTED}},
    ),
    Case(
        "switched off",
        {"1": passing(service_id="s", plugins={"ip-restriction": OFF, "unheard-of": OFF})},
        [
            won(),
            ("plugin", "ip-restriction: switched off"),
            ("plugin", "unheard-of: switched off"),
            PASSED,
            NODE,
        ],
        others={"services/s": {"plugins": RESTRICTED}},
    ),
    Case(
        "limit-conn",
        {"1": passing(plugins={"limit-conn": LIMIT})},
        [won(), ("plugin", "limit-conn: 3 sessions per remote_addr"), PASSED, NODE],
    ),
    Case(
        "limit-conn with burst",
        {"1": passing(plugins={"limit-conn": {**LIMIT, "burst": 2}})},
        [
            won(),
            ("plugin", "limit-conn: 3 sessions per remote_addr, 2 more are kept waiting"),
            PASSED,
            NODE,
        ],
    ),
    Case(
        "no certificate",
        {"1": route(9, sni=NAME)},
        [won(), ("tls", "no ssl object has that name")],
        CloseReason.NO_CERTIFICATE,
        {"ssls/1": certificate("other.test")},
    ),
    Case(
        "nothing is passed through here",
        {"1": passing()},
        [won(), ("tls", "no ssl object has that name")],
        CloseReason.NO_CERTIFICATE,
        listener=TERMINATE,
    ),
    Case(
        "everything is passed through here",
        {"1": route(9, sni=NAME)},
        [won(), PASSED, NODE],
        listener=PASSTHROUGH,
    ),
    Case(
        "terminated",
        {"1": route(9, sni=NAME)},
        [
            won(),
            ("tls", f"terminated with ssl one; {UNASKED}"),
            NODE,
        ],
        others={"ssls/one": certificate()},
    ),
    Case(
        "client certificate",
        {"1": route(9, sni=NAME)},
        [
            won(),
            ("tls", "terminated with ssl m; TLSv1.3; client certificate wanted, depth 2"),
            NODE,
        ],
        others={"ssls/m": MUTUAL, "ssls/any": certificate("any.test", sni="*")},
    ),
    Case(
        "of two certificates the last one is not valid",
        {"1": route(9, sni=NAME)},
        [
            won(),
            ("passed over", "ssl c: not valid yet"),
            ("passed over", "ssl b: expired"),
            ("tls", f"terminated with ssl a; {UNASKED}"),
            NODE,
        ],
        others={
            "ssls/z": certificate(),
            "ssls/m": MUTUAL,
            "ssls/a": certificate(),
            "ssls/b": {"sni": NAME, **EXPIRED},
            "ssls/c": {"sni": NAME, **EARLY},
        },
    ),
    Case(
        "no valid certificate that asks the same",
        {"1": route(9, sni=NAME)},
        [won(), ("tls", f"terminated with ssl b; {UNASKED}; expired"), NODE],
        others={"ssls/m": MUTUAL, "ssls/b": {"sni": NAME, **EXPIRED}},
    ),
    Case(
        "no upstream",
        {"1": passing(port=None)},
        [won(), PASSED, ("upstream", "the route has none, or names one that is not there")],
        NO_UPSTREAM,
    ),
    Case(
        "an upstream that is not there",
        {"1": passing(port=None, upstream_id="gone")},
        [won(), PASSED, ("upstream", "the route has none, or names one that is not there")],
        NO_UPSTREAM,
    ),
    Case(
        "a service that is not there",
        {"1": passing(service_id="gone")},
        [won(), PASSED, ("upstream", "the route has none, or names one that is not there")],
        NO_UPSTREAM,
    ),
    Case(
        "weight 0 only",
        {"1": passing(upstream={"nodes": {"127.0.0.1:9": 0}})},
        [won(), PASSED, ("upstream", "no node with a weight above 0")],
        NO_UPSTREAM,
    ),
    Case(
        "nodes of DNS",
        {"1": passing(upstream={"service_name": "_g._tcp.example", "discovery_type": "dns"})},
        [won(), PASSED, ("upstream", "what DNS has under _g._tcp.example")],
    ),
    Case(
        "scheme udp",
        {"1": passing(upstream={"nodes": {"127.0.0.1:9": 1}, "scheme": "udp"})},
        [won(), PASSED, ("upstream", "scheme udp is not spoken to upstreams")],
        NO_UPSTREAM,
    ),
    Case(
        "TLS around the client's own",
        {"1": passing(upstream=ENCRYPTED)},
        [won(), PASSED, ("upstream", TLS_IN_TLS)],
        NO_UPSTREAM,
    ),
    encrypted("TLS to the game server", "127.0.0.1, not verified; client certificate none"),
    encrypted(
        "TLS to game servers, with everything",
        "127.0.0.1, verified; client certificate shown where one is asked for",
        tls={"verify": True, "client_cert_id": 7},
        others={"ssls/7": certificate("player.example.com", type="client")},
    ),
    encrypted(
        "a client certificate that is not there",
        ("upstream", "ssl 7, its client certificate, is not there"),
        tls={"client_cert_id": 7},
    ),
    Case(
        "nodes of a service's upstream, with a PROXY header",
        {"1": passing(port=None, service_id="s")},
        [
            won(),
            PASSED,
            (
                "upstream",
                "127.0.0.1:9 weight 2, 127.0.0.77:(the port connected to) weight 1; PROXY v2 first",
            ),
        ],
        others={
            "services/s": {"upstream_id": "u"},
            "upstreams/u": {
                "nodes": [
                    {"host": "127.0.0.1", "port": 9, "weight": 2},
                    {"host": "127.0.0.1", "port": 9, "weight": 0},
                    {"host": "127.0.0.77", "weight": 1},
                ],
                "proxy_protocol": "v2",
            },
        },
    ),
    Case(
        "nodes that do not take turns",
        {"1": passing(upstream={"nodes": {"127.0.0.1:9": 1}, "type": "least_conn"})},
        [won(), PASSED, ("upstream", "127.0.0.1:9 weight 1; by fewest sessions")],
    ),
    Case(
        "a type of balancer that is not known",
        {"1": passing(upstream={"nodes": {"127.0.0.1:9": 1}, "type": "x"})},
        [won(), PASSED, ("upstream", "127.0.0.1:9 weight 1; by turn, as type x is not known")],
    ),
    Case(
        "plain TCP",
        {"1": passing(), "2": route(9, server_addr="127.0.0.1"), "3": passing(sni="*")},
        [("route", "2, which names nothing"), ("next", "3 by *"), NODE],
        listener=PLAIN,
        asked=None,
    ),
    Case(
        "plain TCP has no names",
        {"1": passing()},
        [("route", "none takes it")],
        CloseReason.NO_ROUTE,
        listener=PLAIN,
    ),
]
