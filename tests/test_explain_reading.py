"""`sniproxy explain` reads names and recorded first flights as the data plane does."""

import pytest

from sniproxy.client_hello import BrokenHello, ClientHelloReader, HelloClass
from sniproxy.corpus import Row, load
from sniproxy.errors import CloseReason
from sniproxy.explain import Explanation, read_flight, read_name
from sniproxy.refusals import hello_refusal
from sniproxy.settings import Proxy
from tests.support.certificates import NAME
from tests.support.hellos import (
    VERSIONS,
    alpn,
    message,
    named,
    padded,
    post_quantum,
    record,
    records,
    shorts,
)

# -- names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (NAME, NAME),
        ("PLAY.Example.COM.", NAME),
        ("_game._tcp.example.com", "_game._tcp.example.com"),
        ("127.0.0.1", None),
        ("2130706433", None),
        ("[::1]", None),
    ],
)
def test_a_name_is_read_as_that_of_a_hello_is(given: str, name: str | None) -> None:
    said = Explanation()
    assert read_name(given, said) == name
    assert (said.lines, said.refused) == ([], None)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("", HelloClass.NAME_LENGTH),
        (".", HelloClass.NAME_LENGTH),
        ("a" * 254, HelloClass.NAME_LENGTH),
        ("a" * 64 + ".test", HelloClass.NAME_LABEL),
        ("play..example.com", HelloClass.NAME_LABEL),
        ("play.example.com..", HelloClass.NAME_LABEL),
        ("*.example.com", HelloClass.NAME_CHARACTERS),
        ("play example", HelloClass.NAME_CHARACTERS),
        ("bücher.example", HelloClass.NAME_CHARACTERS),
        ("play.example.com:443", HelloClass.NAME_CHARACTERS),
        ("https://play.example.com", HelloClass.NAME_CHARACTERS),
        ("caf\udce9.example", HelloClass.NAME_CHARACTERS),  # a byte of a shell that is not UTF-8
    ],
)
def test_a_name_that_no_hello_may_carry(given: str, kind: HelloClass) -> None:
    said = Explanation()
    assert read_name(given, said) is None
    assert said.refused is CloseReason.HELLO_BROKEN
    (topic, text), closed = said.lines
    assert topic == "name"
    assert text.startswith(f"refused as {kind}: ")
    assert text.isascii()
    assert closed == ("closed", "hello_broken")


# -- first flights

SETTINGS = Proxy()


def read(flight: bytes, settings: Proxy = SETTINGS) -> Explanation:
    """What is said of it."""
    said = Explanation()
    read_flight(flight, settings, said)
    return said


@pytest.mark.parametrize(
    ("flight", "words"),
    [
        (named(NAME.encode()), "TLS 1.2, 1 record(s)"),
        (record(message(version=0x0301)), "TLS 1.0, 1 record(s)"),
        (
            records(message([shorts(VERSIONS, 1, 0x0304, 0x0303)]), (10, 1000)),
            "TLS 1.3, 2 record(s)",
        ),
        (record(message([shorts(VERSIONS, 1, 0x3A3A, 0x0303)])), "TLS 1.2, 1 record(s)"),
        (record(message([shorts(VERSIONS, 1, 0x3A3A)])), "TLS 0x3a3a, 1 record(s)"),
        (
            named(NAME.encode(), alpn(b"h2", b"\x1b[2J")),
            "TLS 1.2, 1 record(s), ALPN h2, \\x1b[2J",
        ),
        (named(b"10.0.0.1"), "TLS 1.2, 1 record(s), an IP address for a name"),
        (post_quantum(), "TLS 1.3, 1 record(s), post-quantum, ECH, ALPN h2, http/1.1"),
    ],
)
def test_a_sound_flight_is_described(flight: bytes, words: str) -> None:
    said = read(flight)
    assert said.lines == [("hello", f"sound, {len(flight)} bytes, {words}")]
    assert said.refused is None


@pytest.mark.parametrize("size", [0, 1, 5, 40])
def test_a_flight_that_is_not_whole(size: int) -> None:
    said = read(named(NAME.encode())[:size])
    waiting = f"not complete after {size} bytes: more is waited for"
    assert said.lines == [("hello", waiting), ("closed", "hello_timeout")]
    assert said.refused is CloseReason.HELLO_TIMEOUT


def test_the_bounds_are_those_of_the_settings() -> None:
    flight = records(padded(20_000), (1000,))
    assert read(flight).refused is None
    said = read(flight, Proxy(max_hello=16 * 1024))
    assert said.refused is CloseReason.HELLO_TOO_LARGE
    assert "refused as too_large: " in str(said)
    raw = records(padded(60_000), (2,))
    assert read(raw, Proxy(max_hello_raw=1024 * 1024)).refused is None
    assert read(raw, Proxy(max_hello_raw=96 * 1024)).refused is CloseReason.HELLO_TOO_LARGE


@pytest.mark.parametrize("row", load(), ids=lambda row: row.id)
def test_every_flight_of_the_corpus(row: Row) -> None:
    """What is said is what the reader says that the data plane has."""
    said = Explanation()
    hello = read_flight(row.sent, SETTINGS, said)
    try:
        expected = ClientHelloReader().feed(row.sent)
        text = "sound, " if expected else "not complete "
        reason = None if expected else CloseReason.HELLO_TIMEOUT
    except BrokenHello as broken:
        expected, text = None, f"refused as {broken.hello_class}: {broken.detail}"
        reason = hello_refusal(broken.hello_class)
    assert hello == expected
    assert said.refused is reason
    assert said.lines[0][1].startswith(text)
    assert all(line.isprintable() and line.isascii() for line in str(said).splitlines())
