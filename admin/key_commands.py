"""`sniproxy keyring status` and `sniproxy keyring rotate`: straight in the store, whoever runs beside them."""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import click
from rich.console import Console
from rich.progress import Progress

from admin.bulk import open_resources
from admin.rotation import CLEAR, Survey, rotate, survey
from sniproxy.commands import config_option
from sniproxy.errors import SettingsError, SniproxyError
from sniproxy.keyring import Key, key_file, open_keyring
from sniproxy.settings import Settings, load_settings

INTERRUPTED = 130  # the exit code of who was told to stop


class NotRotated(SniproxyError):
    """Private keys are left that are not under the first key; the message says how many, and what to do."""


@click.group(name="keyring")
def keyring_command() -> None:
    """The keys that private keys are encrypted with in the store."""


@keyring_command.command(name="status")
@config_option
def status_command(file: Path | None) -> None:
    """How many private keys are under which key, in clear, or under one that is not there."""
    settings = load_settings(file)
    found = anyio.run(_survey, settings, backend="trio")
    click.echo(_table(open_keyring(settings, make=False).keys, found))
    _tell_closed(found)


@keyring_command.command(name="rotate")
@config_option
@click.option(
    "--new-key", is_flag=True, help="Make one first, in the key file in state_dir (SQLite)."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def rotate_command(file: Path | None, new_key: bool, dry_run: bool) -> None:
    """Encrypt every private key under the first key of the keyring. It can be stopped, and run again.

    Nothing else changes, and nobody who plays or connects notices. Exit code 0: all are under the first key. 1: not all
    are; objects with a key that does not open are named and left alone.
    """
    settings = load_settings(file)
    if new_key:
        if settings.encryption.keyring:
            raise SettingsError(
                "--new-key: encryption.keyring is set: add a key to it as docs/keyring.md says, then rotate without this"
            )
        open_keyring(settings, make=not dry_run)  # what could not be read must not be added to
    if dry_run:
        _foretell(anyio.run(_survey, settings, backend="trio"), new_key)
        return
    if new_key:
        key_file(settings).add()
    _rotate(settings)


def _foretell(found: Survey, new_key: bool) -> None:
    keys = found.under.total() if new_key else found.due_keys
    objects = "" if new_key else f" in {len(found.due)} objects"
    target = "a new key" if new_key else "the first key"
    click.echo(f"{keys} private keys{objects} would be encrypted under {target}")
    _tell_closed(found)


def _rotate(settings: Settings) -> None:
    writer = open_keyring(settings).writer
    with _shown() as progress:
        left = anyio.run(_rotate_in, settings, progress, backend="trio")
    if left is None:
        click.echo("stopped; what is done is done: run again: sniproxy keyring rotate", err=True)
        sys.exit(INTERRUPTED)
    _tell_closed(left)
    if left.closed:
        raise NotRotated(
            f"{left.closed_keys} private keys do not open: add the key that they are under to encryption.keyring, or write "
            "these objects anew"
        )
    if left.due:
        raise NotRotated(
            f"{left.due_keys} private keys were written under another key meanwhile: who writes with another "
            "encryption.keyring? Run again: sniproxy keyring rotate"
        )
    click.echo(f"all {left.under.total()} private keys are under key {writer.id} ({writer.form})")


@contextmanager
def _shown() -> Iterator["_Bar"]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        yield _Bar(progress)


class _Bar:
    """How many objects of how many are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("encrypting", total=None)

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


def _table(keys: tuple[Key, ...], found: Survey) -> str:
    rows = [("key", "form", "private keys", "")]
    for number, key in enumerate(keys):
        notes = ["writes"] * (number == 0) + ["a default of APISIX"] * key.is_published
        rows.append((key.id, key.form, str(found.under[key.id]), ", ".join(notes)))
    rows.append(("in clear", "", str(found.under[CLEAR]), ""))
    rows.append(("no key opens", "", str(found.closed_keys), ""))
    lines = (
        f"{name:<14}{form:<11}{count:>12}  {note}".rstrip() for name, form, count, note in rows
    )
    return "\n".join(lines)


def _tell_closed(found: Survey) -> None:
    for name, reasons in found.closed.items():
        for why in reasons:
            click.echo(f"sniproxy: {name} is left as it is: {why}", err=True)


async def _survey(settings: Settings) -> Survey:
    async with open_resources(settings, make=False) as resources:
        return await survey(resources)


async def _rotate_in(settings: Settings, progress: _Bar) -> Survey | None:
    """What is in the store after that; None when it was told to stop."""
    left = None
    async with open_resources(settings) as resources, _stoppable():
        left = await rotate(resources, progress)
    return left


@asynccontextmanager
async def _stoppable() -> AsyncIterator[None]:
    """Cancels the block at SIGTERM or Ctrl-C."""
    try:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_at_first, signals, tasks.cancel_scope)
                yield
                tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None  # the block's: nobody else has one


async def _cancel_at_first(
    signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope
) -> None:
    async for _ in signals:
        scope.cancel()
