"""Who lets players in: the worker's own accepting, or the relay's where it has a front, and what comes of it.

Whoever arrives gets a task that serves them (`session.serve`). Sessions that the relay has played by plans, without Python,
are accounted for here, in batches.
"""

import socket
import time
import traceback
from functools import partial

import trio

from sniproxy.accounting import session_id
from sniproxy.defects import last_line, report
from sniproxy.errors import CloseReason
from sniproxy.listener import OnAccept, PauseLog, accept_forever, accept_waiting
from sniproxy.plan import treats_all_alike
from sniproxy.relay import Accepted, Front, Played
from sniproxy.relay.sockets import spread_keepalive
from sniproxy.session import close_all, refuse, serve
from sniproxy.settings import Listener
from sniproxy.worker_state import Worker


class Reception:
    """One worker's. Implements `sniproxy.relay.Host`, and `Mindful` of the native relay's front.

    Nothing raises here: a defect of ours costs the one whom it is about, and not those who come with it.
    """

    def __init__(self, worker: Worker, nursery: trio.Nursery) -> None:
        """Sessions are served in the nursery; once that is cancelled, whoever comes is closed with `shutdown`."""
        self._worker = worker
        self._nursery = nursery
        self._pauses = PauseLog(worker.metrics, worker.log)
        self._open: dict[socket.socket, _AtFront | _AtLoop] = {}

    def open(self, listening: socket.socket, listener: Listener) -> None:
        """Lets players in at a listener, until `close`."""
        front, settings = self._worker.relay.front, self._worker.settings
        if front is not None and treats_all_alike(listener, settings):
            try:
                number = front.open(listening, listener, self, settings)
            except OSError as error:  # no descriptor is left for its copy
                self._pauses.note(error.strerror or type(error).__name__)
            else:
                self._open[listening] = _AtFront(front, number)
                return
        door = _AtLoop(partial(self._accepted, listener))
        self._open[listening] = door
        self._nursery.start_soon(door.run, listening, settings.accept_batch, self._pauses)

    def close(self, listening: socket.socket, *, empty: bool = False) -> None:
        """Lets nobody in there any more. `empty`: but whoever waits in the queue; else another process may take them."""
        self._open.pop(listening).close(listening, empty)

    def _accepted(self, listener: Listener, sock: socket.socket, peer: object) -> None:
        self._worker.metrics.counts.opened += 1
        spread_keepalive(sock, self._worker.settings.keepalive_idle)
        self.arrived(Accepted(listener, sock, peer, trio.current_time()))

    def arrived(self, accepted: Accepted) -> None:
        """Somebody to serve."""
        entered = False
        try:
            there_is_room = self._worker.limits.enter()
            entered = True
            if not there_is_room:
                refuse(self._worker, accepted, CloseReason.SESSION_LIMIT)
            elif self._worker.short_of_memory:
                refuse(self._worker, accepted, CloseReason.MEMORY_LIMIT)
            elif self._nursery.cancel_scope.cancel_called:
                refuse(self._worker, accepted, CloseReason.SHUTDOWN)
            else:
                self._nursery.start_soon(serve, self._worker, accepted)
        except Exception:  # a defect of ours
            close_all(accepted)
            if entered:
                self._worker.limits.leave(())
            attempt = accepted.attempt
            route = None if attempt is None else attempt.plan.route.id
            self.failed(traceback.format_exc(), route)

    def failed(self, trace: str, route: str | None) -> None:
        """Somebody whom the relay has accepted and could not hand over."""
        self._worker.metrics.counts.close(CloseReason.INTERNAL_ERROR, route)
        report(self._worker.metrics, self._worker.log, trace, route=route)

    def paused(self, cause: str) -> None:
        """The relay accepts nobody for a while."""
        self._pauses.note(cause)

    def played(self, sessions: list[Played]) -> None:
        """What the relay has played by plans, and is over."""
        bodies, now = [], time.time()
        self._worker.metrics.counts.play(sessions)
        for one in sessions:
            try:
                if one.reason is CloseReason.INTERNAL_ERROR:  # the detail is the traceback then
                    self._report(one, one.detail)
                    one = one._replace(detail=last_line(one.detail))
                body = self._worker.journal.body(one, now)
                if body is not None:
                    bodies.append(body)
            except Exception:  # a defect of ours costs this session its line
                self._report(one, traceback.format_exc())
        try:
            self._worker.log.info_many("session", bodies)
        except Exception:  # likewise, all of them
            report(self._worker.metrics, self._worker.log, traceback.format_exc())

    def _report(self, one: Played, trace: str) -> None:
        session, route = session_id(one.number), one.plan.route.id
        report(self._worker.metrics, self._worker.log, trace, session=session, route=route)


class _AtFront:
    """A listener in the relay's hands."""

    def __init__(self, front: Front, number: int) -> None:
        self._front = front
        self._number = number

    def close(self, _: socket.socket, empty: bool) -> None:
        self._front.close(self._number, empty=empty)


class _AtLoop:
    """A listener that the worker accepts from."""

    def __init__(self, on_accept: OnAccept) -> None:
        self._on_accept = on_accept
        self._scope = trio.CancelScope()

    async def run(self, listening: socket.socket, batch: int, pauses: PauseLog) -> None:
        with self._scope:
            await accept_forever(listening, self._on_accept, batch=batch, pauses=pauses)

    def close(self, listening: socket.socket, empty: bool) -> None:
        self._scope.cancel()
        if empty:
            accept_waiting(listening, self._on_accept)
