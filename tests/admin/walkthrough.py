"""The requests of APISIX's documentation that concern what this gateway serves, page by page and in its order.

Names of hosts and ids are ours where they do not matter. Where a page shows what APISIX no longer answers (defaults, say),
it is what APISIX 3.18 answers that stands here. What it has for HTTP routes alone is left out; a page whose plugin or check
is shown on an HTTP route is walked with a stream route.
"""

from dataclasses import dataclass
from typing import Any

from tests.admin.gateway import CA, client_ssl, ssl_object
from tests.support.certificates import pair

# Parts of the API whose requests are asked. A step of another part waits until the part is there.
OFFERED = frozenset({"kinds", "lists", "schemas"})


@dataclass(frozen=True, slots=True)
class Step:
    """One request and what it must answer.

    `path` is under /apisix/admin, with its query. `value`: members of the object in the answer, each exactly. `lacks`:
    members that it has not. `ids`: of the objects in a list, in order. `answer`: the whole body, of what is refused, say.
    """

    method: str
    path: str
    body: Any = ...
    code: int = 200
    value: dict[str, Any] | None = None
    lacks: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None
    total: int | None = None  # of a list; as many as there are ids where it is left out
    answer: Any = ...
    part: str = "kinds"


def put(path: str, body: Any, code: int = 201, **expected: Any) -> Step:
    """A write; what is sent is what is answered, unless other members are expected."""
    return Step("PUT", path, body, code, value=expected or body)


def patch(path: str, body: Any, **members: Any) -> Step:
    """A change and the members that it leaves."""
    return Step("PATCH", path, body, value=members)


def secret(body: dict[str, Any], code: int = 201) -> Step:
    """The ssl with the id 1: its key is not answered as it was sent."""
    shown = {name: value for name, value in body.items() if name not in ("key", "keys")}
    return Step("PUT", "/ssls/1", body, code, value=shown)


def to(*addresses: str) -> dict[str, Any]:
    """An upstream of these nodes."""
    return {"type": "roundrobin", "nodes": dict.fromkeys(addresses, 1)}


def still_used(by: str) -> dict[str, str]:
    """Why an upstream is not deleted."""
    return {"error_msg": f"can not delete this upstream, {by} is still using it now"}


A, B, C = "127.0.0.1:1980", "127.0.0.1:1981", "127.0.0.1:1982"
MORE_CERT, MORE_KEY = pair("test.com", "theirs")
CLIENT_CERT, CLIENT_KEY = pair("client.example.com")
CHECKS = {
    "active": {
        "timeout": 5,
        "http_path": "/status",
        "host": "foo.com",
        "healthy": {"interval": 2, "successes": 1},
        "unhealthy": {"interval": 1, "http_failures": 2},
        "req_headers": ["User-Agent: curl/7.29.0"],
    },
    "passive": {
        "healthy": {"http_statuses": [200, 201], "successes": 3},
        "unhealthy": {"http_statuses": [500], "http_failures": 3, "tcp_failures": 3},
    },
}
FORCE_DELETE = [
    put("/upstreams/1", to(A)),
    put("/stream_routes/1", {"sni": "play.example.com", "upstream_id": 1}),
    Step("DELETE", "/upstreams/1", code=400, answer=still_used("stream route [1]")),
    Step("DELETE", "/upstreams/1?force=anyvalue", code=400, answer=still_used("stream route [1]")),
    Step("DELETE", "/upstreams/1?force=true"),
]
OLDEST = (*"123456789", "10")
LISTS = [
    put("/services/1", {"name": "test-1", "labels": {"env": "prod"}, "upstream": to(A)}),
    Step("GET", "/services/1", value={"id": "1", "name": "test-1"}),
    put("/services/2", {"name": "lobby", "labels": {"prod": "env"}, "upstream": to(A)}),
    Step("GET", "/services", ids=("1", "2")),
    *(
        put(f"/services/{number}", {"name": f"test-{number}", "upstream": to(A)})
        for number in range(3, 12)
    ),
    Step("GET", "/services?page=1&page_size=10", ids=OLDEST, total=11, part="lists"),
    Step("GET", "/services?page=2&page_size=10", ids=("11",), total=11, part="lists"),
    Step("GET", "/services?page=3&page_size=10", ids=(), total=11, part="lists"),
    Step("GET", "/services?page=-1&page_size=10", ids=OLDEST, total=11, part="lists"),
    Step("GET", "/services?page=1&page_size=2", code=400, answer="page_size must be between 10 and 500", part="lists"),
    Step("GET", "/services?name=test-1", ids=("1", "10", "11"), part="lists"),
    Step("GET", "/services?name=test-1&page=1&page_size=10", ids=("1", "10", "11"), part="lists"),
    Step("GET", "/services?label=env", ids=("1",), part="lists"),
    Step("GET", "/services?name=test&label=env", ids=("1",), part="lists"),
    Step("GET", "/services?name=lobby&label=env", ids=(), part="lists"),
    put("/stream_routes/1", {"service_id": "1"}),
    put("/stream_routes/2", {"service_id": "2"}),
    put("/stream_routes/3", {"service_id": 1}),
    Step("GET", "/stream_routes?filter=service_id%3D1", ids=("1", "3"), part="lists"),
    Step("GET", "/routes", ids=(), part="lists"),
    Step("GET", "/routes?filter=service_id%3D1", ids=(), part="lists"),
    Step("GET", "/consumers", ids=(), part="lists"),
]  # fmt: skip
SERVICE = [
    put("/services/201", {"plugins": {}, "enable_websocket": True, "upstream": to(A)}),
    patch("/services/201", {"upstream": {"nodes": {B: 1}}}, upstream=to(A, B), enable_websocket=True),
    patch("/services/201", {"upstream": {"nodes": {B: 10}}}, upstream=to() | {"nodes": {A: 1, B: 10}}),
    patch("/services/201", {"upstream": {"nodes": {A: None}}}, upstream=to() | {"nodes": {B: 10}}),
    patch("/services/201/upstream/nodes", {C: 1}, upstream=to(C), enable_websocket=True),
    Step("GET", "/services/201", value={"upstream": to(C), "plugins": {}}, lacks=("hosts", "script")),
    Step("DELETE", "/services/201"),
    Step("GET", "/services/201", code=404, answer={"message": "Key not found"}),
]  # fmt: skip
UPSTREAM = [
    put("/upstreams/100", to(A)),
    patch("/upstreams/100", {"nodes": {B: 1}}, nodes={A: 1, B: 1}, type="roundrobin"),
    patch("/upstreams/100", {"nodes": {B: 10}}, nodes={A: 1, B: 10}),
    patch("/upstreams/100", {"nodes": {A: None}}, nodes={B: 10}),
    patch("/upstreams/100/nodes", {C: 1}, nodes={C: 1}, type="roundrobin"),
    Step("GET", "/upstreams/100", value={"nodes": {C: 1}}, lacks=("scheme", "hash_on", "pass_host")),
    put(
        "/upstreams/1",
        {
            "id": "1", "retries": 1, "timeout": {"connect": 15, "send": 15, "read": 15},
            "nodes": {"host:80": 100}, "type": "roundrobin", "name": "upstream-for-test",
            "desc": "hello world", "scheme": "http",
        },
    ),
    put(
        "/upstreams/1",
        {
            "nodes": [
                {"host": "127.0.0.1", "port": 1980, "weight": 2000},
                {"host": "127.0.0.1", "port": 1981, "weight": 1, "priority": -1},
            ],
            "checks": {"active": {"http_path": "/status", "unhealthy": {"http_failures": 1}}},
        },
        code=200,
    ),
    Step("POST", "/upstreams", to(A), 201, value=to(A)),
    Step("DELETE", "/upstreams/100"),
    Step("DELETE", "/upstreams/100", code=404, answer={"message": "Key not found"}),
    put("/upstreams/2?ttl=60", to(A)),
]  # fmt: skip
SSL = [
    secret(ssl_object("test.com", id="1", snis=["t.com"], labels={"env": "prod"})),
    Step("GET", "/ssls/1", value={"id": "1", "snis": ["t.com"]}, lacks=("key", "keys", "status", "type")),
    Step("GET", "/ssls", ids=("1",)),
    Step("DELETE", "/ssls/1"),
    Step("POST", "/ssls", ssl_object("test.com"), 201, value={"snis": ["test.com"]}),
]  # fmt: skip
CERTIFICATE = [
    secret(ssl_object("test.com")),
    secret(ssl_object("test.com", snis=["*.test.com"]), 200),
    secret(ssl_object("test.com", snis=["www.test.com", "mail.test.com"]), 200),
    secret(ssl_object("test.com", certs=[MORE_CERT], keys=[MORE_KEY]), 200),
    Step("PUT", "/ssls/1", ssl_object("test.com", certs=[MORE_CERT]), 400,
         answer={"error_msg": "invalid configuration: mismatched number of certs and keys"}),
    Step("GET", "/ssls/1", value={"certs": [MORE_CERT]}, lacks=("key", "keys")),
]  # fmt: skip
SSL_PROTOCOL = [
    secret(ssl_object("test.com", ssl_protocols=["TLSv1.2", "TLSv1.3"])),
    secret(ssl_object("test.com", ssl_protocols=["TLSv1.1"]), 200),
    secret(ssl_object("test2.com"), 200),
    Step("GET", "/ssls/1", value={"snis": ["test2.com"]}, lacks=("ssl_protocols",)),
    secret(ssl_object("test.com", ssl_protocols=["TLSv1.2"]), 200),
    Step("PUT", "/ssls/2", ssl_object("test.com", snis=["test2.com"], ssl_protocols=["TLSv1.3"]),
         201, value={"snis": ["test2.com"], "ssl_protocols": ["TLSv1.3"]}),
]  # fmt: skip
MTLS = [
    secret(ssl_object("test.com", snis=None, sni="test.com", client={"ca": CA})),
    secret(ssl_object("mtls.test.com", client={"ca": CA, "depth": 10}), 200),
    put("/upstreams/testmtls", to(A)),
    patch(
        "/upstreams/testmtls", {"tls": {"client_cert": CLIENT_CERT, "client_key": CLIENT_KEY}}, **to(A)
    ),
    Step("PUT", "/ssls/2", client_ssl(), 201, value={"type": "client"}),
    patch("/upstreams/testmtls/tls", {"client_cert_id": "2"}, tls={"client_cert_id": "2"}),
    Step("GET", "/upstreams/testmtls", value={"tls": {"client_cert_id": "2"}, "nodes": {A: 1}}),
]  # fmt: skip
HEALTH_CHECK = [
    put("/stream_routes/1", {"upstream": to(A, B) | {"retries": 2, "checks": CHECKS}}),
    put("/upstreams/healthycheck", to(A, B) | {"retries": 2, "checks": CHECKS}),
    Step("GET", "/upstreams/healthycheck", value={"checks": CHECKS}),
]
STREAM_PROXY = [
    put("/stream_routes/1", {"remote_addr": "127.0.0.1", "upstream": to("127.0.0.1:1995")}),
    put(
        "/stream_routes/1",
        {"server_addr": "127.0.0.1", "server_port": 2000, "upstream": to("127.0.0.1:1995")},
        code=200,
    ),
    put("/stream_routes/1", {"sni": "a.test.com", "upstream": to("127.0.0.1:5991")}, code=200),
    Step("GET", "/stream_routes/1", value={"sni": "a.test.com"}, lacks=("server_port", "remote_addr")),
    put("/stream_routes/1", {"upstream": to("127.0.0.1:1995") | {"scheme": "tls"}}, code=200),
    Step("POST", "/stream_routes", {"sni": "b.test.com", "upstream": to(A)}, 201,
         value={"sni": "b.test.com"}),
    Step("DELETE", "/stream_routes/1"),
]  # fmt: skip
IP_RESTRICTION = [
    *(
        put("/stream_routes/1", {"plugins": {"ip-restriction": conf}, "upstream": to(A)}, code)
        for code, conf in (
            (201, {"whitelist": ["127.0.0.1", "113.74.26.106/24"]}),
            (200, {"whitelist": ["127.0.0.1"], "message": "Do you want to do something bad?"}),
            (200, {"whitelist": ["127.0.0.2", "113.74.26.106/24"]}),
            (200, {"blacklist": ["127.0.0.0/24"]}),
        )
    ),
    put("/stream_routes/1", {"plugins": {}, "upstream": to(A)}, 200),
]
LIMIT = {"conn": 2, "burst": 1, "default_conn_delay": 0.1}
LIMIT_CONN = [
    *(
        Step("PUT", "/stream_routes", {"id": "limit-conn-route", "plugins": plugins, "upstream": to(A)},
             code, value={"id": "limit-conn-route", "plugins": plugins})
        for code, plugins in (
            (201, {"limit-conn": LIMIT | {
                "key_type": "var", "key": "remote_addr", "policy": "local", "rejected_code": 429}}),
            (200, {"limit-conn": LIMIT | {
                "key_type": "var_combination", "key": "$remote_addr $server_addr"}}),
        )
    ),
    patch("/stream_routes/limit-conn-route/plugins", {}, plugins={}),
]  # fmt: skip
SCHEMA_VALIDATION = [
    Step("POST", "/schema/validate/stream_routes", {"server_port": 1980, "upstream": to("nghttp2.org")},
         answer="", part="schemas"),
    Step("POST", "/schema/validate/stream_routes", {"sni": 1980, "upstream": to("nghttp2.org")}, 400,
         answer={"error_msg": 'property "sni" validation failed: wrong type: expected string, got number'},
         part="schemas"),
    Step("GET", "/stream_routes", ids=()),
]  # fmt: skip

PAGES: dict[str, list[Step]] = {
    "admin API: force delete": FORCE_DELETE,
    "admin API: lists": LISTS,
    "admin API: service": SERVICE,
    "admin API: upstream": UPSTREAM,
    "admin API: SSL": SSL,
    "admin API: schema validation": SCHEMA_VALIDATION,
    "certificate": CERTIFICATE,
    "SSL protocol": SSL_PROTOCOL,
    "mTLS": MTLS,
    "health check": HEALTH_CHECK,
    "stream proxy": STREAM_PROXY,
    "ip-restriction": IP_RESTRICTION,
    "limit-conn": LIMIT_CONN,
}
