"""The etcd store when etcd goes away and comes back, and with answers in parts."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from sniproxy.errors import Conflict, StoreUnavailable
from sniproxy.store import Batch, Store, etcd_gateway
from sniproxy.store.etcd_gateway import TooLarge
from sniproxy.store.etcd_watch import b64
from tests.support.etcd import EtcdServer
from tests.support.etcd_store import (
    CALLS,
    opened,
)
from tests.support.stores import PATIENCE, next_batch, take, told

pytestmark = pytest.mark.anyio

# -- etcd goes away


async def test_a_killed_etcd_is_noticed_at_once_and_used_again(etcd: EtcdServer) -> None:
    async with opened(etcd.url) as store:
        written = await store.put("/1", b"v")
        async with store.watch("/", after=written) as watch, anyio.create_task_group() as tasks:
            tasks.start_soon(ends, watch)
            await anyio.wait_all_tasks_blocked()
            etcd.kill()
        for call in CALLS.values():
            with anyio.fail_after(4), pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
                await call(store)
        etcd.start()
        async with store.watch("/", after=0) as watch:
            assert told(await take(watch, 1)) == [("/1", b"v")]
            await store.put("/2", b"w")
            assert told(await take(watch, 1)) == [("/2", b"w")]


async def ends(watch: AsyncIterator[Batch]) -> None:
    with anyio.fail_after(PATIENCE), pytest.raises(StoreUnavailable):
        await next_batch(watch)


async def test_what_was_acknowledged_outlives_a_killed_etcd(etcd: EtcdServer) -> None:
    acknowledged: dict[str, int] = {}

    async def write(store: Store, name: str) -> None:
        with suppress(StoreUnavailable):
            for number in itertools.count():
                key = f"/{name}/{number}"
                acknowledged[key] = await store.put(key, b"v")

    async with opened(etcd.url) as store:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for name in "abcd":
                    tasks.start_soon(write, store, name)
                while len(acknowledged) < 200:
                    await anyio.lowlevel.checkpoint()
                etcd.kill()
        etcd.start()
        found = {e.key: e.mod_revision for e in (await store.list("/")).entries}
    assert acknowledged.items() <= found.items()


async def test_a_frozen_etcd_costs_a_call_its_limit(etcd: EtcdServer) -> None:
    async def try_one(call: Callable[[Store], Awaitable[object]]) -> None:
        with anyio.fail_after(4.5), pytest.raises(StoreUnavailable, match="in time"):
            await call(store)

    async with opened(etcd.url, timeout=1.0) as store:
        await store.put("/1", b"v")
        etcd.pause()
        async with anyio.create_task_group() as tasks:
            for call in CALLS.values():
                tasks.start_soon(try_one, call)
        etcd.resume()
    # what became of the writes nobody knows: etcd may find them in its socket when it wakes up
    async with opened(etcd.url) as store:
        await store.list("/")


async def test_a_frozen_etcd_ends_a_watch_within_its_silence(etcd: EtcdServer) -> None:
    async with opened(etcd.url, watch_silence=1.0) as store:
        written = await store.put("/1", b"v")
        async with store.watch("/", after=written - 1) as watch:
            await take(watch, 1)
            etcd.pause()
            with anyio.fail_after(1.0 + 5.0), pytest.raises(StoreUnavailable):
                await next_batch(watch)


async def test_a_quiet_watch_of_a_sound_etcd_does_not_end(etcd: EtcdServer) -> None:
    opened_anew = anyio.Event()
    watches: list[str] = []

    class Counting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v3/watch":
                watches.append(request.url.path)
                if len(watches) == 3:
                    opened_anew.set()
            return await super().handle_async_request(request)

    async with opened(etcd.url, watch_silence=1.0, transport=Counting()) as store:
        written = await store.put("/1", b"v")
        async with store.watch("/", after=written) as watch, anyio.create_task_group() as tasks:
            tasks.start_soon(expect_one, watch, "/2")
            with anyio.fail_after(PATIENCE):
                await opened_anew.wait()
            await store.put("/2", b"w")


async def expect_one(watch: AsyncIterator[Any], key: str) -> None:
    assert [e.key for e in await take(watch, 1)] == [key]


# -- leases


async def test_a_lease_that_was_not_used_is_given_back(etcd: EtcdServer) -> None:
    async with opened(etcd.url) as store:
        await store.put("/1", b"v")
        with pytest.raises(Conflict):
            await store.put("/1", b"w", expect=0, ttl=60)
        assert etcd.call("/v3/lease/leases", {}).get("leases", []) == []
        await store.put("/1", b"w", ttl=60)
        assert len(etcd.call("/v3/lease/leases", {})["leases"]) == 1


# -- large and strange answers


async def test_large_histories_come_in_fragments(etcd: EtcdServer) -> None:
    async with opened(etcd.url) as store:
        for number in range(8):
            await store.put(f"/{number}", b"v" * 1_000_000)
        async with store.watch("/", after=1) as watch:
            assert [e.key for e in await take(watch, 8)] == [f"/{n}" for n in range(8)]


async def test_a_list_in_pages(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(etcd.url) as store:
        for number in range(30):
            await store.put(f"/{number:02}", b"v" * 10_000)
        revision = await store.put("/other", b"v")
        # the first page is too large and asked for again in parts
        monkeypatch.setattr(etcd_gateway, "MAX_ANSWER", 200_000)
        monkeypatch.setattr("sniproxy.store.etcd.PAGE", 64)
        listing = await store.list("/")
        assert [e.key for e in listing.entries] == [*(f"/{n:02}" for n in range(30)), "/other"]
        assert listing.revision == revision
        monkeypatch.setattr(etcd_gateway, "MAX_ANSWER", 5_000)
        with pytest.raises(TooLarge, match="5000 bytes"):
            await store.list("/")


async def test_the_pages_of_a_list_are_of_one_revision(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meddling(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            etcd.call("/v3/kv/put", {"key": b64(b"/9"), "value": b64(b"meanwhile")})
            etcd.call("/v3/kv/deleterange", {"key": b64(b"/8")})
            return answer

    async with opened(etcd.url) as store:
        for number in range(10):
            revision = await store.put(f"/{number}", b"v")
    monkeypatch.setattr("sniproxy.store.etcd.PAGE", 3)
    async with opened(etcd.url, transport=Meddling()) as store:
        listing = await store.list("/")
    assert [(e.key, e.value) for e in listing.entries] == [(f"/{n}", b"v") for n in range(10)]
    assert listing.revision == revision
