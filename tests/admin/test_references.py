"""References through the API: they must exist when written, and hold what they name until they are gone."""

import json
from typing import Any

import pytest

from admin.references import check_references
from sniproxy.errors import ObjectRefused
from tests.admin.gateway import NODES, NOT_FOUND, Gateway, client_ssl, inline_tls, ssl_object

pytestmark = pytest.mark.anyio

UPSTREAM: dict[str, Any] = {"nodes": NODES}


def by_id(ssl_id: str | int) -> dict[str, Any]:
    return {"nodes": NODES, "scheme": "tls", "tls": {"client_cert_id": ssl_id}}


@pytest.mark.parametrize(
    ("path", "value", "missing"),
    [
        ("/services/1", {"upstream_id": "9"}, "upstream"),
        ("/stream_routes/1", {"upstream_id": 9}, "upstream"),
        ("/stream_routes/1", {"service_id": "9"}, "service"),
        ("/stream_routes/1", {"upstream": UPSTREAM, "service_id": 9}, "service"),
        ("/upstreams/1", by_id("9"), "ssl"),
        ("/services/1", {"upstream": by_id(9)}, "ssl"),
        ("/stream_routes/1", {"upstream": by_id("9")}, "ssl"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
async def test_what_is_named_must_exist(
    gateway: Gateway, method: str, path: str, value: dict[str, Any], missing: str
) -> None:
    if method == "PATCH":
        await gateway.put(path, UPSTREAM if path == "/upstreams/1" else {})
    before = await gateway.keys()
    target = path.removesuffix("/1") if method == "POST" else path
    assert await gateway.refusal(method, target, value) == (
        f"failed to fetch {missing} info by {missing} id [9], response code: 404"
    )
    assert await gateway.keys() == before
    # of the right kind, under its id, it is found
    await gateway.put(f"/{missing}s/9", {"service": {}, "ssl": client_ssl()}.get(missing, UPSTREAM))
    assert (await gateway.ask(method, target, value))[0] in (200, 201)


async def test_a_servers_certificate_is_none_for_a_client(gateway: Gateway) -> None:
    await gateway.put("/ssls/9", ssl_object())
    for path, value in (("/upstreams/1", by_id(9)), ("/services/1", {"upstream": by_id("9")})):
        why = await gateway.refusal("PUT", path, value)
        assert why == "failed to fetch ssl info by ssl id [9], wrong ssl type"


@pytest.mark.parametrize(
    ("user", "value", "who"),
    [
        ("/upstreams/2", by_id("1"), "upstream [2]"),
        ("/services/2", {"upstream": by_id(1)}, "service [2]"),
        ("/stream_routes/2", {"upstream": by_id(1)}, "stream route [2]"),
    ],
)
async def test_a_clients_certificate_in_use_does_not_become_a_servers(
    gateway: Gateway, user: str, value: dict[str, Any], who: str
) -> None:
    await gateway.put("/ssls/1", client_ssl())
    await gateway.put(user, value)
    before = await gateway.ask("GET", "/ssls/1")
    for method, change in (
        ("PUT", ssl_object()),
        ("PATCH", {"type": "server", "sni": "play.example.com"}),
        ("PATCH", {"type": None, "sni": "play.example.com"}),
    ):
        assert await gateway.refusal(method, "/ssls/1", change) == (
            f"can not change the type of this ssl, {who} is still using it as client certificate"
        )
    assert await gateway.ask("GET", "/ssls/1") == before
    await gateway.put("/ssls/1", client_ssl(desc="another"))
    assert (await gateway.ask("DELETE", user))[0] == 200
    await gateway.put("/ssls/1", ssl_object())
    # what refers to it all the same, as an APISIX lets it, keeps nobody from renewing it
    await gateway.store.put(gateway.prefix + user, json.dumps(value).encode())
    await gateway.put("/ssls/1", ssl_object(desc="renewed"))


@pytest.mark.parametrize(
    ("used", "user", "value", "why"),
    [
        ("/upstreams/1", "/services/2", {"upstream_id": "1"}, "upstream, service [2]"),
        ("/upstreams/1", "/services/2", {"upstream_id": 1}, "upstream, service [2]"),
        ("/upstreams/1", "/stream_routes/2", {"upstream_id": 1}, "upstream, stream route [2]"),
        ("/services/1", "/stream_routes/2", {"service_id": "1"}, "service, stream route [2]"),
        ("/ssls/1", "/upstreams/2", by_id("1"), "ssl, upstream [2]"),
        ("/ssls/1", "/services/2", {"upstream": by_id(1)}, "ssl, service [2]"),
        ("/ssls/1", "/stream_routes/2", {"upstream": by_id(1)}, "ssl, stream route [2]"),
    ],
)
async def test_what_is_in_use_is_not_deleted(
    gateway: Gateway, used: str, user: str, value: dict[str, Any], why: str
) -> None:
    await gateway.put(used, {"/services/1": {}, "/ssls/1": client_ssl()}.get(used, UPSTREAM))
    await gateway.put(user, value)
    title, _, who = why.partition(", ")
    expected = f"can not delete this {title}, {who} is still using it now"
    for force in ("", "?force", "?force=", "?force=1", "?force=True", "?force=TRUE", "?force=yes"):
        assert await gateway.refusal("DELETE", used + force) == expected
    assert (await gateway.ask("GET", used))[0] == 200
    assert (await gateway.ask("DELETE", used + "?force=true"))[0] == 200
    assert await gateway.ask("GET", used) == NOT_FOUND
    # the one that is left can still be seen, mended and deleted
    assert (await gateway.ask("GET", user))[0] == 200
    assert (await gateway.ask("DELETE", user))[0] == 200


async def test_what_is_not_in_use_any_more_is_deleted(gateway: Gateway) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    await gateway.put("/services/2", {"upstream_id": 1})
    await gateway.put("/services/3", {"upstream_id": 1})
    await gateway.ask("DELETE", "/services/2")
    await gateway.refusal("DELETE", "/upstreams/1")
    assert (await gateway.ask("PATCH", "/services/3", {"upstream_id": None}))[0] == 200
    assert (await gateway.ask("DELETE", "/upstreams/1"))[0] == 200


async def test_only_the_very_id_is_in_use(gateway: Gateway) -> None:
    for name in ("1", "10", "None"):
        await gateway.put(f"/upstreams/{name}", UPSTREAM)
    await gateway.put("/services/2", {"upstream_id": "10"})
    await gateway.put("/services/3", {"upstream": inline_tls()})
    assert (await gateway.ask("DELETE", "/upstreams/1"))[0] == 200
    assert (await gateway.ask("DELETE", "/upstreams/None"))[0] == 200
    assert "service [2]" in await gateway.refusal("DELETE", "/upstreams/10")


@pytest.mark.parametrize("force", ["", "?force=true"])
async def test_what_is_not_there_is_a_404_even_if_somebody_names_it(
    gateway: Gateway, force: str
) -> None:
    await gateway.store.put("/apisix/services/2", b'{"upstream_id": "1"}')
    assert await gateway.ask("DELETE", "/upstreams/1" + force) == NOT_FOUND


# -- the rules by themselves


STORED: dict[tuple[str, str], dict[str, Any]] = {
    ("upstreams", "1"): {"nodes": {}},
    ("services", "1"): {},
    ("ssls", "1"): {"type": "client"},
    ("ssls", "server"): {"type": "server"},
    ("ssls", "default"): {},
}


async def find(collection: str, object_id: str) -> dict[str, Any] | None:
    return STORED.get((collection, object_id))


def tls(ssl_id: Any) -> dict[str, Any]:
    return {"tls": {"client_cert_id": ssl_id}}


@pytest.mark.parametrize(
    "value",
    [
        {}, {"upstream_id": None}, {"upstream_id": "1"}, {"upstream_id": 1}, {"service_id": 1},
        {"upstream_id": "1", "service_id": "1", "upstream": tls("1")},
        tls("1"), tls(1), tls(None), {"tls": {}}, {"upstream": {"tls": None}},
    ],
)  # fmt: skip
async def test_references_that_hold(value: dict[str, Any]) -> None:
    await check_references(value, find)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"upstream_id": "2"}, "failed to fetch upstream info by upstream id [2], response code: 404"),
        ({"upstream_id": 2}, "failed to fetch upstream info by upstream id [2], response code: 404"),
        ({"service_id": "2"}, "failed to fetch service info by service id [2], response code: 404"),
        ({"service_id": "1", "upstream_id": "x"},
         "failed to fetch upstream info by upstream id [x], response code: 404"),
        (tls("2"), "failed to fetch ssl info by ssl id [2], response code: 404"),
        ({"upstream": tls("2")}, "failed to fetch ssl info by ssl id [2], response code: 404"),
        (tls("server"), "failed to fetch ssl info by ssl id [server], wrong ssl type"),
        ({"upstream": tls("default")}, "failed to fetch ssl info by ssl id [default], wrong ssl type"),
    ],
)  # fmt: skip
async def test_references_that_do_not(value: dict[str, Any], why: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        await check_references(value, find)
    assert str(caught.value) == why
