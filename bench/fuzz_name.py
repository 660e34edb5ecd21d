"""Coverage-guided fuzzing of the native relay's ClientHello reader against Python's, with the corpus as seeds.

    pip install -e '.[test,fuzz]'
    python -m bench.fuzz_name [FOLDER] [-max_total_time=60] [any option of libFuzzer]

Whatever the bytes: a name that the native reader gives is the name that Python's reads; it waits for more only where
Python's waits; once it has given a name, or left the hello to Python, more bytes change nothing; and of a short hello
in one record it gives the name whenever there is one. Coverage is that of Python's reader, which knows the same rules.
What breaks this is written to a file `crash-...`; run again with that file as the argument. Inputs that reach new code
are kept in FOLDER. Where the native relay is not built there is nothing to do.
"""

from collections.abc import Iterable

from bench.fuzzing import instrumented, pieces, run

with instrumented(__name__):
    from sniproxy.client_hello import ClientHello
    from sniproxy.corpus import load
    from sniproxy.relay.native import BUILT
    from tests.support.hello_rows import Outcome, outcome

    if BUILT:
        from sniproxy._relay import read_hello

UNSURE = ""  # the native reader leaves the hello to Python
MOST_EXTENSIONS = 64  # a hello with more is left to Python
SHORT = 4 * (MOST_EXTENSIONS + 1)  # bytes; a shorter hello has no room for the headers of more


def ordinary(hello: Outcome) -> str:
    """The name of a hello in one record; empty for all that the native reader may leave to Python."""
    if not isinstance(hello, ClientHello) or hello.records > 1:
        return ""
    return hello.server_name or ""


def follow(parts: Iterable[bytes]) -> str | None:
    """The native reader's answer to the parts as they pile up; AssertionError when Python's reader knows better."""
    so_far, before = b"", None
    for part in parts:
        so_far += part
        said = read_hello(so_far)
        assert before in (None, said), f"{before!r} became {said!r}"
        before = said
        if said == UNSURE and len(so_far) >= SHORT:
            continue
        known = outcome([so_far])
        if said is None:
            assert known is None, f"more is asked for, after {known}"
        elif said == UNSURE:
            assert not ordinary(known), f"unsure of {known}"
        else:
            assert isinstance(known, ClientHello), f"{said!r}, and Python says {known}"
            assert known.server_name == said, f"{said!r}, and Python says {known}"
    return before


def check(data: bytes) -> None:
    """AssertionError when the native reader breaks its word."""
    follow(pieces(data))


if __name__ == "__main__":
    if BUILT:
        run(check, (row.sent for row in load()))
    print("the native relay is not built: there is nothing to compare")
