"""What every test shares."""

import gc
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from sniproxy.relay import Accepted
from sniproxy.relay.native import BUILT
from sniproxy.session import serve
from sniproxy.worker_state import Worker
from tests.support.peers import deaf_server

# Whoever runs the tests in the background may have Ctrl-C ignored, and programs that are started would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says more about the machine than about the code.
SLOW = [HealthCheck.too_slow]
settings.register_profile("sniproxy", deadline=None, suppress_health_check=SLOW)
settings.load_profile("sniproxy")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests that were found stay to the end: the garbage collector need not look at them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def anyio_backend() -> str:
    """The data plane runs on trio. Shared code has a fixture of this name of its own, with both backends."""
    return "trio"


@pytest.fixture(params=["native", "trio"])
def moved_by(request: pytest.FixtureRequest) -> str:
    """Each relay's name, for `open_gateway`."""
    if request.param == "native" and not BUILT:
        pytest.skip("the native relay is not built")
    return str(request.param)


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address where connecting never comes to an end."""
    with deaf_server() as address:
        yield address


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Accepted]:
    """The native relay, and those whom it has handed over to be served: nobody else of those let in had a task."""
    if not BUILT:
        pytest.skip("the native relay is not built")
    found: list[Accepted] = []

    async def note(worker: Worker, accepted: Accepted) -> None:
        found.append(accepted)
        await serve(worker, accepted)

    monkeypatch.setattr("sniproxy.reception.serve", note)
    monkeypatch.setattr("tests.support.gateway.MOVED_BY", "native")
    return found
