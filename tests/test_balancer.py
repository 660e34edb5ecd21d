"""An upstream at work: what of its object sessions ask for."""

from typing import Any

import pytest

from sniproxy.balancer import Target
from sniproxy.balancing import MOST_PICKS
from sniproxy.objects import InlineUpstream


def target(**members: Any) -> Target:
    """An upstream with one node, or with those that are given."""
    return Target(InlineUpstream.model_validate({"nodes": {"127.0.0.1:1": 1}, **members}))


@pytest.mark.parametrize(
    ("members", "plain"),
    [
        ({}, True),
        *[({"scheme": one}, True) for one in ("http", "https", "grpc", "grpcs", "tcp")],
        *[({"scheme": one}, False) for one in ("tls", "udp", "kafka")],
        ({"proxy_protocol": "v1"}, False),
        ({"proxy_protocol": "v2"}, False),
        ({"scheme": "tls", "proxy_protocol": "v2"}, False),
    ],
)
def test_what_game_servers_get_bytes_and_nothing_else(members: dict[str, Any], plain: bool) -> None:
    assert target(**members).is_plain is plain


@pytest.mark.parametrize(
    ("nodes", "size"),
    [
        ({"a": 1, "b": MOST_PICKS - 1}, MOST_PICKS),
        ({"a": 1, "b": MOST_PICKS}, 0),
        ({"a": 0}, 0),
        ([], 0),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_upstreams_round_is_of_so_many_picks_at_most(nodes: Any, size: int) -> None:
    assert len(target(nodes=nodes).round) == size


@pytest.mark.parametrize("kind", ["random", "least_conn", "ewma", "chash"])
def test_whose_picks_depend_on_more_has_no_round(kind: str) -> None:
    assert target(type=kind).round == ()


@pytest.mark.parametrize(
    ("members", "retries"),
    [
        ({}, 0),
        ({"nodes": {"a": 1, "b": 1, "c": 0}}, 1),
        ({"nodes": {}}, -1),
        ({"retries": 0, "nodes": {"a": 1, "b": 1}}, 0),
        ({"retries": 7}, 7),
    ],
)
def test_retries_are_as_many_as_there_are_other_nodes(
    members: dict[str, Any], retries: int
) -> None:
    assert target(**members).retries == retries


@pytest.mark.parametrize(
    ("members", "idle_timeout"),
    [({}, None), ({"timeout": {"connect": 1, "send": 20, "read": 7}}, 20)],
)
def test_the_longer_of_send_and_read_is_the_idle_timeout(
    members: dict[str, Any], idle_timeout: float | None
) -> None:
    assert target(**members).idle_timeout == idle_timeout
