"""Who uses a site while faults are made: players on every data plane, and writers on the admin API."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from socket import socket

import httpx

from bench.site import PREFIX, ROUTE, Plane, Site
from tests.support.history import ABSENT, History, Outcome
from tests.support.players import client_hello, connect

TICK = 0.1  # seconds between two new connections on a data plane
TICKS_PER_ROUND = 10  # in which each session that stands sends one message
STEP = 5.0  # seconds for whatever a player waits for
WRITERS = 4
OWN, SHARED = 10, 4  # keys of each writer alone, and of all
DELETIONS = 0.2  # of all writes
WRITE_PAUSE = 0.03  # seconds between two writes of a writer
WRITE_TIMEOUT = 15.0  # seconds; the admin gives up before
QUIET = 30.0  # seconds in which all writes that are going on must end


class Players(threading.Thread):
    """Sessions held open through one data plane, and a newcomer every tick; every byte is compared."""

    def __init__(self, plane: Plane, sessions: int) -> None:
        super().__init__(name=f"players-{plane.name}")
        self.round_trips = self.newcomers = 0
        self.troubles: list[str] = []
        self.over = threading.Event()
        self._plane = plane
        self._hello = client_hello(ROUTE)
        self._sessions: dict[int, socket] = {}
        for number in range(sessions):
            self._sessions[number] = self._join()

    @property
    def held(self) -> int:
        """How many sessions stand."""
        return len(self._sessions)

    def run(self) -> None:
        """Until it is over."""
        tick = 0
        due = time.monotonic()
        while not self.over.is_set():
            self._newcomer()
            for number in [n for n in self._sessions if n % TICKS_PER_ROUND == tick]:
                self._play(number)
            tick = (tick + 1) % TICKS_PER_ROUND
            due = max(due + TICK, time.monotonic())
            self.over.wait(due - time.monotonic())
        for number in list(self._sessions):
            self._play(number)
            self._sessions.pop(number).close()

    def _play(self, number: int) -> None:
        self.round_trips += 1
        try:
            _echoed(self._sessions[number], f"{number} says {self.round_trips}".encode())
        except OSError as error:
            self._sessions.pop(number).close()
            self.troubles.append(f"{self._plane.name}: session {number} was lost: {error!r}")

    def _newcomer(self) -> None:
        self.newcomers += 1
        try:
            self._join().close()
        except OSError as error:
            self.troubles.append(f"{self._plane.name}: a new connection was not served: {error!r}")

    def _join(self) -> socket:
        sock = connect(self._plane.port)
        try:
            sock.settimeout(STEP)
            _echoed(sock, self._hello)
        except BaseException:
            sock.close()
            raise
        return sock


def _echoed(sock: socket, data: bytes) -> None:
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = sock.recv(len(data) - len(got))
        if not piece:
            raise ConnectionError(f"ended after {len(got)} of {len(data)} bytes")
        got += piece
    if got != data:
        raise ConnectionError(f"{got!r} came back, not {data!r}")


class Writers:
    """Threads that write upstreams and stream routes, and the history of that."""

    def __init__(self, site: Site, seed: int) -> None:
        self.history = History()
        self.counts: Counter[Outcome] = Counter()
        self.unexpected: list[str] = []
        self._site = site
        self._over = threading.Event()
        self._may_write = threading.Event()
        self._may_write.set()
        self._idle = threading.Condition()
        self._writing = 0
        self._threads = [
            threading.Thread(target=self._run, args=(f"writer-{number}", seed + number))
            for number in range(WRITERS)
        ]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They write until the block ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._may_write.set()
            for thread in self._threads:
                thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No write goes on in the block."""
        self._may_write.clear()
        try:
            with self._idle:
                if not self._idle.wait_for(lambda: not self._writing, QUIET):
                    raise RuntimeError(f"a write has not ended in {QUIET:g} s")
            yield
        finally:
            self._may_write.set()

    def begin_anew(self) -> None:
        """A new history, of the state as it is; while paused."""
        self.history = History(self._site.registers())

    def _run(self, name: str, seed: int) -> None:
        choice = random.Random(seed)
        own = [f"{kind}/{name}-{n}" for n in range(OWN) for kind in ("upstreams", "stream_routes")]
        shared = [f"upstreams/shared-{number}" for number in range(SHARED)]
        headers = dict(self._site.admin.api.headers)
        url = self._site.admin.api.base_url
        with httpx.Client(
            base_url=url, headers=headers, timeout=WRITE_TIMEOUT, trust_env=False, verify=False
        ) as api:
            while not self._over.wait(WRITE_PAUSE):
                self._may_write.wait()
                with self._idle:
                    if not self._may_write.is_set():
                        continue
                    self._writing += 1
                try:
                    keys = shared if choice.random() < 0.2 else own
                    self._write(api, name, choice.choice(keys), delete=choice.random() < DELETIONS)
                finally:
                    with self._idle:
                        self._writing -= 1
                        self._idle.notify_all()

    def _write(self, api: httpx.Client, name: str, path: str, *, delete: bool) -> None:
        history = self.history
        value = ABSENT if delete else history.new_value()
        upstream = {"nodes": {f"127.0.0.1:{self._site.game}": 1}}
        what = {"sni": f"{path.rpartition('/')[2]}.example.com", "upstream": upstream}
        body = {"desc": str(value)} | (what if path.startswith("stream") else upstream)
        number = history.begin(name, PREFIX + path, value)
        outcome = Outcome.UNKNOWN
        try:
            answer = api.delete(path) if delete else api.put(path, json=body)
            outcome = outcome_of(answer.status_code)
            if answer.is_client_error and not (delete and answer.status_code == 404):
                self.unexpected.append(f"{answer.status_code} to {path}: {answer.text}")
        except httpx.ConnectError:
            outcome = Outcome.REFUSED
        except httpx.TransportError:
            pass
        finally:
            history.end(number, outcome)
            self.counts[outcome] += 1


def outcome_of(status: int) -> Outcome:
    """What an answer says of its write: an error of the server's leaves it open."""
    if status < 300:
        return Outcome.ACKNOWLEDGED
    return Outcome.REFUSED if 400 <= status < 500 else Outcome.UNKNOWN


@contextmanager
def playing(site: Site, sessions: int) -> Iterator[list[Players]]:
    """Players on every data plane until the block ends."""
    with ExitStack() as stack:
        found = []
        for plane in site.planes:
            players = Players(plane, sessions)
            players.start()
            stack.callback(players.join)
            stack.callback(players.over.set)
            found.append(players)
        yield found
