"""A clock that jumps once nobody has anything to do, threads of relays included: trio sees nobody wait for those."""

import select
from weakref import WeakSet

from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.testing import MockClock

from sniproxy.relay import Relay

# One turn hears of what lies before it, one tells what came of that; a connection of the thread's own takes two more.
TURNS = 4

_relays: WeakSet[Relay] = WeakSet()


def watch(relay: Relay) -> None:
    """From now on no `relay_clock` jumps while that relay has something to do."""
    _relays.add(relay)


def relay_clock(autojump_threshold: float) -> MockClock:
    """As trio's, but it asks the relays' threads first, however long they take, and whoever has news by then goes on."""
    clock = MockClock(autojump_threshold=autojump_threshold)
    jump = clock._autojump

    def jump_unless_there_is_news() -> None:
        for relay in list(_relays):
            for _ in range(TURNS):
                relay.held()  # answered in a turn of the thread's
        news = GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno()
        if not select.select([news], [], [], 0)[0]:
            jump()

    clock._autojump = jump_unless_there_is_news  # type: ignore[method-assign]
    return clock
