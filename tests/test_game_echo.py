"""The echo game server, on real sockets and as a command."""

import os
import re
import signal
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from certs.make_certs import make_certs
from examples.game_echo.server import MAX_LINE, LineEcho, attend_players, bind, bound_address
from sniproxy.proxy_protocol import encode_local_v2, encode_v1, encode_v2
from tests.support.game import (
    DEADLINE,
    NAME,
    connect,
    game_server,
    game_server_command,
    player_context,
    read_all,
    read_exactly,
    run_module,
    server_context,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA and a certificate for NAME."""
    directory = tmp_path_factory.mktemp("certs")
    make_certs(directory, [NAME])
    return directory


async def exchange(port: int, sent: bytes) -> bytes:
    """Send and half-close, reading at the same time; return all that came back."""
    async with await connect(port) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(sent)
            await stream.send_eof()

        nursery.start_soon(send)
        return await read_all(stream)


# The answer as a function of bytes.


@given(st.lists(st.binary(max_size=20) | st.just(b"\n") | st.just(b"x" * (MAX_LINE - 1))))
def test_the_answer_does_not_depend_on_how_bytes_are_cut(pieces: list[bytes]) -> None:
    echo = LineEcho("n")
    answer = b"".join(echo.feed(piece) for piece in pieces) + echo.flush()
    lines = re.findall(rb"[^\n]*\n|[^\n]+", b"".join(pieces))
    assert answer == b"".join(b"[n] " + line for line in lines)


def test_a_line_is_held_up_to_the_bound_and_then_echoed_as_it_comes() -> None:
    echo = LineEcho("n")
    assert echo.feed(b"x" * MAX_LINE) == b""
    assert echo.feed(b"y") == b"[n] " + b"x" * MAX_LINE + b"y"
    assert echo.feed(b"z") == b"z"
    assert echo.feed(b"end\nnext") == b"end\n"
    assert echo.feed(b"\n") == b"[n] next\n"


# The server in this process.


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        pytest.param(b"hello\n", b"[gs-1.com] hello\n", id="line"),
        pytest.param(b"a\nb\n", b"[gs-1.com] a\n[gs-1.com] b\n", id="two lines"),
        pytest.param(b"a\nrest", b"[gs-1.com] a\n[gs-1.com] rest", id="unfinished line"),
        pytest.param(b"\n\n", b"[gs-1.com] \n[gs-1.com] \n", id="empty lines"),
        pytest.param(b"\r\x00\xff\x0b\n", b"[gs-1.com] \r\x00\xff\x0b\n", id="binary"),
        pytest.param(bytes(range(11, 256)), b"[gs-1.com] " + bytes(range(11, 256)), id="bytes"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
async def test_a_half_closed_player_is_answered_to_the_end(sent: bytes, answered: bytes) -> None:
    async with game_server() as port:
        assert await exchange(port, sent) == answered


async def test_a_line_is_answered_before_the_next_is_sent() -> None:
    async with game_server() as port, await connect(port) as stream:
        for number in range(3):
            answer = b"[gs-1.com] %d\n" % number
            await stream.send_all(b"%d\n" % number)
            assert await read_exactly(stream, len(answer)) == answer


async def test_a_long_stream_without_newline_has_one_prefix() -> None:
    sent = os.urandom(4 * 1024 * 1024).replace(b"\n", b"-")
    async with game_server() as port:
        assert await exchange(port, sent) == b"[gs-1.com] " + sent
        assert await exchange(port, sent + b"\nx\n") == b"[gs-1.com] " + sent + b"\n[gs-1.com] x\n"


async def test_players_at_once_keep_their_own_lines() -> None:
    async with game_server() as port:
        streams = [await connect(port) for _ in range(20)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"%02d" % number)
        for stream in reversed(streams):
            await stream.send_all(b"!\n")
        for number, stream in enumerate(streams):
            answer = b"[gs-1.com] %02d!\n" % number
            assert await read_exactly(stream, len(answer)) == answer
            await stream.aclose()


async def test_a_reset_ends_only_its_own_session() -> None:
    async with game_server() as port:
        rude = await connect(port)
        await rude.send_all(b"unfinished")
        rude.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await rude.aclose()
        assert await exchange(port, b"still here\n") == b"[gs-1.com] still here\n"


# TLS in this process.


async def test_tls_players_goodbye_is_answered(certs: Path) -> None:
    async with game_server(server_context(certs)) as port:
        stream = trio.SSLStream(await connect(port), player_context(certs), server_hostname=NAME)
        await stream.send_all(b"a\n")
        assert await read_exactly(stream, 13) == b"[gs-1.com] a\n"
        tcp, trailing = await stream.unwrap()
        assert trailing == b""
        assert await read_all(tcp) == b""
        await tcp.aclose()


async def test_tls_player_that_only_closes_tcp_is_answered_to_the_end(certs: Path) -> None:
    context = player_context(certs)
    # So an end without the server's close_notify would raise.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    async with game_server(server_context(certs)) as port:
        tcp = await connect(port)
        stream = trio.SSLStream(tcp, context, server_hostname=NAME)
        await stream.send_all(b"rest")
        await tcp.send_eof()
        assert await read_all(stream) == b"[gs-1.com] rest"
        await tcp.aclose()


async def test_the_certificate_is_wrong_for_another_name(certs: Path) -> None:
    async with game_server(server_context(certs)) as port, await connect(port) as tcp:
        stream = trio.SSLStream(tcp, player_context(certs), server_hostname="gs-2.com")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_what_is_not_tls_ends_only_its_own_session(certs: Path) -> None:
    async with game_server(server_context(certs)) as port:
        assert b"[" not in await exchange(port, b"GET / HTTP/1.1\r\n\r\n")
        stream = trio.SSLStream(await connect(port), player_context(certs), server_hostname=NAME)
        await stream.send_all(b"hi\n")
        assert await read_exactly(stream, 14) == b"[gs-1.com] hi\n"
        await stream.aclose()


# The server as a command.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_server_and_its_sessions(number: signal.Signals) -> None:
    async with game_server_command() as (process, port, line):
        assert line == f"game server gs-1.com listening on 127.0.0.1:{port} (tcp)\n"
        async with await connect(port) as stream:
            await stream.send_all(b"hi\n")
            assert await read_exactly(stream, 14) == b"[gs-1.com] hi\n"
            process.send_signal(number)
            with trio.fail_after(5):
                assert await process.wait() == 0
        assert process.stderr is not None
        assert await read_all(process.stderr) == b""


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (
            encode_v2(("192.0.2.7", 4242), ("198.51.100.1", 443), unique_id=b"0011223344556677"),
            "session '0011223344556677' of 192.0.2.7 port 4242",
        ),
        (
            encode_v2(("2001:db8::7", 1), ("2001:db8::1", 2), unique_id=b"a\n\x1b\xff"),
            "session 'a\\n\\x1b\\\\xff' of 2001:db8::7 port 1",
        ),
        (
            encode_v1(("192.0.2.7", 4242), ("198.51.100.1", 443)),
            "session '-' of 192.0.2.7 port 4242",
        ),
        (encode_local_v2(), "somebody looked whether this server is there"),
    ],
    ids=["v2", "hostile", "v1", "nobody"],
)
async def test_a_header_says_which_session_it_is(header: bytes, told: str) -> None:
    said: list[str] = []
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            listeners = await bind("127.0.0.1", 0)
            nursery.start_soon(attend_players, NAME, listeners, None, said.append)
            assert (
                await exchange(bound_address(listeners)[1], header + b"hi\n") == b"[gs-1.com] hi\n"
            )
            async with await connect(bound_address(listeners)[1]) as stranger:
                await stranger.send_all(b"no header\n")
                with suppress(trio.BrokenResourceError):  # not all of it was read
                    assert await stranger.receive_some() == b""
            nursery.cancel_scope.cancel()
    assert said == [told]


async def test_a_taken_port_is_one_clear_line() -> None:
    async with game_server() as port:
        code, out, err = await run_module("examples.game_echo", str(port), NAME)
    assert (code, out) == (2, "")
    assert err == (
        f"Error: port {port} is taken on 127.0.0.1: give another PORT, or 0 for any free one\n"
    )


async def test_an_unknown_host_is_one_clear_line() -> None:
    code, out, err = await run_module("examples.game_echo", "0", NAME, "--host", "192.0.2.1")
    assert (code, out) == (2, "")
    assert err.startswith("Error: cannot listen on 192.0.2.1:0: ")
    assert err.count("\n") == 1


async def test_a_certificate_without_its_key_is_refused(certs: Path) -> None:
    cert = str(certs / f"{NAME}.crt")
    code, _, err = await run_module("examples.game_echo", "0", NAME, "--cert", cert)
    assert code == 2
    assert "--cert and --key go together" in err
    code, _, err = await run_module(
        "examples.game_echo", "0", NAME, "--cert", cert, "--key", str(certs / "ca.pem")
    )
    assert code == 2
    assert err.startswith("Error: cannot use ")
