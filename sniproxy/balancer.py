"""An upstream at work: how sessions get to its game servers. Which of them one gets is `balancing`'s."""

from collections.abc import Callable, Sequence
from copy import copy

from sniproxy.balancing import balancer_for
from sniproxy.health import Checkup
from sniproxy.objects import InlineUpstream, Node
from sniproxy.upstream_tls import UpstreamTls

# But for `tls` the others mean plain TCP for streams, as in APISIX.
UNSPOKEN = frozenset({"udp", "kafka"})


class Target:
    """An upstream at work: its balancer and its limits in seconds. Made anew when the object changes.

    Of the object it keeps what a session asks for and no more: there may be one for each of many thousand routes.
    """

    __slots__ = (
        "__weakref__",
        "balancer",
        "checkup",
        "connect_timeout",
        "discovered",
        "idle_timeout",
        "proxy_protocol",
        "records",
        "retries",
        "retry_timeout",
        "round",
        "scheme",
        "service",
        "tls",
        "unhealthy",
    )

    def __init__(
        self, upstream: InlineUpstream, open_key: Callable[[str], str] = lambda key: key
    ) -> None:
        """`open_key` gives a private key of it in clear. ValueError and KeyringError for TLS that cannot be spoken."""
        self.scheme = upstream.scheme
        self.tls = UpstreamTls(upstream, open_key) if upstream.scheme == "tls" else None
        self.proxy_protocol = upstream.proxy_protocol
        timeout = upstream.timeout
        self.connect_timeout = timeout.connect if timeout else None
        self.idle_timeout = max(timeout.send, timeout.read) if timeout else None
        self.retry_timeout = upstream.retry_timeout or None  # 0 = no limit, as in APISIX
        self.records: tuple[object, ...] = ()  # of which the nodes in `discovered` were made
        # Its nodes are what DNS has under a name (`discovery.py`), as of the last time.
        self.service = upstream if upstream.discovery_type == "dns" else None
        self.discovered: Target | None = None
        self.unhealthy: frozenset[str] = frozenset()  # what probes have found, of any upstream
        self._balance(upstream)

    def _balance(self, upstream: InlineUpstream) -> None:
        self.balancer = balancer_for(upstream)
        checks = upstream.checks
        self.checkup = (
            None if checks is None else Checkup(self.balancer.nodes, checks.active, checks.passive)
        )
        self.round = self.balancer.round  # for plans: there are none where it is empty
        self.retries = (
            len(self.balancer.nodes) - 1 if upstream.retries is None else upstream.retries
        )

    def with_nodes(self, nodes: Sequence[Node]) -> "Target":
        """The same with these nodes: what was opened once, such as a key, is shared."""
        assert self.service is not None
        found = copy(self)
        found.service = self.service.model_copy(update={"nodes": list(nodes)})
        found.discovered = None  # what was there before, which nobody needs any more
        found._balance(found.service)
        found.hear(self.unhealthy)
        return found

    def hear(self, unhealthy: frozenset[str]) -> None:
        """What probes have found by now: the names of those that are not well."""
        self.unhealthy = unhealthy
        if self.checkup is not None:
            self.checkup.hear(unhealthy)
        if self.discovered is not None:
            self.discovered.hear(unhealthy)

    @property
    def probed(self) -> bool:
        """Whether its nodes are to be probed."""
        return self.checkup is not None and self.checkup.active is not None

    @property
    def is_plain(self) -> bool:
        """Whether its game servers get the client's bytes over TCP and nothing else."""
        spoken = self.scheme not in UNSPOKEN and self.tls is None
        return spoken and self.proxy_protocol is None
