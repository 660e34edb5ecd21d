"""/livez and /readyz: for whoever asks, and ready from the store's first answer on, until the end."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from admin import readiness
from admin.app import create_app
from admin.readiness import Readiness
from sniproxy.logs import open_log
from sniproxy.settings import Settings
from sniproxy.store import Entry, Store
from sniproxy.store.etcd_gateway import Refused
from tests.admin.gateway import KEYRING, Doubtful
from tests.support.stores import PATIENCE

pytestmark = pytest.mark.anyio


class Closed(Doubtful):
    """A store that refuses to be read until it is opened."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        self.open = False

    async def get(self, key: str) -> Entry | None:
        """Keeps the contract."""
        self.calls.append("get")
        if not self.open:
            raise Refused("http://etcd", 7, "etcdserver: permission denied")
        return await self.real.get(key)


@asynccontextmanager
async def running(
    settings: Settings, store: Store, ready: Readiness, log: io.StringIO
) -> AsyncIterator[httpx.AsyncClient]:
    """The API for a client who has no key, and comes from where nobody may."""
    members = settings.model_dump()
    members["admin"]["allow"] = ["10.0.0.0/8"]
    app = create_app(
        Settings.model_validate(members), store, KEYRING, open_log("admin", log), readiness=ready
    )
    transport = httpx.ASGITransport(app, client=("192.0.2.9", 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://admin") as client,
    ):
        yield client


async def until(client: httpx.AsyncClient, code: int) -> str:
    """What /readyz says with that code."""
    with anyio.fail_after(PATIENCE):
        while (answer := await client.get("/readyz")).status_code != code:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    return answer.text


async def test_ready_once_the_store_has_answered(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "RETRY", 0.001)
    closed, log = Closed(store), io.StringIO()
    async with running(settings, closed, Readiness(), log) as client:
        with anyio.fail_after(PATIENCE):
            while closed.calls.count("get") < 3:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        assert await until(client, 503) == "the store has not answered yet: the log says why\n"
        assert (await client.get("/livez")).text == "ok\n"
        closed.open = True
        assert await until(client, 200) == "ok\n"
        asked = closed.calls.count("get")
        closed.open = False  # who asks now is told so; no other one could do more
        assert await until(client, 200) == "ok\n"
        assert closed.calls.count("get") == asked
    (told,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert told["event"] == "not ready yet"
    assert "permission denied" in told["cause"]


async def test_not_ready_while_it_is_about_to_end(settings: Settings, store: Store) -> None:
    ready = Readiness()
    async with running(settings, store, ready, io.StringIO()) as client:
        await until(client, 200)
        ready.end()
        assert await until(client, 503) == "it is about to end\n"
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_nothing_else_is_answered_there(settings: Settings, store: Store, path: str) -> None:
    async with running(settings, store, Readiness(), io.StringIO()) as client:
        await until(client, 200)
        assert (await client.head(path)).status_code == 200
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            assert (await client.request(method, path)).status_code == 404
        for other in (path + "/", path + "/x", "/apisix/admin" + path):
            assert (await client.get(other)).status_code == 403
