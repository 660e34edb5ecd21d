"""Upstreams and their nodes for tests of how game servers are reached."""

import os
from typing import Any

from sniproxy.balancer import Target
from sniproxy.forbidden import Forbidden
from sniproxy.objects import InlineUpstream
from sniproxy.settings import Proxy

CONNECT_TIMEOUT = 3.0  # seconds
OPEN = Forbidden(Proxy(listeners=(), allow_upstreams=("0.0.0.0/0", "::/0")))


def node(port: int | None, host: str = "127.0.0.1", **members: Any) -> dict[str, Any]:
    """A node of an upstream object."""
    return {"host": host, "weight": 1} | ({} if port is None else {"port": port}) | members


def target(*nodes: dict[str, Any], **members: Any) -> Target:
    """An upstream at work."""
    return Target(InlineUpstream.model_validate({"nodes": list(nodes), **members}))


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
