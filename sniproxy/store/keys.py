"""Keys as both stores hold them: bytes. Their order, and where a prefix ends. No I/O.

Keys are UTF-8. One that somebody else wrote in other bytes survives the way through `str` (surrogate escapes).
"""

from sniproxy.store import Ttl


def encode(key: str) -> bytes:
    """The bytes of a key; ordering by them equals etcd's order and SQLite's order of BLOBs."""
    return key.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The key of some bytes, whoever wrote them."""
    return raw.decode("utf-8", "surrogateescape")


def prefix_end(prefix: bytes) -> bytes | None:
    """The first byte string after all that start with `prefix`; None when there is none (empty, or all 0xff)."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None


def check_ttl(ttl: Ttl) -> None:
    """Raise ValueError for a time to live that the contract does not allow."""
    if isinstance(ttl, int) and ttl < 1:
        raise ValueError(f"ttl is {ttl}; it must be at least 1 second")
