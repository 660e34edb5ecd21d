"""What the fuzz targets share: how an input is cut, and libFuzzer with the seeds in a folder of its own."""

import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

MAX_SEED = 2048  # bytes; a longer one slows all that come from it


def load_atheris() -> Any:
    """The fuzzer, which only the extra `fuzz` installs."""
    try:
        return import_module("atheris")
    except ImportError:
        sys.exit("atheris is not installed: pip install -e '.[test,fuzz]'")


def instrumented(importer: str) -> AbstractContextManager[Any]:
    """What the program imports of sniproxy inside tells libFuzzer where it has been.

    Who only wants to call a `check` imports it as it is, and needs no atheris.
    """
    if importer != "__main__":
        return nullcontext()
    instrumenting: AbstractContextManager[Any] = load_atheris().instrument_imports(["sniproxy"])
    return instrumenting


def pieces(data: bytes) -> Iterator[bytes]:
    """The data cut at three places that follow from its bytes: the same input is cut alike in each run."""
    seed, start = zlib.crc32(data), 0
    for end in sorted((seed >> shift) % (len(data) + 1) for shift in (0, 8, 16)):
        yield data[start:end]
        start = end
    yield data[start:]


def run(check: Callable[[bytes], None], seeds: Iterable[bytes]) -> NoReturn:
    """Until libFuzzer's options say stop, or `check` raises: then the exit status is not 0.

    A file among the arguments is an input to run again, and nothing else is run.
    """
    replayed = any(Path(argument).is_file() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            if 0 < len(seed) <= MAX_SEED:
                (Path(folder) / str(number)).write_bytes(seed)
        child = os.fork()  # so that somebody is left to remove the folder
        if child == 0:
            fuzz(check, [] if replayed else [folder])
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def fuzz(check: Callable[[bytes], None], folders: list[str]) -> NoReturn:
    """libFuzzer ends the process. Of an option given twice it takes the last: the user's."""
    atheris = load_atheris()
    program, *arguments = sys.argv
    atheris.Setup([program, f"-max_len={2 * MAX_SEED}", *arguments, *folders], check)
    atheris.Fuzz()
    raise AssertionError("libFuzzer came back")
