"""Who lets players in: the worker's own accepting, or the relay's where it has a front, and what comes of it.

Whoever arrives gets a task that serves them (`session.serve`). Sessions that the relay has played by plans, without Python,
are accounted for here, in batches.
"""

import socket

import trio

from sniproxy.accounting import Account
from sniproxy.errors import CloseReason
from sniproxy.listener import PauseLog, accept_forever
from sniproxy.relay import Accepted, Played
from sniproxy.session import Worker, refuse, serve
from sniproxy.settings import Listener


class Reception:
    """One worker's. Implements `sniproxy.relay.Host`."""

    def __init__(self, worker: Worker, nursery: trio.Nursery) -> None:
        """Sessions are served in the nursery; once that is cancelled, whoever comes is closed with `shutdown`."""
        self._worker = worker
        self._nursery = nursery
        self._pauses = PauseLog(worker.metrics, worker.log)

    async def accept(self, listening: socket.socket, listener: Listener) -> None:
        """Lets players in at a listener, for ever."""
        front, batch = self._worker.relay.front, self._worker.settings.accept_batch
        # Where nothing can be passed through, or a PROXY header comes first, there are no plans to go by.
        if front is None or not listener.tls_passthrough or listener.proxy_protocol:

            def on_accept(sock: socket.socket, peer: object) -> None:
                self._worker.metrics.opened.inc()
                self.arrived(Accepted(listener, sock, peer, trio.current_time()))

            await accept_forever(listening, on_accept, batch=batch, pauses=self._pauses)
        else:
            number = front.open(listening, listener, self, batch)
            try:
                await trio.sleep_forever()
            finally:
                front.close(number)

    def arrived(self, accepted: Accepted) -> None:
        """Somebody to serve."""
        if not self._worker.limits.enter():
            refuse(self._worker, accepted, CloseReason.SESSION_LIMIT)
        elif self._nursery.cancel_scope.cancel_called:
            refuse(self._worker, accepted, CloseReason.SHUTDOWN)
        else:
            self._nursery.start_soon(serve, self._worker, accepted)

    def paused(self, cause: str) -> None:
        """The relay accepts nobody for a while."""
        self._pauses.note(cause)

    def played(self, sessions: list[Played]) -> None:
        """What the relay has played by plans, and is over."""
        metrics, log = self._worker.metrics, self._worker.log
        for plan, pick, number, client, outcome, hello, connect, lasted in sessions:
            metrics.closed[outcome.reason].inc()
            metrics.bytes_to_upstream.inc(outcome.to_upstream)
            metrics.bytes_to_client.inc(outcome.to_client)
            node = plan.target.round[pick]
            account = Account(
                client=client,
                listener=plan.listener.address,
                started=0.0,
                id=f"{number:016x}",
                sni=plan.name,
                route=plan.route.id,
                node=f"{node.host}:{node.port or plan.port}",
                tls="passthrough",
                hello_at=hello / 1e6,
                connected_at=None if connect is None else (hello + connect) / 1e6,
            )
            line = account.line(
                lasted / 1e6, outcome.reason, outcome.detail, outcome.to_upstream, outcome.to_client
            )
            log.info("session", **line)
