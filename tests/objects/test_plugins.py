"""The configuration of the plugins that are enforced, at the edges of its limits, in the objects that have plugins."""

from typing import Any

import pytest

from sniproxy.objects import IpRestriction, LimitConn, read_plugin
from tests.objects.reading import (
    ACCEPTED,
    BOTH,
    EMPTY,
    NO_ENUM,
    NONE_OF,
    ONE_OF,
    at_least,
    longer,
    shorter,
    verdict,
    within,
    wrong,
)

RESTRICTION: dict[str, Any] = {"whitelist": ["192.0.2.1"]}
LIMIT_CONN: dict[str, Any] = {
    "conn": 1,
    "burst": 0,
    "default_conn_delay": 0.1,
    "key": "remote_addr",
}
NO_NETWORK = NONE_OF + "expected an IPv4 or IPv6 address, or a network in CIDR form"
NEEDS_ONE = "needs exactly one of whitelist and blacklist"
ONE_LIST = ONE_OF + NEEDS_ONE
TOO_SMALL = "expected {} to be greater than 0"
NO_VARIABLE = "key: names no variable, such as $remote_addr"
DISABLED = {"_meta": {"disable": True}}


def unknown(name: str) -> str:
    """The message for a variable that no session has."""
    known = "remote_addr, server_addr, server_port, ssl_preread_server_name, ssl_server_name"
    return f"key: unknown variable {name!r}; known are {known}"


def required(name: str) -> str:
    """The message for a member that is missing."""
    return f'property "{name}" is required'


def refused(name: str, text: str) -> str:
    """The message of an object whose plugin is refused for that."""
    if text == ACCEPTED:
        return ACCEPTED
    return f"failed to check the configuration of stream plugin [{name}]: {text}"


def without(conf: dict[str, Any], name: str) -> dict[str, Any]:
    """All members but one."""
    return {key: value for key, value in conf.items() if key != name}


@pytest.mark.parametrize("collection", ["services", "stream_routes"])
@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({"whitelist": ["192.0.2.1"]}, ACCEPTED),
        ({"blacklist": ["192.0.2.0/24"]}, ACCEPTED),
        ({"whitelist": ["192.0.2.77/24", "2001:db8::1", "::/0", "::ffff:10.0.0.0/104"]}, ACCEPTED),
        ({"whitelist": ["192.0.2.1"] * 1000}, ACCEPTED),
        ({}, ONE_LIST),
        ({"message": "no"}, ONE_LIST),
        ({"whitelist": ["192.0.2.1"], "blacklist": ["192.0.2.2"]}, BOTH + NEEDS_ONE),
        ({"whitelist": ["192.0.2.1"], "blacklist": None}, ACCEPTED),
        ({"whitelist": None, "blacklist": None}, ONE_LIST),
        ({"whitelist": []}, within("whitelist", text=EMPTY)),
        ({"blacklist": []}, within("blacklist", text=EMPTY)),
        ({"whitelist": "192.0.2.1"}, within("whitelist", text=wrong("array", "string"))),
        ({"blacklist": {}}, within("blacklist", text=wrong("array", "table"))),
        ({"whitelist": ["192.0.2.1", 5]}, within("whitelist", 2, text=wrong("string", "number"))),
        ({"whitelist": [""]}, within("whitelist", 1, text=NO_NETWORK)),
        ({"whitelist": ["192.0.2.1", "192.0.2"]}, within("whitelist", 2, text=NO_NETWORK)),
        ({"blacklist": ["192.0.2.0/33"]}, within("blacklist", 1, text=NO_NETWORK)),
        ({"blacklist": ["play.example.com"]}, within("blacklist", 1, text=NO_NETWORK)),
        ({"blacklist": ["*"]}, within("blacklist", 1, text=NO_NETWORK)),
        (RESTRICTION | {"message": "m"}, ACCEPTED),
        (RESTRICTION | {"message": "m" * 1024}, ACCEPTED),
        (RESTRICTION | {"message": None}, ACCEPTED),
        (RESTRICTION | {"message": ""}, within("message", text=longer(1))),
        (RESTRICTION | {"message": "m" * 1025}, within("message", text=shorter(1024, 1025))),
        (RESTRICTION | {"message": 403}, within("message", text=wrong("string", "number"))),
        (RESTRICTION | {"response_code": 404, "_meta": {"priority": 1}, "x": None}, ACCEPTED),
        (RESTRICTION | {"_meta": {"disable": False}}, ACCEPTED),
        ({"_meta": {"disable": False}}, ONE_LIST),
        ({"_meta": {"disable": "true"}}, ONE_LIST),
        ({"_meta": {"disable": 1}}, ONE_LIST),
        (None, wrong("object", "userdata")),
        ([], wrong("object", "table")),
        ("192.0.2.1", wrong("object", "string")),
    ],
)
def test_ip_restriction(collection: str, conf: Any, expected: str) -> None:
    value = {"plugins": {"ip-restriction": conf}}
    assert verdict(collection, value) == refused("ip-restriction", expected)


@pytest.mark.parametrize("collection", ["services", "stream_routes"])
@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, ACCEPTED),
        ({"prefer_name": True}, ACCEPTED),
        ({"prefer_name": False, "_meta": {"priority": 1}}, ACCEPTED),
        ({"prefer_name": 1}, within("prefer_name", text=wrong("boolean", "number"))),
        ({"prefer_name": None}, within("prefer_name", text=wrong("boolean", "userdata"))),
        ([], wrong("object", "table")),
    ],
)
def test_prometheus(collection: str, conf: Any, expected: str) -> None:
    assert verdict(collection, {"plugins": {"prometheus": conf}}) == refused("prometheus", expected)


@pytest.mark.parametrize("name", ["syslog", "mqtt-proxy", "traffic-split"])
def test_other_stream_plugins_of_an_apisix_are_refused(name: str) -> None:
    text = f"unknown plugin [{name}]"
    assert verdict("stream_routes", {"plugins": {name: {}}}) == text


@pytest.mark.parametrize("collection", ["services", "stream_routes"])
@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (LIMIT_CONN, ACCEPTED),
        ({}, required("conn")),
        (without(LIMIT_CONN, "conn"), required("conn")),
        (without(LIMIT_CONN, "burst"), required("burst")),
        (without(LIMIT_CONN, "default_conn_delay"), required("default_conn_delay")),
        (without(LIMIT_CONN, "key"), required("key")),
        (LIMIT_CONN | {"conn": 10**9}, ACCEPTED),
        (LIMIT_CONN | {"conn": 0}, within("conn", text=at_least(1, 0))),
        (LIMIT_CONN | {"conn": -1}, within("conn", text=at_least(1, -1))),
        (LIMIT_CONN | {"conn": 1.0}, within("conn", text=wrong("integer", "number"))),
        (LIMIT_CONN | {"conn": "1"}, within("conn", text=wrong("integer", "string"))),
        (LIMIT_CONN | {"conn": True}, within("conn", text=wrong("integer", "boolean"))),
        (LIMIT_CONN | {"conn": None}, within("conn", text=wrong("integer", "userdata"))),
        (LIMIT_CONN | {"burst": 10**9}, ACCEPTED),
        (LIMIT_CONN | {"burst": -1}, within("burst", text=at_least(0, -1))),
        (LIMIT_CONN | {"burst": 0.5}, within("burst", text=wrong("integer", "number"))),
        (LIMIT_CONN | {"default_conn_delay": 1}, ACCEPTED),
        (LIMIT_CONN | {"default_conn_delay": 1e-9}, ACCEPTED),
        (
            LIMIT_CONN | {"default_conn_delay": 0},
            within("default_conn_delay", text=TOO_SMALL.format(0)),
        ),
        (
            LIMIT_CONN | {"default_conn_delay": -0.1},
            within("default_conn_delay", text=TOO_SMALL.format(-0.1)),
        ),
        (
            LIMIT_CONN | {"default_conn_delay": float("inf")},
            within("default_conn_delay", text="expected a finite number"),
        ),
        (
            LIMIT_CONN | {"default_conn_delay": "0.1"},
            within("default_conn_delay", text=wrong("number", "string")),
        ),
        (
            LIMIT_CONN | {"default_conn_delay": True},
            within("default_conn_delay", text=wrong("number", "boolean")),
        ),
        (LIMIT_CONN | {"only_use_default_delay": True}, ACCEPTED),
        (
            LIMIT_CONN | {"only_use_default_delay": 1},
            within("only_use_default_delay", text=wrong("boolean", "number")),
        ),
        (LIMIT_CONN | {"key_type": "var"}, ACCEPTED),
        (
            LIMIT_CONN | {"key_type": "constant"},
            within("key_type", text=NO_ENUM),
        ),
        (
            LIMIT_CONN | {"rejected_code": 503, "allow_degradation": True, "_meta": {"x": 1}},
            ACCEPTED,
        ),
        (None, wrong("object", "userdata")),
        (5, wrong("object", "number")),
    ],
)
def test_limit_conn(collection: str, conf: Any, expected: str) -> None:
    value = {"plugins": {"limit-conn": conf}}
    assert verdict(collection, value) == refused("limit-conn", expected)


@pytest.mark.parametrize(
    ("key_type", "key", "expected"),
    [
        ("var", "remote_addr", ("remote_addr",)),
        ("var", "server_addr", ("server_addr",)),
        ("var", "server_port", ("server_port",)),
        ("var", "ssl_server_name", ("ssl_server_name",)),
        ("var", "ssl_preread_server_name", ("ssl_preread_server_name",)),
        ("var", "", within("key", text=longer(1))),
        ("var", "$remote_addr", unknown("$remote_addr")),
        ("var", "consumer_name", unknown("consumer_name")),
        ("var", "remote_addr ", unknown("remote_addr ")),
        ("var", "Remote_addr", unknown("Remote_addr")),
        ("var", 5, within("key", text=wrong("string", "number"))),
        ("var_combination", "$remote_addr", ("remote_addr",)),
        ("var_combination", "${remote_addr}", ("remote_addr",)),
        ("var_combination", "$remote_addr$server_port", ("remote_addr", "server_port")),
        ("var_combination", "$server_port $remote_addr", ("server_port", "remote_addr")),
        ("var_combination", "${remote_addr}_${server_port}", ("remote_addr", "server_port")),
        (
            "var_combination",
            "a-${ssl_server_name}x$server_addr.",
            ("ssl_server_name", "server_addr"),
        ),
        ("var_combination", "$remote_addr $remote_addr", ("remote_addr", "remote_addr")),
        ("var_combination", "$$remote_addr$", ("remote_addr",)),
        ("var_combination", "$remote_addr_$server_port", unknown("remote_addr_")),
        ("var_combination", "$remote_addr $http_host", unknown("http_host")),
        ("var_combination", "${host}", unknown("host")),
        ("var_combination", "remote_addr", NO_VARIABLE),
        ("var_combination", "${remote_addr", NO_VARIABLE),
        ("var_combination", "${}", NO_VARIABLE),
        ("var_combination", "$", NO_VARIABLE),
        ("var_combination", "", within("key", text=longer(1))),
    ],
)
def test_variables_of_a_key(key_type: str, key: Any, expected: str | tuple[str, ...]) -> None:
    conf = LIMIT_CONN | {"key_type": key_type, "key": key}
    if isinstance(expected, str):
        said = verdict("stream_routes", {"plugins": {"limit-conn": conf}})
        assert said == refused("limit-conn", expected)
    else:
        plugin = read_plugin("limit-conn", conf)
        assert isinstance(plugin, LimitConn)
        assert plugin.variables == expected


@pytest.mark.parametrize("name", ["ip-restriction", "limit-conn", "mqtt-proxy"])
@pytest.mark.parametrize("conf", [{}, {"conn": "x"}, {"whitelist": [], "message": ""}])
def test_one_that_is_switched_off_is_taken_as_it_is(name: str, conf: dict[str, Any]) -> None:
    assert verdict("stream_routes", {"plugins": {name: conf | DISABLED}}) == ACCEPTED
    assert read_plugin(name, conf | DISABLED) is None


def test_the_first_of_several_that_is_refused_is_named() -> None:
    plugins = {"limit-conn": LIMIT_CONN, "ip-restriction": {}, "mqtt-proxy": {}}
    said = verdict("stream_routes", {"plugins": plugins})
    assert said == refused("ip-restriction", ONE_LIST)


def test_what_a_plugin_leaves_out_has_a_default() -> None:
    plugin = read_plugin("limit-conn", LIMIT_CONN)
    assert isinstance(plugin, LimitConn)
    assert (plugin.key_type, plugin.only_use_default_delay) == ("var", False)
    restriction = read_plugin("ip-restriction", RESTRICTION)
    assert isinstance(restriction, IpRestriction)
    assert (restriction.blacklist, restriction.message) == (None, None)
