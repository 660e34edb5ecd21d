"""Who may ask by address: the connection's, whatever the headers say."""

import httpx
import pytest

from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import ADMIN_KEY, BASE, Gateway

HEADERS = {"X-API-KEY": ADMIN_KEY, "X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}


async def ask(
    settings: Settings, store: Store, allow: list[str], host: str, method: str, path: str
) -> httpx.Response:
    """One request from that address, where those are allowed."""
    members = settings.model_dump()
    members["admin"]["allow"] = allow
    gateway = Gateway(Settings.model_validate(members), store)
    transport = httpx.ASGITransport(gateway.app, client=(host, 40000))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://admin", headers=HEADERS
    ) as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("allow", "host", "code"),
    [
        ([], "192.0.2.7", 200),
        (["192.0.2.7"], "192.0.2.7", 200),
        (["192.0.2.7"], "192.0.2.8", 403),
        (["10.0.0.0/8"], "192.0.2.7", 403),
        (["10.0.0.0/8", "192.0.2.0/24"], "192.0.2.7", 200),
        (["10.0.0.0/8"], "::ffff:10.9.8.7", 200),
        (["10.0.0.0/8"], "::1", 403),
        (["fd00::/8"], "fd00::1", 200),
        (["fd00::/8"], "fe80::1%eth0", 403),
        (["0.0.0.0/0"], "::1", 403),
        (["::/0", "0.0.0.0/0"], "::1", 200),
    ],
)
async def test_from_where(
    settings: Settings, store: Store, allow: list[str], host: str, code: int
) -> None:
    answer = await ask(settings, store, allow, host, "GET", BASE + "/ssls")
    assert answer.status_code == code
    if code == 403:
        assert answer.json() == {"error_msg": f"{host} is not in admin.allow"}
        assert answer.headers["x-api-version"] == "v3"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "PUT"])
@pytest.mark.parametrize("path", [BASE, BASE + "/ssls/1", "/elsewhere"])
async def test_nobody_else_gets_any_answer(
    settings: Settings, store: Store, method: str, path: str
) -> None:
    answer = await ask(settings, store, ["10.0.0.0/8"], "192.0.2.7", method, path)
    assert answer.status_code == 403
