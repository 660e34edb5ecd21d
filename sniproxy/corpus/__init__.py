"""First flights of clients, sound and broken, and what an SNI proxy must do with each: rows of `hellos.jsonl`.

docs/conformance.md describes the format for users of other languages. The rows are made by `python -m bench.make_corpus`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

FILE = "hellos.jsonl"
INCOMPLETE = "incomplete"  # the reason of a row that stops before its hello is whole


class Level(StrEnum):
    """How a failure counts."""

    MUST = "must"  # the wrong server, or none, or an attack passed on
    SHOULD = "should"  # another choice can be defended


class Expect(StrEnum):
    """What becomes of the connection."""

    ROUTE = "route"  # reaches the server of the row's name, every byte as it was sent
    NO_NAME = "no_name"  # is sound and names nobody: the default server, or closed
    REFUSE = "refuse"  # reaches no server at all


@dataclass(frozen=True, slots=True)
class Row:
    """One first flight."""

    id: str
    level: Level
    group: str  # "class" in the file
    why: str
    segments: tuple[bytes, ...]  # one TCP segment each
    expect: Expect
    name: str | None = None  # to be routed by; of `route` rows alone
    reason: str | None = None  # why sniproxy refuses it; of `refuse` rows alone

    def __post_init__(self) -> None:
        if (self.name is not None) != (self.expect is Expect.ROUTE):
            raise ValueError(f"{self.id}: a name belongs to a route row, and to no other")
        if (self.reason is not None) != (self.expect is Expect.REFUSE):
            raise ValueError(f"{self.id}: a reason belongs to a refuse row, and to no other")

    @property
    def sent(self) -> bytes:
        """Every byte, whatever the segments."""
        return b"".join(self.segments)


def read_row(line: str) -> Row:
    """A row of its JSON text; ValueError for one that breaks the format."""
    members: dict[str, Any] = json.loads(line)
    try:
        return Row(
            level=Level(members.pop("level")),
            group=members.pop("class"),
            segments=tuple(bytes.fromhex(segment) for segment in members.pop("segments")),
            expect=Expect(members.pop("expect")),
            **members,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a member is missing, unknown or of the wrong type: {error}") from None


def write_row(row: Row) -> str:
    """The JSON text of a row, in one line."""
    members = {
        "id": row.id,
        "level": row.level,
        "class": row.group,
        "why": row.why,
        "expect": row.expect,
        "name": row.name,
        "reason": row.reason,
        "segments": [segment.hex() for segment in row.segments],
    }
    return json.dumps({key: value for key, value in members.items() if value is not None})


@cache
def load() -> tuple[Row, ...]:
    """The corpus of this package."""
    text = (files(__package__) / FILE).read_text(encoding="ascii")
    return tuple(read_row(line) for line in text.splitlines())


def names(rows: Iterable[Row]) -> list[str]:
    """Every name that must have a route, each once."""
    return list(dict.fromkeys(row.name for row in rows if row.name is not None))
