"""`?detail=true`: what a certificate says, how long it is good for, and which routes use it."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from admin.catalog import Collection, Item
from admin.details import Users
from admin.rules import encode
from sniproxy.store import Entry
from tests.admin.gateway import NODES, Gateway, client_ssl, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

UPSTREAM: dict[str, Any] = {"upstream": {"nodes": NODES}}


def item(object_id: str, value: dict[str, Any]) -> Item:
    return Item.of(object_id, Entry(f"/apisix/x/{object_id}", encode(value), 1, 1), value)


async def test_what_a_certificate_says(gateway: Gateway) -> None:
    name = "play.example.com"
    await gateway.put("/ssls/1", ssl_object(name))
    await gateway.put("/stream_routes/r", UPSTREAM | {"sni": name})
    _, plain = await gateway.ask("GET", "/ssls/1")
    _, body = await gateway.ask("GET", "/ssls/1?detail=true")
    detail = body.pop("detail")
    assert body == plain  # APISIX's shape stays as it is
    leaf = x509.load_pem_x509_certificates(pair(name)[0].encode())[0]
    (told,) = detail["certificates"]
    ends = datetime.fromisoformat(told["not_after"])
    assert ends == leaf.not_valid_after_utc.replace(microsecond=0)
    assert datetime.fromisoformat(told["not_before"]) < datetime.now(UTC)
    assert told["days_left"] == (ends - datetime.now(UTC)).days
    assert told["names"] == [name]
    assert told["issuer"] == leaf.issuer.rfc4514_string()
    assert told["subject"] == leaf.subject.rfc4514_string()
    assert int(told["serial"], 16) == leaf.serial_number
    assert len(told["fingerprint"].split(":")) == 32
    assert detail["stream_routes"] == ["r"]
    _, listed = await gateway.ask("GET", "/ssls?detail=true&page=1&page_size=10")
    assert listed["list"][0]["detail"] == detail


async def test_a_collection_is_gone_through_in_one_thread(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another one than it changes in, a list of before a change could be kept as the one of after it."""
    await gateway.put("/ssls/1", ssl_object())
    real, threads = Collection.items, set()

    def items(self: Collection) -> list[Item]:
        threads.add(threading.get_ident())
        return real(self)

    monkeypatch.setattr(Collection, "items", items)
    for path in ("/ssls?detail=true", "/ssls/1?detail=true"):
        assert (await gateway.ask("GET", path))[0] == 200
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("query", ["", "?detail", "?detail=", "?detail=1", "?detail=false"])
async def test_only_who_asks_is_told(gateway: Gateway, query: str) -> None:
    await gateway.put("/ssls/1", ssl_object())
    _, body = await gateway.ask("GET", "/ssls" + query)
    assert "detail" not in body["list"][0]


async def test_several_certificates_and_what_is_none(gateway: Gateway) -> None:
    first, second = pair("a.example.com"), pair("b.example.com")
    value = ssl_object("a.example.com", certs=[second[0]], keys=[second[1]])
    await gateway.put("/ssls/1", value | {"cert": first[0]})
    await gateway.store.put(
        "/apisix/ssls/2",
        encode({"id": "2", "sni": "x", "cert": "-----BEGIN nothing", "certs": "none"}),
    )
    await gateway.store.put(
        "/apisix/ssls/3", encode({"id": "3", "sni": "x", "cert": "$env://CERT", "certs": [1]})
    )
    _, body = await gateway.ask("GET", "/ssls?detail=true")
    told = [one["detail"]["certificates"] for one in body["list"]]
    assert [one["names"] for one in told[0]] == [["a.example.com"], ["b.example.com"]]
    assert told[1] == [{"broken": "the certificate is not PEM that can be read"}]
    assert told[2] == [{"reference": "$env://CERT"}]


async def test_other_kinds_have_no_detail(gateway: Gateway) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    _, body = await gateway.ask("GET", "/upstreams?detail=true")
    assert "detail" not in body["list"][0]


EXACT = {"sni": "a.x.com"}
WILD = {"sni": "*.x.com"}
ALL = {"sni": "*"}
ASKS = {"client": {"ca": "..."}}


@pytest.mark.parametrize(
    ("ssls", "route", "expected"),
    [
        ([EXACT, WILD, ALL], {"sni": "a.x.com"}, "0"),
        ([EXACT, WILD, ALL], {"sni": "A.X.com."}, "0"),
        ([{"snis": ["A.x.COM", "c.com"]}], {"sni": "a.x.com"}, "0"),
        ([EXACT, WILD, ALL], {"sni": "b.x.com"}, "1"),
        ([EXACT, WILD, ALL], {"sni": "c.b.x.com"}, "2"),
        ([EXACT, WILD, ALL], {"sni": "*.x.com"}, "01"),
        ([EXACT, ALL], {"sni": "*.y.com"}, "1"),
        ([EXACT, EXACT], {"sni": "a.x.com"}, "01"),
        ([EXACT, WILD, ALL], {"snis": ["a.x.com", "z.com"]}, "02"),
        ([EXACT], {"sni": "other.com"}, ""),
        ([EXACT, ALL], {}, ""),
        ([EXACT], {"sni": "a.x.com", "tls_passthrough": True}, ""),
        ([EXACT | {"status": 0}, WILD], {"sni": "a.x.com"}, "1"),
        ([EXACT | {"type": "client"}, WILD], {"sni": "a.x.com"}, "1"),
        ([EXACT], {"sni": 7}, ""),
        ([EXACT], {"snis": "a.x.com"}, ""),
        ([{"snis": [1, None]}], {"sni": "a.x.com"}, ""),
        ([EXACT | {"snis": None}, WILD], {"sni": "a.x.com", "snis": None}, "0"),
        ([{"snis": ["a.x.com"], "sni": None}], {"sni": "a.x.com"}, "0"),
        ([WILD | ASKS, ALL], {"sni": "c.b.x.com"}, ""),
        ([WILD | ASKS, ALL], {"sni": "*.b.x.com"}, ""),
        ([WILD | ASKS, ALL], {"sni": "b.x.com"}, "0"),
        ([WILD | ASKS, ALL], {"sni": "*.x.com"}, "0"),
        ([WILD | ASKS, ALL], {"sni": "b.y.com"}, "1"),
        ([EXACT | ASKS, ALL], {"sni": "b.a.x.com"}, "1"),
        ([WILD | ASKS, WILD | {"update_time": 2}, ALL], {"sni": "c.b.x.com"}, "2"),
        (
            [WILD | ASKS | {"update_time": 3}, WILD | {"update_time": 2}, ALL],
            {"sni": "c.b.x.com"},
            "",
        ),
    ],
)
def test_which_routes_use_it(
    ssls: list[dict[str, Any]], route: dict[str, Any], expected: str
) -> None:
    items = [item(str(number), value) for number, value in enumerate(ssls)]
    users = Users(items, [item("r", route)])
    assert [one.object_id for one in items if users.of(one)] == list(expected)
    assert all(users.of(one) in ([], ["r"]) for one in items)


async def test_details_hold_no_key(gateway: Gateway) -> None:
    await gateway.put("/ssls/1", ssl_object())
    await gateway.put("/ssls/2", client_ssl())
    before = len(gateway.answers)
    _, body = await gateway.ask("GET", "/ssls?detail=true")
    assert len(body["list"]) == 2
    said = "".join(gateway.answers[before:])
    assert "PRIVATE" not in said
    assert "aes256gcm" not in said
