"""Opening the etcd store in tests, every call it has, and servers and answers that are not etcd's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from sniproxy.store import Store
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from tests.support.stores import next_batch

NOBODY = "http://127.0.0.1:1"  # refuses connections
PASSWORD = "s3cret-and-long"
WRONG = "wr0ng-and-long"


@asynccontextmanager
async def opened(
    *endpoints: str, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdConfig(endpoints=endpoints, **options), transport=transport)
    try:
        yield store
    finally:
        await store.aclose()


async def watch_once(store: Store, prefix: str = "/", after: int = 0) -> None:
    async with store.watch(prefix, after=after) as watch:
        await next_batch(watch)


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "get": lambda store: store.get("/1"),
    "list": lambda store: store.list("/"),
    "put": lambda store: store.put("/1", b"v"),
    "put_expect": lambda store: store.put("/1", b"v", expect=3),
    "put_ttl": lambda store: store.put("/1", b"v", ttl=9),
    "delete": lambda store: store.delete("/1"),
    "delete_expect": lambda store: store.delete("/1", expect=3),
    "watch": watch_once,
}
WRITES = ("put", "put_expect", "delete", "delete_expect")
each_write = pytest.mark.parametrize("call", WRITES)


@asynccontextmanager
async def tcp_server(
    answer: Callable[[anyio.abc.SocketStream], Awaitable[None]],
) -> AsyncIterator[str]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await answer(stream)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def silent_server(came: list[bool] | None = None) -> AsyncIterator[str]:
    """`came`: gets an item for each connection."""

    async def stay_silent(stream: anyio.abc.SocketStream) -> None:
        if came is not None:
            came.append(True)
        await anyio.sleep_forever()

    async with tcp_server(stay_silent) as url:
        yield url


def answering(**replies: Callable[[], httpx.Response]) -> httpx.MockTransport:
    """A network where every host gives one answer to everything."""

    def handle(request: httpx.Request) -> httpx.Response:
        return replies[request.url.host]()

    return httpx.MockTransport(handle)


def reply(status: int = 200, **body: Any) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(status, json=body)


GOOD = reply(header={"revision": "7"}, succeeded=True)
LEADERLESS = reply(503, error="etcdserver: no leader", code=14, message="etcdserver: no leader")
LATE = reply(503, error="e", code=14, message="etcdserver: request timed out")
