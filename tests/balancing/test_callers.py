"""The key that is hashed: variables, combinations, and what stands for them where they have no value."""

from typing import Any

import pytest

from sniproxy.balancing import Caller
from sniproxy.balancing.callers import key_of

CALLER = Caller(("192.0.2.7", 4242), ("198.51.100.1", 443), "gs-1.example")
NAMELESS = Caller(("192.0.2.7", 4242), ("198.51.100.1", 443), None)
ADDRESS = "192.0.2.7"


@pytest.mark.parametrize(
    ("hash_on", "key", "expected"),
    [
        ("vars", "remote_addr", ADDRESS),
        ("vars", "remote_port", "4242"),
        ("vars", "server_addr", "198.51.100.1"),
        ("vars", "server_port", "443"),
        ("vars", "server_name", "gs-1.example"),
        ("vars", "ssl_server_name", "gs-1.example"),
        ("vars", "ssl_preread_server_name", "gs-1.example"),
        # What has no value is the address, as in APISIX.
        ("vars", "uri", ADDRESS),
        ("vars", "mqtt_client_id", ADDRESS),
        ("vars", "", ADDRESS),
        ("vars", None, ADDRESS),
        ("vars", "$remote_port", ADDRESS),
        ("header", "remote_port", ADDRESS),
        ("cookie", "remote_port", ADDRESS),
        ("consumer", None, ADDRESS),
        ("vars_combinations", "$remote_addr$server_name", "192.0.2.7gs-1.example"),
        ("vars_combinations", "${remote_addr}_${ server_port }", "192.0.2.7_443"),
        ("vars_combinations", "100%$remote_port%s", "100%4242%s"),
        ("vars_combinations", "$uri:$remote_port", ":4242"),
        ("vars_combinations", "${uri ?? none}:$remote_port", "none:4242"),
        ("vars_combinations", "${uri ?? 5%}", "5%"),
        ("vars_combinations", "${ remote_port  }${}${${ remote_port", "4242${}${${ remote_port"),
        ("vars_combinations", "$uri$host", ADDRESS),
        ("vars_combinations", "remote_port", ADDRESS),
        ("vars_combinations", "\\$remote_port", ADDRESS),
        ("vars_combinations", "", ADDRESS),
        ("vars_combinations", None, ADDRESS),
    ],
)
def test_the_key(hash_on: str, key: str | None, expected: str) -> None:
    assert key_of(hash_on, key)(CALLER) == expected


@pytest.mark.parametrize(
    ("hash_on", "key", "expected"),
    [
        ("vars", "server_name", ADDRESS),
        ("vars_combinations", "$remote_port$server_name", "4242"),
        ("vars_combinations", "$server_name", ADDRESS),
        ("vars_combinations", "${server_name ?? nobody}", "nobody"),
    ],
)
def test_who_gave_no_name(hash_on: str, key: str, expected: str) -> None:
    assert key_of(hash_on, key)(NAMELESS) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("2001:db8::7", 1, 0, 0), "2001:db8::7"),
        (("::ffff:192.0.2.7", 1, 0, 0), ADDRESS),  # came by a socket of both families
        (("fe80::7%eth0", 1, 0, 3), "fe80::7"),
    ],
)
def test_an_address_is_the_same_however_it_came(address: Any, expected: str) -> None:
    caller = Caller(address, address, None)
    assert key_of("vars", "remote_addr")(caller) == expected
    assert key_of("vars", "server_addr")(caller) == expected


@pytest.mark.parametrize("part", ["${ ", "$", "${", " ", "${a ??", "{", "$a."])
def test_a_long_key_is_read_in_a_time_that_grows_as_it_does(part: str) -> None:
    """Whoever reads an object serves players: with a way back for each blank, this one would take for ever."""
    key = "${" + part * 40_000
    assert key_of("vars_combinations", key)(CALLER)
