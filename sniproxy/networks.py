"""Addresses, and sets of networks that answer at once however many they hold. Pure."""

import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96  # the prefix of ::ffff:0:0/96, before the IPv4 address in it


def parse_address(text: str) -> IpAddress:
    """An IPv4 client on an IPv6 socket is an IPv4 client; a zone (%eth0) is no part of an address.

    ValueError for anything that is no address.
    """
    try:  # what the kernel gives for most connections, at a fifth of the cost
        return ipaddress.IPv4Address(socket.inet_pton(socket.AF_INET, text))
    except OSError:
        pass
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def host_port(host: str, port: int) -> str:
    """An address and a port as one text, as logs have it; ValueError for a host that is no address."""
    if ":" not in host:
        return f"{host}:{port}"
    address = parse_address(host)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_network(text: str) -> Network:
    """An address, or a network in CIDR form, host bits or not; ::ffff:10.0.0.0/104 is 10.0.0.0/8. ValueError for others."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


@lru_cache(maxsize=4096)
def family_of(host: str) -> int | None:
    """The address family of an IP literal; None for a name. Remembered, since it is asked for every session."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


class Networks:
    """A set of networks. `address in networks` costs one look-up per prefix length that occurs, not per network."""

    __slots__ = ("_by_version",)

    def __init__(self, texts: Iterable[str] = ()) -> None:
        found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in map(parse_network, texts):
            host_bits = network.max_prefixlen - network.prefixlen
            prefixes = found[network.version].setdefault(host_bits, set())
            prefixes.add(int(network.network_address) >> host_bits)
        self._by_version = {
            version: tuple((bits, frozenset(prefixes)) for bits, prefixes in sorted(sets.items()))
            for version, sets in found.items()
        }

    def __contains__(self, address: IpAddress) -> bool:
        number = int(address)
        return any(
            number >> bits in prefixes for bits, prefixes in self._by_version[address.version]
        )

    def __bool__(self) -> bool:
        return any(self._by_version.values())


def peer_pair(peer: Any) -> tuple[str, int]:
    """Host and port of an address as accept() gives it; of an IPv4 address in IPv6 the former."""
    return str(parse_address(peer[0])), peer[1]


def peer_text(peer: Any) -> str:
    """The same as host:port."""
    return host_port(peer[0], peer[1])
