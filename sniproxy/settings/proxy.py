"""The data plane's sections: what listens, what limits it, and how it ends."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sniproxy.networks import IpAddress, Networks, parse_address
from sniproxy.settings.fields import (
    HOUR,
    KIB,
    MIB,
    MINUTE,
    SECOND,
    Address,
    DnsServer,
    NetworkText,
    PositiveSeconds,
    Section,
)


class Listener(Section):
    """One listening address. Both flags: the route's `tls_passthrough` decides. Neither: plain TCP."""

    address: Address
    tls: bool = False
    tls_passthrough: bool = False
    proxy_protocol: bool = False  # a PROXY header, v1 or v2, comes first, from proxy.trusted only
    allow: tuple[NetworkText, ...] = ()  # the only clients that may come in; empty = everybody
    deny: tuple[NetworkText, ...] = ()  # clients that may not, allowed or not

    @property
    def is_tls(self) -> bool:
        """Whether a ClientHello is expected."""
        return self.tls or self.tls_passthrough

    def passes_through(self, *, asked: bool) -> bool:
        """Whether TLS is left as it is; `asked`: what the route says, which counts where both are offered."""
        return self.tls_passthrough and (asked or not self.tls)

    def admits(self, address: IpAddress) -> bool:
        """Whether a client may come in, by `allow` and `deny`."""
        return address not in self._denied and (not self.allow or address in self._allowed)

    @cached_property
    def _allowed(self) -> Networks:
        return Networks(self.allow)

    @cached_property
    def _denied(self) -> Networks:
        return Networks(self.deny)


class Rate(Section):
    """A token bucket: `burst` at once, then `per_second`."""

    per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class Limits(Section):
    """Limits of sessions, over all workers of a pod; unset = none. An IPv6 client is its /64."""

    address_sessions: Annotated[int, Field(ge=1)] | None = None  # at once, per client address
    address_rate: Rate | None = None  # new ones, per client address
    route_sessions: Annotated[int, Field(ge=1)] | None = None  # at once, per route
    route_rate: Rate | None = None  # new ones, per route
    session_time: PositiveSeconds | None = None  # how long one may last
    session_bandwidth: Annotated[int, Field(ge=1024)] | None = None  # bytes per second, each way
    table: Annotated[int, Field(ge=1024, le=2**24)] = 65_536  # addresses and routes counted at once

    @property
    def ask_each(self) -> bool:
        """Whether a new session must be counted by its address or its route."""
        counted = (
            self.address_sessions,
            self.address_rate,
            self.route_sessions,
            self.route_rate,
        )
        return any(limit is not None for limit in counted)


class Dns(Section):
    """How names of game servers are resolved. Names in /etc/hosts are not asked for."""

    servers: tuple[DnsServer, ...] = ()  # in place of those of /etc/resolv.conf and its search list
    timeout: PositiveSeconds = 1 * SECOND  # of a question to one server; each is asked twice
    min_ttl: PositiveSeconds = 1 * SECOND  # bounds of what DNS says
    max_ttl: PositiveSeconds = 1 * MINUTE
    negative_ttl: PositiveSeconds = 5 * SECOND  # for a name that is not there
    stale: Annotated[float, Field(ge=0)] | None = (
        None  # after its TTL, while DNS is down; None: ever
    )
    names: Annotated[int, Field(ge=16)] = 4096  # kept, per worker

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_ttl > self.max_ttl:
            raise ValueError("min_ttl is above max_ttl")
        return self


class Proxy(Section):
    """The data plane and its limits. Every timeout is total, not per read."""

    listeners: tuple[Listener, ...] = (
        Listener(address="0.0.0.0:8888", tls=True, tls_passthrough=True),
    )
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"  # auto: one per CPU
    max_crashes: Annotated[int, Field(ge=1)] = 5  # of one worker, before it is given up ...
    crash_window: PositiveSeconds = 1 * MINUTE  # ... in which they count
    trusted: tuple[NetworkText, ...] = ()  # who may say PROXY
    backlog: Annotated[int, Field(ge=1)] = 4096  # connections the kernel keeps for us
    deny_upstreams: tuple[NetworkText, ...] = ()  # no session is connected there, nor to ourselves
    allow_upstreams: tuple[NetworkText, ...] = ()  # but there; opens link-local addresses too
    defer_accept: Annotated[int, Field(ge=0, le=60)] = 1  # seconds to wait for the first byte
    accept_batch: Annotated[int, Field(ge=1)] = 64  # connections taken per turn of the loop
    max_sessions: Annotated[int, Field(ge=1)] = 20_000  # sessions at once, set-up included
    limits: Limits = Limits()
    dns: Dns = Dns()
    hello_timeout: PositiveSeconds = 5 * SECOND
    max_hello: Annotated[int, Field(ge=16 * KIB, le=16 * MIB)] = 64 * KIB  # bytes of the handshake
    max_hello_raw: Annotated[int, Field(ge=96 * KIB)] = 128 * KIB  # the same with record headers
    handshake_timeout: PositiveSeconds = 10 * SECOND
    connect_timeout: PositiveSeconds = (
        3 * SECOND
    )  # per node, name lookup included, and TLS where it is spoken
    idle_timeout: PositiveSeconds = 1 * HOUR  # no byte in either direction
    half_close_timeout: PositiveSeconds = 2 * MINUTE  # the same after one side has ended
    keepalive_idle: Annotated[int, Field(ge=1)] = 300  # seconds; an NLB forgets a flow after 350
    notsent_lowat: Annotated[int, Field(ge=0, le=2**31 - 1)] = 128 * KIB  # bytes; 0: the kernel's
    relay: Literal["auto", "native", "trio"] = "auto"  # auto: native where it is built
    relay_buffer: Annotated[int, Field(ge=4 * KIB)] = 64 * KIB  # bytes, shared by all sessions
    relay_pipes: Annotated[int, Field(ge=0, le=1024)] = 16  # for bulk, of 1 MiB each; 0: none
    refused_log_interval: Annotated[float, Field(ge=0)] = 1 * SECOND  # between lines of one reason
    refused_kept: Annotated[int, Field(ge=0)] = 1 * MIB  # bytes of the latest refused first flights
    store_retry: PositiveSeconds = 0.1 * SECOND  # first pause before asking a lost store
    store_retry_max: PositiveSeconds = 3 * SECOND  # it doubles up to this
    store_wait: PositiveSeconds = 2 * SECOND  # at start, before the old copy is served from
    file_poll: PositiveSeconds = 1 * SECOND  # between looks at the files that ssl objects name
    file_timeout: PositiveSeconds = 5 * SECOND  # for reading all files of one object

    @model_validator(mode="after")
    def _headers_have_a_source(self) -> Self:
        if any(listener.proxy_protocol for listener in self.listeners) and not self.trusted:
            raise ValueError("proxy_protocol needs proxy.trusted: the balancer's networks")
        return self

    def trusts(self, address: str) -> bool:
        """Whether a PROXY header from this peer is believed."""
        return parse_address(address) in self._trusted

    @cached_property
    def _trusted(self) -> Networks:
        return Networks(self.trusted)


class Drain(Section):
    """How a data plane ends: seconds, one after the other, from SIGTERM on."""

    accept: Annotated[float, Field(ge=0)] = 0  # not ready any more, and still letting players in
    deadline: Annotated[float, Field(ge=0)] = 1 * MINUTE  # for sessions to end by themselves
    spread: Annotated[float, Field(ge=0)] = 10 * SECOND  # over which the rest is ended
    upgrade_deadline: Annotated[float, Field(ge=0)] | None = None  # `deadline` of an old version


class Overload(Section):
    """What is done when more comes than can be served. Sessions that play go before those that come."""

    max_memory: Annotated[int, Field(ge=64 * MIB)] | Literal["auto"] | None = "auto"  # bytes
    setups: Annotated[int, Field(ge=1)] = 512  # past the hello, on their way to play, per worker
    route_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of `setups` for one route at most
    address_share: Annotated[float, Field(gt=0, le=1)] = 0.125  # and for one client address
    queue: Annotated[int, Field(ge=0)] = 4096  # connections that wait for that, per worker
    queue_timeout: PositiveSeconds = 10 * SECOND  # for which one waits at most
