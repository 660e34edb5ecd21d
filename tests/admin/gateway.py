"""The admin API for tests: asked without a network, everything it says kept, over a store that can be made to fail."""

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from starlette.applications import Starlette

from admin.app import create_app
from sniproxy.errors import StoreUnavailable
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.settings import Settings
from sniproxy.store import Batch, Changes, Entry, Listing, Store, Ttl
from tests.support.certificates import authority_pem, pair

T = TypeVar("T")

ADMIN_KEY = "the-key-of-an-administrator"
VIEWER_KEY = "the-key-of-someone-who-reads"
KEYS = (
    {"name": "ops", "key": ADMIN_KEY},
    {"name": "eyes", "key": VIEWER_KEY, "role": "viewer"},
)
SECRET = "c2l4dGVlbiBieXRlcyArIHNpeHRlZW4gYnl0ZXMhISE="
KEYRING = Keyring([SECRET])
NODES = {"10.0.0.5:7777": 1}
NOT_FOUND = (404, {"message": "Key not found"})
BASE = "/apisix/admin"


@dataclass
class Gateway:
    """One API over one store; every answer and log line is kept in `said`."""

    settings: Settings
    store: Store
    log: io.StringIO = field(default_factory=io.StringIO)
    answers: list[str] = field(default_factory=list)
    app: Starlette = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, self.store, KEYRING, open_log("admin", self.log))

    @property
    def prefix(self) -> str:
        return self.settings.where.prefix

    @property
    def said(self) -> str:
        return self.log.getvalue() + "\n".join(self.answers)

    def running(self) -> AbstractAsyncContextManager[object]:
        """What a server does around its requests; at the end the store is closed."""
        return self.app.router.lifespan_context(self.app)

    def client(self, key: str | None = ADMIN_KEY) -> httpx.AsyncClient:
        """What the application raises, the client raises: no test can miss a 500."""
        headers = {} if key is None else {"X-API-KEY": key}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(
            transport=transport, base_url="http://admin" + BASE, headers=headers
        )

    async def send(
        self, method: str, path: str, content: bytes | str = b"", *, key: str | None = ADMIN_KEY
    ) -> httpx.Response:
        """One request with a body as it stands; `path` is under /apisix/admin."""
        async with self.client(key) as client:
            answer = await client.request(method, path, content=content)
        self.answers.append(answer.text)
        assert answer.headers["X-API-VERSION"] == "v3"
        return answer

    async def ask(self, method: str, path: str, value: Any = ...) -> tuple[int, Any]:
        """One request with a JSON body: status code and answer."""
        answer = await self.send(method, path, b"" if value is ... else json.dumps(value))
        return answer.status_code, answer.json()

    async def put(self, path: str, value: Any) -> dict[str, Any]:
        """A write that must succeed: the value as answered."""
        code, body = await self.ask("PUT", path, value)
        assert code in (200, 201), body
        written: dict[str, Any] = body["value"]
        return written

    async def refusal(self, method: str, path: str, value: Any = ...) -> str:
        """A request that must be refused with 400, and why it was."""
        code, body = await self.ask(method, path, value)
        assert code == 400, body
        assert list(body) == ["error_msg"]
        why: str = body["error_msg"]
        return why

    async def keys(self) -> list[str]:
        """Every key in the store; the counter of POST, marks of an APISIX and what other tests wrote left out."""
        entries = (await self.store.list("")).entries
        names = [entry.key for entry in entries]
        return [
            name for name in names if name.startswith("/") and not name.endswith(("/gen_id", "/"))
        ]


class Doubtful:
    """A store in front of a real one. Keeps the contract: StoreUnavailable at the call with the number `fails_at`."""

    def __init__(self, real: Store, fails_at: int = 0) -> None:
        self.real = real
        self.fails_at = fails_at
        self.calls: list[str] = []
        self.before_put: Callable[[str], Awaitable[object]] | None = None

    async def get(self, key: str) -> Entry | None:
        self._count("get")
        return await self.real.get(key)

    async def list(self, prefix: str) -> Listing:
        self._count("list")
        return await self.real.list(prefix)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        self._count("changes")
        return await self.real.changes(prefix, after=after)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        self._count("put")
        if self.before_put is not None:
            await self.before_put(key)
        return await self.real.put(key, value, expect=expect, ttl=ttl)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        self._count("delete")
        return await self.real.delete(key, expect=expect)

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        return self.real.watch(prefix, after=after)

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await self.real.aclose()

    def _count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.fails_at:
            raise StoreUnavailable("http://127.0.0.1:2379: connection refused")


def settings_on(url: str) -> Settings:
    """Settings as a file would give them."""
    return Settings.model_validate(
        {"store": url, "admin": {"keys": KEYS}, "encryption": {"keyring": [SECRET]}}
    )


def ssl_object(name: str = "play.example.com", **members: Any) -> dict[str, Any]:
    """A certificate and its key; members that are None are left out."""
    cert, key = pair(name)
    value = {"cert": cert, "key": key, "snis": [name]} | members
    return {member: content for member, content in value.items() if content is not None}


def client_ssl(**members: Any) -> dict[str, Any]:
    """A certificate that we show to game servers."""
    return ssl_object("client.example.com", snis=None, type="client", **members)


def inline_tls(name: str = "inline.example.com") -> dict[str, Any]:
    """An upstream that holds a client certificate itself."""
    cert, key = pair(name)
    tls = {"client_cert": cert, "client_key": key}
    return {"nodes": NODES, "scheme": "tls", "tls": tls}


def key_lines(*names: str) -> list[str]:
    """The base64 lines of private keys: what must never be seen."""
    lines = [line for name in names for line in pair(name)[1].splitlines()]
    return [line for line in lines if len(line) >= 32 and "-----" not in line]


CA = authority_pem()
