"""Where nobody is connected to: by network, by what is ours, by the spellings that a resolver knows; and what opens it."""

import socket
from ipaddress import ip_address

import pytest

from sniproxy.forbidden import Forbidden, is_local, own_addresses
from sniproxy.networks import IpAddress, parse_address
from sniproxy.settings import Listener, Proxy, Settings

OURS = {"192.0.2.10", "2001:db8::10", "127.0.0.1", "::1"}  # addresses of this machine


def local(address: IpAddress) -> bool:
    """As `is_local`, of a machine with these."""
    return str(address) in OURS


def forbidden(*listeners: str, own: tuple[str, ...] = (), **settings: object) -> Forbidden:
    """By these settings."""
    listening = tuple(Listener(address=one) for one in listeners)
    proxy = Proxy.model_validate({"listeners": listening, **settings})
    return Forbidden(proxy, own, local)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("169.254.169.254", False),  # AWS, Azure, Google
        ("169.254.170.2", False),  # credentials of an ECS task
        ("::ffff:169.254.169.254", False),
        ("fe80::1", False),
        ("febf:ffff::1", False),
        ("fec0::1", True),
        ("fd00:ec2::254", False),  # AWS by IPv6
        ("fd00:ec2::23", False),  # of pods
        ("fd00:ec2::253", True),
        ("fd20:ce::254", False),  # Google by IPv6
        ("100.100.100.200", False),  # Alibaba
        ("100.100.100.201", True),
        ("0.0.0.0", False),  # the kernel's loopback
        ("0.1.2.3", False),
        ("::", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("ff02::1", False),
        ("10.0.0.5", True),
        ("127.0.0.1", True),  # until it is denied: on a laptop games are there
        ("::1", True),
        ("203.0.113.9", True),
        ("2001:db8::9", True),
        ("64:ff9b::169.254.169.254", False),  # by NAT64
        ("64:ff9b:1::169.254.169.254", False),
        ("64:ff9b:1:fffe::169.254.169.254", False),
        ("::ffff:0:169.254.169.254", False),  # by SIIT
        ("::169.254.169.254", False),  # IPv4-compatible
        ("2002:a9fe:a9fe::1", False),  # by 6to4
        ("64:ff9b::203.0.113.9", True),
        ("64:ff9c::169.254.169.254", True),
        ("2002:cb00:7109::1", True),
    ],
)
def test_what_is_never_a_game_server(address: str, allowed: bool) -> None:
    assert (forbidden().why(parse_address(address), 7777) is None) is allowed


@pytest.mark.parametrize(
    ("deny", "allow", "address", "why"),
    [
        (["10.0.0.0/8"], [], "10.1.2.3", "it is in proxy.deny_upstreams"),
        (["10.0.0.0/8"], [], "::ffff:10.1.2.3", "it is in proxy.deny_upstreams"),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", None),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.2.2.3", "it is in proxy.deny_upstreams"),
        (["127.0.0.0/8", "::1/128"], [], "::1", "it is in proxy.deny_upstreams"),
        (["0.0.0.0/0"], [], "::1", None),
        (["10.0.0.0/8"], [], "64:ff9b::10.1.2.3", "it is in proxy.deny_upstreams"),
        (["10.0.0.0/8"], [], "2002:a01:203::9", "it is in proxy.deny_upstreams"),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "64:ff9b::10.1.2.3", None),
        (["10.0.0.0/8"], ["64:ff9b::/96"], "64:ff9b::10.1.2.3", None),
        (["64:ff9b::/96"], ["10.0.0.0/8"], "64:ff9b::10.1.2.3", "it is in proxy.deny_upstreams"),
        ([], ["169.254.7.0/24"], "169.254.7.1", None),
        (["169.254.7.0/24"], ["169.254.7.0/24"], "169.254.7.1", None),
    ],
)
def test_what_settings_deny_and_open(
    deny: list[str], allow: list[str], address: str, why: str | None
) -> None:
    found = forbidden(deny_upstreams=deny, allow_upstreams=allow)
    assert found.why(parse_address(address), 7777) == why


@pytest.mark.parametrize(
    ("listener", "address", "port", "ours"),
    [
        ("0.0.0.0:443", "127.0.0.1", 443, True),
        ("0.0.0.0:443", "192.0.2.10", 443, True),
        ("0.0.0.0:443", "192.0.2.11", 443, False),  # another machine
        ("0.0.0.0:443", "192.0.2.10", 444, False),
        ("0.0.0.0:443", "::1", 443, True),
        ("[::]:443", "192.0.2.10", 443, True),
        ("192.0.2.10:443", "192.0.2.10", 443, True),
        ("192.0.2.10:443", "::ffff:192.0.2.10", 443, True),
        ("192.0.2.10:443", "127.0.0.1", 443, False),  # a game server may listen there
        ("127.0.0.1:443", "127.0.0.1", 443, True),
        ("192.0.2.10:443", "64:ff9b::192.0.2.10", 443, True),
        ("127.0.0.1:0", "127.0.0.1", 0, False),
    ],
)
def test_our_own_ports_are_never_open(listener: str, address: str, port: int, ours: bool) -> None:
    everything = ["0.0.0.0/0", "::/0"]
    for found in (
        forbidden(listener, allow_upstreams=everything),
        forbidden(own=(listener,), allow_upstreams=everything),
    ):
        why = found.why(parse_address(address), port)
        assert why == (f"{listener} is ours" if ours else None)


@pytest.mark.parametrize(
    ("address", "port", "ours"),
    [
        ("127.0.0.1", 2379, True),
        ("::1", 2379, True),
        ("127.0.0.1", 7085, True),
        ("127.0.0.1", 2380, False),
        ("127.0.0.2", 2379, False),
        ("192.0.2.10", 2379, False),
    ],
)
def test_what_we_have_by_the_name_of_this_machine(address: str, port: int, ours: bool) -> None:
    found = forbidden(own=("localhost:2379", "LocalHost:7085"))
    assert (found.why(parse_address(address), port) is not None) is ours


@pytest.mark.parametrize(
    ("host", "port", "refused"),
    [
        ("169.254.169.254", 80, True),
        ("[fe80::1]", 80, True),
        ("fe80::1", 80, True),
        ("2852039166", 80, True),  # 169.254.169.254 as one number
        ("0xA9FEA9FE", 80, True),
        ("0xa9.0xfe.0xa9.0xfe", 80, True),
        ("0251.0376.0251.0376", 80, True),
        ("169.254.43518", 80, True),
        ("127.1", 7085, True),  # the status port
        ("127.1", 7086, False),
        ("10.0.0.5", 80, False),
        ("10.0.0.5", None, False),
        ("game.example.com", 80, False),
        ("metadata.google.internal", 80, False),  # only who looks it up can tell
        ("etcd.games.svc", 2379, True),
        ("ETCD.games.svc.", 2379, True),
        ("etcd.games.svc", 2380, False),
        ("localhost", 7085, False),
    ],
)
def test_a_host_as_an_object_names_it(host: str, port: int | None, refused: bool) -> None:
    found = forbidden(own=("127.0.0.1:7085", "etcd.games.svc:2379"))
    assert (found.why_named(host, port) is not None) is refused


def test_what_is_ours() -> None:
    members = {
        "store": "etcd://10.0.0.1:2379,etcd-1.games:2379/apisix",
        "admin": {"address": "10.0.0.2:9180"},
        "status": {"address": "127.0.0.1:7085"},
    }
    assert own_addresses(Settings.model_validate(members)) == [
        "127.0.0.1:7085",
        "10.0.0.2:9180",
        "10.0.0.1:2379",
        "etcd-1.games:2379",
    ]
    assert len(own_addresses(Settings.model_validate({"store": "sqlite:///x/y.db"}))) == 2


@pytest.mark.parametrize(
    ("address", "ours"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.77", False)],
)
def test_addresses_of_this_machine(address: str, ours: bool) -> None:
    assert is_local(ip_address(address)) is ours


def test_an_address_of_this_machine_that_is_no_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        assert is_local(ip_address(sock.getsockname()[0]))
