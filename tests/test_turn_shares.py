"""Turns: nobody has more than the share, of a route or of an address. On virtual time."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sniproxy.settings import Overload
from sniproxy.turns import Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps whenever nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def inside(turns: Turns, comers: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Who of those who come one after another has a turn while all of them stay."""
    entered: list[tuple[str, bytes]] = []

    async def stay(route: str, address: bytes) -> None:
        async with turns.take(route, address):
            entered.append((route, address))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for one in comers:
            nursery.start_soon(stay, *one)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return entered


@pytest.mark.parametrize(
    ("setups", "comers", "expected"),
    [
        # one route has half of them, another the rest
        (4, [("a", b"1"), ("a", b"2"), ("a", b"3"), ("b", b"4"), ("b", b"5")], "a1 a2 b4 b5"),
        # one address has a quarter, whichever route it asks for
        (4, [("a", b"1"), ("b", b"1"), ("b", b"2"), ("a", b"1")], "a1 b2"),
        # whoever may not is passed over, and others are let in
        (8, [("a", b"1")] * 4 + [("a", b"2"), ("b", b"3")], "a1 a1 a2 b3"),
        # one turn is everybody's, however small the share
        (1, [("a", b"1"), ("b", b"2")], "a1"),
        (2, [("a", b"1"), ("b", b"2"), ("b", b"3")], "a1 b2"),
    ],
)
async def test_nobody_has_more_than_the_share(
    setups: int, comers: list[tuple[str, bytes]], expected: str
) -> None:
    turns = Turns(Overload(setups=setups, route_share=0.5, address_share=0.25))
    entered = await inside(turns, comers)
    assert " ".join(route + address.decode() for route, address in entered) == expected


async def test_who_leaves_lets_in_whoever_may_and_not_who_is_at_its_share() -> None:
    turns, log = Turns(Overload(setups=2, route_share=0.5, address_share=1)), list[str]()
    done = {name: trio.Event() for name in ("a", "b")}

    async def visit(name: str, route: str) -> None:
        async with turns.take(route, name.encode()):
            log.append(name)
            await done[route].wait()

    async with trio.open_nursery() as nursery:
        for name, route in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
            nursery.start_soon(visit, name, route)
            await wait_all_tasks_blocked()
        assert log == ["a1", "b1"]
        done["b"].set()
        await wait_all_tasks_blocked()
        assert log == ["a1", "b1", "b2"]  # a2 came first, and its route has its share
        done["a"].set()
    assert log[-1] == "a2"
    assert (turns.inside, turns.waiting) == (0, 0)
