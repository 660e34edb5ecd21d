"""How etcd is asked: endpoints, deadlines, users, TLS, and answers that make no sense."""

import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest

from sniproxy.errors import Conflict, SettingsError, StoreUnavailable
from sniproxy.store import Store
from sniproxy.store.etcd import FRESH, EtcdConfig, EtcdStore
from sniproxy.store.etcd_gateway import Refused
from tests.support.etcd import EtcdServer, TlsFiles
from tests.support.etcd_store import (
    CALLS,
    GOOD,
    LATE,
    LEADERLESS,
    NOBODY,
    PASSWORD,
    WRITES,
    WRONG,
    answering,
    each_write,
    opened,
    silent_server,
    tcp_server,
    watch_once,
)
from tests.support.stores import PATIENCE, take, told

pytestmark = pytest.mark.anyio

# -- several endpoints


async def test_a_dead_endpoint_is_passed_over(etcd: EtcdServer) -> None:
    async with opened(etcd.url) as real:
        await real.put("/1", b"v")
    for call in CALLS.values():
        async with opened(NOBODY, etcd.url) as store:
            with anyio.fail_after(PATIENCE), suppress(Conflict):
                await call(store)


async def test_a_frozen_endpoint_costs_a_read_its_share(etcd: EtcdServer) -> None:
    async def try_one(call: Callable[[Store], Awaitable[object]]) -> None:
        came: list[bool] = []
        async with (
            silent_server(came) as silent,
            opened(silent, etcd.url, timeout=4.0) as store,
        ):
            await call(store)
            # and only once: the other endpoint is the first choice from now on
            await call(store)
            assert len(came) == 1

    async with opened(etcd.url) as real:
        await real.put("/1", b"v")
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for name in ("get", "list", "watch"):
                tasks.start_soon(try_one, CALLS[name])


async def test_a_request_cut_off_is_repeated_only_when_it_does_no_harm(etcd: EtcdServer) -> None:
    cut: list[bytes] = []

    async def read_and_cut(stream: anyio.abc.SocketStream) -> None:
        cut.append(await stream.receive())

    async with opened(etcd.url) as real, tcp_server(read_and_cut) as url:
        before = await real.put("/1", b"v")
        for name in WRITES:
            async with opened(url, etcd.url) as store:
                with pytest.raises(StoreUnavailable, match="may or may not have been written"):
                    await CALLS[name](store)
        assert (await real.list("/")).revision == before
        for name in CALLS.keys() - set(WRITES):
            async with opened(url, etcd.url) as store:
                await CALLS[name](store)
    assert len(cut) == len(CALLS)


@pytest.mark.parametrize("call", ["get", "put"])
async def test_a_member_without_a_leader_is_passed_over(call: str) -> None:
    asked: list[str] = []
    replies = {"a": LEADERLESS, "b": GOOD}

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        assert request.headers["Grpc-Metadata-hasleader"] == "true"
        return replies[request.url.host]()

    async with opened("http://a", "http://b", transport=httpx.MockTransport(handle)) as store:
        await CALLS[call](store)
        await CALLS[call](store)
    assert asked == ["a", "b", "b"]


@each_write
async def test_a_write_that_timed_out_in_etcd_is_not_repeated(call: str) -> None:
    async with opened("http://a", "http://b", transport=answering(a=LATE, b=GOOD)) as store:
        with pytest.raises(StoreUnavailable, match="may or may not"):
            await CALLS[call](store)
        assert await store.get("/1") is None


async def test_when_nobody_answers_each_is_named() -> None:
    async with opened("http://127.0.0.1:1", "http://127.0.0.1:2") as store:
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: ") as caught:
            await store.put("/1", b"v")
    assert "may or may not" not in str(caught.value)


async def test_more_watches_than_any_pool_holds(etcd: EtcdServer) -> None:
    heard: list[str] = []

    async def follow(store: Store, number: int) -> None:
        async with store.watch("/", after=0) as watch:
            heard.extend(e.key for e in await take(watch, 1))

    async with opened(etcd.url) as store:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(120):
                    tasks.start_soon(follow, store, number)
                await anyio.wait_all_tasks_blocked()
                await store.put("/1", b"v")
    assert heard == ["/1"] * 120


# -- users


@asynccontextmanager
async def with_user(server: EtcdServer, password: str = PASSWORD) -> AsyncIterator[EtcdStore]:
    async with opened(server.url, user="proxy", password=password) as store:
        yield store


def protect(server: EtcdServer) -> None:
    server.enable_auth("root-pw", {"proxy": (PASSWORD, "/mine/")})


async def test_a_user_reads_writes_and_watches_its_prefix(etcd: EtcdServer) -> None:
    protect(etcd)
    async with with_user(etcd) as store:
        written = await store.put("/mine/1", b"v", ttl=60)
        assert [e.key for e in (await store.list("/mine/")).entries] == ["/mine/1"]
        async with store.watch("/mine/", after=written - 1) as watch:
            assert told(await take(watch, 1)) == [("/mine/1", b"v")]
        with pytest.raises(StoreUnavailable, match="permission denied"):
            await store.put("/theirs/1", b"v", ttl=60)
        with pytest.raises(StoreUnavailable, match="permission denied"):
            await watch_once(store, "/theirs/")


async def test_a_wrong_password_is_told_and_not_repeated(etcd: EtcdServer) -> None:
    protect(etcd)
    async with with_user(etcd, WRONG) as store:
        for call in CALLS.values():
            with pytest.raises(StoreUnavailable, match=r"'proxy': check etcd\.user") as caught:
                await call(store)
            assert WRONG not in str(caught.value)
        assert WRONG not in repr(EtcdConfig(endpoints=(etcd.url,), password=WRONG))


async def test_no_user_where_one_is_wanted(etcd: EtcdServer) -> None:
    protect(etcd)
    async with opened(etcd.url) as store:
        for call in ("get", "put", "watch"):
            with pytest.raises(StoreUnavailable, match="user name is empty"):
                await CALLS[call](store)


async def test_a_forgotten_token_is_asked_for_anew(etcd: EtcdServer) -> None:
    calls: tuple[Callable[[Store], Awaitable[object]], ...] = (
        lambda store: store.list("/mine/"),
        lambda store: store.put("/mine/1", b"w"),
        lambda store: store.put("/mine/1", b"w", ttl=9),
        lambda store: store.delete("/mine/2"),
        lambda store: watch_once(store, "/mine/"),
    )
    protect(etcd)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(with_user(etcd)) for _ in calls]
        for store in stores:
            await store.put("/mine/1", b"v")
        etcd.kill()  # tokens live in memory
        etcd.start()
        for store, call in zip(stores, calls, strict=True):
            await call(store)


async def test_users_turned_on_while_we_run(etcd: EtcdServer) -> None:
    async with with_user(etcd) as store:
        await store.put("/mine/1", b"v")
        protect(etcd)
        await store.put("/mine/1", b"w")


@pytest.mark.parametrize("call", ["put", "watch"])
async def test_the_token_of_an_etcd_that_is_gone(etcd: EtcdServer, call: str) -> None:
    """As after a restore. etcd lets whoever has a token wait until it has come as far as when it gave that out."""
    protect(etcd)
    async with opened(etcd.url, user="root", password="root-pw", timeout=3.0) as store:
        await store.put("/0", b"v")
        for _ in range(40):
            await store.put("/0", b"v")
        store._gateway._token = None
        await store.get("/0")  # with a token of now
        etcd.kill()
        shutil.rmtree(etcd.data)
        etcd.launch(f"{etcd.name}={etcd.peer_url}")  # at the same address
        assert etcd.wait_healthy()
        etcd.call("/v3/kv/put", {"key": "Lzc=", "value": ""})  # something to hear of
        protect(etcd)
        with suppress(StoreUnavailable):
            await CALLS[call](store)
        await CALLS[call](store)


async def test_users_turned_on_while_a_lease_is_renewed(etcd: EtcdServer) -> None:
    """The answer to that is a stream, in which an error looks otherwise. Before 3.5.13 no user was wanted for it."""
    async with with_user(etcd) as store:
        await store.put("/mine/1", b"v", ttl=6)
        protect(etcd)
        await anyio.sleep(6 * FRESH + 0.1)
        await store.put("/mine/1", b"w", ttl=6)
        (lease,) = store._leases.values()
        await anyio.sleep(6 * FRESH + 0.1)
        await store.put("/mine/1", b"x", ttl=6)
        assert [one.id for one in store._leases.values()] == [lease.id]


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": 3, "message": "etcdserver: user name is empty", "details": []}},
        {"error": {"grpc_code": 3, "http_code": 400, "message": "etcdserver: user name is empty"}},
    ],
)
async def test_an_error_within_a_stream_is_etcds_own(error: dict[str, object]) -> None:
    """As grpc-gateway 2, and 1, have it: etcd has refused, and is not away."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/auth/authenticate":
            return httpx.Response(200, json={"token": "tok"})
        if "Authorization" in request.headers:
            return httpx.Response(200, json={"header": {"revision": "7"}})
        return httpx.Response(400, json=error)

    transport = httpx.MockTransport(handle)
    async with opened("http://a", transport=transport) as nobody:
        with pytest.raises(Refused, match="refused: etcdserver: user name is empty"):
            await nobody.put("/1", b"v")
    async with opened("http://a", user="u", password=PASSWORD, transport=transport) as store:
        store._gateway._token = ""  # of when etcd wanted none
        assert await store.put("/1", b"v") == 7


async def test_a_token_that_never_works_is_renewed_once() -> None:
    paths: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if request.url.path == "/v3/auth/authenticate":
            return httpx.Response(200, json={"token": f"tok-{len(paths)}"})
        message = f"invalid auth token {request.headers['Authorization']} {PASSWORD}"
        return httpx.Response(401, json={"code": 16, "message": message, "error": message})

    transport = httpx.MockTransport(handle)
    async with opened("http://a", user="u", password=PASSWORD, transport=transport) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.put("/1", b"v")
    assert paths == ["/v3/auth/authenticate", "/v3/kv/put"] * 2
    assert "tok-" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_many_calls_share_one_sign_in() -> None:
    paths: list[str] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        await anyio.lowlevel.checkpoint()
        if request.url.path == "/v3/auth/authenticate":
            return httpx.Response(200, json={"token": "tok"})
        return GOOD()

    transport = httpx.MockTransport(handle)
    async with (
        opened("http://a", user="u", password="p", transport=transport) as store,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(10):
            tasks.start_soon(store.get, "/1")
    assert paths.count("/v3/auth/authenticate") == 1
    assert paths.count("/v3/kv/range") == 10


# -- TLS


async def test_tls_with_client_certificates(stopped_etcd: EtcdServer, tmp_path: Path) -> None:
    files, strangers = TlsFiles.make(tmp_path / "tls"), TlsFiles.make(tmp_path / "strangers")
    server = stopped_etcd.with_tls(files)
    ours: dict[str, Any] = {"cert_file": files.client_cert, "key_file": files.client_key}
    theirs: dict[str, Any] = {"cert_file": strangers.client_cert, "key_file": strangers.client_key}
    with server:
        async with opened(server.url, ca_file=files.ca, **ours) as store:
            await store.put("/1", b"v")
            await watch_once(store)
        async with opened(server.url, ca_file=strangers.ca, **ours) as store:
            for call in CALLS.values():
                with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                    await call(store)
        for wrong in ({}, theirs):
            async with opened(server.url, ca_file=files.ca, **wrong) as store:
                with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
                    await store.get("/1")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"endpoints": ()}, "none given"),
        ({"endpoints": ("127.0.0.1:2379",)}, "expected http"),
        ({"endpoints": ("ftp://h:1",)}, "expected http"),
        ({"endpoints": ("http://u:pw@h:1",)}, r"use etcd\.user"),
        ({"endpoints": ("https://h:1",), "ca_file": Path("nowhere.pem")}, r"ca_file nowhere\.pem"),
        ({"endpoints": ("https://h:1",), "cert_file": Path("no.pem")}, r"cert_file no\.pem"),
    ],
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match) as caught:
        EtcdStore(EtcdConfig(**options))
    assert "pw" not in str(caught.value)


# -- strange answers


@pytest.mark.parametrize(
    "error", [ssl.SSLError(1, "alert"), ConnectionResetError(104, "reset"), httpx.ReadError("cut")]
)
async def test_what_the_network_raises_is_an_error_of_ours(error: Exception) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        raise error

    async with opened("http://a", transport=httpx.MockTransport(handle)) as store:
        for call in CALLS.values():
            with pytest.raises(StoreUnavailable, match="http://a: the connection broke"):
                await call(store)


NONSENSE: dict[str, bytes] = {
    "empty": b"",
    "html": b"<html>502</html>",
    "null": b"null",
    "list": b"[]",
    "number": b"5",
    "deep": b"[" * 100_000,
    "not_utf8": b"\xff\xfe",
    "no_members": b"{}",
    "header_null": b'{"header":null,"kvs":null,"succeeded":true,"deleted":"x","ID":null}',
    "revision_word": b'{"header":{"revision":"new"},"succeeded":true,"deleted":"1","kvs":[{}]}',
    "kv_list": b'{"header":{"revision":[]},"kvs":[[]],"result":[],"responses":{}}',
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_nonsense_is_an_error_of_ours(body: bytes, status: int) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    async with opened("http://a", transport=transport) as store:
        for call in CALLS.values():
            with pytest.raises((StoreUnavailable, Conflict)):
                await call(store)


@pytest.mark.parametrize("kv", [None, [], {}, {"key": "*"}, {"key": "LzE=", "mod_revision": "x"}])
async def test_an_entry_of_nonsense_is_an_error_of_ours(kv: object) -> None:
    body = {"header": {"revision": "1"}, "kvs": [kv]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    async with opened("http://a", transport=transport) as store:
        for name in ("get", "list"):
            with pytest.raises(StoreUnavailable, match="malformed"):
                await CALLS[name](store)
