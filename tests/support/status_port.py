"""A status port for tests, and the workers that it asks."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sniproxy.following import Freshness
from sniproxy.metrics import Metrics, PodMetrics
from sniproxy.refusals import Recorder
from sniproxy.scrape import Family, export_worker
from sniproxy.settings import Settings
from sniproxy.snapshot import Snapshot
from sniproxy.status import Status, config_of, flight_of, refused_of
from tests.support.gateway import fill
from tests.support.http_port import HttpPort, Listening, open_http

BOUND = 10.0  # seconds without a sign of the store after which the configuration is stale
TEXT = "text/plain; charset=utf-8"
HOSTILE = 'a"\\\r\n\x1b[2J\0\u2028<script>\x7f\x85\ud800é'


def empty() -> Recorder:
    """A recorder that has kept nothing yet."""
    return Recorder(limit=10_000)


def one_upstream() -> Snapshot:
    """A snapshot with one object, at revision 1."""
    return fill({"upstreams/1": {"nodes": {}}})


@dataclass
class Hand:
    """What one worker answers from."""

    recorder: Recorder = field(default_factory=empty)
    snapshot: Snapshot = field(default_factory=one_upstream)
    metrics: Metrics = field(default_factory=lambda: Metrics(lambda: 7))
    sessions: dict[str, dict[str, int]] | None = None
    health: list[dict[str, Any]] | None = None  # it does not probe

    def answer(self, about: str, more: dict[str, Any]) -> Any:
        """As a worker does."""
        answers: dict[str, Callable[[], Any]] = {
            "config": lambda: config_of(self.snapshot),
            "sessions": lambda: self.sessions,
            "health": lambda: self.health,
            "refused": lambda: refused_of(self.recorder),
            "flight": lambda: flight_of(self.recorder, more["session"]),
        }
        return answers[about]()


class Hands:
    """Workers that answer at once, as through a channel. Implements `sniproxy.status.Workers`."""

    def __init__(self, *hands: Hand) -> None:
        self.all = list(hands)
        self.buried: list[Family] = []

    @property
    def revision(self) -> int:
        return min((one.snapshot.revision for one in self.all), default=0)

    async def answers(self, about: str, *, old: bool = False, **more: Any) -> list[Any]:
        assert old == (about == "sessions")
        given = [one.answer(about, more) for one in self.all]
        return [json.loads(json.dumps(one)) for one in given if one is not None]

    async def counted(self) -> list[list[Family]]:
        exports = [self.buried, *(export_worker(one.metrics) for one in self.all)]
        return [json.loads(json.dumps(one)) for one in exports]


class Port(HttpPort):
    """A status port."""

    def __init__(
        self,
        listening: Listening,
        status: Status,
        hands: Hands,
        freshness: Freshness,
        metrics: PodMetrics,
    ) -> None:
        super().__init__(listening)
        self.status = status
        self.hands = hands
        self.freshness = freshness
        self.metrics = metrics
        self.settings = Settings()  # that are in force

    @property
    def first(self) -> Hand:
        """Of the workers."""
        return self.hands.all[0]


@asynccontextmanager
async def open_port(*recorders: Recorder, workers: int = 1) -> AsyncIterator[Port]:
    """A status port that serves until the block is left. One worker for each recorder, or so many that refused nobody."""
    hands = Hands(*map(Hand, recorders or [empty() for _ in range(workers)]))
    metrics, freshness = PodMetrics(), Freshness(bound=BOUND)
    freshness.proven()
    metrics.show_freshness(freshness)
    ports: list[Port] = []
    status = Status(metrics.registry, hands, freshness, lambda: ports[0].settings)
    async with open_http(status.answer) as http:
        ports.append(Port(http.listening, status, hands, freshness, metrics))
        yield ports[0]
