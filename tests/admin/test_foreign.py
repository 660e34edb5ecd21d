"""The collections of APISIX's HTTP side: tools that read all of them go on, and a write says why it cannot be."""

import pytest

from admin.foreign import COLLECTIONS
from tests.admin.gateway import NOT_FOUND, Gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", COLLECTIONS)
async def test_an_http_collection(gateway: Gateway, name: str) -> None:
    for query in ("", "/", "?page=1&page_size=10", "?label=x", "?name=("):
        assert await gateway.ask("GET", f"/{name}{query}") == (200, {"list": [], "total": 0})
    for method in ("GET", "DELETE"):
        for path in ("1", "vault/1"):
            assert await gateway.ask(method, f"/{name}/{path}") == NOT_FOUND
    for method, path in (("POST", ""), ("PUT", ""), ("PUT", "/1"), ("PATCH", "/1"), ("DELETE", "")):
        why = await gateway.refusal(method, f"/{name}{path}", {"uri": "/"})
        assert why.startswith(f"{name} belong to APISIX's HTTP side, which this gateway has not: ")
    assert await gateway.keys() == []
    assert (await gateway.send("HEAD", f"/{name}")).status_code == 200
