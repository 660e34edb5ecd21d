"""What a worker asks of the system before it serves."""

import resource
from collections.abc import Iterator

import pytest
import trio

from sniproxy.worker import raise_descriptor_limit
from tests.support.gateway import open_lines


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_descriptors_that_may_be_had_are_taken(limits: tuple[int, int]) -> None:
    _, most = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))

    async def run() -> list[dict[str, object]]:
        log, lines = open_lines()
        raise_descriptor_limit((most - 200) // 2, log)
        return lines.all

    assert trio.run(run) == []
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)


def test_too_few_of_them_are_named(limits: tuple[int, int]) -> None:
    _, most = limits

    async def run() -> list[dict[str, object]]:
        log, lines = open_lines()
        raise_descriptor_limit(most, log)
        return lines.all

    (line,) = trio.run(run)
    assert line["event"] == "few descriptors"
    assert (line["limit"], line["needed"]) == (most, 2 * most + 200)
    assert "proxy.max_sessions" in str(line["advice"])
