"""One probe against real little servers: what each kind of it finds of good ones, bad ones, and those that are odd."""

import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from sniproxy import probes
from sniproxy.balancing import Node
from sniproxy.forbidden import Forbidden
from sniproxy.health import Failure
from sniproxy.names import Names
from sniproxy.objects import Node as NodeObject
from sniproxy.objects.upstream import Active
from sniproxy.probes import MAX_HEAD, Finding, Probe
from sniproxy.settings import Proxy
from tests.support.certificates import NAME, authority, leaf
from tests.support.names import Resolver, open_names

pytestmark = pytest.mark.anyio

ELSEWHERE = "other.example.com"
SHORT = 0.3  # seconds, where nothing comes
Serve = Callable[[trio.abc.Stream], Awaitable[None]]


def answering(answer: bytes, heard: bytearray | None = None) -> Serve:
    """Reads a request and says that."""

    async def serve(stream: trio.abc.Stream) -> None:
        data = bytearray()
        while b"\r\n\r\n" not in data and (more := await stream.receive_some()):
            data += more
        if heard is not None:
            heard[:] = data
        await stream.send_all(answer)

    return serve


async def silent(stream: trio.abc.Stream) -> None:
    """Neither says anything nor goes."""
    await trio.sleep_forever()


async def endless(stream: trio.abc.Stream) -> None:
    """A head that never ends."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"x-more: " + b"y" * 1000 + b"\r\n")


async def interim(stream: trio.abc.Stream) -> None:
    """Nothing final, ever."""
    while True:
        await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")


def status(code: int) -> Serve:
    return answering(f"HTTP/1.1 {code} X\r\ncontent-length: 0\r\n\r\n".encode())


@asynccontextmanager
async def server(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of one."""

    async def guarded(stream: trio.abc.Stream) -> None:
        try:
            if tls is not None:
                assert isinstance(stream, trio.SocketStream)
                stream = trio.SSLStream(stream, tls, server_side=True)
                await stream.do_handshake()
            await serve(stream)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, guarded, [listening])
        yield listening.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def tls_of(name: str) -> ssl.SSLContext:
    """A server's with a certificate for that name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf(name).configure_cert(context)
    return context


def probe_of(at: int | None, kind: str = "tcp", node: str = "127.0.0.1", **active: Any) -> Probe:
    made = Node(NodeObject(host=node, port=at, weight=1))
    return Probe(made, Active.model_validate({"type": kind, "timeout": 10, **active}))


async def found(probe: Probe, names: dict[str, Any] | None = None, **settings: Any) -> Finding:
    """What it finds, where these are the names of the world."""
    with trio.fail_after(30):
        async with open_names(Resolver(names or {})) as resolver:
            return await probe.run(resolver, Forbidden(Proxy(**settings)))


@pytest.mark.parametrize("kind", ["tcp", "tls", "http", "https"])
async def test_who_refuses(kind: str) -> None:
    async with server(silent) as port:
        pass
    finding = await found(probe_of(port, kind))
    assert finding == Finding(Failure.TCP, "Connection refused")
    assert finding.result == "tcp_failure"


@pytest.mark.parametrize("kind", ["tls", "http", "https"])
async def test_who_says_nothing(kind: str) -> None:
    async with server(silent) as port:
        finding = await found(probe_of(port, kind, timeout=SHORT))
    assert finding == Finding(Failure.TIMEOUT, "no answer in 0.3 s")


async def test_who_does_not_even_connect(deaf: tuple[str, int]) -> None:
    finding = await found(probe_of(deaf[1], timeout=SHORT))
    assert finding.failure is Failure.TIMEOUT


async def test_tcp_asks_for_no_more_than_a_connection() -> None:
    async with server(silent) as port:
        assert await found(probe_of(port)) == Finding()
    assert Finding().result == "success"


@pytest.mark.parametrize(
    ("serve", "failure", "why"),
    [
        (status(200), None, ""),
        (status(302), None, ""),
        (answering(b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.0 200 OK\r\n\r\nbody"), None, ""),
        (status(503), Failure.HTTP, "HTTP status 503"),
        (status(404), Failure.HTTP, "HTTP status 404"),
        (answering(b"SSH-2.0-OpenSSH\r\n\r\n"), Failure.HTTP, "no HTTP answer"),
        (answering(b"\0\xff" * 50 + b"\r\n\r\n"), Failure.HTTP, "no HTTP answer"),
        (answering(b""), Failure.TCP, "HTTP: closed before it had answered"),
        (answering(b"HTTP/1.1 200 OK\r\nx: "), Failure.TCP, "HTTP: closed before it had answered"),
        (endless, Failure.HTTP, "the head of its answer|too long|Receive buffer"),
        (interim, Failure.HTTP, f"the head of its answer is over {MAX_HEAD} bytes"),
    ],
)
async def test_what_http_takes_for_an_answer(
    serve: Serve, failure: Failure | None, why: str
) -> None:
    async with server(serve) as port:
        finding = await found(probe_of(port, "http"))
    assert finding.failure is failure
    assert any(part in finding.why for part in why.split("|")), finding
    assert finding.counts


async def test_a_status_that_is_in_neither_list_counts_for_nothing() -> None:
    async with server(status(418)) as port:
        finding = await found(probe_of(port, "http"))
    assert (finding.failure, finding.counts, finding.result) == (None, False, "neither")


async def test_statuses_are_those_that_the_object_names() -> None:
    rules: dict[str, Any] = {
        "healthy": {"http_statuses": [404]},
        "unhealthy": {"http_statuses": [200]},
    }
    async with server(status(404)) as good, server(status(200)) as bad:
        assert (await found(probe_of(good, "http", **rules))).result == "success"
        assert (await found(probe_of(bad, "http", **rules))).result == "http_failure"


@pytest.mark.parametrize(
    ("active", "lines"),
    [
        ({}, {"GET / HTTP/1.1", "Host: 127.0.0.1", "connection: close"}),
        (
            {
                "http_path": "/health?deep=1",
                "host": "games.example.com",
                "req_headers": ["X-Key: a:b", "User-Agent: me"],
            },
            {
                "GET /health?deep=1 HTTP/1.1",
                "Host: games.example.com",
                "X-Key: a:b",
                "User-Agent: me",
                "connection: close",
            },
        ),
        ({"req_headers": ["Host: own"]}, {"GET / HTTP/1.1", "Host: own"}),
    ],
)
async def test_what_is_asked(active: dict[str, Any], lines: set[str]) -> None:
    heard = bytearray()
    async with server(answering(b"HTTP/1.1 200 OK\r\n\r\n", heard)) as port:
        assert (await found(probe_of(port, "http", **active))).result == "success"
    asked = heard.decode().split("\r\n")
    assert {line.lower() for line in lines} <= {line.lower() for line in asked}
    names = [line.partition(":")[0].lower() for line in asked[1:] if line]
    assert len(names) == len(set(names)), asked


@pytest.mark.parametrize("name", [NAME, ELSEWHERE])
async def test_tls_is_a_handshake_with_whoever_it_is(name: str) -> None:
    context, asked = tls_of(name), list[str | None]()
    context.sni_callback = lambda _object, sni, _context: asked.append(sni)
    async with server(silent, tls=context) as port:
        assert await found(probe_of(port, "tls", node=NAME), {NAME: ["127.0.0.1"]}) == Finding()
        assert await found(probe_of(port, "tls", node="127.0.0.1")) == Finding()
    assert asked == [NAME, None]


@pytest.mark.parametrize("kind", ["tls", "https"])
async def test_who_speaks_no_tls(kind: str) -> None:
    async with server(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        # what is no TLS comes at once, whatever was said
        async with server(_blurting) as rude:
            finding = await found(probe_of(rude, kind, timeout=5))
            assert finding.failure is Failure.TCP
            assert finding.why.startswith("TLS: ")
        assert (await found(probe_of(port, kind, timeout=SHORT))).failure is Failure.TIMEOUT


async def _blurting(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"220 mail.example.com ESMTP\r\n" * 10)
    await stream.receive_some()


@pytest.mark.parametrize(
    ("of", "active", "result"),
    [
        (NAME, {}, "success"),
        (ELSEWHERE, {}, "tcp_failure"),
        (ELSEWHERE, {"host": ELSEWHERE}, "success"),
        (ELSEWHERE, {"https_verify_certificate": False}, "success"),
    ],
)
async def test_https_verifies_for_the_name_that_it_asks_for(
    of: str, active: dict[str, Any], result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context()
    authority("ours").configure_trust(trusting)
    made = probes._context
    monkeypatch.setattr(
        probes, "_context", lambda *, verify: trusting if verify else made(verify=False)
    )
    async with server(status(200), tls=tls_of(of)) as port:
        finding = await found(probe_of(port, "https", node=NAME, **active), {NAME: ["127.0.0.1"]})
    assert finding.result == result
    assert ("CERTIFICATE_VERIFY_FAILED" in finding.why) == (result != "success")


async def test_https_trusts_the_systems_authorities_and_nobody_else() -> None:
    async with server(status(200), tls=tls_of(NAME)) as port:
        finding = await found(probe_of(port, "https", node=NAME), {NAME: ["127.0.0.1"]})
    assert finding.failure is Failure.TCP
    assert "CERTIFICATE_VERIFY_FAILED" in finding.why


async def test_names_are_looked_up_and_an_address_that_is_dead_costs_nothing() -> None:
    async with server(silent) as port:
        probe = probe_of(port, node=NAME)
        assert probe.address == NAME
        assert await found(probe, {NAME: ["::1", "127.0.0.1"]}) == Finding()
        assert probe.address == "127.0.0.1"
        unknown = await found(probe_of(port, node=ELSEWHERE))
        assert unknown.failure is Failure.TCP
        assert ELSEWHERE in unknown.why
        late = await found(probe_of(port, node=NAME, timeout=SHORT), {NAME: None})
        assert late.failure is Failure.TIMEOUT


async def test_no_probe_goes_where_no_session_may() -> None:
    came = []

    async def note(stream: trio.abc.Stream) -> None:
        came.append(stream)

    async with server(note) as port:
        deny: dict[str, Any] = {"deny_upstreams": ("127.0.0.0/8",)}
        finding = await found(probe_of(port, node=NAME), {NAME: ["127.0.0.1"]}, **deny)
    assert finding.failure is Failure.TCP
    assert "proxy.deny_upstreams" in finding.why
    assert came == []


async def test_the_port_of_the_checks_goes_before_the_nodes() -> None:
    async with server(silent) as port:
        assert await found(probe_of(1, port=port)) == Finding()
        assert await found(probe_of(None, port=port)) == Finding()


@pytest.mark.parametrize(
    ("port", "active", "why"),
    [
        (None, {}, "no port is known"),
        (1, {"kind": "http", "http_path": "/a b"}, "no HTTP request"),
        (1, {"kind": "http", "http_path": "/a\r\nx: y"}, "no HTTP request"),
        (1, {"kind": "https", "req_headers": ["none"]}, "no HTTP request.*a colon"),
        (1, {"kind": "https", "req_headers": ["a b: c"]}, "no HTTP request"),
        (1, {"kind": "https", "req_headers": ["a: b\r\nc: d"]}, "no HTTP request"),
        (1, {"kind": "http", "req_headers": ["ä: ö"]}, "no HTTP request"),
    ],
)
def test_what_cannot_be_asked(port: int | None, active: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        probe_of(port, **active)


def test_what_http_alone_sends_is_no_matter_elsewhere() -> None:
    assert probe_of(1, "tcp", http_path="/a b").request == b""


async def test_a_name_that_dns_has_given_is_completed_by_nobody() -> None:
    node = Node(NodeObject(host=NAME, port=1, weight=1))
    resolver = Resolver({})
    with trio.fail_after(30):
        async with open_names(resolver) as names:
            for absolute in (False, True):
                probe = Probe(node, Active(type="tcp"), absolute=absolute)
                assert (await probe.run(names, Forbidden(Proxy()))).failure is Failure.TCP
    assert resolver.asked == [NAME, f"{NAME}."]


async def test_our_own_name_is_not_even_looked_up() -> None:
    probe = probe_of(7085, node="localhost")
    async with open_names(resolver := Resolver({"localhost": ["127.0.0.1"]})) as names:
        finding = await probe.run(names, Forbidden(Proxy(), ["localhost:7085"]))
    assert finding == Finding(Failure.TCP, "localhost: localhost:7085 is ours")
    assert resolver.asked == []


@pytest.mark.parametrize("kind", ["tcp", "tls", "http", "https"])
async def test_a_probe_leaves_no_reference_cycles(kind: str) -> None:
    """They would stay for ever (`worker.tame_garbage_collection`), and there is one each second."""
    async with (
        server(status(200)) as good,
        server(_blurting) as rude,
        server(silent) as slow,
        open_names(Resolver({NAME: ["127.0.0.1"]})) as names,
    ):
        asked = [
            *(probe_of(port, kind, node=NAME, timeout=SHORT) for port in (good, rude, slow)),
            *(probe_of(1, kind, node=node) for node in (NAME, "127.0.0.1", "unknown.example")),
            probe_of(1, kind, node="169.254.169.254"),
            probe_of(good, kind, node=NAME, timeout=1e-9),
        ]
        for one in asked:
            left = await left_by(one, names)
            assert left == [], (one.host, one.port, left)


async def left_by(probe: Probe, names: Names) -> list[str]:
    """What of a probe, and of TLS, waits for the garbage collector after it was asked."""
    forbidden = Forbidden(Proxy())
    await probe.run(names, forbidden)  # what is made once is made
    gc.collect()
    gc.disable()
    try:
        await probe.run(names, forbidden)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [
            repr(one)
            for one in gc.garbage
            if isinstance(one, ssl.SSLObject | trio.SocketStream | BaseException)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
