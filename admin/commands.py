"""`sniproxy admin`, `apply`, `dump` and `restore`."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from admin.app import create_app
from admin.backup import Dump, dump_api, dump_store, read_backup, restore
from admin.backup_files import dump_until_signalled, write_whole
from admin.bulk import StoreDestination, apply, open_api, open_resources, read_items
from admin.readiness import Readiness
from admin.reading import Item
from admin.server import serve
from admin.tls import Certificate
from sniproxy import __version__
from sniproxy.commands import Duration, config_option, run
from sniproxy.errors import SettingsError
from sniproxy.keyring import open_keyring
from sniproxy.listener import bind, listen
from sniproxy.logs import open_log
from sniproxy.settings import Settings, load_settings
from sniproxy.store.opening import open_store

NO_ADMIN_KEY = (
    "admin.keys: not set: without a key nobody may use the admin API. Make one and set it:\n"
    '  export SNIPROXY_ADMIN__KEYS=\'[{"name": "ops", "key": "\'$(openssl rand -hex 16)\'"}]\'\n'
    "or in sniproxy.yaml: admin: {keys: [{name: ops, key: ...}]}"
)


@click.command(name="admin")
@config_option
def admin_command(file: Path | None) -> None:
    """The admin API: writes the store."""
    settings = load_settings(file)
    if not settings.admin.keys:
        raise SettingsError(NO_ADMIN_KEY)
    keyring = open_keyring(settings)
    log = open_log("admin")
    log.choose(settings.log.format)
    certificate = Certificate(settings.admin, log) if settings.admin.cert_file else None
    sock = bind(settings.admin.address, "admin.address")
    listen(sock, "admin.address", backlog=128)
    log.info("ready", address=settings.admin.address, store=settings.store)
    readiness = Readiness()
    app = create_app(settings, open_store(settings), keyring, log, __version__, readiness)
    serve(app, sock, settings.admin, certificate, readiness)


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


@click.command(name="apply")
@_source
@_destination
def apply_command(source: Any, file: Path | None, url: str | None, key: str | None) -> None:
    """Create or replace each object of a file; all are checked before the first is written."""
    items = read_items(source.read())
    run(_apply, items, file, url, key)
    click.echo(f"{len(items)} objects applied")


@click.command(name="dump")
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
        settings, log = load_settings(file), open_log("dump")
        log.choose(settings.log.format)
        make = partial(_dump_store, settings)
        run(dump_until_signalled, every, make, target, keep, log)
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


@click.command(name="restore")
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
