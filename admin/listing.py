"""Which objects of a collection a list shows: APISIX's filters and pages.

A list is paged only when both `page` and `page_size` are given; then the oldest come first, else it is in key order.
`total` counts what the filters have left, on all pages.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

import anyio.to_thread
import re2

from admin.catalog import Collection, Item
from sniproxy.errors import ObjectRefused

PAGE_SIZES = range(10, 501)
MAX_PATTERN = 1024  # characters of a regular expression
MAX_COMPILED = 2 * 2**20  # bytes; at RE2's own limit of 8 MiB compiling takes up to 20 s
MAX_SEARCH = 5.0  # seconds; 20 000 names take 20 ms with a pattern that does not repeat much
LAST_PAGE = 10**9

Test = Callable[[Item], bool]


class BadPage(Exception):
    """400, with a text that is no JSON: as in APISIX."""


@dataclass(frozen=True, slots=True)
class Page:
    """`number` counts from 1."""

    number: int
    size: int


async def select(
    collection: Collection, kind: str, query: Mapping[str, str]
) -> tuple[list[Item], int]:
    """What is shown of a collection, and how many there are on all pages. BadPage, ObjectRefused."""
    page = read_page(query)
    # The list is made here: the collection may change while a thread goes through it.
    items = collection.items() if page is None else collection.items_by_age()
    if "name" in query:
        # RE2 takes up to 10 us for a character where a pattern repeats much, and others ask meanwhile.
        return await anyio.to_thread.run_sync(_select, items, page, kind, query)
    return _select(items, page, kind, query)


def _select(
    items: list[Item], page: Page | None, kind: str, query: Mapping[str, str]
) -> tuple[list[Item], int]:
    for test in read_filters(kind, query):
        items = [item for item in items if test(item)]
    if page is None:
        return items, len(items)
    first = (page.number - 1) * page.size
    return items[first : first + page.size], len(items)


def read_page(query: Mapping[str, str]) -> Page | None:
    """None where no page is asked for; BadPage."""
    number, size = query.get("page"), query.get("page_size")
    if number is None or size is None:
        return None
    if _number(size) not in PAGE_SIZES:
        raise BadPage(f"page_size must be between {PAGE_SIZES[0]} and {PAGE_SIZES[-1]}")
    return Page(max(1, _number(number)), _number(size))


def read_filters(kind: str, query: Mapping[str, str]) -> list[Test]:
    """name: a regular expression, found anywhere. label: a key. filter: service_id and upstream_id. ObjectRefused."""
    tests: list[Test] = []
    if "name" in query:
        matches = _pattern("name", query["name"])
        tests.append(lambda item: item.name is not None and matches(item.name))
    if "uri" in query:
        _pattern("uri", query["uri"])
        tests.append(lambda _: False)  # only HTTP routes have any
    if "label" in query:
        label = query["label"]
        tests.append(lambda item: label in item.labels)
    if kind == "stream_routes":
        for member, value in parse_qsl(query.get("filter", ""), keep_blank_values=True):
            if (reference := REFERENCES.get(member)) is not None:
                tests.append(_refers(reference, value))
    return tests


REFERENCES = {"service_id": "services", "upstream_id": "upstreams"}


def _refers(collection: str, object_id: str) -> Test:
    return lambda item: (collection, object_id) in item.references


def _pattern(member: str, text: str) -> Callable[[str], bool]:
    """RE2 and not `re`: its time grows with the text alone, whatever the pattern is."""
    if len(text) > MAX_PATTERN:
        raise ObjectRefused(f"invalid argument {member}: longer than {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False  # to stderr
    options.max_mem = MAX_COMPILED
    found = re2.Set.SearchSet(options)  # of one: it only says whether, in half the time
    try:
        found.Add(text)
    except (re2.error, UnicodeError):
        raise ObjectRefused(f"invalid argument {member}: no regular expression") from None
    try:
        found.Compile()
    except re2.error:
        raise ObjectRefused(f"invalid argument {member}: it repeats too much") from None
    give_up = time.monotonic() + MAX_SEARCH

    def matches(searched: str) -> bool:
        if time.monotonic() > give_up:
            raise ObjectRefused(f"invalid argument {member}: it takes too long to match")
        return bool(found.Match(searched))

    return matches


def _number(text: str) -> int:
    """0 for what is no number. A large one is as good as the last."""
    if not (text.isascii() and text.isdecimal()):
        return 0
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) < 10 else LAST_PAGE
