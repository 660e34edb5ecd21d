"""Settings that are read again: for every setting there is, whether it is in force at once or waits."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sniproxy.reload import LIVE, live
from sniproxy.settings import Listener, Proxy, Settings

DOCS = Path(__file__).parents[1] / "docs"
SECRET = "sesame-open-thyself"
KEY = base64.b64encode(b"k" * 32).decode()

BEFORE = Settings.model_validate(
    {
        "proxy": {
            "listeners": [{"address": "h:1", "tls": True}, {"address": "h:2"}],
            "trusted": ["10.0.0.0/8"],
            "limits": {"address_rate": {"per_second": 1}},
        },
        "etcd": {"password": "password-before"},
    }
)

# Another value for each setting. Every one stands in one of the two tables, or in the admin API's section.
AT_ONCE: dict[str, Any] = {
    "proxy.listeners.tls": False,
    "proxy.listeners.tls_passthrough": True,
    "proxy.listeners.proxy_protocol": True,
    "proxy.listeners.allow": ("10.1.0.0/16",),
    "proxy.listeners.deny": ("10.2.0.0/16",),
    "proxy.max_crashes": 6,
    "proxy.crash_window": 61.0,
    "proxy.trusted": ("10.3.0.0/16",),
    "proxy.deny_upstreams": ("10.4.0.0/16",),
    "proxy.allow_upstreams": ("10.4.5.0/24",),
    "proxy.accept_batch": 65,
    "proxy.max_sessions": 20_001,
    "proxy.limits.address_sessions": 1,
    "proxy.limits.address_rate": {"per_second": 1.0, "burst": 2},
    "proxy.limits.route_sessions": 2,
    "proxy.limits.route_rate": {"per_second": 2.0, "burst": 3},
    "proxy.limits.session_time": 3.0,
    "proxy.limits.session_bandwidth": 4096,
    "proxy.dns.servers": ("10.0.0.2:53",),
    "proxy.dns.timeout": 1.5,
    "proxy.dns.min_ttl": 2.0,
    "proxy.dns.max_ttl": 61.0,
    "proxy.dns.negative_ttl": 6.0,
    "proxy.dns.stale": 3600.0,
    "proxy.dns.names": 4097,
    "proxy.hello_timeout": 6.0,
    "proxy.max_hello": 65_537,
    "proxy.max_hello_raw": 131_073,
    "proxy.handshake_timeout": 11.0,
    "proxy.connect_timeout": 4.0,
    "proxy.idle_timeout": 3601.0,
    "proxy.half_close_timeout": 121.0,
    "proxy.keepalive_idle": 301,
    "proxy.notsent_lowat": 0,
    "proxy.refused_log_interval": 2.0,
    "proxy.file_poll": 1.5,
    "proxy.file_timeout": 2.5,
    "drain.accept": 120.0,
    "drain.deadline": 61.0,
    "drain.spread": 11.0,
    "drain.upgrade_deadline": 3600.0,
    "overload.max_memory": None,
    "overload.setups": 65,
    "overload.route_share": 0.75,
    "overload.address_share": 0.25,
    "overload.queue": 4097,
    "overload.queue_timeout": 11.0,
    "status.metrics_routes": 2001,
    "status.apisix_metrics": True,
    "encryption.keyring": (KEY,),
    "log.format": "json",
    "log.sessions": 0.5,
    "traces.share": 0.25,
}
LATER: dict[str, Any] = {
    "store": "etcd://h:2379/apisix",
    "state_dir": Path("/elsewhere"),
    "node": "edge-1",
    "node_ttl": 16,
    "proxy.listeners.address": "h:3",
    "proxy.workers": 2,
    "proxy.backlog": 4097,
    "proxy.defer_accept": 2,
    "proxy.limits.table": 65_537,
    "proxy.relay": "trio",
    "proxy.relay_buffer": 65_537,
    "proxy.relay_pipes": 17,
    "proxy.refused_kept": 0,
    "proxy.store_retry": 0.2,
    "proxy.store_retry_max": 4.0,
    "proxy.store_wait": 3.0,
    "status.address": "h:4",
    "statistics.enabled": False,
    "statistics.interval": 30.0,
    "statistics.keep_hours": 721,
    "statistics.keep_days": 401,
    "statistics.max_routes": 999,
    "etcd.user": "root",
    "etcd.password": SECRET,
    "etcd.ca_file": Path("/ca"),
    "etcd.cert_file": Path("/cert"),
    "etcd.key_file": Path("/key"),
    "etcd.timeout": 6.0,
    "etcd.watch_silence": 11.0,
    "traces.enabled": True,
    "traces.endpoint": "http://collector:4318/v1/traces",
    "traces.queue": 4097,
}
VALUES = AT_ONCE | LATER


def leaves(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """Every setting's name. A section that may be absent is one setting; those of a list are named without a number."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = [kind, *(get_args(kind) if get_args(kind)[-1:] == (...,) else ())]
        section = next(
            (one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)), None
        )
        if section is None:
            yield place + name
        else:
            yield from leaves(section, f"{place}{name}.")


def with_values(settings: Settings, values: dict[str, Any]) -> Settings:
    """The settings with other values, by name; of the first listener."""
    tree = settings.model_dump()
    for name, value in values.items():
        *path, last = name.split(".")
        section: Any = tree
        for step in path:
            section = section[step][0] if step == "listeners" else section[step]
        section[last] = value
    return Settings.model_validate(tree)


def reported(names: set[str]) -> list[str]:
    """As which these are told: listeners are one thing."""
    return sorted({"proxy.listeners" if "listeners" in name else name for name in names})


def test_every_setting_has_its_place() -> None:
    """One that is new wants a decision: whether it may change while sessions play."""
    every = {name for name in leaves(Settings) if not name.startswith("admin.")}
    assert AT_ONCE.keys() & LATER.keys() == set()
    assert AT_ONCE.keys() | LATER.keys() == every
    assert AT_ONCE.keys() == LIVE


def test_what_is_looked_through_is_everything() -> None:
    names = list(leaves(Settings))
    assert {"store", "proxy.listeners.deny", "proxy.limits.table", "admin.keys.key"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", VALUES)
def test_one_change(name: str) -> None:
    after = with_values(BEFORE, {name: VALUES[name]})
    assert after != BEFORE
    if name in LIVE:
        assert live(BEFORE, after) == (after, [])
    else:
        assert live(BEFORE, after) == (BEFORE, reported({name}))


@given(st.sets(st.sampled_from(sorted(VALUES))))
def test_many_changes(names: set[str]) -> None:
    after = with_values(BEFORE, {name: VALUES[name] for name in names})
    moved = "proxy.listeners.address" in names
    taken = {name for name in names & LIVE if not (moved and "listeners" in name)}
    mixed, waiting = live(BEFORE, after)
    assert mixed == with_values(BEFORE, {name: VALUES[name] for name in taken})
    assert waiting == reported(names - taken)
    assert live(mixed, after) == (mixed, waiting)
    assert SECRET not in repr(waiting)
    assert mixed.etcd.password == "password-before"


def test_nothing_new() -> None:
    assert live(BEFORE, with_values(BEFORE, {})) == (BEFORE, [])


def test_the_admin_api_is_another_process() -> None:
    after = with_values(BEFORE, {"admin.address": "h:5", "admin.max_body": 1, "drain.spread": 1.0})
    assert live(BEFORE, after) == (with_values(BEFORE, {"drain.spread": 1.0}), [])


@pytest.mark.parametrize("rate", [None, {"per_second": 2.0, "burst": 1}])
def test_a_limit_comes_and_goes(rate: dict[str, float] | None) -> None:
    after = with_values(BEFORE, {"proxy.limits.address_rate": rate})
    assert live(BEFORE, after) == (after, [])
    assert live(after, BEFORE) == (BEFORE, [])


# Listeners

ONE, TWO = BEFORE.proxy.listeners


def listening(*listeners: Listener, **proxy: Any) -> Settings:
    return Settings(proxy=Proxy(listeners=listeners, **{"trusted": ("10.0.0.0/8",)} | proxy))


@pytest.mark.parametrize(
    "after",
    [
        (),
        (ONE,),
        (TWO, ONE),
        (ONE, TWO, Listener(address="h:3")),
        (ONE, Listener(address="h:3")),
        (Listener(address="h:1", deny=("10.0.0.0/8",)), Listener(address="h:3")),
    ],
)
def test_listeners_that_are_others_wait_all_together(after: tuple[Listener, ...]) -> None:
    mixed, waiting = live(listening(ONE, TWO), listening(*after, hello_timeout=7))
    assert mixed == listening(ONE, TWO, hello_timeout=7)
    assert waiting == ["proxy.listeners"]


def test_listeners_at_the_same_addresses_change_at_once() -> None:
    after = listening(
        Listener(address="h:1", tls_passthrough=True, allow=("10.0.0.0/8",)),
        Listener(address="h:2", proxy_protocol=True, deny=("10.0.0.0/8",)),
    )
    assert live(listening(ONE, TWO), after) == (after, [])


def test_what_was_worked_out_of_old_settings_is_not_taken_along() -> None:
    before = listening(Listener(address="h:1", allow=("10.0.0.0/8",)))
    (listener,) = before.proxy.listeners
    inside, outside = listener._allowed, listener._denied
    assert before.proxy.trusts("10.0.0.1")
    after = listening(Listener(address="h:1", deny=("10.0.0.0/8",)), trusted=("192.0.2.0/24",))
    mixed, _ = live(before, after)
    assert not mixed.proxy.trusts("10.0.0.1")
    assert mixed.proxy.trusts("192.0.2.1")
    assert mixed.proxy.listeners[0]._allowed is not inside
    assert mixed.proxy.listeners[0]._denied is not outside


def test_a_mixture_that_contradicts_itself_waits_as_a_whole() -> None:
    """The old listeners want a header, and the new settings, which have others, trust nobody to send one."""
    before = listening(Listener(address="h:1", proxy_protocol=True), max_sessions=5)
    after = listening(Listener(address="h:2"), trusted=(), max_sessions=6)
    after = with_values(after, {"drain.spread": 1.0, "proxy.limits.session_time": 5.0})
    mixed, waiting = live(before, after)
    assert mixed == with_values(before, {"drain.spread": 1.0})
    assert waiting == [
        "proxy.limits.session_time",
        "proxy.listeners",
        "proxy.max_sessions",
        "proxy.trusted",
    ]


# What the documentation says


def test_the_page_of_settings_lists_what_changes_at_once() -> None:
    block = re.search(r"```text\n(.*?)```", (DOCS / "settings.md").read_text(), re.DOTALL)
    assert block is not None
    listed = block[1].split()
    assert len(listed) == len(set(listed))
    assert set(listed) == LIVE
