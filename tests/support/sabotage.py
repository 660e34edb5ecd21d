"""Functions of ours that raise once, and what is to be seen when one has: tests of what a defect costs."""

import importlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.support.certificates import NAME
from tests.support.gateway import route
from tests.support.peers import Peer, deaf_server
from tests.support.stage import HELLO, MIXED, Stage


class Defect(Exception):
    """What is injected."""


class Saboteur:
    """Makes functions raise once. `arm` is called when the victim is about to come there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.struck = 0
        self.monkeypatch = monkeypatch

    def arm(self, owner: Any, name: str, times: int = 1) -> None:
        """A function of a module (by its name), a class or an object."""
        owner = importlib.import_module(owner) if isinstance(owner, str) else owner
        real = getattr(owner, name)
        to_come = list(range(times))

        def striking(*args: Any, **members: Any) -> Any:
            if to_come:
                to_come.pop()
                self.struck += 1
                raise Defect("injected")
            return real(*args, **members)

        self.monkeypatch.setattr(owner, name, striking)


Strike = Callable[[Saboteur, Stage], None]
Victim = Callable[[Stage, Callable[[], None]], Awaitable[None]]


def at(owner: Any, name: str) -> Strike:
    """That function raises once."""
    return lambda saboteur, _: saboteur.arm(owner, name)


def reasons(saboteur: Saboteur, _: Stage) -> None:
    """What the engine says of an end cannot be read, once."""

    class Unreadable(dict[str, Any]):
        def __getitem__(self, how: str) -> Any:
            return self.read(how)

        def read(self, how: str) -> Any:
            return super().__getitem__(how)

    native = importlib.import_module("sniproxy.relay.native")
    saboteur.arm(Unreadable, "read")  # a class of this call's own
    saboteur.monkeypatch.setattr(native, "_REASONS", Unreadable(native._REASONS))


def of_the_log(name: str) -> Strike:
    """A line cannot be written, once."""
    return lambda saboteur, stage: saboteur.arm(stage.gateway.worker.log, name)


async def open_doors(stage: Stage, **settings: Any) -> list[tuple[Peer, Peer]]:
    """Three names, one of which leads somewhere; and three who play."""
    _, deaf = stage.stack.enter_context(deaf_server())
    passed: dict[str, Any] = {"tls_passthrough": True}
    objects = {
        "stream_routes/1": route(stage.port, sni=NAME, **passed),
        "stream_routes/2": route(1, host="127.0.0.77", sni="nowhere.example.com", **passed),
        "stream_routes/3": route(deaf, sni="deaf.example.com", **passed),
    }
    await stage.open(MIXED, objects, **settings)
    return [await stage.join(HELLO) for _ in range(3)]


def errors(stage: Stage) -> dict[str, float]:
    """How many defects were counted, by route."""
    return {
        sample.labels["route"]: sample.value
        for family in stage.gateway.worker.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "sniproxy_session_errors_total"
    }


async def becomes(condition: Callable[[], bool]) -> None:
    """Until it is so; what a thread outside of trio does has no event."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)


def failures(stage: Stage) -> list[dict[str, Any]]:
    """The lines that tell of defects."""
    return [line for line in stage.gateway.lines.all if line["event"] == "session failed"]


async def assert_all_is_well(stage: Stage, playing: list[tuple[Peer, Peer]]) -> None:
    """They play on, and somebody else is let in, served and let go, by a plan too."""
    for player, server in playing:
        await player.send(b"still here")
        assert await server.read(10) == b"still here"
        await server.send(b"so am I")
        assert await player.read(7) == b"so am I"
    for _ in range(3):
        await stage.leave(*await stage.join(HELLO))
    for pair in playing:
        await stage.leave(*pair)


def assert_told_once(stage: Stage, route: str) -> None:
    """One traceback, one count."""
    (line,) = failures(stage)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("Defect: injected")
    assert (line["route"] or "") == route
    assert errors(stage) == {route: 1}
    everything = [str(one) for one in stage.gateway.lines.all]
    assert sum("Traceback" in one for one in everything) == 1
