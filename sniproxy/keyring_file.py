"""The key file of a store on this machine: a key per line, base64 of 32 bytes; the first writes, all of them read.

It is never changed in place, so whoever reads it has the lines of before or of after. A key that is in it stays: dumps and
whatever was written a moment ago may be under it.
"""

import base64
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

from sniproxy.errors import SettingsError
from sniproxy.settings import keyring_secret


class KeyFile:
    """One such file, there or not. Every method raises SettingsError when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_there(self) -> bool:
        """Whether there is a file to read."""
        with self._usable():
            return self._path.exists()

    def read(self) -> list[str]:
        """Its keys, one at least, as entries of `encryption.keyring`."""
        with self._usable():
            lines = self._path.read_text(errors="replace").split()
        for line in lines or [""]:
            # 32 characters could be a key of APISIX's, and are a line of ours that was cut off
            if len(line) <= 32 or not _is_key(line):
                raise SettingsError(
                    f"encryption.keyring: the key file {self._path} is damaged: expected base64 of 32 bytes on each line"
                )
        return lines

    def make(self) -> None:
        """One key where no file is. Of processes that do so at once one wins, and all agree."""
        with self._usable():
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._draft([_new_key()], self._path) as draft, suppress(FileExistsError):
                    os.link(draft, self._path)

    def add(self) -> None:
        """A new key before those that are there. It is on the disk when this returns."""
        with self._usable(), self._locked():
            # where a link leads, so that it still is one: who set it keeps, and perhaps copies, the keys elsewhere
            place = Path(os.path.realpath(self._path))
            with self._draft([_new_key(), *self.read()], place, like=place.stat()) as draft:
                os.replace(draft, place)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SettingsError(
                f"state_dir: the key file {self._path} cannot be used: {error.strerror}; "
                "set state_dir to a directory that this user may write"
            ) from error

    @contextmanager
    def _draft(
        self, lines: list[str], place: Path, like: os.stat_result | None = None
    ) -> Iterator[str]:
        """The name of a file beside `place` with these lines. like: whose owner and mode it has; else ours and 0600."""
        number, name = mkstemp(dir=place.parent, prefix=place.name)
        try:
            with open(number, "w") as draft:
                draft.writelines(line + "\n" for line in lines)
                draft.flush()
                if like is not None:
                    os.fchmod(number, stat.S_IMODE(like.st_mode))
                    os.fchown(number, like.st_uid, like.st_gid)
                os.fsync(number)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        with _opened(place.parent) as folder:
            os.fsync(folder)  # the name, too, outlives a loss of power

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Of two who add a key at once neither may lose the other's."""
        with _opened(self._path.parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def _new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def _is_key(line: str) -> bool:
    try:
        keyring_secret(line)
    except ValueError:
        return False
    return True
