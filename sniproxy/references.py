"""What the references in ssl objects name on this machine, and which of the files among them have changed since.

A file is known by what `stat` says of what its path leads to, through every link: Kubernetes swaps one above it, other
tools rename a new file over it or write into it.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Collection, Mapping

from sniproxy.objects.references import Reference, parse

MAX_BYTES = 64 * 1024  # of a file or a variable, as many as an object itself may hold
TICK = 20_000_000  # nanoseconds; within one tick of its clock a file system may not tell two writes apart

Signature = tuple[int, ...] | None  # None: nothing is there
UNREAD: Signature = ()  # of a file that is there and could not be read: no file has it, so it is tried again


class References:
    """Resolves references, and remembers the files that it has read. May be used by two threads at once."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """clock: nanoseconds since 1970, as a file system writes them."""
        self._environ = environ
        self._clock = clock
        self._read: dict[str, Signature] = {}

    def resolve(self, text: str) -> str:
        """What a reference names; any other text as it is. ValueError, which holds the reference and never what it names."""
        reference = parse(text)
        if reference is None:
            return text
        try:
            raw = self._bytes(reference)
            if len(raw) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return _member(_decode(raw), reference.member)
        except OSError as error:
            raise ValueError(f"{text}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None

    def changed(self, files: Collection[str]) -> set[str]:
        """Those of these files that may be others than when they were read; told once. The rest is forgotten.

        Told of one that is as it was, nobody loses more than the time to read it; the reverse never happens, whoever
        reads meanwhile.
        """
        read = self._read
        found = {path for path in files if path not in read or read[path] != _signature(path)}
        kept = set(files) - found
        self._read = {path: signature for path, signature in read.copy().items() if path in kept}
        return found

    def _bytes(self, reference: Reference) -> bytes:
        match reference.kind:
            case "env":
                if reference.name not in self._environ:
                    raise ValueError("no such variable in the environment")
                return os.fsencode(self._environ[reference.name])
            case "file":
                return self._file(reference.name)
        raise ValueError("no secret manager can be asked here; use $env:// or $file://")

    def _file(self, path: str) -> bytes:
        """Its content. The first signature since `changed` stays: others have read it then."""
        # before it is read, so that what is written meanwhile is a change
        signature = _signature(path)
        if signature is None or self._clock() - signature[-1] > TICK:
            self._read.setdefault(path, signature)
        try:
            return _content(path)
        except OSError:
            # it is there: what keeps us from it may pass and leave no trace
            if signature is not None:
                self._read[path] = UNREAD
            raise


def _content(path: str) -> bytes:
    """Up to one byte more than it may have."""
    # A pipe that nobody writes into must not hold us up, nor a device that never ends; to some it matters that they are
    # opened at all.
    _check_regular(os.stat(path))
    with open(path, "rb", opener=_open_at_once) as file:
        _check_regular(os.fstat(file.fileno()))
        content: bytes | None = file.read(MAX_BYTES + 1)
    if content is None:  # a file of the kernel's that has nothing to say yet
        raise ValueError("nothing to read at once")
    return content


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        folder = stat.S_ISDIR(found.st_mode)
        raise ValueError("Is a directory" if folder else "not a regular file")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _signature(path: str) -> Signature:
    """What tells a file from another one, or from itself before it was changed; the time of its last change comes last."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def _member(text: str, member: str | None) -> str:
    """The member of the JSON object that a variable holds, where a reference names one."""
    if member is None:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the variable does not hold JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get(member), str):
        raise ValueError(f"the variable holds no JSON object with a text {member}")
    return str(value[member])
