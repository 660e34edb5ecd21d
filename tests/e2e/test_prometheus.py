"""A real Prometheus scrapes a real data plane on etcd: the alerts and the dashboard find there what they ask for."""

import time
from pathlib import Path
from typing import Any

import yaml

from tests.support.certificates import authority, dated
from tests.support.dashboard import expressions
from tests.support.players import Game, join_soon, say, trusting
from tests.support.prometheus import ALERTS, Prometheus, find_program, metrics_in, rules
from tests.support.stack import Stack, stores

NAME = "prometheus.example.com"
DAY = 86400
PATIENCE = 60.0  # seconds until an alert must fire
# There once something has happened that has not happened here, or where the machine has it.
NOT_YET = {
    "ALERTS",
    "node_nf_conntrack_entries",
    "node_nf_conntrack_entries_limit",
    "sniproxy_conntrack_entries",
    "sniproxy_conntrack_limit",
    "sniproxy_relay_load_ratio",  # of the native relay
    "sniproxy_session_errors_total",
    "sniproxy_tls_failures_total",
    "sniproxy_upstream_node_circuit_open",
}


def impatient() -> list[dict[str, Any]]:
    """The groups of rules, each alert firing at once: what `for` does is promtool's to test."""
    groups: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule.pop("for", None)
    return groups


def scrape(stack: Stack) -> dict[str, Any]:
    return {"static_configs": [{"targets": [f"127.0.0.1:{stack.status_port}"]}]}


def play(stack: Stack, game: Game) -> None:
    """One session, by a certificate that ends in a few days and a game server that is probed."""
    now = time.time()
    stack.put(f"/ssls/{NAME}", {"snis": [NAME], **dated(NAME, now - DAY, now + 5 * DAY)})
    upstream = {
        "nodes": game.nodes,
        "checks": {"active": {"type": "tcp", "healthy": {"interval": 1}}},
    }
    stack.put(f"/stream_routes/{NAME}", {"sni": NAME, "upstream": upstream})
    with join_soon(stack.port, NAME, trusting(authority())) as player:
        assert say(player, "hello") == f"[{game.name}] hello"


def test_alerts_and_dashboard_find_what_they_ask_for(
    games: tuple[Game, Game], tmp_path: Path
) -> None:
    find_program("prometheus")
    with (
        stores("etcd", tmp_path) as (store, _),
        Stack(tmp_path, store) as stack,
        Prometheus(tmp_path, scrape(stack), impatient()) as prometheus,
    ):
        play(stack, games[0])
        said = prometheus.annotations("SniproxyCertificateExpires", PATIENCE)["description"]
        assert said.startswith(f"The certificate of ssl {NAME} on sniproxy expires in 4d 23h")
        assert "SniproxyDown" not in prometheus.firing()

        names = set(prometheus.ask("/label/__name__/values"))
        asked = [*(rule["expr"] for rule in rules()), *expressions()]
        wanted = {name for one in asked for name in metrics_in(one) if ":" not in name}
        assert wanted - NOT_YET <= names
        for expression in expressions():
            prometheus.ask("/query", query=expression)  # it is no error

        stack.proxy.kill()
        said = prometheus.annotations("SniproxyDown", PATIENCE)["summary"]
        assert said == f"Data plane 127.0.0.1:{stack.status_port} does not answer"
        groups = prometheus.ask("/rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
