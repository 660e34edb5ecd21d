"""Real TLS clients through real processes to real game servers, on SQLite and on etcd."""

import json
import ssl
from contextlib import suppress

import anyio
import pytest
import trustme

from sniproxy.settings import load_settings
from sniproxy.store.opening import open_store
from tests.support.players import Game, client_hello, connect, join_soon, pem_pair, say, trusting
from tests.support.stack import Stack, retry_until

UNRECOGNIZED_NAME = bytes((21, 3, 1, 0, 2, 2, 112))  # a fatal TLS alert


def reason_of(stack: Stack, client_port: int) -> str:
    """The close reason of the session from that port."""
    for _ in retry_until(60, f"a log line of the session from port {client_port}"):
        for line in stack.proxy.lines("session"):
            if line["client"].endswith(f":{client_port}"):
                reason: str = line["reason"]
                return reason
    raise AssertionError("unreachable")


def add_name(stack: Stack, authority: trustme.CA, name: str, game: Game, *names: str) -> None:
    """A certificate and a route for a name, and for more names on the certificate, in force on all workers."""
    stack.put(f"/ssls/{name}", {"snis": [name, *names]} | pem_pair(authority, name, *names))
    route = {"sni": name, "upstream": {"nodes": game.nodes}}
    stack.put(f"/stream_routes/{name}?wait=all&timeout=60s", route)


def pass_through(stack: Stack, first: bytes) -> bytes:
    """What comes back until a newline or the end."""
    echoed = b""
    with connect(stack.port) as player:
        player.sendall(first)
        while not echoed.endswith(b"\n") and (data := player.recv(4096)):
            echoed += data
    return echoed


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_terminated(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game], version: ssl.TLSVersion
) -> None:
    add_name(stack, authority, "one.example.com", games[0])
    add_name(stack, authority, "two.example.com", games[1])
    context = trusting(authority)
    context.maximum_version = version
    for name, game in (("one.example.com", games[0]), ("two.example.com", games[1])):
        with join_soon(stack.port, name, context) as player:
            assert say(player, "hello") == f"[{game.name}] hello"
            assert player.version() == version.name.replace("_", ".")


def test_passthrough_on_the_same_port(stack: Stack, games: tuple[Game, Game]) -> None:
    route = {
        "sni": "pass.example.com",
        "tls_passthrough": True,
        "upstream": {"nodes": games[0].nodes},
    }
    stack.put("/stream_routes/pass", route)
    hello = client_hello("pass.example.com")
    for _ in retry_until(60, "the route"):
        echoed = pass_through(stack, hello + b"\n")
        if len(echoed) > len(UNRECOGNIZED_NAME):
            break
    # The game server is no TLS server here: it echoes the very bytes of the hello, line by line with its name before.
    assert echoed.replace(f"[{games[0].name}] ".encode(), b"") == hello + b"\n"


def test_upstream_and_service_by_reference(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    stack.put("/ssls/ref", {"sni": "*.ref.example.com"} | pem_pair(authority, "*.ref.example.com"))
    stack.put("/upstreams/ref", {"nodes": games[0].nodes})
    stack.put("/services/ref", {"upstream_id": "ref"})
    stack.put("/stream_routes/ref-u", {"sni": "u.ref.example.com", "upstream_id": "ref"})
    stack.put("/stream_routes/ref-s", {"sni": "s.ref.example.com", "service_id": "ref"})
    context = trusting(authority)
    for name in ("u.ref.example.com", "s.ref.example.com"):
        with join_soon(stack.port, name, context) as player:
            assert say(player, "x") == f"[{games[0].name}] x"
    # One change of the upstream moves both routes; the sessions that run stay where they are.
    with join_soon(stack.port, "u.ref.example.com", context) as staying:
        stack.put("/upstreams/ref", {"nodes": games[1].nodes})
        for name in ("u.ref.example.com", "s.ref.example.com"):
            for _ in retry_until(60, "the new upstream"):
                with join_soon(stack.port, name, context) as player:
                    if say(player, "x") == f"[{games[1].name}] x":
                        break
        assert say(staying, "still here") == f"[{games[0].name}] still here"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "hello_not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "hello_not_tls"),
        (
            b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",
            "hello_not_tls",
        ),
        (bytes(range(200, 256)), "hello_not_tls"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "hello_broken"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "hello_too_large"),
        (client_hello("nobody.example.com"), "no_route"),
        (client_hello(None), "no_route"),
    ],
)
def test_what_is_refused(stack: Stack, first: bytes, reason: str) -> None:
    counter = f'sniproxy_sessions_closed_total{{reason="{reason}"}}'
    before = stack.metrics()[counter]
    with connect(stack.port) as stranger:
        port = stranger.getsockname()[1]
        stranger.sendall(first)
        with suppress(ConnectionResetError):  # closed while our bytes were unread
            assert stranger.recv(100) in (b"", UNRECOGNIZED_NAME)
    assert reason_of(stack, port) == reason
    assert stack.metrics()[counter] == before + 1


def test_a_health_check_is_counted_and_not_logged(stack: Stack) -> None:
    counter = 'sniproxy_sessions_closed_total{reason="probe"}'
    before = stack.metrics()[counter]
    with connect(stack.port) as balancer:
        port = balancer.getsockname()[1]
    for _ in retry_until(60, "the count"):
        if stack.metrics()[counter] == before + 1:
            break
    assert not [
        line for line in stack.proxy.lines("session") if line["client"].endswith(f":{port}")
    ]


def test_next_node_then_refused(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    closed = "127.0.0.1:1"  # a port where nothing listens
    add_name(stack, authority, "retry.example.com", games[0])
    context = trusting(authority)
    stack.put(
        "/stream_routes/retry.example.com",
        {"sni": "retry.example.com", "upstream": {"nodes": {closed: 1000, **games[0].nodes}}},
    )
    for _ in range(5):
        with join_soon(stack.port, "retry.example.com", context) as player:
            assert say(player, "x") == f"[{games[0].name}] x"
    stack.put(
        "/stream_routes/retry.example.com",
        {"sni": "retry.example.com", "upstream": {"nodes": {closed: 1}}},
    )
    for _ in retry_until(60, "the refusal"):
        with join_soon(stack.port, "retry.example.com", context) as player:
            port = player.getsockname()[1]
            try:
                say(player, "x")
            except OSError:
                break
    assert reason_of(stack, port) == "upstream_refused"


def test_a_broken_object_is_skipped_and_the_last_good_one_stays(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    add_name(stack, authority, "kept.example.com", games[0])
    context = trusting(authority)
    with join_soon(stack.port, "kept.example.com", context) as player:
        say(player, "x")
    write_raw(stack, "/apisix/stream_routes/kept.example.com", b'{"sni": 7}')
    for _ in retry_until(60, "the warning"):
        warnings = [line for line in stack.proxy.lines("object skipped") if "kept" in line["key"]]
        if warnings:
            break
    assert [line["last_good_version"] for line in warnings] == ["in force"]
    assert "sni" in warnings[0]["cause"]
    with join_soon(stack.port, "kept.example.com", context) as player:
        assert say(player, "x") == f"[{games[0].name}] x"


def write_raw(stack: Stack, key: str, value: bytes) -> None:
    """Past the API, as another program would."""

    async def write() -> None:
        store = open_store(load_settings(stack.config))
        await store.put(key, value)
        await store.aclose()

    anyio.run(write, backend="trio")


def test_one_json_line_per_session(
    stack: Stack, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    add_name(stack, authority, "line.example.com", games[0])
    with join_soon(stack.port, "line.example.com", trusting(authority)) as player:
        port = player.getsockname()[1]
        answer = say(player, "hello")
    assert reason_of(stack, port) == "client_truncated"  # Python's TLS sends no close_notify
    line = next(one for one in stack.proxy.lines("session") if one["client"].endswith(f":{port}"))
    assert line["sni"] == line["route"] == "line.example.com"
    assert line["node"] == f"127.0.0.1:{games[0].port}"
    assert (line["bytes_in"], line["bytes_out"]) == (len("hello\n"), len(answer) + 1)
    assert {"session", "tls", "duration_ms", "hello_ms", "handshake_ms", "connect_ms"} <= set(line)
    assert json.dumps(line).isascii()
