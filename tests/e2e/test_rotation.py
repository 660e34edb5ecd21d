"""The short form of `python -m bench.rotation`, and tickets: any worker takes them, and so does one that starts later."""

import json
import ssl
from collections.abc import Iterator

import pytest
import trustme

from bench.rotation import rotate
from sniproxy.relay.native import BUILT
from tests.support.echo import echo_process
from tests.support.keyrings import set_keyring
from tests.support.players import connect, join_soon, pem_pair, say, trusting
from tests.support.stack import Stack, stores

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

NAME = "resumes.example.com"
VISITS = 10  # two workers; the odds that one of them has none are 1 to 512
NEW = "N" * 43 + "="  # base64 of 32 bytes


@pytest.fixture(scope="module")
def game() -> Iterator[int]:
    with echo_process() as port:
        yield port


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with stores("sqlite", folder) as (store, _), Stack(folder, store, workers=2) as running:
        yield running


async def test_a_certificate_that_changes_under_handshakes_loses_none(
    stack: Stack, game: int
) -> None:
    assert " 0 of " in await rotate(stack, game, seconds=3, rate=20, every=0.2)


def visit(
    stack: Stack, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """A player who plays and leaves; with a session he must be known, and has the next one then."""
    wire = connect(stack.port)
    with context.wrap_socket(wire, server_hostname=NAME, session=session) as player:
        assert say(player, "hi") == "hi"
        assert player.session_reused is (session is not None)
        return player.session


@pytest.mark.skipif(not BUILT, reason="the relay on trio has other keys at each worker")
def test_a_ticket_is_good_at_every_worker_and_outlives_them_all(stack: Stack, game: int) -> None:
    """Also where the keyring has got a new first key since."""
    authority = trustme.CA()
    context = trusting(authority)
    stack.put("/ssls/2", {"sni": NAME} | pem_pair(authority, NAME))
    route = {"sni": NAME, "upstream": {"nodes": {f"127.0.0.1:{game}": 1}}}
    stack.put("/stream_routes/2?wait=all&timeout=60s", route)
    join_soon(stack.port, NAME, context).close()
    session = visit(stack, context, None)
    for _ in range(VISITS):
        session = visit(stack, context, session)
    (old,) = json.loads(stack.config.read_text())["encryption"]["keyring"]
    assert stack.proxy.stop() == 0
    set_keyring(stack, NEW, old)
    stack.proxy.start()
    stack.wait_ready()
    for _ in range(VISITS):
        session = visit(stack, context, session)
