"""What an object's plugins become: rules that are asked, or the refusal to run without them."""

from typing import Any

import pytest

from sniproxy.access import NONE, AddressRule, enable
from sniproxy.networks import parse_address
from sniproxy.objects import IpRestriction, LimitConn

LIMIT_CONN = {"conn": 2, "burst": 1, "default_conn_delay": 0.5, "key": "remote_addr"}
DISABLED = {"_meta": {"disable": True}}


@pytest.mark.parametrize(
    ("conf", "admitted", "refused"),
    [
        ({"whitelist": ["192.0.2.1"]}, "192.0.2.1 ::ffff:192.0.2.1", "192.0.2.2 ::1"),
        ({"blacklist": ["192.0.2.1"]}, "192.0.2.2 ::1", "192.0.2.1 ::ffff:192.0.2.1"),
        ({"whitelist": ["10.0.0.0/8", "2001:db8::/32"]}, "10.9.9.9 2001:db8::1", "11.0.0.1 ::1"),
        ({"blacklist": ["10.0.0.0/8", "2001:db8::/32"]}, "11.0.0.1 ::1", "10.9.9.9 2001:db8::1"),
        ({"whitelist": ["0.0.0.0/0"]}, "192.0.2.1", "2001:db8::1"),
        ({"blacklist": ["0.0.0.0/0"]}, "2001:db8::1", "192.0.2.1"),
        ({"whitelist": ["::/0"]}, "2001:db8::1", "192.0.2.1"),
        ({"blacklist": ["::ffff:10.0.0.0/104"]}, "11.0.0.1", "10.1.2.3"),
        ({"whitelist": ["192.0.2.1"], "blacklist": None}, "192.0.2.1", "192.0.2.2"),
    ],
)
def test_an_address_rule(conf: dict[str, Any], admitted: str, refused: str) -> None:
    rule = AddressRule(IpRestriction.model_validate(conf))
    assert [text for text in admitted.split() if not rule.admits(parse_address(text))] == []
    assert [text for text in refused.split() if rule.admits(parse_address(text))] == []


@pytest.mark.parametrize("plugins", [None, {}])
def test_no_plugins(plugins: dict[str, Any] | None) -> None:
    assert enable(plugins) is NONE
    assert NONE == {}


def test_each_plugin_becomes_what_is_asked_later() -> None:
    enabled = enable({"ip-restriction": {"whitelist": ["192.0.2.1"]}, "limit-conn": LIMIT_CONN})
    assert set(enabled) == {"ip-restriction", "limit-conn"}
    rule = enabled["ip-restriction"]
    assert isinstance(rule, AddressRule)
    assert rule.admits(parse_address("192.0.2.1"))
    assert enabled["limit-conn"] == LimitConn.model_validate(LIMIT_CONN)


def test_a_plugin_that_changes_nothing_is_left_out() -> None:
    assert enable({"prometheus": {"prefer_name": True}}) == NONE
    assert set(enable({"prometheus": {}, "limit-conn": LIMIT_CONN})) == {"limit-conn"}


@pytest.mark.parametrize("name", ["ip-restriction", "limit-conn", "mqtt-proxy"])
def test_a_disabled_plugin_is_named_and_asks_for_nothing(name: str) -> None:
    """Named, as it goes before the same plugin of the service."""
    assert enable({name: DISABLED}) == {name: None}


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ({"mqtt-proxy": {}}, r"unknown plugin \[mqtt-proxy\]"),
        ({"limit-conn": DISABLED, "mqtt-proxy": {}}, r"unknown plugin \[mqtt-proxy\]"),
        (
            {"ip-restriction": {}},
            r"configuration of stream plugin \[ip-restriction\]: value should match only one schema, "
            "but matches none: needs exactly one of",
        ),
        (
            {"limit-conn": LIMIT_CONN | {"conn": 0}},
            r'configuration of stream plugin \[limit-conn\]: property "conn" validation failed',
        ),
    ],
)
def test_one_that_cannot_be_enforced_is_refused(plugins: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enable(plugins)
