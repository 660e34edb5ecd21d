"""The fuzz targets, without their fuzzer: what is asked of any bytes, and how a finding comes out."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench import fuzz_name, fuzz_proxy
from bench.fuzz_name import SHORT, UNSURE
from bench.fuzz_proxy import check, due, said, seeds, understood
from bench.fuzzing import pieces
from sniproxy.proxy_protocol import HeaderClass, ProxyHeader, encode_v1, encode_v2
from sniproxy.relay.native import BUILT
from tests.support.hello_rows import HELLO
from tests.support.hellos import extension, message, named, record, records, server_name
from tests.support.proxy_headers import (
    IPV6,
    LOCAL,
    NOOP,
    TCP6,
    UNIQUE_ID,
    UNIX,
    UNIX_DATAGRAM,
    UNSPEC,
    Outcome,
    addresses,
    outcome,
    tlv,
    v1,
    v2,
)

ROOT = Path(__file__).parents[1]

LINE = v1("TCP4 192.0.2.7 198.51.100.1 56324 443")
FULL = v2(IPV6 + tlv(NOOP, b"pad") + tlv(0x99), family=TCP6)
MIXED = v2(addresses("::ffff:192.0.2.7", "::102:304", 1, 2), family=TCP6)


def test_every_seed_holds_what_the_fuzzer_asks_of_any_bytes() -> None:
    for seed in seeds():
        for data in (seed, seed + b"\x16\x03\x01", seed[:-1]):
            check(data)


def test_the_seeds_are_read_refused_for_every_reason_and_waited_for() -> None:
    answers = [outcome([seed])[0] for seed in seeds()]
    assert set(HeaderClass) <= set(answers)
    kinds = {(one.version, one.local) for one in answers if isinstance(one, ProxyHeader)}
    assert kinds == {(1, False), (1, True), (2, False), (2, True)}
    check(b"")


@pytest.mark.parametrize(
    "data",
    [
        *[LINE, FULL, MIXED, v1("UNKNOWN 1 2"), v1("TCP6 2001:DB8:0::7 ::ffff:c000:207 0 65535")],
        *[v2(IPV6, command=LOCAL, family=TCP6), v2(bytes(216) + tlv(NOOP), family=UNIX)],
    ],
)
def test_a_sound_header_says_what_the_reader_understands(data: bytes) -> None:
    header, rest = outcome([data + b"hello"])
    assert isinstance(header, ProxyHeader)
    assert understood(header, rest) == said(data + b"hello")
    assert due(data[:-1]) >= due(data) == len(data)


SERVER, SERVER6 = ("198.51.100.1", 443), ("2001:db8::1", 443)

# What a wrong reader could make of it, and what it could leave over.
WRONG: dict[str, tuple[bytes, ProxyHeader, bytes]] = {
    "source": (LINE, ProxyHeader(1, False, ("192.0.2.8", 56324), SERVER, ()), b""),
    "port": (LINE, ProxyHeader(1, False, ("192.0.2.7", 56325), SERVER, ()), b""),
    "family": (LINE, ProxyHeader(1, False, ("::ffff:192.0.2.7", 56324), SERVER, ()), b""),
    "swapped": (LINE, ProxyHeader(1, False, SERVER, ("192.0.2.7", 56324), ()), b""),
    "version": (LINE, ProxyHeader(2, False, ("192.0.2.7", 56324), SERVER, ()), b""),
    "nobody": (LINE, ProxyHeader(1, True, None, None, ()), b""),
    "one_end": (LINE, ProxyHeader(1, False, ("192.0.2.7", 56324), None, ()), b""),
    "rest": (LINE, ProxyHeader(1, False, ("192.0.2.7", 56324), SERVER, ()), b"\n"),
    "spelling": (FULL, ProxyHeader(2, False, ("2001:DB8::7", 56324), SERVER6, ()), b""),
    "no_tlv": (FULL, ProxyHeader(2, False, ("2001:db8::7", 56324), SERVER6, ()), b""),
    "somebody": (v1("UNKNOWN"), ProxyHeader(1, True, SERVER, SERVER, ()), b""),
    "not_whole": (LINE[:-1], ProxyHeader(1, False, ("192.0.2.7", 56324), SERVER, ()), b""),
    "port_65536": (
        v1("TCP4 192.0.2.7 198.51.100.1 65536 443"),
        ProxyHeader(1, False, ("192.0.2.7", 65536), SERVER, ()),
        b"",
    ),
    "lf_inside": (v1("UNKNOWN a\nb"), ProxyHeader(1, True, None, None, ()), b""),
    "twice": (
        v2(tlv(UNIQUE_ID) * 2, family=UNSPEC),
        ProxyHeader(2, True, None, None, ((UNIQUE_ID, b""),) * 2),
        b"",
    ),
    "signature": (
        v2(b"", family=UNSPEC).replace(b"QUIT", b"quit"),
        ProxyHeader(2, True, None, None, ()),
        b"",
    ),
    "datagram": (
        v2(bytes(216), family=UNIX_DATAGRAM),
        ProxyHeader(2, True, None, None, ()),
        b"",
    ),
    "command": (v2(b"", command=0x22), ProxyHeader(2, True, None, None, ()), b""),
    "too_long": (v1("UNKNOWN " + "x" * 92), ProxyHeader(1, True, None, None, ()), b""),
}


@pytest.mark.parametrize(("data", "header", "rest"), WRONG.values(), ids=WRONG)
def test_the_fuzzer_knows_a_wrong_answer(
    data: bytes, header: ProxyHeader, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(fed: Iterable[bytes]) -> tuple[Outcome, bytes]:
        joined = b"".join(fed)
        return (header, rest) if joined == data else outcome([joined])

    monkeypatch.setattr(fuzz_proxy, "outcome", lie)
    with pytest.raises(AssertionError):
        check(data)


@pytest.mark.parametrize(
    "data",
    [LINE, LINE + b"\x16", b"PROXY " + b"x" * 101, v2(), v2(length=4097), v2(b"", length=65535)],
)
def test_the_fuzzer_knows_who_waits_too_long(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_proxy, "outcome", lambda _: (None, b""))
    with pytest.raises(AssertionError, match=r"bytes of|^4113|^65551"):
        check(data)


def test_the_fuzzer_knows_an_answer_that_hangs_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Outcome] = [HeaderClass.V1_PORT, HeaderClass.V1_SYNTAX]
    monkeypatch.setattr(fuzz_proxy, "outcome", lambda _: (answers.pop(), b""))
    with pytest.raises(AssertionError, match=r"v1_syntax.* at once, .*v1_port.* in pieces"):
        check(LINE)


def test_the_fuzzer_knows_who_does_not_look_at_the_checksum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summed = encode_v2(SERVER, SERVER, crc=True)
    check(summed)
    monkeypatch.setattr("sniproxy.proxy_protocol._verify", lambda *_: None)
    with pytest.raises(AssertionError):
        check(summed)


LOSSES: dict[str, tuple[str, bytes]] = {
    "v1_port": ("encode_v1", encode_v1(SERVER, ("198.51.100.1", 1))),
    "v1_cut": ("encode_v1", encode_v1(SERVER, SERVER)[:-1]),
    "v2_name": ("encode_v2", encode_v2(SERVER, SERVER)),
    "v2_source": ("encode_v2", encode_v2(SERVER6, SERVER, authority="play.example.com")),
    "v2_checksum": ("encode_v2", encode_v2(SERVER, SERVER, authority="play.example.com")),
    "v2_cut": ("encode_v2", encode_v2(SERVER, SERVER, authority="play.example.com")[:-1]),
    "v2_not_one": ("encode_v2", b"GET / HTTP/1.1"),
}


@pytest.mark.parametrize(("encoder", "written"), LOSSES.values(), ids=LOSSES)
def test_the_fuzzer_knows_what_does_not_read_back(
    encoder: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = encode_v2(SERVER, SERVER, authority="play.example.com")
    check(named)
    monkeypatch.setattr(fuzz_proxy, encoder, lambda *_, **__: written)
    with pytest.raises(AssertionError):
        check(named)


PLAYING = "play.example.com"
LITERAL = named(b"192.0.2.7")
TWO_RECORDS = records(HELLO[5:], [50])
LARGE = record(message([server_name(PLAYING.encode()), extension(21, bytes(SHORT))]))

# What the native reader could say of the whole, and how the fuzzer knows better; "-": that is allowed.
NAMED: dict[str, tuple[bytes, str | None, str]] = {
    "right": (HELLO, PLAYING, "-"),
    "other_name": (HELLO, "evil.example.com", "'evil.example.com', and Python says"),
    "part_of_the_name": (HELLO, "play", "'play', and Python says"),
    "other_case": (HELLO, "Play.example.com", "'Play.example.com', and Python says"),
    "waits": (HELLO, None, "more is asked for"),
    "unsure": (HELLO, UNSURE, "unsure of ClientHello"),
    "unsure_of_a_large_one": (LARGE, UNSURE, "-"),
    "unsure_of_two_records": (TWO_RECORDS, UNSURE, "-"),
    "sure_of_two_records": (TWO_RECORDS, PLAYING, "-"),
    "too_early": (HELLO[:-1], PLAYING, "Python says None"),
    "waits_for_the_last_byte": (HELLO[:-1], None, "-"),
    "unsure_too_early": (HELLO[:-1], UNSURE, "-"),
    "refused": (named(b"a..b"), "a..b", "Python says name_label"),
    "refused_and_unsure": (named(b"a..b"), UNSURE, "-"),
    "refused_and_waited_for": (b"GET", None, "more is asked for, after not_tls_http"),
    "literal": (LITERAL, "192.0.2.7", "'192.0.2.7', and Python says"),
    "literal_unsure": (LITERAL, UNSURE, "-"),
}


@pytest.mark.parametrize(("data", "answer", "objection"), NAMED.values(), ids=NAMED)
def test_the_fuzzer_knows_a_wrong_name(
    data: bytes, answer: str | None, objection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_name, "read_hello", lambda _: answer, raising=False)
    if objection == "-":
        assert fuzz_name.follow([data]) == answer
        return
    with pytest.raises(AssertionError, match=objection):
        fuzz_name.follow([data])


@pytest.mark.parametrize("later", [None, UNSURE, "play.example.co"])
def test_the_fuzzer_knows_a_name_that_does_not_stand(
    later: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {HELLO: PLAYING, HELLO + b"\x17": later}
    monkeypatch.setattr(fuzz_name, "read_hello", answers.get, raising=False)
    with pytest.raises(AssertionError, match=f"'{PLAYING}' became {later!r}"):
        fuzz_name.follow([HELLO, b"\x17"])


def test_pieces_are_the_data_and_the_same_each_time() -> None:
    for data in (b"", b"x", LINE, bytes(range(256)) * 3):
        assert b"".join(pieces(data)) == data
        assert list(pieces(data)) == list(pieces(data))
        assert len(list(pieces(data))) == 4


# Stands in for the fuzzer: shows what it was asked and ends as FOUND says.
FUZZER = """
import os, pathlib, sys
from contextlib import nullcontext

def instrument_imports(packages):
    return nullcontext()

def Setup(arguments, check):
    print(*arguments[1:], sep="\\n", flush=True)

def Fuzz():
    os._exit(int(os.environ["FOUND"]))
"""


@pytest.mark.parametrize("found", [0, 77])
@pytest.mark.parametrize(
    "target",
    [
        *["bench.fuzz_hello", "bench.fuzz_proxy"],
        pytest.param(
            "bench.fuzz_name",
            marks=pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
        ),
    ],
)
def test_a_finding_is_the_exit_status(target: str, found: int, tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text(FUZZER)
    ended = fuzz(target, "-runs=1", tmp_path, FOUND=str(found))
    assert ended.returncode == found, ended.stderr
    longest, option, folder = ended.stdout.split()
    assert (longest, option) == ("-max_len=4096", "-runs=1")
    assert not Path(folder).exists()


def test_a_file_is_run_again_without_the_seeds(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text(FUZZER)
    (tmp_path / "crash-1").write_bytes(LINE)
    ended = fuzz("bench.fuzz_proxy", str(tmp_path / "crash-1"), tmp_path, FOUND="0")
    assert ended.stdout.split() == ["-max_len=4096", str(tmp_path / "crash-1")]


def test_without_the_fuzzer_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text("raise ImportError")
    ended = fuzz("bench.fuzz_proxy", "-runs=1", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "atheris is not installed: pip install -e '.[test,fuzz]'\n"


def test_without_the_native_relay_there_are_no_names_to_compare(tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules['sniproxy._relay'] = None\n"
    (tmp_path / "atheris.py").write_text(hidden + FUZZER)
    ended = fuzz("bench.fuzz_name", "-runs=1", tmp_path, FOUND="77")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "the native relay is not built: there is nothing to compare\n"


def fuzz(
    target: str, argument: str, path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A run of a target in a process of its own, with what lies in the path put before what is installed."""
    return subprocess.run(
        [sys.executable, "-m", target, argument],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
