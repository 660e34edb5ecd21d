"""Who is let in: each limit, what it says, what is given back, and who shares a count with whom."""

import mmap
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.access import NONE, Plugins, enable
from sniproxy.errors import SessionEnded
from sniproxy.limits import LONGEST_DELAY, Limits
from sniproxy.networks import parse_address
from sniproxy.router import Arrival
from sniproxy.settings import Listener, Proxy
from sniproxy.stick_table import WAYS, Key, StickTable, prepare, table_size

ANYBODY = Listener(address="0.0.0.0:8888")
V4, V6 = "192.0.2.1", "2001:db8:0:1::1"
NAME = "play.example.com"


def limit_conn(conn: int, burst: int = 0, delay: float = 0.5, **key: str) -> Plugins:
    """A route's plugins: this one, by client address if nothing else is said."""
    conf = {"conn": conn, "burst": burst, "default_conn_delay": delay, "key": "remote_addr"}
    return enable({"limit-conn": conf | key})


def arrival(
    remote: str = V4, name: str | None = NAME, server: str = "198.51.100.1", port: int = 8888
) -> Arrival:
    """A connection."""
    return Arrival(name, parse_address(remote), parse_address(server), port)


class Pod:
    """Workers with one table. Sessions are known by what they claimed."""

    def __init__(
        self, limits: dict[str, Any], workers: int = 1, entries: int = 1024, **settings: Any
    ) -> None:
        self.now = 1000.0
        memory = prepare(memoryview(mmap.mmap(-1, table_size(entries, workers))))
        tables = [
            StickTable(memory, entries=entries, worker=n, workers=workers) for n in range(workers)
        ]
        proxy = Proxy.model_validate({"limits": limits} | settings)
        self.doors = [Limits(proxy, table, lambda: self.now) for table in tables]

    def come(
        self,
        came: Arrival | None = None,
        plugins: Plugins = NONE,
        *,
        route: str = "1",
        worker: int = 0,
        listener: Listener = ANYBODY,
    ) -> list[Key]:
        """A session asks for all that it needs; SessionEnded, with nothing left behind, when it may not come in."""
        door, claims, came = self.doors[worker], list[Key](), came or arrival()
        door.enter()
        try:
            door.admit_client(listener, came.remote, claims)
            door.admit_route(route, plugins, came, claims)
        except SessionEnded:
            door.leave(claims)
            raise
        return claims

    def refusal(self, *args: Any, **members: Any) -> str:
        """Why a session may not come in, which it must not: "reason: detail"."""
        with pytest.raises(SessionEnded) as ended:
            self.come(*args, **members)
        return f"{ended.value.reason}: {ended.value.detail}"

    def admits(self, *args: Any, **members: Any) -> bool:
        """Whether a session may come in, which it does if it may."""
        try:
            self.come(*args, **members)
        except SessionEnded:
            return False
        return True


def rate(per_second: float, burst: int = 1) -> dict[str, float]:
    """A limit of new sessions."""
    return {"per_second": per_second, "burst": burst}


# By address


@pytest.mark.parametrize(
    ("allow", "deny", "admitted", "refused"),
    [
        ((), (), "192.0.2.1 2001:db8::1 0.0.0.0 ::", ""),
        (("192.0.2.0/24",), (), "192.0.2.1 ::ffff:192.0.2.1", "192.0.3.1 2001:db8::1"),
        (("2001:db8::/32",), (), "2001:db8::1", "2001:db9::1 192.0.2.1"),
        ((), ("192.0.2.0/24", "2001:db8::/32"), "192.0.3.1 ::1", "192.0.2.1 2001:db8::1"),
        (("192.0.2.0/24",), ("192.0.2.7",), "192.0.2.6 192.0.2.8", "192.0.2.7 192.0.3.7"),
        (("192.0.2.7",), ("192.0.2.0/24",), "", "192.0.2.7 192.0.2.8"),  # deny goes before
        ((), ("0.0.0.0/0", "::/0"), "", "192.0.2.1 2001:db8::1"),
        ((), ("::ffff:192.0.2.0/120",), "192.0.3.1", "192.0.2.1"),
    ],
)
def test_a_listeners_allow_and_deny(
    allow: tuple[str, ...], deny: tuple[str, ...], admitted: str, refused: str
) -> None:
    listener, here = Listener(address="[::]:8888", allow=allow, deny=deny), Pod({})
    for remote in admitted.split():
        assert here.come(arrival(remote), listener=listener) == []
    denied = "address_denied: by allow and deny of the listener"
    for remote in refused.split():
        assert here.refusal(arrival(remote), listener=listener) == denied


def test_a_routes_ip_restriction() -> None:
    here = Pod({"route_rate": rate(1, 2), "route_sessions": 2})
    plugins = enable({"ip-restriction": {"blacklist": [V4]}})
    denied = "address_denied: by ip-restriction of the route"
    assert [here.refusal(arrival(V4), plugins) for _ in range(9)] == [denied] * 9
    for _ in range(2):  # who was denied took nothing of the route's
        assert len(here.come(arrival(V6), plugins)) == 1


def test_plugins_that_are_switched_off_ask_for_nothing() -> None:
    off = {"_meta": {"disable": True}}
    assert Pod({}).come(plugins=enable({"ip-restriction": off, "limit-conn": off})) == []


# Each limit: how many come in, and what the next one is told

BOTH = {"address_sessions": 2, "route_sessions": 2}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("limits", "plugins", "fits", "refusal"),
    [
        ({"address_sessions": 1}, NONE, 1, "address_limit: limits.address_sessions"),
        ({"address_sessions": 3}, NONE, 3, "address_limit: limits.address_sessions"),
        ({"route_sessions": 2}, NONE, 2, "route_limit: limits.route_sessions"),
        ({}, limit_conn(1), 1, "route_limit: limit-conn of the route"),
        ({}, limit_conn(2, 3), 5, "route_limit: limit-conn of the route"),
        # of several the one that is reached first, then by the order of the stages
        (BOTH, limit_conn(2), 2, "address_limit: limits.address_sessions"),
        (BOTH | {"address_sessions": 3}, limit_conn(2), 2, "route_limit: limits.route_sessions"),
    ],
)
def test_sessions_at_once(
    workers: int, limits: dict[str, Any], plugins: Plugins, fits: int, refusal: str
) -> None:
    here = Pod(limits, workers)
    for nth in range(fits):
        here.come(plugins=plugins, worker=nth % workers)
    for worker in (*range(workers), 0):
        assert here.refusal(plugins=plugins, worker=worker) == f"{refusal}: {fits} are open"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("whose", ["address", "route"])
@pytest.mark.parametrize(
    ("per_second", "burst", "text"),
    [
        (0.5, 3, "over 0.5 per second, 3 at once"),
        (20, 1, "over 20 per second, 1 at once"),
        (1e6, 2, "over 1e+06 per second, 2 at once"),
    ],
)
def test_new_sessions(workers: int, whose: str, per_second: float, burst: int, text: str) -> None:
    """Asked before those at once."""
    here = Pod({f"{whose}_rate": rate(per_second, burst), f"{whose}_sessions": burst}, workers)
    for nth in range(burst):
        here.come(worker=nth % workers)
    for worker in (*range(workers), 0):
        assert here.refusal(worker=worker) == f"{whose}_rate: limits.{whose}_rate: {text}"


@pytest.mark.parametrize(
    ("limits", "plugins", "claims"),
    [
        ({}, NONE, 0),
        ({"address_rate": rate(1), "route_rate": rate(1)}, NONE, 0),
        ({"address_sessions": 1}, NONE, 1),
        ({"route_sessions": 1}, NONE, 1),
        ({}, limit_conn(1), 1),
        ({"address_sessions": 1, "route_sessions": 1}, limit_conn(1), 3),
    ],
)
def test_what_a_session_has_to_give_back(
    limits: dict[str, Any], plugins: Plugins, claims: int
) -> None:
    here = Pod(limits)
    for _ in range(5):
        session = here.come(plugins=plugins)
        assert len(session) == len(set(session)) == claims
        assert here.doors[0].active == 1
        here.doors[0].leave(session)
        assert here.doors[0].active == 0
        here.now += 1
    assert here.doors[0].uncounted == 0


def test_who_is_refused_late_gives_back_what_it_had() -> None:
    here = Pod({"address_sessions": 1, "route_sessions": 2})
    first = here.come(arrival(V4), limit_conn(1, key="server_addr"))
    assert not here.admits(arrival(V6), limit_conn(1, key="server_addr"))
    assert len(here.come(arrival(V6))) == 2  # its address and the route count it not
    here.doors[0].leave(first)
    assert len(here.come(arrival(V4))) == 2


@pytest.mark.parametrize("limit", ["address_rate", "route_rate"])
def test_a_rate_is_gained_with_time_and_not_by_leaving(limit: str) -> None:
    here = Pod({limit: rate(2, 2)})
    for session in (here.come(), here.come()):
        here.doors[0].leave(session)
    assert not here.admits()
    here.now += 0.5
    here.come()
    assert not here.admits()
    here.now += 60
    assert [here.admits() for _ in range(4)] == [True, True, False, False]


# Who shares a count


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("0.0.0.0", "::", False),
        ("2001:db8:0:1::1", "2001:db8:0:1::1", True),
        ("2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("2001:db8:0:1::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
    ],
)
def test_a_client_is_its_ipv4_address_or_its_ipv6_64(first: str, second: str, shares: bool) -> None:
    for limits, plugins in (
        ({"address_sessions": 1}, NONE),
        ({"address_rate": rate(1)}, NONE),
        ({}, limit_conn(1)),
    ):
        here = Pod(limits)
        here.come(arrival(first), plugins)
        assert here.admits(arrival(second), plugins) is not shares


@pytest.mark.parametrize(
    ("limits", "plugins"),
    [
        ({"route_sessions": 1}, NONE),
        ({"route_rate": rate(1)}, NONE),
        ({}, limit_conn(1, key="server_addr")),
    ],
)
def test_each_route_counts_for_itself(limits: dict[str, Any], plugins: Plugins) -> None:
    here = Pod(limits)
    here.come(arrival(V4), plugins, route="1")
    here.come(arrival(V4), plugins, route="2")
    assert not here.admits(arrival(V6), plugins, route="1")


OTHERS = {
    "remote_addr": arrival(remote="192.0.2.2"),
    "server_addr": arrival(server="198.51.100.2"),
    "server_port": arrival(port=8889),
    "ssl_server_name": arrival(name="other.example.com"),
    "ssl_preread_server_name": arrival(name="other.example.com"),
}


@pytest.mark.parametrize(
    ("key", "apart"),
    [
        ("remote_addr", {"remote_addr"}),
        ("server_addr", {"server_addr"}),
        ("server_port", {"server_port"}),
        ("ssl_server_name", {"ssl_server_name", "ssl_preread_server_name"}),
        ("ssl_preread_server_name", {"ssl_server_name", "ssl_preread_server_name"}),
        ("$remote_addr", {"remote_addr"}),
        ("$remote_addr $server_port", {"remote_addr", "server_port"}),
        ("a${server_addr}b$remote_addr", {"remote_addr", "server_addr"}),
        ("$ssl_server_name:$server_port", OTHERS.keys() - {"remote_addr", "server_addr"}),
    ],
)
def test_who_differs_in_a_variable_of_the_key_counts_apart(key: str, apart: set[str]) -> None:
    plugins = limit_conn(1, key=key, key_type="var_combination" if "$" in key else "var")
    for name, other in OTHERS.items():
        here = Pod({})
        here.come(arrival(), plugins)
        assert not here.admits(arrival(), plugins)
        assert here.admits(other, plugins) is (name in apart), name


@pytest.mark.parametrize("key", ["ssl_server_name", "$ssl_server_name$ssl_preread_server_name"])
def test_who_gives_no_name_is_counted_by_address(key: str) -> None:
    plugins = limit_conn(1, key=key, key_type="var_combination" if "$" in key else "var")
    here = Pod({})
    for remote in (V4, "192.0.2.2", V6):
        here.come(arrival(remote, None), plugins)
        assert not here.admits(arrival(remote, None), plugins)
    assert not here.admits(arrival("2001:db8:0:1::2", None), plugins)
    here.come(arrival(V4, NAME), plugins)


def test_values_of_two_variables_do_not_run_into_each_other() -> None:
    plugins = limit_conn(1, key="$server_port$ssl_server_name", key_type="var_combination")
    here = Pod({})
    for name, port in (("1.a", 8), (".a", 81)):
        here.come(arrival(name=name, port=port), plugins)


# The delay of limit-conn


@pytest.mark.parametrize(
    ("conn", "delay", "delays"),
    [
        (1, 0.5, [0, 0.5, 1.0, 1.5]),
        (2, 0.5, [0, 0, 0.5, 0.5, 1.0, 1.0, 1.5]),
        (3, 2.0, [0, 0, 0, 2.0]),
        (4, 0.5, [0, 0, 0, 0]),
        (1, 25.0, [0, 25.0, 50.0, LONGEST_DELAY, LONGEST_DELAY]),
        (1, 1e308, [0, LONGEST_DELAY, LONGEST_DELAY]),
    ],
)
def test_beyond_conn_they_wait(conn: int, delay: float, delays: list[float]) -> None:
    plugins, claims = limit_conn(conn, len(delays) - conn, delay), list[Key]()
    (door,) = Pod({}).doors
    assert [door.admit_route("1", plugins, arrival(), claims) for _ in delays] == delays
    with pytest.raises(SessionEnded):
        door.admit_route("1", plugins, arrival(), claims)
    door.enter()
    door.leave([claims.pop()])
    assert door.admit_route("1", plugins, arrival(), claims) == delays[-1]


# All workers, and a table that is full


def test_max_sessions_counts_those_of_all_workers() -> None:
    here = Pod({}, workers=2, max_sessions=3)
    first, second = here.doors
    assert [door.enter() for door in (first, second, second)] == [True, True, True]
    for door in (first, second):
        assert not door.enter()
        door.leave([])
    assert (first.active, second.active) == (1, 2)
    second.leave([])
    assert first.enter()


def test_who_finds_no_room_in_the_table_comes_in_and_is_counted_as_that() -> None:
    here = Pod({"address_sessions": 1}, entries=WAYS)
    crowd = [here.come(arrival(f"192.0.2.{number}")) for number in range(WAYS)]
    assert [here.come(arrival(V6)) for _ in range(3)] == [[], [], []]
    assert here.doors[0].uncounted == 3
    here.doors[0].leave(crowd[0])
    assert len(here.come(arrival(V6))) == 1
    assert not here.admits(arrival(V6))


STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 1), st.sampled_from("123"), st.integers(1, 3)),
    max_size=60,
)


@given(STEPS)
def test_any_history_keeps_to_the_limits_and_leaves_nothing(
    steps: list[tuple[bool, int, str, int]],
) -> None:
    here = Pod({"address_sessions": 4, "route_sessions": 3}, workers=2)
    inside: list[tuple[int, str, int, list[Key]]] = []
    for comes, worker, route, client in steps:
        if comes:
            addresses = Counter(one[2] for one in inside)[client]
            routes = Counter(one[1] for one in inside)[route]
            full = (addresses >= 4 and "address_limit") or (routes >= 3 and "route_limit")
            came = Arrival(None, ip_address(f"192.0.2.{client}"), ip_address("::1"), 8888)
            if full:
                assert here.refusal(came, route=route, worker=worker).startswith(full)
            else:
                inside.append((worker, route, client, here.come(came, route=route, worker=worker)))
        elif inside:
            left = inside.pop(client % len(inside))
            here.doors[left[0]].leave(left[3])
        assert sum(door.active for door in here.doors) == len(inside)
    for worker, _, _, claims in inside:
        here.doors[worker].leave(claims)
    for client in (1, 2, 3) * 3:
        here.come(arrival(f"192.0.2.{client}"), route=str(client))
