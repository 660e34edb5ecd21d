"""Wakes the watches of a SQLite file the moment that somebody commits, in any process of the machine.

Each watch listens on a unix datagram socket of its own in a directory beside the file, and who commits sends a byte to
each. A bell carries no news: whoever wakes asks the file. So one that is lost, or was never rung because the writer was
not of ours, costs time and no change; the watch looks by itself now and then.
"""

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import anyio

MAX_BELLS = 256  # sockets that one ring looks at; the watches beyond find out by looking
MAX_DRAIN = (
    1024  # bytes taken at one waking; the kernel's queue (net.unix.max_dgram_qlen) is shorter
)
SUN_PATH = 104  # bytes for the name of a unix socket: 108 on Linux, 104 on the BSDs
NAME_BYTES = 8  # of chance in a socket's name


class Bell:
    """One listener on the file at `path`. Where no socket can be had it never rings, and waiting is sleeping."""

    def __init__(self, path: Path) -> None:
        self._folder = _folder(path)
        self._name = secrets.token_hex(NAME_BYTES)
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with _short(self._folder) as short:
                self._socket = _bound(f"{short}/{self._name}")

    async def wait(self, seconds: float) -> None:
        """Until it rings, or has rung since the last time, or the seconds have passed."""
        if self._socket is None:
            await anyio.sleep(seconds)
            return
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(self._socket)
        with suppress(OSError):  # BlockingIOError: there is no more
            for _ in range(MAX_DRAIN):
                self._socket.recv(1)

    def close(self) -> None:
        """Take the socket away; nobody may wait any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                (self._folder / self._name).unlink()


def ring(path: Path) -> None:
    """Wake whoever listens on the file at `path`. Never waits and never raises; takes away what nobody listens on."""
    folder = _folder(path)
    with (
        suppress(OSError),  # no folder: nobody listens
        _short(folder) as short,
        os.scandir(folder) as found,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        for bell in islice(found, MAX_BELLS):
            try:
                sender.sendto(b"\0", f"{short}/{bell.name}")
            except ConnectionRefusedError:
                with suppress(OSError):
                    if stat.S_ISSOCK(bell.stat(follow_symlinks=False).st_mode):
                        os.unlink(bell.path)  # its process was killed
            except OSError:
                continue  # a full queue was rung already


def _folder(path: Path) -> Path:
    """Where the bells of a file hang: beside the file itself, whichever link leads to it."""
    return Path(os.path.realpath(path) + "-bells")


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A name for the folder that leaves room in a socket's name, however long its path is."""
    if len(os.fsencode(folder)) + 1 + 2 * NAME_BYTES < SUN_PATH:
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _bound(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener
