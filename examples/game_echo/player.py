"""A player: sends lines to a game server, by TLS with a chosen SNI, and prints the answers.

`python -m examples.game_echo.player 127.0.0.1:8888 --sni gs-1.com --ca certs/ca.pem hello`
"""

import io
import math
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import click
import trio

MAX_LINE = 16 * 1024 * 1024
"""The longest message or answer a player takes, in bytes."""

RECEIVE_SIZE = 64 * 1024


class PlayerError(Exception):
    """Why the game ended early, in one line."""


@dataclass(frozen=True)
class Destination:
    """Where to connect; without `tls` it is plain TCP and `sni` is not sent."""

    host: str
    port: int
    sni: str = ""
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f" ({self.sni})" if self.sni else "")


class Lines:
    """Cuts a stream of bytes, given as its `receive` function, into lines."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._held = bytearray()

    async def next(self) -> bytes:
        """The next line with its newline; without one at the end of the stream; empty after it."""
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            if searched > MAX_LINE:
                raise PlayerError(f"a line is longer than {MAX_LINE} bytes")
            if not (data := await self._receive()):
                end = searched
                break
            self._held += data
        line = bytes(self._held[: end + 1])
        del self._held[: end + 1]
        return line


async def play(
    destination: Destination, messages: Lines, show: Callable[[bytes], object], limit: float
) -> None:
    """Send each message as a line and show its answer; all of it within `limit` seconds.

    Raises PlayerError when any of that fails.
    """
    try:
        with trio.fail_after(limit):
            async with await connect(destination) as stream:
                await _exchange(stream, messages, show)
    except trio.TooSlowError as exc:
        raise PlayerError(f"{destination} did not finish within {limit:g} s (--timeout)") from exc
    except _EndedError as exc:
        raise PlayerError(f"{destination} {exc}") from exc


class _EndedError(Exception):
    """How the game server left before it answered."""


async def _exchange(
    stream: trio.abc.Stream, messages: Lines, show: Callable[[bytes], object]
) -> None:
    async def receive() -> bytes:
        return bytes(await stream.receive_some(RECEIVE_SIZE))

    answers = Lines(receive)
    while line := await messages.next():
        show(await _ask(stream, answers, line.removesuffix(b"\n") + b"\n"))


async def _ask(stream: trio.abc.Stream, answers: Lines, line: bytes) -> bytes:
    """Send one line and return its answer."""
    failure: Exception | None = None
    answer = b""
    # Both at once: the server answers a long line while it is still being sent.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, line)
        # Raised only after the nursery, which would make a group of it.
        try:
            answer = await answers.next()
        except (trio.BrokenResourceError, PlayerError) as exc:
            failure = exc
        if not answer.endswith(b"\n"):
            nursery.cancel_scope.cancel()
    if isinstance(failure, PlayerError):
        raise failure
    if failure is not None:
        raise _EndedError(f"broke the connection before its answer: {reason(failure)}") from failure
    if not answer.endswith(b"\n"):
        raise _EndedError("closed the connection before its answer")
    return answer


async def _send(stream: trio.abc.Stream, line: bytes) -> None:
    # The reader meets the same broken connection and reports it.
    with suppress(trio.BrokenResourceError):
        await stream.send_all(line)


async def connect(destination: Destination) -> trio.abc.Stream:
    """Connect, and finish the TLS handshake if there is one."""
    try:
        tcp = await trio.open_tcp_stream(destination.host, destination.port)
    except OSError as exc:
        raise PlayerError(f"cannot connect to {destination}: {reason(exc)}") from exc
    if destination.tls is None:
        return tcp
    try:
        return await _handshake(tcp, destination, destination.tls)
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _handshake(
    tcp: trio.SocketStream, destination: Destination, tls: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    try:
        # Not the compatible mode: closing then says close_notify. A server that leaves without it shows as a
        # broken connection, which matters only before an answer.
        stream = trio.SSLStream(tcp, tls, server_hostname=destination.sni)
        await stream.do_handshake()
    except ValueError as exc:
        raise PlayerError(f"{destination.sni!r} cannot be sent as SNI: {exc}") from exc
    except trio.BrokenResourceError as exc:
        raise PlayerError(f"no TLS session with {destination}: {reason(exc)}") from exc
    return stream


def reason(exc: BaseException) -> str:
    """The innermost cause of an error, in a few words."""
    while (inner := _inner(exc)) is not None:
        exc = inner
    match exc:
        case ssl.SSLCertVerificationError():
            return f"wrong certificate: {exc.verify_message} (see --ca and --insecure)"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return "connection closed"
        case ssl.SSLError(reason=str(words)) if words:
            return words.replace("_", " ").lower()
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)  # trio puts more words into strerror
        case OSError(strerror=str(words)):  # a name that does not resolve
            return words
        case _:
            return str(exc) or "connection closed"


def _inner(exc: BaseException) -> BaseException | None:
    if isinstance(exc, BaseExceptionGroup):
        first: BaseException = exc.exceptions[0]
        return first
    return exc.__cause__


def lines_of(messages: Sequence[str]) -> Lines:
    """The messages of a command line."""
    text = io.BytesIO(b"".join(os.fsencode(message) + b"\n" for message in messages))

    async def receive() -> bytes:
        return text.read(RECEIVE_SIZE)

    return Lines(receive)


def lines_of_stdin() -> Lines:
    """The lines of standard input, as they come."""

    async def receive() -> bytes:
        # os.read, not sys.stdin: an abandoned thread would hold sys.stdin's lock while Python shuts down.
        return await trio.to_thread.run_sync(
            os.read, sys.stdin.fileno(), RECEIVE_SIZE, abandon_on_cancel=True
        )

    return Lines(receive)


def client_context(ca: str | None, *, insecure: bool) -> ssl.SSLContext:
    """The TLS context that trusts `ca` (None: the system's own), or anyone."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:  # ssl.SSLError is one
        raise PlayerError(f"cannot read the CA in {ca}: {reason(exc)}") from exc
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPV6]:PORT."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise click.BadParameter(f"{text!r} is not HOST:PORT", param_hint="HOST:PORT")
    return host, int(port)


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.argument("messages", nargs=-1, metavar="[MESSAGE]...")
@click.option("--sni", metavar="NAME", help="The game server to ask for; needed unless --plain.")
@click.option("--ca", metavar="FILE", help="CA to trust; by default the system's own.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--plain", is_flag=True, help="No TLS.")
@click.option(
    "--timeout",
    "limit",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds for everything together, typing included; inf for no limit.",
)
def main(
    address: str,
    messages: tuple[str, ...],
    sni: str | None,
    ca: str | None,
    insecure: bool,
    plain: bool,
    limit: float,
) -> None:
    """Send each MESSAGE (or the lines of standard input) to a game server and print its answers."""
    host, port = parse_address(address)
    if not plain and not sni:
        raise click.UsageError("name the game server with --sni NAME, or use --plain")
    if math.isnan(limit):
        raise click.BadParameter("nan is no time limit", param_hint="--timeout")
    source = lines_of(messages) if messages else lines_of_stdin()
    try:
        if plain:
            destination = Destination(host, port)
        else:
            destination = Destination(host, port, sni or "", client_context(ca, insecure=insecure))
        trio.run(play, destination, source, show_answer, limit)
    except PlayerError as exc:
        raise click.ClickException(str(exc)) from exc
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        raise click.Abort from None  # Ctrl-C while waiting in a nursery


def show_answer(answer: bytes) -> None:
    """Print an answer as it is."""
    click.echo(answer, nl=False)


if __name__ == "__main__":
    main(prog_name="python -m examples.game_echo.player")
