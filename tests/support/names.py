"""A resolver that is data: no test asks a real one."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio


@dataclass
class Resolver(trio.abc.HostnameResolver):
    """Addresses by name. A name that maps to None is never answered; one that is not there does not exist."""

    names: Mapping[str, Sequence[str] | None]
    asked: list[str] = field(default_factory=list)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  # the names are those of the base class
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = (host or b"").decode()
        self.asked.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = self.names[name]
        if addresses is None:
            await trio.sleep_forever()
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses or ()
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@contextmanager
def resolving(names: Mapping[str, Sequence[str] | None]) -> Iterator[Resolver]:
    """Inside a trio task: these are the names of the world."""
    resolver = Resolver(names)
    before = trio.socket.set_custom_hostname_resolver(resolver)
    try:
        yield resolver
    finally:
        trio.socket.set_custom_hostname_resolver(before)
