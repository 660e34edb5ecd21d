"""What the modules of the corpus share: a hello with a random of its own, cut into records and segments, as a row."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sniproxy.client_hello import BrokenHello, ClientHelloReader
from sniproxy.corpus import INCOMPLETE, Expect, Level, Row
from tests.support.hellos import VERSIONS, extension, message, record, records, server_name, shorts

NAME = "play.conformance.test"
OTHER = "other.conformance.test"
PLAY = server_name(NAME.encode())
TLS13 = shorts(VERSIONS, 1, 0x0304, 0x0303)
HELLO = message([PLAY, TLS13])
RANDOM = slice(6, 38)  # where the random is in a handshake message

Cut = Callable[[bytes], bytes]  # a handshake message -> what is on the wire
Split = Callable[[bytes], Sequence[bytes]]  # what is on the wire -> segments


def at_once(data: bytes) -> Sequence[bytes]:
    """One segment."""
    return [data]


def every(size: int) -> Split:
    """Segments of that size."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


def split_at(*offsets: int) -> Split:
    """Segments that start at these offsets."""

    def split(data: bytes) -> Sequence[bytes]:
        ends = [0, *offsets, len(data)]
        return [data[start:end] for start, end in itertools.pairwise(ends)]

    return split


def first(size: int) -> Split:
    """The first bytes and no more."""
    return lambda data: [data[:size]]


def into(*sizes: int) -> Cut:
    """Records of these sizes, the last size again and again."""
    return partial(records, sizes=sizes)


def followed_by(data: bytes, *sizes: int) -> Cut:
    """Records of these sizes, and this after them."""
    return lambda hello: records(hello, sizes or (1 << 14,)) + data


def interrupted_by(data: bytes, at: int = 95) -> Cut:
    """Two records with this between them."""
    return lambda hello: record(hello[:at]) + data + record(hello[at:])


def padded(size: int, *, name_first: bool = False) -> bytes:
    """A message whose length field says exactly `size`."""
    short = message([extension(21), PLAY])
    filler = extension(21, bytes(size - (len(short) - 4)))
    return message([PLAY, filler] if name_first else [filler, PLAY])


def stamped(row_id: str, hello: bytes) -> bytes:
    """The message with a random that only this row has, so that its bytes are known again at a server."""
    if len(hello) < RANDOM.stop:
        return hello
    return hello[: RANDOM.start] + hashlib.sha256(row_id.encode()).digest() + hello[RANDOM.stop :]


def reason_of(data: bytes) -> str | None:
    """The parser's word for a refusal."""
    try:
        return INCOMPLETE if ClientHelloReader().feed(data) is None else None
    except BrokenHello as broken:
        return broken.hello_class.value


@dataclass(frozen=True)
class Group:
    """Makes the rows of one class."""

    name: str
    prefix: str

    def raw(
        self,
        row: str,
        why: str,
        segments: Sequence[bytes],
        *,
        expect: Expect = Expect.REFUSE,
        name: str | None = None,
        level: Level = Level.MUST,
    ) -> Row:
        """A row of any bytes at all."""
        reason = reason_of(b"".join(segments)) if expect is Expect.REFUSE else None
        row_id = f"{self.prefix}_{row}"
        return Row(row_id, level, self.name, why, tuple(segments), expect, name, reason)

    def route(
        self,
        row: str,
        why: str,
        hello: bytes = HELLO,
        *,
        name: str = NAME,
        cut: Cut = record,
        split: Split = at_once,
        level: Level = Level.MUST,
    ) -> Row:
        """A handshake message that must reach the server of `name`."""
        wire = cut(stamped(f"{self.prefix}_{row}", hello))
        return self.raw(row, why, split(wire), expect=Expect.ROUTE, name=name, level=level)

    def no_name(self, row: str, why: str, hello: bytes, *, cut: Cut = record) -> Row:
        """A sound handshake message that names nobody."""
        wire = cut(stamped(f"{self.prefix}_{row}", hello))
        return self.raw(row, why, [wire], expect=Expect.NO_NAME)

    def refuse(
        self,
        row: str,
        why: str,
        hello: bytes = HELLO,
        *,
        cut: Cut = record,
        split: Split = at_once,
        level: Level = Level.MUST,
    ) -> Row:
        """A handshake message, or what is made of one, that must reach nobody."""
        wire = cut(stamped(f"{self.prefix}_{row}", hello))
        return self.raw(row, why, split(wire), level=level)
