"""Every metric: its kind, its labels, what it means, and which alert looks at it. docs/metrics.md is made of this."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """As Prometheus has them. A counter's name ends in _total where it is scraped."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Told(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    alert: str = ""
    # Of several processes; "": from their parent alone.
    together: str = "sum"


C, G, H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

SESSIONS = (
    Told("sniproxy_sessions_opened", C, "Connections accepted"),
    Told("sniproxy_sessions_active", G, "Sessions now, set-up included"),
    Told(
        "sniproxy_sessions_closed",
        C,
        "Sessions ended, by the reason that their log line names",
        ("reason",),
        "SniproxyFull, SniproxyMemoryShort, SniproxyUnservedSurge",
    ),
    Told("sniproxy_bytes_to_upstream", C, "Payload, while sessions live"),
    Told("sniproxy_bytes_to_client", C, "Payload, while sessions live"),
    Told("sniproxy_hello_seconds", H, "From accept to the whole hello"),
    Told(
        "sniproxy_handshake_seconds", H, "From there to the end of the TLS handshake, if it is ours"
    ),
    Told("sniproxy_connect_seconds", H, "From there to the connection with the game server"),
    Told(
        "sniproxy_first_byte_seconds",
        H,
        "From the connection with the game server to its first byte for the client",
    ),
    Told(
        "sniproxy_session_seconds",
        H,
        "From accept to the end, of sessions that came to a game server",
    ),
    Told(
        "sniproxy_hellos",
        C,
        "Hellos by what they are; a sound one may be several of post_quantum, ech, split_records, split_segments, no_sni "
        "and ip_literal, or else is plain; a broken one has the word of its log line",
        ("class",),
    ),
    Told("sniproxy_tls_handshakes", C, "TLS handshakes with clients", ("version", "resumed")),
    Told(
        "sniproxy_tls_failures",
        C,
        "TLS handshakes with clients that failed: sent_ or received_ and the alert, closed, timeout, or other",
        ("cause",),
    ),
    Told(
        "sniproxy_refusals",
        C,
        "Connections not let in, by the setting or plugin that says so",
        ("limit",),
        "SniproxyRefusalSurge",
    ),
    Told(
        "sniproxy_session_errors",
        C,
        "Defects of ours that each ended a session, or cost its log line, by the route if it is known",
        ("route",),
        "SniproxyDefects",
    ),
    Told("sniproxy_setups", G, "Sessions past the hello that are being set up"),
    Told("sniproxy_setups_waiting", G, "Sessions past the hello that wait to be set up"),
    Told(
        "sniproxy_limits_uncounted",
        G,
        "Sessions let in without being counted: limits.table is too small",
    ),
    Told(
        "sniproxy_accept_paused",
        C,
        "Times that accepting paused because descriptors or memory ran out",
    ),
)

ROUTES = (
    Told(
        "sniproxy_route_sessions_opened",
        C,
        "Sessions that came to a route",
        ("route",),
        "SniproxyErrorShare, SniproxyRouteErrorShare",
    ),
    Told("sniproxy_route_sessions_active", G, "Those of them that have not ended", ("route",)),
    Told(
        "sniproxy_route_sessions_closed",
        C,
        "Those of them that have, by reason",
        ("route", "reason"),
        "SniproxyErrorShare, SniproxyRouteErrorShare",
    ),
    Told("sniproxy_route_bytes_to_upstream", C, "Payload, while sessions live", ("route",)),
    Told("sniproxy_route_bytes_to_client", C, "Payload, while sessions live", ("route",)),
)

UPSTREAMS = (
    Told("sniproxy_probes", C, "Probes of game servers, by what they found", ("result",)),
    Told(
        "sniproxy_upstream_unhealthy",
        G,
        "Game servers that probes find unhealthy now, told by the one worker that probes",
    ),
    Told(
        "sniproxy_upstream_node_healthy",
        G,
        "1 while probes find a game server well, else 0; those that are not come first where there are too many to name",
        ("upstream", "node"),
        "SniproxyUpstreamDown, SniproxyNodesUnhealthy",
        together="max",
    ),
    Told(
        "sniproxy_upstream_circuits_opened",
        C,
        "Times that a game server was left out because sessions failed there (checks.passive)",
    ),
    Told(
        "sniproxy_upstream_circuits_open",
        G,
        "Game servers that are left out because sessions failed there, each worker's by itself",
    ),
    Told(
        "sniproxy_upstream_node_circuit_open",
        G,
        "1 while some worker leaves a game server out because sessions failed there; absent otherwise",
        ("upstream", "node"),
        "SniproxyCircuitOpen",
        together="max",
    ),
    Told(
        "sniproxy_upstream_panics",
        C,
        "Sessions that were sent to a game server which was left out, as no other was there to try",
        alert="SniproxyPanics",
    ),
    Told("sniproxy_names_resolved", C, "Answers of DNS that held an address or a service"),
    Told(
        "sniproxy_names_failed",
        C,
        "Names of game servers that DNS did not know, or not answer for, each time",
    ),
    Told(
        "sniproxy_names_stale", C, "Sessions that went by an answer of DNS whose time had run out"
    ),
)

CONFIGURATION = (
    Told(
        "sniproxy_certificate_expiry_timestamp_seconds",
        G,
        "When a certificate ends, in Unix seconds; those that end first where there are too many to name",
        ("ssl",),
        "SniproxyCertificateExpires, SniproxyCertificateExpiresNow",
        together="min",
    ),
    Told(
        "sniproxy_config_revision",
        G,
        "Store revision in force in all workers",
        alert="SniproxyRevisionBehind",
        together="min",
    ),
    Told(
        "sniproxy_config_broken_objects",
        G,
        "Objects in the store that cannot be used",
        alert="SniproxyBrokenObjects",
        together="max",
    ),
    Told(
        "sniproxy_config_apply_seconds",
        H,
        "From a change's arrival at a worker until it is in force there",
    ),
    Told(
        "sniproxy_config_stale",
        G,
        "1 while the store is not followed: changes may be missing",
        alert="SniproxyConfigStale",
        together="",
    ),
    Told(
        "sniproxy_config_age_seconds",
        G,
        "Since the configuration was last known to be the store's",
        together="",
    ),
    Told(
        "sniproxy_config_watch_reconnects",
        C,
        "Times that the watch of a remote store was begun anew",
        together="",
    ),
    Told(
        "sniproxy_config_lists",
        C,
        "Full lists taken from the store: at the start, and where changes may have been missed",
        together="",
    ),
    Told(
        "sniproxy_config_mirror_on_disk",
        G,
        "1 while the local copy of a remote store is written to disk",
        alert="SniproxyMirrorNotOnDisk",
        together="",
    ),
    Told(
        "sniproxy_config_mirror_set_aside",
        C,
        "Local copies that were damaged or of another store, and not served from",
        together="",
    ),
    Told(
        "sniproxy_etcd_up",
        G,
        "1 while etcd has answered what it was asked last",
        alert="SniproxyEtcdUnreachable, SniproxyMirrorNotOnDisk",
        together="",
    ),
    Told(
        "sniproxy_etcd_request_seconds",
        H,
        "Until etcd answered, or did not; watches aside",
        alert="SniproxyEtcdSlow",
        together="",
    ),
    Told(
        "sniproxy_etcd_leader_changes",
        C,
        "Times that etcd's answers were of a later term than those before: another leader was elected",
        alert="SniproxyEtcdUnstable",
        together="",
    ),
    Told(
        "sniproxy_statistics_failures",
        C,
        "Times that traffic statistics could not be written to the store: they are kept, and written later",
        together="",
    ),
    Told(
        "sniproxy_node_record_failures",
        C,
        "Times that this data plane's record could not be written to the store",
        alert="SniproxyNodeRecordFailing",
        together="",
    ),
)

PROCESSES = (
    Told(
        "sniproxy_workers",
        G,
        "Workers that serve players",
        alert="SniproxyDown, SniproxyAbsent, SniproxyNoWorkers",
        together="",
    ),
    Told(
        "sniproxy_worker_crashes",
        C,
        "Workers that died unasked",
        alert="SniproxyWorkerCrashes",
        together="",
    ),
    Told(
        "sniproxy_worker_sessions_lost",
        C,
        "Sessions that ended with a worker that died; no log line tells of them",
        together="",
    ),
    Told("sniproxy_draining", G, "1 while this data plane is to end", together=""),
    Told("sniproxy_loop_tasks", G, "Tasks of the event loop"),
    Told(
        "sniproxy_loop_lag_seconds",
        G,
        "How late the event loop was at its worst, in the last ten seconds; of the worst worker",
        alert="SniproxyLoopLag",
        together="max",
    ),
    Told(
        "sniproxy_relay_load_ratio",
        G,
        "Share of a core that the native relay's thread used in the last ten seconds; of the worker where it is most",
        alert="SniproxyRelayBusy",
        together="max",
    ),
    Told(
        "sniproxy_log_lines_dropped",
        G,
        "Log lines that the stream did not take",
        alert="SniproxyLogLinesDropped",
    ),
    Told("sniproxy_traces_sent", C, "Sessions whose traces were sent"),
    Told(
        "sniproxy_traces_dropped",
        C,
        "Sessions whose traces were not sent: too many waited, or the collector took none",
    ),
    Told(
        "sniproxy_memory_used_bytes",
        G,
        "What counts against overload.max_memory",
        alert="SniproxyMemoryNearLimit",
        together="",
    ),
    Told(
        "sniproxy_memory_limit_bytes",
        G,
        "overload.max_memory; 0: there is no limit",
        alert="SniproxyMemoryNearLimit",
        together="",
    ),
    Told(
        "sniproxy_fds_ratio",
        G,
        "Open file descriptors of those that a process may have; of the process where it is most",
        alert="SniproxyDescriptors",
        together="max",
    ),
    Told(
        "sniproxy_conntrack_entries",
        G,
        "Connections that the kernel tracks; absent where it tracks none, or for others to see",
        alert="SniproxyConntrack",
        together="",
    ),
    Told(
        "sniproxy_conntrack_limit",
        G,
        "How many it has room for",
        alert="SniproxyConntrack",
        together="",
    ),
    Told("process_cpu_seconds", C, "User and system CPU time of all processes"),
    Told("process_resident_memory_bytes", G, "Resident memory of all processes"),
    Told("process_virtual_memory_bytes", G, "Virtual memory of all processes"),
    Told("process_open_fds", G, "Open file descriptors of all processes"),
    Told("process_max_fds", G, "Open file descriptors that one process may have", together="min"),
    Told(
        "process_start_time_seconds",
        G,
        "When the oldest process began, in Unix seconds",
        together="min",
    ),
)

SECTIONS = {
    "Sessions": SESSIONS,
    "Routes": ROUTES,
    "Game servers": UPSTREAMS,
    "Configuration": CONFIGURATION,
    "Processes": PROCESSES,
}
BY_NAME = {told.name: told for section in SECTIONS.values() for told in section}


def help_of(name: str) -> str:
    """What is said of a metric where it is scraped."""
    return BY_NAME[name].help
