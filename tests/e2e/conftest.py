"""A running sniproxy on each kind of store, with echo game servers behind it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trustme

from tests.support.players import Game
from tests.support.ports import free_ports
from tests.support.stack import Stack, stores

# The load generator is built without what only a benchmark needs, from what relay/checked.toml has had built for the
# crate's tests; for a benchmark it is built anew.
os.environ.update(CARGO_PROFILE_RELEASE_LTO="off", CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16")


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def games(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Game, Game]]:
    """Two echo game servers, plain TCP."""
    found = tuple(Game(f"game-{n}", port) for n, port in enumerate(free_ports(2), 1))
    processes = []
    for game in found:
        command = [sys.executable, "-m", "examples.game_echo", str(game.port), game.name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert b"listening" in process.stdout.readline()
        processes.append(process)
    yield found[0], found[1]
    for process in processes:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module", params=["sqlite", "etcd"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """admin and proxy as processes; objects of one test stay for the next, so each uses names of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    with (
        stores(request.param, folder) as (store, _),
        Stack(folder, store, refused_log_interval=0) as running,
    ):
        yield running
