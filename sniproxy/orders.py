"""What parent and worker say to one another over their channel. Members that one side does not know are ignored, and those
that it misses have defaults, so that the workers of one version can be led by the parent of the next.

To the worker:

    {"begin": {...}}              what it is to be (`Begin`); comes first
    {"accept": [0, 2]}            let players in from these slots, and no others
    {"follow": "/path"}           the copy of the configuration lies there from now on
    {"settings": {...}}           go on by these
    {"drained": ["7"]}            routes that take no new session
    {"unhealthy": ["..."]}        game servers that probes find unhealthy, by the names of their probes
    {"probe": true}               be the one worker that probes, or not any more
    {"short": true}               memory is short: nobody is let in
    {"shed": 1000000}             end those who hold the most bytes, until so many are free
    {"drain": [60.0, 10.0]}       seconds after which sessions are ended, and over how many
    {"undrain": true}             they are not
    {"leave": [null, 10.0]}       let nobody in, end as `drain` says (null: never), and then yourself
    {"stop": true}                end now
    {"ask": 5, "about": "..."}    `metrics`, `config`, `refused`, `flight`, `routes`, `sessions`, `held`, `health`, or
                                  `shut`: let in who waits, and nobody after that

To the parent:

    {"report": {...}}             how it is (`Report`): at each change in force, and each second
    {"counted": [...]}            what it has counted (`scrape.py`), each second
    {"unhealthy": ["..."]}        what its probes have found, at each change
    {"answer": 5, "content": ...}
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from sniproxy.settings import Settings

REPORT_EVERY = 1.0  # seconds
REPORT_EVERY_LEAVING = 0.1  # seconds, while somebody waits for the last session to end
SILENCE = (
    5.0  # seconds without a report after which nobody knows how old a worker's configuration is
)


@dataclass(frozen=True, slots=True)
class Begin:
    """What a worker needs to begin. Descriptors are those that it has inherited."""

    worker: int  # its number, from 0
    workers: int
    settings: Settings
    listening: list[list[int]]  # descriptors: for each listener of the settings one per slot
    table: int  # the descriptor of the memory in which sessions are counted
    copy: str | None = None  # where that of a remote store lies; None: the store is on this machine
    drained: list[str] = field(default_factory=list)
    short: bool = False
    unhealthy: list[str] = field(default_factory=list)  # game servers, by the names of their probes

    def encode(self) -> dict[str, Any]:
        """As a message has it."""
        return {
            name: value.model_dump(mode="json") if isinstance(value, Settings) else value
            for name in self.__slots__
            for value in [getattr(self, name)]
        }

    @classmethod
    def decode(cls, members: dict[str, Any]) -> Self:
        """From a message."""
        return cls(**{**_known(cls, members), "settings": settings_of(members["settings"])})


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker is."""

    revision: int = 0  # in force
    stale: bool = True  # it does not follow its copy, or its store
    age: float = 0.0  # seconds since its configuration was last known to be that
    active: int = 0  # sessions, set-up included
    ready: bool = False  # a configuration is in force

    def encode(self) -> dict[str, Any]:
        """As a message has it."""
        return asdict(self)

    @classmethod
    def decode(cls, members: dict[str, Any]) -> Self:
        """From a message, of another version perhaps."""
        return cls(**_known(cls, members))


def settings_of(members: dict[str, Any]) -> Settings:
    """Settings that a parent of another version has read: what this one does not know is left out.

    Between the day that a version is installed and its upgrade, a worker that dies is started from the new one's code.
    """
    while True:
        try:
            return Settings.model_validate(members)
        except ValidationError as error:
            unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
            if not unknown:
                raise
            members = _without(members, unknown)


def _without(members: dict[str, Any], places: list[tuple[int | str, ...]]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(members))
    for *path, last in places:
        section: Any = copy
        for step in path:
            section = section[step]
        del section[last]
    return copy


def _known(kind: type[Begin | Report], members: dict[str, Any]) -> dict[str, Any]:
    """What this version has a use for."""
    return {name: members[name] for name in kind.__slots__ if name in members}
