"""The rows of the dashboard about players: how many, how they fare, and by which route."""

from typing import Any

from charts.grafana import Panel, Row
from charts.queries import PODS, ROUTES, increase, quantiles, rate, total

TOP = 10  # routes that one panel shows
# For whom there was no way to a game server, or who met a defect of ours.
FAILED = (
    "no_upstream|upstream_refused|upstream_timeout|upstream_unreachable|upstream_name|upstream_denied|upstream_tls"
    "|upstream_certificate|internal_error"
)
FAILURES = f'{ROUTES}, reason=~"{FAILED}"'


def stat(title: str, query: str, unit: str = "short", about: str = "", **more: Any) -> Panel:
    """One number."""
    return Panel(title, {"": query}, unit, about, kind="stat", width=4, height=4, **more)


def heatmap(title: str, name: str, about: str) -> Panel:
    """How a histogram's values are spread, over time."""
    query = increase(f"{name}_bucket", "by (le)")
    return Panel(title, {"{{le}}": query}, "s", about, kind="heatmap", width=12)


def top(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    """The routes that have most of something."""
    return Panel(title, {"{{route}}": f"topk({TOP}, {query})"}, unit, about, width=12)


TRAFFIC = (
    Row(
        "Overview",
        (
            stat("Sessions now", total("sniproxy_sessions_active")),
            stat("New sessions", rate("sniproxy_sessions_opened_total"), "cps"),
            stat(
                "Fail on the way to a game server",
                f"{rate('sniproxy_route_sessions_closed_total', selector=FAILURES)}"
                f" / {rate('sniproxy_route_sessions_opened_total', selector=ROUTES)}",
                "percentunit",
                "Of those who have a route",
                red_from=0.05,
            ),
            stat("Data planes", f"count(sniproxy_workers{{{PODS}}} > 0)"),
            stat(
                "Alerts",
                'count(ALERTS{alertname=~"Sniproxy.*", alertstate="firing"}) or vector(0)',
                about="That fire now",
                red_from=1,
            ),
            stat(
                "Days to the next expiry",
                f"(min(sniproxy_certificate_expiry_timestamp_seconds{{{PODS}}}) - time()) / 86400",
                "d",
                "Of a certificate",
            ),
            Panel(
                "Sessions",
                {
                    "opened": rate("sniproxy_sessions_opened_total"),
                    "closed": rate("sniproxy_sessions_closed_total"),
                },
                "cps",
                "Probes of load balancers and what is refused are among them",
            ),
            Panel("Sessions now", {"sessions": total("sniproxy_sessions_active")}),
            Panel(
                "Bytes",
                {
                    "to game servers": rate("sniproxy_bytes_to_upstream_total"),
                    "to players": rate("sniproxy_bytes_to_client_total"),
                },
                "Bps",
            ),
        ),
    ),
    Row(
        "How sessions end",
        (
            Panel(
                "Close reasons",
                {"{{reason}}": rate("sniproxy_sessions_closed_total", "by (reason)")},
                "cps",
                "The same words stand in the log",
                width=12,
                stacked=True,
            ),
            Panel(
                "No way to a game server, or a defect",
                {
                    "{{reason}}": rate(
                        "sniproxy_sessions_closed_total",
                        "by (reason)",
                        f'{PODS}, reason=~"{FAILED}"',
                    )
                },
                "cps",
                width=12,
                stacked=True,
            ),
            Panel(
                "Refused by limits",
                {"{{limit}}": rate("sniproxy_refusals_total", "by (limit)")},
                "cps",
                width=12,
                stacked=True,
            ),
            Panel(
                "Hellos",
                {"{{class}}": rate("sniproxy_hellos_total", "by (class)")},
                "cps",
                "What clients send: a client update that breaks something shows here",
                width=12,
            ),
            Panel(
                "TLS handshakes",
                {
                    "{{version}} resumed={{resumed}}": rate(
                        "sniproxy_tls_handshakes_total", "by (version, resumed)"
                    )
                },
                "cps",
                "Of sessions that are terminated here",
                width=12,
            ),
            Panel(
                "TLS handshakes that failed",
                {"{{cause}}": rate("sniproxy_tls_failures_total", "by (cause)")},
                "cps",
                width=12,
            ),
        ),
    ),
    Row(
        "Latency",
        (
            Panel("Wait for the hello", quantiles("sniproxy_hello_seconds"), "s", width=6),
            Panel("TLS handshake", quantiles("sniproxy_handshake_seconds"), "s", width=6),
            Panel(
                "Connect", quantiles("sniproxy_connect_seconds"), "s", "To the game server", width=6
            ),
            Panel(
                "First byte",
                quantiles("sniproxy_first_byte_seconds"),
                "s",
                "Of the game server",
                width=6,
            ),
            heatmap(
                "Connect",
                "sniproxy_connect_seconds",
                "To the game server, all attempts of a session",
            ),
            heatmap("Length of sessions", "sniproxy_session_seconds", "Of those that have ended"),
        ),
    ),
    Row(
        "Routes",
        (
            top("Sessions now", total("sniproxy_route_sessions_active", "by (route)", ROUTES)),
            top(
                "New sessions",
                rate("sniproxy_route_sessions_opened_total", "by (route)", ROUTES),
                "cps",
            ),
            top(
                "Bytes to game servers",
                rate("sniproxy_route_bytes_to_upstream_total", "by (route)", ROUTES),
                "Bps",
            ),
            top(
                "Bytes to players",
                rate("sniproxy_route_bytes_to_client_total", "by (route)", ROUTES),
                "Bps",
            ),
            top(
                "No way to a game server",
                rate("sniproxy_route_sessions_closed_total", "by (route)", FAILURES),
                "cps",
            ),
            Panel(
                "Close reasons",
                {"{{reason}}": rate("sniproxy_route_sessions_closed_total", "by (reason)", ROUTES)},
                "cps",
                "Of the chosen routes",
                width=12,
                stacked=True,
            ),
        ),
    ),
)
