"""Who is probed, when, and what comes of it: on a clock that jumps, with findings as data."""

from itertools import pairwise
from typing import Any

import pytest
import trio

from sniproxy.probing import JITTER, LOOK_EVERY, MOST_A_SECOND, MOST_PROBES, NAMES_EVERY, SAY_EVERY
from tests.support.names import Resolver
from tests.support.probing import BAD, GOOD, ODD, REFUSED, SILENT, Probed, probed, upstream

pytestmark = pytest.mark.anyio

NODE = "10.0.0.1:7001"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def until_asked(stage: Probed, port: int, count: int) -> None:
    """Until that one was probed so many times, and what was found is known."""
    while len(stage.times(port)) < count:  # noqa: ASYNC110  # time is virtual
        await trio.sleep(0.05)
    await trio.sleep(2 * SAY_EVERY)


@pytest.mark.parametrize(
    ("found", "rules", "count"),
    [
        (REFUSED, {}, 2),
        (SILENT, {}, 3),
        (BAD, {"type": "http"}, 5),
        (REFUSED, {"unhealthy": {"tcp_failures": 4}}, 4),
        (SILENT, {"unhealthy": {"timeouts": 1}}, 1),
        (BAD, {"unhealthy": {"http_failures": 2}}, 2),
    ],
)
async def test_so_many_failures_make_it_unhealthy(
    found: Any, rules: dict[str, Any], count: int
) -> None:
    async with probed({"upstreams/1": upstream(7001, 7002, **rules)}) as stage:
        stage.finds[7001] = found
        await until_asked(stage, 7001, count - 1) if count > 1 else None
        assert stage.told == []
        await until_asked(stage, 7001, count)
        assert stage.down() == [NODE]
        (line,) = stage.logged("game server unhealthy")
        assert line["node"] == NODE
        assert line["cause"] == f"{found.result}: {found.why}"
        assert stage.metric("upstream_unhealthy") == 1
        assert stage.metric("probes_total", result=found.result) == count
        await trio.sleep(20)
        assert len(stage.told) == 1  # it is said once
        assert len(stage.logged("game server unhealthy")) == 1


async def test_so_many_successes_make_it_healthy_again() -> None:
    objects = {"stream_routes/1": {"upstream": upstream(7001, healthy={"successes": 3})}}
    async with probed(objects) as stage:
        stage.finds[7001] = REFUSED
        await until_asked(stage, 7001, 5)
        assert stage.down() == [NODE]
        stage.finds[7001] = GOOD
        await until_asked(stage, 7001, 7)
        assert stage.down() == [NODE]
        await until_asked(stage, 7001, 8)
        assert stage.down() == []
        assert stage.told[-1] == frozenset()
        (line,) = stage.logged("game server healthy")
        assert (line["node"], line["successes"]) == (NODE, 3)
        assert stage.metric("upstream_unhealthy") == 0


@pytest.mark.parametrize("odd", [ODD, RuntimeError("a defect")])
async def test_what_counts_for_nothing_changes_nothing(odd: Any) -> None:
    """Neither does a defect of ours, which is logged and counted, and probing goes on."""
    async with probed({"upstreams/1": upstream(7001)}) as stage:
        stage.finds[7001] = odd
        await until_asked(stage, 7001, 20)
        assert stage.told == []
        assert stage.metric("probes_total", result="neither") == 20
        defects = stage.metric("session_errors_total", route="")
        assert defects == (20 if odd is not ODD else None)


async def test_a_success_between_failures_begins_the_count_anew() -> None:
    async with probed({"upstreams/1": upstream(7001, unhealthy={"tcp_failures": 3})}) as stage:
        for count in range(1, 30):
            stage.finds[7001] = GOOD if count % 3 == 0 else REFUSED
            await until_asked(stage, 7001, count)
        assert stage.told == []


async def test_intervals_are_those_of_the_opinion_and_jittered() -> None:
    rules: dict[str, Any] = {
        "healthy": {"interval": 10},
        "unhealthy": {"interval": 2, "tcp_failures": 1},
    }
    async with probed({"upstreams/1": upstream(7001, 7002, **rules)}) as stage:
        stage.finds[7002] = REFUSED
        await trio.sleep(100)
        for port, interval in (7001, 10), (7002, 2):
            times = stage.times(port)
            assert 0 < times[0] < 10 + LOOK_EVERY  # of a healthy one, for all that is known
            pauses = [later - sooner for sooner, later in pairwise(times)]
            assert all(abs(one - interval) <= interval * JITTER + 1e-9 for one in pauses)
            assert len({round(one, 6) for one in pauses}) == len(pauses)
        assert len(stage.times(7001)) in range(8, 12)


async def test_first_probes_are_spread_over_the_interval() -> None:
    async with probed(
        {"upstreams/1": upstream(*range(1000, 1200), healthy={"interval": 20})}
    ) as stage:
        await trio.sleep(20)
        firsts = [stage.times(port)[0] for port in range(1000, 1200)]
        for tenth in range(10):
            assert sum(2 * tenth <= one < 2 * tenth + 2 for one in firsts) in range(5, 45)


async def test_never_more_than_so_many_at_once() -> None:
    async with probed({"upstreams/1": upstream(*range(1000, 1500))}) as stage:
        stage.takes = 5
        await trio.sleep(60)
        assert stage.at_once == MOST_PROBES
        assert len({port for port, _ in stage.asked}) == 500  # and everybody has a turn


async def test_many_are_probed_in_turn_and_no_faster_than_so_many_a_second() -> None:
    ports = range(1000, 3000)
    async with probed({"upstreams/1": upstream(*ports)}) as stage:
        await trio.sleep(10)
        assert len(stage.asked) <= 10 * MOST_A_SECOND + 1
        counts = [len(stage.times(port)) for port in ports]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 2


async def test_of_many_that_fail_together_others_are_told_now_and_then() -> None:
    async with probed({"upstreams/1": upstream(*range(1000, 1400))}) as stage:
        stage.finds = dict.fromkeys(range(1000, 1400), REFUSED)
        await trio.sleep(5)
        assert len(stage.told[-1]) == 400
        assert len(stage.told) <= 5 / SAY_EVERY
        assert len(stage.logged("game server unhealthy")) == 400


async def test_one_game_server_of_many_upstreams_is_probed_once_by_the_same_rules() -> None:
    objects = {
        "upstreams/1": upstream(7001),
        "upstreams/2": upstream(7001, 7002),
        "services/3": {"upstream": upstream(7001)},
        **{f"stream_routes/{n}": {"upstream": upstream(7001)} for n in range(50)},
        "stream_routes/plain": {"upstream": {"nodes": {"10.0.0.1:7009": 1}}},
    }
    async with probed(objects) as stage:
        await trio.sleep(30)
        assert len(stage.times(7001)) in range(27, 33)
        assert stage.times(7009) == []
        stage.finds[7001] = REFUSED
        await trio.sleep(5)
        assert stage.down() == [NODE]
        assert len(stage.told[-1]) == 1
        # by other rules it is another's opinion
        stage.change({"upstreams/1": upstream(7001, timeout=3)})
        await trio.sleep(5)
        assert len(stage.told[-1]) == 2


async def test_upstreams_come_and_go() -> None:
    async with probed({}) as stage:
        await trio.sleep(5)
        stage.change(
            {"upstreams/1": upstream(7001), "stream_routes/2": {"upstream": upstream(7002)}}
        )
        stage.finds = {7001: REFUSED, 7002: REFUSED}
        await trio.sleep(5)
        assert stage.down() == [NODE, "10.0.0.1:7002"]
        stage.change({"upstreams/1": None})
        await trio.sleep(LOOK_EVERY + 2 * SAY_EVERY)
        assert len(stage.told[-1]) == 1
        seen = len(stage.times(7001))
        await trio.sleep(10)
        assert len(stage.times(7001)) == seen
        # checks that are taken away are an end as well
        stage.change({"stream_routes/2": {"upstream": {"nodes": {"10.0.0.1:7002": 1}}}})
        await trio.sleep(LOOK_EVERY + 2 * SAY_EVERY)
        assert stage.told[-1] == frozenset()
        assert stage.probing.state() == []
        # who comes back is well until it is found otherwise
        stage.finds = {}
        stage.change({"upstreams/1": upstream(7001)})
        await trio.sleep(5)
        assert stage.down() == []
        assert len(stage.times(7001)) > seen


async def test_an_object_that_is_written_again_goes_on_with_what_is_known() -> None:
    async with probed({"upstreams/1": upstream(7001, 7002)}) as stage:
        stage.finds[7001] = REFUSED
        await trio.sleep(5)
        times = stage.times(7001)
        for _ in range(20):  # more often than it is probed
            stage.change({"upstreams/1": upstream(7001, 7003)})
            assert stage.down() == [NODE]  # from the first moment on
            await trio.sleep(0.3)
        assert len(stage.told) == 1
        assert len(stage.times(7001)) > len(times) + 3


async def test_another_worker_that_takes_over_goes_on_with_the_opinion() -> None:
    async with probed({"upstreams/1": upstream(7001, 7002)}) as stage:
        stage.finds[7001] = REFUSED
        await trio.sleep(5)
        (names,) = stage.told
    async with probed({"upstreams/1": upstream(7001, 7002)}, runs=False) as stage:
        stage.worker.snapshot.hear(names | {"10.0.0.9:1/of-what-is-gone"})
        assert stage.down() == [NODE]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.probing.run)
            await until_asked(stage, 7001, 1)
            assert stage.told == [names]  # what is probed no more is forgotten
            assert stage.metric("upstream_unhealthy") == 1
            await until_asked(stage, 7001, 2)  # the second success
            assert stage.down() == []
            stage.probing.stop()
        asked = len(stage.asked)
        await trio.sleep(10)
        assert len(stage.asked) == asked
        assert stage.metric("upstream_unhealthy") == 0


async def test_one_that_cannot_be_probed_is_said_once() -> None:
    broken = {"nodes": [{"host": "10.0.0.1", "weight": 1}], "checks": {"active": {"type": "tcp"}}}
    async with probed({"upstreams/1": broken, "upstreams/2": upstream(7001)}) as stage:
        for port in range(7002, 7010):
            await trio.sleep(2)
            stage.change({"upstreams/2": upstream(7001, port)})
        (line,) = stage.logged("game server not probed")
        assert line["node"] == "10.0.0.1:"
        assert "checks.active.port" in line["cause"]
        assert len(stage.times(7001)) > 10
        assert next(one["nodes"] for one in stage.probing.state()) == []


async def test_a_node_of_weight_0_is_not_probed() -> None:
    drained = upstream(7001, 7002)
    drained["nodes"]["10.0.0.1:7002"] = 0
    async with probed({"upstreams/1": drained}) as stage:
        await trio.sleep(10)
        assert stage.times(7001)
        assert not stage.times(7002)


async def test_nodes_that_dns_names_are_probed_and_followed() -> None:
    service = {
        "service_name": "gs.example:7001",
        "discovery_type": "dns",
        "checks": {"active": {"type": "tcp"}},
    }
    resolver = Resolver({"gs.example": ["10.0.0.1"]}, ttl=1)
    async with probed({"upstreams/1": service}, resolver) as stage:
        stage.finds[7001] = REFUSED
        await trio.sleep(4)  # nobody has played yet
        assert stage.down() == [NODE]
        (target,) = stage.worker.snapshot.probed.values()
        before = target.discovered
        resolver.names["gs.example"] = ["10.0.0.1", "10.0.0.2"]
        await trio.sleep(3 * NAMES_EVERY)
        assert target.discovered is not before
        assert stage.down() == [NODE, "10.0.0.2:7001"]
        assert target.discovered is not None
        assert target.discovered.discovered is None  # which keeps nothing of before
        resolver.names["gs.example"] = ["10.0.0.2"]
        await trio.sleep(3 * NAMES_EVERY)
        assert stage.down() == ["10.0.0.2:7001"]
        assert len(stage.told[-1]) == 1


async def test_what_is_shown_is_apisixs() -> None:
    objects = {
        "upstreams/1": upstream(7001, 7002, 7003, healthy={"successes": 9}),
        "services/a": {"upstream": upstream(7004, type="http", host="gs.example")},
    }
    objects["services/a"]["upstream"]["nodes"] = {"gs.example:7004": 1}
    async with probed(objects, Resolver({"gs.example": ["10.0.0.4"]})) as stage:
        stage.finds = {7001: REFUSED, 7003: REFUSED}
        await until_asked(stage, 7001, 4)
        await until_asked(stage, 7003, 4)
        stage.finds[7003] = GOOD
        count = len(stage.times(7003))
        await until_asked(stage, 7003, count + 1)
        stage.finds[7002] = SILENT
        count = len(stage.times(7002))
        await until_asked(stage, 7002, count + 1)
        upstreams, services = stage.probing.state()
        assert (upstreams["name"], upstreams["type"]) == ("/apisix/upstreams/1", "tcp")
        shown = {one["port"]: one for one in upstreams["nodes"]}
        assert {port: one["status"] for port, one in shown.items()} == {
            7001: "unhealthy",
            7002: "mostly_healthy",
            7003: "mostly_unhealthy",
        }
        assert (shown[7001]["ip"], shown[7001]["hostname"]) == ("10.0.0.1", "10.0.0.1")
        assert shown[7001]["counter"].pop("tcp_failure") >= 4
        assert shown[7001]["counter"] == {"success": 0, "http_failure": 0, "timeout_failure": 0}
        assert shown[7002]["counter"]["timeout_failure"] == 1
        assert (services["name"], services["type"]) == ("/apisix/services/a", "http")
        (node,) = services["nodes"]
        assert (node["hostname"], node["status"]) == ("gs.example", "healthy")


async def test_upstreams_without_checks_cost_nothing() -> None:
    objects = {
        f"stream_routes/{n}": {"upstream": {"nodes": {f"10.0.0.1:{n}": 1}}} for n in range(1, 500)
    }
    async with probed(objects) as stage:
        snapshot = stage.worker.snapshot
        assert (snapshot.probed, snapshot.probed_edition) == ({}, 0)
        stage.change({"stream_routes/1": None, "stream_routes/2": objects["stream_routes/3"]})
        assert snapshot.probed_edition == 0
