"""What a proxy counts of itself that must be back once everybody has gone."""

from typing import Protocol

from tests.support.stack import retry_until


class Counting(Protocol):
    """A proxy whose counters can be read."""

    def metrics(self) -> dict[str, float]:
        """By name with labels."""


def left_over(stack: Counting) -> tuple[int, int, int]:
    """Descriptors, loop tasks and live sessions of the proxy, counted by itself: each time with one scrape among them."""
    metrics = stack.metrics()
    names = ("process_open_fds", "sniproxy_loop_tasks", "sniproxy_sessions_active")
    fds, tasks, sessions = (int(metrics[name]) for name in names)
    return fds, tasks, sessions


def settled(stack: Counting, patience: float = 15) -> tuple[int, int, int]:
    """What is left once the proxy has seen the end of every session."""
    for _ in retry_until(patience, "the last session's end"):
        left = left_over(stack)
        if not left[2] and left == left_over(stack):
            return left
    raise AssertionError("unreachable")
