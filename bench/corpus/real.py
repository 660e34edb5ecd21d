"""The first flights of real clients, caught once by bench/corpus/capture.py, whole and cut."""

import json
from collections.abc import Iterator

from bench.corpus.capture import CAPTURED
from bench.corpus.rows import NAME, Group, Split, at_once, every
from sniproxy.corpus import Expect, Row

REAL = Group("real_client", "real")
SPLITS: dict[str, Split] = {"": at_once, "_segments_of_1": every(1), "_segments_of_100": every(100)}


def rows() -> Iterator[Row]:
    """Each client at once, byte by byte and in segments of 100."""
    for client, text in json.loads(CAPTURED.read_text()).items():
        why = f"what {client.split('_')[0]} sends, caught from the program itself"
        for suffix, split in SPLITS.items():
            segments = split(bytes.fromhex(text))
            if len(segments) > 400:
                continue
            yield REAL.raw(f"{client}{suffix}", why, segments, expect=Expect.ROUTE, name=NAME)
