"""The player of the echo game: as a command against servers of every manner, its options and its addresses."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from certs.make_certs import make_certs
from examples.game_echo.player import main as player_main
from examples.game_echo.player import parse_address
from tests.support.game import (
    DEADLINE,
    NAME,
    ROOT,
    close_pipes,
    game_server,
    game_server_command,
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
            [*command, "--timeout", "300", "hello"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with listener, await listener.accept() as stream:
            assert await read_exactly(stream, 6) == b"hello\n"
            # A signal between its last look and its wait is heard after the wait only, as blocking calls have it.
            while process.returncode is None:
                process.send_signal(signal.SIGINT)
                with trio.move_on_after(3):
                    await process.wait()
            assert process.returncode == 1
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
