"""Nodes that no data plane would connect to are refused when they are written, in whatever way they are spelled."""

from typing import Any

import pytest

from admin.bulk import StoreDestination, read_items
from admin.resources import Resources
from sniproxy.errors import ObjectRefused
from sniproxy.forbidden import Forbidden
from sniproxy.settings import Proxy, Settings
from sniproxy.store import Store
from tests.admin.gateway import KEYRING, Gateway

WHERE = [
    ("PUT", "/upstreams/1", None),
    ("PUT", "/stream_routes/1", "upstream"),
    ("PUT", "/services/1", "upstream"),
]


def within(member: str | None, upstream: dict[str, Any]) -> dict[str, Any]:
    """An object with that upstream."""
    return upstream if member is None else {member: upstream}


@pytest.mark.parametrize(("method", "path", "member"), WHERE)
@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ({"169.254.169.254:80": 1}, "node 169.254.169.254:80 may not be reached: link-local"),
        ({"10.0.0.5:1": 1, "[fe80::1]:80": 0}, "node [fe80::1]:80 may not be reached: link-local"),
        ([{"host": "2852039166", "port": 80, "weight": 1}], "node 2852039166:80 may not be"),
        ({"127.0.0.1:9180": 1}, "node 127.0.0.1:9180 may not be reached: 127.0.0.1:9180 is ours"),
        ({"127.0.0.1:7085": 1}, "node 127.0.0.1:7085 may not be reached: 127.0.0.1:7085 is ours"),
        ({"127.0.0.9:8888": 1}, "node 127.0.0.9:8888 may not be reached: 0.0.0.0:8888 is ours"),
        ({"10.9.0.1": 1}, "node 10.9.0.1 may not be reached: it is in proxy.deny_upstreams"),
    ],
)
async def test_what_is_refused(
    settings: Settings,
    store: Store,
    method: str,
    path: str,
    member: str | None,
    nodes: Any,
    why: str,
) -> None:
    members = settings.model_dump() | {"proxy": {"deny_upstreams": ["10.9.0.0/16"]}}
    gateway = Gateway(Settings.model_validate(members), store)
    value = within(member, {"nodes": nodes})
    assert why in await gateway.refusal(method, path, value)
    assert await gateway.keys() == []
    collection = path.split("/")[1]
    code, body = await gateway.ask("POST", "/configs/validate", {collection: [value | {"id": "1"}]})
    assert (code, why in body["errors"][0]["error"]) == (400, True)


async def test_a_node_that_is_added_later(gateway: Gateway) -> None:
    await gateway.put("/upstreams/1", {"nodes": {"10.0.0.5:7777": 1}})
    await gateway.refusal("PATCH", "/upstreams/1/nodes", {"169.254.169.254:80": 1})
    await gateway.refusal("PATCH", "/upstreams/1", {"nodes": {"169.254.169.254:80": 1}})
    assert (await gateway.ask("GET", "/upstreams/1"))[1]["value"]["nodes"] == {"10.0.0.5:7777": 1}


async def test_what_settings_open(settings: Settings, store: Store) -> None:
    members = settings.model_dump() | {"proxy": {"allow_upstreams": ["169.254.7.0/24"]}}
    gateway = Gateway(Settings.model_validate(members), store)
    await gateway.put("/upstreams/1", {"nodes": {"169.254.7.9:7777": 1}})
    await gateway.refusal("PUT", "/upstreams/2", {"nodes": {"169.254.8.9:7777": 1}})


@pytest.mark.parametrize("nodes", [{"game.example.com:80": 1}, {"localhost:9180": 1}, {}])
async def test_names_are_the_data_planes_to_look_at(gateway: Gateway, nodes: Any) -> None:
    await gateway.put("/upstreams/1", {"nodes": nodes})


def test_apply_refuses_too(store: Store) -> None:
    """As it writes straight into the store."""
    forbidden = Forbidden(Proxy())
    destination = StoreDestination(Resources(store, "/apisix", KEYRING, forbidden=forbidden))
    (item,) = read_items('upstreams: [{id: "1", nodes: {"169.254.169.254:80": 1}}]')
    with pytest.raises(ObjectRefused, match="may not be reached"):
        destination.check(item)
