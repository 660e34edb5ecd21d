"""Who waits, whose turn it is, and who has to give way: against a naive model, and by what must never happen."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sniproxy.fair_queue import FairQueue

ROUTES = st.sampled_from(["", "1", "2", "3"])
ADDRESSES = st.sampled_from([b"a", b"b", b"c"])


class Model:
    """Everything in lists: the routes in the order of their turns, in each its addresses, in each its items."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, list[tuple[bytes, list[int]]]]] = []

    def line(self, route: str, address: bytes) -> list[int]:
        """The items of a place, which is made if there is none."""
        addresses = next((found for name, found in self.routes if name == route), None)
        if addresses is None:
            addresses = []
            self.routes.append((route, addresses))
        items = next((found for name, found in addresses if name == address), None)
        if items is None:
            items = []
            addresses.append((address, items))
        return items

    def tidy(self) -> None:
        """Lines without anybody are no lines."""
        for _, addresses in self.routes:
            addresses[:] = [line for line in addresses if line[1]]
        self.routes = [route for route in self.routes if route[1]]

    def pop(self) -> int | None:
        """Whose turn it is."""
        if not self.routes:
            return None
        route = self.routes.pop(0)
        self.routes.append(route)
        line = route[1].pop(0)
        route[1].append(line)
        item = line[1].pop(0)
        self.tidy()
        return item

    def lengths(self) -> dict[tuple[str, bytes], int]:
        """How many wait at each place."""
        return {
            (route, address): len(items)
            for route, addresses in self.routes
            for address, items in addresses
        }

    def longest(self) -> set[tuple[str, bytes]]:
        """The places of which one has to give way: of the routes for which most wait, the longest lines."""
        lengths, routes = self.lengths(), Counter[str]()
        for (route, _), length in lengths.items():
            routes[route] += length
        found = set()
        for route, total in routes.items():
            if total == max(routes.values()):
                most = max(length for (name, _), length in lengths.items() if name == route)
                found |= {at for at, length in lengths.items() if at[0] == route and length == most}
        return found


class Histories(RuleBasedStateMachine):
    """Any order of operations."""

    @initialize(limit=st.integers(0, 12))
    def begin(self, limit: int) -> None:
        """Nobody waits."""
        self.queue: FairQueue[int] = FairQueue(limit)
        self.model = Model()
        self.places: dict[int, tuple[str, bytes]] = {}
        self.numbers = count()

    @rule(route=ROUTES, address=ADDRESSES)
    def push(self, route: str, address: bytes) -> None:
        """One more, and perhaps one less."""
        item = next(self.numbers)
        self.model.line(route, address).append(item)
        self.places[item] = route, address
        full = len(self.places) > self.queue.limit
        pushed_out = self.queue.push(route, address, item)
        assert (pushed_out is not None) is full
        if pushed_out is not None:
            if (route, address) in self.model.longest():  # of equals whoever has just come
                assert pushed_out == item
            self.gave_way(pushed_out)

    @rule()
    def pop(self) -> None:
        """The next one's turn."""
        item = self.queue.pop()
        assert item == self.model.pop()
        if item is not None:
            del self.places[item]

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Somebody leaves, from anywhere in a line."""
        item = data.draw(st.sampled_from(sorted(self.places)))
        place = self.places.pop(item)
        self.queue.remove(*place, item)
        self.model.line(*place).remove(item)
        self.model.tidy()

    @rule(route=ROUTES, address=ADDRESSES)
    def remove_a_stranger(self, route: str, address: bytes) -> None:
        """Who does not wait cannot leave, and nothing comes of trying."""
        with pytest.raises(KeyError):
            self.queue.remove(route, address, -1)

    @rule(limit=st.integers(0, 12))
    def change_the_limit(self, limit: int) -> None:
        """Those beyond it give way, one by one."""
        self.queue.limit = limit
        while (item := self.queue.give_way()) is not None:
            assert len(self.places) > limit
            self.gave_way(item)

    def gave_way(self, item: int) -> None:
        """It was the newest of one of the longest lines."""
        place = self.places.pop(item)
        assert place in self.model.longest()
        assert self.model.line(*place).pop() == item
        self.model.tidy()

    @invariant()
    def it_is_bounded(self) -> None:
        """And counts right."""
        assert len(self.queue) == len(self.places) <= self.queue.limit


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def drained(queue: FairQueue[str]) -> list[str]:
    """Who comes, in order."""
    found = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


# Turns


def test_nobody_waits() -> None:
    queue: FairQueue[str] = FairQueue(3)
    assert (len(queue), queue.pop(), queue.give_way()) == (0, None, None)


@pytest.mark.parametrize(
    ("comes", "goes"),
    [
        # route, address, number: in the order of coming
        ("1a1 1a2 1a3", "1a1 1a2 1a3"),
        ("1a1 1a2 1b1 1b2", "1a1 1b1 1a2 1b2"),
        ("1a1 1a2 2a1 2a2", "1a1 2a1 1a2 2a2"),
        ("1a1 1b1 1c1 2a1", "1a1 2a1 1b1 1c1"),
        ("1a1 1a2 1a3 1b1 2a1 2a2 3c1", "1a1 2a1 3c1 1b1 2a2 1a2 1a3"),
    ],
)
def test_routes_take_turns_and_in_each_its_addresses(comes: str, goes: str) -> None:
    queue: FairQueue[str] = FairQueue(100)
    for item in comes.split():
        assert queue.push(item[0], item[1].encode(), item) is None
    assert drained(queue) == goes.split()
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("route", "address"), [("other", b"f"), ("other", b"p"), ("flooded", b"p")]
)
@pytest.mark.parametrize("before", [0, 1, 4000])
def test_a_flood_costs_one_player_one_turn(route: str, address: bytes, before: int) -> None:
    """Whether it came before or comes after."""
    queue: FairQueue[str] = FairQueue(4096)
    for number in range(before):
        queue.push("flooded", b"f", f"{number}")
    queue.push(route, address, "player")
    for number in range(before, 4000):
        queue.push("flooded", b"f", f"{number}")
    assert "player" in (queue.pop(), queue.pop())


@given(st.lists(st.tuples(ROUTES, ADDRESSES), min_size=1, max_size=60))
def test_nobody_waits_longer_than_the_others_take_one_turn_each(
    places: list[tuple[str, bytes]],
) -> None:
    """Between two turns of a route every other one that waits has one; so it is with its addresses."""
    queue: FairQueue[tuple[str, bytes, int]] = FairQueue(100)
    for number, (route, address) in enumerate(places):
        queue.push(route, address, (route, address, number))
    order: list[tuple[str, bytes, int]] = []
    while (item := queue.pop()) is not None:
        order.append(item)
    assert sorted(number for *_, number in order) == list(range(len(places)))
    routes = [route for route, *_ in order]
    assert_turns(routes)
    for route in set(routes):
        assert_turns([address for name, address, _ in order if name == route])


def assert_turns(names: list[str] | list[bytes]) -> None:
    """Nobody has had two turns more than anybody who has yet to come again."""
    had = Counter[str | bytes]()
    left = Counter[str | bytes](names)
    for name in names:
        had[name] += 1
        left[name] -= 1
        assert had[name] <= 1 + min(
            (had[other] for other in left if left[other]), default=had[name]
        )


# Who gives way


@pytest.mark.parametrize(
    ("waiting", "comes", "gives_way"),
    [
        ("", "1a1", "1a1"),
        ("1a1 1a2 1a3", "1a4", "1a4"),  # alone: whoever comes late
        ("1a1 1a2 1a3", "2a1", "1a3"),
        ("1a1 1a2 1a3", "1b1", "1a3"),
        ("1a1 1a2 1b1 1b2 2c1 2c2 2c3", "3a1", "1b2"),  # the longest route, not the longest line
        ("1a1 2a1 3a1", "4a1", "4a1"),  # equals: those who wait go before
        ("1a1 1b1 1c1", "1d1", "1d1"),
        ("1a1 1a2 2a1", "2b1", "2b1"),
        ("1a1 1b1 1c1 2a1 2a2", "2a3", "2a3"),
        ("1a1 1b1 1c1 1c2 2a1 2a2", "2b1", "1c2"),
    ],
)
def test_who_gives_way(waiting: str, comes: str, gives_way: str) -> None:
    here = waiting.split()
    queue: FairQueue[str] = FairQueue(len(here))
    for item in here:
        assert queue.push(item[0], item[1].encode(), item) is None
    assert queue.push(comes[0], comes[1].encode(), comes) == gives_way
    assert sorted(drained(queue)) == sorted({*here, comes} - {gives_way})


def test_a_flood_pushes_out_nobody_but_itself() -> None:
    queue: FairQueue[str] = FairQueue(4096)
    crowd = {f"crowd {number}" for number in range(1000)}
    for number, item in enumerate(sorted(crowd)):
        queue.push(str(number % 100), b"%d" % number, item)
    lost = {queue.push("flooded", b"f", f"flood {number}") for number in range(10_000)} - {None}
    assert len(queue) == 4096
    assert len(lost) == 10_000 - 3096
    assert not lost & crowd
    more = {
        queue.push(str(number % 100), b"x%d" % number, f"late {number}") for number in range(999)
    }
    assert all(item is not None and item.startswith("flood ") for item in more)
    assert len(queue) == 4096


def test_what_has_gone_leaves_nothing() -> None:
    """Neither an empty line, which would have a turn, nor its length."""
    queue: FairQueue[str] = FairQueue(10)
    for turn in range(3):
        for number in range(30):
            queue.push(str(number), b"%d" % turn, "x")
            queue.remove(str(number), b"%d" % turn, "x")
    queue.push("1", b"a", "one")
    queue.push("2", b"a", "two")
    assert drained(queue) == ["one", "two"]


def test_nobody_waits_twice_at_one_place() -> None:
    queue: FairQueue[str] = FairQueue(10)
    queue.push("1", b"a", "x")
    queue.push("1", b"b", "x")
    with pytest.raises(AssertionError):
        queue.push("1", b"a", "x")
    assert len(queue) == 2
