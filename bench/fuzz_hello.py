"""Coverage-guided fuzzing of the ClientHello reader, with the corpus as seeds.

    pip install -e '.[test,fuzz]'
    python -m bench.fuzz_hello [FOLDER] [-max_total_time=60] [any option of libFuzzer]

Whatever the bytes: the reader parses, waits or refuses, and does nothing else; a name is None or legal; the answer is the
same however the bytes are cut; what it says of a refusal is short and printable; and every byte is kept. What breaks this
is written to a file `crash-...`; run again with that file as the argument. Inputs that reach new code are kept in FOLDER.
"""

import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any
try:
    atheris = import_module("atheris")
except ImportError:  # the extra `fuzz` is not there: `check` can still be called
    atheris = None

with atheris.instrument_imports(["sniproxy.client_hello"]) if atheris else nullcontext():
    from sniproxy.client_hello import ClientHello, HelloClass
    from sniproxy.corpus import load
    from tests.support.hello_rows import Outcome, outcome

MAX_SEED = 2048  # bytes; a longer one slows all that come from it
LEGAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def pieces(data: bytes) -> Iterator[bytes]:
    """The data cut at three places that follow from its bytes: the same input is cut alike in each run."""
    seed, start = zlib.crc32(data), 0
    for end in sorted((seed >> shift) % (len(data) + 1) for shift in (0, 8, 16)):
        yield data[start:end]
        start = end
    yield data[start:]


def is_legal(name: str) -> bool:
    """The rule of names, put another way than the reader puts it."""
    labels = name.split(".")
    sized = len(name) <= 253 and all(1 <= len(label) <= 63 for label in labels)
    return sized and LEGAL.issuperset(name.replace(".", ""))


def same(whole: Outcome, cut: Outcome) -> bool:
    """Equal, but for which other protocol the first bytes are of."""
    if isinstance(whole, HelloClass) and whole.startswith("not_tls"):
        return isinstance(cut, HelloClass) and cut.startswith("not_tls")
    return whole == cut


def check(data: bytes) -> None:
    """AssertionError when the reader breaks its word; its other exceptions come out as they are."""
    whole = outcome([data])
    cut = outcome(pieces(data))
    assert same(whole, cut), f"{whole} at once, {cut} in pieces"
    if isinstance(whole, ClientHello) and whole.server_name is not None:
        assert is_legal(whole.server_name), whole.server_name
        assert not whole.ip_literal, whole.server_name


def fuzz(seeds: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    atheris.Setup([*sys.argv, f"-max_len={2 * MAX_SEED}", *seeds], check)
    atheris.Fuzz()


def main() -> None:
    """Until libFuzzer's options say stop, or something breaks."""
    if atheris is None:
        sys.exit("atheris is not installed: pip install -e '.[test,fuzz]'")
    replayed = any(Path(argument).is_file() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for row in load():
            if 0 < len(row.sent) <= MAX_SEED:
                (Path(folder) / row.id).write_bytes(row.sent)
        child = os.fork()  # so that somebody is left to remove the folder
        if child == 0:
            fuzz([] if replayed else [folder])
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
