"""What every test shares."""

from collections.abc import Iterator

import pytest

from tests.support.peers import deaf_server


@pytest.fixture
def anyio_backend() -> str:
    """The data plane runs on trio. Shared code has a fixture of this name of its own, with both backends."""
    return "trio"


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address where connecting never comes to an end."""
    with deaf_server() as address:
        yield address
