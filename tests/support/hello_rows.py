"""What the tests of the ClientHello reader share: rows of bytes and answers, each fed whole, by bytes and cut in two."""

import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from tests.support.hellos import named, record, server_name

Outcome = ClientHello | HelloClass | None

PLAY = server_name(b"play.example.com")
HELLO = named(b"play.example.com")
ALERT = record(b"\x02\x28", kind=21)


def outcome(pieces: Iterable[bytes]) -> Outcome:
    """What a reader makes of the pieces; the answer must stand and every byte must be kept."""
    reader, fed = ClientHelloReader(), b""
    answer: Outcome = None
    now: Outcome
    for piece in pieces:
        fed += piece
        try:
            hello = reader.feed(piece)
        except BrokenHello as refusal:
            now, detail = refusal.hello_class, refusal.detail
        else:
            now, detail = hello, "-"
        assert answer in (None, now), f"{answer} became {now}"
        assert detail.isascii(), detail
        assert detail.isprintable(), detail
        assert 0 < len(detail) <= 160, detail
        answer = now
    assert reader.received == fed
    return answer


def each_byte(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def cuts(data: bytes) -> Iterable[int]:
    """Every offset; of a huge one the ends and a sample, the same in each run."""
    if len(data) <= 600:
        return range(len(data) + 1)
    middle = random.Random(len(data)).sample(range(80, len(data) - 20), 40)
    return [*range(80), *middle, *range(len(data) - 20, len(data) + 1)]


def check(data: bytes, expected: Outcome) -> None:
    """The same answer however the bytes come; a failure says how they came and what was answered."""
    whole = outcome([data])
    assert whole == expected, f"whole: {whole}, not {expected}"
    by_bytes = outcome(each_byte(data))
    assert by_bytes == expected, f"by bytes: {by_bytes}, not {expected}"
    for cut in cuts(data):
        in_two = outcome([data[:cut], data[cut:]])
        assert in_two == expected, f"cut at {cut}: {in_two}, not {expected}"


def base(**changes: Any) -> ClientHello:
    """The hello for play.example.com with nothing else in it, but for these members."""
    plain = ClientHello("play.example.com", False, (), 0x0303, (), 1, False, False)
    return dataclasses.replace(plain, **changes)


def rows(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("data", "expected"), [pytest.param(*row, id=name) for name, row in table.items()]
    )
