"""How a reader is fed: waiting, what is kept, linear cost, any split and any mutation."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.proxy_protocol import BrokenHeader, HeaderClass, ProxyHeader, ProxyHeaderReader
from tests.support.proxy_headers import (
    AUTHORITY,
    AWS,
    CRC32C,
    IPV4,
    IPV6,
    LOCAL,
    NLB_HEALTH_CHECK,
    NOOP,
    TCP6,
    UNIQUE_ID,
    UNIX,
    UNSPEC,
    check,
    outcome,
    ssl,
    summed,
    tlv,
    v1,
    v2,
)

LINE = v1("TCP4 192.0.2.7 198.51.100.1 56324 443")
FULL = v2(
    IPV6
    + tlv(AUTHORITY, b"play.example.com")
    + tlv(UNIQUE_ID, bytes(16))
    + ssl(tlv(0x21, b"TLSv1.3"))
    + tlv(AWS, b"\x01vpce-08d2bf15fac5001c9"),
    family=TCP6,
)


@pytest.mark.parametrize("header", [LINE, v1("UNKNOWN"), v2(), FULL, NLB_HEALTH_CHECK])
def test_start_of_a_header_waits(header: bytes) -> None:
    reader = ProxyHeaderReader()
    for at in range(len(header) - 1):
        assert reader.feed(header[at : at + 1]) is None
        assert reader.rest == b""
    assert reader.feed(header[-1:]) is not None
    check(header[:-1], None)


def test_nothing_fed_is_nothing_said() -> None:
    reader = ProxyHeaderReader()
    assert reader.feed(b"") is None
    header = reader.feed(LINE)
    assert reader.feed(b"") is header


def test_memoryview_is_copied() -> None:
    reader = ProxyHeaderReader()
    buffer = bytearray(FULL + b"hello")
    assert reader.feed(memoryview(buffer)[:60]) is None
    header = reader.feed(memoryview(buffer)[60:])
    buffer[:] = bytes(len(buffer))
    assert (header, b"hello") == outcome([FULL + b"hello"])
    assert reader.rest == b"hello"


def test_what_comes_later_goes_to_the_rest() -> None:
    reader = ProxyHeaderReader()
    header = reader.feed(LINE + b"he")
    assert header is not None
    assert reader.rest == b"he"
    assert reader.feed(b"llo" + LINE) is header
    assert reader.rest == b"hello" + LINE


@pytest.mark.parametrize("start", [b"x", b"PROXY UNKNOWN ", v2(length=65535)[:16]])
def test_after_a_refusal_nothing_is_kept(start: bytes) -> None:
    """D4: a line without an end, or a length of 64 KiB, costs no memory."""
    reader = ProxyHeaderReader()
    refusals = []
    for piece in [start, *[b"x" * 1000] * 300]:
        try:
            reader.feed(piece)
        except BrokenHeader as refusal:
            refusals.append(str(refusal))
    assert len(refusals) >= 300
    assert len(set(refusals)) == 1
    assert len(reader._raw) == 0
    assert reader.rest == b""


def calls(size: int, step: int) -> int:
    """Function calls made to read a header with `size` bytes after its fixed part."""
    wire = v2(tlv(NOOP, bytes(size - 3)), command=LOCAL, family=UNSPEC)
    reader, made, header = ProxyHeaderReader(max_v2=size), 0, None

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for at in range(0, len(wire), step):
            header = reader.feed(wire[at : at + step])
    finally:
        sys.setprofile(before)
    assert header is not None
    return made


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_cost_is_linear(step: int) -> None:
    assert calls(40_000, step) <= 8.5 * calls(5_000, step)


def test_a_header_of_many_tlvs_is_read_once() -> None:
    many = [(0xE0 + at % 16, bytes(at % 5)) for at in range(800)]
    data = v2(IPV4 + b"".join(tlv(*one) for one in many))
    answer, _ = outcome(data[at : at + 1] for at in range(len(data)))
    assert isinstance(answer, ProxyHeader)
    assert answer.tlvs == tuple(many)


# Any split, any mutation.

CORPUS = [
    LINE,
    v1("TCP6 2001:db8::7 ::ffff:192.0.2.7 56324 443"),
    v1("UNKNOWN"),
    v1("UNKNOWN " + "x" * 91),
    v1("TCP4 192.0.2.07 198.51.100.1 56324 443"),
    v2(),
    FULL,
    summed(v2(IPV4 + tlv(CRC32C, bytes(4)) + tlv(NOOP, b"pad"))),
    v2(bytes(216), family=UNIX),
    v2(tlv(UNIQUE_ID, bytes(129)), family=UNSPEC),
    NLB_HEALTH_CHECK,
]


def chunks(data: bytes, at: Iterable[int]) -> Iterator[bytes]:
    ends = [0, *sorted({cut % (len(data) + 1) for cut in at}), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(ends))


def sound(header: ProxyHeader) -> bool:
    """What holds of every header that is read: two real addresses in one spelling, or none."""
    ends = [header.source, header.destination]
    if header.local:
        return ends == [None, None]
    return all(
        end is not None
        and str(ip_address(end[0])) == end[0]
        and getattr(ip_address(end[0]), "ipv4_mapped", None) is None
        and 0 <= end[1] <= 65535
        for end in ends
    )


@given(st.sampled_from(CORPUS), st.binary(max_size=40), st.lists(st.integers(0, 300)))
def test_any_split_gives_the_same_answer(header: bytes, noise: bytes, at: list[int]) -> None:
    data = header + noise
    assert outcome(chunks(data, at)) == outcome([data])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A header of the corpus with a few runs of bytes put over, put in or taken out."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(max_examples=1000)
@given(mutated(), st.lists(st.integers(0, 300), max_size=5))
def test_any_mutation_is_read_waits_or_is_broken(data: bytes, at: list[int]) -> None:
    answer, rest = outcome([data])
    assert outcome(chunks(data, at)) == (answer, rest)
    if isinstance(answer, ProxyHeader):
        assert sound(answer)
        assert answer.authority is None or answer.authority.isprintable()


# fmt: off
WORDS = [
    "TCP4", "TCP6", "UNKNOWN", " ", " ", " ", " ", "\r", "\n", "\r\n", "1.2.3.4", "0.0.0.0",
    "01.2.3.4", "::", "::1", ":", "%", ".", "/", "1", "0", "443", "65536", "\0", "\xff", "x" * 30,
]
# fmt: on


@settings(max_examples=500)
@given(st.lists(st.sampled_from(WORDS), max_size=14), st.lists(st.integers(0, 300), max_size=5))
def test_any_words_as_a_line(words: list[str], at: list[int]) -> None:
    data = v1("".join(words))
    answer, rest = outcome([data])
    assert answer is not None, "a line with an end, or too long, is answered"
    assert outcome(chunks(data, at)) == (answer, rest)
    assert not isinstance(answer, ProxyHeader) or sound(answer)


@settings(max_examples=500)
@given(
    st.sampled_from([LOCAL, 0x21]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]),
    st.binary(max_size=120),
)
def test_any_bytes_as_a_body(command: int, family: int, body: bytes) -> None:
    data = v2(body, command=command, family=family)
    answer, rest = outcome([data])
    assert answer is not None
    assert rest == b""
    assert outcome([data[:16], data[16:]]) == (answer, rest)
    assert answer is not HeaderClass.NOT_PROXY
