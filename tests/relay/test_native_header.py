"""The native relay's reader of PROXY headers against Python's, and what becomes of those who come behind one."""

import random
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.errors import CloseReason
from sniproxy.proxy_protocol import ProxyHeader, encode_local_v2, encode_v1, encode_v2
from sniproxy.relay import Accepted
from sniproxy.relay.native import BUILT
from tests import test_proxy_protocol as sound
from tests import test_proxy_protocol_broken as broken
from tests.support.proxy_headers import (
    AWS,
    CRC32C,
    IPV4,
    IPV6,
    NLB_HEALTH_CHECK,
    NOOP,
    TCP6,
    UNIQUE_ID,
    outcome,
    summed,
    tlv,
    v1,
    v2,
)
from tests.support.stage import HELLO, PROXIED_TLS, open_stage

if BUILT:
    from sniproxy._relay import read_header

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
]

VPCE = tlv(AWS, b"\x01vpce-08d2bf15fac5001c9")
ORDINARY = {
    "IPv4": v2(),
    "IPv6": v2(IPV6, family=TCP6),
    "of an NLB": summed(v2(IPV4 + tlv(CRC32C, bytes(4)) + VPCE)),
    "padded": v2(IPV4 + tlv(NOOP, bytes(9)) + tlv(NOOP)),
    "sum behind": summed(v2(IPV6 + VPCE + tlv(CRC32C, bytes(4)), family=TCP6)),
}
LEFT = {
    "version 1": v1("TCP4 192.0.2.7 198.51.100.1 56324 443"),
    "health check": NLB_HEALTH_CHECK,
    "LOCAL": encode_local_v2(),
    "registered": v2(IPV4 + tlv(UNIQUE_ID, b"x")),
    "wrong sum": v2(IPV4 + tlv(CRC32C, bytes(4))),
    "a hello": HELLO,
}


def agree(data: bytes) -> bool:
    """Whether the native reader is sure of the client; AssertionError when Python's knows better."""
    said, (known, rest) = read_header(data), outcome([data])
    if said is None:
        assert known is None
        return False
    host, port, size = said
    if size:
        assert isinstance(known, ProxyHeader)
        assert not known.local
        assert (known.source, data[size:]) == ((host, port), rest)
    return size > 0


@pytest.mark.parametrize("header", ORDINARY.values(), ids=ORDINARY)
def test_what_balancers_send_for_their_clients_is_read(header: bytes) -> None:
    assert agree(header)
    assert agree(header + HELLO)
    for end in range(len(header)):
        assert read_header(header[:end]) is None


@pytest.mark.parametrize("header", LEFT.values(), ids=LEFT)
def test_all_else_is_left_to_python(header: bytes) -> None:
    assert read_header(header) == ("", 0, 0)


def test_every_header_of_the_tables_is_read_alike() -> None:
    tables: list[dict[str, Any]] = [
        value
        for module in (sound, broken)
        for value in vars(module).values()
        if isinstance(value, dict)
    ]
    headers = {
        data
        for table in tables
        for row in table.values()
        for data in (row if isinstance(row, tuple) else (row,))
        if isinstance(data, bytes) and data
    }
    assert len(headers) > 50
    for data in headers:
        for end in {*range(min(len(data), 80)), len(data)}:
            agree(data[:end])


@settings(max_examples=1000)
@given(st.sampled_from([*ORDINARY.values(), *LEFT.values()]), st.randoms(use_true_random=False))
def test_any_mutation_is_read_alike(header: bytes, dice: random.Random) -> None:
    data = bytearray(header)
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(data) + 1)
        data[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    agree(bytes(data))


PLAYER = ("192.0.2.7", 4242)
HEADER = encode_v2(PLAYER, ("198.51.100.1", 443), crc=True)


async def test_behind_a_balancer_sessions_go_by_plans_too(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        await stage.open(PROXIED_TLS)
        lines = [
            await stage.leave(*await stage.join(HELLO, header=header))
            for header in (HEADER, HEADER, encode_v1(PLAYER, PLAYER), HEADER)
        ]
    # The first of a name, and whoever says what the relay leaves to Python.
    assert [accepted.said[:5] for accepted in served] == [HEADER[:5], b"PROXY"]
    assert {line["client"] for line in lines} == {"192.0.2.7:4242"}
    assert {line["bytes_in"] for line in lines} == {len(HELLO)}


@pytest.mark.parametrize("cut", [1, 15, 30, len(HEADER), len(HEADER) + 1, len(HEADER) + 70])
async def test_header_and_hello_may_come_in_pieces(served: list[Accepted], cut: int) -> None:
    said = HEADER + HELLO
    async with open_stage() as stage:
        gateway = await stage.open(PROXIED_TLS)
        await stage.leave(*await stage.join(HELLO, header=HEADER))
        player = await stage.dial(said[:cut])
        while gateway.counted()["opened"] < 2:
            await trio.testing.wait_all_tasks_blocked()
        await player.send(said[cut:])
        server = await stage.accept()
        assert await server.read(len(HELLO)) == HELLO
        line = await stage.leave(player, server)
    assert len(served) == 1
    assert line["client"] == "192.0.2.7:4242"


async def test_who_is_not_trusted_is_not_listened_to(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        await stage.open(PROXIED_TLS, trusted=("127.0.0.2/32", "2001:db8::/32"))
        await stage.leave(*await stage.join(HELLO, header=HEADER, source="127.0.0.2"))
        line = await stage.refused(HELLO, header=HEADER)
        assert line["reason"] == CloseReason.PROXY_UNTRUSTED
        assert line["client"].startswith("127.0.0.1:")
        assert served[-1].said == b""
        line = await stage.refused(HELLO, source="127.0.0.2")  # a hello without its header
        assert line["reason"] == CloseReason.PROXY_BROKEN


async def test_a_node_that_refuses_is_told_of_with_the_clients_address(
    served: list[Accepted],
) -> None:
    async with open_stage() as stage:
        await stage.open(PROXIED_TLS)
        await stage.leave(*await stage.join(HELLO, header=HEADER))
        await stage.join(HELLO, header=HEADER)
        assert len(served) == 1
        stage.hang_up()
        line = await stage.refused(HELLO, header=HEADER)
    assert served[-1].attempt is not None
    assert (line["reason"], line["client"]) == ("upstream_refused", "192.0.2.7:4242")
