"""Every way a session can end, and every exception of ours. Imports nothing of ours.

Errors are translated here-ward once, at the edge where a library or the kernel raised them, and carry what and where.
No message ever holds a private key.
"""

from enum import StrEnum


class CloseReason(StrEnum):
    """Why a session ended: the same word stands in the log, the metric and the API."""

    # played to the end
    CLIENT_CLOSED = "client_closed"
    UPSTREAM_CLOSED = "upstream_closed"
    CLIENT_TRUNCATED = (
        "client_truncated"  # as closed, but its TLS was never closed: perhaps not all came
    )
    UPSTREAM_TRUNCATED = "upstream_truncated"
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    IDLE_TIMEOUT = "idle_timeout"
    SESSION_TIMEOUT = "session_timeout"  # limits.session_time is over
    KILLED = "killed"
    SHED = "shed"  # memory was short and it held the most bytes
    SHUTDOWN = "shutdown"
    # before the ClientHello was complete
    PROBE = "probe"  # closed without a byte: a load balancer's health check; not logged
    PROXY_UNTRUSTED = "proxy_untrusted"
    PROXY_BROKEN = "proxy_broken"
    HELLO_ABANDONED = "hello_abandoned"
    HELLO_TIMEOUT = "hello_timeout"
    HELLO_NOT_TLS = "hello_not_tls"
    HELLO_BROKEN = "hello_broken"
    HELLO_TOO_LARGE = "hello_too_large"
    # not let in
    SESSION_LIMIT = "session_limit"  # max_sessions
    ADDRESS_DENIED = "address_denied"  # a listener's allow and deny, or ip-restriction
    ADDRESS_LIMIT = "address_limit"  # sessions of one client address
    ADDRESS_RATE = "address_rate"  # new sessions of one client address
    ROUTE_LIMIT = "route_limit"  # sessions of a route, or limit-conn
    ROUTE_RATE = "route_rate"  # new sessions of a route
    ROUTE_DRAINED = "route_drained"  # `sniproxy drain --route`
    DESCRIPTOR_LIMIT = "descriptor_limit"  # none left for the way to the game server
    MEMORY_LIMIT = "memory_limit"  # overload.max_memory
    SETUP_LIMIT = "setup_limit"  # overload.queue or overload.queue_timeout
    # no way to a game server
    NO_ROUTE = "no_route"
    NO_CERTIFICATE = "no_certificate"
    NO_UPSTREAM = "no_upstream"
    # the TLS handshake with the client
    HANDSHAKE_FAILED = "handshake_failed"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    TLS_ERROR = "tls_error"  # after the handshake: a record that does not decrypt
    # the way to the game server
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_NAME = "upstream_name"
    UPSTREAM_DENIED = "upstream_denied"  # proxy.deny_upstreams, or it is ourselves
    UPSTREAM_TLS = (
        "upstream_tls"  # no TLS with it: the handshake failed, or a record does not decrypt
    )
    UPSTREAM_CERTIFICATE = (
        "upstream_certificate"  # tls.verify: its certificate is not the right one
    )
    # ours
    INTERNAL_ERROR = "internal_error"


class Limit(StrEnum):
    """What refuses a connection: a setting, a plugin, an operator or the system."""

    MAX_SESSIONS = "max_sessions"
    ALLOW_DENY = "allow_deny"  # of a listener
    IP_RESTRICTION = "ip_restriction"
    ADDRESS_SESSIONS = "address_sessions"
    ADDRESS_RATE = "address_rate"
    ROUTE_SESSIONS = "route_sessions"
    ROUTE_RATE = "route_rate"
    LIMIT_CONN = "limit_conn"
    ROUTE_DRAIN = "route_drain"
    DESCRIPTORS = "descriptors"
    MAX_MEMORY = "max_memory"
    QUEUE = "queue"
    QUEUE_TIMEOUT = "queue_timeout"


# Those that anybody on the internet can cause in any number: their lines are sampled, their first flights recorded.
REFUSALS = frozenset(
    {
        CloseReason.PROXY_UNTRUSTED,
        CloseReason.PROXY_BROKEN,
        CloseReason.HELLO_ABANDONED,
        CloseReason.HELLO_TIMEOUT,
        CloseReason.HELLO_NOT_TLS,
        CloseReason.HELLO_BROKEN,
        CloseReason.HELLO_TOO_LARGE,
        CloseReason.SESSION_LIMIT,
        CloseReason.ADDRESS_DENIED,
        CloseReason.ADDRESS_LIMIT,
        CloseReason.ADDRESS_RATE,
        CloseReason.ROUTE_LIMIT,
        CloseReason.ROUTE_RATE,
        CloseReason.ROUTE_DRAINED,
        CloseReason.DESCRIPTOR_LIMIT,
        CloseReason.MEMORY_LIMIT,
        CloseReason.SETUP_LIMIT,
        CloseReason.NO_ROUTE,
        CloseReason.NO_CERTIFICATE,
        CloseReason.HANDSHAKE_FAILED,
        CloseReason.HANDSHAKE_TIMEOUT,
    }
)


# How sessions end that were played and are simply over: their lines may be drawn by lot (log.sessions).
ORDINARY = frozenset(
    {
        CloseReason.CLIENT_CLOSED,
        CloseReason.UPSTREAM_CLOSED,
        CloseReason.CLIENT_TRUNCATED,
        CloseReason.UPSTREAM_TRUNCATED,
        CloseReason.CLIENT_RESET,
        CloseReason.IDLE_TIMEOUT,
        CloseReason.SESSION_TIMEOUT,
        CloseReason.SHUTDOWN,
    }
)


class SniproxyError(Exception):
    """The base of every exception of ours."""


class SettingsError(SniproxyError):
    """A setting that cannot be used; the message names the key, the reason and the way out. The CLI exits 2 on it."""


class UpgradeRefused(SniproxyError):
    """The new version could not run; the message says why. The old one goes on."""


class WorkersFailed(SniproxyError):
    """No worker stays alive; the message says what to look at. The CLI exits 1 on it."""


class SessionEnded(SniproxyError):
    """Ends one session's set-up with a reason; `detail` is for the log line, never for a metric label.

    limit: what has refused it, where the reason stands for several (`sniproxy.metrics.counts.LIMITS`).
    """

    def __init__(self, reason: CloseReason, detail: str = "", limit: Limit | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.limit = limit


class ObjectRefused(SniproxyError):
    """An object that breaks a rule; the message carries the path of the member and the reason."""


class KeyringError(SniproxyError):
    """A value at rest that no key of the keyring opens."""


class KeyFileUnread(KeyringError):
    """The key file cannot be read now; what keeps us from it may pass."""


class NoKeyYet(KeyringError):
    """On this machine no key was made, and who only looks makes none."""


class StoreError(SniproxyError):
    """The base of what a store raises."""


class StoreUnavailable(StoreError):
    """The store did not answer, or not in time. A write it was asked for may or may not have happened."""


class Conflict(StoreError):
    """A compare failed: the key is not at the expected revision. Nothing was written."""


class Compacted(StoreError):
    """The history before `revision` is gone: list again, apply the difference, watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history before revision {revision} was compacted")
        self.revision = revision


def os_cause(error: BaseException) -> str:
    """What TLS or the kernel said, which libraries keep as the cause of their own error; "" if neither said anything."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and str(cause):  # ssl.SSLError is one
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return ""
