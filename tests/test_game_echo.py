"""The echo game server and the player, on real sockets and as commands."""

import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from certs.make_certs import make_certs
from examples.game_echo.player import main as player_main
from examples.game_echo.player import parse_address
from examples.game_echo.server import MAX_LINE, LineEcho, serve, tls_context

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
NAME = "gs-1.com"
DEADLINE = 20  # seconds for one test, the start of Python processes included


@pytest.fixture
def anyio_backend() -> str:
    """The tests run on trio."""
    return "trio"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA and a certificate for NAME."""
    directory = tmp_path_factory.mktemp("certs")
    make_certs(directory, [NAME])
    return directory


def server_context(certs: Path) -> ssl.SSLContext:
    """TLS as the game server speaks it."""
    return tls_context(certs / f"{NAME}.crt", certs / f"{NAME}.key")


def player_context(certs: Path) -> ssl.SSLContext:
    """TLS that trusts the test CA only."""
    return ssl.create_default_context(cafile=certs / "ca.pem")


@asynccontextmanager
async def game_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A game server in this process; gives its port."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(partial(serve, NAME, tls=tls))
            assert host == "127.0.0.1"
            yield port
            nursery.cancel_scope.cancel()


async def connect(port: int) -> trio.SocketStream:
    """A plain connection to a server of this test."""
    return await trio.open_tcp_stream("127.0.0.1", port)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything until the end of the stream."""
    return b"".join([bytes(chunk) async for chunk in stream])


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """The next `size` bytes."""
    data = b""
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


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


@asynccontextmanager
async def game_server_command(*options: str) -> AsyncIterator[tuple[trio.Process, int, str]]:
    """`python -m examples.game_echo 0 NAME`; gives the process, its port and its first line."""
    command = [sys.executable, "-m", "examples.game_echo", "0", NAME, *options]
    with trio.fail_after(DEADLINE):
        process = await trio.lowlevel.open_process(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            line = b""
            while not line.endswith(b"\n"):
                line += await read_exactly(process.stdout, 1)
            text = line.decode()
            yield process, int(text.split()[-2].rpartition(":")[2]), text
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await close_pipes(process)


async def close_pipes(process: trio.Process) -> None:
    """Close our ends of a process's pipes."""
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        await pipe.aclose()


async def run_module(module: str, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a module to its end; return exit code, standard output and standard error."""
    command = [sys.executable, "-m", module, *arguments]
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command, cwd=ROOT, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


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


# The player as a command.


async def player(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run the player to its end."""
    return await run_module("examples.game_echo.player", *arguments, stdin=stdin)


async def test_player_and_server_commands_talk_tls(certs: Path) -> None:
    files = ["--cert", str(certs / f"{NAME}.crt"), "--key", str(certs / f"{NAME}.key")]
    async with game_server_command(*files) as (_, port, line):
        assert line == f"game server gs-1.com listening on 127.0.0.1:{port} (tls)\n"
        where = f"127.0.0.1:{port}"
        ca = str(certs / "ca.pem")
        assert await player(where, "--sni", NAME, "--ca", ca, "hello", "again") == (
            0,
            "[gs-1.com] hello\n[gs-1.com] again\n",
            "",
        )
        assert (await player(where, "--sni", "gs-2.com", "--insecure", "hi"))[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--sni", "gs-2.com", "--ca", "CA"], "gs-2.com", id="wrong name"),
        pytest.param(["--sni", NAME], "issuer", id="unknown CA"),
    ],
)
async def test_player_refuses_a_wrong_certificate(
    certs: Path, options: Sequence[str], said: str
) -> None:
    given_options = [str(certs / "ca.pem") if option == "CA" else option for option in options]
    async with game_server(server_context(certs)) as port:
        code, out, err = await player(f"127.0.0.1:{port}", *given_options, "hello")
    assert (code, out) == (1, "")
    assert "wrong certificate: " in err
    assert said in err
    assert err.count("\n") == 1


async def test_player_reads_standard_input() -> None:
    big = b"x" * (4 * 1024 * 1024)
    async with game_server() as port:
        where = f"127.0.0.1:{port}"
        code, out, err = await player(where, "--plain", stdin=b"a\n" + big + b"\n\nlast")
    assert (code, err) == (0, "")
    assert out.encode() == b"".join(b"[gs-1.com] %b\n" % line for line in (b"a", big, b"", b"last"))


async def test_player_at_a_server_that_only_speaks_plain_tcp() -> None:
    async with game_server() as port:
        code, _, err = await player(f"127.0.0.1:{port}", "--sni", NAME, "--timeout", "1", "hello")
    assert code == 1
    assert err.startswith(f"Error: no TLS session with 127.0.0.1:{port} (gs-1.com): ") or (
        err == f"Error: 127.0.0.1:{port} (gs-1.com) did not finish within 1 s (--timeout)\n"
    )


async def test_player_that_is_refused() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        code, out, err = await player(f"127.0.0.1:{port}", "--plain", "hello")
    assert (code, out) == (1, "")
    assert err == f"Error: cannot connect to 127.0.0.1:{port}: Connection refused\n"


@asynccontextmanager
async def rude_server(answer: bytes, *, hang: bool = False) -> AsyncIterator[int]:
    """Takes one message, answers, and closes or hangs; gives its port."""

    async def attend(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        if hang:
            await trio.sleep_forever()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            serve_tcp = partial(trio.serve_tcp, attend, 0, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(serve_tcp)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"half an ans"])
async def test_player_whose_server_closes_before_the_answer(answer: bytes) -> None:
    async with rude_server(answer) as port:
        code, out, err = await player(f"127.0.0.1:{port}", "--plain", "hello")
    assert (code, out) == (1, "")
    assert err == f"Error: 127.0.0.1:{port} closed the connection before its answer\n"


@pytest.mark.parametrize("stdin", [b"", b"typed\n"])
async def test_player_has_a_time_limit(stdin: bytes) -> None:
    message = [] if stdin else ["hello"]
    async with rude_server(b"", hang=True) as port:
        code, out, err = await player(
            f"127.0.0.1:{port}", "--plain", "--timeout", "0.3", *message, stdin=stdin
        )
    assert (code, out) == (1, "")
    assert err == f"Error: 127.0.0.1:{port} did not finish within 0.3 s (--timeout)\n"


async def test_player_interrupted_while_it_waits() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    command = [sys.executable, "-m", "examples.game_echo.player", f"127.0.0.1:{port}", "--plain"]
    with trio.fail_after(DEADLINE):
        process = await trio.lowlevel.open_process(
            [*command, "hello"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with listener, await listener.accept() as stream:
            assert await read_exactly(stream, 6) == b"hello\n"
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 1
        assert process.stderr is not None
        assert (await read_all(process.stderr)).strip() == b"Aborted!"
        await close_pipes(process)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["nonsense", "--plain"], "'nonsense' is not HOST:PORT", id="no port"),
        pytest.param(["h:0", "--plain"], "'h:0' is not HOST:PORT", id="port zero"),
        pytest.param(["h:70000", "--plain"], "'h:70000' is not HOST:PORT", id="port too big"),
        pytest.param(["h:1"], "name the game server with --sni NAME", id="no name"),
        pytest.param(["h:1", "--plain", "--timeout", "nan"], "nan is no time limit", id="nan"),
    ],
)
def test_player_usage(arguments: Sequence[str], said: str) -> None:
    result = CliRunner().invoke(player_main, arguments)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("text", "address"),
    [("h:1", ("h", 1)), ("[::1]:80", ("::1", 80)), ("::1:80", ("::1", 80))],
)
def test_player_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
