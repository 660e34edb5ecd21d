"""Upstreams and their nodes for tests of how game servers are reached."""

from typing import Any

from sniproxy.balancer import Target
from sniproxy.forbidden import Forbidden
from sniproxy.metrics import Metrics
from sniproxy.names import Names
from sniproxy.objects import InlineUpstream
from sniproxy.settings import Proxy
from sniproxy.upstream import Ways

CONNECT_TIMEOUT = 3.0  # seconds
OPEN = Forbidden(Proxy(listeners=(), allow_upstreams=("0.0.0.0/0", "::/0")))


def node(port: int | None, host: str = "127.0.0.1", **members: Any) -> dict[str, Any]:
    """A node of an upstream object."""
    return {"host": host, "weight": 1} | ({} if port is None else {"port": port}) | members


def target(*nodes: dict[str, Any], **members: Any) -> Target:
    """An upstream at work."""
    return Target(InlineUpstream.model_validate({"nodes": list(nodes), **members}))


def ways(names: Names, metrics: Metrics | None = None, forbidden: Forbidden = OPEN) -> Ways:
    """What a worker's sessions connect by."""
    return Ways(names, forbidden, metrics or Metrics(), CONNECT_TIMEOUT, 300)
