"""The short form of `make load`: a tenth of each scenario. Bars of time are told and not held."""

import os
import resource
import sys
from collections.abc import Iterator

import pytest

from bench.generator import Generator, Missing, build
from bench.load import run, scenarios
from bench.pod import Site
from sniproxy.relay.native import BUILT
from tests.support.stack import RELAY

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(400),  # the load generator may have to be built first
    pytest.mark.skipif(
        BUILT and os.environ.get(RELAY) == "trio", reason="a minute: once is enough"
    ),
]
SCENARIOS = scenarios(quick=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    relay = os.environ.get(RELAY, "native" if BUILT else "trio")
    try:
        yield Site(Generator(build(), None), relay, tmp_path_factory.mktemp("load"))
    except Missing as error:
        pytest.skip(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_nothing_is_lost_and_nothing_left_behind(
    name: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run({name: SCENARIOS[name]}, site)[name]
    assert outcome.missed == []
    assert outcome.lines
    assert outcome.lines[0] in capsys.readouterr().out
