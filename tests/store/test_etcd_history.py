"""The watch on a real etcd: history that is quiet, compacted or another one, and endpoints that die."""

import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import etcd_watch
from tests.support.etcd import EtcdServer
from tests.support.etcd_store import NOBODY, opened, silent_server, tcp_server
from tests.support.stores import PATIENCE, next_batch, sign_of_life, take, told

pytestmark = pytest.mark.anyio

NAMELESS = "http://nobody.invalid:2379"  # a name that never resolves (RFC 6761)


async def test_a_quiet_prefix_outlives_compactions(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "PROVE_EVERY", 0.0)
    async with opened(etcd.url, watch_silence=1.0) as store:
        start = await store.put("/ours/1", b"v")
        async with store.watch("/ours/", after=start) as watch:
            for _ in range(3):
                for _ in range(5):
                    newest = await store.put("/foreign", b"v")
                with anyio.fail_after(PATIENCE):
                    while await sign_of_life(watch) < newest:
                        pass
                etcd.compact(newest)
            await store.put("/ours/2", b"w")
            assert told(await take(watch, 1)) == [("/ours/2", b"w")]
            await store.delete("/ours/1")
            assert told(await take(watch, 1)) == [("/ours/1", None)]


async def test_a_reader_of_one_prefix_may_prove_it(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "PROVE_EVERY", 0.0)
    async with opened(etcd.url) as store:
        start = await store.put("/ours/1", b"v")
        newest = await store.put("/foreign", b"v")
    etcd.enable_auth("root-secret", {"reader": ("its-secret", "/ours/")})
    async with (
        opened(etcd.url, user="reader", password="its-secret", watch_silence=1.0) as store,
        store.watch("/ours/", after=start) as watch,
    ):
        assert await sign_of_life(watch) == newest


async def test_a_deletion_at_the_compacted_revision_is_not_lost(etcd: EtcdServer) -> None:
    """etcd#18089: a watch from there on is not refused, and not told of the deletion."""
    async with opened(etcd.url) as store:
        written = await store.put("/1", b"v")
        deleted = await store.delete("/1")
        assert deleted == written + 1
        etcd.compact(deleted)
        with pytest.raises(Compacted) as caught:
            async with store.watch("/", after=written):
                pass
        assert caught.value.revision == deleted
        async with store.watch("/", after=deleted) as watch:
            await store.put("/2", b"w")
            assert told(await take(watch, 1)) == [("/2", b"w")]


async def test_an_etcd_restored_from_a_backup_that_went_on_is_told_apart(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    data, backup = tmp_path / "etcd" / "data", tmp_path / "backup"
    async with opened(etcd.url) as store:
        await store.put("/1", b"v")
        etcd.stop()
        shutil.copytree(data, backup)
        for _ in range(2):  # each start is an election, and a term
            etcd.start()
            etcd.stop()
        etcd.start()
        await store.put("/1", b"lost")
        after = (await store.list("/")).revision
        etcd.stop()
        shutil.rmtree(data)
        shutil.move(backup, data)
        etcd.start()
        for _ in range(3):
            newest = await store.put("/1", b"other")
        assert newest > after
        with pytest.raises(Compacted):
            async with store.watch("/", after=after):
                pass
        listing = await store.list("/")
        assert [entry.value for entry in listing.entries] == [b"other"]
        async with store.watch("/", after=listing.revision) as watch:
            await sign_of_life(watch)


# -- endpoints


class Way:
    """A second way to the same etcd, as the answer of a `tcp_server`; it may freeze."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self.frozen = False

    async def __call__(self, player: SocketStream) -> None:
        async with (
            await anyio.connect_tcp(*self._target) as etcd,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._pump, player, etcd)
            await self._pump(etcd, player)
            tasks.cancel_scope.cancel()

    async def _pump(self, source: SocketStream, target: SocketStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                data = await source.receive()
                if self.frozen:
                    await anyio.sleep_forever()
                await target.send(data)


async def test_a_watch_whose_endpoint_dies_ends_and_the_next_goes_elsewhere(
    etcd: EtcdServer,
) -> None:
    async with AsyncExitStack() as stack:
        async with tcp_server(Way(etcd.url)) as url:
            store = await stack.enter_async_context(opened(url, etcd.url))
            written = await store.put("/1", b"v")
            watch = await stack.enter_async_context(store.watch("/", after=written))
            await sign_of_life(watch)
        with pytest.raises(StoreUnavailable):
            await next_batch(watch)
        async with store.watch("/", after=written) as watch:
            await store.put("/2", b"w")
            assert told(await take(watch, 1)) == [("/2", b"w")]


async def test_a_watch_whose_endpoint_freezes_goes_on_elsewhere(etcd: EtcdServer) -> None:
    way = Way(etcd.url)
    async with (
        opened(etcd.url) as other,
        tcp_server(way) as url,
        opened(url, etcd.url, watch_silence=1.5) as store,
    ):
        written = await other.put("/1", b"v")
        async with store.watch("/", after=written) as watch:
            await sign_of_life(watch)
            way.frozen = True
            await other.put("/2", b"w")
            with anyio.fail_after(1.5 + 5.0):
                assert told(await take(watch, 1)) == [("/2", b"w")]


@pytest.mark.parametrize("sound", [1, 2])
@pytest.mark.parametrize("dead", ["refuses", "has no address", "is silent", "hangs up"])
async def test_endpoints_that_are_dead_at_the_start_cost_time_only(
    etcd: EtcdServer, dead: str, sound: int
) -> None:
    async def hang_up(stream: SocketStream) -> None:
        await stream.receive()

    came: list[bool] = []
    async with silent_server(came) as silent, tcp_server(hang_up) as cut:
        url = {"refuses": NOBODY, "has no address": NAMELESS, "is silent": silent, "hangs up": cut}
        endpoints = [url[dead]] * (3 - sound) + [etcd.url] * sound
        async with opened(*endpoints, timeout=6.0) as store:
            listing = await store.list("/")
            asked = len(came)
            async with opened(etcd.url) as other:
                await other.put("/1", b"v")
            async with store.watch("/", after=listing.revision) as watch:
                assert told(await take(watch, 1)) == [("/1", b"v")]
            assert len(came) == asked  # the sound one is known by now
