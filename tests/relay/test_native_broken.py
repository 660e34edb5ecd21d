"""A native relay whose thread has ended unasked: whoever has the relay hears of it, and nobody is left hanging."""

import os
from pathlib import Path

import pytest
import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Accepted
from sniproxy.relay.native import BUILT, open_native_relay, read_end
from tests.support.relaying import BUFFER, DEADLINE, begin
from tests.support.stage import HELLO, MIXED, open_stage

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
]


def pollers() -> set[int]:
    """The descriptors of this process that wait for others."""
    names = {name: Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    return {
        int(name)
        for name, path in names.items()
        if path.is_symlink() and "eventpoll" in str(path.readlink())
    }


def break_what_came_since(before: set[int]) -> None:
    """The thread's next look at its sockets fails: what it waits with is something else now."""
    (poller,) = pollers() - before
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, poller, inheritable=False)
    os.close(other)


async def test_the_relay_ends_with_its_sessions_and_says_why() -> None:
    """It ends whoever has opened it, as a defect does."""
    before = pollers()
    with trio.fail_after(DEADLINE):
        with pytest.RaisesGroup(
            pytest.RaisesExc(
                RuntimeError, match=r"the native relay has broken: epoll: .*\(src.*\)"
            ),
            flatten_subgroups=True,
        ):
            async with open_native_relay(buffer_size=BUFFER) as relay:
                sessions = [await begin(relay) for _ in range(3)]
                sessions.append(await begin(relay, "TLSv1.3"))
                for session in sessions:  # all of them are there, not only on their way
                    await session.player.send(b"up")
                    assert await session.server.read(2) == b"up"
                break_what_came_since(before)
                relay.tick_now()  # it wakes
                await trio.sleep_forever()
        outcomes = [await session.outcome() for session in sessions]
        for session in sessions:
            assert await session.server.read_all() == b""
            session.close()
    assert [outcome.reason for outcome in outcomes] == [CloseReason.INTERNAL_ERROR] * 4
    assert all("epoll" in outcome.detail for outcome in outcomes)


async def test_a_data_plane_does_not_outlive_it(served: list[Accepted]) -> None:
    """Those who played by plans have their lines, and their count."""
    before = pollers()
    with (
        pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="the native relay has broken"),
            flatten_subgroups=True,
        ),
    ):
        async with open_stage(DEADLINE) as stage:
            gateway = await stage.open(MIXED)
            for _ in range(3):
                await stage.join(HELLO)
            break_what_came_since(before)
            await trio.sleep_forever()
    assert len(served) == 1
    lines = gateway.lines.sessions
    assert [line["reason"] for line in lines] == ["internal_error"] * 3
    assert all("epoll" in line["detail"] for line in lines)
    assert gateway.closed() == {"internal_error": 3}
    assert gateway.worker.limits.active == 0


async def test_what_has_broken_is_the_detail_of_a_session() -> None:
    assert read_end("broken", 0, "index out of bounds (src/x.rs:1:2)") == (
        CloseReason.INTERNAL_ERROR,
        "index out of bounds (src/x.rs:1:2)",
    )
