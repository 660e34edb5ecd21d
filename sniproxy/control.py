"""The control socket: what an operator on this machine asks of the data plane, over HTTP on a unix socket in `state_dir`.

    GET    /version                  who serves here
    GET    /drain                    how far it is, and how many sessions are left
    POST   /drain?deadline=S         let nobody in any more, without ending; S seconds later end the rest, if it is given
    DELETE /drain                    take it back
    GET, POST, DELETE /drain/ID      the same for one route
    POST   /upgrade                  become the version that is installed now

Whoever may use the socket is who may write in `state_dir`: no page in a browser and nobody on the network is.
"""

import json
import math
import os
import signal
import socket
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from sniproxy import __version__
from sniproxy.crew import Crew
from sniproxy.drain import Drain, Terms
from sniproxy.errors import SettingsError, UpgradeRefused
from sniproxy.logs import Log
from sniproxy.settings import Settings
from sniproxy.small_http import JSON, TEXT, Answer
from sniproxy.upgrade import CHECK_WITHIN

FILE = "control.sock"
TO_END = (
    b"it was told to end: that goes on by the settings, and a second SIGTERM ends all at once\n"
)
BACKLOG = 16  # connections that the kernel keeps for us
ANSWER_WITHIN = CHECK_WITHIN + 5.0  # seconds for a request, in which a new version is tried


def open_control(state_dir: Path, log: Log) -> socket.socket | None:
    """The listening socket; None, with a warning, where none can be had: signals still do."""
    path = state_dir / FILE
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_alive(path):
            raise OSError(f"another data plane answers at {path}: give each a state_dir of its own")
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)  # nobody may connect before the mode is set
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        log.warning("no control socket", cause=str(error), advice="signals still work")
        return None
    return sock


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


class Plane(Protocol):
    """What is asked."""

    @property
    def crew(self) -> Crew:
        """Its workers."""
        ...

    @property
    def draining(self) -> Drain:
        """How far it is with ending."""
        ...

    @property
    def settings(self) -> Settings:
        """In force."""
        ...

    @property
    def generation(self) -> int:
        """How many times this process has become another version."""
        ...

    def drain_route(self, route: str, drained: bool) -> None:
        """A route takes no new session from now on, or does again."""
        ...

    async def prepare_upgrade(self) -> None:
        """UpgradeRefused if the new version could not run."""
        ...


class Control:
    """Answers."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def answer(self, method: str, target: str) -> Answer:
        """Implements `sniproxy.small_http.Answers`."""
        whole, _, asked = target.partition("?")
        given = parse_qs(asked, keep_blank_values=True)
        query = {name: values[-1] for name, values in given.items()}
        match method, whole:
            case "GET", "/version":
                return _json(self._version())
            case "POST", "/upgrade":
                return await self._upgrade()
            case "GET" | "POST" | "DELETE", "/drain":
                return self._drain(method, query)
            case "GET" | "POST" | "DELETE", path if path.startswith("/drain/"):
                return await self._drain_route(method, unquote(path.removeprefix("/drain/")))
        return 404, TEXT, b"there are /version, /drain, /drain/ROUTE and /upgrade\n"

    def _version(self) -> dict[str, Any]:
        plane = self._plane
        old = sum(one.active for one in plane.crew.old)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "generation": plane.generation,
            "ready": plane.crew.all_ready.is_set(),
            "sessions": plane.crew.active,
            "old_workers": len(plane.crew.old),
            "old_sessions": old,
        }

    async def _upgrade(self) -> Answer:
        try:
            await self._plane.prepare_upgrade()
        except UpgradeRefused as refused:
            return 409, TEXT, f"{refused}\n".encode()
        os.kill(os.getpid(), signal.SIGUSR2)
        return _json(self._version())

    def _drain(self, method: str, query: dict[str, str]) -> Answer:
        draining, drain = self._plane.draining, self._plane.settings.drain
        if draining.final:
            if method == "DELETE" or "deadline" in query:
                return 409, TEXT, TO_END
        elif method == "POST":
            try:
                deadline = _seconds(query["deadline"]) if "deadline" in query else None
            except ValueError:
                return 400, TEXT, b"deadline: expected seconds\n"
            draining.begin(Terms(drain.accept, deadline, drain.spread))
        elif method == "DELETE":
            try:
                draining.take_back()
            except SettingsError as error:
                return 409, TEXT, f"{error}\n".encode()
        return _json(
            {
                "phase": draining.phase.value,
                "seconds_left": draining.seconds_left,
                "sessions": self._plane.crew.active,
                "routes": sorted(self._plane.crew.drained),
            }
        )

    async def _drain_route(self, method: str, route: str) -> Answer:
        crew = self._plane.crew
        if method == "POST" and not await self._is_known(route):
            return 404, TEXT, f"no stream_route has the id {route!r}\n".encode()
        if method != "GET":
            self._plane.drain_route(route, method == "POST")
        counts = await crew.ask("routes", old=True)
        sessions = sum(one.get(route, 0) for one in counts.values())
        drained = route in crew.drained
        return _json({"route": route, "drained": drained, "sessions": sessions})

    async def _is_known(self, route: str) -> bool:
        key = f"{self._plane.settings.where.prefix}/stream_routes/{route}"
        return any(key in one["objects"] for one in await self._plane.crew.answers("config"))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError(text)
    return seconds


def _json(content: object) -> Answer:
    return 200, JSON, json.dumps(content).encode() + b"\n"
