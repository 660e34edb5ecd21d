"""The command `sniproxy explain`: what it says, its exit codes, and what the status port gives out for it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from sniproxy.cli import main
from sniproxy.errors import CloseReason
from sniproxy.proxy_protocol import encode_v1
from sniproxy.settings import Listener
from tests.support.certificates import NAME, pair
from tests.support.gateway import open_gateway
from tests.support.hellos import (
    message,
    named,
    record,
    records,
    server_name,
)
from tests.support.status_port import open_port

FILE = """
stream_routes:
  - {id: lobby, sni: play.example.com, tls_passthrough: true, upstream_id: lobby}
  - {id: near, sni: near.example.com, tls_passthrough: true, upstream_id: lobby, remote_addr: 10.0.0.0/8}
  - {id: there, sni: there.example.com, tls_passthrough: true, upstream_id: lobby, server_addr: 192.0.2.1}
  - {id: second, sni: second.example.com, tls_passthrough: true, upstream_id: lobby, server_port: 8889}
  - {id: plain, server_port: 8890, upstream_id: lobby}
upstreams: [{id: lobby, nodes: {"10.0.0.5:7777": 1}}]
"""
LISTENERS = [
    {"address": "127.0.0.1:8888", "tls": True, "tls_passthrough": True, "deny": ["10.66.0.0/16"]},
    {"address": "[::]:8889", "tls_passthrough": True},
    {"address": "127.0.0.1:8890"},
]
HELLO = named(NAME.encode())
HUGE = record(b"\x01\x02\0\0")  # so many bytes, it says, that no hello may have
HTTP = b"GET / HTTP/1.1\r\n\r\n"
Environment = Mapping[str, str]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A store of our own without objects; this process knows no other settings."""
    for name in [name for name in os.environ if name.startswith("SNIPROXY_")]:
        monkeypatch.delenv(name)
    return {
        "SNIPROXY_STORE": f"sqlite://{tmp_path}/config.db",
        "SNIPROXY_STATE_DIR": str(tmp_path),
        "SNIPROXY_PROXY__LISTENERS": json.dumps(LISTENERS),
    }


@pytest.fixture
def filled(empty: Environment) -> Environment:
    """A store with the objects of FILE."""
    assert invoke(empty, "apply", "-f", "-", stdin=FILE).exit_code == 0
    return empty


def invoke(environment: Environment, *args: str, stdin: str | bytes = "") -> Result:
    """A command inside this process: its errors must not be exceptions."""
    result = CliRunner().invoke(main, args, env=dict(environment), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def told(result: Result, code: int) -> list[tuple[str, str]]:
    """What a command said that has ended with that code, by topic."""
    assert (result.exit_code, result.stderr) == (code, "")
    return [(line[:12].rstrip(), line[12:]) for line in result.stdout.splitlines()]


def test_who_would_be_served(filled: Environment) -> None:
    assert told(invoke(filled, "explain", "PLAY.example.com."), 0) == [
        ("listener", "127.0.0.1:8888, TLS terminated or passed through, as the route says"),
        ("name", NAME),
        ("client", "127.0.0.1"),
        ("route", f"lobby by {NAME}"),
        ("passed over", "plain, which names nothing: its server_port does not fit"),
        ("tls", "passed through: the game server answers the hello"),
        ("upstream", "10.0.0.5:7777 weight 1"),
    ]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["play.example.com"], None),
        (["play.example.com", "--from", "10.66.0.1"], "address_denied"),
        (["play.example.com", "--from", "::ffff:10.66.0.1"], "address_denied"),
        (["play.example.com", "--from", "2001:db8::1%eth0"], None),
        (["near.example.com"], "no_route"),
        (["near.example.com", "--from", "10.0.0.1"], None),
        (["there.example.com"], "no_route"),
        (["there.example.com", "--to", "192.0.2.1"], None),
        (["second.example.com"], "no_route"),
        (["second.example.com", "--port", "8889"], None),
        (["other.example.com"], "no_route"),
        (["127.0.0.1"], "no_route"),
        (["two..dots"], "hello_broken"),
        ([""], "hello_broken"),
        (["caf\udce9.example"], "hello_broken"),
        (["other.example.com", "--port", "8890"], None),
        (["play.example.com", "--port", "8890"], None),
    ],
)
def test_the_verdict_is_the_exit_code(
    filled: Environment, args: list[str], reason: str | None
) -> None:
    lines = told(invoke(filled, "explain", *args), 0 if reason is None else 1)
    assert ("closed" in dict(lines)) is (reason is not None)
    assert reason is None or lines[-1] == ("closed", reason)


def test_on_plain_tcp_nobody_gives_a_name(filled: Environment) -> None:
    """So nobody is routed by one, and what comes first is no hello."""
    for args, stdin in (([NAME], b""), (["--hello", "-"], HTTP), (["--hello", "-"], HELLO)):
        lines = told(invoke(filled, "explain", "--port", "8890", *args, stdin=stdin), 0)
        assert ("route", "plain, which names nothing") in lines


@pytest.mark.parametrize(
    ("flight", "first", "reason"),
    [
        (HELLO, f"sound, {len(HELLO)} bytes, TLS 1.2, 1 record(s)", None),
        (named(b"other.test"), "sound, ", "no_route"),
        (HELLO[:40], "not complete after 40 bytes: more is waited for", "hello_timeout"),
        (b"", "not complete after 0 bytes: more is waited for", "hello_timeout"),
        (HTTP, "refused as not_tls_http: starts with b'GET / HTTP/1.1", "hello_not_tls"),
        (named(b"two..dots"), "refused as name_label: ", "hello_broken"),
        (HUGE, "refused as too_large: ", "hello_too_large"),
    ],
    ids=["sound", "no route", "half", "empty", "HTTP", "broken", "too large"],
)
@pytest.mark.parametrize("piped", [False, True])
def test_a_recorded_flight(
    filled: Environment, tmp_path: Path, flight: bytes, first: str, reason: str | None, piped: bool
) -> None:
    (tmp_path / "flight").write_bytes(flight)
    file = "-" if piped else str(tmp_path / "flight")
    result = invoke(filled, "explain", "--hello", file, stdin=flight if piped else b"")
    lines = told(result, 0 if reason is None else 1)
    assert lines[0][0] == "hello"
    assert lines[0][1].startswith(first)
    assert reason is None or lines[-1] == ("closed", reason)


def test_who_is_denied_is_so_whatever_he_says(filled: Environment) -> None:
    """The listener's networks are asked before a byte of the hello is read."""
    for args in (["--hello", "-"], ["two..dots"]):
        result = invoke(filled, "explain", "--from", "10.66.0.1", *args, stdin=HTTP)
        assert told(result, 1)[-1] == ("closed", "address_denied")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "give either a NAME or --hello FILE"),
        ([NAME, "--hello", "-"], "give either a NAME or --hello FILE"),
        (["--hello", "/none"], "--hello"),
        ([NAME, "another"], "another"),
        ([NAME, "--port", "0"], "--port"),
        ([NAME, "--port", "http"], "--port"),
    ],
)
def test_wrong_usage(filled: Environment, args: list[str], why: str) -> None:
    result = invoke(filled, "explain", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr
    assert why in result.stderr


@pytest.mark.parametrize(
    ("args", "changes", "why"),
    [
        (["--from", "nowhere"], {}, "--from: 'nowhere' is not an IPv4 or IPv6 address"),
        (["--from", "10.0.0.0/8"], {}, "--from: '10.0.0.0/8' is not an IPv4 or IPv6 address"),
        (["--to", "lobby"], {}, "--to: 'lobby' is not an IPv4 or IPv6 address"),
        (
            ["--port", "1"],
            {},
            "--port: no listener has port 1; there are 127.0.0.1:8888, [::]:8889, 127.0.0.1:8890",
        ),
        ([], {"SNIPROXY_PROXY__HELLO_TIMEOUT": "0"}, "proxy.hello_timeout: "),
    ],
)
def test_what_cannot_be_asked(
    filled: Environment, args: list[str], changes: Environment, why: str
) -> None:
    result = invoke({**filled, **changes}, "explain", NAME, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"sniproxy: {why}")
    assert result.stderr.count("\n") == 1


def test_a_store_that_is_not_there(empty: Environment) -> None:
    gone = {
        **empty,
        "SNIPROXY_STORE": "etcd://127.0.0.1:1",
        "SNIPROXY_ETCD__TIMEOUT": "0.5",
        "SNIPROXY_ENCRYPTION__KEYRING": json.dumps(["A" * 43 + "="]),
    }
    result = invoke(gone, "explain", NAME)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("sniproxy: ")
    assert result.stderr.count("\n") == 1


def test_objects_that_cannot_be_used_are_named(empty: Environment) -> None:
    chain, key = pair(NAME)
    objects = {
        "stream_routes": [{"id": "1", "sni": NAME, "upstream": {"nodes": {"10.0.0.5:1": 1}}}],
        "ssls": [{"id": "2", "sni": NAME, "cert": chain, "key": key}],
    }
    assert invoke(empty, "apply", "-f", "-", stdin=json.dumps(objects)).exit_code == 0
    lines = told(invoke(empty, "explain", NAME), 0)
    assert dict(lines)["tls"].startswith("terminated with ssl 2; ")
    (Path(empty["SNIPROXY_STATE_DIR"]) / "keyring").write_text("A" * 43 + "=")
    result = invoke(empty, "explain", NAME)
    assert result.exit_code == 1
    assert result.stdout.endswith("closed      no_certificate\n")
    assert result.stderr.startswith("sniproxy: /apisix/ssls/2 cannot be used: ")
    assert result.stderr.count("\n") == 1
    assert "PRIVATE" not in result.stderr


# -- what the status port gives out

ODD = [
    HTTP + b"Authorization: Basic c2VjcmV0OnNlY3JldA==\r\n" * 10,
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"\x80\x2e\x01\0\x02",
    HUGE,
    record(b"\x02\x28", kind=21),
    record(b"\x02" + bytes(40)),
    record(message(session_id=bytes(33))),
    named(b"two..dots"),
    named(b"a\nb\x1b[2J"),
    records(message([server_name(b"one.test", b"two.test")]), (3,)),
    HELLO[:40],
    named(b"other.test"),
]


@pytest.mark.parametrize("header", [b"", encode_v1(("192.0.2.7", 1), ("192.0.2.1", 2))])
def test_a_file_of_the_status_port_is_judged_as_its_session_was(
    filled: Environment, tmp_path: Path, header: bytes
) -> None:
    listener = Listener(
        address="127.0.0.1:0", tls=True, tls_passthrough=True, proxy_protocol=bool(header)
    )
    kept: list[tuple[dict[str, Any], bytes]] = []

    async def refuse_all() -> None:
        with trio.fail_after(20):
            async with open_gateway(listener, trusted=("127.0.0.1",)) as gateway:
                for flight in ODD:
                    player = gateway.dial()
                    await player.send(header + flight)
                    await player.end()
                    line = await gateway.lines.next()
                    player.close()
                    async with open_port(gateway.worker.recorder) as port:
                        target = f"/refused/{line['session']}.hello"
                        code, _, body = await port.status.answer("GET", target)
                    assert code == 200
                    kept.append((line, body))

    trio.run(refuse_all)
    for line, body in kept:
        file = tmp_path / f"{line['session']}.hello"
        file.write_bytes(body)
        said = dict(told(invoke(filled, "explain", "--hello", str(file)), 1))
        if line["reason"] == CloseReason.HELLO_ABANDONED:
            assert said["hello"].startswith("not complete ")
        elif line["reason"] == CloseReason.NO_ROUTE:
            assert (said["name"], said["closed"]) == (line["sni"], "no_route")
        else:
            assert said["hello"] == f"refused as {line['detail']}"
            assert said["closed"] == line["reason"]
    assert {line["reason"] for line, _ in kept} == {
        CloseReason.HELLO_NOT_TLS,
        CloseReason.HELLO_TOO_LARGE,
        CloseReason.HELLO_BROKEN,
        CloseReason.HELLO_ABANDONED,
        CloseReason.NO_ROUTE,
    }
