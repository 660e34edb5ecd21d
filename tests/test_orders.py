"""What parent and worker say to one another: each side understands the version before it, and the one after."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sniproxy.orders import Begin, Report, settings_of
from sniproxy.settings import AdminKey, Encryption, Etcd, Limits, Listener, Proxy, Rate, Settings

NUMBERS = st.integers(0, 2**31)
SECONDS = st.floats(0, 1e9)
TEXTS = st.text(max_size=20)
REPORTS = st.builds(Report, NUMBERS, st.booleans(), SECONDS, NUMBERS, st.booleans())
SETTINGS = (
    Settings(store="sqlite:///config.db"),
    Settings(
        store="etcds://one:2379,two:2379/games",
        state_dir=Path("/state"),
        node="edge-1",
        etcd=Etcd(user="games", password="a pass phrase"),
        encryption=Encryption(keyring=("A" * 43 + "=",)),
        admin={"keys": [AdminKey(name="ops", key="0123456789abcdef")]},
        proxy=Proxy(
            listeners=(
                Listener(address="[::]:8888", tls=True, deny=("192.0.2.0/24",)),
                Listener(address="0.0.0.0:8889", proxy_protocol=True),
            ),
            trusted=("10.0.0.0/8",),
            workers=3,
            limits=Limits(address_rate=Rate(per_second=0.5, burst=7), session_time=60),
        ),
    ),
)
BEGINS = st.builds(
    Begin,
    worker=NUMBERS,
    workers=NUMBERS,
    settings=st.sampled_from(SETTINGS),
    listening=st.lists(st.lists(NUMBERS, max_size=4), max_size=3),
    table=NUMBERS,
    copy=st.none() | TEXTS,
    drained=st.lists(TEXTS, max_size=3),
    short=st.booleans(),
    unhealthy=st.lists(TEXTS, max_size=3),
)
# Of a version that does not exist yet. No name of ours begins so.
NEWS = st.dictionaries(TEXTS.map("new_".__add__), TEXTS | NUMBERS | st.lists(NUMBERS), max_size=3)


def sent(members: dict[str, Any]) -> Any:
    """As they arrive."""
    return json.loads(json.dumps(members))


@given(REPORTS, NEWS)
def test_a_report_arrives_as_it_was_sent(report: Report, news: dict[str, Any]) -> None:
    assert Report.decode({**sent(report.encode()), **sent(news)}) == report


@given(BEGINS, NEWS)
def test_a_begin_arrives_as_it_was_sent(begin: Begin, news: dict[str, Any]) -> None:
    """What the keyring and the networks say too: the worker has no other way to know."""
    arrived = Begin.decode({**sent(begin.encode()), **sent(news)})
    assert arrived == begin
    assert arrived.settings.encryption.keyring == begin.settings.encryption.keyring
    assert arrived.settings.etcd.password == begin.settings.etcd.password


def test_what_an_older_version_did_not_say_has_a_default() -> None:
    """A report that says nothing is of a worker that cannot be relied upon."""
    assert Report.decode({}) == Report(revision=0, stale=True, age=0.0, active=0, ready=False)
    members = {"worker": 0, "workers": 1, "listening": [[3]], "table": 4}
    begin = Begin.decode({**members, "settings": sent(SETTINGS[0].model_dump(mode="json"))})
    assert (begin.copy, begin.drained, begin.short, begin.unhealthy) == (None, [], False, [])


@pytest.mark.parametrize("member", ["worker", "workers", "settings", "listening", "table"])
def test_without_these_nothing_can_begin(member: str) -> None:
    begin = Begin(0, 1, SETTINGS[0], [[3]], 4)
    members = sent(begin.encode())
    del members[member]
    with pytest.raises((TypeError, KeyError), match=member):
        Begin.decode(members)


def test_settings_of_another_version_are_understood_as_far_as_they_go() -> None:
    settings = Settings(proxy=Proxy(max_sessions=7), node="edge-1")
    members = settings.model_dump(mode="json")
    members["later"] = {"much": 1}
    members["proxy"]["more"] = [1]
    members["proxy"]["limits"]["most"] = None
    members["proxy"]["listeners"][0]["quic"] = True
    assert settings_of(members) == settings
    assert "later" in members  # which are left as they are


def test_settings_that_nobody_could_have_are_refused() -> None:
    members = Settings().model_dump(mode="json")
    members["proxy"] |= {"more": 1, "max_sessions": 0}
    with pytest.raises(ValidationError, match="max_sessions"):
        settings_of(members)
