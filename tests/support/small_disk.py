"""A disk that is full for real: a small file system in memory, mounted where a test wants it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILLER = "filler"


class NotPermitted(Exception):
    """Mounting is not permitted here."""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mounted on `folder` while the block lasts; `size` as mount has it, such as 512k. NotPermitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode:
        raise NotPermitted(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Takes all the room that there is."""
    with (folder / FILLER).open("wb", buffering=0) as filler:
        for size in (4096, 1):
            with suppress(OSError):
                while filler.write(b"x" * size):
                    pass


def empty(folder: Path) -> None:
    """Gives it back."""
    (folder / FILLER).unlink(missing_ok=True)
