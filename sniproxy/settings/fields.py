"""What the sections are made of: the base of all, units, addresses and networks."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sniproxy.networks import parse_network

KIB = 1024
MIB = 1024 * KIB
SECOND = 1.0
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def split_address(address: str) -> tuple[str, int]:
    """("0.0.0.0", 8888) of "0.0.0.0:8888", ("::", 8888) of "[::]:8888"; ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    sound = bare and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    if not colon or not sound or (":" in bare) != bracketed:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8888 or [::]:8888")
    if bracketed:
        ipaddress.IPv6Address(bare)
    return bare, int(port)


def _address(address: str) -> str:
    split_address(address)
    return address


def _dns_server(text: str) -> str:
    ipaddress.ip_address(split_address(text)[0])
    return text


def _network(text: str) -> str:
    parse_network(text)
    return text


Address = Annotated[str, AfterValidator(_address)]
DnsServer = Annotated[str, AfterValidator(_dns_server)]  # by its IP address
NetworkText = Annotated[str, AfterValidator(_network)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """One level of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
