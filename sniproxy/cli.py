"""The commands; the only module that knows every other.

Exit codes: 0 done, 1 failed while running, 2 refused before anything was done (a setting, a file, a port).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from admin.app import create_app
from admin.backup import Dump, dump_api, dump_store, read_backup, restore
from admin.backup_files import dump_until_signalled, write_whole
from admin.bulk import StoreDestination, apply, open_api, open_resources, read_items
from admin.key_commands import keyring_group
from admin.reading import Item
from admin.server import serve
from admin.tls import Certificate
from sniproxy import __version__
from sniproxy.commands import Duration, config_option, run
from sniproxy.conformance_command import conformance_command
from sniproxy.errors import ObjectRefused, SettingsError, SniproxyError
from sniproxy.explain import Explanation, explain, read_flight, read_name
from sniproxy.keyring import open_keyring
from sniproxy.listener import bind, listen
from sniproxy.logs import open_log
from sniproxy.networks import IpAddress, parse_address
from sniproxy.operating import drain_command, upgrade_command
from sniproxy.parent import check_settings, run_parent
from sniproxy.quickstart import Quickstart
from sniproxy.references import References
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Settings, load_settings, split_address
from sniproxy.snapshot import Snapshot
from sniproxy.store.opening import open_store
from sniproxy.upgrade import Estate

NO_ADMIN_KEY = (
    "admin.keys: not set: without a key nobody may use the admin API. Make one and set it:\n"
    '  export SNIPROXY_ADMIN__KEYS=\'[{"name": "ops", "key": "\'$(openssl rand -hex 16)\'"}]\'\n'
    "or in sniproxy.yaml: admin: {keys: [{name: ops, key: ...}]}"
)


class _Group(click.Group):
    """Turns what was refused into one line on stderr and exit code 2, and what failed into 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SniproxyError as error:
            click.echo(f"sniproxy: {error}", err=True)
            refused = isinstance(error, SettingsError | ObjectRefused)
            raise SystemExit(2 if refused else 1) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """One TLS address in front of thousands of game servers."""


@main.command()
@config_option
@click.option("--check", is_flag=True, help="Only look whether the settings can be used.")
def proxy(file: Path | None, check: bool) -> None:
    """The data plane: follows the store and serves players."""
    left = Estate.inherited()
    settings = load_settings(file)
    if check:
        check_settings(settings)
        return
    log = open_log("proxy")
    while estate := run(run_parent, settings, partial(load_settings, file), log, left):
        log.flush()  # what waits would be lost with this program
        try:
            estate.execute()
        except OSError as error:
            log.error("upgrade failed", cause=str(error), advice="this version goes on")
            left = replace(estate, generation=estate.generation - 1)


@main.command()
@config_option
def admin(file: Path | None) -> None:
    """The admin API: writes the store."""
    settings = load_settings(file)
    if not settings.admin.keys:
        raise SettingsError(NO_ADMIN_KEY)
    keyring = open_keyring(settings)
    log = open_log("admin")
    certificate = Certificate(settings.admin, log) if settings.admin.cert_file else None
    sock = bind(settings.admin.address, "admin.address")
    listen(sock, "admin.address", backlog=128)
    log.info("ready", address=settings.admin.address, store=settings.store)
    app = create_app(settings, open_store(settings), keyring, log, __version__)
    serve(app, sock, settings.admin, certificate)


@main.command()
@config_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("sniproxy-data"),
    show_default=True,
    help="Where the configuration, the admin key and the certificates are kept.",
)
@click.option(
    "--games-from",
    type=click.IntRange(1, 65533),
    default=9001,
    show_default=True,
    help="First of the three ports of the echo game servers.",
)
def quickstart(file: Path | None, data_dir: Path, games_from: int) -> None:
    """Everything on this machine: admin, data plane, three game servers, certificates and routes."""
    raise SystemExit(run(Quickstart(file, data_dir.absolute(), games_from).run))


def _destination(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where objects go to or come from."""
    for option in (
        click.option(
            "--key", envvar="SNIPROXY_KEY", help="Admin key; better given as SNIPROXY_KEY."
        ),
        click.option("--admin", "url", help="The admin API, such as http://127.0.0.1:9180."),
        config_option,
    ):
        command = option(command)
    return command


_source = click.option(
    "-f",
    "source",
    type=click.File("r", encoding="utf-8", errors="surrogateescape"),  # which YAML refuses
    required=True,
    help="YAML or JSON; - for stdin.",
)


@main.command(name="apply")
@_source
@_destination
def apply_command(source: Any, file: Path | None, url: str | None, key: str | None) -> None:
    """Create or replace each object of a file; all are checked before the first is written."""
    items = read_items(source.read())
    run(_apply, items, file, url, key)
    click.echo(f"{len(items)} objects applied")


@main.command(name="dump")
@_destination
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file instead of stdout: the whole of it, or it stays as it is.",
)
@click.option(
    "--every",
    type=Duration(least=1),
    metavar="DURATION",
    help="Until SIGTERM or Ctrl-C, such as 15m or 1h; the time goes into each file's name.",
)
@click.option("--keep", type=click.IntRange(1), help="With --every: how many files to keep.")
def dump_command(
    file: Path | None,
    url: str | None,
    key: str | None,
    target: Path | None,
    every: int | None,
    keep: int | None,
) -> None:
    """Write all objects into a file that `restore` and `apply` take.

    With -c: of one revision, private keys encrypted. With --admin: private keys are left out.
    Exit code 1: an object cannot be read, or restored; the rest is in the file.
    """
    if target is not None and not target.parent.is_dir():
        raise SettingsError(f"--output: {target.parent} is no directory: make it first")
    if every is not None or keep is not None:
        if every is None or keep is None or target is None or url is not None:
            raise click.UsageError("--every, --keep and -o go together, and not with --admin")
        make = partial(_dump_store, load_settings(file))
        run(dump_until_signalled, every, make, target, keep, open_log("dump"))
        return
    if url is None:
        dump = run(_dump_store, load_settings(file))
    else:
        click.echo(
            "sniproxy: the API gives out no private keys: use -c to dump the store itself", err=True
        )
        dump = run(_dump_api, url, key)
    if target is None:
        click.echo(dump.text, nl=False)
    else:
        write_whole(target, dump.text)
    for problem in dump.problems:
        click.echo(f"sniproxy: {problem}", err=True)
    raise SystemExit(1 if dump.problems else 0)


@main.command(name="restore")
@_source
@config_option
def restore_command(source: Any, file: Path | None) -> None:
    """Fill an empty store with what `dump -c` has written. A restore that broke off can be run again.

    All is checked before the first object is written. Not through the API, which takes neither times nor keys that
    are encrypted under an older key. Stop `sniproxy admin` until it is done.
    """
    items = read_backup(source.read())
    written = run(_restore, items, load_settings(file))
    click.echo(f"{len(items)} objects: {written} restored, {len(items) - written} there already")


@main.command(name="explain")
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
        explain(snapshot, listener, arrival, time.time(), explanation)
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
    async with open_resources(settings, make=False) as resources:
        snapshot = Snapshot(resources.prefix, resources.keyring, References().resolve)
        for broken in snapshot.load(await resources.store.list(resources.prefix + "/")):
            click.echo(f"sniproxy: {broken.key} cannot be used: {broken.why}", err=True)
    return snapshot


async def _apply(items: list[Item], file: Path | None, url: str | None, key: str | None) -> None:
    if url is None:
        async with open_resources(load_settings(file)) as resources:
            await apply(items, StoreDestination(resources), click.echo)
    else:
        async with open_api(url, key) as api:
            await apply(items, api, click.echo)


async def _dump_store(settings: Settings) -> Dump:
    async with open_resources(settings, make=False) as resources:
        return await dump_store(resources, __version__)


async def _dump_api(url: str, key: str | None) -> Dump:
    async with open_api(url, key) as api:
        return await dump_api(api, __version__, time.time())


async def _restore(items: list[Item], settings: Settings) -> int:
    async with open_resources(settings) as resources:
        return await restore(items, resources, _show_progress)


def _show_progress(done: int, total: int) -> None:
    if done and done % 100 == 0:
        click.echo(f"{done} of {total} restored", err=True)


main.add_command(conformance_command)
main.add_command(drain_command)
main.add_command(keyring_group)
main.add_command(upgrade_command)

if __name__ == "__main__":
    main()
