"""What the status port answers, of all workers together: /livez, /readyz, /metrics, /config, /sessions, /refused and
/v1/healthcheck, which is APISIX's.
"""

import json
import socket
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sniproxy.metrics import HasFreshness
from sniproxy.metrics.apisix import Place
from sniproxy.refusals import Recorder
from sniproxy.scrape import Family, export, merge, written
from sniproxy.settings import Settings
from sniproxy.small_http import BYTES, JSON, TEXT, Answer
from sniproxy.snapshot import Snapshot

NOT_YET = "no configuration yet: the store has not answered"
HEALTH = "/v1/healthcheck/"  # APISIX's; then upstreams/1
KNOWN = b"there are /livez, /readyz, /metrics, /config, /sessions, /refused and /v1/healthcheck\n"
FLIGHT = ".hello"  # ends the name of a downloaded first flight


def config_of(snapshot: Snapshot) -> dict[str, Any]:
    """Which revision of which object a worker has in force, or has looked at and cannot use."""
    broken = snapshot.broken.values()
    return {
        "revision": snapshot.revision,
        "objects": snapshot.revisions(),
        "broken": [{"key": one.key, "why": one.why, "kept": one.kept} for one in broken],
    }


def refused_of(recorder: Recorder) -> list[dict[str, Any]]:
    """The latest that a worker has refused, newest first."""
    return [one.summary() for one in recorder]


def flight_of(recorder: Recorder, session: str) -> str | None:
    """The bytes of one of them, in base64."""
    found = recorder.flight(session)
    return None if found is None else b64encode(found).decode()


class Workers(Protocol):
    """What the workers can be asked, all at once."""

    @property
    def revision(self) -> int:
        """In force in all of them."""
        ...

    async def answers(self, about: str, *, old: bool = False, **more: Any) -> list[Any]:
        """Of those that answer; old: of those of the version before too."""
        ...

    async def counted(self) -> list[list[Family]]:
        """What each has counted."""
        ...


class Status:
    """What the status port answers from."""

    def __init__(
        self,
        registry: CollectorRegistry,
        workers: Workers,
        freshness: HasFreshness,
        settings: Callable[[], Settings] = Settings,
    ) -> None:
        """registry: what is not counted by workers. settings: those in force."""
        self.unready = NOT_YET  # "": it is ready
        self._registry = registry
        self._workers = workers
        self._freshness = freshness
        self._settings = settings

    async def answer(self, method: str, target: str) -> Answer:
        """Implements `sniproxy.small_http.Answers`."""
        if method != "GET":
            return 405, TEXT, b"only GET is answered here\n"
        match target.partition("?")[0]:
            case "/livez":
                return 200, TEXT, b"ok\n"
            case "/readyz":
                return self._readiness()
            case "/config":
                return _json(await self._config())
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, await self._metrics()
            case "/sessions":
                return _json(await self._sessions())
            case "/refused":
                return _json({"refused": await self._refused()})
            case "/v1/healthcheck":
                return _json(await self._health())
            case checked if checked.startswith(HEALTH):
                return await self._health_of(checked.removeprefix(HEALTH))
            case flight if flight.startswith("/refused/"):
                return await self._flight(flight.removeprefix("/refused/").removesuffix(FLIGHT))
        return 404, TEXT, KNOWN

    def _readiness(self) -> Answer:
        """Who serves by an old configuration is ready: no pod would be better off without it."""
        if self.unready:
            return 503, TEXT, f"{self.unready}\n".encode()
        if not self._freshness.stale:
            return 200, TEXT, b"ok\n"
        old = f"ok, but config_stale: revision {self._workers.revision} was last known to be the store's "
        return 200, TEXT, f"{old}{self._freshness.age:.0f} s ago\n".encode()

    async def _config(self) -> dict[str, Any]:
        """Of the worker that is furthest behind: in the others at least that is in force."""
        configs = await self._workers.answers("config")
        oldest = min(configs, key=lambda one: one["revision"], default=_NO_CONFIG)
        freshness = {"stale": self._freshness.stale, "age": round(self._freshness.age, 3)}
        return {"revision": oldest["revision"], **freshness, **oldest}

    async def _metrics(self) -> bytes:
        own = export(self._registry)
        together = merge([own, *await self._workers.counted()])
        settings = self._settings()
        if not settings.status.apisix_metrics:
            return written(together)
        listeners = [one.address for one in settings.proxy.listeners]
        only = listeners[0] if len(listeners) == 1 else None
        return written(together, Place(socket.gethostname(), only))

    async def _sessions(self) -> dict[str, dict[str, int]]:
        """How many there are now, by route and by game server: what is drained is left when it is not named any more."""
        routes, nodes = Counter[str](), Counter[str]()
        for one in await self._workers.answers("sessions", old=True):
            routes.update(one["routes"])
            nodes.update(one["nodes"])
        return {"routes": dict(sorted(routes.items())), "nodes": dict(sorted(nodes.items()))}

    async def _refused(self) -> list[dict[str, Any]]:
        answers = await self._workers.answers("refused")
        return sorted((one for some in answers for one in some), key=lambda one: -one["time"])

    async def _health(self) -> list[dict[str, Any]]:
        """What probes have found: the one worker that probes knows."""
        for found in await self._workers.answers("health"):
            return list(found)
        return []

    async def _health_of(self, which: str) -> Answer:
        for one in await self._health():
            if one["name"].split("/")[-2:] == which.split("/"):
                return _json(one)
        return 404, JSON, b'{"error_msg":"no checks.active of that are in force"}\n'

    async def _flight(self, session: str) -> Answer:
        for found in await self._workers.answers("flight", session=session):
            return 200, BYTES, b64decode(found)
        return 404, TEXT, b"no such session: /refused lists those that are kept\n"


class PodFreshness:
    """How sure all workers are to have what the store has: as the least sure of all who pass it on."""

    def __init__(self, crew: HasFreshness, agent: HasFreshness | None) -> None:
        """agent: None where the workers follow the store itself."""
        self._all: list[HasFreshness] = [crew, *([agent] if agent else [])]

    @property
    def age(self) -> float:
        """Seconds since it was last proven."""
        return max(one.age for one in self._all)

    @property
    def stale(self) -> bool:
        """Whether changes may be missing."""
        return any(one.stale for one in self._all)


_NO_CONFIG: dict[str, Any] = {"revision": 0, "objects": {}, "broken": []}


def _json(content: object) -> Answer:
    return 200, JSON, json.dumps(content).encode() + b"\n"
