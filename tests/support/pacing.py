"""Whether bytes keep to a cap on bandwidth, by the machine's clock: however loaded it is, none may come before its time."""

import trio

from sniproxy.relay.pace import BURST
from tests.support.peers import Peer

SLACK = 0.002  # seconds by which two clocks of one machine may differ


async def carry(sender: Peer, receiver: Peer, words: bytes, bandwidth: int) -> None:
    """Sends them, and sees that each arrives as it was sent, and not before its time."""
    heard = bytearray()
    since = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, words)
        while len(heard) < len(words):
            more = await receiver.receive()
            assert more, f"ended after {len(heard)} bytes"
            heard += more
            assert_kept(len(heard), since, bandwidth)
    assert heard == words


def assert_kept(moved: int, since: float, bandwidth: int) -> None:
    """That so many bytes may have moved since then."""
    elapsed = trio.current_time() - since
    assert moved <= bandwidth * (elapsed + BURST + SLACK), f"{moved} bytes in {elapsed:.3f} s"
