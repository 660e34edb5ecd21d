"""An upstream at work: how sessions get to its game servers. Which of them one gets is `balancing`'s."""

from sniproxy.balancing import balancer_for
from sniproxy.objects import InlineUpstream

# The others mean plain TCP for streams, as in APISIX. Who asks for TLS must never get plain TCP instead.
UNSPOKEN = frozenset({"tls", "udp", "kafka"})


class Target:
    """An upstream at work: its balancer and its limits in seconds. Made anew when the object changes.

    Of the object it keeps what a session asks for and no more: there may be one for each of many thousand routes.
    """

    __slots__ = (
        "__weakref__",
        "balancer",
        "connect_timeout",
        "discovered",
        "idle_timeout",
        "proxy_protocol",
        "retries",
        "retry_timeout",
        "round",
        "scheme",
        "service",
    )

    def __init__(self, upstream: InlineUpstream) -> None:
        self.scheme = upstream.scheme
        self.proxy_protocol = upstream.proxy_protocol
        self.balancer = balancer_for(upstream)
        self.round = self.balancer.round  # for plans: there are none where it is empty
        timeout = upstream.timeout
        self.connect_timeout = timeout.connect if timeout else None
        self.idle_timeout = max(timeout.send, timeout.read) if timeout else None
        self.retries = (
            len(self.balancer.nodes) - 1 if upstream.retries is None else upstream.retries
        )
        self.retry_timeout = upstream.retry_timeout or None  # 0 = no limit, as in APISIX
        # Its nodes are what DNS has under a name (`discovery.py`), as of the last time.
        self.service = upstream if upstream.discovery_type == "dns" else None
        self.discovered: Target | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its game servers get the client's bytes over TCP and nothing else."""
        return self.scheme not in UNSPOKEN and self.proxy_protocol is None
