"""The native relay's ClientHello reader against Python's, which knows every rule: never another name, never waiting for
what is refused, and the name itself of all that ordinary clients send."""

import itertools
import ssl
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzz_name import MOST_EXTENSIONS, SHORT, UNSURE, check, follow, ordinary
from sniproxy.corpus import Expect, Row, load
from sniproxy.relay.native import BUILT
from tests import test_client_hello as sound
from tests import test_client_hello_broken as broken
from tests.support.hello_rows import ALERT, HELLO, PLAY, cuts, outcome, rows
from tests.support.hellos import (
    ALPN,
    GROUPS,
    KEY_SHARE,
    VERSIONS,
    Lie,
    Lying,
    alpn,
    extension,
    key_share,
    message,
    name_entry,
    named,
    padded,
    post_quantum,
    record,
    records,
    server_name,
    shorts,
    vector,
)
from tests.test_client_hello_feeding import real_hello

pytestmark = pytest.mark.skipif(not BUILT, reason="the native relay is not built")

PLAYING = "play.example.com"
ROWS = load()


def grown(data: bytes) -> list[bytes]:
    """The data in parts: every byte, or of a huge one the ends and a sample."""
    at = sorted({0, *cuts(data)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


def say(data: bytes) -> str | None:
    """What the native reader says of the whole, after every start of it was held against Python's."""
    return follow(grown(data))


# The corpus.


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row_of_the_corpus(row: Row) -> None:
    said = say(row.sent)
    assert said in (None, UNSURE, row.name)
    assert said is not None or row.reason == "incomplete"


def test_the_corpus_names_what_it_can() -> None:
    """All that is routed is named here, but for hellos over several records and three with 301 extensions."""
    routed = {row.id: row for row in ROWS if row.expect is Expect.ROUTE}
    said = {row.id: outcome([row.sent]) for row in routed.values()}
    left = {one for one, row in routed.items() if follow([row.sent]) == UNSURE}
    several = {one for one, hello in said.items() if not ordinary(hello)}
    crowded = {f"ok_name_{place}_301" for place in ("first_of", "amid", "last_of")}
    assert left == several | crowded
    assert (len(routed), len(several)) == (277, 80)


def test_every_real_client_is_named() -> None:
    clients = [row for row in ROWS if row.group == "real_client"]
    answers = Counter(follow([row.sent]) == row.name for row in clients if row.name is not None)
    assert answers == {True: 50}


# The tables of Python's reader.

LEVELS = [line.split()[0] for line in broken.LIES.strip().splitlines()]
LIES = {f"{level}{lie}": Lying(level, lie).bytes() for level in LEVELS for lie in get_args(Lie)}
TABLES: dict[str, tuple[bytes, str | None]] = {
    **{
        f"sound_{one}": (data, "" if one == "name_last" else ordinary(hello))  # of 301 extensions
        for one, (data, hello) in sound.SOUND.items()
    },
    **{f"name_{one}": (named(given), name) for one, (given, name) in sound.NAMES.items()},
    **{f"literal_{literal}": (named(literal.encode()), UNSURE) for literal in sound.LITERALS},
    **{f"no_name_{one}": (named(name), UNSURE) for one, (name, _) in broken.BROKEN_NAMES.items()},
    **{f"broken_{one}": (data, UNSURE) for one, (data, _) in broken.BROKEN.items()},
    **{f"not_tls_{one}": (data, UNSURE) for one, (data, _) in broken.NOT_TLS.items()},
    **{f"lie_{one}": (data, UNSURE) for one, data in LIES.items()},
}


@rows(TABLES)
def test_row_of_the_tables(data: bytes, expected: str | None) -> None:
    assert say(data) == expected


# Where this reader has edges of its own, and where a wrong one would go on or stop.


def crowd(count: int, *first: bytes) -> bytes:
    """A hello with so many extensions, the name last."""
    filler = [extension(0x7000 + number) for number in range(count - 1 - len(first))]
    return record(message([*first, *filler, PLAY]))


def beside(kind: int, body: bytes) -> bytes:
    return record(message([extension(kind, body), PLAY]))


TWICE = extension(0x7777)
LONG = b"a." * 126  # 252 bytes
EARLY = record(bytes(99), kind=23)

EDGES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "one_byte": (b"\x16", None),
    "no_byte_of_the_hello": (HELLO[:9], None),
    "all_but_one_byte": (HELLO[:-1], None),
    "whole": (HELLO, PLAYING),
    "size_and_65536": (HELLO[:6] + b"\1" + HELLO[7:], UNSURE),
    "size_and_256": (HELLO[:7] + b"\1" + HELLO[8:], UNSURE),
    # names
    "upper_case": (named(b"PLAY.Example.COM"), PLAYING),
    "upper_case_0X": (named(b"play.0XFF"), UNSURE),
    "upper_case_0X_and_dot": (named(b"play.0XFF."), UNSURE),
    "0x_not_last": (named(b"0xff.example"), "0xff.example"),
    "0x_and_other": (named(b"play.0xfg"), "play.0xfg"),
    "00x": (named(b"play.00x1"), "play.00x1"),
    "x_alone": (named(b"play.x1"), "play.x1"),
    "digits_last": (named(b"play.2026"), UNSURE),
    "digits_last_and_dot": (named(b"play.2026."), UNSURE),
    "digits_last_but_one": (named(b"2026.play"), "2026.play"),
    "digit_and_hyphen_last": (named(b"play.1-"), "play.1-"),
    "underscore_last": (named(b"play._1"), "play._1"),
    "dot": (named(b"."), UNSURE),
    "no_octet": (named(b""), UNSURE),
    "two_trailing_dots": (named(b"play.example.com.."), UNSURE),
    "empty_label": (named(b"play..com"), UNSURE),
    "label_63_last": (named(b"play." + b"a" * 63), "play." + "a" * 63),
    "label_64_last": (named(b"play." + b"a" * 64), UNSURE),
    "length_253": (named(LONG + b"b"), (LONG + b"b").decode()),
    "length_253_and_dot": (named(LONG + b"b."), (LONG + b"b").decode()),
    "length_254": (named(LONG + b"bb"), UNSURE),
    "length_254_and_dot": (named(LONG + b"bb."), UNSURE),
    "ipv6": (named(b"2001:db8::1"), UNSURE),
    "ipv6_in_brackets": (named(b"[fe80::1]"), UNSURE),
    "not_ascii": (named("spiel.ö.example".encode()), UNSURE),
    "high_bit_of_a_letter": (named(b"pl\xe1y.example"), UNSURE),
    "at_sign_is_no_upper_case": (named(b"play@example"), UNSURE),
    # the list of names
    "two_names": (record(message([server_name(b"a.example", b"b.example")])), UNSURE),
    "type_1": (record(message([extension(0, vector(2, name_entry(b"a.b", kind=1)))])), UNSURE),
    "byte_after_list": (record(message([extension(0, PLAY[4:] + b"\0")])), UNSURE),
    # extensions
    "no_name": (record(message([alpn(b"h2")])), UNSURE),
    "two_server_names": (record(message([PLAY, alpn(b"h2"), PLAY])), UNSURE),
    "twice": (record(message([TWICE, PLAY, TWICE])), UNSURE),
    "64_extensions": (crowd(MOST_EXTENSIONS), PLAYING),
    "65_extensions": (crowd(MOST_EXTENSIONS + 1), UNSURE),
    "first_and_last_but_one_of_64_alike": (
        crowd(MOST_EXTENSIONS, extension(0x7000 + MOST_EXTENSIONS - 3)),
        UNSURE,
    ),
    "alpn_no_list": (beside(ALPN, b""), UNSURE),
    "alpn_empty": (beside(ALPN, vector(2, b"")), UNSURE),
    "alpn_empty_last": (beside(ALPN, vector(2, b"\2h2\0")), UNSURE),
    "alpn_byte_after": (beside(ALPN, vector(2, b"\2h2") + b"\0"), UNSURE),
    "groups_odd": (beside(GROUPS, vector(2, bytes(3))), UNSURE),
    "groups_with_small_length": (beside(GROUPS, vector(1, bytes(2))), UNSURE),
    "versions_odd": (beside(VERSIONS, vector(1, bytes(3))), UNSURE),
    "versions_with_large_length": (beside(VERSIONS, vector(2, bytes(2))), UNSURE),
    "no_share": (beside(KEY_SHARE, vector(2, b"")), PLAYING),
    "share_no_list": (beside(KEY_SHARE, b""), UNSURE),
    "share_empty": (record(message([key_share((29, 0)), PLAY])), UNSURE),
    "share_empty_last": (record(message([key_share((29, 32), (23, 0)), PLAY])), UNSURE),
    "share_byte_after": (beside(KEY_SHARE, vector(2, b"\0\x1d\0\1s") + b"\0"), UNSURE),
    # members
    "version_0300": (record(message([PLAY], version=0x0300)), UNSURE),
    "version_0301": (record(message([PLAY], version=0x0301)), PLAYING),
    "version_ffff": (record(message([PLAY], version=0xFFFF)), PLAYING),
    "session_id_32": (record(message([PLAY], session_id=bytes(32))), PLAYING),
    "session_id_33": (record(message([PLAY], session_id=bytes(33))), UNSURE),
    "255_compressions": (record(message([PLAY], compression=bytes(255))), PLAYING),
    "byte_after_extensions": (record(message([PLAY], tail=b"\0")), UNSURE),
    # records
    "early_data": (HELLO + EARLY, PLAYING),
    "start_of_early_data": (HELLO + EARLY[:1], PLAYING),
    "second_hello": (HELLO + named(b"other.example"), PLAYING),
    "noise_after": (HELLO + b"\xff" * 20_000, PLAYING),
    "byte_after_in_record": (record(message([PLAY]) + b"\0"), UNSURE),
    "second_message_in_record": (record(message([PLAY]) * 2), UNSURE),
    "two_records": (records(message([PLAY]), [60, 1000]), UNSURE),
    "two_records_and_early_data": (records(message([PLAY]), [60, 1000]) + EARLY, UNSURE),
    "record_of_3": (records(message([PLAY]), [3, 1000]), UNSURE),
    "record_of_4": (records(message([PLAY]), [4, 1000]), UNSURE),
    "all_but_one_byte_in_the_first": (records(HELLO[5:], [len(HELLO) - 6]), UNSURE),
    "record_16384": (record(padded(16_380)), PLAYING),
    "record_16385": (record(padded(16_381)), UNSURE),
    "alert": (ALERT, UNSURE),
    "alert_after": (HELLO + ALERT, PLAYING),
}


@rows(EDGES)
def test_edge(data: bytes, expected: str | None) -> None:
    assert say(data) == expected


@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"]])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_hello_of_this_python_is_named(version: ssl.TLSVersion, protocols: list[str]) -> None:
    assert say(real_hello(PLAYING, version, protocols)) == PLAYING


def test_the_hello_of_a_browser_is_named() -> None:
    assert say(post_quantum(b"Play.Example.com")) == PLAYING


# Any hello, and any mutation of one.

LABEL = st.text("abcxyzXYZ019-_", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
OTHERS = [
    alpn(b"h2", b"game"),
    shorts(VERSIONS, 1, 0x2A2A, 0x0304),
    shorts(GROUPS, 2, 29, 23),
    key_share((29, 3), (23, 1)),
    extension(35),
    extension(0x0A0A, b"\0"),
]


@st.composite
def extensions(draw: st.DrawFn) -> list[bytes]:
    """A name and a few others, in any order."""
    others = draw(st.lists(st.sampled_from(OTHERS), unique=True))
    name = server_name(draw(NAME).encode() + draw(st.sampled_from([b"", b"", b"."])))
    return draw(st.permutations([name, *others]))


@st.composite
def bent(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with a run of bytes put over, put in or taken out, another length, or its end cut off."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(made)))
        match draw(st.sampled_from(["bytes", "length", "cut"])):
            case "bytes":
                made[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
            case "length":
                length = int.from_bytes(made[at : at + 2], "big") + draw(st.integers(-3, 3))
                made[at : at + 2] = (length % 65_536).to_bytes(2, "big")
            case "cut":
                del made[at:]
    return bytes(made)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A hello that is wrong at one level; the lengths around it are right again, so that it is looked at."""
    members = draw(extensions())
    session_id = draw(st.binary(max_size=32))
    level = draw(
        st.sampled_from(["list", "extension", "twice", "block", "hello", "record", "wire"])
    )
    which = draw(st.integers(0, len(members) - 1))
    kind, body = members[which][:2], members[which][4:]
    if level == "list":
        width = 1 if kind == bytes([0, VERSIONS]) else 2
        members[which] = kind + vector(2, vector(width, draw(bent(body[width:]))[:255]))
    elif level == "extension":
        members[which] = kind + vector(2, draw(bent(body)))
    elif level == "twice":
        members.insert(draw(st.integers(0, len(members))), members[which])
    elif level == "block":
        members = [draw(bent(b"".join(members)))]
    hello = message(members, session_id=session_id)
    if level == "hello":
        hello = b"\x01" + vector(3, draw(bent(hello[4:])))
    wire = record(draw(bent(hello)) if level == "record" else hello)
    return draw(bent(wire)) if level == "wire" else wire


@given(extensions(), st.binary(max_size=32), st.binary(max_size=9))
def test_any_short_hello_is_named(members: list[bytes], session_id: bytes, after: bytes) -> None:
    """But for names that are IP literals, which end in a number."""
    data = record(message(members, session_id=session_id))
    assert follow([data, after]) == ordinary(outcome([data]))


@settings(max_examples=500)
@given(mutated())
def test_any_mutation_is_the_same_to_both(data: bytes) -> None:
    check(data)


@settings(max_examples=300)
@given(st.sampled_from(ROWS).flatmap(lambda row: bent(row.sent)))
def test_any_mutation_of_the_corpus_is_the_same_to_both(data: bytes) -> None:
    check(data)


@given(st.binary(max_size=40))
def test_any_bytes_as_a_name_are_the_same_to_both(name: bytes) -> None:
    check(named(name))


def test_the_mutations_are_short() -> None:
    """So that what is left to Python is asked after too."""
    longest = message([server_name(b"a" * 51 + b"."), *OTHERS])
    assert len(record(longest)) + 6 < SHORT
