"""Dumps as files: each is there as a whole or not at all, and on a schedule the newest are kept."""

import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import anyio

from admin.backup import Dump
from sniproxy.errors import KeyringError, SniproxyError, StoreError
from sniproxy.logs import Log


class NotWritten(SniproxyError):
    """A dump that could not be put into its file; what was there before is there still."""


def write_whole(file: Path, text: str) -> None:
    """The file as a whole, mode 0600, or as it was: written aside, synced, renamed. NotWritten."""
    try:
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}-", delete=False
        ) as draft:
            try:
                draft.write(text)
                draft.flush()
                os.fsync(draft.fileno())
                os.replace(draft.name, file)
            except BaseException:
                os.unlink(draft.name)
                raise
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)
    except OSError as error:
        raise NotWritten(
            f"{file} cannot be written: {error.strerror}; a file that was there is as it was"
        ) from error


async def dump_every(
    seconds: float,
    make: Callable[[], Awaitable[Dump]],
    file: Path,
    keep: int,
    log: Log,
    now: Callable[[], float] = time.time,
) -> None:
    """For ever a dump at once and then every `seconds`, into `file` with the time in its name; the newest `keep` stay.

    A store that is away, a key file that cannot be read and a disk that is full are logged, and have another chance the
    next time.
    """
    due = anyio.current_time()
    while True:
        stamp = f"{datetime.fromtimestamp(now(), UTC):%Y%m%dT%H%M%SZ}"
        target = file.with_name(f"{file.stem}-{stamp}{file.suffix}")
        try:
            dump = await make()
            write_whole(target, dump.text)
            removed = _remove_old(target, file, keep)
        except (StoreError, NotWritten, KeyringError, OSError) as error:
            log.error("dump failed", file=str(target), cause=str(error), again_in=seconds)
        else:
            say = log.warning if dump.problems else log.info
            say(
                "dumped",
                file=str(target),
                objects=dump.count,
                removed=removed,
                problems=dump.problems,
            )
        due = max(due + seconds, anyio.current_time())
        await anyio.sleep_until(due)


def _remove_old(newest: Path, file: Path, keep: int) -> int:
    """How many went. The one just written stays even if the clock was put back and others look newer."""
    name = re.compile(rf"{re.escape(file.stem)}-[0-9]{{8}}T[0-9]{{6}}Z{re.escape(file.suffix)}")
    others = sorted(
        one for one in file.parent.iterdir() if name.fullmatch(one.name) and one != newest
    )
    old = others[: max(0, len(others) - (keep - 1))]
    for one in old:
        one.unlink(missing_ok=True)
    return len(old)


async def dump_until_signalled(
    seconds: float, make: Callable[[], Awaitable[Dump]], file: Path, keep: int, log: Log
) -> None:
    """`dump_every` until SIGTERM or SIGINT."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(dump_every, seconds, make, file, keep, log)
            async for _ in signals:
                break
            group.cancel_scope.cancel()
