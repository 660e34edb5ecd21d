"""Which route a connection takes: tables, and a naive router that must agree whatever came before."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.networks import IpAddress
from sniproxy.objects import StreamRoute
from sniproxy.router import Arrival, Route, Router


def route(route_id: str, **members: Any) -> Route:
    """A route with these conditions; `sni` may be left out."""
    return Route(route_id, StreamRoute.model_validate(members))


def index(*routes: Route) -> Router:
    """A router with these, added in this order."""
    router = Router()
    for one in routes:
        router.add(one)
    return router


def arrival(
    name: str | None, remote: str = "192.0.2.1", server: str = "198.51.100.1", port: int = 8888
) -> Arrival:
    """A connection."""
    return Arrival(name, ip_address(remote), ip_address(server), port)


def winner(router: Router, came: Arrival) -> tuple[str, str] | None:
    """(id, pattern) of the route that wins."""
    match = router.match(came)
    return None if match is None else (match.route.id, match.pattern)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.x.com", ("exact", "a.x.com")),
        ("b.x.com", ("star x", "*.x.com")),
        ("c.b.a.x.com", ("star a.x", "*.a.x.com")),
        ("d.c.b.x.com", ("star x", "*.x.com")),  # any depth
        ("x.com", ("any", "*")),  # not the apex
        ("evilx.com", ("any", "*")),
        ("foo.org", ("any", "*")),  # the star is one character at least
        ("a.foo.org", ("no dot", "*foo.org")),
        ("myfoo.org", ("no dot", "*foo.org")),
        ("localhost", ("any", "*")),
        ("dotted.com", ("dotted", "dotted.com")),
        ("second.org", ("two names", "second.org")),
        (None, ("unnamed", "")),
    ],
)
def test_by_name(name: str | None, expected: tuple[str, str]) -> None:
    router = index(
        route("unnamed"),
        route("any", sni="*"),
        route("star x", sni="*.X.com"),
        route("star a.x", sni="*.a.x.com"),
        route("exact", sni="A.x.COM"),
        route("no dot", sni="*foo.org"),
        route("dotted", sni="Dotted.com."),
        route("two names", snis=["first.org", "second.org", "Second.org"]),
    )
    assert winner(router, arrival(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.com", None), ("a.b.com", ("1", "*.b.com")), ("b.com", None), ("", None), (None, None)],
)
def test_nothing_fits(name: str | None, expected: tuple[str, str] | None) -> None:
    assert winner(index(route("1", sni="*.b.com"), route("2", sni="y.com")), arrival(name)) == (
        expected
    )


def test_unnamed_and_star() -> None:
    """`*` restricts nothing: it comes before the unnamed routes for a name, after them for none."""
    router = index(route("unnamed"), route("star", sni="*"))
    assert winner(router, arrival("x.com")) == ("star", "*")
    assert winner(router, arrival(None)) == ("unnamed", "")
    assert winner(index(route("star", sni="*")), arrival(None)) == ("star", "*")
    assert winner(index(route("unnamed")), arrival("x.com")) == ("unnamed", "")


@pytest.mark.parametrize(
    ("conditions", "came", "fits"),
    [
        ({"server_port": 8888}, arrival("x"), True),
        ({"server_port": 8889}, arrival("x"), False),
        ({"remote_addr": "192.0.2.1"}, arrival("x"), True),
        ({"remote_addr": "192.0.2.2"}, arrival("x"), False),
        ({"remote_addr": "192.0.2.77/24"}, arrival("x"), True),
        ({"remote_addr": "192.0.3.0/24"}, arrival("x"), False),
        ({"remote_addr": "0.0.0.0/0"}, arrival("x"), True),
        ({"remote_addr": "::/0"}, arrival("x"), False),
        ({"remote_addr": "0.0.0.0/0"}, arrival("x", remote="2001:db8::1"), False),
        ({"remote_addr": "2001:db8::1"}, arrival("x", remote="2001:db8::1"), True),
        ({"remote_addr": "2001:db8::/32"}, arrival("x", remote="2001:db8:1::1"), True),
        ({"remote_addr": "2001:db9::/32"}, arrival("x", remote="2001:db8:1::1"), False),
        ({"server_addr": "198.51.100.1"}, arrival("x"), True),
        ({"server_addr": "198.51.100.0/30"}, arrival("x"), True),
        ({"server_addr": "198.51.100.4/30"}, arrival("x"), False),
        ({"server_addr": "::1"}, arrival("x", server="::1"), True),
        ({"server_port": 8888, "remote_addr": "192.0.2.9"}, arrival("x"), False),
        ({"server_port": 8888, "remote_addr": "192.0.2.1"}, arrival("x"), True),
    ],
)
def test_conditions(conditions: dict[str, Any], came: Arrival, fits: bool) -> None:
    for names in ({"sni": "x"}, {"sni": "*"}, {}):
        assert (index(route("1", **names, **conditions)).match(came) is not None) is fits


def test_a_name_whose_conditions_fail_falls_through_step_by_step() -> None:
    router = index(
        route("exact", sni="a.b.c", server_port=1),
        route("long", sni="*.b.c", server_port=2),
        route("short", sni="*.c", server_port=3),
        route("any", sni="*", server_port=4),
        route("unnamed", server_port=5),
    )
    taken = [winner(router, arrival("a.b.c", port=port)) for port in range(1, 7)]
    assert taken == [
        ("exact", "a.b.c"),
        ("long", "*.b.c"),
        ("short", "*.c"),
        ("any", "*"),
        ("unnamed", ""),
        None,
    ]


def test_the_narrower_route_wins() -> None:
    """Longer remote_addr, longer server_addr, a server_port, the lower id as text."""
    ranked = [
        route("z1", sni="x", remote_addr="192.0.2.1"),
        route("z2", sni="x", remote_addr="192.0.2.0/24", server_addr="198.51.100.1"),
        route("z3", sni="x", remote_addr="192.0.2.0/24", server_port=8888),
        route("z4", sni="x", remote_addr="192.0.2.0/24"),
        route("y", sni="x", remote_addr="0.0.0.0/0"),
        route("x1", sni="x", server_addr="198.51.100.1", server_port=8888),
        route("x2", sni="x", server_addr="198.51.100.1"),
        route("x3", sni="x", server_addr="198.0.0.0/8", server_port=8888),
        route("w", sni="x", server_port=8888),
        route("10", sni="x"),
        route("9", sni="x"),
    ]
    router = index(*reversed(ranked))
    for expected in ranked:
        match = router.match(arrival("x"))
        assert match is not None
        assert match.route is expected
        router.remove(expected)
    assert router.match(arrival("x")) is None


def test_removal_leaves_no_trace() -> None:
    routes = [
        route("1", snis=["a.com", "*.a.com", "*"]),
        route("2", sni="*.b.com"),
        route("3"),
        route("4", sni="*.a.com"),
    ]
    router = index(*routes)
    router.remove(routes[0])
    assert winner(router, arrival("x.a.com")) == ("4", "*.a.com")
    assert winner(router, arrival("a.com")) == ("3", "")
    for one in routes[1:]:
        router.remove(one)
    assert vars(router) == vars(Router())


# The naive router: every route that fits, the best of them by one key.
Definition = tuple[str, dict[str, Any]]

NAMES = ["a", "b.a", "c.b.a", "*", "*.a", "*.b.a", "*a", "*b.a", "A", "a.", "*.B.a"]
ADDRESSES = ["10.0.0.1", "10.0.0.0/8", "10.0.0.0/31", "0.0.0.0/0", "::1", "::/0"]
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "snis": st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    "remote_addr": st.sampled_from(ADDRESSES),
    "server_addr": st.sampled_from(ADDRESSES),
    "server_port": st.integers(1, 2),
}
DEFINITIONS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.fixed_dictionaries({}, optional=CONDITIONS), max_size=8
)
ARRIVALS = st.builds(
    arrival,
    st.sampled_from(["a", "b.a", "c.b.a", "d.c.b.a", "ba", "aa.b", "z", None]),
    remote=st.sampled_from(["10.0.0.1", "10.0.0.2", "11.0.0.1", "::1", "::2"]),
    server=st.sampled_from(["10.0.0.1", "::1"]),
    port=st.integers(1, 3),
)


def step(pattern: str | None, name: str | None) -> tuple[int, int] | None:
    """How near a pattern is to a name, lowest first; None when it does not cover it."""
    if pattern is None:
        return (2, 0) if name is not None else (0, 0)
    if name is None:
        return (1, 0) if pattern == "*" else None
    if not pattern.startswith("*"):
        return (0, 0) if pattern == name else None
    covers = name.endswith(pattern[1:]) and name != pattern[1:]
    return (1, -len(pattern)) if covers else None


def naive(definitions: Iterable[Definition], came: Arrival) -> tuple[str, str] | None:
    """What the module's docstring says, in one sort."""
    found = []
    for route_id, members in definitions:
        remote, server = (
            None if (text := members.get(member)) is None else ip_network(text, strict=False)
            for member in ("remote_addr", "server_addr")
        )
        port = members.get("server_port")
        if (
            (remote is not None and came.remote not in remote)
            or (server is not None and came.server not in server)
            or (port is not None and port != came.server_port)
        ):
            continue
        narrowness = (
            -(-1 if remote is None else remote.prefixlen),
            -(-1 if server is None else server.prefixlen),
            port is None,
            route_id,
        )
        for written in members.get("snis", [None]):
            pattern = None if written is None else written.lower().rstrip(".")
            near = step(pattern, came.server_name)
            if near is not None:
                found.append((near, narrowness, (route_id, pattern or "")))
    return min(found)[2] if found else None


@given(st.data(), DEFINITIONS, st.lists(ARRIVALS, min_size=1, max_size=10))
def test_any_history_gives_the_answers_of_the_naive_router(
    data: st.DataObject, definitions: dict[str, dict[str, Any]], arrivals: list[Arrival]
) -> None:
    order = data.draw(st.permutations(sorted(definitions)))
    removed = data.draw(st.sets(st.sampled_from(order)) if order else st.just(set[str]()))
    routes = {route_id: route(route_id, **members) for route_id, members in definitions.items()}
    router = index(*(routes[route_id] for route_id in order))
    for route_id in sorted(removed):
        router.remove(routes[route_id])
    left = [one for one in definitions.items() if one[0] not in removed]
    for came in arrivals:
        assert winner(router, came) == naive(left, came)
    for route_id, _ in left:
        router.remove(routes[route_id])
    assert vars(router) == vars(Router())


# The route that everybody takes

REMOTE, SERVER, PORT = {"remote_addr": "::/0"}, {"server_addr": "0.0.0.0/0"}, {"server_port": 8888}


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], None),
        ([route("1", sni="a.b")], "1"),
        ([route("1", sni="*.b")], "1"),
        ([route("1", sni="*")], "1"),
        ([route("1")], "1"),
        ([route("1", sni="b")], None),
        ([route("1", sni="a.b", **REMOTE)], None),
        ([route("1", sni="a.b", **SERVER)], None),
        ([route("1", sni="a.b", **PORT)], "1"),
        ([route("1", sni="a.b", server_port=1)], None),
        ([route("1", sni="a.b", **PORT, **REMOTE)], None),
        # who does not fit the first one takes the second: not everybody takes either
        ([route("1", sni="a.b", **REMOTE), route("2", sni="a.b")], None),
        ([route("1", sni="a.b", **SERVER), route("2", sni="*.b")], None),
        ([route("1", sni="*.b", **REMOTE), route("2")], None),
        # nobody takes the first one here
        ([route("1", sni="a.b", server_port=1, **REMOTE), route("2", sni="a.b")], "2"),
        ([route("1", sni="a.b", server_port=1), route("2", sni="*.b"), route("3")], "2"),
        # nobody comes to the one that asks
        ([route("1", sni="a.b"), route("2", sni="*.b", **REMOTE), route("3", **SERVER)], "1"),
        ([route("1", sni="a.b", **PORT), route("2", sni="a.b")], "1"),
    ],
)
def test_the_route_for_all(routes: list[Route], expected: str | None) -> None:
    found = index(*routes).match_for_all("a.b", 8888)
    assert (found.id if found else None) == expected


@given(
    DEFINITIONS,
    st.sampled_from(["a", "b.a", "c.b.a", "d.c.b.a", "ba", "aa.b", "z"]),
    st.integers(1, 3),
    st.lists(st.tuples(st.ip_addresses(), st.ip_addresses()), max_size=5),
    st.lists(ARRIVALS, max_size=5),
)
def test_the_route_for_all_is_everybodys(
    definitions: dict[str, dict[str, Any]],
    name: str,
    port: int,
    anywhere: list[tuple[IpAddress, IpAddress]],
    near: list[Arrival],
) -> None:
    """And where no route asks for an address, there is one for all if there is one for anybody."""
    router = index(*(route(route_id, **members) for route_id, members in definitions.items()))
    found = router.match_for_all(name, port)
    asks = any({"remote_addr", "server_addr"} & set(members) for members in definitions.values())
    addresses = anywhere + [(one.remote, one.server) for one in near]
    for remote, server in addresses:
        match = router.match(Arrival(name, remote, server, port))
        if found is not None or not asks:
            assert (match and match.route) is found
