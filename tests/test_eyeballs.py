"""Several addresses of one game server: their order, and the first that answers. On virtual time, with real sockets."""

import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sniproxy.eyeballs import ATTEMPT_DELAY, MOST_ADDRESSES, connect_first, in_order
from tests.support.files import open_files, settled_files

pytestmark = pytest.mark.anyio

SIX, FOUR = ("2001:db8::1", "2001:db8::2"), ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.mark.parametrize(
    ("addresses", "turn", "order"),
    [
        ((), 0, []),
        (FOUR[:1], 7, ["10.0.0.1"]),
        (FOUR, 0, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        (FOUR, 1, ["10.0.0.2", "10.0.0.3", "10.0.0.1"]),
        (FOUR, 5, ["10.0.0.3", "10.0.0.1", "10.0.0.2"]),
        (FOUR + SIX, 0, [SIX[0], FOUR[0], SIX[1], FOUR[1], FOUR[2]]),
        (FOUR + SIX, 1, [SIX[1], FOUR[1], SIX[0], FOUR[2], FOUR[0]]),
    ],
)
def test_the_families_take_turns_and_so_do_players(
    addresses: tuple[str, ...], turn: int, order: list[str]
) -> None:
    assert in_order(addresses, turn) == order


@given(st.sets(st.sampled_from(SIX + FOUR), min_size=1), st.integers(0, 1000))
def test_everybody_is_tried_once_and_ipv6_first(addresses: set[str], turn: int) -> None:
    order = in_order(sorted(addresses), turn)
    assert sorted(order) == sorted(addresses)
    assert (":" in order[0]) is any(":" in address for address in addresses)


def test_players_spread_over_all_addresses() -> None:
    first = Counter(in_order(FOUR, turn)[0] for turn in range(300))
    assert first == dict.fromkeys(FOUR, 100)


def test_so_many_are_tried_and_no_more() -> None:
    """And everybody is, in his turn."""
    many = [f"10.0.1.{last}" for last in range(100)]
    assert all(len(in_order(many, turn)) == MOST_ADDRESSES for turn in range(100))
    assert {address for turn in range(100) for address in in_order(many, turn)} == set(many)


@pytest.fixture
def port(deaf: tuple[str, int]) -> Iterator[int]:
    """Where 127.0.0.1 never answers, 127.0.0.2 and ::1 do, and 127.0.0.3 refuses."""
    with (
        socket.create_server(("127.0.0.2", deaf[1])),
        socket.create_server(("::1", deaf[1]), family=socket.AF_INET6),
    ):
        yield deaf[1]


@pytest.mark.parametrize(
    ("addresses", "answers", "seconds"),
    [
        (["::1", "127.0.0.2"], "::1", 0),
        (["127.0.0.2", "::1"], "127.0.0.2", 0),
        (["127.0.0.1", "127.0.0.2"], "127.0.0.2", ATTEMPT_DELAY),  # silent: the next one soon
        (["127.0.0.3", "127.0.0.2"], "127.0.0.2", 0),  # refused: the next one at once
        (["127.0.0.3", "127.0.0.3", "::1"], "::1", 0),
        (["127.0.0.1", "127.0.0.1", "127.0.0.3", "127.0.0.2"], "127.0.0.2", 2 * ATTEMPT_DELAY),
        (["127.0.0.2"], "127.0.0.2", 0),
    ],
)
async def test_the_first_that_answers_has_the_session(
    port: int, addresses: list[str], answers: str, seconds: float
) -> None:
    """And nothing is left of the others."""
    before, started = settled_files(), trio.current_time()
    with trio.fail_after(10):
        sock = await connect_first(addresses, port, keepalive_idle=300)
    with sock:
        assert sock.getpeername()[0] == answers
        assert trio.current_time() - started == pytest.approx(seconds)
    assert open_files() == before


@pytest.mark.parametrize("addresses", [["127.0.0.3"], ["127.0.0.3", "127.0.0.4"]])
async def test_nobody_is_there(port: int, addresses: list[str]) -> None:
    before = settled_files()
    with pytest.raises(ConnectionRefusedError):
        await connect_first(addresses, port, keepalive_idle=300)
    assert open_files() == before


async def test_a_late_refusal_is_waited_for(port: int) -> None:
    """The last one has failed, and an earlier one may still answer."""
    with trio.move_on_after(5) as scope:
        await connect_first(["127.0.0.1", "127.0.0.3"], port, keepalive_idle=300)
    assert scope.cancelled_caught


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.3", "127.0.0.1"]])
async def test_who_gives_up_leaves_nothing(port: int, addresses: list[str]) -> None:
    before = settled_files()
    with trio.move_on_after(1) as scope:
        await connect_first(addresses, port, keepalive_idle=300)
    assert scope.cancelled_caught
    assert open_files() == before


async def test_a_shutdown_is_one_to_whoever_waits(port: int) -> None:
    """And not a group of them, which sessions would not know for what it is."""
    seen: list[type[BaseException]] = []

    async def session() -> None:
        try:
            await connect_first(["127.0.0.1", "127.0.0.1"], port, keepalive_idle=300)
        except BaseException as error:
            seen.append(type(error))
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert seen == [trio.Cancelled]


class Attempts:
    """Connections that stand when `opened` is set, all in the same instant."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = trio.Event()
        self.made: list[socket.socket] = []
        self.others: list[socket.socket] = []
        monkeypatch.setattr("sniproxy.eyeballs.connect", self.connect)

    async def connect(self, family: int, address: Any, *, keepalive_idle: int) -> socket.socket:
        """In place of the kernel's."""
        await self.opened.wait()
        ours, theirs = socket.socketpair()
        self.made.append(ours)
        self.others.append(theirs)
        return ours

    def clear(self) -> list[bool]:
        """Which of them were left open."""
        left = [sock.fileno() >= 0 for sock in self.made]
        for sock in (*self.made, *self.others):
            sock.close()
        return left


async def test_of_two_that_answer_in_the_same_instant_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = Attempts(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(connect_first, ["127.0.0.1", "::1"], 9, keepalive_idle=300))
        await trio.sleep(1)
        attempts.opened.set()
    assert sorted(attempts.clear()) == [False, True]


async def test_one_that_answers_while_everybody_gives_up_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = Attempts(monkeypatch)
    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(connect_first, ["127.0.0.1", "::1"], 9, keepalive_idle=300))
            await trio.sleep(ATTEMPT_DELAY / 2)
            attempts.opened.set()
            nursery.start_soon(_cancel_when, attempts, scope)
    assert scope.cancelled_caught
    assert attempts.clear() == [False]


async def _cancel_when(attempts: Attempts, scope: trio.CancelScope) -> None:
    while not attempts.made:
        await trio.lowlevel.cancel_shielded_checkpoint()
    scope.cancel()
