"""Coverage-guided fuzzing of the ClientHello reader, with the corpus as seeds.

    pip install -e '.[test,fuzz]'
    python -m bench.fuzz_hello [FOLDER] [-max_total_time=60] [any option of libFuzzer]

Whatever the bytes: the reader parses, waits or refuses, and does nothing else; a name is None or legal; the answer is the
same however the bytes are cut; what it says of a refusal is short and printable; and every byte is kept. What breaks this
is written to a file `crash-...`; run again with that file as the argument. Inputs that reach new code are kept in FOLDER.
"""

from bench.fuzzing import instrumented, pieces, run

with instrumented(__name__):
    from sniproxy.client_hello import ClientHello, HelloClass
    from sniproxy.corpus import load
    from tests.support.hello_rows import Outcome, outcome

LEGAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


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


if __name__ == "__main__":
    run(check, (row.sent for row in load()))
