"""Plays a schedule on a relay, on a clock that stands still unless the schedule moves it."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Outcome, Terms
from tests.support.peers import CHUNK, Peer, tcp_pair
from tests.support.relaying import LONG, Implementation, Session
from tests.support.schedules import (
    HALF_CLOSE,
    IDLE,
    PAUSE,
    SESSION_TIME,
    SIDES,
    Schedule,
    Side,
    State,
    Step,
    other,
)

PATIENCE = 60.0  # seconds of real time for what must come
TICK = 0.5  # seconds by which the clock moves at once
LATE = 2.0  # seconds by which a timeout may come later than set
STILL = 0.003  # seconds of real time without an event, after which who is stalled gets no more
REST = 0.06  # the same where it counts when a byte moved last: longer than a kernel waits with an acknowledgement


@dataclass
class Actor:
    """One peer: what it says goes out as the kernel takes it, what comes is taken unless it is stalled."""

    peer: Peer
    said: bytearray
    heard: bytearray = field(default_factory=bytearray)
    told: bool = False  # the other side's end came
    failed: bool = False  # a reset came
    stalled: bool = False
    ended: bool = False  # it has said, or will say once the rest is out, that it sends no more
    sent: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)

    def change(self) -> None:
        """There is something new to say, or leave to hear."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def here(self) -> bool:
        """It has not left."""
        return self.peer.sock.fileno() >= 0

    @property
    def done(self) -> bool:
        """It will hear no more."""
        return self.told or self.failed or not self.here

    async def speak(self) -> None:
        """Says everything, and the end."""
        try:
            while self.here and (self.sent < len(self.said) or not self.ended):
                if self.sent == len(self.said):
                    await self._changed.wait()
                else:
                    piece = bytes(self.said[self.sent : self.sent + CHUNK])
                    await self.peer.send(piece)
                    self.sent += len(piece)
            if self.here:
                await self.peer.end()
        except trio.ClosedResourceError:
            pass  # it has left
        except OSError:
            self.failed = True

    async def listen(self) -> None:
        """Hears everything, up to the end."""
        try:
            while self.here and not self.told:
                await trio.lowlevel.wait_readable(self.peer.sock)
                if self.stalled:
                    await self._changed.wait()
                    continue
                data = self.peer.sock.recv(CHUNK)
                self.heard += data
                self.told = not data
        except trio.ClosedResourceError:
            pass
        except OSError:
            self.failed = True


@dataclass
class Story:
    """What became of a schedule."""

    outcome: Outcome
    state: State  # when the finish began
    said: dict[Side, bytes]  # all that a side wanted to say, what was read before it included
    heard: dict[Side, bytes]  # by a side
    left: frozenset[Side]  # who was gone before the end
    failed: frozenset[Side]  # who heard of a reset


class Play:
    """One schedule on one relay."""

    def __init__(self, schedule: Schedule, session: Session) -> None:
        self._schedule = schedule
        self._session = session
        self._dice = random.Random(schedule.seed)
        self.actors: dict[Side, Actor] = {
            "player": Actor(session.player, bytearray(session.flow.first)),
            "server": Actor(session.server, bytearray()),
        }
        self.actors["player"].sent = len(session.flow.first)
        self._left = set[Side]()
        self._seen: Side | None = None
        self._moved = 0.0  # when a byte moved last, or a side ended
        self._standing: object = None  # what had moved by then

    async def steps(self) -> State:
        """Up to the finish; how things stand then."""
        for step in self._schedule.steps:
            await self._step(step)
        if self._schedule.finish in ("close", "idle"):
            if self._schedule.finish == "close":
                self._heed(*SIDES)
            await self._settle()
        self._note_ends()
        return State(
            frozenset(side for side in SIDES if self.actors[side].ended), self._seen, self._quiet()
        )

    async def finish(self) -> None:
        """The end of the session, unless it is left to whoever closes the relay."""
        leaving, staying = self._schedule.leaving, other(self._schedule.leaving)
        match self._schedule.finish:
            case "gently":
                self._heed(*SIDES)
                for side in (leaving, staying):
                    self._end(side)
                    if self._dice.random() < 0.5:
                        await self._settle()
            case "reset":
                self._leave(leaving)
                self._heed(staying)
                if self.actors[leaving].ended:
                    self._end(staying)
            case "close":
                self._left.add(leaving)
                self.actors[leaving].peer.close()
                await until("the end is heard", lambda: self.actors[staying].told)
                if not self.actors[staying].ended:
                    self._say(staying, 300_000)
                    self._end(staying)
            case "kill":
                self._kill()
            case "reset and kill":
                self._leave(leaving)
                self._kill()
            case "idle":
                ended = any(actor.ended for actor in self.actors.values())
                earliest = self._moved + (HALF_CLOSE if ended else IDLE)
                await self._time_out(earliest, self._moved + (HALF_CLOSE if self._seen else IDLE))
            case "session time":
                await self._time_out(SESSION_TIME, SESSION_TIME)
            case "shutdown":
                return
        await until("on_end", self._session.over.is_set)

    async def story(self, state: State) -> Story:
        """Once the session has ended."""
        outcome = await self._session.outcome()
        self._heed(*SIDES)
        await until("farewell", lambda: all(actor.done for actor in self.actors.values()))
        return Story(
            outcome,
            state,
            {side: bytes(self.actors[side].said) for side in SIDES},
            {side: bytes(self.actors[side].heard) for side in SIDES},
            frozenset(self._left),
            frozenset(side for side in SIDES if self.actors[side].failed),
        )

    async def _step(self, step: Step) -> None:
        actor = self.actors[step.side]
        match step.action:
            case "say":
                self._say(step.side, step.size)
            case "stall":
                actor.stalled = True
            case "heed":
                self._heed(step.side)
            case "end":
                self._end(step.side)
            case "settle":
                await self._settle()
            case "wait":
                await self._settle()
                await self._wind(PAUSE)

    def _say(self, side: Side, size: int) -> None:
        actor = self.actors[side]
        actor.said += self._dice.randbytes(size)
        actor.change()

    def _end(self, side: Side) -> None:
        self._note_ends()
        self.actors[side].ended = True
        self.actors[side].change()

    def _note_ends(self) -> None:
        """Who has ended and was heard, while the other had not ended."""
        for side in SIDES:
            if self.actors[other(side)].told and not self.actors[other(side)].ended:
                self._seen = side

    def _heed(self, *sides: Side) -> None:
        for side in sides:
            self.actors[side].stalled = False
            self.actors[side].change()

    def _leave(self, side: Side) -> None:
        self._left.add(side)
        self.actors[side].peer.reset()

    def _kill(self) -> None:
        self._session.link.kill(CloseReason.KILLED)

    async def _settle(self) -> None:
        """Until everything was heard by who is not stalled, and nothing more goes to who is."""
        await until("all of it", self._settled)
        if any(actor.stalled for actor in self.actors.values()):
            link, before = self._session.link, None
            while (moved := (link.to_upstream, link.to_client)) != before:  # a thread's word
                before = moved
                await wait_all_tasks_blocked(REST if self._schedule.finish == "idle" else STILL)
        self._note_ends()
        self._note_what_moved()

    def _settled(self) -> bool:
        for side in SIDES:
            hearing, speaking = self.actors[side], self.actors[other(side)]
            whole = len(hearing.heard) == len(speaking.said)
            if not hearing.stalled and not (whole and hearing.told == speaking.ended):
                return False
        return True

    def _note_what_moved(self) -> None:
        link = self._session.link
        ends = [actor.told for actor in self.actors.values()]
        standing = link.to_upstream, link.to_client, ends
        if standing != self._standing:
            self._standing, self._moved = standing, trio.current_time()

    def _quiet(self) -> bool:
        return all(
            len(self.actors[side].heard) == len(self.actors[other(side)].said) for side in SIDES
        )

    async def _time_out(self, earliest: float, latest: float) -> None:
        """Moves the clock until the session ends."""
        while not self._session.over.is_set():
            assert trio.current_time() < latest + LATE, "the timeout did not come"
            await self._wind(TICK)
        assert trio.current_time() >= earliest, "the timeout came early"

    async def _wind(self, seconds: float) -> None:
        """Moves the clock, at a pace at which a thread can follow."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        for _ in range(round(seconds / TICK)):
            clock.jump(TICK)
            await wait_all_tasks_blocked()
            for _ in range(2):
                self._session.link.to_upstream  # noqa: B018 - answered in a turn of the thread's
            await wait_all_tasks_blocked()


async def until(what: str, answer: Callable[[], bool]) -> None:
    """Asks whenever nobody has anything to do, until the answer is yes."""
    deadline = time.monotonic() + PATIENCE
    while not answer():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await wait_all_tasks_blocked(0.0005)


def play(schedule: Schedule, implementation: Implementation) -> Story:
    """All of it."""
    return trio.run(_play, schedule, implementation, clock=MockClock())


async def _play(schedule: Schedule, implementation: Implementation) -> Story:
    session = _session(schedule)
    playing = Play(schedule, session)
    async with trio.open_nursery() as nursery:
        async with implementation.open(schedule.buffer_size) as relay:
            session.start(relay)
            for actor in playing.actors.values():
                nursery.start_soon(actor.speak)
                nursery.start_soon(actor.listen)
            state = await playing.steps()
            await playing.finish()
        story = await playing.story(state)
        nursery.cancel_scope.cancel()
    session.close()
    return story


def _session(schedule: Schedule) -> Session:
    player, client = tcp_pair(kernel_buffer=schedule.kernel_buffer)
    server, upstream = tcp_pair(kernel_buffer=schedule.kernel_buffer)
    idle = schedule.finish == "idle"
    flow = Flow(
        client,
        upstream,
        random.Random(schedule.seed).randbytes(schedule.first),
        Terms(
            IDLE if idle else LONG,
            HALF_CLOSE if idle else LONG,
            session_time=schedule.session_time,
        ),
    )
    return Session(Peer(player), Peer(server), flow)
