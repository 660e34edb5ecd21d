"""The corpus holds what it promises; rows are judged rightly; odd proxies are seen for what they are."""

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bench.fuzz_hello import check, is_legal
from bench.make_corpus import TARGET, make, text
from sniproxy.client_hello import ClientHello, HelloClass
from sniproxy.conformance import (
    Arrival,
    End,
    Play,
    Report,
    Result,
    Seen,
    Server,
    Setup,
    claim,
    judge,
    render,
    run,
)
from sniproxy.corpus import INCOMPLETE, Expect, Level, Row, load, names, read_row, write_row
from sniproxy.errors import SettingsError
from tests.support.hello_rows import Outcome, each_byte, outcome
from tests.support.ports import free_ports

ROWS = load()
GROUPS = sorted({row.group for row in ROWS})
BY_ID = {row.id: row for row in ROWS}


# The corpus.


def test_the_file_is_what_its_generator_writes() -> None:
    assert TARGET.read_text() == text(make()), "run python -m bench.make_corpus"


def test_there_are_enough_rows_of_both_levels() -> None:
    levels = Counter(row.level for row in ROWS)
    assert len(ROWS) >= 300
    assert levels[Level.MUST] > 3 * levels[Level.SHOULD] > 0


def test_no_two_rows_are_alike() -> None:
    assert len(BY_ID) == len(ROWS)
    by_bytes = Counter(row.segments for row in ROWS)
    assert max(by_bytes.values()) == 1


def test_no_route_can_be_taken_for_another() -> None:
    """A server tells rows apart by their bytes alone."""
    twice = Counter(row.sent for row in ROWS if row.expect is not Expect.REFUSE)
    captured = {sent for sent in twice if twice[sent] > 1}
    assert {row.group for row in ROWS if row.sent in captured} <= {"real_client"}


def test_every_line_is_of_the_format() -> None:
    for line in TARGET.read_text(encoding="ascii").splitlines():
        members = json.loads(line)
        optional = {"route": {"name"}, "no_name": set(), "refuse": {"reason"}}[members["expect"]]
        required = {"id", "level", "class", "why", "expect", "segments"}
        assert members.keys() == required | optional
        assert members["level"] in ("must", "should")
        assert 20 <= len(members["why"]) <= 200, members["id"]
        assert all(members["segments"]), f"{members['id']}: an empty segment cannot be sent"
        assert write_row(read_row(line)) == line


def test_every_refusal_of_the_parser_has_rows() -> None:
    assert {row.reason for row in ROWS} == {None, INCOMPLETE, *HelloClass}


def answers_as(row: Row, answer: Outcome) -> bool:
    """Whether the parser's answer is what the row expects."""
    if isinstance(answer, ClientHello):
        sound = row.expect is Expect.ROUTE or row.expect is Expect.NO_NAME
        return sound and answer.server_name == row.name
    return row.expect is Expect.REFUSE and (answer or INCOMPLETE) == row.reason


@pytest.mark.parametrize("group", GROUPS)
def test_the_parser_answers_as_expected_however_a_row_is_fed(group: str) -> None:
    for row in ROWS:
        if row.group == group:
            assert answers_as(row, outcome([row.sent])), row.id
            assert answers_as(row, outcome(row.segments)), row.id
            by_bytes = outcome(each_byte(row.sent))
            # The first byte is enough to refuse another protocol, not to tell which one it is.
            guessed = isinstance(by_bytes, HelloClass) and by_bytes.startswith("not_tls")
            assert answers_as(row, by_bytes) or (group == "not_tls" and guessed), row.id


@pytest.mark.parametrize("name", names(ROWS))
def test_names_are_written_as_a_route_would_be(name: str) -> None:
    assert name == name.lower()
    assert not name.endswith(".")
    assert name.isascii()
    assert len(name) <= 253


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expect": "pass"}, "'pass' is not a valid Expect"),
        ({"level": "may"}, "'may' is not a valid Level"),
        ({"segments": ["0"]}, "fromhex"),
        ({"name": None}, "a name belongs to a route row"),
        ({"reason": "alpn"}, "a reason belongs to a refuse row"),
        ({"more": 1}, "unknown"),
        ({"class": None}, "missing"),
    ],
)
def test_a_row_that_breaks_the_format_is_refused(changes: dict[str, Any], says: str) -> None:
    members = json.loads(write_row(BY_ID["ok_plain"])) | changes
    line = json.dumps({key: value for key, value in members.items() if value is not None})
    with pytest.raises(ValueError, match=says):
        read_row(line)


# Judging.

ROUTE, NO_NAME, REFUSE = BY_ID["ok_plain"], BY_ID["ok_no_server_name"], BY_ID["odd_nul"]
NAMED, DEFAULT = Seen(End.REACHED, Server.NAMED), Seen(End.REACHED, Server.DEFAULT)
CLOSED, SILENT, AWAY = Seen(End.CLOSED), Seen(End.DEADLINE), Seen(End.NO_CONNECTION)
CHANGED = Seen(End.REACHED, Server.NAMED, intact=False)
CHANGED_DEFAULT = Seen(End.REACHED, Server.DEFAULT, intact=False)

EXPECTED = "expected the server of play.conformance.test"
JUDGED: list[tuple[Row, Seen, str | None]] = [
    (ROUTE, NAMED, None),
    (ROUTE, CHANGED, "the named server got other bytes than were sent"),
    (ROUTE, DEFAULT, f"reached the default server; {EXPECTED}"),
    (ROUTE, CLOSED, f"refused: closed; {EXPECTED}"),
    (ROUTE, SILENT, f"refused: silent until the deadline; {EXPECTED}"),
    (ROUTE, AWAY, "the proxy took no connection"),
    (NO_NAME, NAMED, "reached the named server"),
    (NO_NAME, DEFAULT, None),
    (NO_NAME, CHANGED_DEFAULT, "the default server got other bytes than were sent"),
    (NO_NAME, CLOSED, None),
    (NO_NAME, SILENT, None),
    (NO_NAME, AWAY, "the proxy took no connection"),
    (REFUSE, NAMED, "reached the named server"),
    (REFUSE, DEFAULT, "reached the default server"),
    (REFUSE, CHANGED, "reached the named server"),
    (REFUSE, CLOSED, None),
    (REFUSE, SILENT, None),
    (REFUSE, AWAY, "the proxy took no connection"),
]


@pytest.mark.parametrize(
    ("row", "seen", "wrong"),
    JUDGED,
    ids=[f"{row.expect}-{seen.end}-{seen.server}-{seen.intact}" for row, seen, _ in JUDGED],
)
def test_judge(row: Row, seen: Seen, wrong: str | None) -> None:
    assert judge(row, seen) == wrong


def report(*seen: tuple[str, Seen], strays: int = 0) -> Report:
    rows = [(BY_ID[row_id], one) for row_id, one in seen]
    return Report([Result(row, one, judge(row, one)) for row, one in rows], strays)


def test_render() -> None:
    shown = render(
        report(
            ("name_underscore", CLOSED),
            ("name_apex", NAMED),
            ("odd_nul", DEFAULT),
            ("odd_star", CLOSED),
            ("odd_dot", SILENT),
            strays=2,
        )
    )
    underscore, nul = BY_ID["name_underscore"], BY_ID["odd_nul"]
    assert shown.splitlines() == [
        "class                       must      should",
        "name                         1/1         0/1",
        "odd_name                     2/3           -",
        "refused: 1 by closing, 1 silent until the deadline",
        "must    odd_nul: reached the default server",
        f"        {nul.why}",
        f"should  name_underscore: refused: closed; expected the server of {underscore.name}",
        f"        {underscore.why}",
        "2 connections at a server carried the bytes of no row",
        "3 of 4 must rows answered rightly",
    ]


def test_passed_is_every_must_row_and_no_stray() -> None:
    good = report(("name_underscore", CLOSED), ("ok_plain", NAMED))
    assert good.passed
    assert "no row" not in render(good)
    assert not report(("ok_plain", NAMED), ("odd_nul", NAMED)).passed
    assert not report(("ok_plain", NAMED), strays=1).passed


def arrival(received: bytes) -> Arrival:
    return Arrival(Server.NAMED, bytearray(received))


def test_claim_finds_the_row_of_a_connection_by_its_bytes() -> None:
    whole, start = Play(REFUSE, End.CLOSED), Play(ROUTE, End.DEADLINE)
    answered = Play(NO_NAME, arrival=arrival(b"changed on the way"))
    assert answered.arrival is not None
    there = [arrival(REFUSE.sent), arrival(ROUTE.sent[:60]), answered.arrival, arrival(b"")]
    assert claim([whole, start, answered], there) == 0
    assert whole.seen == NAMED
    assert start.seen == CHANGED
    assert answered.seen == CHANGED


def test_claim_counts_what_is_nobodys() -> None:
    play = Play(ROUTE, End.CLOSED)
    assert claim([play], [arrival(b"GET /"), arrival(ROUTE.sent + b"more")]) == 2
    assert play.seen == CLOSED


def test_claim_gives_a_short_start_to_the_shortest_row() -> None:
    long, short = Play(ROUTE, End.CLOSED), Play(BY_ID["open_first_5"], End.CLOSED)
    assert claim([long, short], [arrival(ROUTE.sent[:4])]) == 0
    assert (long.arrival, short.arrival is not None) == (None, True)


# Odd proxies, on real sockets.

Proxy = Callable[[trio.SocketStream, Setup], Awaitable[None]]
DEADLINE = 10.0  # seconds that no row of these tests needs
NO_WAIT = 0.2  # seconds for rows that nothing can happen to


def against(proxy: Proxy, *rows: Row, deadline: float = DEADLINE) -> Report:
    """The rows against a proxy of one function, once for every connection."""

    async def main() -> Report:
        listening = await trio.open_tcp_listeners(0, host="127.0.0.1")
        ports = listening[0].socket.getsockname()[1], *free_ports(2)
        target, named, default = (f"127.0.0.1:{port}" for port in ports)
        setup = Setup(target, named, default, deadline)

        async def serve(player: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, OSError):  # no servers yet: the first look
                await proxy(player, setup)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, listening)
            found = await run(rows, setup)
            nursery.cancel_scope.cancel()
        return found

    return trio.run(main)


async def server_of(setup: Setup) -> trio.SocketStream:
    host, _, port = setup.named.partition(":")
    return await trio.open_tcp_stream(host, int(port))


def ends(found: Report) -> list[Seen]:
    return [one.seen for one in found.results]


def test_a_proxy_that_passes_everything_on() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        data = await player.receive_some()
        if data:  # not the look whether we are there
            async with await server_of(setup) as server:
                await server.send_all(data)
                await player.send_all(await server.receive_some())
                async for more in player:
                    await server.send_all(more)

    found = against(proxy, ROUTE, NO_NAME, REFUSE, BY_ID["part_segments_of_1"])
    assert ends(found) == [NAMED] * 4
    assert [one.wrong is None for one in found.results] == [True, False, False, True]


def test_a_proxy_that_answers_by_itself_refuses() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        await player.receive_some()
        await player.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert ends(against(proxy, ROUTE, REFUSE)) == [CLOSED, CLOSED]


def test_a_proxy_that_waits_is_left_at_the_deadline() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        await trio.sleep_forever()

    assert ends(against(proxy, ROUTE, REFUSE, deadline=NO_WAIT)) == [SILENT, SILENT]


def test_a_greeting_that_is_lost_is_found_by_the_bytes() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        data = await player.receive_some()
        async with await server_of(setup) as server:
            await server.receive_some()
            await server.send_all(data)

    assert ends(against(proxy, REFUSE)) == [NAMED]


def test_a_proxy_that_changes_bytes_leaves_strays() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        data = await player.receive_some()
        async with await server_of(setup) as server:
            await server.receive_some()
            await server.send_all(bytes(data).lower()[::-1])

    found = against(proxy, REFUSE)
    assert (ends(found), found.strays, found.passed) == ([CLOSED], 1, False)


def test_a_server_that_is_only_looked_for_is_no_stray() -> None:
    async def proxy(player: trio.SocketStream, setup: Setup) -> None:
        async with await server_of(setup) as server:
            await server.receive_some()

    found = against(proxy, REFUSE)
    assert (ends(found), found.passed) == ([CLOSED], True)


def test_a_proxy_that_breaks_down_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("sniproxy.conformance._probe", found)
    target, named, default = (f"127.0.0.1:{port}" for port in free_ports(3))
    seen = ends(trio.run(run, [REFUSE], Setup(target, named, default)))
    assert seen == [AWAY]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "127.0.0.1"}, "HOST:PORT: expected HOST:PORT"),
        ({"named": "127.0.0.1:x"}, "--listen: expected HOST:PORT"),
        ({"default": "nowhere"}, "--default-listen: expected HOST:PORT"),
    ],
)
def test_addresses_that_cannot_be_used(changes: dict[str, Any], says: str) -> None:
    async def main() -> None:
        listening = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        async with listening:
            port = listening.socket.getsockname()[1]
            target, named, default = (f"127.0.0.1:{free}" for free in (port, *free_ports(2)))
            await run([REFUSE], replace(Setup(target, named, default), **changes))

    with pytest.raises(SettingsError, match=says):
        trio.run(main)


def test_nobody_at_the_address() -> None:
    target = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(SettingsError, match=f"no proxy at {target}"):
        trio.run(run, [REFUSE], Setup(target))


def test_an_address_that_never_answers(deaf: tuple[str, int]) -> None:
    with pytest.raises(SettingsError, match="no answer"):
        trio.run(run, [REFUSE], Setup(f"{deaf[0]}:{deaf[1]}", deadline=NO_WAIT))


# The fuzz target, without its fuzzer.


@pytest.mark.parametrize("group", GROUPS)
def test_the_corpus_holds_what_the_fuzzer_asks_of_any_bytes(group: str) -> None:
    for row in ROWS:
        if row.group == group:
            check(row.sent)


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, "a.b ", "A", "a" * 63 + ".b" * 96])
def test_the_fuzzer_knows_a_name_that_is_not_legal(name: str) -> None:
    assert not is_legal(name)


# The page about it.


def test_the_page_names_every_class_and_the_number_of_rows() -> None:
    page = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
    table = page.partition("| class |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == GROUPS
    assert f"holds {len(ROWS)} first flights" in page
    levels = Counter(row.level for row in ROWS)
    assert f"must, of {levels[Level.MUST]} | should, of {levels[Level.SHOULD]}" in page
