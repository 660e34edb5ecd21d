"""What every test shares."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.peers import deaf_server

# How long one example takes says more about the machine than about the code.
settings.register_profile("sniproxy", deadline=None)
settings.load_profile("sniproxy")


@pytest.fixture
def anyio_backend() -> str:
    """The data plane runs on trio. Shared code has a fixture of this name of its own, with both backends."""
    return "trio"


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address where connecting never comes to an end."""
    with deaf_server() as address:
        yield address
