"""How a reader is fed: waiting, bounds, linear cost, the hellos of real clients, any split and any mutation."""

import dataclasses
import itertools
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from tests.support.hello_rows import HELLO, PLAY, Outcome, base, check, outcome
from tests.support.hellos import Lying, alpn, message, named, padded, post_quantum, records, vector


@pytest.mark.parametrize("size", [0, 1, 3, 5, 6, 9, 40, 80])
def test_start_of_a_hello_waits(size: int) -> None:
    check(HELLO[:size], None)
    check(records(HELLO[5:], [7])[:size], None)


def test_memoryview_is_copied() -> None:
    reader = ClientHelloReader()
    buffer = bytearray(HELLO)
    assert reader.feed(memoryview(buffer)[:60]) is None
    assert reader.feed(memoryview(buffer)[60:]) == base()
    buffer[:] = bytes(len(buffer))
    assert reader.received == HELLO


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_bounds_fall_on_the_same_byte_however_fed(step: int) -> None:
    wire = records(message([PLAY]), [10])

    def answer(**bounds: int) -> Outcome:
        reader, hello = ClientHelloReader(**bounds), None
        try:
            for at in range(0, len(wire), step):
                hello = reader.feed(wire[at : at + step])
        except BrokenHello as broken:
            return broken.hello_class
        return hello

    size = len(message([PLAY])) - 4
    assert isinstance(answer(max_hello=size, max_raw=len(wire)), ClientHello)
    assert answer(max_hello=size - 1) is HelloClass.TOO_LARGE
    for max_raw in range(1, len(wire)):
        assert answer(max_raw=max_raw) is HelloClass.TOO_LARGE


class CountingBuffer(bytearray):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.copied += len(found) if isinstance(key, slice) else 1
        return found

    def __bytes__(self) -> bytes:
        self.copied += len(self)
        return bytes(memoryview(self))


def work(size: int, step: int) -> tuple[int, int]:
    """Calls made and bytes copied to read a hello in one-byte records, `step` bytes at a time."""
    wire = records(padded(size), [1])
    reader = ClientHelloReader()
    raw, joined = CountingBuffer(), CountingBuffer()
    reader._raw, reader._joined = raw, joined
    calls, hello = 0, None

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for at in range(0, len(wire), step):
            hello = reader.feed(wire[at : at + step])
    finally:
        sys.setprofile(before)
    assert hello == base(records=size + 4)
    return calls, raw.copied + joined.copied


@pytest.mark.parametrize("step", [1, 6, 1_000_000])
def test_cost_is_linear(step: int) -> None:
    calls, copied = work(16_384, step)
    small_calls, small_copied = work(2_048, step)
    assert calls <= 8.5 * small_calls
    assert copied <= 8.5 * small_copied
    assert copied <= 10 * 6 * 16_388


# Real clients.


def real_hello(name: str | None, version: ssl.TLSVersion, protocols: list[str]) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"], ["p" * 255] * 40])
@pytest.mark.parametrize("name", [None, "play.example.com", "a" * 63 + ".example"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_hello_of_python(version: ssl.TLSVersion, name: str | None, protocols: list[str]) -> None:
    data = real_hello(name, version, protocols)
    expected = base(
        server_name=name,
        alpn=tuple(protocol.encode() for protocol in protocols),
        supported_versions=(0x0304,) if version is ssl.TLSVersion.TLSv1_3 else (),
    )
    answer = outcome([data])
    assert isinstance(answer, ClientHello)
    # A newer OpenSSL offers post-quantum groups by itself.
    assert answer == dataclasses.replace(expected, post_quantum=answer.post_quantum)
    check(data, answer)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("-tls1_3 -servername Play.Example.COM", {"supported_versions": (0x0304,)}),
        ("-tls1_2 -servername play.example.com", {}),
        ("-tls1_1 -cipher ALL:@SECLEVEL=0 -servername play.example.com", {"legacy_version": 770}),
        ("-tls1_2 -noservername", {"server_name": None}),
        ("-tls1_2 -servername play.example.com -alpn game", {"alpn": (b"game",)}),
        ("-tls1_2 -servername play.example.com -split_send_frag 512", {}),
    ],
)
def test_hello_of_openssl(options: str, changes: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", address, *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(20)
                reader, answer = ClientHelloReader(), None
                while answer is None:
                    data = connection.recv(65_536)
                    assert data, "openssl closed without a hello"
                    answer = reader.feed(data)
    assert answer == base(**changes, post_quantum=answer.post_quantum)
    check(reader.received, answer)


# Any split, any mutation.

CORPUS = [
    HELLO,
    post_quantum(),
    Lying("", "0").bytes(),
    records(message([PLAY, alpn(b"h2")]), [3, 1, 50]),
    real_hello("play.example.com", ssl.TLSVersion.TLSv1_2, ["h2"]),
    real_hello("play.example.com", ssl.TLSVersion.TLSv1_3, []),
    named(b"127.0.0.1"),
    named(b"a..b"),
    *(Lying(level, "+1").bytes() for level in ("name", "extensions", "handshake")),
]
LEGAL_OCTETS = set("abcdefghijklmnopqrstuvwxyz0123456789-_")


def legal(name: str | None) -> bool:
    """The rule of names, put another way than by a pattern."""
    if name is None:
        return True
    labels = name.split(".")
    fits = len(name) <= 253 and all(1 <= len(label) <= 63 for label in labels)
    return fits and all(set(label) <= LEGAL_OCTETS for label in labels)


def chunks(data: bytes, at: Iterable[int]) -> Iterator[bytes]:
    ends = [0, *sorted({cut % (len(data) + 1) for cut in at}), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(ends))


@given(st.sampled_from(CORPUS), st.binary(max_size=40), st.lists(st.integers(0, 4000)))
def test_any_split_gives_the_same_answer(hello: bytes, noise: bytes, at: list[int]) -> None:
    data = hello + noise
    assert outcome(chunks(data, at)) == outcome([data])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A hello of the corpus with a few runs of bytes put over, put in or taken out."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(1, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(max_examples=500)
@given(mutated(), st.lists(st.integers(0, 4000), max_size=5))
def test_any_mutation_is_parsed_waits_or_is_broken(data: bytes, at: list[int]) -> None:
    answer = outcome([data])
    assert outcome(chunks(data, at)) == answer
    if isinstance(answer, ClientHello):
        assert legal(answer.server_name)
        assert not (answer.ip_literal and answer.server_name)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_name(name: bytes) -> None:
    answer = outcome([named(name)])
    assert isinstance(answer, HelloClass) or (answer is not None and legal(answer.server_name))


@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_as_a_body(body: bytes, at: list[int]) -> None:
    data = records(b"\x01" + vector(3, body), [60])
    answer = outcome([data])
    assert answer is not None
    assert outcome(chunks(data, at)) == answer
