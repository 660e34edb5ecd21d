"""Names for all sessions of a worker: who waits for DNS, who does not, and what is said of it. On virtual time."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.metrics import Metrics
from sniproxy.name_cache import HOLDS, REFRESH, RETRY, Failed, Found, NameCache, Outcome, Service
from sniproxy.names import MOST_QUESTIONS, STALE_PATIENCE, Names
from sniproxy.settings import Dns
from tests.support.gateway import open_lines
from tests.support.names import Resolver, open_names

pytestmark = pytest.mark.anyio

GS = "gs.example"
DOWN = Failed("no answer")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """There is no socket here: time jumps whenever nobody has anything to do."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def resolver(*addresses: str, ttl: float = 30) -> Resolver:
    """One that knows GS."""
    return Resolver({GS: addresses or ("10.0.0.1",)}, ttl=ttl)


async def found(names: Names) -> tuple[str, ...]:
    """What GS is."""
    addresses, _ = await names.look_up(GS)
    return addresses


async def ended(names: Names, name: str = GS) -> str:
    """Why a name cannot be resolved."""
    with pytest.raises(SessionEnded) as caught:
        await names.look_up(name)
    assert caught.value.reason is CloseReason.UPSTREAM_NAME
    return caught.value.detail


async def test_a_name_is_asked_for_once_in_its_time() -> None:
    dns = resolver()
    async with open_names(dns) as names:
        for _ in range(5):
            assert await found(names) == ("10.0.0.1",)
        assert (await names.look_up("GS.Example"))[0] == ("10.0.0.1",)
    assert dns.asked == [GS]


async def test_many_who_ask_at_once_are_one_question() -> None:
    """Whoever of them gives up takes nothing from the others, not even the one who came first."""
    dns, got = resolver(), list[tuple[str, ...]]()

    async def slowly(key: object) -> Outcome:
        dns.asked.append(GS)
        await trio.sleep(2)
        return Found(("10.0.0.1",), 30)

    dns.ask = slowly  # type: ignore[method-assign]

    async def look() -> None:
        got.append(await found(names))

    async with open_names(dns) as names, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await look()
        for _ in range(200):
            nursery.start_soon(look)
    assert dns.asked == [GS]
    assert got == [("10.0.0.1",)] * 200


async def test_many_who_ask_for_what_is_not_there_are_one_question_too() -> None:
    dns, said = Resolver({}), list[str]()

    async def look() -> None:
        said.append(await ended(names))

    async with open_names(dns) as names:
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(look)
        await trio.sleep(4)
        said.append(await ended(names))
        assert dns.asked == [GS]
        dns.names[GS] = ["10.0.0.9"]
        await trio.sleep(2)
        assert await found(names) == ("10.0.0.9",)
    assert set(said) == {
        f"{GS}: DNS knows no such name (NXDOMAIN): correct the name in the upstream, or add it to DNS"
    }


async def test_a_name_in_use_is_asked_for_again_before_anybody_waits() -> None:
    """What it is by then is served from then on, without a session that waits."""
    dns = resolver()
    async with open_names(dns) as names:
        await found(names)
        await found(names)
        dns.names[GS] = ["10.0.0.2"]
        await trio.sleep(REFRESH * 30 + 1)
        assert dns.asked == [GS] * 2
        dns.names[GS] = None
        assert await found(names) == ("10.0.0.2",)


async def test_a_name_that_nobody_asks_for_is_not_asked_for() -> None:
    dns = resolver()
    async with open_names(dns) as names:
        await found(names)
        await found(names)
        await trio.sleep(3600)
    assert dns.asked == [GS] * 2


@pytest.mark.parametrize("ttl", [1, 5, 30])
async def test_new_sessions_follow_a_change_within_its_time_and_five_seconds(ttl: float) -> None:
    """However often they come, and when."""
    for pause in (0.1, 0.9 * ttl, 1.1 * ttl, 3 * ttl):
        dns = resolver(ttl=ttl)
        async with open_names(dns) as names:
            await found(names)
            dns.names[GS] = ["10.0.0.2"]
            changed = trio.current_time()
            while await found(names) != ("10.0.0.2",):
                await trio.sleep(pause)
                assert trio.current_time() - changed <= ttl + max(5, pause)
            assert trio.current_time() - changed <= ttl + pause


@pytest.mark.parametrize("pause", [0.1, 3, 60])
async def test_a_name_that_is_gone_is_let_go_within_its_time_and_five_seconds(
    pause: float,
) -> None:
    dns = resolver()
    async with open_names(dns) as names:
        await found(names)
        del dns.names[GS]
        gone = trio.current_time()
        try:
            while True:
                await found(names)
                served = trio.current_time()
                await trio.sleep(pause)
        except SessionEnded:
            assert served - gone <= 30 + 5


@pytest.mark.parametrize("how", [DOWN, None], ids=["failing", "silent"])
async def test_dns_is_down_for_five_minutes(how: Outcome | None) -> None:
    """Every session gets the last good answer, and hardly one waits; it is said once each way, and counted."""
    log, lines = open_lines()
    metrics, dns = Metrics(), resolver()

    async def ask(key: object) -> Outcome:
        dns.asked.append(GS)
        if dns.names[GS] is None:
            await trio.sleep(2)  # a client gives up by itself
            return DOWN
        known = dns.names[GS]
        assert known is not None
        return known if isinstance(known, Failed) else Found(("10.0.0.2",), 30)

    async with open_names(dns, log=log, metrics=metrics) as names:
        await found(names)
        dns.ask, names._ask, dns.names[GS] = ask, ask, how  # type: ignore[method-assign]
        waited = []
        for _ in range(300):
            before = trio.current_time()
            assert await found(names) == ("10.0.0.1",)
            waited.append(trio.current_time() - before)
            await trio.sleep(1)
        assert max(waited) <= STALE_PATIENCE
        assert sum(1 for one in waited if one) <= 1
        assert 300 / (RETRY + 3) <= len(dns.asked) <= 300 / RETRY
        dns.names[GS] = ["10.0.0.2"]
        await trio.sleep(RETRY + 2)
        assert await found(names) == ("10.0.0.2",)
    lost, back = lines.all
    assert (lost["event"], lost["name"], lost["served"]) == (
        "name not resolved",
        GS,
        ["10.0.0.1"],
    )
    assert lost["cause"].startswith("no answer: see whether the servers of /etc/resolv.conf")
    assert (back["event"], back["name"]) == ("name resolved again", GS)
    count = metrics.registry.get_sample_value
    assert count("sniproxy_names_stale_total") == pytest.approx(300 - 31, abs=3)
    assert count("sniproxy_names_failed_total") == len(dns.asked) - 2
    assert count("sniproxy_names_resolved_total") == 2


async def test_who_comes_after_a_long_time_waits_half_a_second_for_better() -> None:
    dns = resolver()
    async with open_names(dns) as names:
        await found(names)
        await trio.sleep(3600)
        dns.names[GS] = None
        before = trio.current_time()
        assert await found(names) == ("10.0.0.1",)
        assert trio.current_time() - before == STALE_PATIENCE


async def test_what_is_too_old_is_not_served_to_who_waits() -> None:
    """Where stale answers have a bound."""
    dns = resolver()
    async with open_names(dns, stale=60) as names:
        await found(names)
        await trio.sleep(30 + 59)
        dns.names[GS] = None
        assert await found(names) == ("10.0.0.1",)
        await trio.sleep(1)
        with trio.move_on_after(10) as scope:
            await found(names)
        assert scope.cancelled_caught


async def test_dns_was_down_and_back_while_nobody_came() -> None:
    dns = resolver()
    async with open_names(dns) as names:
        await found(names)
        dns.names[GS] = DOWN
        await trio.sleep(31)
        await found(names)
        dns.names[GS] = ["10.0.0.2"]
        await trio.sleep(HOLDS + 1)
        assert await found(names) == ("10.0.0.2",)


async def test_without_an_answer_ever_there_is_nothing_to_go_on_with() -> None:
    """And nobody waits for it twice within seconds."""
    dns = Resolver({GS: DOWN})
    async with open_names(dns) as names:
        for _ in range(3):
            said = await ended(names)
            assert said.startswith(f"{GS}: no answer: see whether the servers of /etc/resolv.conf")
        assert dns.asked == [GS]
        dns.names[GS] = ["10.0.0.1"]
        await trio.sleep(RETRY)
        assert await found(names) == ("10.0.0.1",)


async def test_the_next_who_asks_has_the_next_turn() -> None:
    async with open_names(resolver("10.0.0.1", "10.0.0.2")) as names:
        turns = [(await names.look_up(GS))[1] for _ in range(4)]
    assert turns == [0, 1, 2, 3]


async def test_services_are_asked_for_as_they_are() -> None:
    offered = Service(0, 1, 7001, "gs.example.")
    dns = Resolver({"_g._tcp.example": Found((offered,), 30)})
    async with open_names(dns) as names:
        assert await names.services("_g._tcp.example") == (offered,)


async def test_what_stands_in_hosts_is_asked_of_nobody(tmp_path: Path) -> None:
    """As soon as it stands there, and until it does no more."""
    dns, hosts = resolver(), tmp_path / "hosts"
    async with open_names(dns, hosts=hosts) as names:
        hosts.write_text("10.9.9.9 GS.example\nfd00::9 gs.example")
        assert await found(names) == ("10.9.9.9", "fd00::9")
        assert await names.look_up("GS.EXAMPLE.") == (("10.9.9.9", "fd00::9"), 1)
        assert dns.asked == []
        hosts.write_text("")
        await trio.sleep(1)
        assert await found(names) == ("10.0.0.1",)


async def test_each_name_in_hosts_has_turns_of_its_own(tmp_path: Path) -> None:
    """Or two that are asked for by turns would lead to one address each."""
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.1 a b\n10.0.0.2 a b\n")
    async with open_names(Resolver({}), hosts=hosts) as names:
        turns = [[(await names.look_up(name))[1] for name in "ab"] for _ in range(4)]
    assert all(later[0] == now[0] + 1 for now, later in pairwise(turns))
    assert all(later[1] == now[1] + 1 for now, later in pairwise(turns))


async def test_so_many_names_are_asked_for_at_once_and_no_more() -> None:
    """The others wait for their turn."""
    busy, most = 0, 0
    dns = Resolver({})

    async def ask(key: object) -> Outcome:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await trio.sleep(1)
        busy -= 1
        return Found(("10.0.0.1",), 30)

    dns.ask = ask  # type: ignore[method-assign]
    async with open_names(dns) as names, trio.open_nursery() as nursery:
        for number in range(3 * MOST_QUESTIONS):
            nursery.start_soon(names.look_up, f"gs-{number}.example")
    assert most == MOST_QUESTIONS


async def test_names_that_are_not_answered_keep_nobody_from_one_that_is() -> None:
    """However many of one zone there are: who waits for them has a line of his own."""
    silent = [f"{number}.dead.example" for number in range(2 * MOST_QUESTIONS)]
    dns = resolver()
    dns.names |= dict.fromkeys(silent, DOWN)
    async with open_names(dns) as names, trio.open_nursery() as nursery:
        for name in silent:
            await ended(names, name)
        await trio.sleep(RETRY)
        dns.names |= dict.fromkeys(silent)
        for name in silent:
            nursery.start_soon(names.look_up, name)
        await trio.sleep(1)
        with trio.fail_after(1):
            assert await found(names) == ("10.0.0.1",)
        nursery.cancel_scope.cancel()


async def test_more_names_than_are_kept() -> None:
    dns = Resolver({f"gs-{number}": ["10.0.0.1"] for number in range(64)})
    async with open_names(dns, names=16) as names:
        for number in range(64):
            assert (await names.look_up(f"gs-{number}"))[0] == ("10.0.0.1",)


async def test_a_defect_costs_one_answer() -> None:
    """It is logged with its traceback, counted, and asked again later."""
    log, lines = open_lines()
    metrics, dns = Metrics(), resolver()

    async def defective(key: object) -> Outcome:
        raise RuntimeError("a defect")

    sound, dns.ask = dns.ask, defective  # type: ignore[method-assign]
    async with open_names(dns, log=log, metrics=metrics) as names:
        assert "RuntimeError('a defect')" in await ended(names)
        names._ask = sound
        await trio.sleep(RETRY)
        assert await found(names) == ("10.0.0.1",)
    assert [line["event"] for line in lines.all] == [
        "session failed",
        "name not resolved",
        "name resolved again",
    ]


async def test_a_defect_in_what_is_done_with_an_answer_costs_that_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, lines = open_lines()
    async with open_names(resolver(), log=log) as names:
        with monkeypatch.context() as patch:
            patch.setattr(NameCache, "put", None)
            await ended(names)
        assert await found(names) == ("10.0.0.1",)
    assert [line["event"] for line in lines.all] == ["session failed"]


async def test_settings_may_change() -> None:
    dns = resolver(ttl=3600)
    async with open_names(dns) as names:
        names.settle(Dns(max_ttl=5))
        await found(names)
        await trio.sleep(5)
        await found(names)
    assert dns.asked == [GS] * 2


async def test_at_the_end_whoever_comes_waits_for_the_end() -> None:
    """A session of a worker that ends is ended, and is no defect."""
    async with open_names(resolver()) as names:
        await found(names)
    with trio.move_on_after(1) as scope:
        await names.look_up("other.example")
    assert scope.cancelled_caught
