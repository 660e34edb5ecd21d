"""Relays that are not as others: one whose links a test gets, and one with defects."""

from collections.abc import Callable
from typing import Any

from sniproxy.relay import Flow, Link, Outcome, Relay, Terminated
from sniproxy.tls import ServerTls


class Watched:
    """A relay whose links the test gets."""

    name = "watched"

    front = None

    def __init__(self, relay: Relay) -> None:
        self.links: list[Link] = []
        self._relay = relay

    async def accept_tls(
        self, client: Any, server_tls: ServerTls, received: bytes, name: str | None
    ) -> Terminated:
        """As the relay does."""
        return await self._relay.accept_tls(client, server_tls, received, name)

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> Link:
        """As the relay does."""
        self.links.append(self._relay.start(flow, on_end))
        return self.links[-1]


class Defective:
    """A relay with defects."""

    name = "defective"
    front = None

    def __init__(self) -> None:
        self.flows: list[Flow] = []

    async def accept_tls(self, *_: object) -> Terminated:
        """Raises."""
        raise ZeroDivisionError

    def start(self, flow: Flow, _on_end: object) -> Link:
        """Raises, and keeps what it was given."""
        self.flows.append(flow)
        raise ZeroDivisionError
