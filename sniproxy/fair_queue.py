"""Who waits to be set up when more come than can be served at once: a bounded queue that is fair. Pure.

Routes take turns; within a route its client addresses do; whoever waits at one address goes in the order of coming. When the
queue is full, the longest line loses its newest: the route for which most wait, and of it the address at which most do. So
whoever floods waits behind itself and loses its own. Every operation costs the same however many wait.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T", bound=Hashable)
May = Callable[[Hashable], bool]  # of a route, or an address: whether it may have one more turn
Keys = Sequence[Hashable]  # which line, from the widest to the narrowest


class FairQueue(Generic[T]):
    """Those who wait. Items are told apart by equality, and each waits once at most at its place."""

    def __init__(self, limit: int) -> None:
        """`limit`: how many may wait; it may be changed while they do, and `give_way` then says who has to go."""
        self.limit = limit
        self._rota: _Rota[T] = _Rota(lambda: _Rota(_Line))

    def __len__(self) -> int:
        return len(self._rota)

    def push(self, route: str, address: bytes, item: T) -> T | None:
        """One more waits; who must give way for it, if the queue was full. It may be the one that came."""
        self._rota.push((route, address), item)
        return self.give_way()

    def pop(self, may: May = lambda _: True) -> T | None:
        """Whose turn it is; None when nobody waits whose route and address `may` have one.

        What it costs grows with the number of those that may not and have somebody waiting: few can be at their share.
        """
        return self._rota.pop(may)

    def remove(self, route: str, address: bytes, item: T) -> None:
        """One has left. KeyError if it does not wait there."""
        self._rota.remove((route, address), item)

    def give_way(self) -> T | None:
        """Takes out who has to go while more wait than may; None when they are few enough."""
        return self._rota.give_way() if len(self._rota) > self.limit else None


class _Waiting(Protocol[T]):
    """Some of those who wait. `keys`: which of them, from here on."""

    def __len__(self) -> int: ...

    def push(self, keys: Keys, item: T) -> None: ...

    def pop(self, may: May) -> T | None: ...

    def give_way(self) -> T: ...

    def remove(self, keys: Keys, item: T) -> None: ...


class _Line(Generic[T]):
    """First come, first served."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, keys: Keys, item: T) -> None:
        assert item not in self._items, "it waits already"
        self._items[item] = None

    def pop(self, may: May) -> T | None:
        return self._items.popitem(last=False)[0]

    def give_way(self) -> T:
        return self._items.popitem()[0]

    def remove(self, keys: Keys, item: T) -> None:
        del self._items[item]


class _Rota(Generic[T]):
    """Lines by key that take turns. Those that are empty are forgotten."""

    __slots__ = ("_by_length", "_length", "_lines", "_longest", "_open")

    def __init__(self, open_line: Callable[[], _Waiting[T]]) -> None:
        self._open = open_line
        self._length = 0  # of all lines
        # Ordered by whose turn is next. An OrderedDict: a dict goes over all that was taken from its front.
        self._lines: OrderedDict[Hashable, _Waiting[T]] = OrderedDict()
        # Lines of each length there is, in the order in which they came to it; and the greatest.
        self._by_length: dict[int, OrderedDict[Hashable, None]] = {}
        self._longest = 0

    def __len__(self) -> int:
        return self._length

    def push(self, keys: Keys, item: T) -> None:
        line = self._lines.get(keys[0])
        if line is None:
            line = self._lines[keys[0]] = self._open()
        line.push(keys[1:], item)
        self._resized(keys[0], len(line) - 1, len(line))

    def pop(self, may: May) -> T | None:
        for key, line in self._lines.items():
            if may(key) and (item := line.pop(may)) is not None:
                self._lines.move_to_end(key)
                self._resized(key, len(line) + 1, len(line))
                return item
        return None

    def give_way(self) -> T:
        # Of equals the one that became so last: whoever has just come, before those who have waited.
        key = next(reversed(self._by_length[self._longest]))
        line = self._lines[key]
        item = line.give_way()
        self._resized(key, len(line) + 1, len(line))
        return item

    def remove(self, keys: Keys, item: T) -> None:
        line = self._lines[keys[0]]
        line.remove(keys[1:], item)
        self._resized(keys[0], len(line) + 1, len(line))

    def _resized(self, key: Hashable, before: int, after: int) -> None:
        """A line has become longer or shorter, by one."""
        self._length += after - before
        if before:
            equals = self._by_length[before]
            del equals[key]
            if not equals:
                del self._by_length[before]
        if after:
            self._by_length.setdefault(after, OrderedDict())[key] = None
        else:
            del self._lines[key]
        # By one: if nobody is left at the greatest length, this line stands right below it, or there is none at all.
        if after > self._longest or self._longest not in self._by_length:
            self._longest = after
