"""The API under test, over SQLite and over a real etcd."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sniproxy.settings import Settings
from sniproxy.store import Store
from sniproxy.store.opening import open_store
from sniproxy.store.sqlite import SqliteStore
from tests.admin.gateway import Gateway, settings_on
from tests.support.etcd import EtcdServer, etcd_version, find_etcd_binaries
from tests.support.stores import Clock

BINARIES = {f"etcd-{etcd_version(path)}": path for path in find_etcd_binaries()[:1]}
_numbers = itertools.count()


# uvicorn serves the API on asyncio. Commands run on trio, and share with it what these are about; stores have tests of
# their own on both loops.
ON_BOTH_LOOPS = (
    *("adc", "backup", "bulk", "foreign", "races", "references", "resources", "restore"),
    *("rotation", "rules", "secrets", "waiting", "waiting_api"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of what runs on either loop, on each."""
    about = metafunc.module.__name__.rpartition(".test_")[2]
    if about in ON_BOTH_LOOPS and "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the test, where it is not told another."""
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    """The time of `store`, for time to live."""
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The file of `store`."""
    return tmp_path / "store" / "config.db"


@pytest.fixture
async def store(anyio_backend: str, database: Path, clock: Clock) -> AsyncIterator[Store]:
    """A real store on virtual time."""
    store = SqliteStore(database, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
async def empty(anyio_backend: str, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Another store, in which nothing is."""
    store = SqliteStore(tmp_path / "empty" / "config.db")
    yield store
    await store.aclose()


@pytest.fixture
def settings(database: Path) -> Settings:
    """An administrator and a viewer."""
    return settings_on(f"sqlite://{database}")


@pytest.fixture
async def gateway(settings: Settings, store: Store) -> AsyncIterator[Gateway]:
    """The API over `store`."""
    gateway = Gateway(settings, store)
    async with gateway.running():
        yield gateway


@pytest.fixture(scope="session")
def etcds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EtcdServer]]:
    """One server per version, started at first use."""
    servers: dict[str, EtcdServer] = {}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(params=["sqlite", *BINARIES])
async def any_gateway(
    request: pytest.FixtureRequest,
    anyio_backend: str,
    database: Path,
    tmp_path_factory: pytest.TempPathFactory,
    etcds: dict[str, EtcdServer],
) -> AsyncIterator[Gateway]:
    """The API over each kind of store, under a prefix of its own."""
    name: str = request.param
    url = f"sqlite://{database}"
    if name != "sqlite":
        if name not in etcds:
            etcds[name] = EtcdServer(BINARIES[name], tmp_path_factory.mktemp(name))
            etcds[name].start()
        url = f"{etcds[name].url.replace('http', 'etcd')}/game{next(_numbers)}"
    settings = settings_on(url)
    store = open_store(settings)
    gateway = Gateway(settings, store)
    async with gateway.running():
        yield gateway
