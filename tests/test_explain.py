"""What `sniproxy explain` says, and that the data plane does what it says."""

import pytest
import trio

from sniproxy.errors import CloseReason
from sniproxy.explain import Explanation, explain
from sniproxy.router import Arrival
from sniproxy.settings import Listener
from tests.support.certificates import NAME
from tests.support.explaining import (
    CASES,
    HOME,
    MIXED,
    NOW,
    PASSTHROUGH,
    PLAIN,
    TERMINATE,
    Case,
)
from tests.support.gateway import fill, open_gateway
from tests.support.hellos import message, record, server_name


def ask(case: Case) -> Explanation:
    """What is said."""
    arrival = Arrival(case.asked, HOME, HOME, 4242)
    return explain(fill(case.objects), case.listener, arrival, NOW, Explanation())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said(case: Case) -> None:
    said = ask(case)
    listener, name, client, *lines = said.lines
    assert (listener[0], client) == ("listener", ("client", "127.0.0.1"))
    assert listener[1].startswith("127.0.0.1:0, ")
    if case.listener.is_tls:
        assert name == ("name", case.asked or "none, or none that can be used")
    assert lines == [*case.lines, *([("closed", case.refused.value)] if case.refused else [])]
    assert said.refused is case.refused
    assert str(said).splitlines() == [f"{topic:<12}{text}" for topic, text in said.lines]


# Where the set-up ends of a session that is let in: nobody listens, DNS knows nobody, and a hand-made hello is no player.
LET_IN = {CloseReason.UPSTREAM_NAME, CloseReason.UPSTREAM_REFUSED, CloseReason.HANDSHAKE_FAILED}


@pytest.mark.anyio
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_data_plane_does_what_is_said(case: Case) -> None:
    with trio.fail_after(10):
        async with open_gateway(case.listener, case.objects) as gateway:
            player = gateway.dial()
            if case.listener.is_tls:
                named = [server_name(NAME.encode())] if case.asked else []
                await player.send(record(message(named)))
            line = await gateway.lines.next()
            player.close()
    said = ask(case)
    if said.refused is None:
        assert line["reason"] in LET_IN
    else:
        assert line["reason"] == said.refused
    routes = [
        text.partition(" by ")[0].partition(",")[0]
        for topic, text in said.lines
        if topic == "route"
    ]
    assert line["route"] == (
        None if said.refused is CloseReason.NO_ROUTE or not routes else routes[0]
    )


@pytest.mark.parametrize(
    ("listener", "mode"),
    [
        (MIXED, "TLS terminated or passed through, as the route says"),
        (TERMINATE, "TLS terminated"),
        (PASSTHROUGH, "TLS passed through"),
        (PLAIN, "plain TCP"),
    ],
)
def test_what_a_listener_does(listener: Listener, mode: str) -> None:
    said = explain(fill({}), listener, Arrival(None, HOME, HOME, 1), NOW, Explanation())
    assert said.lines[0] == ("listener", f"127.0.0.1:0, {mode}")
