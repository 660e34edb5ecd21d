"""What every test shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The data plane runs on trio. Shared code has a fixture of this name of its own, with both backends."""
    return "trio"
