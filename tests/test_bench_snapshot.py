"""What the bench of the configuration is made of: objects that a worker takes, and bars that can be missed."""

import time
from ipaddress import ip_address
from typing import Any

import pytest

from bench.configuration import KEYRING, PREFIX, make_configuration
from bench.snapshot import Costs, report
from sniproxy.keyring import Keyring
from sniproxy.router import Arrival
from sniproxy.snapshot import Snapshot


def test_every_object_is_taken_and_every_name_has_its_own() -> None:
    made = make_configuration(routes=60, wildcards=20, certificates=50)
    snapshot = Snapshot(PREFIX, Keyring(KEYRING))
    assert snapshot.load(made.listing) == []
    assert (len(made.exact), len(made.wildcards), len(made.certified)) == (40, 20, 50)
    here = ip_address("10.0.0.1")
    for number, name in enumerate([*made.exact, *made.wildcards]):
        match = snapshot.router.match(Arrival(name.replace("*", "a"), here, here, 443))
        assert match is not None
        assert (match.route.id, match.pattern) == (str(number), name)
        assert snapshot.target(match.route) is not None
    names = [name.replace("*", "a") for name in made.certified]
    served = [snapshot.certificates.choose(name, time.time()) for name in names]
    assert [one and one.id for one in served] == [str(number) for number in range(50)]
    assert len({one.server_tls.pairs for one in served if one}) == 50


SOUND: dict[str, Any] = {
    "imported": 60.0,
    "loaded": 250.0,
    "in_use": 300.0,
    "load": 3.0,
    "changes": {"ssl": [2.0] * 199 + [9.0]},
    "lookups": {"route": [50.0] * 199 + [900.0]},
    "handshakes": [100.0],
}


@pytest.mark.parametrize(
    ("missed", "members"),
    [
        (None, {}),
        ("cold load, s", {"load": 3.01}),
        ("memory of the process, MiB", {"loaded": 251.0}),
        ("change: ssl, ms", {"changes": {"ssl": [2.0] * 197 + [9.0] * 3}}),
        ("look-up: route, us", {"lookups": {"route": [50.0] * 197 + [50.1] * 3}}),
    ],
)
def test_a_bar_that_is_missed(
    missed: str | None, members: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(Costs(**SOUND | members)) is (missed is None)
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("MISSED")]
    assert [line[:40].strip() for line in marked] == ([missed] if missed else [])
