"""What an APISIX leaves in an etcd, written by hand from its documentation: marks, counters, lists, stored defaults."""

import json
from typing import Any

from tests.test_keyring import apisix

DIRECTORIES = (
    *(
        "consumer_groups",
        "consumers",
        "global_rules",
        "plugin_configs",
        "plugin_metadata",
        "plugins",
    ),
    *("protos", "routes", "secrets", "services", "ssls", "stream_routes", "upstreams"),
)
TIMES = {"create_time": 1_600_000_000, "update_time": 1_700_000_000}
LISTED = "0" * 18 + "42"  # the id that a POST gives

# -- the members of each object in the schema of 3.18

META = frozenset({"id", "desc", "labels", "create_time", "update_time"})
MEMBERS = {
    "ssls": META
    | {"type", "cert", "key", "certs", "keys", "sni", "snis", "client", "status", "ssl_protocols"},
    "stream_routes": META
    | {"name", "remote_addr", "server_addr", "server_port", "sni", "upstream", "upstream_id"}
    | {"service_id", "plugins", "protocol"},
    "services": META
    | {"name", "upstream", "upstream_id", "plugins", "hosts", "script", "enable_websocket"},
    "upstreams": META
    | {
        "name",
        "nodes",
        "service_name",
        "discovery_type",
        "discovery_args",
        "type",
        "hash_on",
        "key",
    }
    | {"retries", "retry_timeout", "timeout", "scheme", "tls", "checks", "pass_host"}
    | {"upstream_host", "keepalive_pool"},
}


def left_behind(
    pairs: tuple[dict[str, str], dict[str, str], dict[str, str]], port: int, secret: str
) -> dict[str, bytes]:
    """Everything under the prefix, by what follows it. secret: that private keys are under.

    pairs: certificates and keys of old.example.com, and twice of new.example.com. port: of the game server.
    """
    marks = {f"{name}/": b"init_dir" for name in DIRECTORIES}
    objects = {
        **_ours(pairs, port, secret),
        "plugins": [
            {"name": "ip-restriction", "stream": True},
            {"name": "limit-conn"},
            {"name": "prometheus", "stream": True},
        ],
        "gen_id": 1,
        "routes/1": {"id": "1", "uri": "/*", "upstream_id": "1", "priority": 0, "status": 1},
        "global_rules/1": {"id": "1", "plugins": {"prometheus": {}}},
        "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "a"}}},
        "plugin_metadata/syslog": {"id": "syslog", "log_format": {"host": "$host"}},
        "secrets/vault/1": {"id": "vault/1", "uri": "http://127.0.0.1:8200", "prefix": "kv"},
    }
    return marks | {key: _lua(value) for key, value in objects.items()}


def _lua(value: Any) -> bytes:
    """As its encoder writes: slashes escaped, no blanks."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/").encode()


def _ours(
    pairs: tuple[dict[str, str], dict[str, str], dict[str, str]], port: int, secret: str
) -> dict[str, Any]:
    old, new, more = ({**one, "key": apisix(one["key"].encode(), secret)} for one in pairs)
    validity = {"validity_start": 1_600_000_000, "validity_end": 1_800_000_000}
    server = {"status": 1, "type": "server"}
    node = {"host": "127.0.0.1", "port": port, "weight": 1, "priority": 0}
    defaults = {"type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass"}
    shown = {"client_cert": old["cert"], "client_key": old["key"]}
    return {
        "ssls/1": {"id": 1, "sni": "old.example.com"} | old | server | validity | TIMES,
        f"ssls/{LISTED}": {
            "id": LISTED,
            "snis": ["new.example.com", "*.new.example.com"],
            "certs": [more["cert"]],
            "keys": [more["key"]],
            "labels": {"env": "prod"},
            **new,
            **TIMES,
        },
        "upstreams/1": {"id": 1, "nodes": [node], "name": "games"} | defaults | TIMES,
        "upstreams/mtls": {"id": "mtls", "nodes": {}, "scheme": "tls", "tls": shown} | TIMES,
        "services/1": {
            "id": "1",
            "upstream_id": 1,
            "enable_websocket": False,
            "plugins": {},
            **TIMES,
        },
        "stream_routes/1": {
            "id": 1,
            "sni": "old.example.com",
            "upstream_id": "1",
            "remote_addr": "127.0.0.0/8",
            "plugins": {
                "prometheus": {"prefer_name": False},
                "ip-restriction": {"blacklist": ["192.0.2.1"]},
            },
            **TIMES,
        },
        f"stream_routes/{LISTED}": {
            "id": LISTED,
            "sni": "*.example.com",
            "service_id": "1",
            "upstream": {"nodes": {f"127.0.0.1:{port}": 1}} | defaults | TIMES,
            **TIMES,
        },
    }
