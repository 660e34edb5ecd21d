"""The upstream object: the game servers behind a route and how they are reached."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from sniproxy.objects.describing import not_one_of, not_with, shown
from sniproxy.objects.fields import (
    HostPattern,
    Id,
    Integer,
    Items,
    Lenient,
    NamedMeta,
    Port,
    Positive,
    Seconds,
    Whole,
)

CertificateText = Annotated[str, StringConstraints(min_length=128, max_length=65536)]
Count = Annotated[int, Field(ge=1, le=254)]
CountOrOff = Annotated[int, Field(ge=0, le=254)]
Status = Annotated[int, Field(ge=200, le=599)]

_NODE = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")


class Node(Lenient):
    """One game server. Without a port it is reached on the port that the player connected to."""

    host: HostPattern
    weight: Whole
    port: Port | None = None
    priority: Integer = 0
    metadata: dict[str, Any] | None = None


def _node_list(value: Any) -> Any:
    """{"host:port": weight} becomes the list form; anything else goes on to validation as it is."""
    if not isinstance(value, dict):
        return value
    return [_node(name, weight) for name, weight in value.items()]


def _node(name: str, weight: Any) -> dict[str, Any]:
    match = _NODE.fullmatch(name)
    if match is None:
        raise ValueError(f"node {shown(name)!r} is not host:port (an IPv6 host stands in brackets)")
    node: dict[str, Any] = {"host": match["host"], "weight": weight}
    return node if match["port"] is None else node | {"port": int(match["port"])}


Nodes = Annotated[
    Items[Node], BeforeValidator(_node_list, json_schema_input_type=dict[str, Whole] | list[Node])
]


class Timeout(Lenient):
    """Seconds, all three required."""

    connect: Seconds
    send: Seconds
    read: Seconds


class Tls(Lenient):
    """How TLS to the game server is spoken when `scheme` is tls."""

    client_cert_id: Id | None = None
    client_cert: CertificateText | None = None
    client_key: Annotated[str, StringConstraints(min_length=64, max_length=65536)] | None = None
    verify: bool = False
    # As in the APISIX releases after 3.18, which look at it for https and grpcs only. None: those of the system.
    ca_certs: Annotated[Items[CertificateText], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        pair = {"client_cert": self.client_cert, "client_key": self.client_key}
        given = [name for name, text in pair.items() if text is not None]
        if len(given) == 1:
            (lacking,) = pair.keys() - given
            raise ValueError(not_with(given[0], f'property "{lacking}" is required'))
        if given and self.client_cert_id is not None:
            why = "client_cert_id and client_cert exclude each other"
            text = f"value wasn't supposed to match schema: {why}"
            raise ValueError(not_with("client_cert", text))
        return self


class ActiveHealthy(Lenient):
    """Active probes: when a node counts as healthy again."""

    interval: Positive = 1
    successes: Count = 2
    http_statuses: Items[Status] = Field(default=[200, 302])


class ActiveUnhealthy(Lenient):
    """Active probes: when a node counts as unhealthy."""

    interval: Positive = 1
    http_failures: Count = 5
    tcp_failures: Count = 2
    timeouts: Count = 3
    http_statuses: Items[Status] = Field(default=[429, 404, 500, 501, 502, 503, 504, 505])


class Active(Lenient):
    """Active probes."""

    type: Literal["http", "https", "tcp", "tls"] = "http"  # tls is ours, not APISIX's
    timeout: Seconds = 1
    concurrency: Integer = 10
    host: HostPattern | None = None
    port: Port | None = None
    http_path: str = "/"
    https_verify_certificate: bool = True
    req_headers: Annotated[Items[str], Field(min_length=1)] | None = None
    healthy: ActiveHealthy = ActiveHealthy()
    unhealthy: ActiveUnhealthy = ActiveUnhealthy()


class PassiveHealthy(Lenient):
    """Real sessions: when a node counts as healthy again."""

    successes: CountOrOff = 5
    http_statuses: Items[Status] = Field(default=[*range(200, 209), 226, *range(300, 309)])


class PassiveUnhealthy(Lenient):
    """Real sessions: when a node counts as unhealthy."""

    tcp_failures: CountOrOff = 2
    timeouts: CountOrOff = 7
    http_failures: CountOrOff = 5
    http_statuses: Items[Status] = Field(default=[429, 500, 503])


class Passive(Lenient):
    """Judging nodes by real sessions."""

    type: Literal["http", "https", "tcp", "tls"] = "http"
    healthy: PassiveHealthy = PassiveHealthy()
    unhealthy: PassiveUnhealthy = PassiveUnhealthy()


class Checks(Lenient):
    """Health checks."""

    active: Active
    passive: Passive | None = None


class KeepalivePool(Lenient):
    """HTTP only; accepted so that objects of an APISIX stay valid."""

    size: Positive = 320
    idle_timeout: Annotated[float, Field(ge=0)] = 60
    requests: Positive = 1000


class InlineUpstream(NamedMeta):
    """An upstream inside a route or service: what stands on its own, or here, is the same."""

    nodes: Nodes | None = None
    service_name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    discovery_type: str | None = None
    discovery_args: dict[str, Any] | None = None
    type: str = "roundrobin"
    hash_on: Literal["vars", "header", "cookie", "consumer", "vars_combinations"] = "vars"
    key: str | None = None
    retries: Whole | None = None
    retry_timeout: Annotated[float, Field(ge=0)] | None = None
    timeout: Timeout | None = None
    scheme: Literal["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"] = "http"
    tls: Tls | None = None
    checks: Checks | None = None
    pass_host: Literal["pass", "node", "rewrite"] = "pass"
    upstream_host: HostPattern | None = None
    keepalive_pool: KeepalivePool | None = None
    # Ours, not APISIX's: the header that tells the game server who the player is. v2 also names the SNI and the session.
    proxy_protocol: Literal["v1", "v2"] | None = None

    @model_validator(mode="after")
    def _one_source_of_nodes(self) -> Self:
        if self.nodes is not None and self.service_name is not None:
            why = "nodes and service_name exclude each other"
            # Without a discovery_type APISIX takes the nodes.
            raise ValueError(not_one_of(why, both=True) if self.discovery_type else why)
        if self.nodes is None and (self.service_name is None or self.discovery_type is None):
            raise ValueError(not_one_of("needs nodes, or service_name with discovery_type"))
        return self


class Upstream(InlineUpstream):
    """APISIX's upstream."""
