"""`python -m examples.game_echo PORT NAME` runs an echo game server until SIGINT or SIGTERM."""

import errno
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress

import click
import trio

from examples.game_echo.server import attend_players, bind, bound_address, tls_context

SIGNALS = signal.SIGINT, signal.SIGTERM  # that end it


class CannotStartError(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


@click.command()
@click.argument("port", type=click.IntRange(0, 65535))
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--cert", metavar="FILE", help="Certificate chain; with --key the server speaks TLS.")
@click.option("--key", metavar="FILE", help="Private key of the certificate.")
@click.option(
    "--proxy-protocol",
    is_flag=True,
    help="A PROXY header comes first; prints each session's id, as it stands in the proxy's log.",
)
def main(
    port: int, name: str, host: str, cert: str | None, key: str | None, proxy_protocol: bool
) -> None:
    """Run an echo game server called NAME on PORT (0: any free port)."""
    tls = load_tls(cert, key)
    # A Ctrl-C before the signal receiver's own time is a clean stop too.
    with suppress(KeyboardInterrupt):
        trio.run(run, name, host, port, tls, click.echo if proxy_protocol else None)


def load_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """The TLS context of the certificate; None when there is none."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise click.UsageError("--cert and --key go together")
    try:
        return tls_context(cert, key)
    except OSError as exc:
        raise CannotStartError(f"cannot use {cert} with {key}: {exc}") from exc


async def run(
    name: str,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    meet: Callable[[str], None] | None,
) -> None:
    """Serve until the first signal; the sessions end with it."""
    for one in SIGNALS:  # so that they mean nothing any more once nobody receives them
        signal.signal(one, signal.SIG_IGN)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        try:
            listeners = await bind(host, port)
        except OSError as exc:
            raise CannotStartError(explain(exc, host, port)) from exc
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attend_players, name, listeners, tls, meet)
            where = format_address(*bound_address(listeners))
            click.echo(f"game server {name} listening on {where} ({'tls' if tls else 'tcp'})")
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


def explain(exc: OSError, host: str, port: int) -> str:
    """Say why the server cannot listen, and what to do about it."""
    where = format_address(host, port)
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} is taken on {host}: give another PORT, or 0 for any free one"
    return f"cannot listen on {where}: {exc.strerror or exc}; give another PORT or --host"


def format_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main(prog_name="python -m examples.game_echo")
