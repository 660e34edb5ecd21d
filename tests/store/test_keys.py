"""Keys as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.store.keys import decode, encode, prefix_end


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", None), (b"\xff", None), (b"\xff\xff", None), (b"/a/", b"/a0"), (b"a\xff", b"b")],
)
def test_where_a_prefix_ends(prefix: bytes, end: bytes | None) -> None:
    assert prefix_end(prefix) == end


@given(st.binary(), st.binary())
def test_a_range_is_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert (prefix <= key and (end is None or key < end)) == key.startswith(prefix)


@given(st.binary())
def test_any_bytes_survive_as_a_key(raw: bytes) -> None:
    assert encode(decode(raw)) == raw
