"""`sniproxy explain`."""

import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from sniproxy.commands import config_option, run
from sniproxy.errors import SettingsError
from sniproxy.explain import Explanation, explain, read_flight, read_name
from sniproxy.forbidden import Forbidden, own_addresses
from sniproxy.keyring import open_keyring
from sniproxy.networks import IpAddress, parse_address
from sniproxy.references import References
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Settings, load_settings, split_address
from sniproxy.snapshot import Snapshot
from sniproxy.store.opening import open_store


@click.command(name="explain")
@config_option
@click.argument("name", required=False)
@click.option(
    "--hello",
    type=click.File("rb"),
    help="A first flight, such as the status port gives out under /refused; - for stdin.",
)
@click.option(
    "--from", "client", default="127.0.0.1", show_default=True, help="The client's address."
)
@click.option("--port", type=click.IntRange(1, 65535), help="The listener's; else the first one's.")
@click.option("--to", "server", help="The address that the client connects to.")
def explain_command(
    file: Path | None,
    name: str | None,
    hello: Any,
    client: str,
    port: int | None,
    server: str | None,
) -> None:
    """What would become of a connection, and why. Exit code 0: it would be served; 1: it would be refused."""
    if (name is None) == (hello is None):
        raise click.UsageError("give either a NAME or --hello FILE")
    settings = load_settings(file)
    listener = _listener(settings, port)
    host, bound = split_address(listener.address)
    remote = _address("--from", client)
    explanation = Explanation()
    server_name = None
    if listener.is_tls and listener.admits(remote):  # else nobody asks what was said
        if hello is not None:
            said = read_flight(hello.read(), settings.proxy, explanation)
            server_name = said.server_name if said is not None else None
        else:
            server_name = read_name(name or "", explanation)
    if explanation.refused is None:
        arrival = Arrival(server_name, remote, _address("--to", server or host), bound)
        snapshot = run(_load_snapshot, settings)
        forbidden = Forbidden(settings.proxy, own_addresses(settings))
        explain(snapshot, listener, arrival, time.time(), explanation, forbidden)
    click.echo(str(explanation))
    raise SystemExit(0 if explanation.refused is None else 1)


def _listener(settings: Settings, port: int | None) -> Listener:
    listeners = settings.proxy.listeners
    for listener in listeners:
        if port in (None, split_address(listener.address)[1]):
            return listener
    known = ", ".join(listener.address for listener in listeners)
    raise SettingsError(f"--port: no listener has port {port}; there are {known or 'none'}")


def _address(option: str, text: str) -> IpAddress:
    try:
        return parse_address(text)
    except ValueError:
        raise SettingsError(f"{option}: {text!r} is not an IPv4 or IPv6 address") from None


async def _load_snapshot(settings: Settings) -> Snapshot:
    prefix = settings.where.prefix
    keyring = open_keyring(settings, make=False)
    async with aclosing(open_store(settings, make=False)) as store:
        snapshot = Snapshot(prefix, keyring, References().resolve)
        for broken in snapshot.load(await store.list(prefix + "/")):
            click.echo(f"sniproxy: {broken.key} cannot be used: {broken.why}", err=True)
    return snapshot
