"""The rows of the dashboard about game servers, certificates, configuration, and the data planes themselves."""

from charts.grafana import COLUMNS, Panel, Row
from charts.queries import BY_POD, EACH, PODS, increase, quantiles, rate, total

INSIDE = (
    Row(
        "Game servers",
        (
            Panel(
                "Unhealthy",
                {
                    "{{upstream}} {{node}}": total(
                        "sniproxy_upstream_node_healthy", "by (upstream, node)", how="min"
                    )
                    + " == 0"
                },
                about="By probes of at least one data plane (checks.active)",
            ),
            Panel(
                "Left out",
                {
                    "{{upstream}} {{node}}": total(
                        "sniproxy_upstream_node_circuit_open", "by (upstream, node)", how="max"
                    )
                    + " > 0"
                },
                about="Because sessions failed there (checks.passive)",
            ),
            Panel(
                "Sent to one that is left out",
                {"sessions": rate("sniproxy_upstream_panics_total")},
                "cps",
                "As no other was there to try",
            ),
            Panel("Probes", {"{{result}}": rate("sniproxy_probes_total", "by (result)")}, "cps"),
            Panel(
                "Times that one was left out",
                {"times": rate("sniproxy_upstream_circuits_opened_total")},
                "cps",
            ),
            Panel(
                "Names of game servers",
                {
                    "answered": rate("sniproxy_names_resolved_total"),
                    "not answered, or unknown": rate("sniproxy_names_failed_total"),
                    "sessions by an old answer": rate("sniproxy_names_stale_total"),
                },
                "cps",
            ),
        ),
    ),
    Row(
        "Certificates",
        (
            Panel(
                "Time left",
                {
                    "{{ssl}}": f"sort(min by (ssl) (sniproxy_certificate_expiry_timestamp_seconds{{{PODS}}}) - time())"
                },
                "s",
                "Of each ssl object's certificate",
                kind="table",
                width=COLUMNS,
            ),
        ),
        folded=True,
    ),
    Row(
        "Configuration and etcd",
        (
            Panel(
                "Revision in force", {EACH: total("sniproxy_config_revision", BY_POD, how="max")}
            ),
            Panel(
                "Age",
                {EACH: total("sniproxy_config_age_seconds", BY_POD, how="max")},
                "s",
                "Since the configuration was last known to be the store's",
            ),
            Panel(
                "Not as they should be",
                {
                    "stale data planes": total("sniproxy_config_stale"),
                    "broken objects": total("sniproxy_config_broken_objects", how="max"),
                    "data planes with the copy on disk": total("sniproxy_config_mirror_on_disk"),
                },
            ),
            Panel(
                "Watch",
                {
                    "reconnects": rate("sniproxy_config_watch_reconnects_total"),
                    "full lists": rate("sniproxy_config_lists_total"),
                    "node records not written": rate("sniproxy_node_record_failures_total"),
                    "statistics not written": rate("sniproxy_statistics_failures_total"),
                },
                "cps",
            ),
            Panel("To put a change in force", quantiles("sniproxy_config_apply_seconds"), "s"),
            Panel("Requests to etcd", quantiles("sniproxy_etcd_request_seconds"), "s"),
            Panel("etcd answers", {EACH: total("sniproxy_etcd_up", BY_POD, how="min")}, width=12),
            Panel(
                "Changes of etcd's leader",
                {EACH: total("sniproxy_etcd_leader_changes_total", BY_POD, how="max")},
                about="That a data plane has seen since it started",
                width=12,
            ),
        ),
    ),
    Row(
        "Saturation",
        (
            Panel(
                "Lag of the event loop",
                {EACH: total("sniproxy_loop_lag_seconds", BY_POD, how="max")},
                "s",
                "Of the worst worker: new players wait for it",
            ),
            Panel(
                "Load of the relay",
                {EACH: total("sniproxy_relay_load_ratio", BY_POD, how="max")},
                "percentunit",
                "Of a core: who plays waits for it",
            ),
            Panel(
                "File descriptors",
                {EACH: total("sniproxy_fds_ratio", BY_POD, how="max")},
                "percentunit",
                "Of the process that is nearest to its limit",
                red_from=0.8,
            ),
            Panel(
                "Memory",
                {
                    "used " + EACH: total("sniproxy_memory_used_bytes", BY_POD),
                    "limit " + EACH: f"sum {BY_POD} (sniproxy_memory_limit_bytes{{{PODS}}}) > 0",
                },
                "bytes",
            ),
            Panel(
                "Connection tracking",
                {
                    EACH: f"sniproxy_conntrack_entries{{{PODS}}} / sniproxy_conntrack_limit{{{PODS}}}",
                    "node {{instance}}": "node_nf_conntrack_entries / node_nf_conntrack_entries_limit",
                },
                "percentunit",
                "The kernel's table. In Kubernetes the node's is what counts, by node_exporter",
                red_from=0.8,
            ),
            Panel(
                "CPU",
                {
                    EACH: f"sum {BY_POD} (rate(process_cpu_seconds_total{{{PODS}}}[$__rate_interval])"
                    " and on (job, instance) sniproxy_workers)"
                },
                "short",
                "Cores",
            ),
            Panel(
                "On their way to play",
                {
                    "being set up": total("sniproxy_setups"),
                    "waiting for it": total("sniproxy_setups_waiting"),
                },
            ),
            Panel(
                "Times that accepting paused",
                {EACH: rate("sniproxy_accept_paused_total", BY_POD)},
                "cps",
                "For want of descriptors or memory",
            ),
            Panel(
                "Lost lines and counts",
                {
                    "log lines dropped": total("sniproxy_log_lines_dropped"),
                    "traces dropped": total("sniproxy_traces_dropped_total"),
                    "not counted by limits": total("sniproxy_limits_uncounted"),
                },
                about="Lines that nobody read in time; sessions let in as limits.table is too small",
            ),
        ),
    ),
    Row(
        "Each data plane",
        (
            Panel("Sessions now", {EACH: total("sniproxy_sessions_active", BY_POD)}, width=12),
            Panel(
                "New sessions",
                {EACH: rate("sniproxy_sessions_opened_total", BY_POD)},
                "cps",
                width=12,
            ),
            Panel(
                "Bytes, both ways",
                {
                    EACH: f"{rate('sniproxy_bytes_to_upstream_total', BY_POD)}"
                    f" + {rate('sniproxy_bytes_to_client_total', BY_POD)}"
                },
                "Bps",
                width=12,
            ),
            Panel(
                "Workers",
                {
                    "at work " + EACH: total("sniproxy_workers", BY_POD),
                    "draining " + EACH: total("sniproxy_draining", BY_POD) + " > 0",
                },
                width=12,
            ),
            Panel(
                "Crashes and defects",
                {
                    "workers that died " + EACH: increase("sniproxy_worker_crashes_total", BY_POD),
                    "sessions lost with them " + EACH: increase(
                        "sniproxy_worker_sessions_lost_total", BY_POD
                    ),
                    "sessions that met a defect " + EACH: increase(
                        "sniproxy_session_errors_total", BY_POD
                    ),
                },
                width=COLUMNS,
            ),
        ),
        folded=True,
    ),
)
