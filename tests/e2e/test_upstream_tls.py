"""A game server that is `openssl s_server` behind a real sniproxy, before players with TLS and without."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.players import connect, join_soon, pem_pair, say, trusting
from tests.support.ports import free_ports
from tests.support.stack import Stack, retry_until, stores

NAME = "encrypted.example.com"
LISTENERS: dict[str, dict[str, Any]] = {"terminated": {"tls": True}, "plain": {}}


@pytest.fixture(scope="module")
def theirs() -> trustme.CA:
    """The authority of the game servers, and of those whom they let in."""
    return trustme.CA()


@pytest.fixture
def game(tmp_path: Path, theirs: trustme.CA) -> Iterator[int]:
    """The port of a game server that lets in only who has a certificate, and answers each line backwards."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    served = tmp_path / "game.pem"
    served.write_text("".join(pem_pair(theirs, NAME, "127.0.0.1").values()))
    theirs.cert_pem.write_to_path(tmp_path / "theirs.pem")
    port = free_ports(1)[0]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(served), "-rev"]
    command += ["-CAfile", str(tmp_path / "theirs.pem"), "-Verify", "1", "-verify_return_error"]
    with (tmp_path / "openssl.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        _wait_for(port)
        yield port
    finally:
        process.kill()
        process.communicate()


def _wait_for(port: int) -> None:
    for _ in retry_until(60, "openssl"):
        try:
            connect(port).close()
        except ConnectionRefusedError:
            continue
        return


def put_all(stack: Stack, authority: trustme.CA, theirs: trustme.CA, game: int) -> dict[str, Any]:
    """Everything that a player needs; the upstream."""
    stack.put("/ssls/1", {"sni": NAME} | pem_pair(authority, NAME))
    stack.put("/ssls/shown", {"type": "client"} | pem_pair(theirs, "sniproxy.example.com"))
    trust = {"verify": True, "ca_certs": [theirs.cert_pem.bytes().decode()]}
    upstream = {
        "nodes": {f"127.0.0.1:{game}": 1},
        "scheme": "tls",
        "tls": trust | {"client_cert_id": "shown"},
    }
    stack.put("/upstreams/1", upstream)
    stack.put("/stream_routes/1?wait=all&timeout=60s", {"upstream_id": "1"})
    return upstream


@contextmanager
def played(stack: Stack, authority: trustme.CA) -> Iterator[socket.socket]:
    """A player, as the listener has it."""
    if stack.listener.get("tls"):
        with join_soon(stack.port, NAME, trusting(authority)) as player:
            yield player
    else:
        with connect(stack.port) as player:
            yield player


def reasons(stack: Stack) -> set[str]:
    return {line["reason"] for line in stack.proxy.lines("session")}


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_game_server_that_wants_to_know_who_comes(
    tmp_path: Path, authority: trustme.CA, theirs: trustme.CA, game: int, listener: str
) -> None:
    with (
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, listener=LISTENERS[listener]) as stack,
    ):
        upstream = put_all(stack, authority, theirs, game)
        with played(stack, authority) as player:
            assert say(player, "drow a") == "a word"
        distrusted = {"verify": True, "ca_certs": [authority.cert_pem.bytes().decode()]}
        stack.put("/upstreams/1?wait=all&timeout=60s", upstream | {"tls": distrusted})
        with played(stack, authority) as player, pytest.raises((ConnectionError, ssl.SSLError)):
            say(player, "x")
        for _ in retry_until(60, "its line"):
            if "upstream_certificate" in reasons(stack):
                break
        stored = stack.api.get("/upstreams/1").json()["value"]
    assert stored["tls"] == distrusted
