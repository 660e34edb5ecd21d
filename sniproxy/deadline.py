"""A total time for a step of a session's set-up: when it passes, the session ends with a reason."""

from types import TracebackType

import trio

from sniproxy.errors import CloseReason, SessionEnded


class Deadline:
    """`with Deadline(5.0, CloseReason.HELLO_TIMEOUT, "not complete in {:g} s"):` - the detail is filled with the seconds.

    A class, since every connection comes through here two or three times: trio.fail_after costs twice as much.
    """

    __slots__ = ("_detail", "_reason", "_scope", "_seconds", "_since")

    def __init__(
        self, seconds: float, reason: CloseReason, detail: str, *, since: float | None = None
    ) -> None:
        """`since`: when the step began, in seconds of trio's clock; None: now."""
        self._since = since
        self._seconds = seconds
        self._reason = reason
        self._detail = detail

    def __enter__(self) -> None:
        since = trio.current_time() if self._since is None else self._since
        self._scope = trio.CancelScope(deadline=since + self._seconds)
        self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        swallowed = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise SessionEnded(self._reason, self._detail.format(self._seconds)) from None
        return swallowed
