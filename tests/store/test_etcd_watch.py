"""The watch on etcd: its parsers, and how etcd ends it."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import Batch, Deleted, Entry
from sniproxy.store.etcd_gateway import TooLarge
from sniproxy.store.etcd_watch import Decoder, Lines, b64
from tests.support.etcd_store import GOOD, opened, watch_once
from tests.support.stores import take

pytestmark = pytest.mark.anyio

# -- how it ends


async def test_a_lagging_member_is_not_a_restored_one() -> None:
    """The `created` answer of a member may be older than what the quorum knows."""
    created = b'{"result":{"header":{"revision":"3"},"created":true}}\n'
    event = {"kv": {"key": b64(b"/1"), "create_revision": "8", "mod_revision": "8"}}
    later = json.dumps({"result": {"header": {"revision": "8"}, "events": [event]}}).encode()

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/watch":
            return httpx.Response(200, content=created + later + b"\n")
        return GOOD()

    async with opened("http://a", transport=httpx.MockTransport(handle)) as store:
        async with store.watch("/", after=7) as watch:
            assert await take(watch, 1) == [Entry("/1", b"", 8, 8)]
        with pytest.raises(Compacted):
            async with store.watch("/", after=8):
                pass


WATCH_LINES = {
    "canceled": (b'{"result":{"canceled":true,"cancel_reason":"because"}}', "because"),
    "error": (b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}', "no leader"),
    "error_text": (b'{"error":"gone"}', "gone"),
    "end": (b"", "came to its end"),
    "half": (b'{"result":', "malformed"),
    "word": (b'{"result":{"events":[{"kv":{"key":"!!"}}]}}', "malformed"),
    "text": (b'{"result":{"events":"no"}}', "malformed"),
    "no_header": (b'{"result":{}}', "malformed"),
}


@pytest.mark.parametrize(("line", "match"), WATCH_LINES.values(), ids=WATCH_LINES)
async def test_a_watch_that_etcd_ends(line: bytes, match: str) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/watch":
            return httpx.Response(200, content=line + b"\n" if line else b"")
        return GOOD()

    async with opened("http://a", transport=httpx.MockTransport(handle)) as store:
        with pytest.raises(StoreUnavailable, match=match):
            await watch_once(store)


# -- the parsers, without a network


@given(st.lists(st.binary().map(lambda b: b.replace(b"\n", b""))), st.data())
def test_lines_cut_anywhere(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found, rest = Lines(), [], stream
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:cut])
        rest = rest[cut:]
    assert found == lines


@pytest.mark.parametrize(
    ("good", "bad"), [(b"", b"123456\n"), (b"", b"123456"), (b"123", b"456"), (b"1\n123", b"456\n")]
)
def test_a_line_has_a_bound(good: bytes, bad: bytes) -> None:
    assert Lines(5).feed(b"12345\n12345\n") == [b"12345", b"12345"]
    lines = Lines(5)
    lines.feed(good)
    with pytest.raises(TooLarge, match="over 5 bytes"):
        lines.feed(bad)


def answer_line(*revisions: int, **members: Any) -> bytes:
    events = [{"type": "DELETE", "kv": {"key": b64(b"/1"), "mod_revision": r}} for r in revisions]
    return json.dumps({"result": {"events": events, **members}}).encode()


def test_a_revision_is_not_split_over_fragments() -> None:
    decoder = Decoder(0)
    batches = [
        decoder.feed(answer_line(1, 2, 3, fragment=True)),
        decoder.feed(answer_line(3, 3, fragment=True)),
        decoder.feed(answer_line(3, 4, fragment=True)),
        decoder.feed(answer_line(4)),
        decoder.feed(answer_line(5, fragment=True)),
        decoder.feed(answer_line()),
    ]
    found = [b and ([e.mod_revision for e in b.events], b.revision) for b in batches]
    assert found == [([1, 2], 2), None, ([3] * 4, 3), ([4, 4], 4), None, ([5], 5)]
    assert decoder.after == 5


def test_created_and_progress_are_signs_of_life() -> None:
    decoder = Decoder(4)
    # of one member, which may have more to say about what is between
    assert decoder.feed(answer_line(header={"revision": "9"}, created=True)) == Batch(4, ())
    assert decoder.after == 4
    assert decoder.feed(answer_line(header={"revision": "9"})) == Batch(9, ())
    assert decoder.after == 9
    assert decoder.feed(answer_line(header={"revision": "8"})) == Batch(9, ())
    assert decoder.feed(answer_line(12)) is not None
    assert decoder.after == 12


def test_deletions_and_compactions_are_told_apart() -> None:
    decoder = Decoder(0)
    batch = decoder.feed(answer_line(3))
    assert batch is not None
    assert batch.events == (Deleted("/1", 3),)
    with pytest.raises(Compacted) as caught:
        decoder.feed(b'{"result":{"canceled":true,"compact_revision":"12"}}')
    assert caught.value.revision == 12
