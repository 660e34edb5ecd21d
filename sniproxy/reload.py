"""Settings that were read again: what of them a running data plane takes over, and what waits for a restart in place. Pure.

What is bound, built or shared at the start cannot change later: sockets, the relay, the store, memory that workers share.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sniproxy.settings import Settings

# What may change while sessions play, for those that come from then on. docs/settings.md has the same list, and a test
# asks for a decision about each new setting.
LIVE = frozenset(
    {
        "proxy.listeners.tls",
        "proxy.listeners.tls_passthrough",
        "proxy.listeners.proxy_protocol",
        "proxy.listeners.allow",
        "proxy.listeners.deny",
        "proxy.max_crashes",
        "proxy.crash_window",
        "proxy.trusted",
        "proxy.deny_upstreams",
        "proxy.allow_upstreams",
        "proxy.accept_batch",
        "proxy.max_sessions",
        "proxy.limits.address_sessions",
        "proxy.limits.address_rate",
        "proxy.limits.route_sessions",
        "proxy.limits.route_rate",
        "proxy.limits.session_time",
        "proxy.limits.session_bandwidth",
        "proxy.dns.servers",
        "proxy.dns.timeout",
        "proxy.dns.min_ttl",
        "proxy.dns.max_ttl",
        "proxy.dns.negative_ttl",
        "proxy.dns.stale",
        "proxy.dns.names",
        "proxy.hello_timeout",
        "proxy.max_hello",
        "proxy.max_hello_raw",
        "proxy.handshake_timeout",
        "proxy.connect_timeout",
        "proxy.idle_timeout",
        "proxy.half_close_timeout",
        "proxy.keepalive_idle",
        "proxy.notsent_lowat",
        "proxy.refused_log_interval",
        "proxy.file_poll",
        "proxy.file_timeout",
        "drain.accept",
        "drain.deadline",
        "drain.spread",
        "drain.upgrade_deadline",
        "overload.max_memory",
        "overload.setups",
        "overload.route_share",
        "overload.address_share",
        "overload.queue",
        "overload.queue_timeout",
        "status.metrics_routes",
        "status.apisix_metrics",
        "encryption.keyring",
        "log.format",
        "log.sessions",
        "traces.share",
    }
)
LISTENERS = "proxy.listeners"  # taken over only together: their addresses say which is which
APART = "admin"  # another process: it reads its settings when it starts

M = TypeVar("M", bound=BaseModel)


def live(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """The settings to run with from now on, and the names, sorted, of those that differ and wait for a restart in place.

    Values of the latter, which may be secrets, are in neither. What remains of the admin API's section is the old one.
    """
    mixed, waiting = _mix("", old, new, LIVE)
    return mixed, sorted(waiting)


def _mix(place: str, old: M, new: M, table: frozenset[str]) -> tuple[M, list[str]]:
    """A section out of both. `place`: what its settings' names begin with. `table`: the names whose new values are taken."""
    values, waiting = {}, []
    for name in type(old).model_fields:
        values[name], more = _choose(place + name, getattr(old, name), getattr(new, name), table)
        waiting += more
    try:  # made anew: a copy would bring along what the old one has worked out and cached
        return type(old).model_validate(values), waiting
    except ValidationError:  # a mixture may contradict itself where neither does: all of it waits
        return _mix(place, old, new, frozenset())


def _choose(name: str, old: Any, new: Any, table: frozenset[str]) -> tuple[Any, list[str]]:
    if name == APART or old == new:
        return old, []
    if name in table:
        return new, []
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        return _mix(name + ".", old, new, table)
    if name == LISTENERS and len(old) == len(new):
        pairs = [_mix(name + ".", *both, table) for both in zip(old, new, strict=True)]
        if not any(waiting for _, waiting in pairs):
            return tuple(listener for listener, _ in pairs), []
    return old, [name]
