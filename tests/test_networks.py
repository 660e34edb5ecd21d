"""Addresses and networks as texts, and sets of networks that must answer as each of their networks does."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sniproxy.networks import IpAddress, Network, Networks, parse_address, parse_network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", IPv4Address("192.0.2.1")),
        ("0.0.0.0", IPv4Address("0.0.0.0")),
        ("2001:DB8::0:1", IPv6Address("2001:db8::1")),
        ("::", IPv6Address("::")),
        ("::ffff:192.0.2.1", IPv4Address("192.0.2.1")),
        ("::ffff:c000:201", IPv4Address("192.0.2.1")),
        ("::192.0.2.1", IPv6Address("::c000:201")),  # compatible, not mapped
        ("64:ff9b::192.0.2.1", IPv6Address("64:ff9b::c000:201")),
        ("fe80::1%eth0", IPv6Address("fe80::1")),
        ("fe80::1%2", IPv6Address("fe80::1")),
        ("::ffff:192.0.2.1%eth0", IPv4Address("192.0.2.1")),
    ],
)
def test_an_address(text: str, expected: IpAddress) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "%eth0", "localhost", "192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1/32"),
        *("[::1]", "::1::", " 192.0.2.1", "192.0.2.1\n", "192.0.2.1:80", "12345::", "¹.2.3.4"),
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", IPv4Network("192.0.2.1/32")),
        ("192.0.2.77/24", IPv4Network("192.0.2.0/24")),
        ("192.0.2.77/255.255.255.0", IPv4Network("192.0.2.0/24")),
        ("0.0.0.0/0", IPv4Network("0.0.0.0/0")),
        ("255.255.255.255/0", IPv4Network("0.0.0.0/0")),
        ("2001:db8::1", IPv6Network("2001:db8::1/128")),
        ("2001:db8::1/32", IPv6Network("2001:db8::/32")),
        ("::/0", IPv6Network("::/0")),
        ("::ffff:10.0.0.0/104", IPv4Network("10.0.0.0/8")),
        ("::ffff:10.9.8.7/104", IPv4Network("10.0.0.0/8")),
        ("::ffff:192.0.2.1", IPv4Network("192.0.2.1/32")),
        ("::ffff:0:0/96", IPv4Network("0.0.0.0/0")),
        ("::ffff:0:0/95", IPv6Network("::fffe:0:0/95")),  # wider than all of IPv4
        ("::192.0.2.0/120", IPv6Network("::c000:200/120")),
    ],
)
def test_a_network(text: str, expected: Network) -> None:
    assert parse_network(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8/8", "::/129"),
        *("10/8", "10.0.0.0/255.0.255.0", "play.example.com", " 10.0.0.0/8", "10.0.0.0 /8"),
        *("::ffff:1.2.3/96", "::ffff:1.2.3.4/129"),
    ],
)
def test_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        parse_network(text)
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        Networks(["10.0.0.0/8", text])


@pytest.mark.parametrize(
    ("texts", "inside", "outside"),
    [
        ((), "", "0.0.0.0 192.0.2.1 :: ::1"),
        (("0.0.0.0/0",), "0.0.0.0 255.255.255.255", ":: ::1"),
        (("::/0",), ":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "0.0.0.0 192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1 ::ffff:192.0.2.1", "192.0.2.0 192.0.2.2 ::c000:201"),
        (("::1/128",), "::1", ":: ::2 0.0.0.1"),
        (("192.0.2.64/26",), "192.0.2.64 192.0.2.127", "192.0.2.63 192.0.2.128"),
        (("::ffff:10.0.0.0/104",), "10.0.0.1 10.255.255.255", "9.255.255.255 11.0.0.0"),
        (("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"), "10.0.0.0 10.1.2.3", "11.0.0.0"),
        (("10.0.0.0/8", "2001:db8::/32"), "10.1.1.1 2001:db8:ffff::", "2001:db9:: 2001:db7::"),
        (("fe80::%eth0/64",), "fe80::1 fe80::ffff:0:0:0", "fe80:0:0:1::"),
    ],
)
def test_a_set(texts: tuple[str, ...], inside: str, outside: str) -> None:
    networks = Networks(texts)
    assert [text for text in inside.split() if parse_address(text) not in networks] == []
    assert [text for text in outside.split() if parse_address(text) in networks] == []
    assert bool(networks) is bool(texts)


def test_a_set_takes_any_iterable() -> None:
    networks = Networks(f"10.0.{third}.0/24" for third in range(3))
    assert ip_address("10.0.2.9") in networks
    assert ip_address("10.0.3.9") not in networks
    assert not Networks()


# Few values near each other, and all values: so that some are inside, at the edges and just beyond.
V4 = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(2**32 - 8, 2**32 - 1))
V6 = st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 8), st.integers(2**128 - 8, 2**128 - 1))
V4_NETWORKS = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), V4, st.integers(0, 32)
)
V6_NETWORKS = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False), V6, st.integers(0, 128)
).filter(lambda network: network.network_address.ipv4_mapped is None)


@given(st.data(), st.lists(st.one_of(V4_NETWORKS, V6_NETWORKS), max_size=12))
@example(None, [ip_network("0.0.0.0/0"), ip_network("255.255.255.255/32")])
@example(None, [ip_network("::/0"), ip_network("::/128")])
@example(None, [ip_network("0.0.0.0/32"), ip_network("::/128")])
def test_a_set_answers_as_its_networks_do(
    data: st.DataObject | None, networks: list[Network]
) -> None:
    together = Networks(map(str, networks))
    asked: list[IpAddress] = [*map(IPv4Address, (0, 2**32 - 1)), *map(IPv6Address, (0, 2**128 - 1))]
    for network in networks:
        kind, most = network.network_address.__class__, 2**network.max_prefixlen - 1
        first, last = int(network.network_address), int(network.broadcast_address)
        asked += map(kind, {first, last, max(first - 1, 0), min(last + 1, most)})
    if data is not None:
        asked += data.draw(st.lists(V4.map(IPv4Address))) + data.draw(st.lists(V6.map(IPv6Address)))
    for address in asked:
        assert (address in together) is any(address in network for network in networks), address
    assert bool(together) is bool(networks)


@given(V4, st.integers(0, 32), V4)
def test_a_mapped_network_is_its_ipv4_network(number: int, length: int, asked: int) -> None:
    network = f"{IPv4Address(number)}/{length}"
    mapped = f"::ffff:{IPv4Address(number)}/{96 + length}"
    assert parse_network(mapped) == parse_network(network)
    address = parse_address(f"::ffff:{IPv4Address(asked)}")
    assert (address in Networks([mapped])) is (IPv4Address(asked) in parse_network(network))
